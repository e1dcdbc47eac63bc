"""The main job in two minutes: a network that does not learn, what is found in it, its cure, and the proof."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from torch.nn.functional import cross_entropy

import gradiometer as gm
from gradiometer.datasets import Dataset, digits
from gradiometer.networks import mlp
from gradiometer.report import prescription
from gradiometer.report.text import show
from gradiometer.store import free_path

DEPTH, WIDTH, STEPS, BATCH, RATE = 12, 64, 400, 128, 0.01
_ARMS = {
    "sigmoid": "12 sigmoid layers, Xavier initialization",
    "relu": "its twin: 12 ReLU layers, He initialization",
}


class Arm(NamedTuple):
    """One training: its run and its accuracy on images it has not seen."""

    title: str
    run: gm.Run
    diagnosis: gm.Diagnosis
    accuracy: float


def train(activation: str, data: Dataset, path: Path, progress: Progress | None = None) -> Arm:
    """Trains one network under watch: SGD with momentum 0.9 on batches of 128."""
    torch.manual_seed(0)
    model = mlp(64, WIDTH, DEPTH, data.classes, activation)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.9)
    order = torch.Generator().manual_seed(1)
    task = progress.add_task(_ARMS[activation], total=STEPS, loss=float("nan")) if progress is not None else None
    with gm.watch(model, optimizer, every=10, path=path) as watch:
        for step in range(STEPS):
            batch = torch.randint(len(data.train_inputs), (BATCH,), generator=order)
            optimizer.zero_grad()
            loss = cross_entropy(model(data.train_inputs[batch]), data.train_targets[batch])
            loss.backward()
            optimizer.step()
            if progress is not None and task is not None:
                progress.update(task, advance=1, loss=loss.item(), refresh=step == STEPS - 1)
    with torch.no_grad():
        accuracy = (model(data.test_inputs).argmax(1) == data.test_targets).float().mean().item()
    return Arm(_ARMS[activation], watch.run, gm.diagnose(watch.run), accuracy)


def recipe(activation: str, data: Dataset) -> gm.Recipe:
    """The same training as a recipe, which can be built again and changed."""

    def batches(seed: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        order = torch.Generator().manual_seed(seed)
        while True:
            batch = torch.randint(len(data.train_inputs), (BATCH,), generator=order)
            yield data.train_inputs[batch], data.train_targets[batch]

    def accuracy(model: torch.nn.Module) -> float:
        return (model(data.test_inputs).argmax(1) == data.test_targets).float().mean().item()

    return gm.Recipe(
        model=lambda: mlp(64, WIDTH, DEPTH, data.classes, activation),
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=RATE, momentum=0.9),
        loss=cross_entropy,
        batches=batches,
        evaluate=accuracy,
        steps=STEPS,
    )


def demo(folder: Path, console: Console) -> tuple[list[Arm], gm.Prescription]:
    """Trains both, shows what was found, cures the sick one, and says where the runs lie."""
    data = digits()
    console.print(
        f"Training two networks on {len(data.train_inputs):,} images of handwritten digits, {STEPS} steps each. "
        "They differ in their activation and the scale of their weights, and in nothing else.\n"
    )
    columns = (
        TextColumn("{task.description:<44}"),
        BarColumn(),
        TextColumn("{task.completed:>3.0f}/{task.total:.0f}  loss {task.fields[loss]:.3f}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        arms = [train(a, data, free_path(folder, f"demo-{a}"), progress) for a in _ARMS]
    for arm in arms:
        console.rule(f"{arm.title}: {arm.accuracy:.0%} right", style="dim", align="left")
        show(console, arm.diagnosis, arm.run)
        console.print()
    console.rule("the cure: remedies tried beside the untreated twin", style="dim", align="left")
    cure = gm.prescribe(recipe("sigmoid", data))
    prescription.show(console, cure.record)
    console.print()
    console.rule(style="dim")
    console.print("The runs lie here; a run can be looked at again at any time:")
    for arm in arms:
        console.print(f"  gradiometer diagnose {arm.run.path}", soft_wrap=True)
    return arms, cure
