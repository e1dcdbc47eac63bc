"""Parameters that do not learn because of how a training is wired."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.data import digits, images, minibatches
from benchmarks.gauntlet.training import Cases, Training
from benchmarks.gauntlet.tuned.common import accuracy, classifier, mlp, regression, smooth_function
from torch import Tensor, nn

CASES = Cases()


class Bottleneck(nn.Module):
    """An encoder into four numbers and a decoder to classes."""

    def __init__(self, detach: bool = False) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3))
        self.decoder = nn.Sequential(nn.Tanh(), nn.Linear(3, 64), nn.ReLU(), nn.Linear(64, 10))
        self.detach = detach

    def forward(self, x: Tensor) -> Tensor:
        code = self.encoder(x)
        return self.decoder(code.detach() if self.detach else code)


@CASES.sick("frozen_parameters", sites=r"^encoder", good=0.7)
def detach_in_the_middle(sick: bool) -> Training:
    """``.detach()`` left over from debugging between encoder and decoder."""
    model = Bottleneck(detach=sick)
    return classifier(model, torch.optim.Adam(model.parameters(), 5e-3), 350)


@CASES.sick("frozen_parameters", sites=r"^encoder", good=0.7)
def encoder_under_no_grad(sick: bool) -> Training:
    """``torch.no_grad()`` around the encoder, kept from the evaluation code."""

    class Model(Bottleneck):
        def forward(self, x: Tensor) -> Tensor:
            with torch.set_grad_enabled(torch.is_grad_enabled() and not sick):
                code = self.encoder(x)
            return self.decoder(code)

    model = Model()
    return classifier(model, torch.optim.Adam(model.parameters(), 5e-3), 350)


@CASES.sick("frozen_parameters", sites=r"^encoder", good=0.7)
def encoder_not_in_the_optimizer(sick: bool) -> Training:
    """Only the decoder's parameters were handed to the optimizer."""
    model = Bottleneck()
    parameters = model.decoder.parameters() if sick else model.parameters()
    return classifier(model, torch.optim.Adam(parameters, 5e-3), 350)


@CASES.sick("frozen_parameters")
def optimizer_of_a_copy(sick: bool) -> Training:
    """The optimizer holds the parameters of the model from which this one was copied."""
    original = mlp(2)
    model = copy.deepcopy(original)
    optimizer = torch.optim.Adam((original if sick else model).parameters(), 2e-3)
    return classifier(model, optimizer, 250)


@CASES.sick("frozen_parameters", sites=r"^head\b", good=0.65)
def head_replaced_after_the_optimizer_was_made(sick: bool) -> Training:
    """A new head for new classes, of which the optimizer does not know; what is below adapts a little."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3))
            self.head = nn.Linear(3, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.body(x).tanh())

    model = Model()
    if not sick:
        model.head = nn.Linear(3, 10)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    if sick:
        model.head = nn.Linear(3, 10)
    return classifier(model, optimizer, 500)


@CASES.sick("frozen_parameters", sites=r"^encoder", good=0.7)
def too_much_frozen(sick: bool) -> Training:
    """The whole encoder is frozen, untrained, where only the first layer was meant."""
    model = Bottleneck()
    frozen = model.encoder.parameters() if sick else [model.encoder[0].bias]
    for parameter in frozen:
        parameter.requires_grad_(False)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 5e-3)
    return classifier(model, optimizer, 350)


@CASES.sick("frozen_parameters", also=("stalled_training",), good=0.7)
def layers_in_a_plain_list(sick: bool) -> Training:
    """Layers in a Python list: no module knows of them, and no optimizer."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layers = [nn.Linear(64, 32), nn.Linear(32, 3), nn.Linear(3, 32)]
            self.layers = layers if sick else nn.ModuleList(layers)
            self.head = nn.Linear(32, 10)

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.layers:
                x = torch.tanh(layer(x))
            return self.head(x)

    model = Model()
    return classifier(model, torch.optim.Adam(model.parameters(), 5e-3), 350)


@CASES.sick("frozen_parameters", also=("stalled_training",))
def output_rebuilt_with_data(sick: bool) -> Training:
    """``.data`` in the forward pass cuts the convolutions off."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolutions = nn.Sequential(nn.Conv2d(1, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 3, 3, 2))
            self.head = nn.Linear(3, 10)

        def forward(self, x: Tensor) -> Tensor:
            code = self.convolutions(x)
            return self.head((code.data if sick else code).flatten(1))

    model = Model()
    return classifier(model, torch.optim.Adam(model.parameters(), 1e-2), 350, data=images())


@CASES.sick(
    "frozen_parameters",
    "oscillating_loss",
    "diverging_loss",
    also=("exploding_gradient", "loss_spike", "saturated_units"),
    good=0.4,
)
def gradients_never_zeroed(sick: bool) -> Training:
    """``zero_grad`` is missing: every step uses the sum of all gradients so far."""
    x, y = smooth_function()
    model = mlp(2, nn.Tanh, inputs=5, outputs=1)
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    training = regression(model, optimizer, (x, y), 400)
    draw = minibatches(64, len(y))

    def step(_: int) -> float:
        chosen = draw()
        loss = F.mse_loss(model(x[chosen]), y[chosen])
        loss.backward()
        optimizer.step()
        if not sick:
            optimizer.zero_grad()
        return loss.item()

    training.step = step
    return training


@CASES.healthy()
def new_head_on_a_frozen_backbone() -> Training:
    """Fine-tuning: the backbone was trained on other labels and is frozen on purpose."""
    x, y = digits()
    model = nn.Sequential(mlp(2, outputs=64), nn.ReLU(), nn.Linear(64, 10))
    pretrain = torch.optim.Adam(model.parameters(), 2e-3)
    draw = minibatches(64, len(y), seed=3)
    for _ in range(100):
        chosen = draw()
        pretrain.zero_grad()
        F.cross_entropy(model(x[chosen]), (y[chosen] * 3) % 10).backward()
        pretrain.step()
    model[0].requires_grad_(False)
    model[2] = nn.Linear(64, 10)
    return classifier(model, torch.optim.Adam(model[2].parameters(), 1e-2), 250)


class LowRank(nn.Module):
    """A frozen linear layer with a trainable update of rank four that starts at zero (Hu et al., 2021)."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Parameter(torch.randn(base.in_features, 4) / 8)
        self.up = nn.Parameter(torch.zeros(4, base.out_features))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + x @ self.down @ self.up


@CASES.healthy()
def low_rank_adaptation() -> Training:
    """LoRA on a network that was trained on shifted labels."""
    x, y = digits()
    base = mlp(3)
    pretrain = torch.optim.Adam(base.parameters(), 2e-3)
    draw = minibatches(64, len(y), seed=3)
    for _ in range(120):
        chosen = draw()
        pretrain.zero_grad()
        F.cross_entropy(base(x[chosen]), (y[chosen] + 1) % 10).backward()
        pretrain.step()
    model = nn.Sequential(*[LowRank(layer) if isinstance(layer, nn.Linear) else layer for layer in base])
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 5e-3)
    training = classifier(model, optimizer, 300)
    training.score = accuracy(model, x[:500], y[:500])
    return training
