"""Several seeds at once come to the numbers of one after the other, or are trained one after the other."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn, optim
from torch.nn.functional import cross_entropy, mse_loss
from torch.nn.utils import parametrizations

from executed import X, Y, batches, drawn, evaluate, network, recipe, sgd
from gradiometer.remedies.recipe import Recipe
from gradiometer.trials import stacked, together
from gradiometer.trials.stacked import Stack
from gradiometer.trials.training import Training
from gradiometer.trials.worker import Job, Worker

SEEDS = (0, 1, 4)
STEPS = 60


def chain(*layers: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(*(layer() for layer in layers))


def hidden(activation: Callable[[], nn.Module] = nn.Tanh) -> list[Callable[[], nn.Module]]:
    return [lambda: nn.Linear(6, 8), activation, lambda: nn.Linear(8, 3)]


class Tied(nn.Module):
    """One weight under two names, one layer called twice, a parameter that nothing uses, one that is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.out = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3, bias=False)
        self.second.weight = self.first.weight
        self.unused = nn.Parameter(torch.ones(2))
        self.scale = nn.Parameter(torch.tensor(1.5), requires_grad=False)
        self.gain = nn.Parameter(torch.tensor(1.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.gain * self.out(torch.tanh(self.second(torch.tanh(self.second(self.first(x * self.scale))))))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(2, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.out = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.layer(self.embed(x.view(-1, 3, 2))).mean(1))


class OwnLoss(nn.Module):
    """Takes a mapping, returns one with the loss in it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.layer(x)
        return {"logits": logits, "loss": mse_loss(logits, torch.eye(3)[labels])}


class Two(nn.Module):
    """Two inputs and two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor, more: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.layer(x), self.layer(more)


def mappings(seed: int) -> Iterator[Any]:
    return ({"x": x, "labels": y} for x, y in batches(seed))


def pairs(seed: int) -> Iterator[Any]:
    return (((x, -x), y) for x, y in batches(seed))


def epochs(seed: int) -> list[Any]:
    """Nine batches, the last one smaller, again and again."""
    order = torch.randperm(len(X), generator=torch.Generator().manual_seed(seed))
    return [(X[part], Y[part]) for part in order.split(15)]


def drawn_globally(seed: int) -> Iterator[Any]:
    while True:
        picked = [random.randrange(len(X)) for _ in range(8)]
        yield X[picked] + 0.1 * torch.randn(8, 6), Y[picked]


def grouped(parameters: Any) -> optim.Optimizer:
    """No weight decay for vectors, as people write it: stacked vectors are matrices."""
    held = list(parameters)
    matrices, vectors = [p for p in held if p.dim() > 1], [p for p in held if p.dim() < 2]
    return optim.AdamW([{"params": matrices, "weight_decay": 0.3}, {"params": vectors, "lr": 0.05}], lr=1e-2)


def looks_at_values(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    loss = cross_entropy(outputs, targets)
    return loss * 2 if loss.item() > 1 else loss


def made_with(kind: Any, **options: Any) -> Callable[[Any], optim.Optimizer]:
    return lambda parameters: kind(parameters, **options)


TOGETHER: dict[str, Recipe] = {
    "plain": recipe(),
    "three_dimensions": recipe(model=chain(lambda: nn.Unflatten(1, (3, 2)), lambda: nn.Linear(2, 3), nn.Flatten,
                                           lambda: nn.Linear(9, 3))),
    "batch_norm": recipe(model=chain(lambda: nn.Linear(6, 8), lambda: nn.BatchNorm1d(8), nn.ReLU,
                                     lambda: nn.Linear(8, 3))),
    "batch_norm_adam": recipe(model=chain(lambda: nn.Linear(6, 8), lambda: nn.BatchNorm1d(8), nn.ReLU,
                                          lambda: nn.Linear(8, 3)), optimizer=made_with(optim.Adam, lr=0.01)),
    "convolution": recipe(model=chain(lambda: nn.Unflatten(1, (1, 2, 3)), lambda: nn.Conv2d(1, 4, 2),
                                      lambda: nn.BatchNorm2d(4), lambda: nn.ReLU(inplace=True), nn.Flatten,
                                      lambda: nn.Linear(8, 3))),
    "layer_norm": recipe(model=chain(lambda: nn.Linear(6, 8), lambda: nn.LayerNorm(8), nn.GELU,
                                     lambda: nn.Linear(8, 3))),
    "tied": recipe(model=Tied, optimizer=made_with(optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.1)),
    "attention": recipe(model=Attention),
    "clipped": recipe(clip=0.1),
    "clipped_apart_from_what_is_held": recipe(clip=0.1, optimizer=lambda ps: sgd(list(ps)[:2])),
    "scheduled": recipe(schedule=lambda o: optim.lr_scheduler.LinearLR(o, 0.1, total_iters=20)),
    "one_cycle": recipe(schedule=lambda o: optim.lr_scheduler.OneCycleLR(o, 0.3, total_steps=STEPS + 1)),
    "own_loss": recipe(model=OwnLoss, loss=None, batches=mappings, evaluate=None),
    "two": recipe(model=Two, batches=pairs, loss=lambda o, y: cross_entropy(o[0] + 2 * o[1], y), evaluate=None),
    "epochs": recipe(batches=epochs),
    "drawn_globally": recipe(batches=drawn_globally),
    "looks_at_the_loss": recipe(loss=looks_at_values),
    "groups": recipe(optimizer=grouped),
    "float64": recipe(model=lambda: network().double(), batches=lambda s: ((x.double(), y) for x, y in batches(s)),
                      evaluate=None),
    "sgd_nesterov": recipe(optimizer=made_with(optim.SGD, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01)),
    "adam": recipe(optimizer=made_with(optim.Adam, lr=0.01, amsgrad=True)),
    "adamw": recipe(optimizer=made_with(optim.AdamW, lr=0.01)),
    "adamw_foreach": recipe(optimizer=made_with(optim.AdamW, lr=0.01, foreach=True)),
    "rmsprop": recipe(optimizer=made_with(optim.RMSprop, lr=0.01, momentum=0.5, centered=True)),
    "adagrad": recipe(optimizer=made_with(optim.Adagrad, lr=0.1, initial_accumulator_value=0.5)),
    "nadam": recipe(optimizer=made_with(optim.NAdam, lr=0.01)),
    "radam": recipe(optimizer=made_with(optim.RAdam, lr=0.01)),
    "adamax": recipe(optimizer=made_with(optim.Adamax, lr=0.01)),
    "adadelta": recipe(optimizer=made_with(optim.Adadelta)),
}  # fmt: skip


class Draws(nn.Module):
    def __init__(self, draw: Callable[[], float]) -> None:
        super().__init__()
        self.layer, self.draw = nn.Linear(6, 3), draw

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) * (1 + self.draw())


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.layer(x)
        return y if y.mean() > 0 else -y


class Rebinds(nn.Module):
    count: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 3)
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.count = self.count + 1
        return self.layer(x) / self.count


class Hooks(nn.Module):
    """Clips the gradient of its hidden layer, if that has one."""

    def __init__(self, bound: float) -> None:
        super().__init__()
        self.first, self.out, self.bound = nn.Linear(6, 8), nn.Linear(8, 3), bound

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.tanh(self.first(x))
        if h.requires_grad:
            h.register_hook(lambda g: g * min(1.0, self.bound / float(g.norm())))
        return self.out(h)


class OwnTable(nn.Module):
    """Holds a tensor that is neither parameter nor buffer and differs by seed."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.table = nn.Linear(6, 3), [torch.randn(6)]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x * self.table[0])


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell, self.out = nn.GRU(2, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.cell(x.view(-1, 3, 2))[0][:, -1])


def own_step(model: Any, optimizer: Any, loss: Any, batch: Any) -> Any:
    optimizer.zero_grad()
    value = loss(model(batch[0]), batch[1])
    value.backward()
    optimizer.step()
    return value


def hooked_module() -> nn.Module:
    model = network()
    model[0].register_full_backward_hook(lambda module, left, entered: None)  # type: ignore[operator]
    return model


def hooked_parameter() -> nn.Module:
    model = network()
    next(model.parameters()).register_hook(lambda g: g.clamp(-1e3, 1e3))
    return model


def hooked_step(parameters: Any) -> optim.Optimizer:
    made = sgd(parameters)
    made.register_step_pre_hook(lambda *_: None)
    return made


class Mine(optim.SGD):
    pass


def foreign(parameters: Any) -> optim.Optimizer:
    """Holds what is no parameter of the model."""
    return sgd([*parameters, nn.Parameter(torch.ones(2))])


def different(seed_of: list[int] = [3, 4, 5]) -> nn.Module:  # noqa: B006 - networks of other widths
    seed_of.append(seed_of.pop(0))
    return nn.Sequential(nn.Linear(6, seed_of[0]), nn.Linear(seed_of[0], 3))


APART: dict[str, Recipe] = {
    "dropout": recipe(model=chain(*hidden(), lambda: nn.Dropout(0.3))),
    "draws_python": recipe(model=lambda: Draws(random.random)),
    "draws_torch": recipe(model=lambda: Draws(lambda: float(torch.rand(1)))),
    "branches": recipe(model=Branches),
    "rebinds": recipe(model=Rebinds),
    "hooks": recipe(model=lambda: Hooks(1e6)),
    "hooked_module": recipe(model=hooked_module),
    "hooked_parameter": recipe(model=hooked_parameter),
    "hooked_step": recipe(optimizer=hooked_step),
    "own_table": recipe(model=OwnTable),
    "recurrent": recipe(model=Recurrent),
    "spectral": recipe(model=lambda: nn.Sequential(parametrizations.spectral_norm(nn.Linear(6, 3)))),
    "own_step": recipe(step=own_step),
    "autocast": recipe(autocast=torch.bfloat16),
    "scaler": recipe(scaler=True, autocast=torch.float16),
    "subclass": recipe(optimizer=made_with(Mine, lr=0.1)),
    "not_elementwise": recipe(optimizer=made_with(optim.Rprop)),
    "foreign": recipe(optimizer=foreign),
    "numpy": recipe(model=lambda: _Numpy(), batches=lambda s: ((x.numpy(), y) for x, y in batches(s)), evaluate=None),
    "unequal_batches": recipe(batches=lambda s: ((x[: 9 + s], y[: 9 + s]) for x, y in batches(s))),
    "no_number": recipe(loss=lambda o, y: cross_entropy(o, y, reduction="none")),
    "raises_at_once": recipe(loss=lambda o, y: int("x")),
}


class _Numpy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, x: Any) -> torch.Tensor:
        return self.layer(torch.from_numpy(x))


def alone(given: Recipe, steps: int = STEPS, seeds: tuple[int, ...] = SEEDS) -> list[Training]:
    trainings = [Training(given, seed) for seed in seeds]
    for training in trainings:
        training.advance(steps)
    return trainings


def assert_same(
    stack: Stack, trainings: list[Training], tolerance: float = 1e-4, of_scores: float | None = None
) -> None:
    assert stack.failures == [training.failure for training in trainings]
    assert [len(row) for row in stack.losses] == [training.steps for training in trainings]
    for row, score, training in zip(stack.losses, stack.scores(), trainings, strict=True):
        assert row == pytest.approx(training.losses, rel=tolerance, abs=1e-6, nan_ok=True)
        wanted = training.score() if training.losses else None
        assert score == (wanted and pytest.approx(wanted, rel=of_scores or tolerance, abs=1e-6, nan_ok=True))
    assert stack.gradient == trainings[0].gradient


@pytest.mark.parametrize("name", TOGETHER)
def test_at_once_it_comes_to_the_same_numbers(name: str) -> None:
    given = TOGETHER[name]
    stack = Stack(given, SEEDS, timed=False)
    before = torch.get_rng_state(), random.getstate()
    for until in (17, 18, STEPS):
        stack.advance(until)
    assert stack.together
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == random.getstate()
    # Of a bias before batch normalization the gradient is nothing but rounding, and Adam makes steps of it, which the
    # running mean, and with it the score, follows with a delay.
    assert_same(stack, alone(given), of_scores=1e-2 if name == "batch_norm_adam" else None)


@pytest.mark.parametrize("name", TOGETHER)
def test_the_networks_themselves_are_the_same(name: str) -> None:
    given = TOGETHER[name]
    stack = Stack(given, SEEDS, timed=False)
    stack.advance(30)
    assert stack._together is not None
    for i, training in enumerate(alone(given, 30)):
        values = together.tensors(training.model)
        ours = stack._together.values(i)
        assert ours.keys() == values.keys()
        rounding = ("0.bias", "1.running_mean") if name == "batch_norm_adam" else ()
        for one in values.keys() - set(rounding):
            torch.testing.assert_close(ours[one], values[one].detach(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", APART)
def test_what_cannot_be_is_trained_one_after_the_other(name: str) -> None:
    given = APART[name]
    stack = Stack(given, SEEDS, timed=False)
    for until in (17, 18, STEPS):
        stack.advance(until)
    assert not stack.together
    assert_same(stack, alone(given), tolerance=0.0)


def test_networks_of_different_shapes() -> None:
    stack = Stack(recipe(model=different, steps=STEPS), SEEDS, timed=False)
    stack.advance(STEPS)
    assert not stack.together
    assert stack.failures == [""] * 3


def test_a_seed_that_is_lost_does_not_disturb_the_others() -> None:
    def spoiled(seed: int) -> Iterator[Any]:
        for i, (x, y) in enumerate(batches(seed)):
            yield (x * math.nan if seed == 1 and i >= 12 else x), y

    given = recipe(batches=spoiled, evaluate=lambda model: float(model[0].weight.isnan().any()))
    stack = Stack(given, SEEDS, timed=False)
    stack.advance(STEPS)
    assert stack.together
    assert stack.failures == ["", "the loss is nan from step 12 on", ""]
    assert stack.scores() == [0.0, 1.0, 0.0]
    assert_same(stack, alone(given))


def test_a_loss_that_is_infinite_and_comes_no_more_ends_with_the_network_as_it_was() -> None:
    def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return cross_entropy(outputs, targets) + (math.inf if float(targets[0, 0]) == 7.0 else 0.0)

    def spoiled(seed: int) -> Iterator[Any]:
        for i, (x, _) in enumerate(batches(seed)):
            yield x, torch.full((16, 3), 7.0 if seed == 1 and i >= 12 else 0.3)

    given = recipe(batches=spoiled, loss=loss)
    stack = Stack(given, SEEDS, timed=False)
    stack.advance(STEPS)
    assert stack.together
    assert stack.failures[1] == "the loss is inf from step 12 on"
    assert_same(stack, alone(given))


@pytest.mark.parametrize("what", ["batches", "model"])
def test_what_fails_later_is_done_again_one_by_one(what: str) -> None:
    def failing(seed: int) -> Iterator[Any]:
        for i, (x, y) in enumerate(batches(seed)):
            if seed == 1 and i == 30:
                if what == "batches":
                    raise OSError("the disk is gone")
                x = x[:, :5]
            yield x, y

    given = recipe(batches=failing)
    stack = Stack(given, SEEDS, timed=False)
    stack.advance(25)
    assert stack.together
    stack.advance(STEPS)
    assert not stack.together
    assert stack.failures[0] == stack.failures[2] == ""
    assert " at step 30: " in stack.failures[1]
    assert_same(stack, alone(given), tolerance=0.0)


def test_smaller_batches_of_one_seed_later_on() -> None:
    def ragged(seed: int) -> Iterator[Any]:
        for i, (x, y) in enumerate(batches(seed)):
            cut = 5 if seed == 1 and i == 30 else 16
            yield x[:cut], y[:cut]

    given = recipe(batches=ragged)
    stack = Stack(given, SEEDS, timed=False)
    stack.advance(STEPS)
    assert_same(stack, alone(given), tolerance=0.0)


def test_only_where_it_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    for gain, faster in ((math.inf, True), (0.0, False)):
        monkeypatch.setattr(stacked, "GAIN", gain)
        stack = Stack(recipe(), SEEDS)
        stack.advance(STEPS)
        assert stack.together is faster
        assert_same(stack, alone(recipe()))


def test_the_comparison_takes_few_steps() -> None:
    drawn.clear()
    stack = Stack(recipe(), SEEDS, timed=False)
    stack.advance(STEPS)
    assert stack.together
    assert all(count == STEPS + stacked.STEPS for count in drawn.values())


@pytest.mark.parametrize("steps", [1, stacked.STEPS - 1, stacked.LEAST - 1])
def test_a_short_training_is_not_worth_it(steps: int) -> None:
    given = replace(recipe(), steps=steps)
    stack = Stack(given, SEEDS, timed=False)
    stack.advance(steps)
    assert not stack.together
    assert_same(stack, alone(given, steps), tolerance=0.0)


def test_a_deadline_is_kept() -> None:
    stack = Stack(recipe(), SEEDS, timed=False)
    stack.advance(STEPS, time.monotonic() - 1)
    assert stack.steps == 0
    assert stack.scores() == [None] * 3
    slow = Stack(replace(recipe(), model=chain(*hidden(_Slow))), SEEDS, timed=False)
    slow.advance(10)
    assert slow.together
    slow.advance(10**6, time.monotonic() + 0.2)
    assert 10 < slow.steps < 10**6


class _Slow(nn.Tanh):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        time.sleep(0.01)
        return super().forward(input)


def test_a_worker_trains_several_seeds_at_once_and_those_under_watch_alone() -> None:
    worker = Worker(lambda arm: recipe(), "always")
    outcomes = [worker.advance(Job(("a",), SEEDS, until)) for until in (20, STEPS)]
    assert [outcome.stacked for outcome in outcomes] == [True, True]
    plain = Worker(lambda arm: recipe(), "never").advance(outcomes[1].job)
    assert not plain.stacked
    for row, other in zip(outcomes[1].losses, plain.losses, strict=True):
        assert row == pytest.approx(other, rel=1e-4)
    watched = worker.advance(Job(("a",), SEEDS, STEPS, watched=True))
    assert not watched.stacked
    assert watched.losses == plain.losses
    single = worker.advance(Job(("a",), SEEDS[:1], STEPS))
    assert not single.stacked
    assert single.losses == plain.losses[:1]


def test_a_seed_whose_network_cannot_be_built_is_the_only_one_to_fail() -> None:
    def model() -> nn.Module:
        if torch.initial_seed() == 1:
            raise ValueError("no")
        return network()

    outcome = Worker(lambda arm: recipe(model=model), "always").advance(Job((), SEEDS, STEPS))
    assert outcome.failures == ("", "ValueError: no", "")
    assert [len(row) for row in outcome.losses] == [STEPS, 0, STEPS]
    good = Worker(lambda arm: recipe(), "never").advance(Job((), (0, 4), STEPS))
    assert (outcome.losses[0], outcome.losses[2]) == good.losses


def test_evaluate_gets_a_network_like_any_other() -> None:
    seen = []

    def looking(model: nn.Module) -> float:
        assert not model.training
        assert not torch.is_grad_enabled()
        assert all(isinstance(p, nn.Parameter) and p.dim() <= 2 for p in model.parameters())
        seen.append(model[0].weight.detach().clone())
        return evaluate(model)

    stack = Stack(recipe(evaluate=looking), SEEDS, timed=False)
    stack.advance(STEPS)
    stack.scores()
    assert stack.together
    assert not torch.equal(seen[0], seen[1])
    stack.scores()
    assert len(seen) == 3  # what was scored at this step is known
