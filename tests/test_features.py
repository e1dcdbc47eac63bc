"""The batch as it enters the model, feature by feature, and what is no batch."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gradiometer as gm
from gradiometer.measures import features
from gradiometer.records import Inputs
from trainings import Net


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))


def by_feature(x: Tensor, dim: int) -> Inputs:
    """Feature by feature in plain Python."""
    columns = [c.double().reshape(-1).tolist() for c in x.unbind(dim)]
    means = [math.fsum(c) / len(c) for c in columns]
    stds = [math.sqrt(math.fsum((v - m) ** 2 for v in c) / len(c)) for c, m in zip(columns, means, strict=True)]
    varying = sorted(s for s in stds if s > 1e-9)
    return Inputs(
        rms=math.sqrt(math.fsum(v * v for c in columns for v in c) / x.numel()),
        offset=math.fsum(m * m for m in means) / math.fsum(s * s for s in stds),
        spread=max(stds) / varying[(len(varying) - 1) // 2],
        feature=stds.index(max(stds)),
        features=len(columns),
    )


def table(*shape: int) -> Tensor:
    return torch.randn(*shape) * torch.logspace(-2, 3, shape[-1]).flip(0) + torch.arange(shape[-1]) * 4


BATCHES: dict[str, tuple[Callable[[], Tensor], int]] = {
    "table": (lambda: table(16, 5), -1),
    "sequence": (lambda: table(6, 7, 4), -1),
    "images": (lambda: table(4, 9, 8, 3).movedim(-1, 1), 1),
    "volumes": (lambda: table(2, 3, 3, 3, 5).movedim(-1, 1), 1),
    "a feature that is the same for all": (lambda: table(16, 5) * torch.tensor([1.0, 1, 0, 1, 1]) + 3, -1),
    "float64": (lambda: table(16, 5).double(), -1),
    "bfloat16": (lambda: table(16, 5).bfloat16(), -1),
    "far off": (lambda: torch.randn(64, 3) + 1e4, -1),
    "with a gradient": (lambda: table(16, 5).requires_grad_(), -1),
    "large": (lambda: table(3000, 40), -1),
    "tiny": (lambda: table(16, 5) * 1e-30, -1),
}


@pytest.mark.parametrize("name", BATCHES)
def test_the_batch_feature_by_feature(name: str) -> None:
    make, dim = BATCHES[name]
    x, found = make(), None
    scale = 1e-30 if name == "tiny" else 1.0
    found = features(x)
    assert found is not None
    expected = by_feature(x.detach().double() / scale, dim)
    values = (float(found.rms) / scale, *(float(v) for v in found[1:]))
    assert values == pytest.approx(tuple(getattr(expected, n) for n in Inputs.__slots__), rel=1e-6)


def seen(net: nn.Module, *args: Any, **kwargs: Any) -> Inputs | None:
    with gm.watch(net, every=1) as watch:
        net(*args, **kwargs).square().mean().backward()
    assert watch.run.notes == ()
    return watch.run.readings[0].inputs


def test_the_first_floating_point_tensor_is_the_batch() -> None:
    x, ids = table(8, 4), torch.arange(8)
    expected = pytest.approx([getattr(by_feature(x, 1), n) for n in Inputs.__slots__], rel=1e-6)

    def values(inputs: Inputs | None) -> list[float]:
        assert inputs is not None
        return [getattr(inputs, n) for n in Inputs.__slots__]

    assert values(seen(network(), x)) == expected
    assert values(seen(network(), input=x)) == expected
    both = Net(lambda m, ids, x: m.fc(x) + m.embed(ids), fc=nn.Linear(4, 3), embed=nn.Embedding(8, 3))
    assert values(seen(both, ids, x)) == expected
    assert values(seen(Net(lambda m, x, y: m.fc(x + y), fc=nn.Linear(4, 3)), x, x * 100)) == expected
    assert values(gm.measure(network(), (x, torch.zeros(8, 2)), F.mse_loss).inputs) == expected


NO_BATCH: dict[str, Callable[[], Inputs | None]] = {
    "integers": lambda: seen(nn.Embedding(8, 3), torch.arange(8)),
    "one example": lambda: seen(network(), table(1, 4)),
    "one image": lambda: seen(nn.Conv2d(3, 2, 1), torch.randn(1, 3, 4, 4)),
    "no dimension of examples": lambda: seen(network(), torch.randn(4)),
    "complex": lambda: seen(Net(lambda m, x: m.fc(x.real), fc=nn.Linear(4, 2)), torch.randn(8, 4).to(torch.complex64)),
    "nan": lambda: seen(network(), torch.full((8, 4), math.nan)),
    "infinite": lambda: seen(network(), torch.full((8, 4), math.inf)),
    "no tensor": lambda: seen(Net(lambda m, x: m.fc(x["x"]), fc=nn.Linear(4, 2)), {"x": torch.randn(8, 4)}),
    "sparse": lambda: seen(Net(lambda m, x: m.fc(x.to_dense()), fc=nn.Linear(4, 2)), torch.eye(4).to_sparse()),
}


@pytest.mark.parametrize("name", NO_BATCH)
def test_what_is_no_batch(name: str) -> None:
    assert NO_BATCH[name]() is None


def test_a_batch_of_zeros_has_no_nan() -> None:
    inputs = seen(network(), torch.zeros(8, 4))
    assert inputs is None or not math.isnan(inputs.offset)
