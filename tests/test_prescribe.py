"""A prescription: found, verified, handed over; and what it does when there is nothing, too little time, or trouble."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import gradiometer as gm
from gradiometer.remedies.base import Code
from gradiometer.trials.executors import SerialExecutor
from gradiometer.trials.search import FURTHER, WIDE
from gradiometer.trials.training import Training

X = torch.randn(600, 6, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] + X[:, 1] * X[:, 2] > 0).long()


def batches(seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    order = torch.Generator().manual_seed(seed)
    while True:
        picked = torch.randint(400, (32,), generator=order)
        yield X[picked], Y[picked]


def accuracy(model: nn.Module) -> float:
    return float((model(X[400:]).argmax(1) == Y[400:]).float().mean())


def network(scale: float = 1.0) -> nn.Sequential:
    model = nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 2))
    for p in model.parameters():
        p.data *= scale
    return model


def sgd(parameters: Any, lr: float = 0.2) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=lr)


HEALTHY = gm.Recipe(network, sgd, cross_entropy, batches, accuracy, steps=120)
SLOW = replace(HEALTHY, optimizer=lambda parameters: sgd(parameters, 1e-5))


@cache
def cured() -> gm.Prescription:
    return gm.prescribe(SLOW, executor="serial")


def remedy(name: str, **changes: Any) -> gm.Remedy:
    about = {"title": name, "group": "optimization", "treats": (), "changes_function": False, "source": "none"}
    return gm.Remedy(name, **{**about, "code": lambda _: Code(), **changes})


def faster(recipe: gm.Recipe, _: Any) -> gm.Recipe:
    return replace(recipe, optimizer=sgd)


GOOD = remedy("good", recipe=faster)


# -- found, verified, handed over -------------------------------------------------------------------------------------


def test_the_cure_is_found_and_verified() -> None:
    found = cured()
    assert found.diagnosis.healthy is False
    assert found.best is not None
    trial = found.record.cure
    assert trial is not None
    assert trial is found.trials[0]
    assert trial.verified
    assert trial.gain is not None
    assert trial.gain.low > 0
    assert trial.treated.diagnosis is not None
    assert not any(f.kind == found.diagnosis[0].kind and f.severity != "info" for f in trial.treated.diagnosis)
    assert trial.treated.steps == found.untreated.steps == SLOW.steps
    assert len(trial.treated.scores) == len(found.untreated.scores) == 3


def test_what_it_says_is_what_the_cured_recipe_does() -> None:
    found, trial = cured(), cured().record.cure
    assert trial is not None
    for seed, score in enumerate(trial.treated.scores, 1):
        training = Training(found.recipe, seed)
        training.advance(SLOW.steps)
        assert training.score() == pytest.approx(score, abs=0.02)
    untreated = Training(SLOW, 2)
    untreated.advance(SLOW.steps)
    assert untreated.score() == pytest.approx(found.untreated.scores[1], abs=0.02)


def test_it_is_data_and_text() -> None:
    found = cured()
    data = json.loads(json.dumps(found.to_dict()))
    assert data["best"] == found.best.name if found.best else False
    assert data["trials"][0]["verified"] is True
    assert data["diagnosis"]["healthy"] is False
    compile(found.code(), "cure", "exec")
    assert "Prescription: " in repr(found)


def test_every_trial_says_what_came_of_it() -> None:
    for trial in cured().trials:
        assert trial.verified or trial.reason
    assert len([t for t in cured().trials if not t.verified]) <= WIDE + FURTHER


def test_without_evaluate_the_loss_decides() -> None:
    found = gm.prescribe(replace(SLOW, evaluate=None), remedies=[GOOD], executor="serial")
    assert found.best is GOOD
    assert found.untreated.score == pytest.approx(-0.69, abs=0.1)


def test_a_cure_of_the_network_is_applied_to_a_model_in_memory() -> None:
    def zeroed(model: nn.Module, _: Any) -> nn.Module:
        return model.append(nn.Identity())

    both = remedy("both", model=zeroed, recipe=faster)
    found = gm.prescribe(SLOW, remedies=[both], executor="serial")
    assert found.best is both
    model = network()
    assert found.apply(model) is model
    assert isinstance(model[-1], nn.Identity)
    assert "both: see prescription.code()" in found.not_applied
    with pytest.raises(gm.InputError, match="changes nothing in a model"):
        gm.prescribe(SLOW, remedies=[GOOD], executor="serial").apply(network())


# -- nothing to prescribe ---------------------------------------------------------------------------------------------


def test_a_healthy_recipe_gets_nothing() -> None:
    found = gm.prescribe(HEALTHY, executor="serial")
    assert found.diagnosis.healthy is True
    assert found.best is None
    assert found.trials == ()
    assert "healthy" in found.record.reason
    assert found.recipe.model is HEALTHY.model
    with pytest.raises(gm.InputError, match="no cure to apply"):
        found.apply(network())


def test_nothing_is_prescribed_that_is_not_better() -> None:
    idle = remedy("idle", recipe=lambda recipe, _: recipe)
    found = gm.prescribe(SLOW, remedies=[idle], executor="serial")
    assert found.best is None
    assert found.trials[0].reason.startswith("no better")
    assert found.code() == ""


def test_one_seed_verifies_nothing() -> None:
    found = gm.prescribe(SLOW, remedies=[GOOD], seeds=1, executor="serial")
    assert found.best is None
    assert "one seed" in found.trials[0].reason


# -- trouble ----------------------------------------------------------------------------------------------------------


class Breaks(nn.Module):
    """Raises at its n-th training step."""

    def __init__(self, error: BaseException, step: int) -> None:
        super().__init__()
        self.error, self.left = error, step

    def forward(self, x: Tensor) -> Tensor:
        self.left -= self.training
        if self.left < 0:
            raise self.error
        return x


def breaking(name: str, error: BaseException, step: int = 5) -> gm.Remedy:
    return remedy(name, model=lambda model, _: model.append(Breaks(error, step)), recipe=faster)


TROUBLE = [
    breaking("raises", ValueError("an odd thing")),
    breaking("no memory", MemoryError("too large")),
    breaking("no device memory", torch.OutOfMemoryError("out of memory: tried to allocate 1 TiB")),
    breaking("raises late", ValueError("late"), 110),
    remedy("cannot be built", model=lambda *_: 1 / 0),  # type: ignore[arg-type]
    remedy("diverges", recipe=lambda recipe, _: replace(recipe, optimizer=lambda p: sgd(p, 1e20))),
    remedy("unusable", unusable=lambda _: "it is not for this one"),
    remedy("fails when asked", unusable=lambda _: 1 // 0),  # type: ignore[arg-type, return-value]
]


@pytest.mark.parametrize("executor", ["serial", "local"])
def test_a_failing_trial_loses_and_the_others_go_on(executor: Any) -> None:
    found = gm.prescribe(SLOW, remedies=[*TROUBLE, GOOD], executor=executor)
    assert found.best is GOOD
    reasons = {trial.name: trial.reason for trial in found.trials}
    assert "ValueError at step 5: an odd thing" in reasons["raises"]
    assert "MemoryError" in reasons["no memory"]
    assert "OutOfMemoryError" in reasons["no device memory"]
    assert "ZeroDivisionError" in reasons["cannot be built"]
    assert reasons["diverges"]
    assert found.record.refused["unusable"] == "it is not for this one"
    assert "ZeroDivisionError" in found.record.refused["fails when asked"]


class Interrupted(SerialExecutor):
    """Ctrl-C comes while the n-th job is under way."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.left = after

    def run(self, jobs: Any, deadline: float = float("inf")) -> Iterator[Any]:
        for outcome in super().run(jobs, deadline):
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
            yield outcome


@pytest.mark.parametrize("after", [2, 4, 6])
def test_ctrl_c_returns_what_is_known(after: int) -> None:
    found = gm.prescribe(SLOW, executor=Interrupted(after))
    assert found.diagnosis.healthy is False
    assert "interrupted" in found.record.reason
    assert len(found.trials) == after - 2


def test_before_anything_is_known_ctrl_c_is_an_error() -> None:
    with pytest.raises(gm.InputError, match="interrupted"):
        gm.prescribe(SLOW, executor=Interrupted(0))


def test_the_time_limit_ends_what_is_under_way() -> None:
    """Counted in steps: after the deadline no worker takes any."""

    def lazy(model: nn.Module, optimizer: Any, loss: Any, batch: Any) -> Tensor:
        time.sleep(0.002)
        optimizer.zero_grad()
        value = loss(model(batch[0]), batch[1])
        value.backward()
        optimizer.step()
        return value

    found = gm.prescribe(replace(SLOW, step=lazy, steps=300), time_limit=2.5, executor="serial")
    assert found.best is None
    assert found.record.reason
    assert found.record.work < 2.6
    found = gm.prescribe(replace(SLOW, step=lazy, steps=100_000), time_limit=0.5, executor="serial")
    assert "of the untreated training" in found.record.reason
    assert found.trials == ()


def test_what_is_better_from_every_seed_and_too_noisy_gets_more_seeds() -> None:
    """Scores are given: 0.5 untreated, and treated so far apart that three seeds are not enough and six are."""
    scores = iter([0.75, 0.61, 0.95, 0.66, 0.9, 0.71, 0.85])
    treated: dict[int, float] = {}

    def evaluate(model: nn.Module) -> float:
        if not isinstance(model[-1], nn.Identity):
            return 0.5
        return treated.setdefault(id(model), next(scores, 0.8))

    marked = remedy("marked", model=lambda model, _: model.append(nn.Identity()), recipe=faster)
    found = gm.prescribe(replace(SLOW, evaluate=evaluate), remedies=[marked], executor=SerialExecutor("never"))
    assert found.record.seeds == 6
    assert len(found.untreated.scores) == 6
    assert found.best is marked
