"""One prescription on its way: examination, tournament, proof."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from operator import gt

from gradiometer.errors import InputError
from gradiometer.records import Arm, Interval, PrescriptionRecord, Trial
from gradiometer.remedies.base import Remedy, Situation
from gradiometer.remedies.choice import Candidate, Names, candidates, further, kinds, named, plans, specific, varied
from gradiometer.remedies.combination import combined
from gradiometer.remedies.recipe import Recipe
from gradiometer.trials.account import arm, changes, late
from gradiometer.trials.examination import birth
from gradiometer.trials.executors import Executor
from gradiometer.trials.prescription import Prescription, written
from gradiometer.trials.progress import Ticker
from gradiometer.trials.tournament import FIRST, SECOND, Tournament, value
from gradiometer.trials.verdict import NOISY, Complaint, judged
from gradiometer.trials.worker import Job, Outcome

WIDE = 9
"""Candidates of a round. Nine, for a tenth of the steps each, cost a little less than one training."""

FEW = 5
"""Candidates where a training goes wrong late, so that a tenth of the steps tells nothing."""

THROUGH = 3
"""Candidates that are trained on to the second rung."""

KEPT = 2
"""Specific remedies that are trained on to the second rung however they stand after the first."""

FURTHER = 6
"""Combinations of the second round."""

FINALISTS = 2
"""Arms that are trained to the end on the first seed."""

ROUNDS = 3
"""How often further candidates are tried, if none of the finalists is verified."""

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
        """``wanted`` are the only ones to try, ``None`` leaves the choice to the cause.

        Seed 0 is that of the examination and the choice, those from 1 on are the proof's: an arm that was chosen
        because it was good on one seed is judged on others.
        """
        self.recipe, self.remedies, self.wanted = recipe, remedies, wanted
        self.seeds, self.deadline, self.executor, self.ticker = range(1, seeds + 1), deadline, executor, ticker
        self.reason, self.cut_short = "", False
        self.situation: Situation | None = None
        self.candidates: dict[Names, Candidate] = {}
        self.refused: dict[Names, str] = {}
        self.objections: dict[str, str | None] = {}
        self.tournament = Tournament(executor, recipe.steps, deadline, self._told)
        self.proofs: dict[Names, Trial] = {}
        self.besides: list[Job] = []
        self._asked_more = False
        self.work = 0.0

    # -- its parts ------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Examination, tournament, proof."""
        self._examine()
        if self.reason:
            return
        for _ in range(ROUNDS):
            self._compete(self._next())
            if self._prove(self._finish()) or self.reason:
                return
            if self.tournament.over:
                self._end("the time was up before a remedy was proven")
                return
        better = [trial for trial in self.proofs.values() if trial.gain is not None and trial.gain.mean > 0]
        if better:
            self.reason = f"nothing is verified: {better[0].name} is {better[0].reason}"
        else:
            self.reason = "nothing that was tried beat the untreated training"

    def _end(self, reason: str) -> None:
        """Says why the search is cut short."""
        self.reason, self.cut_short = reason, True

    def _examine(self) -> None:
        """The untreated recipe under watch, and from one more seed; the other seeds can wait."""
        jobs = [Job((), (0,), self.recipe.steps, watched=True), Job((), (1,), self.recipe.steps)]
        self.besides = self.tournament.to_the_end((), self.seeds[1:])
        self.ticker.stage("untreated", len(jobs))
        self.tournament.run(jobs)
        first = self.tournament.ended[()][0]
        if first.facts is None:
            self._end(first.failure or "the time was up before the untreated training had begun")
            return
        found = replace(first.facts, birth=birth(self.recipe))
        self.situation = found.situation(self.recipe)
        self.executor.tell(found)
        if first.steps < self.recipe.steps and not first.failure:
            self._end(f"the time was up at step {first.steps} of the untreated training")
        elif found.diagnosis.healthy and not found.stands:
            self.reason = "healthy: there is nothing to prescribe"
        elif found.diagnosis.healthy is None and not first.failure:
            self.reason = f"cannot say what ails it: {found.diagnosis.reason}"

    def _next(self) -> list[Names]:
        """The next candidates: those that were asked for, or of the plans, or else what says that it treats this."""
        if self.wanted is not None:
            return self._admitted(self.wanted)
        situation = self._situation
        return self._admitted(plans(situation), WIDE) or self._admitted(named(situation, self.remedies), WIDE)

    def _compete(self, admitted: list[Names]) -> None:
        """Trains candidates, and then combinations of the best of them, for a part of the steps."""
        one = self.untreated.seconds / max(1, len(self.untreated.scores))
        rounds = math.ceil(len(self.seeds) / self.executor.workers)
        self.tournament.deadline = self.deadline - SLOWER * one * rounds
        if self.wanted is not None:
            self._rung(admitted, SECOND)
            return
        if late(self._situation.losses, self.recipe.steps):
            field = self._rung(admitted[:FEW], SECOND)
        else:
            first = self._rung(admitted, FIRST)
            kept = [names for names in first[THROUGH:] if specific(names)]
            field = self._rung([*first[:THROUGH], *kept[:KEPT]], SECOND)
        if field:
            second = self._rung(self._admitted(further(field, self.remedies), FURTHER), FIRST)
            self._rung(second[:FINALISTS], SECOND)

    def _finish(self) -> list[Names]:
        """Trains the best that are not at the end yet to the end; those that beat the untreated arm, the best first.

        They begin anew, under watch from the first step on, since only then can it be said whether the finding is gone.
        """
        standing, base = self.tournament.standing, value(self.tournament.ended[()][0])
        behind = [names for names in self.tournament.ranked(standing) if names not in self.tournament.ended]
        finalists = behind[:FINALISTS]
        finalists += [names for names in behind[FINALISTS:] if specific(names)][:1]
        if not finalists or self.tournament.over:
            return []
        self.ticker.stage("to the end: " + ", ".join("+".join(names) for names in finalists), len(finalists))
        self.tournament.run([Job(names, (0,), self.recipe.steps, watched=True) for names in finalists])
        better = [names for names in self.tournament.ranked(finalists) if not value(standing[names]) <= base]
        return sorted(better, key=self._preference)

    def _prove(self, finalists: Iterable[Names]) -> bool:
        """Trains finalists from the other seeds, one after the other, until one is verified."""
        for names in finalists:
            self._train(names, self.seeds)
            gain, reason = self._judged(names)
            if (
                reason == NOISY
                and all(map(gt, self._arm(names).scores, self.untreated.scores))
                and not self._asked_more
            ):
                # Better from every seed, and too few of them to be sure: as many again, for both.
                more = range(len(self.seeds) + 1, 2 * len(self.seeds) + 1)
                self.seeds = range(1, more.stop)
                self.besides = self.tournament.to_the_end((), more)
                self._asked_more = True
                self._train(names, more)
                gain, reason = self._judged(names)
            treated, untreated = self._arm(names), self.untreated
            if any(self._cut(one) for one in (treated, untreated)):
                gain, reason = None, "the time was up before the proof had ended"
                self._end(reason)
            self.proofs[names] = self._trial(names, treated, reason, gain)
            if not reason or self.reason:
                return not reason
        return False

    def _train(self, names: Names, seeds: range) -> None:
        """An arm from the seeds of the proof, and what is still to be done of the untreated one."""
        jobs = [*self.tournament.to_the_end(names, seeds), *self.besides]
        self.besides = []
        self.ticker.stage(f"proof of {'+'.join(names)}", len(jobs))
        self.tournament.run(jobs, self.deadline)

    def _judged(self, names: Names) -> tuple[Interval | None, str]:
        tried = len(self.proofs) + 1 + self._asked_more
        return judged(self.untreated, self._arm(names), Complaint(next(iter(kinds(self._situation)), "")), tried)

    def _cut(self, one: Arm) -> bool:
        """Whether the time was up before all trainings of an arm had ended."""
        return not one.failure and (len(one.scores) < len(self.seeds) or one.steps < self.recipe.steps)

    # -- what they are made of ------------------------------------------------------------------------------------

    @property
    def untreated(self) -> Arm:
        """What is known of the untreated arm by now."""
        return self._arm(())

    def _arm(self, names: Names) -> Arm:
        """All that is known of an arm: the trainings of the proof, and what the first seed's told under watch."""
        return arm(self.tournament.ended.get(names, {}))

    @property
    def _situation(self) -> Situation:
        assert self.situation is not None, "remedies are chosen after the examination"
        return self.situation

    def _told(self, outcome: Outcome) -> None:
        self.work += outcome.seconds
        self.ticker.ended(outcome.job.arm, value(outcome), (job.arm for job in self.executor.running))

    def _rung(self, arms: list[Names], share: float) -> list[Names]:
        if not arms or self.tournament.over:
            return self.tournament.ranked(arms)
        besides, self.besides = self.besides, []
        self.ticker.stage(f"{len(arms)} remedies, {round(share * self.recipe.steps)} steps", len(arms) + len(besides))
        return self.tournament.rung(arms, share, besides, self.deadline)

    def _admitted(self, wanted: Iterable[Names], limit: int | None = None) -> list[Names]:
        """The first few of the wanted that can be used and were not tried; all of those that were asked for."""
        usable, refused = candidates(self._situation, self.remedies, wanted, self.objections)
        new = [candidate for candidate in usable if candidate.names not in self.candidates]
        self.refused |= refused
        admitted = new if limit is None else varied(new, self.remedies, limit)
        self.candidates |= {candidate.names: candidate for candidate in admitted}
        return [candidate.names for candidate in admitted]

    def _preference(self, names: Names) -> tuple[float, int, bool, float]:
        """Sorts finalists: the best first, but of nearly equal ones the simpler one."""
        ended = [one[0] for one in self.tournament.ended.values()]
        best, base = max(map(value, ended)), max(value(self.tournament.ended[()][0]), -1e30)
        behind = best - value(self.tournament.standing[names])
        equal = behind <= EQUAL * abs(best - base)
        changed = any(self.remedies[name].changes_function for name in names)
        return (0.0 if equal else behind, len(names), changed, behind)

    # -- the result -----------------------------------------------------------------------------------------------

    def prescription(self, seconds: float) -> Prescription:
        """What is known by now.

        Raises:
            InputError: if that is nothing.
        """
        if self.situation is None:
            raise InputError(f"nothing is known yet: {self.reason}.")
        trials = [*self.proofs.values(), *(self._unproven(names) for names in self._others())]
        best = next((names for names, trial in self.proofs.items() if trial.verified), None)
        remedy = combined([self.remedies[name] for name in best]) if best else None
        record = PrescriptionRecord(
            diagnosis=self.situation.diagnosis,
            untreated=self.untreated,
            trials=tuple(sorted(trials, key=lambda trial: not trial.verified)),
            best=remedy.name if remedy is not None else None,
            refused={"+".join(names): text for names, text in self.refused.items()},
            reason=self.reason,
            cut_short=self.cut_short,
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
        outcome = self.tournament.standing[names]
        if outcome.failure or value(outcome) == -math.inf:
            reason = outcome.failure or "its score is no number"
        elif outcome.steps < self.recipe.steps:
            reason = f"behind at step {outcome.steps}"
        else:
            base = value(self.tournament.ended[()][0])
            reason = "no better than untreated" if value(outcome) <= base else "behind, or less simple, at the end"
        return self._trial(names, arm({0: outcome}), reason)

    def _trial(self, names: Names, treated: Arm, reason: str, gain: Interval | None = None) -> Trial:
        remedy = combined([self.remedies[name] for name in names])
        return Trial(
            name="+".join(names),
            title=remedy.title,
            remedies=names,
            changes=changes(remedy),
            treated=treated,
            predicted=self.candidates[names].predicted,
            gain=gain,
            verified=gain is not None and not reason,
            reason=reason,
        )
