"""Loops that lose what the backward pass found: zeros in the wrong place, steps not made, weights put back."""

from __future__ import annotations

import copy
from itertools import pairwise

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.data import characters, digits, images, minibatches
from benchmarks.gauntlet.practice.wiring_common import batches, loop, pretrained, seeded
from benchmarks.gauntlet.training import Cases, Training
from benchmarks.gauntlet.tuned.common import accuracy, bounded, classifier, explained, language, mlp, undisturbed
from torch import Tensor, nn

CASES = Cases()


@CASES.sick(
    "frozen_parameters",
    "oscillating_loss",
    "diverging_loss",
    also=("loss_spike", "stalled_training", "exploding_gradient", "saturated_units"),
    good=0.7,
)
def forecaster_whose_gradients_pile_up(sick: bool) -> Training:
    """An LSTM that forecasts a noisy wave; nobody clears the gradients of the batches before."""

    class Forecaster(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.head = nn.LSTM(1, 32, 2, batch_first=True), nn.Linear(32, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.lstm(x)[0][:, -1])

    t = torch.arange(4000) / 4
    wave = t.sin() * (1 + 0.5 * (t / 7).cos()) + (2.3 * t).sin() / 2 + 0.1 * torch.randn(4000, generator=seeded(31))
    windows = wave.unfold(0, 25, 1)
    x, y = windows[:, :24, None], windows[:, 24:]
    model, batch = Forecaster(), batches(x, y, 32)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)

    def step(_: int) -> float:
        if not sick:
            optimizer.zero_grad()
        a, b = batch()
        loss = F.mse_loss(model(a), b)
        loss.backward()
        optimizer.step()
        return loss.item()

    return Training(model, optimizer, step, 300, explained(model, x[:600], y[:600]))


@CASES.sick("frozen_parameters", "stalled_training", good=0.6)
def zero_grad_between_backward_and_step(sick: bool) -> Training:
    """A causal convolutional language model whose gradients are cleared just before they are used."""

    class Causal(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(24, 48), nn.Linear(48, 24)
            self.layers = nn.ModuleList(nn.Conv1d(48, 48, 2, dilation=d) for d in (1, 2, 4))

        def forward(self, tokens: Tensor) -> Tensor:
            h = self.embed(tokens).transpose(1, 2)
            for layer, d in zip(self.layers, (1, 2, 4), strict=True):
                h = h + F.gelu(layer(F.pad(h, (d, 0))))
            return self.head(h.transpose(1, 2))

    text, model = characters(), Causal()
    optimizer = torch.optim.AdamW(model.parameters(), 5e-3)
    draw, window = minibatches(16, len(text) - 26), torch.arange(25)

    def step(_: int) -> float:
        b = text[draw()[:, None] + window]
        if not sick:
            optimizer.zero_grad()
        loss = F.cross_entropy(model(b[:, :-1]).flatten(0, 1), b[:, 1:].flatten())
        loss.backward()
        if sick:
            optimizer.zero_grad()
        optimizer.step()
        return loss.item()

    return Training(model, optimizer, step, 300, language(model, optimizer, 0).score)


@CASES.sick("frozen_parameters", "stalled_training", good=0.7)
def accumulation_counter_that_starts_anew_each_epoch(sick: bool) -> Training:
    """Steps are due after eight batches, but an epoch has six and the counter begins again with it."""
    x, y = images()
    model = nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.SiLU(), nn.Conv2d(16, 32, 3, 2, 1)),
        *(nn.BatchNorm2d(32), nn.SiLU(), nn.Flatten(), nn.Linear(512, 10)),
    )
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    batch, counted = batches(x, y, 24), [0]

    def step(i: int) -> float:
        if sick and i % 6 == 0:
            counted[0] = 0
        a, b = batch()
        loss = F.cross_entropy(model(a), b)
        (loss / 8).backward()
        counted[0] += 1
        if counted[0] == 8:
            optimizer.step()
            optimizer.zero_grad()
            counted[0] = 0
        return loss.item()

    return Training(model, optimizer, step, 360, accuracy(model, x[:500], y[:500]))


@CASES.sick("stalled_training", "frozen_parameters", also=("oscillating_loss",), good=0.7)
def averaged_weights_copied_back_after_every_step(sick: bool) -> Training:
    """A slow average of the weights, meant for evaluation, overwrites the trained ones and so holds them back."""
    x, y = digits()
    model = mlp(3, nn.GELU, norm=nn.LayerNorm)
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    average = copy.deepcopy(model).requires_grad_(False)
    batch = batches(x, y)

    def loss() -> Tensor:
        a, b = batch()
        return F.cross_entropy(model(a), b, label_smoothing=0.05)

    def after(_: int, __: float) -> None:
        with torch.no_grad():
            for slow, p in zip(average.parameters(), model.parameters(), strict=True):
                slow.lerp_(p, 0.002)
                if sick:
                    p.copy_(slow)

    return loop(model, optimizer, loss, 250, accuracy(model, x[:500], y[:500]), after=after)


@CASES.sick("frozen_parameters", "stalled_training", "oscillating_loss", also=("loss_spike",), good=0.6)
def lookahead_that_never_moves_its_slow_weights(sick: bool) -> Training:
    """Every five steps the fast weights go back to the slow ones, which are as they were on the first day."""
    g = seeded(33)
    x = torch.randn(2500, 6, generator=g)
    y = (x[:, :1] * x[:, 1:2]) + x[:, 2:3].cos() + x[:, 3:4] + 0.1 * torch.randn(2500, 1, generator=g)
    model = mlp(3, nn.SiLU, inputs=6, outputs=1)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    batch = batches(x, y)
    slow = copy.deepcopy(model.state_dict())

    def loss() -> Tensor:
        a, b = batch()
        return F.smooth_l1_loss(model(a), b)

    def after(i: int, _: float) -> None:
        if i % 5 == 4:
            if not sick:
                for name, value in model.state_dict().items():
                    slow[name].lerp_(value, 0.5)
            model.load_state_dict(slow)

    return loop(model, optimizer, loss, 350, explained(model, x[:800], y[:800]), after=after)


@CASES.sick("frozen_parameters", "stalled_training", good=0.6)
def optimizer_of_the_model_before_it_was_copied(sick: bool) -> Training:
    """``deepcopy`` after the optimizer was made: what is trained is the original, which sees no data."""
    x, y = images()

    class Rows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.head = nn.GRU(8, 48, batch_first=True, bidirectional=True), nn.Linear(96, 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.rnn(x.squeeze(1))[0].mean(1))

    model = Rows()
    optimizer = torch.optim.RMSprop(model.parameters(), 2e-3)
    if sick:
        model = copy.deepcopy(model)
    return classifier(model, optimizer, 150, data=(x, y), batch=32)


@CASES.sick("frozen_parameters", "stalled_training", good=0.7)
def body_frozen_and_the_old_head_in_the_optimizer(sick: bool) -> Training:
    """Transfer learning: the body is frozen on purpose, and the optimizer holds the head that was thrown away."""
    x, y = digits()
    small = y < 6
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 6))
    pretrained(model, x[small], y[small])
    model[:4].requires_grad_(False)
    head = nn.Linear(64, 10)
    if not sick:
        model[4] = head
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.02, momentum=0.9)
    model[4] = head
    return classifier(model, optimizer, 200)


@CASES.sick("frozen_parameters", sites=r"^critic", also=("stalled_training", "diverging_loss"), good=0.6)
def critic_never_thawed_after_the_actors_loss(sick: bool) -> Training:
    """A contextual bandit with continuous actions: the critic is frozen for the actor's loss and stays so."""
    sizes = [(6, 64, 64, 1), (4, 48, 2)]
    critic, actor = (
        nn.Sequential(*[m for a, b in pairwise(s) for m in (nn.Linear(a, b), nn.SiLU())][:-1]) for s in sizes
    )
    actor.append(nn.Tanh())
    model = {"actor": actor, "critic": critic}
    optimizer = torch.optim.Adam([*actor.parameters(), *critic.parameters()], 3e-3)
    g, mix = seeded(34), torch.randn(4, 2, generator=seeded(35)) / 2

    def reward(s: Tensor, a: Tensor) -> Tensor:
        return 1 - (a - (s @ mix).sin()).square().sum(1, keepdim=True)

    def step(_: int) -> float:
        s = torch.randn(128, 4, generator=g)
        optimizer.zero_grad()
        critic.requires_grad_(False)
        best = actor(s)
        wish = -critic(torch.cat([s, best], 1)).mean()
        if not sick:
            critic.requires_grad_(True)
        tried = best.detach() + 0.5 * torch.randn(128, 2, generator=g)
        error = F.smooth_l1_loss(critic(torch.cat([s, tried], 1)), reward(s, tried))
        (error + 0.1 * wish).backward()
        optimizer.step()
        return error.item()

    held = torch.randn(500, 4, generator=seeded(36))

    def score() -> float:
        with undisturbed(actor, critic):
            return bounded(1 - ((actor(held) - (held @ mix).sin()).square().mean() / (held @ mix).sin().var()).item())

    return Training(model, optimizer, step, 400, score)
