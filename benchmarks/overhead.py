"""What watching costs: step time under watch over step time without, pair by pair in one process.

    python benchmarks/overhead.py                       # all networks and settings, prints the table
    python benchmarks/overhead.py --write               # and keeps it, dated, in benchmarks/results/

Two copies of a network train in turn on the same batches, one of them watched; which goes first changes from pair to
pair. The ratio of one pair is free of whatever else the machine does at that time. Two figures are quoted: the median
of the ratios (what a usual step costs) and the total time of all watched steps over that of all bare ones (what the
training costs, rare expensive steps included).
"""

import argparse
import copy
import platform
import statistics
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

import gradiometer as gm

RESULTS = Path(__file__).parent / "results"


def mlp():
    """50 layers of width 256, batches of 128."""
    layers = []
    for _ in range(50):
        layers += [nn.Linear(256, 256), nn.ReLU()]
        nn.init.kaiming_normal_(layers[-2].weight, nonlinearity="relu")
    model = nn.Sequential(*layers, nn.Linear(256, 10))
    return model, lambda: (torch.randn(128, 256), torch.randint(0, 10, (128,)))


class Residual(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        stride = 1 if inputs == outputs else 2
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)
        self.skip = nn.Identity()
        if stride > 1:
            self.skip = nn.Sequential(nn.Conv2d(inputs, outputs, 1, 2, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x):
        h = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(h)) + self.skip(x))


def cnn():
    """A stem and six residual blocks on images of 32 x 32, batches of 32."""
    widths = [16, 16, 16, 32, 32, 64, 64]
    blocks = [Residual(a, b) for a, b in pairwise(widths)]
    stem = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    model = nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
    return model, lambda: (torch.randn(32, 3, 32, 32), torch.randint(0, 10, (32,)))


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x_BTD):
        B, T, D = x_BTD.shape
        q, k, v = self.qkv(self.norm1(x_BTD)).view(B, T, 3, self.heads, D // self.heads).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(B, T, D)
        x_BTD = x_BTD + self.proj(mixed)
        return x_BTD + self.down(F.gelu(self.up(self.norm2(x_BTD))))


class GPT(nn.Module):
    def __init__(self, words=512, width=256, depth=6, length=128):
        super().__init__()
        self.words, self.places = nn.Embedding(words, width), nn.Embedding(length, width)
        self.blocks = nn.ModuleList(Block(width, 8) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, words, bias=False)

    def forward(self, tokens):
        x = self.words(tokens) + self.places(torch.arange(tokens.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)).flatten(0, 1)


def gpt():
    """6 blocks of width 256, 8 sequences of 128 tokens."""
    return GPT(), lambda: (torch.randint(0, 512, (8, 128)), torch.randint(0, 512, (1024,)))


NETWORKS = {"mlp": mlp, "cnn": cnn, "gpt": gpt}
SETTINGS = {
    "bare against bare": None,
    "parameters, every step": {"every": 1, "level": "parameters"},
    "full, every step": {"every": 1, "level": "full"},
    "default budget": {},
}
AIMS = {"parameters, every step": (1.05,) * 3, "full, every step": (1.4, 1.3, 1.2), "default budget": (1.01,) * 3}


def step(model, optimizer, batch):
    start = time.perf_counter()
    x, y = batch
    F.cross_entropy(model(x), y).backward()
    optimizer.step()
    optimizer.zero_grad()
    return time.perf_counter() - start


def measure(network, setting, pairs, warm):
    """Median ratio, its quartiles, and the ratio of the totals."""
    torch.manual_seed(0)
    bare, batches = NETWORKS[network]()
    watched = copy.deepcopy(bare)
    optimizers = [torch.optim.AdamW(m.parameters(), lr=1e-4) for m in (bare, watched)]
    times = ([], [])
    with tempfile.TemporaryDirectory() as folder:
        options = SETTINGS[setting]
        watch = None
        if options is not None:
            watch = gm.watch(watched, optimizers[1], path=Path(folder) / "run.sqlite", **options)
            watch.__enter__()
        for i in range(warm + pairs):
            batch = batches()
            pair = {}
            for which in (0, 1) if i % 2 else (1, 0):
                pair[which] = step((bare, watched)[which], optimizers[which], batch)
            if i >= warm:
                times[0].append(pair[0])
                times[1].append(pair[1])
        if watch is not None:
            watch.close()
    ratios = sorted(b / a for a, b in zip(*times, strict=True))
    quartiles = statistics.quantiles(ratios, n=4)
    return (
        statistics.median(ratios),
        quartiles[0],
        quartiles[2],
        sum(times[1]) / sum(times[0]),
        statistics.median(times[0]),
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--pairs", type=int, default=60)
    parser.add_argument("--warm", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--write", action="store_true", help="keep the table in benchmarks/results/")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    date = time.strftime("%Y-%m-%d")
    lines = [
        f"# Overhead of watching, {date}",
        "",
        f"gradiometer {gm.__version__}, torch {torch.__version__}, Python {platform.python_version()}, "
        f"{arguments.threads} threads on a shared {platform.machine()} machine, {arguments.pairs} pairs.",
        "",
        "| network | bare step (ms) | setting | median ratio | quartiles | total | aim |",
        "|---|---|---|---|---|---|---|",
    ]
    print("\n".join(lines), flush=True)
    for place, network in enumerate(NETWORKS):
        if network not in arguments.networks.split(","):
            continue
        for setting in SETTINGS:
            median, low, high, total, bare = measure(network, setting, arguments.pairs, arguments.warm)
            aim = f"{AIMS[setting][place]:.2f}" if setting in AIMS else ""
            row = (
                network,
                f"{bare * 1e3:.0f}",
                setting,
                f"{median:.3f}",
                f"{low:.2f} to {high:.2f}",
                f"{total:.3f}",
                aim,
            )
            lines.append("| " + " | ".join(row) + " |")
            print(lines[-1], flush=True)
    if arguments.write:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"overhead-{date}.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
