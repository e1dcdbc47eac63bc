"""Outputs and losses that do not fit: wrong dimensions, wrong ranges, wrong shapes, probabilities for scores."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.data import images
from benchmarks.gauntlet.training import Cases, Training
from benchmarks.gauntlet.tuned.common import accuracy, bounded, explained, language, supervised, undisturbed
from benchmarks.gauntlet.tuned.more_tasks import generator, pretrained, trained, waves
from torch import Tensor, nn

CASES = Cases()


class Characters(nn.Module):
    """A GRU language model over 24 characters."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.embedding = nn.Embedding(24, 24)
        self.gru = nn.GRU(24, width, batch_first=True)
        self.head = nn.Linear(width, 24)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.gru(self.embedding(tokens))[0])


@CASES.sick("output_mismatch", also=("stalled_training", "vanishing_gradient"), good=0.5)
def softmax_over_frames(sick: bool) -> Training:
    """Which wave is each frame of? ``log_softmax(dim=2)`` of scores ``(B, C, T)``: frames compete, not classes."""
    x, y = waves()
    frames = y[:, None].expand(-1, 20)
    model = nn.Sequential(nn.Conv1d(1, 16, 9), nn.ReLU(), nn.Conv1d(16, 16, 9, dilation=2), nn.ReLU())
    model.extend([nn.Conv1d(16, 24, 5), nn.ReLU(), nn.Conv1d(24, 4, 1)])

    def loss(z: Tensor, y: Tensor) -> Tensor:
        return F.nll_loss(F.log_softmax(z, 2 if sick else 1), y)

    def score() -> float:
        with undisturbed(model):
            right = (model(x[:300]).argmax(1) == frames[:300]).float().mean().item()
        return bounded((right - 0.25) / 0.75)

    return supervised(model, torch.optim.Adam(model.parameters(), 5e-3), (x, frames), loss, score, 200, batch=24)


@CASES.sick("output_mismatch", sites=r"squash", also=("saturated_units", "stalled_training"), good=0.6)
def tanh_before_cross_entropy(sick: bool) -> Training:
    """Scores of a language model between -1 and 1: no character can have more than a fifth of the probability."""

    class Squashed(Characters):
        def __init__(self) -> None:
            super().__init__()
            self.squash = nn.Tanh() if sick else nn.Identity()

        def forward(self, tokens: Tensor) -> Tensor:
            return self.squash(super().forward(tokens))

    model = Squashed()
    return language(model, torch.optim.Adam(model.parameters(), 1e-2), 260, length=20)


@CASES.sick("output_mismatch", also=("saturated_units", "stalled_training", "vanishing_gradient"), good=0.45)
def sigmoid_decoder_for_standardized_pixels(sick: bool) -> Training:
    """A convolutional autoencoder that ends in a sigmoid; its pixels lie between -0.8 and 1.9."""
    x, _ = images()
    down = nn.Sequential(nn.Conv2d(1, 12, 3, 2, 1), nn.GELU(), nn.Conv2d(12, 16, 3, 2, 1), nn.GELU())
    up = nn.Sequential(nn.ConvTranspose2d(16, 12, 4, 2, 1), nn.GELU(), nn.ConvTranspose2d(12, 1, 4, 2, 1))
    model = nn.Sequential(down, up, *([nn.Sigmoid()] if sick else []))
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    return supervised(model, optimizer, (x, x), F.mse_loss, explained(model, x[:300], x[:300]), 200, batch=32)


@CASES.sick("output_mismatch", also=("diverging_loss", "exploding_gradient", "stalled_training"), good=0.3)
def targets_of_minus_one_and_one(sick: bool) -> Training:
    """Noisy labels -1 and 1, meant for a hinge loss, under the binary cross-entropy: it falls below zero for ever."""
    g = generator(31)
    x = torch.randn(1500, 6, generator=g)
    p = torch.sigmoid(3 * (x[:, 0] * x[:, 1] + x[:, 2]))
    y = torch.bernoulli(p, generator=g)
    model = nn.Sequential(nn.Linear(6, 48), nn.GELU(), nn.Linear(48, 48), nn.GELU(), nn.Linear(48, 1), nn.Flatten(0))
    base = F.binary_cross_entropy(y.mean().expand(500), y[:500]).item()

    def loss(z: Tensor, y: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(z, 2 * y - 1 if sick else y)

    def score() -> float:
        with undisturbed(model):
            return bounded(1 - F.binary_cross_entropy_with_logits(model(x[:500]), y[:500]).item() / base)

    return supervised(model, torch.optim.Adam(model.parameters(), 3e-3), (x[500:], y[500:]), loss, score, 200)


@CASES.sick("output_mismatch", good=0.6)
def classes_counted_from_one(sick: bool) -> Training:
    """Four outputs and classes from one to four: the first batch with a four in it raises an error."""
    x, y = waves()
    model = nn.Sequential(nn.Conv1d(1, 10, 9, 4), nn.ReLU(), nn.Flatten(), nn.Linear(100, 4))
    score = accuracy(model, x[:400], y[:400], 4)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    return supervised(model, optimizer, (x, y + 1 if sick else y), F.cross_entropy, score, 200, batch=16)


@CASES.sick("output_mismatch", also=("stalled_training",), good=0.55)
def policy_of_probabilities(sick: bool) -> Training:
    """``Categorical(logits=softmax(z))``: the policy can never prefer an action by more than a factor of e."""
    model = nn.Sequential(nn.Linear(5, 32), nn.Tanh(), nn.Linear(32, 6), *([nn.Softmax(1)] if sick else []))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    states, g = torch.eye(5), generator(1)
    best = torch.tensor([3, 1, 4, 0, 5])

    def loss(_: int) -> Tensor:
        s = torch.randint(5, (96,), generator=g)
        policy = torch.distributions.Categorical(logits=model(states[s]))
        action = torch.multinomial(policy.probs, 1, generator=g)[:, 0]
        reward = (action == best[s]).float()
        return -(policy.log_prob(action) * (reward - reward.mean())).mean()

    def score() -> float:
        with undisturbed(model):
            right = model(states).softmax(1)[torch.arange(5), best].mean().item()
        return bounded((right - 1 / 6) * 6 / 5)

    return trained(model, optimizer, loss, score, 250)


@CASES.sick("output_mismatch", also=("stalled_training",), good=0.4)
def counts_in_a_row_against_a_column(sick: bool) -> Training:
    """``poisson_nll_loss`` of outputs ``(B, 1)`` and counts ``(B,)``: every output is held against every count."""
    g = generator(32)
    x = torch.randn(1600, 4, generator=g)
    rate = (0.8 + 0.9 * x[:, 0] - 0.5 * x[:, 1] * x[:, 2].tanh()).exp().clamp(max=20)
    y = torch.poisson(rate, generator=g)
    model = nn.Sequential(nn.Linear(4, 40), nn.Tanh(), nn.Linear(40, 1))

    def loss(z: Tensor, y: Tensor) -> Tensor:
        return F.poisson_nll_loss(z if sick else z[:, 0], y, log_input=True)

    score = explained(lambda x: model(x).exp(), x[:600], rate[:600], model)
    return supervised(model, torch.optim.Adam(model.parameters(), 1e-2), (x[600:], y[600:]), loss, score, 250, batch=80)


@CASES.sick("output_mismatch", also=("stalled_training", "vanishing_gradient", "saturated_units"), good=0.5)
def divergence_of_probabilities(sick: bool) -> Training:
    """Distillation by ``kl_div`` that is given the student's probabilities where it expects their logarithms."""
    x, _ = images()
    teacher = pretrained(nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)), lambda y: y)
    with torch.no_grad():
        soft = F.softmax(teacher(x.flatten(1)) / 2, 1)
    student = nn.Sequential(nn.Conv2d(1, 12, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(108, 10))

    def loss(z: Tensor, p: Tensor) -> Tensor:
        return F.kl_div(F.softmax(z, 1) if sick else F.log_softmax(z, 1), p, reduction="batchmean")

    uniform = (soft[:500] * (soft[:500] * 10).clamp(min=1e-9).log()).sum(1).mean().item()

    def score() -> float:
        with undisturbed(student):
            left = F.kl_div(F.log_softmax(student(x[:500]), 1), soft[:500], reduction="batchmean").item()
        return bounded(1 - left / uniform)

    return supervised(student, torch.optim.SGD(student.parameters(), 0.1), (x, soft), loss, score, 250, batch=40)
