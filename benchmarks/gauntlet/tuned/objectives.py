"""Trainings whose loss is no plain error: rewards, bootstrapped values, likelihoods below zero, noise floors."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.data import digits, minibatches
from benchmarks.gauntlet.training import Cases, Training
from benchmarks.gauntlet.tuned.common import (
    accuracy,
    bounded,
    classifier,
    explained,
    he,
    mlp,
    regression,
    smooth_function,
    supervised,
    undisturbed,
)
from torch import Tensor, nn

CASES = Cases()


def bandit(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, *, batch: int, baseline: bool) -> Training:
    """REINFORCE on four states and four actions, of which one is right in each state."""

    def step(_: int) -> float:
        state = torch.randint(4, (batch,))
        policy = torch.distributions.Categorical(logits=model(F.one_hot(state, 4).float()))
        action = policy.sample()
        reward = (action == (state + 1) % 4).float()
        advantage = reward - reward.mean() if baseline else reward
        loss = -(policy.log_prob(action) * advantage).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    def score() -> float:
        with undisturbed(model):
            chance = model(torch.eye(4)).softmax(1)[range(4), [1, 2, 3, 0]].mean().item()
        return (chance - 0.25) / 0.75

    return Training(model, optimizer, step, steps, score)


@CASES.healthy()
def policy_gradient() -> Training:
    """The loss is near zero all the time, of either sign, and says nothing."""
    model = mlp(2, nn.Tanh, width=32, inputs=4, outputs=4)
    return bandit(model, torch.optim.Adam(model.parameters(), 5e-3), 300, batch=64, baseline=True)


@CASES.healthy()
def noisy_policy_gradient_in_small_batches() -> Training:
    """Eight episodes a step, no baseline."""
    model = mlp(2, nn.ReLU, width=32, inputs=4, outputs=4)
    return bandit(model, torch.optim.Adam(model.parameters(), 3e-3), 500, batch=8, baseline=False)


@CASES.healthy()
def q_learning_with_a_target_network() -> Training:
    """A chain of ten states; the loss rises whenever the target network is renewed."""
    model = mlp(2, inputs=10, outputs=2)
    target = copy.deepcopy(model)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    eye = torch.eye(10)

    def step(i: int) -> float:
        if i % 30 == 0:
            target.load_state_dict(model.state_dict())
        state, action = torch.randint(9, (64,)), torch.randint(2, (64,))
        following = (state + 2 * action - 1).clamp(0, 9)
        reward = (following == 9).float()
        with torch.no_grad():
            goal = reward + 0.9 * (1 - reward) * target(eye[following]).amax(1)
        value = model(eye[state]).gather(1, action[:, None])[:, 0]
        loss = F.smooth_l1_loss(value, goal)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    def score() -> float:
        truth = 0.9 ** torch.arange(8, -1, -1.0)
        with undisturbed(model):
            error = (model(eye[:9])[:, 1] - truth).square().mean() / truth.var()
        return bounded(1 - error.item())

    return Training(model, optimizer, step, 500, score)


@CASES.healthy()
def likelihood_below_zero() -> Training:
    """A normal density's log-likelihood: the loss passes zero and goes on falling."""
    x, y = smooth_function()
    model = mlp(2, nn.Tanh, inputs=5, outputs=2)
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    y = (3 * x[:, :1]).sin() * 0.3

    def loss(output: Tensor, target: Tensor) -> Tensor:
        mean, log_scale = output[:, :1], output[:, 1:].clamp(min=-4)
        return (log_scale + (target - mean).square() / (2 * (2 * log_scale).exp())).mean()

    return supervised(model, optimizer, (x, y), loss, explained(lambda b: model(b)[:, :1], x, y, model), 400)


@CASES.healthy()
def regression_at_its_noise_floor() -> Training:
    """Nine tenths of the targets' variance are noise: scored by how much of the rest is explained."""
    g = torch.Generator().manual_seed(8)
    x = torch.randn(4000, 6, generator=g)
    signal = x[:, :1]
    y = signal + 3 * torch.randn(4000, 1, generator=g)
    model = mlp(2, nn.Tanh, inputs=6, outputs=1, width=32)
    training = regression(model, torch.optim.Adam(model.parameters(), 2e-3), (x, y), 300, batch=256)
    training.score = explained(model, x, signal)
    return training


@CASES.healthy()
def huber_with_outliers() -> Training:
    """One target of twenty is absurd, and the Huber loss bears it."""
    x, y = smooth_function()
    g = torch.Generator().manual_seed(9)
    spoiled = y + 20 * torch.randn(y.shape, generator=g) * (torch.rand(y.shape, generator=g) < 0.05)
    model = mlp(2, inputs=5, outputs=1)
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    return supervised(model, optimizer, (x, spoiled), F.huber_loss, explained(model, x, y), 350)


def plateau(noise: float, before: int, rate: float) -> Training:
    """Trained on noisy labels until the loss has no way down, and watched from there."""
    x, y = digits()
    model = mlp(2)
    g = torch.Generator().manual_seed(10)
    draw = minibatches(64, len(y), seed=5)

    def batch() -> tuple[Tensor, Tensor]:
        chosen = draw()
        wrong = torch.rand(64, generator=g) < noise
        return x[chosen], torch.where(wrong, torch.randint(10, (64,), generator=g), y[chosen])

    def learn(optimizer: torch.optim.Optimizer) -> float:
        inputs, labels = batch()
        optimizer.zero_grad()
        loss = F.cross_entropy(model(inputs), labels)
        loss.backward()
        optimizer.step()
        return loss.item()

    first = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(before):
        learn(first)
    optimizer = torch.optim.Adam(model.parameters(), rate)
    return Training(model, optimizer, lambda _: learn(optimizer), 150, accuracy(model, x[:500], y[:500]))


@CASES.healthy()
def plateau_on_noisy_labels() -> Training:
    """Half of the labels are random: the loss stays near 1.7 and the digits are known."""
    return plateau(0.5, 500, 1e-4)


@CASES.healthy()
def plateau_without_noise() -> Training:
    """All is learned, the loss is a hundredth, the gradients are small."""
    return plateau(0.0, 500, 3e-4)


@CASES.healthy()
def smoothed_labels() -> Training:
    """Label smoothing of 0.3: the loss cannot fall below 1.2."""
    model = mlp(2, nn.ReLU, he())
    loss = nn.CrossEntropyLoss(label_smoothing=0.3)
    return classifier(model, torch.optim.SGD(model.parameters(), 0.1), 300, loss=loss)


@CASES.healthy()
def summed_loss() -> Training:
    """Reduction by the sum: a first loss of 150 and gradients to match."""
    model = mlp(2, nn.ReLU, he())
    return classifier(model, torch.optim.SGD(model.parameters(), 0.002), 300, loss=nn.CrossEntropyLoss(reduction="sum"))


@CASES.healthy()
def large_targets() -> Training:
    """Targets about five thousand: a loss of three hundred thousand, and it is learned."""
    x, _y = smooth_function()
    model = mlp(1, inputs=5, outputs=1)
    nn.init.constant_(model[-1].bias, 5000.0)
    return regression(model, torch.optim.Adam(model.parameters(), 0.1), (x, 500 * x[:, :1] + 5000), 400)


@CASES.healthy()
def actor_and_critic_heads() -> Training:
    """Two heads, one with a loss a hundred times as large as the other's."""

    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.policy, self.value = mlp(1, outputs=64), nn.Linear(64, 10), nn.Linear(64, 1)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            h = F.relu(self.body(x))
            return self.policy(h), self.value(h)

    x, y = digits()
    model = Heads()
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    draw = minibatches(64, len(y))

    def step(_: int) -> float:
        chosen = draw()
        scores, value = model(x[chosen])
        loss = F.cross_entropy(scores, y[chosen]) + 0.5 * F.mse_loss(value[:, 0], 4.0 * y[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    def score() -> float:
        with undisturbed(model):
            return ((model(x[:500])[0].argmax(1) == y[:500]).float().mean().item() - 0.1) / 0.9

    return Training(model, optimizer, step, 300, score)


@CASES.healthy(good=0.8)
def differential_equation() -> Training:
    """The derivative of the network is in the loss: ``u' = -u``, ``u(0) = 1``."""
    model = mlp(2, nn.Tanh, width=32, inputs=1, outputs=1)
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)

    def step(_: int) -> float:
        t = torch.rand(64, 1).mul(3).requires_grad_()
        u = model(t)
        (slope,) = torch.autograd.grad(u.sum(), t, create_graph=True)
        loss = (slope + u).square().mean() + (model(torch.zeros(1, 1)) - 1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    t = torch.linspace(0, 3, 100)[:, None]
    return Training(model, optimizer, step, 400, explained(model, t, torch.exp(-t)))
