"""Which activations are exchanged: those between layers, and no outputs, gates or weights of attention."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradiometer.remedies import activation
from gradiometer.remedies.base import Remedy, UnusableError
from gradiometer.remedies.flow import flow
from networks_to_treat import Functions
from test_remedies_network import outputs, situation

ROWS: dict[str, Remedy] = {remedy.name: remedy for remedy in activation.REMEDIES}


def treat(name: str, model: nn.Module, batch: Any) -> nn.Module:
    return ROWS[name].model(model, situation(model, batch))  # type: ignore[misc]


def hidden(model: nn.Module, batch: Any) -> list[str]:
    return [step.operation for step in flow(model, batch).hidden()]


X = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))


def test_modules_in_lists_and_blocks_are_exchanged_and_the_output_stays() -> None:
    model = nn.Sequential(
        nn.Sequential(nn.Linear(6, 8), nn.Sigmoid()),
        nn.ModuleDict({"a": nn.Linear(8, 8)})["a"],
        nn.Tanh(),
        nn.Linear(8, 1),
        nn.Sigmoid(),
    )
    treat("gelu", model, (X, None))
    assert [type(m).__name__ for m in model.modules() if "Linear" not in type(m).__name__][1:] == [
        "Sequential", "GELU", "GELU", "Sigmoid",
    ]  # fmt: skip


def test_prelu_has_a_slope_for_every_place_and_the_optimizer_sees_it() -> None:
    act = nn.ReLU()
    model = nn.Sequential(nn.Linear(6, 8), act, nn.Linear(8, 8), act, nn.Linear(8, 3)).double()
    treat("prelu", model, (X.double(), None))
    slopes = [p for name, p in model.named_parameters() if p.numel() == 1]
    assert len(slopes) == 2
    assert all(p.dtype == torch.float64 and p.item() == 0.25 for p in slopes)


def test_functions_are_exchanged_for_training_and_evaluation_alike() -> None:
    torch.manual_seed(0)
    model = Functions()
    before = copy.deepcopy(model)
    treat("relu", model, (X, None))
    assert isinstance(model, Functions)
    assert hidden(model, (X, None)) == ["relu", "relu"]
    with torch.no_grad():
        expected = torch.sigmoid(before.c(F.relu(before.b(F.relu(before.a(X))))))
    assert torch.equal(model.eval()(X), expected)
    assert not torch.equal(model.train()(X), expected)  # dropout is still there
    assert model.state_dict().keys() == before.state_dict().keys()


class Excited(nn.Module):
    """A block with a gate that looks at all of it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.down, self.up, self.out = nn.Linear(6, 8), nn.Linear(8, 2), nn.Linear(2, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.a(x))
        h = h * torch.sigmoid(self.up(F.relu(self.down(h))))
        return F.softmax(self.out(F.elu(h)), 1)


def test_gates_and_swish_stay() -> None:
    assert hidden(Excited(), (X, None)) == ["tanh", "relu", "elu"]

    class Swish(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            h = self.a(x)
            return self.b(h * h.sigmoid())

    assert hidden(Swish(), (X, None)) == []


class Lstm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gates, self.head = nn.Linear(9, 12), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = c = torch.zeros(len(x), 3)
        for _ in range(2):
            i, f, o, g = self.gates(torch.cat((x, h), 1)).chunk(4, 1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
        return self.head(h)


def test_cells_by_hand_keep_their_gates() -> None:
    assert hidden(Lstm(), (X, None)) == []


class Actor(nn.Module):
    """Two heads, of which the first ends before the second begins."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.policy, self.value = nn.Linear(6, 8), nn.Linear(8, 2), nn.Linear(8, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.tanh(self.body(x))
        return torch.tanh(self.policy(h)), self.value(h)


def test_the_output_of_an_early_head_stays() -> None:
    model = Actor()
    treat("relu", model, (X, None))
    assert sorted(s.operation for s in flow(model, (X, None)).steps if s.role == "activation") == ["relu", "tanh"]


class Noisy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encode, self.scale, self.decode = nn.Linear(6, 4), nn.Linear(6, 4), nn.Linear(4, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(self.encode(x) + F.softplus(self.scale(x)) * torch.randn(len(x), 4))


def test_scales_of_noise_stay() -> None:
    assert hidden(Noisy(), (X, None)) == []


class Undecided(nn.Module):
    """What torch.fx cannot trace."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.sigmoid(self.a(x))
        for _ in range(len(x) // 4):
            h = F.elu_(self.b(h), 0.5)
        if h.mean() > 100:
            h = h.tanh()
        return torch.sigmoid(self.c(h))


@pytest.mark.parametrize("name", ["relu", "prelu"])
def test_what_cannot_be_traced_is_exchanged_by_its_line(name: str) -> None:
    torch.manual_seed(0)
    model = Undecided()
    code = ROWS[name].code(situation(model, (X, None)))
    assert "exchange_by_line(model" in code.model
    assert "by hand: test_remedies_activation.py:" in code.model
    before = copy.deepcopy(model)
    treat(name, model, (X, None))
    slope = 0.25 if name == "prelu" else 0.0
    with torch.no_grad():
        h = F.leaky_relu(before.a(X), slope)
        for _ in range(2):
            h = F.leaky_relu(before.b(h), slope)
        assert torch.equal(model(X), torch.sigmoid(before.c(h)))
    model(X).sum().backward()
    copied = copy.deepcopy(model)
    assert torch.equal(copied(X[:4]), model(X[:4]))


class SameLine(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.b(torch.sigmoid(self.a(x if len(x) else x + 1))))


def test_what_cannot_be_told_apart_is_left_to_the_user_with_its_line() -> None:
    model = SameLine()
    text = ROWS["relu"].unusable(situation(model, (X, None)))
    assert text is not None
    assert "SameLine" in text
    assert "sigmoid in test_remedies_activation.py:" in text
    with pytest.raises(UnusableError, match="by hand"):
        treat("relu", model, (X, None))


class Body(nn.Module):
    """Only the inner module has to be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(6, 6)

    def forward(self, x: Tensor, mask: Tensor | None = None, *, scale: float = 1.0) -> Tensor:
        h = torch.tanh(self.a(x)) * scale
        return h if mask is None else h * mask


class Around(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = Body(), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        while x.abs().max() > 1e3:
            x = x / 2
        return {"logits": self.head(self.body(self.body(x)))}


def test_only_the_module_that_calls_is_traced() -> None:
    model = Around()
    treat("relu", model, (X, None))
    assert hidden(model, (X, None)) == ["relu", "relu"]
    assert isinstance(model.body, Body)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("name", ["relu", "gelu", "tanh"])
def test_torchs_encoder_uses_the_new_activation_on_its_fused_path_too(name: str) -> None:
    torch.manual_seed(0)
    start = "gelu" if name == "relu" else "relu"
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, activation=start, batch_first=True)
    model = nn.Sequential(nn.TransformerEncoder(layer, 2), nn.Linear(8, 2))
    x = torch.randn(2, 5, 8)
    treat(name, model, (x, None))
    trained = outputs(model.train(), (x, None))[0]
    assert torch.allclose(outputs(model.eval(), (x, None))[0], trained, atol=1e-5)
    mask = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    with torch.no_grad():
        masked = model[0](x, src_key_padding_mask=mask)
    assert torch.allclose(masked[0], model[0](x)[0], atol=1e-5)


def test_torchs_recurrence_keeps_its_weights() -> None:
    model = nn.Sequential(nn.RNN(6, 4, batch_first=True))
    x = torch.randn(2, 5, 6)
    before = copy.deepcopy(model.state_dict())
    treat("relu", model, (x, None))
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    reference = nn.RNN(6, 4, batch_first=True, nonlinearity="relu")
    reference.load_state_dict(model[0].state_dict())
    assert torch.equal(model[0](x)[0], reference(x)[0])


def test_nothing_to_do_is_said() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1), nn.Sigmoid())
    assert "No activation other than relu" in str(ROWS["relu"].unusable(situation(model, (X, None))))
