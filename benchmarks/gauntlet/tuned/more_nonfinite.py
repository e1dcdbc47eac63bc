"""NaN and infinity: from one example, from empty sequences, from roots, powers and angles, from the data."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.data import digits, images, minibatches
from benchmarks.gauntlet.training import Cases, Training
from benchmarks.gauntlet.tuned.common import (
    accuracy,
    bounded,
    classifier,
    explained,
    regression,
    supervised,
    undisturbed,
)
from benchmarks.gauntlet.tuned.more_tasks import finding, generator, houses, series, standardized, trained, waves
from torch import Tensor, nn

CASES = Cases()


@CASES.sick("nonfinite", sites=r"whiten|std|var|div")
def last_batch_of_one(sick: bool) -> Training:
    """Epochs over 481 digits in batches of 32: the last one holds a single digit, whose deviation is 0 over 0."""
    x, y = digits()
    x, y = x[:481], y[:481]

    class Whiten(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x - x.mean(0)) / (x.std(0, correction=1 if sick else 0) + 0.1)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.whiten = nn.Linear(64, 64), Whiten()
            self.head = nn.Sequential(nn.ReLU(), nn.Linear(64, 10))

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.whiten(self.body(x)))

    model = Net()
    optimizer, g, batches = torch.optim.Adam(model.parameters(), 3e-3), generator(1), []

    def loss(_: int) -> Tensor:
        if not batches:
            batches.extend(torch.randperm(481, generator=g).split(32))
        chosen = batches.pop(0)
        return F.cross_entropy(model(x[chosen]), y[chosen])

    return trained(model, optimizer, loss, accuracy(model, x, y), 160)


@CASES.sick("nonfinite")
def angle_between_equal_vectors(sick: bool) -> Training:
    """``acos`` of a cosine of one: some outputs start where they should be, and the slope there is infinite."""
    g = generator(51)
    x = torch.randn(1000, 6, generator=g)
    target = F.normalize(torch.stack([x[:, 0], x[:, 1], x[:, 2] * x[:, 3]], 1), dim=1)
    x[::20], target[::20] = 0.0, torch.tensor([0.0, 0.0, 1.0])
    model = nn.Sequential(nn.Linear(6, 64, bias=False), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 3))
    model[2].bias.data.zero_()
    model[4].bias.data.copy_(torch.tensor([0.0, 0.0, 0.5]))

    def loss(out: Tensor, y: Tensor) -> Tensor:
        cosine = (F.normalize(out, dim=1) * y).sum(1)
        return torch.acos(cosine if sick else cosine.clamp(-0.999, 0.999)).mean()

    def score() -> float:
        with undisturbed(model):
            return bounded(F.cosine_similarity(model(x), target).mean().item())

    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    return supervised(model, optimizer, (x, target), loss, score, 200, batch=50)


@CASES.sick("nonfinite", sites=r"pow|gamma")
def power_of_negative_pixels(sick: bool) -> Training:
    """A learned gamma correction of pixels that were standardized: a negative number to the power of 0.8."""

    class Gamma(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.exponent = nn.Parameter(torch.tensor(0.8))

        def forward(self, x: Tensor) -> Tensor:
            return (x if sick else x - x.min().item() + 0.01).pow(self.exponent)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gamma, self.convolution = Gamma(), nn.Conv2d(1, 12, 3, 2)
            self.head = nn.Linear(108, 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(F.silu(self.convolution(self.gamma(x))).flatten(1))

    model = Net()
    return classifier(model, torch.optim.Adam(model.parameters(), 5e-3), 200, data=images(), batch=40)


@CASES.sick("nonfinite", good=0.6)
def spectrum_of_silence(sick: bool) -> Training:
    """Amplitudes as the root of a power, learned filters in front; some signals are silent, and 1 over 0 times 0."""
    x, y = waves()
    x = x.clone()
    x[y == 0] *= (torch.rand((y == 0).sum().item(), 1, 1, generator=generator(52)) > 0.02).float()

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.filters, self.head = nn.Conv1d(1, 6, 5, padding=2, bias=False), nn.Linear(150, 4)

        def forward(self, x: Tensor) -> Tensor:
            z = torch.fft.rfft(self.filters(x))
            power = z.real.square() + z.imag.square()
            return self.head((power if sick else power + 1e-4).sqrt().flatten(1) / 5)

    model = Net()
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    score = accuracy(model, x[:400], y[:400], 4)
    return supervised(model, optimizer, (x, y), F.cross_entropy, score, 200, batch=24)


@CASES.sick("nonfinite", sites=r"exp|div|sum|attend", also=("bad_initialization", "exploding_gradient"))
def attention_without_subtracting_the_maximum(sick: bool) -> Training:
    """``exp`` of raw scores, no scale and no maximum taken off: a score above 88 is infinite."""

    class Attend(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.keys, self.values = nn.Linear(9, 64), nn.Linear(9, 64)
            self.query = nn.Parameter((40.0 if sick else 0.3) * torch.randn(64))

        def forward(self, x: Tensor) -> Tensor:
            e = torch.exp(self.keys(x) @ self.query)
            return torch.einsum("bt,btd->bd", e / e.sum(1, keepdim=True), self.values(x))

    model = nn.Sequential(Attend(), nn.Linear(64, 8))
    return finding(model, torch.optim.Adam(model.parameters(), 1e-2), 250)


@CASES.sick("nonfinite", sites=r"^cell|input", good=0.6)
def gaps_in_a_series(sick: bool) -> Training:
    """A sensor that was silent at times wrote NaN; nobody filled the gaps."""
    x, y = series()
    gaps = torch.rand(x.shape, generator=generator(53)) < 0.01
    x = x.masked_fill(gaps, float("nan") if sick else 0.0)

    class Forecast(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = nn.GRU(1, 24, batch_first=True), nn.Linear(24, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.cell(x[..., None])[0][:, -1])

    model = Forecast()
    return regression(model, torch.optim.Adam(model.parameters(), 1e-2), (x, y), 200)


@CASES.sick("nonfinite", also=("loss_spike", "diverging_loss"))
def logarithm_of_a_count_of_zero(sick: bool) -> Training:
    """Targets are logarithms of counts, and from step 120 on the data hold counts of zero."""
    x, _ = houses()
    x = standardized(x)
    counts = torch.poisson((1 + 0.8 * x[:, 1] - 0.5 * x[:, 3]).exp(), generator=generator(54))
    order = counts.argsort(descending=True)
    x, counts = x[order], counts[order]
    positive = int((counts > 0).sum())
    model = nn.Sequential(nn.Linear(5, 32), nn.GELU(), nn.Linear(32, 1), nn.Flatten(0))
    optimizer, g = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9), generator(1)
    targets = counts.log() if sick else counts.log1p()

    def loss(i: int) -> Tensor:
        chosen = torch.randint(len(x) if i >= 120 else positive, (64,), generator=g)
        return F.mse_loss(model(x[chosen]), targets[chosen])

    return trained(model, optimizer, loss, explained(model, x, counts.log1p()), 250)


@CASES.sick("nonfinite", sites=r"div|pool|mean")
def mean_over_no_words(sick: bool) -> Training:
    """The mean over the words of a text, and one text in four hundred has none: zero over zero."""
    g = generator(55)
    tokens = torch.randint(1, 50, (1600, 12), generator=g)
    lengths = torch.randint(1, 13, (1600,), generator=g)
    lengths[torch.randperm(1600, generator=g)[:4]] = 0
    tokens[torch.arange(12) >= lengths[:, None]] = 0
    side = torch.randn(50, generator=g)
    side[0] = 0
    y = (side[tokens].sum(1) > 0).long()

    class MeanPool(nn.Module):
        def forward(self, h: Tensor, mask: Tensor) -> Tensor:
            count = mask.sum(1)
            return (h * mask).sum(1) / (count if sick else count.clamp(min=1))

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.pool = nn.Embedding(50, 16, padding_idx=0), MeanPool()
            self.head = nn.Sequential(nn.Linear(16, 24), nn.Tanh(), nn.Linear(24, 2))

        def forward(self, tokens: Tensor) -> Tensor:
            return self.head(self.pool(self.words(tokens), (tokens > 0)[..., None].float()))

    model = Net()
    score = accuracy(model, tokens[:500], y[:500], 2)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    return supervised(model, optimizer, (tokens, y), F.cross_entropy, score, 250, batch=32)


@CASES.sick("nonfinite")
def entropy_of_forbidden_actions(sick: bool) -> Training:
    """``p log p`` where the mask of forbidden actions has made p zero: zero times minus infinity."""
    x, y = digits()
    forbidden = F.one_hot((y + 5) % 10, 10).bool()
    model = nn.Sequential(nn.Linear(64, 48), nn.Tanh(), nn.Linear(48, 10))
    optimizer, draw = torch.optim.RMSprop(model.parameters(), 2e-3), minibatches(64, len(y))

    def loss(_: int) -> Tensor:
        chosen = draw()
        z = model(x[chosen]).masked_fill(forbidden[chosen], float("-inf") if sick else -30.0)
        p = z.softmax(1)
        entropy = -(p * p.log()).sum(1).mean()
        return F.cross_entropy(z, y[chosen]) - 0.01 * entropy

    return trained(model, optimizer, loss, accuracy(model, x[:500], y[:500]), 200)


@CASES.sick("nonfinite", sites=r"attention|softmax|norm")
def sequence_that_is_all_padding(sick: bool) -> Training:
    """``nn.MultiheadAttention`` with a ``key_padding_mask``; from step 50 on an example may be padding alone."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.norm = nn.Linear(8, 32), nn.LayerNorm(32)
            self.attention, self.head = nn.MultiheadAttention(32, 4, batch_first=True), nn.Linear(32, 10)
            self.calls = 0

        def forward(self, x: Tensor) -> Tensor:
            h = self.embed(x.view(-1, 8, 8))
            padding = torch.zeros(h.shape[:2], dtype=torch.bool)
            padding[0, 6:] = True
            if self.training and self.calls >= 50:
                padding[0, 0 if sick else 1 :] = True
            self.calls += self.training
            mixed, _ = self.attention(h, h, h, key_padding_mask=padding)
            return self.head(self.norm(h + mixed).mean(1))

    model = Net()
    return classifier(model, torch.optim.Adam(model.parameters(), 5e-3), 180)
