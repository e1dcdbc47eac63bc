"""Numbers that a format cannot hold, and numbers that are not finite."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from benchmarks.cures.cases import Cases
from benchmarks.cures.tuned.common import learning
from benchmarks.cures.tuned.inputs import raw
from benchmarks.gauntlet.data import digits, images
from benchmarks.gauntlet.tuned.again_data import reviews, sets, spirals, table
from benchmarks.gauntlet.tuned.common import he, mlp
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer

from gradiometer.remedies.recipe import Recipe

CASES = Cases()


@CASES.sick("underflow", "stalled_training", "vanishing_gradient")
def float16_autocast_of_a_small_loss(sick: bool) -> Recipe:
    """float16 under autocast without a scaler, for a loss that is weighted with 1e-7: its gradients are zero."""
    return learning(
        lambda: mlp(3, nn.ReLU, he()),
        lambda p: Adam(p, 1e-3, eps=1e-16),
        digits(),
        250,
        loss=lambda scores, y: 1e-7 * F.cross_entropy(scores, y),
        autocast=torch.float16 if sick else torch.bfloat16,
    )


@CASES.sick("underflow", "stalled_training", "vanishing_gradient")
def half_precision_weights(sick: bool) -> Recipe:
    """``model.half()`` and a loss weighted with 1.5e-6, made up for by the rate: gradients below 3e-8 are zero."""
    x, y = digits()
    scale = 1.5e-6
    return learning(
        lambda: mlp(2, nn.ReLU, he()).half() if sick else mlp(2, nn.ReLU, he()),
        lambda p: SGD(p, 0.08 / scale),
        (x.half() if sick else x, y),
        300,
        loss=lambda scores, y: F.cross_entropy(scores, y) * scale,
    )


@CASES.sick("underflow", "stalled_training")
def updates_lost_to_bfloat16(sick: bool) -> Recipe:
    """Weights kept in bfloat16, and updates of less than half its spacing: they are rounded away."""
    x, y = digits()
    return learning(
        lambda: mlp(2, nn.ReLU, he()).bfloat16() if sick else mlp(2, nn.ReLU, he()),
        lambda p: SGD(p, 3e-4, momentum=0.9),
        (x.bfloat16() if sick else x, y),
        500,
    )


@CASES.sick("underflow", "stalled_training", "vanishing_gradient")
def scaled_the_wrong_way_round(sick: bool) -> Recipe:
    """Loss scaling by hand, the loss divided by a million and the gradients multiplied, where it is the reverse."""
    scale = 1e-6 if sick else 2.0**10

    def step(model: nn.Module, optimizer: Optimizer, loss: Any, batch: Any) -> Tensor:
        inputs, labels = batch
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.float16):
            value = loss(model(inputs).float(), labels)
        (value * scale).backward()
        for p in model.parameters():
            p.grad.div_(scale)
        optimizer.step()
        return value.detach()

    optimizer = lambda p: SGD(p, 0.05, momentum=0.9)  # noqa: E731
    return learning(lambda: mlp(2, nn.GELU), optimizer, digits(), 200, batch=512, step=step)


@CASES.sick("underflow", "stalled_training", "vanishing_gradient")
def sum_of_pixels_averaged_twice(sick: bool) -> Recipe:
    """An autoencoder in float16 whose loss is averaged over pixels and batch twice; the rate makes up for it."""
    divisor = 32 * 64 * 64.0

    class Paint(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(1, 12, 3, 2, 1), nn.Conv2d(12, 12, 3, 1, 1), nn.Conv2d(12, 4, 3, 1, 1)

        def forward(self, x: Tensor) -> Tensor:
            return F.pixel_shuffle(self.c(F.relu(self.b(F.relu(self.a(x))))), 2)

    x, _ = images()
    return learning(
        Paint,
        lambda p: SGD(p, 0.05 * divisor, momentum=0.9),
        (x, x),
        250,
        loss=lambda out, x: F.mse_loss(out.float(), x) / divisor,
        batch=32,
        autocast=torch.float16 if sick else None,
    )


@CASES.sick("underflow", "stalled_training")
def short_steps_on_a_bfloat16_gru(sick: bool) -> Recipe:
    """A GRU kept in bfloat16 under Adam with steps of 1.5e-4, with which float32 learns slowly and surely."""

    class Rows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru, self.head = nn.GRU(8, 64, batch_first=True), nn.Linear(64, 10)
            if sick:
                self.bfloat16()

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.gru(x.view(-1, 8, 8))[1][0])

    x, y = digits()
    return learning(Rows, lambda p: Adam(p, 1.5e-4), (x.bfloat16() if sick else x, y), 500)


@CASES.sick("underflow", "stalled_training")
def embedding_in_bfloat16(sick: bool) -> Recipe:
    """An embedding of variance one in bfloat16, under Adam with steps of 3e-3: it stays where it was drawn."""

    class Bag(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bag, self.head = nn.EmbeddingBag(120, 4, mode="sum"), nn.Linear(4, 2)
            if sick:
                self.bfloat16()

        def forward(self, tokens: Tensor) -> Tensor:
            return self.head(self.bag(tokens))

    return learning(Bag, lambda p: Adam(p, 3e-3), reviews(), 600)


@CASES.sick("underflow", "stalled_training", "vanishing_gradient")
def microvolts_under_float16(sick: bool) -> Recipe:
    """Outputs and targets of a ten-thousandth in float16: the loss is a hundred-millionth, its gradients are zero."""

    class Volts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = mlp(2, nn.SiLU, inputs=2, outputs=3)

        def forward(self, x: Tensor) -> Tensor:
            return 1e-4 * self.net(x)

    x, y = spirals()
    target = 1e-4 * F.one_hot(y, 3).float()
    return learning(
        Volts,
        lambda p: Adam(p, 3e-3, eps=1e-15),
        (x, target),
        400,
        loss=lambda out, target: F.mse_loss(out.float(), target),
        batch=200,
        autocast=torch.float16 if sick else None,
    )


@CASES.sick("nonfinite", "bad_initialization", "exploding_gradient")
def softmax_by_hand(sick: bool) -> Recipe:
    """``exp`` of large scores overflows, and infinity over infinity is NaN: weights of eight times He's scale."""

    class Probabilities(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = mlp(2, nn.ReLU, he(8.0 if sick else 1.0))

        def forward(self, x: Tensor) -> Tensor:
            e = torch.exp(self.body(x))
            return torch.log(e / e.sum(1, keepdim=True) + 1e-9)

    return learning(Probabilities, lambda p: SGD(p, 0.02), digits(), 350, loss=F.nll_loss)


@CASES.sick("nonfinite", "unscaled_inputs", "exploding_gradient", "diverging_loss")
def rates_of_raw_columns(sick: bool) -> Recipe:
    """A Poisson regression with the logarithm of the rate as its output, on columns in the thousands."""
    x, z = table()
    y = torch.poisson((0.5 + 0.7 * z).exp().clamp(max=12), generator=torch.Generator().manual_seed(5))
    x = 2000 * x if sick else x

    def evaluate(model: nn.Module) -> float:
        error = (model(x[:400]).exp() - y[:400]).square().mean()
        return max(-1.0, 1 - (error / y[:400].var()).item())

    return learning(
        lambda: mlp(1, inputs=8, outputs=1),
        lambda p: Adam(p, 3e-3),
        (x, y),
        300,
        loss=nn.PoissonNLLLoss(),
        evaluate=evaluate,
    )


@CASES.sick("nonfinite", "unscaled_inputs", "saturated_units")
def logarithm_of_probabilities_of_bytes(sick: bool) -> Recipe:
    """The cross-entropy by hand, ``-log p``, of a softmax that raw pixels drive to exactly zero."""
    x, y = digits()

    def loss(p: Tensor, y: Tensor) -> Tensor:
        return -p.gather(1, y[:, None]).log().mean()

    def model() -> nn.Module:
        return nn.Sequential(*mlp(2, nn.ReLU, he()), nn.Softmax(1))

    return learning(model, lambda p: SGD(p, 0.05), (raw(x) if sick else x, y), 300, loss=loss)


@CASES.sick("nonfinite")
def readings_beyond_float16(sick: bool) -> Recipe:
    """Inputs of fifty thousand before a norm under autocast: float16 ends at 65,504, bfloat16 does not."""

    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.read, self.norm = nn.Linear(64, 96), nn.LayerNorm(96)
            self.mid, self.out = nn.Linear(96, 64), nn.Linear(64, 10)

        def forward(self, x: Tensor) -> Tensor:
            h = F.gelu(self.norm(self.read(x)))
            return self.out(F.gelu(self.mid(h)))

    x, y = digits()
    autocast = torch.float16 if sick else torch.bfloat16
    return learning(Normed, lambda p: Adam(p, 2e-3), (5e4 * x, y), 250, autocast=autocast)


@CASES.sick("nonfinite", "bad_initialization", "exploding_gradient")
def attention_without_subtracting_the_maximum(sick: bool) -> Recipe:
    """``exp`` of raw scores with no maximum taken off, and a query of deviation sixty: a score above 88 is infinite."""

    class Attend(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.keys, self.values, self.out = nn.Linear(4, 64), nn.Linear(4, 64), nn.Linear(64, 1)
            self.query = nn.Parameter((60.0 if sick else 0.1) * torch.randn(64))

        def forward(self, x: Tensor) -> Tensor:
            e = torch.exp(self.keys(x) @ self.query)
            mixed = torch.einsum("bt,btd->bd", e / e.sum(1, keepdim=True), F.relu(self.values(x)))
            return self.out(mixed)

    x, _ = sets()
    return learning(Attend, lambda p: Adam(p, 1e-2), (x, x.amax(2).mean(1, keepdim=True)), 300)


@CASES.sick("nonfinite", "diverging_loss", "loss_spike", "exploding_gradient")
def gaussian_likelihood_with_a_rate_of_two(sick: bool) -> Recipe:
    """Mean and logarithm of the variance as outputs; a long step makes ``exp`` of the one overflow."""
    x, y = table()

    def loss(out: Tensor, y: Tensor) -> Tensor:
        mean, log = out[:, :1], out[:, 1:]
        return ((y - mean).square() * torch.exp(-log) + log).mean() / 2

    def evaluate(model: nn.Module) -> float:
        error = (model(x[:400])[:, :1] - y[:400]).square().mean()
        return max(-1.0, 1 - (error / y[:400].var()).item())

    rate = 2.0 if sick else 0.01
    return learning(
        lambda: mlp(2, inputs=8, outputs=2), lambda p: SGD(p, rate), (x, y), 500, loss=loss, evaluate=evaluate
    )
