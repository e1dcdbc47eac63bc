"""Networks whose ledgers are compared with a tape's: with branches, shared parts and whatever torch lets one do."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from ledger_operations import CASES, add, free, linear, randn, sdpa
from ledger_tape import D, Function, Net, score_mse, wave

__all__ = ["CASES"]

# -- networks with branches -------------------------------------------------------------------------------------------


def network(name: str, *shape: int, **more: Any) -> Callable[[Function], Function]:
    """A function of the tape, the network and its inputs; ``more`` makes the network's parts."""
    inputs, score = more.pop("inputs", randn(*shape)), more.pop("score", score_mse)

    def decorate(run: Function) -> Function:
        add(name, partial(Net, run, **more), inputs, score)
        return run

    return decorate


def tanh(t: Any, h: Any) -> Any:
    return t("activation :tanh", torch.tanh, h)


@network("residual", 5, 4, a=linear(), n=partial(nn.LayerNorm, 4), b=linear())
def _(t: Any, net: Any, x: Any) -> Any:
    h = t("weights a", net.a, x)
    return t("connection :add", operator.add, h, tanh(t, t("weights b", net.b, t("normalization n", net.n, h))))


def resnet_block(t: Any, net: Any, x: Any) -> Any:
    h = t("normalization norm1", net.norm1, t("weights conv1", net.conv1, x))
    h = t("activation relu", net.relu, h)
    h = t("normalization norm2", net.norm2, t("weights conv2", net.conv2, h))
    return t("activation relu", net.relu, t("connection :add", operator.iadd, h, x))


_conv, _norm = partial(nn.Conv2d, 3, 3, 3, padding=1, bias=False), partial(nn.BatchNorm2d, 3)
_relu = partial(nn.ReLU, inplace=True)
_block = partial(Net, resnet_block, conv1=_conv, norm1=_norm, conv2=_conv, norm2=_norm, relu=_relu)


@network("ResNet", 2, 3, 5, 5, blocks=lambda: nn.Sequential(_block(), _block(), _block()), head=linear(3, 2))
def _(t: Any, net: Any, x: Any) -> Any:
    for i, block in enumerate(net.blocks):
        x = t.within(f"blocks.{i}", block, x)
    return t("weights head", net.head, t("reshaping :mean", lambda h: h.mean((2, 3)), x))


@network(
    "DenseNet", 2, 3, 4, 4, convs=lambda: nn.ModuleList(nn.Conv2d(3 + 2 * i, 2, 3, padding=1) for i in range(3)),
    norms=lambda: nn.ModuleList(nn.BatchNorm2d(3 + 2 * i) for i in range(3)),
)  # fmt: skip
def _(t: Any, net: Any, x: Any) -> Any:
    for i, (conv, norm) in enumerate(zip(net.convs, net.norms, strict=True)):
        h = t("activation :relu", F.relu, t(f"normalization norms.{i}", norm, x))
        x = t("connection :cat", lambda *hs: torch.cat(hs, 1), x, t(f"weights convs.{i}", conv, h))
    return x


def attend(t: Any, net: Any, x: Any) -> Any:
    heads = []
    for z in t("reshaping :chunk", lambda h: h.chunk(3, -1), t("weights qkv", net.qkv, x)):
        z = t("reshaping :unflatten", lambda h: h.unflatten(-1, (2, 4)), z)
        heads.append(t("reshaping :transpose", lambda h: h.transpose(1, 2), z))
    o = t("attention :scaled_dot_product_attention", sdpa, *heads)
    o = t("reshaping :transpose", lambda h: h.transpose(1, 2), o)
    return t("weights proj", net.proj, t("reshaping :flatten", lambda h: h.flatten(2), o))


def think(t: Any, net: Any, x: Any) -> Any:
    return t("weights down", net.down, t("activation :gelu", F.gelu, t("weights up", net.up, x)))


_transformer = {"n1": partial(nn.LayerNorm, 8), "n2": partial(nn.LayerNorm, 8), "qkv": linear(8, 24),
                "proj": linear(8, 8), "up": linear(8, 16), "down": linear(16, 8)}  # fmt: skip


@network("pre-norm transformer", 2, 5, 8, **_transformer)
def _(t: Any, net: Any, x: Any) -> Any:
    x = t("connection :add", operator.add, x, attend(t, net, t("normalization n1", net.n1, x)))
    return t("connection :add", operator.add, x, think(t, net, t("normalization n2", net.n2, x)))


@network("post-norm transformer", 2, 5, 8, **_transformer)
def _(t: Any, net: Any, x: Any) -> Any:
    x = t("normalization n1", net.n1, t("connection :add", operator.add, x, attend(t, net, x)))
    return t("normalization n2", net.n2, t("connection :add", operator.add, x, think(t, net, x)))


@network("attention by hand", 2, 3, 4, q=linear(), k=linear(), v=linear())
def _(t: Any, net: Any, x: Any) -> Any:
    mask = torch.ones(3, 3, dtype=torch.bool).triu(1)
    k = t("reshaping :transpose", lambda k: k.transpose(1, 2), t("weights k", net.k, x))
    s = t("connection :div", lambda s: s / 2.0, t("attention :matmul", operator.matmul, t("weights q", net.q, x), k))
    s = t("connection :masked_fill", lambda s: s.masked_fill(mask, -math.inf), s)
    a = t("attention :softmax", lambda s: F.softmax(s, -1), s)
    return t("attention :matmul", operator.matmul, a, t("weights v", net.v, x))


@network("gating", 5, 4, first=linear(), gate=linear(4, 6), value=linear(4, 6))
def _(t: Any, net: Any, x: Any) -> Any:
    h = t("weights first", net.first, x)
    gate = t("activation :sigmoid", torch.sigmoid, t("weights gate", net.gate, h))
    return t("connection :mul", operator.mul, gate, tanh(t, t("weights value", net.value, h)))


@network("squeeze and excitation", 2, 3, 4, 4, conv=partial(nn.Conv2d, 3, 4, 3), fc=linear())
def _(t: Any, net: Any, x: Any) -> Any:
    h = t("weights conv", net.conv, x)
    g = t("weights fc", net.fc, t("reshaping :mean", lambda h: h.mean((2, 3)), h))
    g = t("reshaping :getitem", lambda g: g[:, :, None, None], t("activation :sigmoid", torch.sigmoid, g))
    return t("connection :mul", operator.mul, h, g)


@network("chunk, split and unbind: an output that is not used, and one that is used twice", 3, 8, a=linear(8, 8))
def _(t: Any, net: Any, x: Any) -> Any:
    h = t("weights a", net.a, x)
    a, b = t("reshaping :chunk", lambda h: h.chunk(2, 1), h)
    c, _, d = t("reshaping :split", lambda h: h.split([4, 2, 2], 1), h)
    ab, ca = t("connection :mul", operator.mul, a, b), t("connection :mul", operator.mul, c, a)
    rows = t("reshaping :unbind", torch.unbind, t("connection :add", operator.add, ab, ca))
    back = t("connection :stack", lambda *r: torch.stack(r), *rows[::-1])
    return t("connection :cat", lambda *hs: torch.cat(hs, 1), back, d)


_pads = partial(nn.Conv2d, padding=1)


@network(
    "U-Net", 2, 3, 6, 6, down=partial(_pads, 3, 4, 3), deep=partial(_pads, 4, 4, 3), up=partial(nn.Conv2d, 8, 2, 1)
)
def _(t: Any, net: Any, x: Any) -> Any:
    h = t("activation :silu", F.silu, t("weights down", net.down, x))
    d = tanh(t, t("weights deep", net.deep, t("reshaping :max_pool2d", lambda h: F.max_pool2d(h, 2), h)))
    d = t("reshaping :interpolate", lambda d: F.interpolate(d, scale_factor=2), d)
    return t("weights up", net.up, t("connection :cat", lambda *hs: torch.cat(hs, 1), h, d))


@network("a path without gradient", 5, 4, a=linear(), b=linear())
def _(t: Any, net: Any, x: Any) -> Any:
    h = t("weights a", net.a, x)
    return t("connection :mul", lambda b, h: b * h.detach(), t("weights b", net.b, h), h)


@network("a tensor used six times", 5, 4, a=linear(), heads=lambda: nn.ModuleList(nn.Linear(4, 3) for _ in range(6)))
def _(t: Any, net: Any, x: Any) -> Any:
    """More than the ledger keeps whole."""
    h = t("weights a", net.a, x)
    heads = [t(f"weights heads.{i}", head, h) for i, head in enumerate(net.heads)]
    return t("connection :stack", lambda *hs: torch.stack(hs), *heads)


@network("a recurrence of linear layers", 4, 2, 3, u=linear(3, 5), w=linear(5, 5))
def _(t: Any, net: Any, x: Any) -> Any:
    h = tanh(t, t("weights u", net.u, t("reshaping :getitem", lambda x: x[0], x)))
    for x_t in t("reshaping :unbind", torch.unbind, t("reshaping :getitem", lambda x: x[1:], x)):
        u = t("weights u", net.u, x_t)
        h = tanh(t, t("connection :add", operator.add, u, t("weights w", net.w, h)))
    return h


# -- what enters and what comes out -----------------------------------------------------------------------------------

_words = partial(tuple, [torch.tensor([[1, 2, 2], [0, 4, 1]])])


@network("embedding", inputs=_words, table=partial(nn.Embedding, 5, 4), places=free(3, 4), head=linear(4, 2))
def _(t: Any, net: Any, x: Any) -> Any:
    h = t("connection :add", lambda h: h + net.places, t.lookup("weights table", net.table, x))
    return t("weights head", net.head, t("reshaping :mean", lambda h: h.mean(1), h))


@network("embedding bag", inputs=_words, table=partial(nn.EmbeddingBag, 5, 4, mode="mean"), head=linear(4, 2))
def _(t: Any, net: Any, x: Any) -> Any:
    return t("weights head", net.head, t.lookup("weights table", net.table, x))


@network("tied weights", inputs=_words, table=partial(nn.Embedding, 5, 4), mid=linear())
def _(t: Any, net: Any, x: Any) -> Any:
    h = t("weights mid", net.mid, t.lookup("weights table", net.table, x))
    return t("weights :linear", lambda h: F.linear(h, net.table.weight), t("activation :relu", torch.relu, h))


@network("two inputs", inputs=lambda: (torch.randn(5, 4, dtype=D), torch.randn(5, 3, dtype=D)), a=linear(4, 2),
         b=linear(3, 2))  # fmt: skip
def _(t: Any, net: Any, x: Any, z: Any) -> Any:
    return t("connection :mul", operator.mul, t("weights a", net.a, x), t("weights b", net.b, z))


def two_losses(t: Any, y: Any) -> Any:
    main = score_mse(t, y[0])
    aux = t("loss :l1_loss", lambda a: F.l1_loss(a, wave(a)), y[1]["aux"])
    return t("loss :add", operator.add, main, t("loss :mul", lambda a: 0.1 * a, aux))


@network("a tuple and a dict", 5, 4, score=two_losses, a=linear(), b=linear(4, 3), c=linear(4, 2))
def _(t: Any, net: Any, x: Any) -> Any:
    h = tanh(t, t("weights a", net.a, x))
    return t("weights b", net.b, h), {"aux": t("weights c", net.c, h), "h": h}


# -- how a network is called, and what is done to it ------------------------------------------------------------------


def inner(t: Any, net: Any, x: Any) -> Any:
    h = t("activation act", net.act, t("weights a", net.a, x))
    return t("activation :softplus", F.softplus, t("weights b", net.b, h))


_inner = partial(Net, inner, a=linear(), act=nn.Tanh, b=linear())


def checkpointed(t: Any, net: Any, x: Any, *, reentrant: bool) -> Any:
    h = t("weights first", net.first, x)
    call = partial(checkpoint, use_reentrant=reentrant)
    b = t.within("last", net.last, t.within("inner", net.inner, h, call), call)
    return t("connection :add", operator.add, h, b)


for _reentrant in (True, False):
    network(f"checkpoint, {'' if _reentrant else 'not '}reentrant", 5, 4, first=linear(), inner=_inner, last=_inner)(
        partial(checkpointed, reentrant=_reentrant)
    )


class Cube(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 3 * x**2 * g


class Mix(torch.autograd.Function):
    """Two inputs and two outputs, and a gradient that is none of the forward's."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        return torch.hypot(a, b), torch.atan2(a, b)

    @staticmethod
    def backward(ctx: Any, g: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        return 0.3 * g + h, 0.1 * g


@network("autograd functions", 5, 4, a=linear(), b=linear())
def _(t: Any, net: Any, x: Any) -> Any:
    a = t("weights a", net.a, x)
    g, h = t("unknown :mix", Mix.apply, a, t("unknown :cube", Cube.apply, t("weights b", net.b, x)))
    return t("connection :add", operator.add, tanh(t, g), h)


@network("in place", 5, 4, a=linear(), b=linear(), act=partial(nn.LeakyReLU, 0.1, inplace=True))
def _(t: Any, net: Any, x: Any) -> Any:
    h = t("activation act", net.act, t("weights a", net.a, x))
    y = t("connection :add", operator.iadd, t("weights b", net.b, h), h)
    return t("activation :tanh", torch.tanh_, t("connection :mul", lambda y: y.mul_(0.7), y))


@network("a part written anew", 5, 4, a=linear(), b=linear(4, 2))
def _(t: Any, net: Any, x: Any) -> Any:
    def write(y: Tensor, part: Tensor) -> Tensor:
        y[:, 1:3] = part
        return y

    h = t("weights a", net.a, x)
    y = t("reshaping :clone", torch.clone, h)
    return tanh(t, t("reshaping :copy_slices", write, y, t("weights b", net.b, h)))


@network("a module called twice", 5, 4, a=linear(), act=nn.Sigmoid)
def _(t: Any, net: Any, x: Any) -> Any:
    for _ in range(2):
        x = t("activation act", net.act, t("weights a", net.a, x))
    return t("weights a", net.a, x)


def frozen() -> nn.Module:
    return nn.Linear(4, 4).requires_grad_(False)


@network(
    "frozen layers", 5, 4, a=frozen, b=linear(), c=frozen, d=linear(), w=lambda: free(4, 4)().requires_grad_(False)
)
def _(t: Any, net: Any, x: Any) -> Any:
    h = tanh(t, t("weights b", net.b, t("weights a", net.a, x)))
    h = t("weights :matmul", lambda h: h @ net.w, t("weights c", net.c, h))
    return t("weights d", net.d, h)


def parametrized(t: Any, net: Any, x: Any) -> Any:
    return tanh(t, t("weights b:linear", net.b, tanh(t, t("weights a", net.a, x))))


for _name in ("weight_norm", "spectral_norm", "orthogonal"):
    _parametrize = getattr(parametrizations, _name)
    network(_name, 5, 4, a=linear(), b=lambda p=_parametrize: p(nn.Linear(4, 4)))(parametrized)


@network("weights of low rank", 5, 4, first=linear(), up=free(4, 2), down=free(2, 4))
def _(t: Any, net: Any, x: Any) -> Any:
    """A product of parameters is a weight, and no signal."""
    h = tanh(t, t("weights first", net.first, x))
    return t("weights :linear", lambda h: F.linear(h, net.first.weight + net.up @ net.down), h)


@network("scales and offsets", 5, 4, a=linear(), gamma=free(4), beta=free(4))
def _(t: Any, net: Any, x: Any) -> Any:
    """Parameters in a sum and a product are no weights of a layer: one tensor goes in, one edge goes out."""
    h = t("connection :mul", lambda h: net.gamma * h, t("weights a", net.a, x))
    return t("connection :add", lambda h: net.beta + h, h)


@network("a hook that scales the gradient", 5, 4, a=linear(), b=linear())
def _(t: Any, net: Any, x: Any) -> Any:
    h = tanh(t, t("weights a", net.a, x))
    t.hook(h, lambda g: 0.01 * g.clamp(-0.01, 0.01))
    return t("weights b", net.b, h)


def watched() -> nn.Module:
    """Full backward hooks put nodes of their own into the graph."""
    layer = nn.Linear(4, 4)
    layer.register_full_backward_hook(lambda *_: None)
    layer.register_forward_hook(lambda *_: None)
    return layer


@network("hooks on modules", 5, 4, a=linear(), b=watched)
def _(t: Any, net: Any, x: Any) -> Any:
    return t("weights b", net.b, tanh(t, t("weights a", net.a, x)))


@network("complex numbers", 3, 8, a=linear(8, 8), w=free(5))
def _(t: Any, net: Any, x: Any) -> Any:
    h = t("unknown :fft_rfft", torch.fft.rfft, t("weights a", net.a, x))
    return t("unknown :fft_irfft", torch.fft.irfft, t("connection :mul", lambda h: h * net.w, h))
