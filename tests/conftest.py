import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def _few_threads() -> None:
    # The networks are tiny: more threads only wait for one another.
    torch.set_num_threads(1)
