"""How many sick recipes are repaired, and what that costs.

python -m benchmarks.cures                              # everything, from the root of the repository
python -m benchmarks.cures --half tuned lstm -v         # cases of one half with "lstm" in their name, one a line
python -m benchmarks.cures --write                      # keeps the tables in results/, dated
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from benchmarks.cures.catalogue import HALVES, entries
from benchmarks.cures.scoring import Score, score, twin_of
from benchmarks.cures.verify import quietly

import gradiometer as gm
from gradiometer.trials.executors import cores


def line(one: Score) -> str:
    """A case in a line."""
    state = {True: "repaired", False: "NOT REPAIRED", None: "healthy" if one.cure is None else "PRESCRIBED"}[
        one.repaired
    ]
    scores = (statistics.mean(values) if values else float("nan") for values in (one.untreated, one.cured, one.twin))
    figures = "{:5.2f} -> {:5.2f} (twin {:.2f})".format(*scores)
    found = one.found[0] if one.found else "-"
    cure = one.cure or one.reason
    return f"{one.name:<56} {state:<12} {figures}  {one.cost:4.1f}x {one.seconds:5.1f} s  {found}: {cure}"


def table(half: str, scores: Sequence[Score]) -> list[str]:
    """The figures of a half, as Markdown."""
    sick = [one for one in scores if one.kinds]
    healthy = [one for one in scores if not one.kinds]
    repaired = sum(bool(one.repaired) for one in sick)
    cures = sum(one.cure is not None for one in sick)
    rows = {
        "repaired: the score of the healthy twin within its noise": f"{repaired} of {len(sick)}",
        "a verified cure: better than untreated beyond the noise": f"{cures} of {len(sick)}",
        "prescribed to healthy recipes": f"{sum(one.cure is not None for one in healthy)} of {len(healthy)}",
    }
    if sick:
        costs = sorted(one.cost for one in sick)
        rows["share repaired"] = f"{repaired / len(sick):.1%}"
        rows["cost over one untreated training, median"] = f"{statistics.median(costs):.1f}"
        rows["the same, nine tenths lie below"] = f"{costs[int(0.9 * len(costs))]:.1f}"
        rows["seconds of a prescription, median"] = f"{statistics.median(one.seconds for one in sick):.1f}"
    head = f"### {half}: {len(sick)} sick, {len(healthy)} healthy"
    return [head, "", "| figure | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items()), ""]


def main(arguments: list[str]) -> int:
    """Prints the tables; with -v a line a case of the tuned half (what is held out is not looked at)."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cures", description=__doc__)
    parser.add_argument("--half", choices=HALVES, action="append", help="both if not given")
    parser.add_argument("--write", action="store_true", help="keeps the tables in results/, dated")
    parser.add_argument("-v", dest="verbose", action="store_true", help="a line for each case")
    parser.add_argument("patterns", nargs="*", help="part of a case's name, or a glob")
    chosen = parser.parse_args(arguments)
    quietly()
    found, broken = entries(chosen.half or HALVES, chosen.patterns)
    if broken:
        print("\n".join(broken))
        return 1
    began = time.monotonic()
    scores: dict[str, list[Score]] = {}
    for entry in found:
        one = score(entry.name, entry.case, twin_of(entry.case))
        scores.setdefault(entry.half, []).append(one)
        if chosen.verbose and entry.half == "tuned":
            print(line(one), flush=True)
    minutes = (time.monotonic() - began) / 60
    versions = f"gradiometer {gm.__version__}, torch {torch.__version__}"
    head = f"{versions}, {cores()} processes of one thread, {minutes:.0f} minutes."
    text = "\n".join([head, "", *(row for half, ones in scores.items() for row in table(half, ones))])
    print(text)
    if chosen.write:
        place = Path(__file__).parent / "results" / f"cures-{time.strftime('%Y-%m-%d')}.md"
        place.parent.mkdir(exist_ok=True)
        place.write_text(f"# Cures, {time.strftime('%Y-%m-%d')}\n\n{text}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
