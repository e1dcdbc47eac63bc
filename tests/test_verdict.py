"""Verified is what is better beyond the noise over the seeds and has lost its finding; nothing else is."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from gradiometer.records import Arm, Diagnosis, Finding, Severity
from gradiometer.trials import account
from gradiometer.trials.verdict import Complaint, interval, judged
from gradiometer.trials.worker import Job, Outcome

NAN, INF = math.nan, math.inf


def diagnosis(kind: str, severity: Severity = "critical") -> Diagnosis:
    return Diagnosis((Finding(kind, severity, (), {}, "", ""),))


def arm(*scores: float, failure: str = "", found: Diagnosis | None = None) -> Arm:
    return Arm(100, tuple(1.0 for _ in scores), scores, 1.0, failure, Diagnosis(()) if found is None else found)


def test_the_interval_is_student_s() -> None:
    values = [0.3, 0.5, 0.45, 0.2]
    found = interval(values)
    assert found is not None
    low, high = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    assert (found.mean, found.low, found.high) == pytest.approx((np.mean(values), low, high))


def test_its_coverage_is_what_it_says() -> None:
    draws = np.random.default_rng(0).normal(0.1, 1.0, (4000, 3))
    covered = sum(i.low <= 0.1 <= i.high for row in draws if (i := interval(list(row))) is not None)
    assert covered / len(draws) == pytest.approx(0.95, abs=0.012)


UNTREATED = arm(0.1, 0.12, 0.09)

CASES = {
    "better by far": (UNTREATED, arm(0.9, 0.91, 0.88), ""),
    "no better": (UNTREATED, arm(0.1, 0.11, 0.09), "no better"),
    "worse": (UNTREATED, arm(0.0, 0.01, 0.02), "no better"),
    "better by chance": (UNTREATED, arm(0.9, 0.1, 0.1), "not beyond the noise"),
    "better, still ill": (UNTREATED, arm(0.5, 0.51, 0.5, found=diagnosis("dead_units")), "but still: dead units"),
    "better, and nobody looked": (UNTREATED, replace(arm(0.5, 0.51, 0.5), diagnosis=None), "nobody can say"),
    "better, and it cannot be said": (
        UNTREATED,
        arm(0.5, 0.51, 0.5, found=Diagnosis((), conclusive=False)),
        "nobody can say",
    ),
    "better, and the loss stands": (UNTREATED, replace(arm(0.5, 0.51, 0.5), stands=True), "does not fall"),
    "both infinitely bad on one seed": (arm(0.1, -INF, 0.1), arm(0.6, -INF, 0.6), "no better"),
    "a little better where untreated has a score": (arm(NAN, 0.5, 0.5), arm(0.6, 0.5001, 0.5001), "not beyond"),
    "better, with a note": (UNTREATED, arm(0.5, 0.51, 0.5, found=diagnosis("dead_units", "info")), ""),
    "better, ill of something else": (UNTREATED, arm(0.5, 0.51, 0.5, found=diagnosis("loss_spike")), ""),
    "a seed fails": (UNTREATED, arm(0.9, 0.91, NAN, failure="ValueError at step 3"), "ValueError"),
    "a seed has no score": (UNTREATED, arm(0.9, 0.91, NAN), "no better"),
    "one seed": (arm(0.1), arm(0.9), "one seed"),
    "untreated has no score": (arm(NAN, NAN, NAN), arm(0.9, 0.8, 0.9), ""),
    "untreated is as good on one seed": (arm(NAN, NAN, 0.9), arm(0.9, 0.8, 0.85), "not beyond the noise"),
    "a loss of infinity untreated": (arm(-INF, -INF, -INF), arm(-0.9, -0.8, -0.9), ""),
}


@pytest.mark.parametrize("name", CASES)
def test_verdicts(name: str) -> None:
    untreated, treated, reason = CASES[name]
    gain, said = judged(untreated, treated, Complaint("dead_units"))
    assert (said == "") == (reason == "")
    assert reason in said
    if not reason:
        assert gain is not None
        assert gain.low > 0


def test_a_mistake_is_there_as_long_as_it_is_told_at_all() -> None:
    treated = arm(0.5, 0.51, 0.5, found=diagnosis("frozen_parameters", "info"))
    assert "still" in judged(UNTREATED, treated, Complaint("frozen_parameters"))[1]


def test_trying_again_and_again_proves_nothing() -> None:
    """Of arms that are no better, no more than one in twenty searches of six proofs verifies one."""
    draws = np.random.default_rng(0).normal(0.0, 1.0, (3000, 6, 2, 3))
    verified = 0
    for search in draws:
        verified += any(
            judged(arm(*a), arm(*b), Complaint("dead_units"), tried=k)[1] == "" for k, (a, b) in enumerate(search, 1)
        )
    assert verified / len(draws) < 0.07  # 2.5 % in the first, and 0.025 / k in the k-th: 6.1 %


def test_the_first_seed_is_not_in_the_verdict() -> None:
    """What was chosen because it was good on seed 0 is judged on the others."""
    outcomes = {
        seeds[0]: Outcome(Job(("he",), seeds, 5), ((1.0,),) * len(seeds), scores, ("",) * len(seeds))
        for seeds, scores in (((0,), (0.99,)), ((1, 2), (0.5, 0.6)), ((3,), (0.55,)))
    }
    assert account.arm(outcomes).scores == (0.5, 0.6, 0.55)
    assert account.arm({0: outcomes[0]}).scores == (0.99,)
    assert account.arm({0: outcomes[0], 3: outcomes[3]}).scores == (0.99,)
