"""Parameters that no gradient reaches or that no optimizer holds."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.data import digits, images, minibatches
from benchmarks.gauntlet.training import Cases, Training
from benchmarks.gauntlet.tuned.former_common import accuracy, explained, fit, surface
from torch import Tensor, nn

CASES = Cases()


class Bottleneck(nn.Module):
    """A backbone that ends in few features, and a head."""

    def __init__(self, features: int = 4) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, features))
        self.head = nn.Sequential(nn.Linear(features, 32), nn.ReLU(), nn.Linear(32, 10))
        self.cut = ""

    def forward(self, x: Tensor) -> Tensor:
        if self.cut == "no_grad":
            with torch.no_grad():
                features = self.backbone(x)
        else:
            features = self.backbone(x)
        return self.head(features.detach() if self.cut == "detach" else features)


@CASES.sick("frozen_parameters", sites="backbone", good=0.8)
def features_detached(sick: bool) -> Training:
    """A ``detach`` left between backbone and head."""
    x, y = digits()
    model = Bottleneck()
    model.cut = "detach" if sick else ""
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    return fit(model, optimizer, 300, x, y, lambda: accuracy(model, x[:500], y[:500]))


@CASES.sick("frozen_parameters", sites="backbone", good=0.8)
def backbone_under_no_grad(sick: bool) -> Training:
    """The backbone runs under ``torch.no_grad()``, copied from the evaluation."""
    x, y = digits()
    model = Bottleneck(3)
    model.cut = "no_grad" if sick else ""
    optimizer = torch.optim.AdamW(model.parameters(), 5e-3)
    return fit(model, optimizer, 300, x, y, lambda: accuracy(model, x[:500], y[:500]))


@CASES.sick("frozen_parameters", also=("stalled_training",))
def optimizer_of_another_copy(sick: bool) -> Training:
    """The model is copied after its optimizer was made: gradients come, but nobody takes the steps."""
    x, y = images()
    model = nn.Sequential(nn.Conv2d(1, 12, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(108, 10))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    if sick:
        model = copy.deepcopy(model)

    def zero() -> None:
        model.zero_grad()

    return fit(model, optimizer, 150, x, y, lambda: accuracy(model, x[:500], y[:500]), after_step=zero)


class Listed(nn.Module):
    """A classifier whose hidden layers are kept in a list."""

    def __init__(self, container: type[list] | type[nn.ModuleList]) -> None:
        super().__init__()
        self.start = nn.Linear(64, 4)
        self.hidden = container([nn.Linear(4, 8), nn.Linear(8, 3), nn.Linear(3, 16)])
        self.end = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.start(x))
        for layer in self.hidden:
            x = torch.tanh(layer(x))
        return self.end(x)


@CASES.sick("frozen_parameters", also=("stalled_training",), good=0.7)
def layers_in_a_python_list(sick: bool) -> Training:
    """Hidden layers in a plain list: ``parameters()`` does not know them and they are not trained."""
    x, y = digits()
    model = Listed(list if sick else nn.ModuleList)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    return fit(model, optimizer, 300, x, y, lambda: accuracy(model, x[:500], y[:500]))


@CASES.sick("frozen_parameters", sites="encoder", also=("stalled_training",), good=0.57)
def encoder_not_in_the_optimizer(sick: bool) -> Training:
    """Two networks, and an optimizer of the second alone."""
    x, _ = digits()
    parts = nn.ModuleDict(
        {
            "encoder": nn.Sequential(nn.Linear(64, 48), nn.Tanh(), nn.Linear(48, 8)),
            "decoder": nn.Sequential(nn.Linear(8, 48), nn.Tanh(), nn.Linear(48, 64)),
        }
    )
    trained = parts["decoder"].parameters() if sick else parts.parameters()
    optimizer = torch.optim.Adam(trained, 5e-3)
    draw = minibatches(64, len(x))

    def step(_: int) -> float:
        batch = x[draw()]
        loss = F.mse_loss(parts["decoder"](parts["encoder"](batch)), batch)
        parts.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    def rebuild(v: Tensor) -> Tensor:
        return parts["decoder"](parts["encoder"](v))

    return Training(parts, optimizer, step, 300, lambda: explained(parts, x[:500], x[:500], rebuild))


@CASES.sick("frozen_parameters", "oscillating_loss", "diverging_loss", also=("exploding_gradient", "loss_spike"))
def gradients_never_zeroed(sick: bool) -> Training:
    """``zero_grad`` is missing: every step goes along the sum of all gradients so far."""
    x, y = surface()
    model = nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    draw = minibatches(64, len(y))

    def step(_: int) -> float:
        chosen = draw()
        loss = F.mse_loss(model(x[chosen]), y[chosen])
        loss.backward()
        optimizer.step()
        if not sick:
            optimizer.zero_grad()
        return loss.item()

    return Training(model, optimizer, step, 400, lambda: explained(model, x, y))


@CASES.sick("frozen_parameters", also=("stalled_training",))
def loss_wrapped_anew(sick: bool) -> Training:
    """``torch.tensor(loss.item(), requires_grad=True)`` silences the error message, and with it every gradient."""
    x, y = digits()
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, 10))
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)

    def loss(logits: Tensor, target: Tensor) -> Tensor:
        value = F.cross_entropy(logits, target)
        return torch.tensor(value.item(), requires_grad=True) if sick else value

    return fit(model, optimizer, 150, x, y, lambda: accuracy(model, x[:500], y[:500]), loss=loss)


class Quantized(nn.Module):
    """An autoencoder whose code is binary."""

    def __init__(self, straight_through: bool) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        self.decoder = nn.Sequential(nn.Linear(10, 64), nn.ReLU(), nn.Linear(64, 64))
        self.straight_through = straight_through

    def forward(self, x: Tensor) -> Tensor:
        soft = torch.sigmoid(self.encoder(x))
        hard = (soft > 0.5).float()
        return self.decoder(hard + soft - soft.detach() if self.straight_through else hard)


@CASES.sick("frozen_parameters", sites="encoder", also=("stalled_training", "vanishing_gradient"), good=0.4)
def quantized_without_straight_through(sick: bool) -> Training:
    """A threshold in the middle of an autoencoder and no straight-through estimator: the encoder gets nothing."""
    x, _ = digits()
    model = Quantized(straight_through=not sick)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    return fit(model, optimizer, 400, x, x, lambda: explained(model, x[:500], x[:500]), loss=F.mse_loss)
