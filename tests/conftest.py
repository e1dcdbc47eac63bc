from pathlib import Path

import pytest
import torch

GOLDEN = Path(__file__).parent / "golden"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write the golden files anew instead of comparing")


@pytest.fixture(autouse=True, scope="session")
def _few_threads() -> None:
    # The networks are tiny: more threads only wait for one another.
    torch.set_num_threads(1)


@pytest.fixture
def golden(request: pytest.FixtureRequest):
    """Compares a text with a golden file of this name, or writes it with --update-golden."""

    def check(name: str, text: str) -> None:
        path = GOLDEN / name
        if request.config.getoption("--update-golden"):
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
        assert text == path.read_text(encoding="utf-8"), f"{path.name} differs; look at it, then use --update-golden"

    return check
