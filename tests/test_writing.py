"""What is printed as a cure's code: Python that compiles and runs, each import once."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from gradiometer.remedies.base import Code
from gradiometer.remedies.writing import text


class Shift(nn.Module):
    def __init__(self, by: float) -> None:
        super().__init__()
        self.by = by

    def forward(self, x: Tensor) -> Tensor:
        return x + self.by * math_free(x)


def math_free(x: Tensor) -> Tensor:
    return nn.functional.relu(x)


EVERYTHING = Code(
    imports=("import math", "import torch", "from torch import nn", "import math"),
    classes=(math_free, Shift),
    model="""
        for module in model.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=math.sqrt(2))
    """,
    optimizer="for group in optimizer.param_groups:\n    group['lr'] *= 0.1\n",
    loss="plain = loss\nloss = lambda outputs, targets: 2 * plain(outputs, targets)",
    step="torch.nn.utils.clip_grad_norm_(model.parameters(), 1)",
    after_step="copied = copy.deepcopy(model)",
)


def test_all_places_in_their_order() -> None:
    written = text("a shift", EVERYTHING)
    compile(written, "<cure>", "exec")
    order = [
        "# a shift\n\nimport torch\nfrom torch import Tensor, nn\nimport copy\nimport math\n\n\ndef math_free(",
        "\n\n\nclass Shift(nn.Module):",
        "\n\n\n# after the model is built\nfor module in model.modules():\n    if ",
        "\n\n# after the optimizer is built\nfor group",
        "\n\n# the loss\nplain = loss\n",
        "\n\n# in the training loop, between loss.backward() and optimizer.step()\ntorch.nn.utils",
        "\n\n# in the training loop, after optimizer.step()\ncopied = copy.deepcopy(model)\n",
    ]
    places = [written.index(part) for part in order]
    assert places == sorted(places)


def test_it_runs() -> None:
    model = nn.Linear(2, 2)
    names = {"model": model, "optimizer": torch.optim.SGD(model.parameters(), lr=1.0), "loss": nn.functional.mse_loss}
    exec(text("", EVERYTHING), names)
    assert names["optimizer"].param_groups[0]["lr"] == pytest.approx(0.1)
    assert torch.equal(names["Shift"](1)(torch.tensor([-1.0, 2.0])), torch.tensor([-1.0, 4.0]))
    assert names["loss"](torch.ones(1), torch.zeros(1)) == 2


@pytest.mark.parametrize(
    ("lines", "imports"),
    [
        ("torch.manual_seed(0)", ["import torch"]),
        ("nn.init.zeros_(model.weight)", ["from torch import nn"]),
        ("torch.nn.init.zeros_(model.weight)\nnn", ["import torch", "from torch import nn"]),
        ("F.relu(model.weight)", ["import torch.nn.functional as F"]),
        ("parametrize.is_parametrized(model)", ["from torch.nn.utils import parametrize"]),
        ("math = 3\nprint(math)", []),
        ("import math\nmath.pi", ["import math"]),
        ("[nn for nn in model]\nmodel.torch", []),
        ("def change(math):\n    return math.pi + copy.pi", ["import copy"]),
    ],
)
def test_only_what_is_used_is_imported(lines: str, imports: list[str]) -> None:
    written = text("", Code(model=lines))
    assert [row for row in written.splitlines() if row.startswith(("import", "from"))] == imports


def test_imports_are_merged() -> None:
    several = ("from torch.nn import Linear", "from torch.nn import Conv2d, Linear", "import numpy as np\nimport math")
    written = text("", Code(imports=(*several, "from __future__ import annotations"), model="Linear, Conv2d"))
    assert written.splitlines()[:4] == [
        "from __future__ import annotations",
        "import math",
        "import numpy as np",
        "from torch.nn import Conv2d, Linear",
    ]


def test_nothing_to_write() -> None:
    assert text("a title\nin two lines", Code()) == "# a title in two lines\n"


def test_lines_that_are_only_a_comment() -> None:
    written = text("", Code(after_step="# leave out the step of the scheduler"))
    assert written == "# in the training loop, after optimizer.step()\n# leave out the step of the scheduler\n"
