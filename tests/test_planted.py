"""One known fault in a deep network, at a random place: the worst row of the ledger must name it, every time."""

from __future__ import annotations

import copy
import math
import random
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice, product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gradiometer as gm

REAL = 3.0
"""A fault is real if it changes what arrives at the input by at least this factor, see `change`."""

TRIES = 30
"""Of every family with every fault, so many placements are drawn at most until there are as many as `each` wants."""

CLASSES = 10

# -- healthy networks -------------------------------------------------------------------------------------------------
#
# Every network is a stem, a chain of blocks and a head. Blocks have places where nothing is (`nn.Identity`), for
# faults: `before` and `after` their activation, or, with a residual sum, `tail` at the end of the branch and `after`
# the sum.


class Residual(nn.Module):
    def __init__(self, branch: nn.Module, scale: float = 1.0, act: nn.Module | None = None) -> None:
        super().__init__()
        self.branch, self.scale = branch, scale
        self.tail, self.act, self.after = nn.Identity(), act or nn.Identity(), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.tail(self.branch(x))
        return self.after(self.act(x + (y if self.scale == 1 else self.scale * y)))


class Attention(nn.Module):
    def __init__(self, width: int, heads: int, by_hand: bool) -> None:
        super().__init__()
        self.heads, self.by_hand = heads, by_hand
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if self.by_hand:
            y = (q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1) @ v
        else:
            y = F.scaled_dot_product_attention(q, k, v)
        return self.out(y.transpose(1, 2).flatten(2))


class Transformer(nn.Module):
    """A block of two residual sums, with the norms before the branches or behind the sums."""

    def __init__(self, width: int, pre: bool, by_hand: bool) -> None:
        super().__init__()
        self.pre = pre
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, 4, by_hand)
        self.mlp = nn.Sequential(
            OrderedDict(up=nn.Linear(width, 4 * width), act=nn.GELU(), down=nn.Linear(4 * width, width))
        )
        self.tail, self.after = nn.Identity(), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        if self.pre:
            x = x + self.attention(self.norm1(x))
            x = x + self.tail(self.mlp(self.norm2(x)))
        else:
            x = self.norm1(x + self.attention(x))
            x = self.norm2(x + self.tail(self.mlp(x)))
        return self.after(x)


class Pool(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((-2, -1)) if x.dim() == 4 else x.mean(1)


def block(weight: nn.Module, act: nn.Module, norm: nn.Module | None = None) -> nn.Module:
    norms = {"norm": norm} if norm is not None else {}
    return nn.Sequential(OrderedDict(weight=weight, **norms, before=nn.Identity(), act=act, after=nn.Identity()))


def network(stem: nn.Module, blocks: list[nn.Module], *head: nn.Module) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(stem=stem, blocks=nn.Sequential(*blocks), head=nn.Sequential(*head) if len(head) > 1 else head[0])
    )


def initialize(model: nn.Module, how: str, gain: float = 1.0) -> nn.Module:
    """With biases, as training makes them: without any, behind one dead layer all others are dead as well."""
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            if how == "he":
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            else:
                nn.init.xavier_normal_(module.weight, gain)
        if isinstance(getattr(module, "bias", None), Tensor):
            nn.init.normal_(module.bias, std=0.1)
    return model


@dataclass
class Drawn:
    """A network with its data, and what the faults need to know of it."""

    model: nn.Module
    x: Tensor
    y: Tensor
    loss: Callable[[Tensor, Tensor], Tensor]


Rng = random.Random


def data(rng: Rng, model: nn.Module, *shape: int) -> Drawn:
    """A batch of 2 is what some faults need; a raw one is of pixels that nobody has divided by 255."""
    reduction = rng.choice(["mean", "sum"])
    x = torch.randn(shape)
    if rng.random() < 0.5:
        y = torch.randint(CLASSES, shape[:1])
        return Drawn(model, x, y, nn.CrossEntropyLoss(reduction=reduction))
    return Drawn(model, x, torch.randn(shape[0], CLASSES), nn.MSELoss(reduction=reduction))


def relu_mlp(rng: Rng) -> Drawn:
    width = rng.choice([32, 48, 64])
    blocks = [block(nn.Linear(width, width), nn.ReLU()) for _ in range(rng.randint(8, 30))]
    model = network(nn.Linear(20, width), blocks, nn.Linear(width, CLASSES))
    return data(rng, initialize(model, "he"), rng.choice([2, 16, 64]), 20)


def tanh_mlp(rng: Rng) -> Drawn:
    width = rng.choice([32, 48, 64])
    blocks = [block(nn.Linear(width, width), nn.Tanh()) for _ in range(rng.randint(8, 30))]
    model = network(nn.Linear(20, width), blocks, nn.Linear(width, CLASSES))
    return data(rng, initialize(model, "xavier", rng.choice([1.0, 5 / 3])), rng.choice([2, 16, 64]), 20)


def default_mlp(rng: Rng) -> Drawn:
    width = rng.choice([32, 48, 64])
    act = rng.choice([nn.ReLU, nn.Tanh, nn.Sigmoid])
    blocks = [block(nn.Linear(width, width), act()) for _ in range(rng.randint(8, 20))]
    return data(rng, network(nn.Linear(20, width), blocks, nn.Linear(width, CLASSES)), rng.choice([2, 16, 64]), 20)


def conv(rng: Rng, norms: bool = False) -> Drawn:
    width = rng.choice([8, 12, 16])
    blocks = [
        block(nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.BatchNorm2d(width) if norms else None)
        for _ in range(rng.randint(8, 16))
    ]
    model = network(nn.Conv2d(3, width, 3, padding=1), blocks, Pool(), nn.Linear(width, CLASSES))
    return data(rng, initialize(model, "he"), rng.choice([4, 8]), 3, 8, 8)


def conv_bn(rng: Rng) -> Drawn:
    return conv(rng, norms=True)


def residual_mlp(rng: Rng) -> Drawn:
    width, depth = rng.choice([32, 48]), rng.randint(8, 20)
    normed = rng.random() < 0.5
    blocks: list[nn.Module] = [
        Residual(
            nn.Sequential(
                OrderedDict(
                    **({"norm": nn.LayerNorm(width)} if normed else {}),
                    up=nn.Linear(width, width), act=nn.ReLU(), down=nn.Linear(width, width),
                )
            ),
            1 / math.sqrt(depth),
        )
        for _ in range(depth)
    ]  # fmt: skip
    model = network(nn.Linear(20, width), blocks, nn.Linear(width, CLASSES))
    return data(rng, initialize(model, "he"), rng.choice([8, 32]), 20)


def residual_conv(rng: Rng) -> Drawn:
    width = rng.choice([8, 12])
    blocks: list[nn.Module] = [
        Residual(
            nn.Sequential(
                OrderedDict(
                    conv1=nn.Conv2d(width, width, 3, padding=1, bias=False), bn1=nn.BatchNorm2d(width), act=nn.ReLU(),
                    conv2=nn.Conv2d(width, width, 3, padding=1, bias=False), bn2=nn.BatchNorm2d(width),
                )
            ),
            act=nn.ReLU(),
        )
        for _ in range(rng.randint(8, 12))
    ]  # fmt: skip
    model = network(nn.Conv2d(3, width, 3, padding=1), blocks, Pool(), nn.Linear(width, CLASSES))
    return data(rng, initialize(model, "he"), rng.choice([4, 8]), 3, 8, 8)


def transformer(rng: Rng, pre: bool) -> Drawn:
    width = 32
    by_hand = rng.random() < 0.5
    blocks: list[nn.Module] = [Transformer(width, pre, by_hand) for _ in range(rng.randint(8, 12))]
    last = [nn.LayerNorm(width)] if pre and rng.random() < 0.5 else []
    model = network(nn.Linear(12, width), blocks, *last, Pool(), nn.Linear(width, CLASSES))
    return data(rng, initialize(model, "xavier"), rng.choice([2, 6]), 8, 12)


def pre_norm(rng: Rng) -> Drawn:
    return transformer(rng, True)


def post_norm(rng: Rng) -> Drawn:
    return transformer(rng, False)


FAMILIES: list[Callable[[Rng], Drawn]] = [
    relu_mlp, tanh_mlp, default_mlp, conv, conv_bn, residual_mlp, residual_conv, pre_norm, post_norm,
]  # fmt: skip

# -- faults -----------------------------------------------------------------------------------------------------------


@dataclass
class Planted:
    """The place of a fault: the operation that is spoiled, and the cause it has; or all of the module ``within``."""

    site: str
    operation: str
    cause: str
    module: str
    within: str = ""


class Detach(nn.Module):
    """A tensor that is taken out of the graph: by `detach`, by `.data`, or under `no_grad`."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "data":
            return x.data
        if self.how == "no_grad":
            with torch.no_grad():
                return x * 1.0
        return x.detach()


class Pairs(nn.Module):
    """Normalizes two numbers with each other: what comes out is one and minus one, whatever goes in."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.unflatten(-1, (-1, 2))).flatten(-2)


class Pushed(nn.Module):
    """An activation with a bias that pushes all units into its flat part."""

    def __init__(self, act: nn.Module, bias: float) -> None:
        super().__init__()
        self.act, self.bias = act, bias

    def forward(self, x: Tensor) -> Tensor:
        return self.act(x + self.bias)


def put(model: nn.Module, path: str, module: nn.Module) -> None:
    above, _, name = path.rpartition(".")
    setattr(model.get_submodule(above), name, module)


def places(model: nn.Module, *names: str) -> list[str]:
    return [path for path, module in model.named_modules() if path.rpartition(".")[2] in names and path.count(".") > 1]


def weights(rng: Rng, drawn: Drawn, factor: float) -> Planted:
    """The culprit is the layer whose weight was scaled.

    Not so in attention: queries and keys that are 20 times too large make scores that are 400 times too large, a
    softmax that chooses one, and products whose gains are 20 like that of the weight. Any row of that attention names
    it.

    In front of a normalization there is none: the two are scale-free together, as the change at the input
    shows, and such placements are not real. With a saturating activation behind it the layer is to blame as well: where
    the fault is real it is so because of its gain, which the flat derivative takes back in part only.
    """
    kinds = (nn.Linear, nn.Conv2d)
    paths = [path for path, module in drawn.model.named_modules() if isinstance(module, kinds)]
    path = paths[-1] if rng.random() < 0.3 else rng.choice(paths)  # behind the head no norm ever is
    return scaled(drawn, path, factor)


def scaled(drawn: Drawn, path: str, factor: float) -> Planted:
    module = drawn.model.get_submodule(path)
    with torch.no_grad():
        module.weight.mul_(factor)
    within = path.removesuffix(".qkv") if path.endswith("qkv") else ""
    return Planted(path, "conv2d" if isinstance(module, nn.Conv2d) else "linear", "weights", path, within)


def small(rng: Rng, drawn: Drawn) -> Planted:
    return weights(rng, drawn, 0.05)


def large(rng: Rng, drawn: Drawn) -> Planted:
    return weights(rng, drawn, 20.0)


def early(rng: Rng, drawn: Drawn) -> Planted:
    """The culprit is a weight in an early branch, and not the norms of the branches before it.

    All the others stand behind it in a stream that it made 20 times larger, and have a gain of a twentieth: most are
    unlike the few that are as they should be.
    """
    named = (f"blocks.{i}.{name}" for i in range(3) for name in ("mlp.up", "mlp.down", "branch.up", "branch.down"))
    known = dict(drawn.model.named_modules())
    return scaled(drawn, rng.choice([path for path in named if path in known]), 20.0)


def saturated(rng: Rng, drawn: Drawn) -> Planted:
    """The culprit is the activation: its derivative is what is nearly zero, whatever pushed it there.

    Of a ReLU all units are dead. In residual networks a branch that is flat takes nothing from the skip, and so
    the flat block stands in the stream.
    """
    bias = rng.choice([-1, 1]) * rng.uniform(6, 12)
    chain = places(drawn.model, "before")
    if chain:
        path = rng.choice(chain).removesuffix("before") + "act"
        act = drawn.model.get_submodule(path)
        if isinstance(act, nn.ReLU):
            kind = rng.choice(["dead", "sigmoid", "tanh"])
            act = {"dead": nn.ReLU(), "sigmoid": nn.Sigmoid(), "tanh": nn.Tanh()}[kind]
            bias = -1e3 if kind == "dead" else bias
    else:
        path = rng.choice(places(drawn.model, "after"))
        act = rng.choice([nn.Sigmoid(), nn.Tanh()])
    put(drawn.model, path, Pushed(act, bias))
    return Planted(f"{path}.act", type(act).__name__.lower(), "activation", f"{path}.act")


def misplaced(rng: Rng, drawn: Drawn) -> Planted:
    """The culprit is the norm, of one of three kinds.

    Over two numbers (a dimension of size 2, a batch of 2) it lets nothing through. On a signal whose rms is far
    from one (pixels that nobody has scaled, in a network that would have handed them on) it takes the gradient down
    by that rms.
    """
    path = rng.choice(places(drawn.model, "before", "after"))
    shape = shape_at(drawn, path)
    kinds = ["pairs"]
    if len(drawn.x) == 2 and len(shape) == 2:
        kinds.append("batch")
    if not any("Norm" in type(m).__name__ or type(m) in (nn.Tanh, nn.Sigmoid) for m in drawn.model.modules()):
        kinds += ["raw", "raw"]
    kind = rng.choice(kinds)
    if kind == "raw":
        drawn.x *= rng.uniform(50, 200)
        if len(shape) == 4:
            norm: nn.Module = rng.choice([nn.GroupNorm(1, shape[1]), nn.BatchNorm2d(shape[1])])
        else:
            norm = nn.LayerNorm(shape[-1])
    else:
        norm = Pairs() if kind == "pairs" else nn.BatchNorm1d(shape[1])
    put(drawn.model, path, norm)
    name = {"GroupNorm": "group_norm", "BatchNorm1d": "batch_norm", "BatchNorm2d": "batch_norm"}
    inner = f"{path}.norm" if kind == "pairs" else path
    return Planted(inner, name.get(type(norm).__name__, "layer_norm"), "normalization", inner)


def detached(rng: Rng, drawn: Drawn) -> Planted:
    """The culprit is the place where the graph was cut, on the chain, in the stream or in a branch."""
    path = rng.choice(places(drawn.model, "before", "after", "tail"))
    how = rng.choice(["detach", "data", "no_grad"])
    put(drawn.model, path, Detach(how))
    operation = "mul" if how == "no_grad" else how
    return Planted(f"{path}:{operation}", operation, "connection", path)


FAULTS: list[Callable[[Rng, Drawn], Planted]] = [small, large, saturated, misplaced, detached]

# -- the truth, found without the program -----------------------------------------------------------------------------


def shape_at(drawn: Drawn, path: str) -> tuple[int, ...]:
    found: list[tuple[int, ...]] = []
    handle = drawn.model.get_submodule(path).register_forward_hook(lambda m, a, out: found.append(tuple(out.shape)))
    copied = copy.deepcopy(drawn.model)
    handle.remove()
    copied(drawn.x)
    return found[0]


def passed_on(drawn: Drawn) -> tuple[float, int]:
    """The norm at the input over that at the outputs, and the number of parameters that no gradient reaches."""
    model = copy.deepcopy(drawn.model)
    x = drawn.x.clone().requires_grad_()
    out = model(x)
    wanted = [x, out, *model.parameters()]
    at_x, at_out, *rest = torch.autograd.grad(drawn.loss(out, drawn.y), wanted, allow_unused=True)
    ratio = 0.0 if at_x is None else float(at_x.double().norm() / at_out.double().norm())
    return ratio, sum(g is None for g in rest)


def change(healthy: Drawn, spoiled: Drawn) -> float:
    """By which factor a fault changes the gradient on its way from the outputs to the input.

    Both networks have the same weights and the same data; that the loss itself sends another gradient after the
    fault is divided out. A parameter that has lost its gradient altogether counts as a factor of zero.
    """
    healthy.x = spoiled.x  # a fault may be that the data are raw
    before, reached = passed_on(healthy)
    after, fewer = passed_on(spoiled)
    return 0.0 if fewer > reached else after / before


def gain_of(drawn: Drawn, path: str) -> float:
    """The rms of the gradient that leaves one module over that of the one that enters it."""
    model = copy.deepcopy(drawn.model)
    module = model.get_submodule(path)
    seen: list[Tensor] = []

    def going_in(_: nn.Module, args: tuple[Tensor, ...]) -> Tensor:
        seen.append(args[0].clone())  # for this module alone, also where others use the same tensor
        return seen[-1]

    module.register_forward_pre_hook(going_in)
    module.register_forward_hook(lambda m, args, out: seen.append(out))
    loss = drawn.loss(model(drawn.x.clone().requires_grad_()), drawn.y)
    leaving, entering = torch.autograd.grad(loss, seen)
    return float(leaving.double().square().mean().sqrt() / entering.double().square().mean().sqrt())


def flatness(drawn: Drawn, path: str) -> tuple[float, float]:
    """The rms of the derivative of one activation, and the share of what is flat: of a ReLU, of units."""
    seen: list[Tensor] = []
    model = copy.deepcopy(drawn.model)
    act = model.get_submodule(path)
    act.register_forward_hook(lambda m, args, out: seen.append(args[0].detach()))
    model(drawn.x)
    z = seen[0].requires_grad_()
    y = type(act)()(z)
    (derivative,) = torch.autograd.grad(y.sum(), z)
    if isinstance(act, nn.ReLU):
        units = y.transpose(1, -1) if y.dim() == 4 else y
        flat = (units.flatten(0, -2).amax(0) == 0).double()
    else:
        flat = (derivative < 0.01 * (0.25 if isinstance(act, nn.Sigmoid) else 1.0)).double()
    return float(derivative.square().mean().sqrt()), float(flat.mean())


@dataclass
class Placement:
    name: str
    healthy: Drawn
    spoiled: Drawn
    planted: Planted
    change: float


def placements(family: Callable[[Rng], Drawn], fault: Callable[[Rng, Drawn], Planted]) -> Iterator[Placement]:
    """The real placements of a fault in a family, in the order of their seeds."""
    for seed in range(TRIES):
        rng = Rng(f"{family.__name__} {fault.__name__} {seed}")
        torch.manual_seed(rng.randrange(1 << 30))
        spoiled = family(rng)
        healthy = copy.deepcopy(spoiled)
        planted = fault(rng, spoiled)
        factor = change(healthy, spoiled)
        if not 1 / REAL < factor < REAL:
            yield Placement(f"{family.__name__} {fault.__name__} {seed}", healthy, spoiled, planted, factor)


def wrong(placement: Placement) -> str:
    """What the ledger says of a placement that is not so; nothing if it is right."""
    drawn, planted = placement.spoiled, placement.planted
    ledger = gm.measure(drawn.model, (drawn.x, drawn.y), drawn.loss).ledger
    worst = ledger.worst
    said = f"{placement.name} (factor {placement.change:.3g}): {planted}, and worst is {worst}"
    row = next((r for r in ledger if r.site == planted.site and r.operation == planted.operation), None)
    if row is None or worst is None or row.cause != planted.cause:
        return f"{said}: {row}"
    if worst is not row and not (planted.within and worst.site.startswith(planted.within)):
        return said
    if planted.cause == "connection":
        return "" if row.gain == 0 else f"{said}: something passes"
    gain = gain_of(drawn, planted.module)
    if not math.isclose(row.gain, gain, rel_tol=1e-3, abs_tol=1e-30):
        return f"{said}: its gain is {gain}"
    if planted.cause == "weights":
        weight = drawn.model.get_submodule(planted.module).weight.detach()
        pairs = weight.numel() / weight.shape[1]  # products in each element that leaves; fewer at a border of zeros
        scale = float(weight.square().mean().sqrt()) * math.sqrt(pairs)
        near = math.isclose(row.scale or 0.0, scale, rel_tol=1e-3)
        aligned = math.isclose((row.scale or 0.0) * (row.alignment or 0.0), gain, rel_tol=1e-3)
        return "" if near and aligned else f"{said}: its scale is {scale}"
    if planted.cause == "activation":
        derivative, flat = flatness(drawn, planted.module)
        near = math.isclose(row.derivative or 0.0, derivative, rel_tol=1e-3, abs_tol=1e-30)
        return "" if near and row.flat == pytest.approx(flat) else f"{said}: its f' is {derivative}, flat {flat}"
    return ""


# -- the program ------------------------------------------------------------------------------------------------------


CELLS = [*product(FAMILIES, FAULTS), (residual_mlp, early), (pre_norm, early)]


def each(family: Callable[[Rng], Drawn]) -> int:
    """How many placements of each fault are measured; fewer of the families that cost most."""
    return 2 if family in (conv_bn, residual_conv, pre_norm, post_norm) else 3


@pytest.mark.parametrize(("family", "fault"), CELLS, ids=lambda f: f.__name__)
def test_the_worst_row_names_the_fault(family: Callable[..., Any], fault: Callable[..., Any]) -> None:
    found = list(islice(placements(family, fault), each(family)))
    assert len(found) == each(family)
    said = [text for text in map(wrong, found) if text]
    assert not said, "\n".join([f"{len(found) - len(said)} of {len(found)}", *said])


def test_there_are_enough_placements() -> None:
    assert sum(each(family) for family, _ in CELLS) >= 100
