"""Runs the gauntlet and prints its tables.

python -m benchmarks.gauntlet                        # all cases, gradiometer and its peers
python -m benchmarks.gauntlet --half tuned dead -v   # those of a half with "dead" in their name, and what was said
python -m benchmarks.gauntlet --write                # and keeps the tables, dated, in results/
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from pathlib import Path

import torch
from benchmarks.gauntlet import tables
from benchmarks.gauntlet.catalogue import HALVES, entries
from benchmarks.gauntlet.outcome import Result
from benchmarks.gauntlet.running import OURS, run_case
from benchmarks.gauntlet.scoring import outcome, wrong_with
from benchmarks.gauntlet.verify import described, quietly

import gradiometer as gm

RESULTS = Path(__file__).parent / "results"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gauntlet", description="A benchmark of diagnoses.")
    parser.add_argument("patterns", nargs="*", metavar="pattern", help="only cases with one of these in their name")
    parser.add_argument("--half", choices=[*HALVES, "both", "practice"], default="both")
    parser.add_argument("--every", type=int, metavar="N", help="sample every N-th step, not by the default budget")
    parser.add_argument("--peers", action=argparse.BooleanOptionalAction, default=True, help="the peers as well")
    parser.add_argument("--write", action="store_true", help="keep the tables in benchmarks/gauntlet/results/")
    parser.add_argument("-v", "--verbose", action="store_true", help="say all that was found in a failing case")
    parser.add_argument("--processes", type=int, default=2, metavar="N")
    return parser.parse_args()


def _run(names: Sequence[str], options: argparse.Namespace) -> Iterator[tuple[str, list[Result] | str]]:
    """The results of each case in the order of the names, or the error that kept it from being run."""
    os.environ["OMP_NUM_THREADS"] = "1"  # read by the processes as they start
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max(1, options.processes), context, initializer=quietly) as pool:
        waiting = {pool.submit(run_case, name, options.every, options.peers): name for name in names}
        for done in waiting:
            try:
                yield waiting[done], done.result()
            except Exception as error:
                yield waiting[done], described(error)


def _report(result: Result, verbose: bool) -> Iterator[str]:
    """A line for a training that was not read right, and what was said about it."""
    wrong = f"INVALID, {result.invalid}" if result.invalid else wrong_with(result, OURS, ranked=True)
    if not wrong:
        return
    said = outcome(result, OURS)
    expected = " or ".join(result.kinds) or "nothing"
    found = ", ".join(alarm.name for alarm in said.alarms) or "nothing"
    yield f"{result.name} ({result.role}): {wrong}; expected {expected}, found {found}"
    if verbose:
        for alarm in said.alarms:
            yield f"    {alarm.name} at {', '.join(alarm.sites[:3]) or 'no site'}: {alarm.text}"
        if result.sites:
            yield f"    the site must match {result.sites}"
        if result.error or said.crash:
            yield f"    {said.crash or result.error}"


def _document(results: Sequence[Result], halves: Sequence[str]) -> str:
    parts = [tables.summary(results, half) for half in halves]
    if len(halves) > 1:
        parts.append(tables.summary(results, None))
    parts += [tables.by_kind(results, half) for half in halves]
    return "\n\n".join(part for part in (*parts, tables.notes(results)) if part)


def _write(text: str, options: argparse.Namespace, minutes: float) -> Path:
    sampling = "default budget" if options.every is None else f"every {options.every} steps"
    chosen = f", only {' '.join(options.patterns)}" if options.patterns else ""
    head = (
        f"# Gauntlet, {date.today()}\n\n"
        f"gradiometer {gm.__version__} ({sampling}), torch {torch.__version__}, Python {platform.python_version()}, "
        f"{options.processes} processes of one thread, {minutes:.0f} minutes{chosen}.\n\n"
    )
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"gauntlet-{date.today()}.md"
    path.write_text(f"{head}{text}\n", encoding="utf-8")
    return path


def main() -> int:
    """Runs what was asked for; 1 if something makes the figures doubtful."""
    options = _options()
    halves = HALVES if options.half == "both" else (options.half,)
    # What fails in the held-out half is named only to those who ask for that half alone: who tunes does not look.
    blind = options.half == "both"
    start = time.perf_counter()
    found, broken = entries(halves, options.patterns)
    problems = [f"BROKEN {text}" for text in broken]
    results: list[Result] = []
    for name, done in _run([entry.name for entry in found], options):
        if isinstance(done, str):
            problems.append(f"{name} could not be run: {done}")
            continue
        results += done
        for result in done:
            if result.invalid or not (blind and result.half == "held_out"):
                print(*_report(result, options.verbose), sep="\n", end="\n" * any(_report(result, False)), flush=True)
    print(*problems, sep="\n")
    if not results:
        print("no cases")
        return 1
    text = _document(results, halves)
    minutes = (time.perf_counter() - start) / 60
    print(f"\n{text}\n\n{len(found)} cases, {len(results)} trainings, {minutes:.1f} minutes")
    if options.write:
        print(f"written to benchmarks/gauntlet/results/{_write(text, options, minutes).name}")
    doubtful = any(r.invalid or r.differs or outcome(r, OURS).crash for r in results)
    return 1 if problems or doubtful else 0


if __name__ == "__main__":
    sys.exit(main())
