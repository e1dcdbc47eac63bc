"""How much faster a prescription is than its trials one after the other, on small networks.

    python benchmarks/prescribing.py [--pairs 3] [--seeds 3 8] [--write]

Each pair runs the same prescription twice in this process: with one training after the other, and as it is run by
default, on all cores and with several seeds at once where that pays. What is tried is fixed by ``remedies=``, so that
both do the same work.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import torch

import gradiometer as gm
from gradiometer.remedies.cases.activation import dead_chain, sigmoid_chain
from gradiometer.remedies.cases.initialization import small_relu
from gradiometer.trials.executors import SerialExecutor
from gradiometer.trials.local import LocalExecutor

RECIPES = {
    "sigmoid_chain": (sigmoid_chain, ["relu", "elu", "batch_norm", "he", "adam", "residual"]),
    "dead_chain": (dead_chain, ["leaky_relu", "elu", "bias", "he", "adam", "lower_rate"]),
    "small_relu": (small_relu, ["he", "xavier", "orthogonal", "lsuv", "adam", "batch_norm"]),
}


def seconds(name: str, seeds: int, executor: SerialExecutor | LocalExecutor) -> float:
    """Of one prescription."""
    recipe, remedies = RECIPES[name]
    began = time.perf_counter()
    gm.prescribe(recipe(), remedies=remedies, seeds=seeds, executor=executor, progress=False)
    return time.perf_counter() - began


def main() -> None:
    """Prints a table, and keeps it with ``--write``."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--seeds", type=int, nargs="+", default=[3, 8])
    parser.add_argument("--write", action="store_true")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    rows = ["| recipe | seeds | one after the other, s | as it is run, s | times faster |", "|---|---|---|---|---|"]
    for name in RECIPES:
        for seeds in chosen.seeds:
            pairs = [
                (seconds(name, seeds, SerialExecutor(stacking="never")), seconds(name, seeds, LocalExecutor()))
                for _ in range(chosen.pairs)
            ]
            ratio = statistics.median(a / b for a, b in pairs)
            slow, fast = (statistics.median(column) for column in zip(*pairs, strict=True))
            rows.append(f"| {name} | {seeds} | {slow:.1f} | {fast:.1f} | {ratio:.1f} |")
            print(rows[-1], flush=True)
    if chosen.write:
        day = time.strftime("%Y-%m-%d")
        head = f"# Prescribing, {day}\n\ntorch {torch.__version__}, {LocalExecutor().workers} processes of one thread, "
        text = head + f"median of {chosen.pairs} pairs.\n\n" + "\n".join(rows) + "\n"
        (Path(__file__).parent / "results" / f"prescribing-{day}.md").write_text(text)


if __name__ == "__main__":
    main()
