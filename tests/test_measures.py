"""Every measure against a slow oracle in float64."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gradiometer import measures
from gradiometer.measures import UpdateMeter, moments, peaks, resolve, saturated, unit_norms, zeros
from gradiometer.measures.activation import SAMPLE
from gradiometer.measures.magnitude import _careful
from gradiometer.measures.sampling import BLOCKS, spread

EPS = {torch.float16: 1e-3, torch.bfloat16: 1e-2, torch.float32: 2e-6, torch.float64: 1e-12, torch.complex64: 2e-6}
DTYPES = list(EPS)
LAYOUTS = {
    "contiguous": lambda x: x,
    "transposed": lambda x: x.transpose(1, 3),
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "expanded": lambda x: x[:, :1].expand(-1, 5, -1, -1),
    "sliced": lambda x: x[1:, 1:, 2:, 1::2],
    "flipped": lambda x: x.flip(3).movedim(0, 2),
    "vector": lambda x: x.reshape(-1)[3:],
    "scalar": lambda x: x[1, 0, 2, 3],
}
INF, NAN = math.inf, math.nan


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def normal(shape: tuple[int, ...], dtype: torch.dtype, scale: float = 1.0) -> Tensor:
    return (torch.randn(shape, dtype=torch.complex128 if dtype.is_complex else torch.float64) * scale).to(dtype)


def oracle(x: Tensor) -> tuple[float, ...]:
    values = [complex(v) for v in x.reshape(-1).tolist()]
    finite = [v for v in values if math.isfinite(v.real) and math.isfinite(v.imag)]
    return (
        len(values),
        math.fsum(abs(v) ** 2 for v in finite),
        math.fsum(v.real for v in finite),
        len(values) - len(finite),
        0 if x.is_complex() else sum(v.real == -INF for v in values),
    )


def check(x: Tensor) -> None:
    count, squares, total, nonfinite, masked = oracle(x)
    scale = math.sqrt(squares * max(count, 1))  # what a sum of this many of this size can be off by
    for m in (moments(x), _careful(x)):
        got = [float(v) for v in m]
        assert (got[0], got[3], got[4]) == (count, nonfinite, masked)
        assert got[1] == pytest.approx(squares, rel=EPS.get(x.dtype, 1e-2), abs=0)
        assert got[2] == pytest.approx(total, abs=scale * EPS.get(x.dtype, 1e-2) + 1e-300)
    assert moments(x, total=False)[1:2] + moments(x, total=False)[3:] == moments(x)[1:2] + moments(x)[3:]
    assert all(isinstance(v, float) for v in moments(x)[1:])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_moments_of_every_layout(dtype, layout):
    x = LAYOUTS[layout](normal((4, 5, 6, 7), dtype))
    check(x)
    y = x.clone(memory_format=torch.preserve_format) if layout != "scalar" else x.reshape(1).expand(3).clone()
    flat = y.view(-1) if y.is_contiguous() else y[(0,) * (y.dim() - 1)]
    for bad in (NAN, INF, -INF):
        flat[: max(1, len(flat) // 5)] = bad
        flat[-1] = NAN
        check(y)
    check(torch.full_like(y, -INF) if not dtype.is_complex else torch.full_like(y, NAN))
    check(torch.zeros_like(y))


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e-6, 1.0, 1e20, 1e30])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64, torch.complex64], ids=str)
def test_no_square_is_lost(dtype, scale):
    x = (torch.randn(999) * scale).to(dtype)
    for y in (x, x.expand(3, -1), torch.cat([x, torch.tensor([NAN, INF], dtype=dtype)])):
        check(y)
    assert math.sqrt(moments(x).squares / 999) == pytest.approx(scale, rel=0.1)


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0, 2)])
def test_moments_of_nothing(shape):
    assert tuple(moments(torch.empty(shape))) == (0, 0, 0, 0, 0)
    assert [float(v) for v in _careful(torch.empty(shape))] == [0] * 5


@pytest.mark.parametrize("x", [torch.arange(5), torch.tensor([True, False]), torch.ones(3).to(torch.float8_e4m3fn)])
def test_moments_of_rare_types(x):
    check(x.float() if x.element_size() == 1 else x)
    assert list(moments(x)) == pytest.approx(list(moments(x.float())))
    assert zeros(x) == zeros(x.float())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_moments_of_many_elements(dtype):
    x = torch.full((5_000_000,), 1.1).to(dtype)  # all squares rounded the same way: the worst case
    expected = 5_000_000 * x[0].item() ** 2
    for y in (x, x.view(5000, 1000).t(), x.view(1, -1), x.view(1, 5000, 1000).mT):
        assert moments(y).squares == pytest.approx(expected, rel=1e-3)
        assert moments(y).total == pytest.approx(5_000_000 * x[0].item(), rel=1e-5)


def test_conjugate_and_graph_are_left_alone():
    x = torch.randn(4, dtype=torch.complex64, requires_grad=True)
    y = x.conj() * 2
    assert moments(y).squares == pytest.approx(moments(x).squares * 4)
    assert y.grad_fn is not None
    y.abs().sum().backward()


def test_resolve_mixes_types():
    values = [1.5, torch.tensor(2), torch.tensor(3.0).double(), torch.tensor(0.5).bfloat16()]
    values += [torch.tensor(True), torch.tensor(7.0, requires_grad=True), 4, torch.tensor(NAN)]
    got = resolve(values)
    assert got[:-1] == [1.5, 2.0, 3.0, 0.5, 1.0, 7.0, 4.0]
    assert math.isnan(got[-1])
    assert all(type(v) is float for v in got)
    assert resolve([]) == []


# -- activations --------------------------------------------------------------------------------------------------

FUNCTIONS = {f.__name__: f for f in (torch.sigmoid, torch.tanh, F.softsign, F.hardsigmoid, F.hardtanh)}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_saturation_is_a_small_derivative(name):
    z = (torch.randn(37, 41, dtype=torch.float64) * 8).requires_grad_()
    y = FUNCTIONS[name](z)
    (slope,) = torch.autograd.grad(y.sum(), z)
    steepest = torch.linspace(-20, 20, 4001, requires_grad=True)
    (slopes,) = torch.autograd.grad(FUNCTIONS[name](steepest).sum(), steepest)
    expected = (slope.abs() < 0.01 * slopes.max()).double().mean().item()
    assert 0.01 < expected < 0.99
    assert measures.can_saturate(name)
    assert saturated(name, y) == pytest.approx(expected, abs=1e-6)
    assert saturated(name, FUNCTIONS[name](torch.linspace(-0.5, 0.5, 11))) == 0


@pytest.mark.parametrize(
    ("z", "low", "high", "expected"),
    [
        ([-3, -2, 0.5, 0.1], -1, 1, 0.5), ([9, 8, 7, 0.1], -1, 6, 0.75), ([-9, 8, -7, 9], -0.5, 0.5, 1),
        ([0, 0, 0.5, 0.1], -1, 1, 0), ([0, 0, 0, 0], -1, 1, 0), ([2, 2, 2, 2], -1, 1, 1),
    ],
)  # fmt: skip
def test_saturation_of_hardtanh_with_any_bounds(z, low, high, expected):
    assert saturated("hardtanh", F.hardtanh(torch.tensor(z, dtype=torch.float32), low, high)) == expected


@pytest.mark.parametrize("dim", [-1, 1, 0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_saturation_of_softmax_along_any_dimension(dim, dtype):
    z = torch.randn(12, 7, 9) * 6
    y = torch.softmax(z, dim).to(dtype)
    expected = (y > 0.9975).any(dim).float().mean().item()
    assert 0.02 < expected < 0.9
    assert saturated("softmax", y) == pytest.approx(expected, rel=0.02)
    assert saturated("softmax", torch.softmax(z * 0.01, dim)) == 0
    y[0, 0, 0] = NAN
    assert 0 < saturated("softmax", y) < 1


def test_what_can_saturate_or_die():
    assert measures.can_saturate("softmax")
    assert not any(measures.can_saturate(name) for name in ("relu", "gelu", "linear", ""))
    assert measures.can_die("relu")
    assert measures.can_die("gelu")  # exactly zero far enough below, where erf is -1 to the last bit
    assert not any(measures.can_die(name) for name in ("leaky_relu", "sigmoid"))
    with pytest.raises(KeyError):
        saturated("relu", torch.ones(3))


@pytest.mark.parametrize("layout", [k for k in LAYOUTS if k != "scalar"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_zeros(dtype, layout):
    x = LAYOUTS[layout]((torch.randn(4, 5, 6, 7).relu() * -1).to(dtype))  # minus zero is zero
    expected = [v == 0 for v in x.reshape(-1).tolist()]
    assert zeros(x) == pytest.approx(sum(expected) / len(expected), abs=1e-6)
    assert zeros(torch.tensor(0.0)) == 1
    assert zeros(torch.tensor([0.0, NAN, INF, -INF])) == 0.25


@pytest.mark.parametrize(("shape", "dims"), [((6, 9), (1, -1, 0)), ((3, 4, 5), (1, -1)), ((2, 4, 3, 5), (1, -1))])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_peaks(shape, dims, dtype):
    for dim in dims:
        y = torch.randn(shape).to(dtype)
        units = y.movedim(dim, 0)
        units[1] = 0
        units[2] = -0.0
        units[0][(0,) * (units.dim() - 1)] = NAN
        for z in (y, y.mT.contiguous().mT):
            got = peaks(z, dim)
            expected = z.movedim(dim, 0).flatten(1).abs().amax(1)
            assert torch.equal(got.nan_to_num(-1), expected.nan_to_num(-1))
            assert ((got == 0).nonzero().flatten() == torch.tensor([1, 2])).all()


LARGE = {
    "features": lambda: torch.randn(256, 1024),
    "images": lambda: torch.randn(32, 16, 32, 32),
    "channels_last": lambda: torch.randn(32, 16, 32, 32).to(memory_format=torch.channels_last),
    "transposed": lambda: torch.randn(1024, 300).t(),
    "offset": lambda: torch.randn(300_001)[1:],
    "one": lambda: torch.randn(1, 300_000),
}


@pytest.mark.parametrize("kind", LARGE)
def test_samples_of_large_tensors(kind):
    x = LARGE[kind]()
    y = x.relu()
    error = 4 * math.sqrt(0.25 / SAMPLE)
    assert zeros(y) == pytest.approx((y == 0).float().mean().item(), abs=error)
    expected = ((3 * x).tanh().abs() > math.sqrt(0.99)).float().mean().item()
    assert saturated("tanh", (3 * x).tanh()) == pytest.approx(expected, abs=error)
    sample = spread(torch.arange(x.numel()).as_strided(x.shape, x.stride()), 1024)
    assert sample.shape == (BLOCKS, 1024 // BLOCKS)
    assert len(sample.unique()) == 1024


@pytest.mark.parametrize("x", [torch.ones(999, 1).expand(999, 500), torch.ones(999, 50)[:, 1:], torch.ones(4, 9).t()])
def test_what_is_not_dense_or_large_is_taken_whole(x):
    assert spread(x, 1024) is x


@pytest.mark.parametrize("batch", [8, 15, 16, 17, 30, 32, 60, 64, 128])
def test_samples_see_many_channels(batch):
    channel = torch.arange(64).view(1, 64, 1, 1).expand(batch, 64, 32, 32).contiguous()
    example = torch.arange(batch).view(-1, 1, 1, 1).expand(batch, 64, 32, 32).contiguous()
    assert len(spread(channel, 16384).unique()) >= 14
    assert len(spread(example, 16384).unique()) >= min(5, batch)


# -- parameters ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "scale"),
    [(d, s) for d in DTYPES for s in (1e-30, 1e-20, 1.0, 1e20, 1e30) if d is not torch.float16 or s == 1],
)
def test_updates_are_exact_up_to_the_sample(dtype, scale):
    shapes = [(), (5,), (64, 128), (3, 4, 2, 2)]
    ps = [normal(shape, dtype, scale) for shape in shapes]
    ps[-1] = ps[-1].to(memory_format=torch.channels_last)
    old = [p.clone() for p in ps]
    meter = UpdateMeter(ps)
    meter.before()
    for p in ps:
        p.mul_(0.75)
    weights, updates = meter.norms()
    wide = torch.complex128 if dtype.is_complex else torch.float64
    for p, was, n, w, u in zip(ps, old, meter.measured, weights, updates, strict=True):
        assert n == p.numel() <= measures.updates.SAMPLE
        assert w == pytest.approx(was.to(wide).norm().item(), rel=1e-5)
        assert u == pytest.approx((was.to(wide) - p.to(wide)).norm().item(), rel=1e-5)


def test_updates_of_large_and_odd_parameters():
    ps = [torch.randn(700, 900), torch.randn(900, 700).t(), torch.randn(128, 64, 3, 3), torch.randn(90_000).bfloat16()]
    ps += [torch.randn(3, dtype=torch.float64), torch.empty(0), torch.tensor([NAN, 1.0]), torch.tensor([INF, 1.0])]
    meter = UpdateMeter(ps)
    for _ in range(2):  # it can be used again
        old = [p.double().clone() for p in ps]
        meter.before()
        for p in ps:
            p.add_(torch.randn(p.shape).to(p.dtype), alpha=0.01)
        weights, updates = meter.norms()
        for p, was, n, w, u in list(zip(ps, old, meter.measured, weights, updates, strict=True))[:6]:
            bound = 1e-5 if n == p.numel() else 4 / math.sqrt(2 * n)
            for got, true in ((w, was), (u, p.double() - was)):
                assert got / max(n, 1) ** 0.5 == pytest.approx(true.norm().item() / max(p.numel(), 1) ** 0.5, rel=bound)
        assert not any(map(math.isfinite, weights[-2:]))
    assert meter.measured[:4] == [measures.updates.SAMPLE] * 4
    empty = UpdateMeter([])
    empty.before()
    assert empty.norms() == ([], [])


@pytest.mark.parametrize("shape", [(), (5,), (4, 3), (4, 3, 2, 2), (0, 3), (3, 0)])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_unit_norms(shape, dtype):
    g = normal(shape, dtype)
    rows = g.reshape(g.shape[0] if shape else 1, -1 if g.numel() else 0).to(torch.complex128).abs().norm(dim=1)
    got = unit_norms(g)
    assert got.dtype == (torch.float64 if dtype is torch.float64 else torch.float32)
    torch.testing.assert_close(got.double(), rows, rtol=EPS[dtype], atol=0)
    for scale in (1e-30, 1e30):
        far = unit_norms((g * scale).to(g.dtype).to(torch.complex128 if dtype.is_complex else torch.float64))
        assert dtype is torch.float16 or torch.allclose(far / scale, rows, rtol=EPS[dtype])
