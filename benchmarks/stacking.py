"""What training several seeds at once takes, over training them one after the other.

    python benchmarks/stacking.py             # prints the table
    python benchmarks/stacking.py --write     # and keeps it, dated, in benchmarks/results/

Fully connected networks on images of digits, batches of 32. Both ways in one process, a few steps in turn; medians of
the ratios. Below 1 at once is faster; a worker finds that out by itself, in the first steps of every arm.
"""

import argparse
import platform
import statistics
import time

import torch
import torch.nn.functional as F
from overhead import RESULTS

import gradiometer as gm
from gradiometer.datasets import digits
from gradiometer.networks import mlp
from gradiometer.trials.together import Together
from gradiometer.trials.training import Training

WIDTHS = (16, 32, 64, 128, 256, 512)
DEPTHS = (4, 10, 30)
SEEDS = (3, 8)
OPTIMIZERS = {
    "SGD": lambda parameters: torch.optim.SGD(parameters, lr=0.01),
    "Adam": lambda parameters: torch.optim.Adam(parameters, lr=1e-3),
}
DATA = digits()


def batches(seed):
    order = torch.Generator().manual_seed(seed)
    while True:
        picked = torch.randint(len(DATA.train_inputs), (32,), generator=order)
        yield DATA.train_inputs[picked], DATA.train_targets[picked]


def ratio(width, depth, seeds, optimizer, pairs, steps):
    """Median ratio, quartiles, and the median of a step of all seeds one after the other in milliseconds."""
    recipe = gm.Recipe(lambda: mlp(64, width, depth, 10), OPTIMIZERS[optimizer], F.cross_entropy, batches)
    apart = [Training(recipe, seed) for seed in range(seeds)]
    together = Together(recipe, apart)
    until, ratios, bare = 0, [], []
    for pair in range(-1, pairs):  # the first one finds caches empty
        until += steps
        took = [0.0, 0.0]
        for which in (0, 1) if pair % 2 else (1, 0):
            began = time.perf_counter()
            for training in (together,) if which else apart:
                training.advance(until)
            took[which] = time.perf_counter() - began
        if pair >= 0:
            ratios.append(took[1] / took[0])
            bare.append(took[0] / steps)
    low, _, high = statistics.quantiles(ratios, n=4)
    return statistics.median(ratios), low, high, 1e3 * statistics.median(bare)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--write", action="store_true", help="keep the table in benchmarks/results/")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    date = time.strftime("%Y-%m-%d")
    lines = [
        f"# Several seeds at once, {date}",
        "",
        f"gradiometer {gm.__version__}, torch {torch.__version__}, Python {platform.python_version()}, one thread on a "
        f"shared {platform.machine()} machine, {arguments.pairs} pairs of 4 steps, batches of 32. Seconds at once over "
        "seconds one after the other: median and quartiles; in brackets a step of all seeds one after the other.",
        "",
        "| seeds | depth | width | SGD | Adam |",
        "|---|---|---|---|---|",
    ]
    for seeds in SEEDS:
        for depth in DEPTHS:
            for width in WIDTHS:
                cells = []
                for optimizer in OPTIMIZERS:
                    middle, low, high, bare = ratio(width, depth, seeds, optimizer, arguments.pairs, 4)
                    cells.append(f"{middle:.2f} ({low:.2f} .. {high:.2f}) [{bare:.1f} ms]")
                lines.append(f"| {seeds} | {depth} | {width} | {' | '.join(cells)} |")
                print(lines[-1], flush=True)
    text = "\n".join(lines) + "\n"
    if arguments.write:
        (RESULTS / f"stacking-{date}.md").write_text(text)
    else:
        print(text)


if __name__ == "__main__":
    main()
