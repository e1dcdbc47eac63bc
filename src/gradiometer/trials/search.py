"""One prescription on its way: examination, tournament, proof."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import fmean

from gradiometer.errors import InputError
from gradiometer.records import Arm, Interval, PrescriptionRecord, Trial
from gradiometer.remedies.base import Group, Remedy, Situation
from gradiometer.remedies.choice import Candidate, Names, candidates, further, kinds, plans, varied
from gradiometer.remedies.combination import combined
from gradiometer.remedies.recipe import Recipe
from gradiometer.trials.examination import birth
from gradiometer.trials.executors import Executor
from gradiometer.trials.prescription import Prescription, written
from gradiometer.trials.progress import Ticker
from gradiometer.trials.tournament import FIRST, SECOND, THROUGH, Tournament, value
from gradiometer.trials.verdict import judged
from gradiometer.trials.worker import Job, Outcome

WIDE = 9
"""Candidates of the first round. Nine, for an eighth of the steps each, cost a little more than one training."""

FURTHER = 5
"""Combinations of the second round."""

FINALISTS = 2
"""Arms that are trained to the end on the first seed."""

FEW = 5
"""Candidates where a training goes wrong late, so that an eighth of the steps tells nothing."""

ROUNDS = 2
"""How often finalists are taken to the end, if none of the first two is verified."""

WORSE = 0.1
"""Share of the loss by which it must have grown since the first rung for a training to have gone wrong late."""

EQUAL = 0.01
"""Share of the improvement within which the simpler of two arms is preferred: one seed knows no better."""

SLOWER = 1.5
"""What a step of a treated network may cost over that of an untreated one, when time is set aside for the proof."""


class Search:
    """One prescription on its way."""

    def __init__(
        self,
        recipe: Recipe,
        remedies: Mapping[str, Remedy],
        wanted: list[Names] | None,
        seeds: int,
        deadline: float,
        executor: Executor,
        ticker: Ticker,
    ) -> None:
        """``wanted`` are the only ones to try, ``None`` leaves the choice to the cause."""
        self.recipe, self.remedies, self.wanted = recipe, remedies, wanted
        self.seeds, self.deadline, self.executor, self.ticker = tuple(range(seeds)), deadline, executor, ticker
        self.reason = ""
        self.situation: Situation | None = None
        self.untreated: Arm | None = None
        self.candidates: dict[Names, Candidate] = {}
        self.refused: dict[Names, str] = {}
        self.tournament = Tournament(executor, recipe.steps, deadline, self._told)
        self.proofs: dict[Names, Trial] = {}
        self.work = 0.0

    # -- its parts ------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Examination, tournament, proof."""
        self._examine()
        if self.situation is None or self.reason:
            return
        self._compete()
        for _ in range(ROUNDS):
            if self._prove(self._finish()) or self.reason:
                return
        self.reason = "nothing that was tried beat the untreated training"

    def _examine(self) -> None:
        self.ticker.stage("untreated", 2)
        first, others = self._both(())
        if first is None or first.facts is None:
            self.reason = "the time was up before the untreated training had ended"
            return
        self.untreated = _arm(first, others)
        found = replace(first.facts, birth=birth(self.recipe))
        self.situation = found.situation(self.recipe)
        self.executor.tell(found)
        if first.steps < self.recipe.steps and not first.failure:
            self.reason = f"the time was up at step {first.steps} of the untreated training"
        elif found.diagnosis.healthy and not found.stands:
            self.reason = "healthy: there is nothing to prescribe"
        elif found.diagnosis.healthy is None and not first.failure:
            self.reason = f"cannot say what ails it: {found.diagnosis.reason}"

    def _compete(self) -> None:
        """Trains candidates, and then combinations of the best of them, for a part of the steps."""
        assert self.situation is not None
        assert self.untreated is not None
        reserve = SLOWER * self.untreated.seconds / max(1, min(self.executor.workers, 2))
        self.tournament.deadline = self.deadline - reserve
        if self.wanted is not None:
            self._rung(self._admitted(self.wanted, len(self.wanted)), SECOND)
            return
        wanted = plans(self.situation, self.remedies)
        if late(self.situation.losses, self.recipe.steps):
            field = self._rung(self._admitted(wanted, FEW), SECOND)
        else:
            field = self._rung(self._rung(self._admitted(wanted, WIDE), FIRST)[:THROUGH], SECOND)
        if field:
            second = self._rung(self._admitted(further(field, self.remedies), FURTHER), FIRST)
            self._rung(second[:FINALISTS], SECOND)

    def _finish(self) -> list[Names]:
        """Trains the best that are not at the end yet to the end; those that beat the untreated arm, the best first."""
        assert self.untreated is not None
        standing = self.tournament.standing
        behind = [names for names in self.tournament.ranked(standing) if standing[names].steps < self.recipe.steps]
        finished = self._rung(behind[:FINALISTS], 1.0)
        base = self.untreated.scores[0]
        return sorted((n for n in finished if not value(standing[n]) <= base), key=self._preference)

    def _prove(self, finalists: Sequence[Names]) -> bool:
        """Trains finalists from every seed, one after the other, until one is verified."""
        assert self.situation is not None
        assert self.untreated is not None
        kind = next(iter(kinds(self.situation)), "")
        for names in finalists:
            self.ticker.stage(f"proof of {'+'.join(names)}", 2)
            first, others = self._both(names)
            if first is None:
                self.reason = "the time was up before the proof"
                return False
            arm = _arm(first, others)
            gain, reason = judged(self.untreated, arm, kind)
            if arm.steps < self.recipe.steps and not arm.failure:
                self.reason = reason = f"the time was up at step {arm.steps} of {self.recipe.steps}"
            self.proofs[names] = self._trial(names, arm, reason, gain)
            if not reason:
                return True
        return False

    # -- what they are made of ------------------------------------------------------------------------------------

    def _both(self, names: Names) -> tuple[Outcome | None, Outcome | None]:
        """An arm to its end: the first seed under watch, and the others."""
        jobs = [Job(arm=names, seeds=self.seeds[:1], until=self.recipe.steps, watched=True)]
        if self.seeds[1:]:
            jobs.append(Job(arm=names, seeds=self.seeds[1:], until=self.recipe.steps, watched=False))
        ended = {outcome.job: outcome for outcome in self._run(jobs)}
        return ended.get(jobs[0]), ended.get(jobs[-1]) if len(jobs) > 1 else None

    def _run(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
        for outcome in self.executor.run(jobs, self.deadline):
            self._told(outcome)
            yield outcome

    def _told(self, outcome: Outcome) -> None:
        self.work += outcome.seconds
        self.ticker.ended(outcome.job.arm, value(outcome))

    def _rung(self, arms: Sequence[Names], share: float) -> list[Names]:
        if not arms or self.tournament.over:
            return self.tournament.ranked(arms)
        self.ticker.stage(f"{len(arms)} remedies, {round(share * self.recipe.steps)} steps", len(arms))
        return self.tournament.rung(arms, share)

    def _admitted(self, wanted: Iterable[Names], limit: int) -> list[Names]:
        """The first few of the wanted that can be used and were not tried."""
        assert self.situation is not None
        usable, refused = candidates(self.situation, self.remedies, wanted)
        usable = [candidate for candidate in usable if candidate.names not in self.candidates]
        self.refused |= refused
        admitted = usable[:limit] if self.wanted is not None else varied(usable, self.remedies, limit)
        self.candidates |= {candidate.names: candidate for candidate in admitted}
        return [candidate.names for candidate in admitted]

    def _preference(self, names: Names) -> tuple[float, int, bool, float]:
        """Sorts finalists: the best first, but of nearly equal ones the simpler one."""
        assert self.untreated is not None
        standing = self.tournament.standing
        best = max(value(outcome) for outcome in standing.values())
        base = self.untreated.scores[0] if math.isfinite(self.untreated.scores[0]) else 0.0
        behind = best - value(standing[names])
        equal = behind <= EQUAL * abs(best - base)
        changes = any(self.remedies[name].changes_function for name in names)
        return (0.0 if equal else behind, len(names), changes, behind)

    # -- the result -----------------------------------------------------------------------------------------------

    def prescription(self, seconds: float) -> Prescription:
        """What is known by now.

        Raises:
            InputError: if that is nothing.
        """
        if self.untreated is None or self.situation is None:
            raise InputError(f"{self.reason}: give it more time, or fewer steps.")
        trials = [*self.proofs.values(), *(self._unproven(names) for names in self._others())]
        best = next((names for names, trial in self.proofs.items() if trial.verified), None)
        remedy = combined([self.remedies[name] for name in best]) if best else None
        record = PrescriptionRecord(
            diagnosis=self.situation.diagnosis,
            untreated=self.untreated,
            trials=tuple(sorted(trials, key=lambda trial: not trial.verified)),
            best="+".join(best) if best else None,
            refused={"+".join(names): text for names, text in self.refused.items()},
            reason=self.reason,
            steps=self.recipe.steps,
            seeds=len(self.seeds),
            seconds=seconds,
            work=self.work,
        )
        return Prescription(written(record, remedy, self.situation), remedy, self.situation)

    def _others(self) -> list[Names]:
        """The arms without a proof: those that were ahead first, those that failed last."""
        standing = self.tournament.standing
        return sorted((names for names in standing if names not in self.proofs), key=lambda n: -value(standing[n]))

    def _unproven(self, names: Names) -> Trial:
        assert self.untreated is not None
        outcome = self.tournament.standing[names]
        if outcome.failure or value(outcome) == -math.inf:
            reason = outcome.failure or "its score is no number"
        elif outcome.steps < self.recipe.steps:
            reason = f"others were ahead at step {outcome.steps}"
        else:
            reason = "no better than untreated" if value(outcome) <= self.untreated.scores[0] else "another was ahead"
        return self._trial(names, _arm(outcome, None), reason)

    def _trial(self, names: Names, arm: Arm, reason: str, gain: Interval | None = None) -> Trial:
        remedy = combined([self.remedies[name] for name in names])
        return Trial(
            name="+".join(names),
            title=remedy.title,
            remedies=names,
            changes=changes(remedy),
            treated=arm,
            predicted=self.candidates[names].predicted,
            gain=gain,
            verified=gain is not None and not reason,
            reason=reason,
        )


def changes(remedy: Remedy) -> str:
    """What a remedy changes, in words."""
    parts = remedy.parts or (remedy,)
    what = dict.fromkeys(WHERE[part.group] for part in parts)
    return ", ".join(what)


WHERE: Mapping[Group, str] = {
    "data": "inputs and targets", "activation": "activations", "connection": "connections",
    "normalization": "normalization", "initialization": "first weights", "loss": "loss and output",
    "optimization": "steps",
}  # fmt: skip
"""In the table, what the remedies of a group change."""


def _arm(first: Outcome, others: Outcome | None) -> Arm:
    """The trainings of all seeds, as far as all of them came."""
    outcomes = [first] if others is None or not others.steps else [first, others]
    return Arm(
        steps=min(outcome.steps for outcome in outcomes),
        losses=tuple(_level(losses) for outcome in outcomes for losses in outcome.losses),
        scores=tuple(math.nan if s is None else s for outcome in outcomes for s in outcome.scores),
        seconds=sum(outcome.seconds for outcome in outcomes),
        failure=next((outcome.failure for outcome in outcomes if outcome.failure), ""),
        diagnosis=first.facts.diagnosis if first.facts is not None else None,
        gradient=first.gradient,
    )


def late(losses: Sequence[float], steps: int) -> bool:
    """Whether a training went wrong after the first rung only."""
    early, end = _level(losses[: max(1, round(FIRST * steps))]), _level(losses)
    return not end <= early + WORSE * abs(early) and math.isfinite(early)


def _level(losses: Sequence[float]) -> float:
    """The mean of the last tenth."""
    tail = losses[-max(1, len(losses) // 10) :]
    return fmean(tail) if tail else math.nan
