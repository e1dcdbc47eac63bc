"""What `gm.measure` costs: its time over that of one plain forward and backward pass, and its memory.

    python benchmarks/measure.py             # prints the table
    python benchmarks/measure.py --write     # and keeps it, dated, in benchmarks/results/

Time: pairs in one process, in turn, medians of their ratios. Memory: the highest resident memory of a process that
takes one plain pass and then one measured one, less that of a process that takes plain passes only, over
what one plain pass adds to a process that has only built the network; with 16 times the batch.
"""

import argparse
import platform
import resource
import statistics
import subprocess
import sys
import time

import torch
import torch.nn.functional as F
from overhead import NETWORKS, RESULTS

import gradiometer as gm

AIM = 4.0
LARGER = 16


def plain(model, batch):
    F.cross_entropy(model(batch[0]), batch[1]).backward()
    model.zero_grad()


def pair(network, pairs):
    """Median ratio, quartiles, and the median of a plain pass in milliseconds."""
    torch.manual_seed(0)
    model, batches = NETWORKS[network]()
    batch = batches()
    plain(model, batch)
    gm.measure(model, batch, F.cross_entropy)
    ratios, bare = [], []
    for i in range(pairs):
        took = {}
        for which in (0, 1) if i % 2 else (1, 0):
            start = time.perf_counter()
            if which:
                gm.measure(model, batch, F.cross_entropy)
            else:
                plain(model, batch)
            took[which] = time.perf_counter() - start
        ratios.append(took[1] / took[0])
        bare.append(took[0])
    quartiles = statistics.quantiles(ratios, n=4)
    return statistics.median(ratios), quartiles[0], quartiles[2], 1e3 * statistics.median(bare)


def highest(network, what):
    """The highest resident memory of a process, in MiB."""
    torch.manual_seed(0)
    model, batches = NETWORKS[network]()
    # Batches are made larger, so that what a pass takes shows above what importing torch takes.
    batch = [torch.cat([x] * LARGER) for x in batches()]
    if what != "nothing":
        plain(model, batch)
        plain(model, batch)
    if what == "measure":
        gm.measure(model, batch, F.cross_entropy)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def memory(network):
    """What a measured pass adds to a process that has taken plain ones, and what a plain one adds, in MiB."""
    peaks = {}
    for what in ("nothing", "plain", "measure"):
        command = [sys.executable, __file__, "--memory", network, what]
        runs = [float(subprocess.run(command, capture_output=True, text=True, check=True).stdout) for _ in range(3)]
        peaks[what] = statistics.median(runs)
    return peaks["measure"] - peaks["plain"], peaks["plain"] - peaks["nothing"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=30)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--write", action="store_true", help="keep the table in benchmarks/results/")
    parser.add_argument("--memory", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.memory:
        print(highest(*arguments.memory))
        return
    date = time.strftime("%Y-%m-%d")
    lines = [
        f"# Cost of measure, {date}",
        "",
        f"gradiometer {gm.__version__}, torch {torch.__version__}, Python {platform.python_version()}, "
        f"{arguments.threads} threads on a shared {platform.machine()} machine, {arguments.pairs} pairs. "
        f"Aim: {AIM:g} times a plain pass for the mlp, and the memory of one more step.",
        "",
        "| network | plain pass (ms) | ratio | quartiles | a plain pass adds (MiB) | measure adds to that (MiB) |",
        "|---|---|---|---|---|---|",
    ]
    for network in NETWORKS:
        ratio, low, high, bare = pair(network, arguments.pairs)
        more, one = memory(network)
        lines.append(f"| {network} | {bare:.1f} | {ratio:.2f} | {low:.2f} .. {high:.2f} | {one:.0f} | {more:.0f} |")
        print(lines[-1], flush=True)
    text = "\n".join(lines) + "\n"
    if arguments.write:
        (RESULTS / f"measure-{date}.md").write_text(text)
    else:
        print(text)


if __name__ == "__main__":
    main()
