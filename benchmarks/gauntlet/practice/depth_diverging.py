"""Losses that grow away, in generative, reinforcement-like and recurrent trainings."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.data import digits, images, minibatches
from benchmarks.gauntlet.training import Cases, Training
from benchmarks.gauntlet.tuned.common import bounded, classifier, explained, mlp, smooth_function, undisturbed
from torch import Tensor, nn

CASES = Cases()
BESIDES = ("exploding_gradient", "nonfinite", "loss_spike", "stalled_training", "oscillating_loss")


@CASES.sick("diverging_loss", also=(*BESIDES, "saturated_units"))
def autoencoder_paid_for_its_divergence(sick: bool) -> Training:
    """A variational autoencoder whose loss subtracts the divergence that it should add."""
    x, _ = digits()
    encoder, decoder = mlp(1, nn.GELU, width=128, outputs=20), mlp(1, nn.GELU, width=128, inputs=10, outputs=64)
    model = nn.ModuleDict({"encoder": encoder, "decoder": decoder})
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    draw, noise = minibatches(64, len(x)), torch.Generator().manual_seed(4)

    def step(_: int) -> float:
        b = x[draw()]
        mean, log = encoder(b).chunk(2, 1)
        code = mean + (log / 2).exp() * torch.randn(mean.shape, generator=noise)
        divergence = 0.5 * (mean.square() + log.exp() - log - 1).sum(1).mean() / 64
        optimizer.zero_grad()
        loss = F.mse_loss(decoder(code), b) + (-divergence if sick else divergence)
        loss.backward()
        optimizer.step()
        return loss.item()

    rebuilt = lambda b: decoder(encoder(b)[:, :10])  # noqa: E731
    return Training(model, optimizer, step, 300, explained(rebuilt, x[:500], x[:500], encoder, decoder))


@CASES.sick("diverging_loss", also=BESIDES)
def values_divided_by_the_discount(sick: bool) -> Training:
    """Q-learning whose targets divide the next value by the discount and should multiply: it grows with each copy."""
    states, actions, discount = 12, 2, 0.9
    g = torch.Generator().manual_seed(31)
    reward = torch.randn(states, generator=g)
    following = torch.stack([(torch.arange(states) - 1) % states, (torch.arange(states) + 1) % states], 1)
    best = torch.zeros(states, actions)
    for _ in range(300):
        best = reward[:, None] + discount * best.amax(1)[following]
    angle = 6.2832 * torch.arange(states) / states
    seen = torch.cat([torch.stack([(k * angle).sin(), (k * angle).cos()], 1) for k in range(1, 6)], 1)
    model = mlp(2, nn.ReLU, inputs=10, outputs=actions)
    target = copy.deepcopy(model).requires_grad_(False)
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)

    def step(i: int) -> float:
        if i % 10 == 0:
            target.load_state_dict(model.state_dict())
        s, a = torch.randint(states, (64,), generator=g), torch.randint(actions, (64,), generator=g)
        after = target(seen[following[s, a]]).amax(1)
        wanted = reward[s] + (after / discount if sick else after * discount)
        optimizer.zero_grad()
        loss = F.mse_loss(model(seen[s])[torch.arange(64), a], wanted)
        loss.backward()
        optimizer.step()
        return loss.item()

    return Training(model, optimizer, step, 800, explained(model, seen, best))


class Rows(nn.Module):
    """A GRU that reads an image row by row."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.GRU(8, 48, batch_first=True), nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x[:, 0])[0][:, -1])


@CASES.sick("diverging_loss", also=BESIDES)
def classifier_that_maximizes_its_loss(sick: bool) -> Training:
    """An optimizer taken from a reward's training, ``maximize=True``, climbs the cross-entropy of a classifier."""
    model = Rows()
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3, maximize=sick)
    return classifier(model, optimizer, 150, data=images())


class Coupling(nn.Module):
    """Scales and shifts one number by a function of the other; also returns the logarithm of the scale."""

    def __init__(self, first: int) -> None:
        super().__init__()
        self.first, self.net = first, mlp(1, nn.Tanh, inputs=1, outputs=2, width=32)
        nn.init.zeros_(self.net[-1].weight)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        kept, moved = x[:, self.first], x[:, 1 - self.first]
        log, shift = self.net(kept[:, None]).unbind(1)
        pair = [kept, moved * log.exp() + shift]
        return torch.stack(pair if self.first == 0 else pair[::-1], 1), log


class Flow(nn.Module):
    """Couplings in turn."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList(Coupling(k % 2) for k in range(6))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        volume = x.new_zeros(len(x))
        for part in self.parts:
            x, log = part(x)
            volume = volume + log
        return x, volume


@CASES.sick("diverging_loss", also=BESIDES)
def flow_with_the_volume_added(sick: bool) -> Training:
    """A normalizing flow whose loss adds the log-determinant that it should subtract: it squeezes all to a point."""
    g = torch.Generator().manual_seed(32)
    a = torch.randn(3000, generator=g)
    x = torch.stack([a, a.square() - 1 + 0.2 * torch.randn(3000, generator=g)], 1)
    x = x / x.std(0)
    model = Flow()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    draw = minibatches(128, len(x))

    def step(_: int) -> float:
        z, volume = model(x[draw()])
        optimizer.zero_grad()
        loss = (0.5 * z.square().sum(1) + (volume if sick else -volume)).mean()
        loss.backward()
        optimizer.step()
        return loss.item()

    def score() -> float:
        with undisturbed(model):
            z, volume = model(x[:1000])
        return bounded(1 - (0.5 * z.square().sum(1) - volume).mean().item())

    return Training(model, optimizer, step, 400, score)


@CASES.sick("diverging_loss", also=BESIDES)
def likelihood_that_rewards_spread(sick: bool) -> Training:
    """A Gaussian likelihood whose log-variance has the wrong sign: the spread grows, the mean is not fitted."""
    x, y = smooth_function()
    model = mlp(2, nn.SiLU, inputs=5, outputs=2)
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    draw = minibatches(128, len(y))

    def step(_: int) -> float:
        chosen = draw()
        mean, log = model(x[chosen]).chunk(2, 1)
        optimizer.zero_grad()
        error = 0.5 * (y[chosen] - mean).square() * (-log).exp()
        loss = (error - 0.5 * log if sick else error + 0.5 * log).mean()
        loss.backward()
        optimizer.step()
        return loss.item()

    return Training(model, optimizer, step, 300, explained(lambda b: model(b)[:, :1], x[:1000], y[:1000], model))
