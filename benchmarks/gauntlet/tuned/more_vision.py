"""Small networks on images that are well: mixup, averages of weights, several heads, distillation, two-step updates."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from benchmarks.gauntlet.data import digits, images, minibatches
from benchmarks.gauntlet.training import Cases, Training
from benchmarks.gauntlet.tuned.common import Residual, accuracy, bounded, classifier, undisturbed
from benchmarks.gauntlet.tuned.more_tasks import generator, pretrained, trained
from torch import Tensor, nn

CASES = Cases()


@CASES.healthy()
def mixup_in_one_cycle() -> Training:
    """Mixed pairs, smoothed labels, Nesterov's momentum and a rate that rises and falls once."""
    x, y = images()
    model = nn.Sequential(nn.Conv2d(1, 16, 3, 1, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2))
    model.extend([nn.Conv2d(16, 32, 3, 1, 1), nn.BatchNorm2d(32), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()])
    model.append(nn.Linear(32, 10))
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, nesterov=True, weight_decay=5e-4)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.2, total_steps=200)
    draw, g = minibatches(48, len(y)), generator(3)

    def loss(_: int) -> Tensor:
        a, b = draw(), draw()
        share = torch.rand(48, 1, 1, 1, generator=g)
        z = model(share * x[a] + (1 - share) * x[b])
        one, other = (F.cross_entropy(z, y[k], label_smoothing=0.1, reduction="none") for k in (a, b))
        return (share.flatten() * one + (1 - share.flatten()) * other).mean()

    return trained(model, optimizer, loss, accuracy(model, x[:300], y[:300]), 199, after=lambda _: cycle.step())


@CASES.healthy()
def patches_mixed_and_weights_averaged() -> Training:
    """A ConvMixer, scored by an exponential average of its weights."""
    x, y = images()

    def block(width: int) -> list[nn.Module]:
        depthwise = nn.Sequential(nn.Conv2d(width, width, 3, padding=1, groups=width), nn.GELU(), nn.BatchNorm2d(width))
        return [Residual(depthwise), nn.Conv2d(width, width, 1), nn.GELU(), nn.BatchNorm2d(width)]

    model = nn.Sequential(nn.Conv2d(1, 24, 2, 2), nn.GELU(), nn.BatchNorm2d(24), *block(24), *block(24))
    model.extend([nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 10)])
    average = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.95), use_buffers=True
    )
    optimizer, draw = torch.optim.AdamW(model.parameters(), 5e-3, weight_decay=0.05), minibatches(32, len(y))

    def loss(_: int) -> Tensor:
        chosen = draw()
        return F.cross_entropy(model(x[chosen]), y[chosen])

    score = accuracy(average, x[:300], y[:300])
    return trained(model, optimizer, loss, score, 160, after=lambda _: average.update_parameters(model))


class Heads(nn.Module):
    """Three stages, each with a classifier of its own."""

    def __init__(self) -> None:
        super().__init__()
        widths = [(1, 10), (10, 16), (16, 24)]
        self.stages = nn.ModuleList(nn.Conv2d(a, b, 3, 1 if a == 1 else 2, 1) for a, b in widths)
        self.heads = nn.ModuleList(nn.Linear(b, 10) for _, b in widths)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        out = []
        for stage, head in zip(self.stages, self.heads, strict=True):
            x = F.relu(stage(x))
            out.append(head(x.mean((2, 3))))
        return out if self.training else out[-1]


@CASES.healthy()
def supervised_at_three_depths() -> Training:
    """Two auxiliary classifiers with a third of the weight each."""
    model = Heads()

    def loss(out: list[Tensor], y: Tensor) -> Tensor:
        return F.cross_entropy(out[2], y) + 0.3 * (F.cross_entropy(out[0], y) + F.cross_entropy(out[1], y))

    optimizer = torch.optim.RMSprop(model.parameters(), 3e-3)
    return classifier(model, optimizer, 250, data=images(), loss=loss, batch=32)  # type: ignore[arg-type]


@CASES.healthy()
def three_tasks_that_weigh_themselves() -> Training:
    """Class, parity and amount of ink from one trunk, with learned weights (Kendall et al., 2018)."""
    x, y = digits()
    ink = x.clamp(min=0).sum(1)
    ink = (ink - ink.mean()) / ink.std()

    class Tasks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk = nn.Sequential(nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 48), nn.SiLU())
            self.digit, self.parity, self.ink = nn.Linear(48, 10), nn.Linear(48, 1), nn.Linear(48, 1)
            self.log_variance = nn.Parameter(torch.zeros(3))

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            h = self.trunk(x)
            return self.digit(h), self.parity(h)[:, 0], self.ink(h)[:, 0]

    model, draw = Tasks(), minibatches(64, len(y))
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)

    def loss(_: int) -> Tensor:
        i = draw()
        digit, parity, amount = model(x[i])
        parts = [F.cross_entropy(digit, y[i]), F.binary_cross_entropy_with_logits(parity, (y[i] % 2).float())]
        parts = torch.stack([*parts, F.mse_loss(amount, ink[i])])
        return (parts * (-model.log_variance).exp() + 0.5 * model.log_variance).sum()

    def score() -> float:
        with undisturbed(model):
            digit, _, amount = model(x[:500])
        right = (digit.argmax(1) == y[:500]).float().mean().item()
        return bounded(min((right - 0.1) / 0.9, 1 - F.mse_loss(amount, ink[:500]).item()))

    return trained(model, optimizer, loss, score, 250)


@CASES.healthy()
def student_of_a_warm_teacher() -> Training:
    """Distillation at a temperature of four: divergence times sixteen, and a little of the true labels."""
    x, y = digits()
    teacher = pretrained(nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 10)), lambda y: y)
    teacher.requires_grad_(False)
    student = nn.Sequential(nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 10))
    optimizer, draw = torch.optim.Adam(student.parameters(), 5e-3), minibatches(64, len(y))

    def loss(_: int) -> Tensor:
        i = draw()
        z = student(x[i])
        soft = F.kl_div(F.log_softmax(z / 4, 1), F.softmax(teacher(x[i]) / 4, 1), reduction="batchmean")
        return 0.9 * 16 * soft + 0.1 * F.cross_entropy(z, y[i])

    return trained(student, optimizer, loss, accuracy(student, x[:500], y[:500]), 250)


@CASES.healthy()
def sharpness_aware_steps() -> Training:
    """Each update takes the gradient a little uphill of where it is made (Foret et al., 2021)."""
    x, y = images()
    model = nn.Sequential(nn.Conv2d(1, 12, 3, 2), nn.ELU(), nn.Conv2d(12, 24, 3), nn.ELU(), nn.Flatten())
    model.append(nn.Linear(24, 10))
    optimizer, draw = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9), minibatches(40, len(y))

    def step(_: int) -> float:
        i = draw()
        loss = F.cross_entropy(model(x[i]), y[i])
        optimizer.zero_grad()
        loss.backward()
        with torch.no_grad():
            norm = torch.stack([p.grad.norm() for p in model.parameters()]).norm()
            uphill = [0.05 * p.grad / norm for p in model.parameters()]
            for p, e in zip(model.parameters(), uphill, strict=True):
                p.add_(e)
        optimizer.zero_grad()
        F.cross_entropy(model(x[i]), y[i]).backward()
        with torch.no_grad():
            for p, e in zip(model.parameters(), uphill, strict=True):
                p.sub_(e)
        optimizer.step()
        return loss.item()

    return Training(model, optimizer, step, 200, accuracy(model, x[:400], y[:400]))


@CASES.healthy()
def nine_tenths_of_the_weights_missing() -> Training:
    """A fixed random mask leaves a tenth of each matrix, drawn larger for it."""

    class Sparse(nn.Linear):
        def __init__(self, inputs: int, outputs: int) -> None:
            super().__init__(inputs, outputs)
            self.register_buffer("mask", (torch.rand(outputs, inputs) < 0.1).float())
            self.weight.data.mul_(10**0.5)

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(x, self.weight * self.mask, self.bias)

    model = nn.Sequential(Sparse(64, 256), nn.ReLU(), Sparse(256, 256), nn.ReLU(), nn.Linear(256, 10))
    return classifier(model, torch.optim.Adam(model.parameters(), 3e-3), 250)


@CASES.healthy()
def two_images_at_a_time() -> Training:
    """Batches of two under group norm, Adam with a small rate."""
    model = nn.Sequential(nn.Conv2d(1, 16, 3, 2, 1), nn.GroupNorm(4, 16), nn.ReLU(), nn.Conv2d(16, 24, 3, 2, 1))
    model.extend([nn.GroupNorm(4, 24), nn.ReLU(), nn.Flatten(), nn.Linear(96, 10)])
    return classifier(model, torch.optim.Adam(model.parameters(), 2e-3), 500, data=images(), batch=2)


@CASES.healthy()
def teacher_that_is_an_average_of_its_student() -> Training:
    """A hundred labels, and agreement with a slow copy on the rest (Tarvainen and Valpola, 2017)."""
    x, y = digits()
    student = nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Dropout(0.2), nn.Linear(96, 10))
    teacher = copy.deepcopy(student).requires_grad_(False)
    optimizer = torch.optim.Adam(student.parameters(), 3e-3)
    some, rest, g = minibatches(32, 100), minibatches(64, len(y), seed=5), generator(6)

    def loss(i: int) -> Tensor:
        known, unknown = some(), x[rest()]
        labelled = F.cross_entropy(student(x[known]), y[known])
        with torch.no_grad():
            aim = teacher(unknown + 0.2 * torch.randn(unknown.shape, generator=g)).softmax(1)
        noisy = unknown + 0.2 * torch.randn(unknown.shape, generator=g)
        return labelled + min(1.0, i / 100) * (student(noisy).softmax(1) - aim).square().sum(1).mean()

    def follow(_: int) -> None:
        with torch.no_grad():
            for slow, fast in zip(teacher.parameters(), student.parameters(), strict=True):
                slow.lerp_(fast, 0.03)

    score = accuracy(teacher, x[500:], y[500:])
    return trained({"student": student}, optimizer, loss, score, 250, after=follow)
