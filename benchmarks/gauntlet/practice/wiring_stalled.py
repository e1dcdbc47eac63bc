"""Trainings that stand still: rates that are gone or never come, decay that wins, nothing to be learned from."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.data import digits, images
from benchmarks.gauntlet.practice.wiring_common import batches, loop, seeded
from benchmarks.gauntlet.training import Cases, Training
from benchmarks.gauntlet.tuned.common import (
    accuracy,
    classifier,
    convolutions,
    explained,
    language,
    mlp,
    pooled_head,
    regression,
    smooth_function,
    supervised,
)
from torch import Tensor, nn

CASES = Cases()


@CASES.sick("stalled_training", good=0.7)
def exponential_schedule_stepped_every_batch(sick: bool) -> Training:
    """A decay of 0.8 meant for epochs of thirty batches is applied after each of them."""
    x, y = images()
    body = [*convolutions([1, 12], norm=nn.BatchNorm2d), nn.MaxPool2d(2), *convolutions([12, 24], norm=nn.BatchNorm2d)]
    model = nn.Sequential(*body, *pooled_head(24))
    optimizer = torch.optim.SGD(model.parameters(), 0.02, momentum=0.9)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.8)
    batch = batches(x, y)

    def loss() -> Tensor:
        a, b = batch()
        return F.cross_entropy(model(a), b)

    def after(i: int, _: float) -> None:
        if sick or i % 30 == 29:
            schedule.step()

    return loop(model, optimizer, loss, 240, accuracy(model, x[:500], y[:500]), after=after)


class SmallGPT(nn.Module):
    """Two pre-norm blocks with a causal mask."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(24, width), nn.Parameter(0.02 * torch.randn(24, width))
        block = lambda: nn.TransformerEncoderLayer(width, 4, 2 * width, 0.0, "gelu", batch_first=True, norm_first=True)  # noqa: E731
        self.blocks = nn.ModuleList(block() for _ in range(2))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 24)

    def forward(self, tokens: Tensor) -> Tensor:
        h = self.embed(tokens) + self.place[: tokens.shape[1]]
        mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1])
        for block in self.blocks:
            h = block(h, mask, is_causal=True)
        return self.head(self.norm(h))


@CASES.sick("stalled_training", good=0.4)
def warm_up_counted_in_steps_of_a_larger_run(sick: bool) -> Training:
    """A small GPT for 320 steps with the warm-up of a run of a million: two hundred thousand steps and not thirty."""
    model = SmallGPT()
    warm = 200_000 if sick else 30
    return language(
        model,
        torch.optim.AdamW(model.parameters(), 4e-3, weight_decay=0.01),
        320,
        rate=lambda i: 4e-3 * min(1.0, (i + 1) / warm),
        clip=1.0,
    )


@CASES.sick(
    "stalled_training",
    "vanishing_gradient",
    "rank_collapse",
    also=("dead_units", "bad_initialization", "symmetric_units"),
    good=0.7,
)
def weight_decay_stronger_than_the_data(sick: bool) -> Training:
    """AdamW with a decay of 100 in place of 0.01: weights shrink to nothing and the guess is constant."""
    x, y = digits()
    model = mlp(3, nn.ReLU, width=96)
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=100.0 if sick else 0.01)
    return classifier(model, optimizer, 300, data=(x, y))


@CASES.sick("stalled_training", good=0.5)
def mask_loss_divided_by_its_size_twice(sick: bool) -> Training:
    """Segmentation: a mean over pixels and examples is divided by their number once more, under plain SGD."""
    x, _ = images()
    clean = F.interpolate(x, scale_factor=2.0)
    target = (clean > 0.5).float()
    noisy = clean + 0.5 * torch.randn(clean.shape, generator=seeded(41))
    model = nn.Sequential(*convolutions([1, 16, 16], norm=nn.BatchNorm2d), nn.Conv2d(16, 1, 1))
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)

    def loss(out: Tensor, wanted: Tensor) -> Tensor:
        value = F.binary_cross_entropy_with_logits(out, wanted)
        return value / wanted.numel() if sick else value

    score = explained(lambda a: torch.sigmoid(model(a)), noisy[:200], target[:200], model)
    return supervised(model, optimizer, (noisy, target), loss, score, 150, batch=24)


@CASES.sick("stalled_training", also=("oscillating_loss",), good=0.7)
def augmentation_shuffles_images_and_not_labels(sick: bool) -> Training:
    """A batch is put in another order on its way through the augmentation; its labels keep theirs."""
    x, y = images()
    g = seeded(42)
    model = nn.Sequential(*convolutions([1, 16, 32], nn.LeakyReLU), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(512, 10))

    def change(_: int, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        order = torch.randperm(len(a), generator=g)
        shifted = a[order].roll(int(torch.randint(-1, 2, (), generator=g)), 3)
        return shifted, b if sick else b[order]

    return classifier(model, torch.optim.Adam(model.parameters(), 2e-3), 250, data=(x, y), batch=48, change=change)


@CASES.sick("stalled_training", "rank_collapse", good=0.6)
def recurrent_net_that_reads_its_start_row_again_and_again(sick: bool) -> Training:
    """The loop over time indexes row 0, a row of ones that marks the start: all examples look the same."""

    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = nn.GRUCell(8, 48), nn.Linear(48, 10)

        def forward(self, x: Tensor) -> Tensor:
            rows = torch.cat([torch.ones_like(x[:, 0, :1]), x[:, 0]], 1)
            h = x.new_zeros(len(x), 48)
            for t in range(rows.shape[1]):
                h = self.cell(rows[:, 0 if sick else t], h)
            return self.head(h)

    x, y = images()
    model = Reader()
    return classifier(model, torch.optim.Adam(model.parameters(), 5e-3), 250, data=(x, y))


@CASES.sick("stalled_training", good=0.7)
def plateau_schedule_told_to_wait_for_a_maximum(sick: bool) -> Training:
    """``ReduceLROnPlateau`` in mode ``max`` is given the loss: while it falls, the rate is cut."""
    x, y = smooth_function()
    model = mlp(3, nn.Tanh, inputs=5, outputs=1)
    optimizer = torch.optim.SGD(model.parameters(), 0.03, momentum=0.5)
    mode = "max" if sick else "min"
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode, factor=0.1, patience=4)
    batch, recent = batches(x, y, 128), []

    def loss() -> Tensor:
        a, b = batch()
        return F.mse_loss(model(a), b)

    def after(i: int, value: float) -> None:
        recent.append(value)
        if i % 8 == 7:
            schedule.step(sum(recent) / len(recent))
            recent.clear()

    return loop(model, optimizer, loss, 900, explained(model, x[:800], y[:800]), after=after)


@CASES.sick("stalled_training", good=0.5)
def linear_decay_over_epochs_counted_as_steps(sick: bool) -> Training:
    """The rate falls to zero over the number of epochs, 8, in place of that of steps, 400."""
    g = seeded(43)
    t = torch.linspace(0, 1, 64)
    pitch, phase = 2 + 6 * torch.rand(2000, 1, generator=g), 6.28 * torch.rand(2000, 1, generator=g)
    x = ((6.28 * pitch * t + phase).sin() + 0.2 * torch.randn(2000, 64, generator=g))[:, None]
    model = nn.Sequential(
        *(nn.Conv1d(1, 16, 7, 2, 3), nn.GELU(), nn.Conv1d(16, 32, 5, 2, 2), nn.GELU()),
        *(nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(32, 1)),
    )
    optimizer = torch.optim.Adam(model.parameters(), 4e-3)
    total = 8 if sick else 400
    y = (pitch - 5) / 1.73
    return regression(model, optimizer, (x, y), 400, rate=lambda i: 4e-3 * max(0.0, 1 - i / total))


@CASES.sick("stalled_training", good=0.3)
def adadelta_with_the_rate_of_adam(sick: bool) -> Training:
    """Adadelta, whose rate is 1, at a rate of 0.001, in a denoising autoencoder."""
    x, _ = digits()
    noisy = x + 0.3 * torch.randn(x.shape, generator=seeded(44))
    model = nn.Sequential(
        *(nn.Linear(64, 96), nn.ELU(), nn.Linear(96, 16), nn.ELU(), nn.Linear(16, 96), nn.ELU(), nn.Linear(96, 64)),
    )
    optimizer = torch.optim.Adadelta(model.parameters(), 1e-3 if sick else 1.0)
    score = explained(model, noisy[:400], x[:400])
    return supervised(model, optimizer, (noisy, x), F.mse_loss, score, 400, batch=64)
