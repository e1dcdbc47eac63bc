"""The progress bar says what is under way, and is silent where nobody looks."""

from __future__ import annotations

import io
import sys

import pytest

from gradiometer.trials.progress import Ticker


def test_it_tells_stage_trials_and_the_best_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr(sys, "stderr", out)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("FORCE_COLOR", "1")
    with Ticker(True) as ticker:
        ticker.stage("3 remedies, 40 steps", 3)
        ticker.ended(("he",), 0.5, [("relu", "he"), ()])
        ticker.ended(("elu",), 0.25)
    text = out.getvalue()
    for part in (
        "3 remedies, 40 steps",
        "1/3 trials",
        "2/3 trials",
        "best so far: he (0.5)",
        "now: relu+he, untreated",
    ):
        assert part in text
    assert "best so far: elu" not in text


def test_it_is_silent_where_nobody_looks(capsys: pytest.CaptureFixture[str]) -> None:
    with Ticker(None) as ticker:
        ticker.stage("untreated", 1)
        ticker.ended((), 0.1)
    assert capsys.readouterr() == ("", "")
