"""Every remedy cures the sick cases that it names, over three seeds and at equal steps, and nothing else does it."""

from __future__ import annotations

from functools import cache

import pytest

from gradiometer.remedies.base import Proof, Remedy, Situation, treated
from gradiometer.remedies.catalogue import REMEDIES
from gradiometer.trials.examination import examine
from gradiometer.trials.training import Training

SEEDS = (0, 1, 2)


@cache
def untreated(proof: Proof) -> tuple[Situation, list[float]]:
    recipe = proof.recipe()
    first, situation = examine(recipe)
    scores = [first.score()]
    for seed in SEEDS[1:]:
        training = Training(recipe, seed)
        training.advance(recipe.steps)
        scores.append(training.score())
    return situation, [score for score in scores if score is not None]


@pytest.mark.parametrize(
    ("remedy", "proof"),
    [pytest.param(r, p, id=f"{r.name}-{p.recipe.__name__}") for r in REMEDIES for p in r.proofs],
)
def test_its_sick_case_learns_with_it_and_not_without(remedy: Remedy, proof: Proof) -> None:
    situation, scores = untreated(proof)
    assert len(scores) == 3
    assert all(not score >= proof.good for score in scores), f"it learns untreated: {scores}"
    assert situation.diagnosis.healthy is False, situation.diagnosis
    assert remedy.unusable(situation) is None
    cured = treated(situation.recipe, (remedy,), situation)
    for seed in SEEDS:
        training = Training(cured, seed)
        training.advance(situation.recipe.steps)
        assert not training.failure
        score = training.score()
        assert score is not None
        assert score >= proof.good, (seed, score)


def test_every_remedy_has_a_proof() -> None:
    assert [remedy.name for remedy in REMEDIES if not remedy.proofs] == []
