"""Parameters that nothing moves, and gradients that are not what they seem."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.data import digits, images, minibatches
from benchmarks.gauntlet.held_out.b_networks import dense, small_cnn
from benchmarks.gauntlet.held_out.common_b import accuracy, bounded, chains, explained, fit, quiet
from benchmarks.gauntlet.training import Cases, Training
from torch import Tensor, nn

CASES = Cases()


@CASES.sick("frozen_parameters", also=("stalled_training",), sites=r"^decoder")
def autoencoder_whose_decoder_no_optimizer_holds(sick: bool) -> Training:
    """The optimizer was given ``encoder.parameters()`` alone."""
    x, _ = digits()
    model = nn.ModuleDict({"encoder": dense(64, 64, 8), "decoder": dense(8, 64, 64)})
    held = model["encoder"].parameters() if sick else model.parameters()
    optimizer = torch.optim.Adam(held, 3e-3)

    def rebuilt(images: Tensor) -> Tensor:
        return model["decoder"](model["encoder"](images))

    def loss(chosen: Tensor) -> Tensor:
        return F.mse_loss(rebuilt(x[chosen]), x[chosen])

    return fit(model, optimizer, loss, len(x), 300, explained(rebuilt, x[:500], x[:500], model), batch=64)


@CASES.sick(
    "frozen_parameters",
    "oscillating_loss",
    "diverging_loss",
    also=("loss_spike", "exploding_gradient", "stalled_training", "dead_units", "nonfinite", "saturated_units"),
    good=0.8,
)
def cnn_without_zero_grad(sick: bool) -> Training:
    """Nobody clears the gradients: every step follows the sum of all before it."""
    x, y = images()
    body = [nn.Conv2d(1, 12, 3, padding=1), nn.SiLU(), nn.MaxPool2d(2), nn.Conv2d(12, 24, 3, padding=1), nn.SiLU()]
    model = nn.Sequential(*body, nn.Flatten(), nn.Linear(384, 10))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    draw = minibatches(64, len(x))

    def step(_: int) -> float:
        chosen = draw()
        if not sick:
            optimizer.zero_grad()
        loss = F.cross_entropy(model(x[chosen]), y[chosen])
        loss.backward()
        optimizer.step()
        return loss.item()

    return Training(model, optimizer, step, 200, accuracy(model, x[:500], y[:500]))


@CASES.sick("frozen_parameters", also=("stalled_training",))
def classifier_whose_gradients_are_cleared_before_the_step(sick: bool) -> Training:
    """``zero_grad`` stands between ``backward`` and ``step``: there never is a gradient to follow."""
    x, y = chains()
    model = nn.Sequential(nn.Embedding(12, 16), nn.Flatten(), *dense(384, 64, 4))
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    draw = minibatches(64, len(x))

    def step(_: int) -> float:
        chosen = draw()
        if not sick:
            optimizer.zero_grad()
        loss = F.cross_entropy(model(x[chosen]), y[chosen])
        loss.backward()
        if sick:
            optimizer.zero_grad()
        optimizer.step()
        return loss.item()

    return Training(model, optimizer, step, 250, accuracy(model, x[:500], y[:500], 4))


@CASES.sick("frozen_parameters", also=("stalled_training",), sites=r"^3")
def new_head_that_the_optimizer_never_saw(sick: bool) -> Training:
    """Fine-tuning of the head of a frozen network, but the optimizer holds the head that was there before."""
    x, y = images()
    model = small_cnn()
    model = nn.Sequential(nn.Sequential(*model[:4]), nn.Sequential(*model[4:8]), nn.Flatten(), model[9])
    source = (y >= 5).long()
    first = torch.optim.Adam(model.parameters(), 3e-3)
    for k in range(60):
        rows = slice(25 * k, 25 * k + 25)
        first.zero_grad()
        F.cross_entropy(model(x[rows]), source[rows]).backward()
        first.step()
    model.zero_grad()
    model[:2].requires_grad_(False).eval()
    if sick:
        optimizer = torch.optim.Adam(model[3].parameters(), 1e-2)
    model[3] = nn.Linear(128, 10)
    if not sick:
        optimizer = torch.optim.Adam(model[3].parameters(), 1e-2)

    def loss(chosen: Tensor) -> Tensor:
        return F.cross_entropy(model(x[chosen]), y[chosen])

    return fit(model, optimizer, loss, len(x), 200, accuracy(model, x[:500], y[:500]), batch=32)


@CASES.sick("frozen_parameters", also=("stalled_training",))
def optimizer_that_holds_the_model_before_its_copy(sick: bool) -> Training:
    """The model is deep-copied after the optimizer was made; the copy is trained and the original updated."""
    x, y = digits()
    original = dense(64, 48, 48, 10, activation=nn.GELU)
    model = copy.deepcopy(original)
    optimizer = torch.optim.AdamW((original if sick else model).parameters(), 3e-3)

    def loss(chosen: Tensor) -> Tensor:
        return F.cross_entropy(model(x[chosen]), y[chosen])

    return fit(model, optimizer, loss, len(x), 200, accuracy(model, x[:500], y[:500]))


@CASES.sick("frozen_parameters", also=("stalled_training", "diverging_loss"), sites=r"^critic", good=0.6)
def critic_whose_optimizer_never_steps(sick: bool) -> Training:
    """Two optimizers, and only the policy's is stepped: the values of the states stay what they were at birth."""
    g = torch.Generator().manual_seed(12)
    states = torch.randn(4000, 4, generator=g)
    best = (states[:, 0] + states[:, 1] > 0).long()
    policy, critic = dense(4, 32, 2, activation=nn.Tanh), dense(4, 32, 1, activation=nn.Tanh)
    both = [torch.optim.Adam(policy.parameters(), 5e-3), torch.optim.Adam(critic.parameters(), 5e-3)]
    draw = minibatches(64, len(states))

    def pay(chosen: Tensor, actions: Tensor) -> Tensor:
        return 2 * (actions == best[chosen]).float() + 1.5 * states[chosen, 2]

    def step(_: int) -> float:
        chosen = draw()
        for optimizer in both:
            optimizer.zero_grad()
        chances = torch.distributions.Categorical(logits=policy(states[chosen]))
        actions = torch.multinomial(chances.probs.detach(), 1, generator=g)[:, 0]
        reward, value = pay(chosen, actions), critic(states[chosen])[:, 0]
        loss = -(chances.log_prob(actions) * (reward - value.detach())).mean() + (reward - value).square().mean()
        loss.backward()
        both[0].step()
        if not sick:
            both[1].step()
        return loss.item()

    def score() -> float:
        rows = torch.arange(1000)
        with quiet(policy, critic):
            reward = pay(rows, policy(states[rows]).argmax(1))
            error = (critic(states[rows])[:, 0] - reward).square().mean()
        return bounded(1 - (error / reward.var()).item())

    return Training({"policy": policy, "critic": critic}, both, step, 300, score)
