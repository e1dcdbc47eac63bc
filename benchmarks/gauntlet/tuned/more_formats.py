"""Gradients and updates that float16 and bfloat16 cannot hold."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.data import digits, images, minibatches
from benchmarks.gauntlet.training import Cases, Training
from benchmarks.gauntlet.tuned.common import accuracy, classifier, explained, smooth_function, supervised
from benchmarks.gauntlet.tuned.more_tasks import generator, spirals, trained
from torch import Tensor, nn

CASES = Cases()


@CASES.sick("underflow", also=("stalled_training", "vanishing_gradient"), good=0.6)
def scaled_the_wrong_way_round(sick: bool) -> Training:
    """Loss scaling by hand, the loss divided by 65,536 and the gradients multiplied, where it is the reverse."""
    x, y = digits()
    scale = 2.0**-16 if sick else 2.0**10
    model = nn.Sequential(nn.Linear(64, 80), nn.GELU(), nn.Linear(80, 80), nn.GELU(), nn.Linear(80, 10))
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    draw = minibatches(512, len(y))

    def loss(_: int) -> Tensor:
        chosen = draw()
        with torch.autocast("cpu", dtype=torch.float16):
            return F.cross_entropy(model(x[chosen]).float(), y[chosen]) * scale

    def unscale() -> None:
        for p in model.parameters():
            p.grad.div_(scale)

    return trained(model, optimizer, loss, accuracy(model, x[:500], y[:500]), 200, between=unscale)


@CASES.sick("underflow", also=("stalled_training", "vanishing_gradient"))
def sum_of_pixels_averaged_twice(sick: bool) -> Training:
    """A denoiser in float16 whose loss is averaged over pixels and batch twice; the rate makes up for it."""
    x, _ = images()
    model = nn.Sequential(nn.Conv2d(1, 12, 3, 1, 1), nn.ReLU(), nn.Conv2d(12, 12, 3, 1, 1), nn.ReLU())
    model.append(nn.Conv2d(12, 1, 3, 1, 1))
    divisor = 32 * 64 * 64.0
    optimizer = torch.optim.SGD(model.parameters(), 0.05 * divisor, momentum=0.9)
    draw, g = minibatches(32, len(x)), generator(2)

    def loss(_: int) -> Tensor:
        clean = x[draw()]
        noisy = clean + 0.6 * torch.randn(clean.shape, generator=g)
        with torch.autocast("cpu", dtype=torch.float16, enabled=sick):
            out = model(noisy)
        return F.mse_loss(out.float(), clean) / divisor

    held = x[:200] + 0.6 * torch.randn(200, 1, 8, 8, generator=generator(3))
    return trained(model, optimizer, loss, explained(model, held, x[:200]), 150)


@CASES.sick("underflow", "nonfinite", also=("stalled_training", "diverging_loss"), good=0.4)
def adam_in_half_precision(sick: bool) -> Training:
    """``model.half()`` under Adam: the mean square of the gradient and ``eps`` both round to zero."""
    x, y = smooth_function()
    model = nn.Sequential(nn.Linear(5, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))
    if sick:
        model.half()
        x, y = x.half(), y.half()
    score = explained(lambda v: model(v).float(), x[:800], y[:800].float(), model)
    optimizer = torch.optim.Adam(model.parameters(), 2e-3, foreach=False)
    return supervised(model, optimizer, (x, y), F.mse_loss, score, 250, batch=128)


@CASES.sick("underflow", sites=r"^bag", also=("stalled_training",), good=0.5)
def embedding_in_bfloat16(sick: bool) -> Training:
    """An embedding of variance one in bfloat16, under Adam with steps of 2e-3: it stays where it was drawn."""
    g = generator(41)
    tokens = torch.randint(120, (1600, 8), generator=g)
    side = torch.randn(120, generator=g)
    y = (side[tokens].sum(1) > 0).long()

    class Bag(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bag, self.head = nn.EmbeddingBag(120, 4, mode="sum"), nn.Linear(4, 2)
            if sick:
                self.bfloat16()

        def forward(self, tokens: Tensor) -> Tensor:
            return self.head(self.bag(tokens))

    model = Bag()
    score = accuracy(model, tokens[:500], y[:500], 2)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    return supervised(model, optimizer, (tokens, y), F.cross_entropy, score, 400, batch=64)


@CASES.sick("underflow", also=("stalled_training",), good=0.4)
def short_steps_on_a_bfloat16_gru(sick: bool) -> Training:
    """A GRU kept in bfloat16 under Adam with steps of 1e-4, with which float32 learns slowly and surely."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru, self.head = nn.GRU(8, 64, batch_first=True), nn.Linear(64, 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.gru(x.view(-1, 8, 8))[1][0])

    x, y = digits()
    model = Net()
    if sick:
        model.bfloat16()
        x = x.bfloat16()
    return classifier(model, torch.optim.Adam(model.parameters(), 1e-4), 400, data=(x, y))


@CASES.sick("underflow", also=("stalled_training", "vanishing_gradient"))
def microvolts_in_half_precision(sick: bool) -> Training:
    """Outputs and targets of a ten-thousandth in float16: the loss is a hundred-millionth, its gradients are zero."""
    x, y = spirals()
    target = 1e-4 * F.one_hot(y, 3).float()

    class Volts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(2, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 3))

        def forward(self, x: Tensor) -> Tensor:
            return 1e-4 * self.net(x)

    model = Volts()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3, eps=1e-15)
    draw = minibatches(200, len(y))

    def loss(_: int) -> Tensor:
        chosen = draw()
        with torch.autocast("cpu", dtype=torch.float16, enabled=sick):
            out = model(x[chosen])
        return F.mse_loss(out.float(), target[chosen])

    return trained(model, optimizer, loss, accuracy(model, x[:500], y[:500], 3), 300)


@CASES.healthy()
def bfloat16_autocast_of_convolutions() -> Training:
    """Mixed precision as it should be: weights in float32, convolutions in bfloat16."""
    x, y = images()
    model = nn.Sequential(nn.Conv2d(1, 12, 3, 1, 1), nn.BatchNorm2d(12), nn.ReLU(), nn.MaxPool2d(2))
    model.extend([nn.Conv2d(12, 24, 3), nn.ReLU(), nn.Flatten(), nn.Linear(96, 10)])
    optimizer, draw = torch.optim.AdamW(model.parameters(), 3e-3), minibatches(48, len(y))

    def loss(_: int) -> Tensor:
        chosen = draw()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return F.cross_entropy(model(x[chosen]), y[chosen])

    return trained(model, optimizer, loss, accuracy(model, x[:300], y[:300]), 150)


@CASES.healthy()
def bfloat16_weights_and_long_steps() -> Training:
    """Weights in bfloat16 under steps that bfloat16 can resolve."""
    x, y = digits()
    model = nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 10)).bfloat16()
    return classifier(model, torch.optim.SGD(model.parameters(), 0.2), 300, data=(x.bfloat16(), y))
