"""Single operations whose ledgers are compared with a tape's: modules, functions and losses, and the cause of each."""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ledger_tape import Case, D, Function, Net, score_mse, wave

CASES: dict[str, Case] = {}


def randn(*shape: int) -> Callable[[], tuple[Tensor, ...]]:
    return lambda: (torch.randn(*shape, dtype=D),)


def add(name: str, make: Callable[[], Net], inputs: Function, score: Function = score_mse) -> None:
    again = sum(known == name or known.startswith(f"{name} (") for known in CASES)
    name += f" ({again + 1})" if again else ""
    CASES[name] = Case(name, make, inputs, score)


def linear(inputs: int = 4, outputs: int = 4) -> Callable[[], nn.Module]:
    return partial(nn.Linear, inputs, outputs)


def free(*shape: int) -> Callable[[], nn.Parameter]:
    return lambda: nn.Parameter(torch.randn(*shape) / shape[-1] ** 0.5)


# -- modules, each between a linear layer and a tanh ------------------------------------------------------------------


def modules(cause: str, shape: tuple[int, ...], *makes: Callable[[], nn.Module], training: bool = True) -> None:
    def run(t: Any, net: Net, x: Any) -> Any:
        h = t(f"{cause} m", net.m, t("weights first", net.first, x))
        return t("activation :tanh", torch.tanh, h)

    for make in makes:
        name = type(make()).__name__ + ("" if training else " in evaluation")
        parts = {"first": linear(shape[-1], shape[-1]), "m": make}
        add(name, lambda parts=parts: Net(run, **parts).train(training), randn(*shape))


ROWS, SOUND, IMAGE, VOLUME = (6, 4), (2, 3, 8), (2, 3, 6, 6), (1, 2, 4, 4, 4)

modules("weights", ROWS, lambda: nn.Linear(4, 7, bias=False))
modules("weights", (2, 5, 4), linear(4, 7))
modules("weights", SOUND, lambda: nn.Conv1d(3, 5, 3), lambda: nn.ConvTranspose1d(3, 4, 3, stride=2))
modules(
    "weights", IMAGE, lambda: nn.Conv2d(3, 4, 3, padding=1), lambda: nn.Conv2d(3, 4, 3, 2, dilation=2, bias=False),
    lambda: nn.Conv2d(3, 6, 3, groups=3), lambda: nn.Conv2d(3, 4, 3, 1, 1, padding_mode="reflect"),
    lambda: nn.ConvTranspose2d(3, 4, 3, 2, 1, 1),
)  # fmt: skip
modules("weights", VOLUME, lambda: nn.Conv3d(2, 3, 2), lambda: nn.ConvTranspose3d(2, 2, 2))

ACTIVATIONS: list[Callable[[], nn.Module]] = [
    *(getattr(nn, name) for name in """ReLU RReLU Hardtanh ReLU6 Sigmoid Hardsigmoid Tanh SiLU Mish Hardswish ELU CELU
        SELU GELU Hardshrink LeakyReLU LogSigmoid Softplus Softshrink PReLU Softsign Tanhshrink""".split()),
    lambda: nn.Threshold(0.1, -0.3), lambda: nn.PReLU(4), lambda: nn.GELU("tanh"),
]  # fmt: skip
modules("activation", ROWS, *ACTIVATIONS, lambda: nn.GLU(-1))
modules("activation", ROWS, *(partial(act, inplace=True) for act in (nn.ReLU, nn.ELU, nn.SiLU)))
modules("activation", ROWS, nn.RReLU, training=False)
modules("attention", ROWS, lambda: nn.Softmax(-1), lambda: nn.Softmin(-1))
modules("attention", (2, 4, 3, 3), nn.Softmax2d)
modules("loss", ROWS, lambda: nn.LogSoftmax(-1))

modules("normalization", ROWS, lambda: nn.BatchNorm1d(4), lambda: nn.LayerNorm(4), lambda: nn.RMSNorm(4))
modules("normalization", SOUND, lambda: nn.InstanceNorm1d(3))
modules(
    "normalization", (3, 4, 3, 3), lambda: nn.BatchNorm2d(4), lambda: nn.InstanceNorm2d(4, affine=True),
    lambda: nn.GroupNorm(2, 4), lambda: nn.LocalResponseNorm(3, 0.5), lambda: nn.CrossMapLRN2d(3, 0.5),
)  # fmt: skip
_volumes = lambda: nn.BatchNorm3d(2, affine=False), lambda: nn.InstanceNorm3d(2, track_running_stats=True)
modules("normalization", VOLUME, *_volumes)
modules("normalization", VOLUME, *_volumes, training=False)
modules("normalization", ROWS, lambda: nn.BatchNorm1d(4), training=False)

modules(
    "reshaping", SOUND, lambda: nn.MaxPool1d(2), lambda: nn.AvgPool1d(2), lambda: nn.LPPool1d(2, 2),
    lambda: nn.AdaptiveMaxPool1d(3), lambda: nn.AdaptiveAvgPool1d(3), lambda: nn.ConstantPad1d(2, 0.5),
    lambda: nn.ReplicationPad1d(2), lambda: nn.Unflatten(-1, (2, 4)),
)  # fmt: skip
modules(
    "reshaping", IMAGE, lambda: nn.MaxPool2d(3, 2, 1), lambda: nn.AvgPool2d(2), lambda: nn.LPPool2d(2, 2),
    lambda: nn.FractionalMaxPool2d(2, output_ratio=0.5), lambda: nn.AdaptiveMaxPool2d(2),
    lambda: nn.AdaptiveAvgPool2d(1), lambda: nn.ZeroPad2d(1), lambda: nn.ReflectionPad2d(1), nn.Flatten,
    lambda: nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False), lambda: nn.UpsamplingNearest2d(None, 2),
    lambda: nn.UpsamplingBilinear2d(scale_factor=2), lambda: nn.PixelUnshuffle(2), lambda: nn.Unfold(2),
    lambda: nn.CircularPad2d(1),
)  # fmt: skip
modules("reshaping", (2, 4, 3, 3), lambda: nn.PixelShuffle(2), lambda: nn.ChannelShuffle(2))
modules("reshaping", (2, 12, 4), lambda: nn.Fold((3, 3), 2))
modules(
    "reshaping", VOLUME, lambda: nn.MaxPool3d(2), lambda: nn.AvgPool3d(2), lambda: nn.LPPool3d(2, 2),
    lambda: nn.AdaptiveMaxPool3d(2), lambda: nn.AdaptiveAvgPool3d(2),
    lambda: nn.FractionalMaxPool3d(2, output_ratio=0.5),
)  # fmt: skip
modules("connection", IMAGE, nn.Dropout, nn.Dropout2d, nn.AlphaDropout)

# -- functions of linear layers of the same input, with a tanh behind -------------------------------------------------


def functions(
    cause: str, shape: tuple[int, ...] = (3, 4), many: int = 1, *, weighted: bool = False, **table: Function
) -> None:
    """By operation; a weighted one gets a parameter that belongs to no layer first."""
    for operation, function in table.items():

        def run(t: Any, net: Net, x: Any, *, operation: str = operation, function: Function = function) -> Any:
            hs = [t(f"weights layers.{i}", layer, x) for i, layer in enumerate(net.layers)]
            middle = partial(function, net.w) if weighted else function
            return t("activation :tanh", torch.tanh, t(f"{cause} :{operation}", middle, *hs))

        layer = linear(shape[-1], shape[-1])
        parts = {"layers": lambda layer=layer: nn.ModuleList(layer() for _ in range(many)), "w": free(4, 4)}
        add(f"F.{operation}", partial(Net, run, **(parts if weighted else {"layers": parts["layers"]})), randn(*shape))


_MASK = torch.tensor([[True, False, True, False], [False, False, True, True], [False, True, False, False]])

functions(
    "activation", relu=F.relu, gelu=F.gelu, leaky_relu=lambda h: F.leaky_relu(h, 0.2),
    sigmoid=torch.sigmoid, tanh=lambda h: h.tanh_(), log_sigmoid=F.logsigmoid, glu=F.glu, sin=torch.sin,
    hardtanh=lambda h: F.hardtanh(h, -0.4, 0.4), exp=lambda h: h.exp(), pow=lambda h: h**3,
    clamp=lambda h: h.clamp(-0.3, 0.5), abs=abs,
)  # fmt: skip
functions("activation", relu=F.relu_)
functions("activation", many=2, maximum=torch.maximum, minimum=torch.minimum)
functions(
    "normalization", normalize=lambda h: F.normalize(h, dim=-1), layer_norm=lambda h: F.layer_norm(h, (4,)),
    batch_norm=lambda h: F.batch_norm(h, None, None, training=True),
)  # fmt: skip
functions(
    "reshaping", mean=lambda h: h.mean(0), sum=lambda h: h.sum(-1), max=lambda h: h.max(-1).values,
    logsumexp=lambda h: h.logsumexp(-1), norm=lambda h: h.norm(dim=-1), cumsum=lambda h: h.cumsum(0),
    gather=lambda h: h.gather(1, torch.tensor([[0, 2], [1, 1], [3, 0]])),
    index_select=lambda h: h.index_select(1, torch.tensor([0, 2, 2])),
    transpose=lambda h: h.transpose(0, 1), reshape=lambda h: h.reshape(2, 6), view=lambda h: h.view(-1),
    unsqueeze=lambda h: h.unsqueeze(1), repeat=lambda h: h.repeat(2, 1), getitem=lambda h: h[:, 1:],
    repeat_interleave=lambda h: h.repeat_interleave(2, 0), pad=lambda h: F.pad(h, (1, 2)),
)  # fmt: skip
functions("reshaping", getitem=lambda h: h[_MASK])
functions("reshaping", getitem=lambda h: h[torch.tensor([0, 0, 2])])
functions("reshaping", (1, 4), expand=lambda h: h.expand(5, 4))
functions(
    "reshaping", IMAGE, max_pool2d=lambda h: F.max_pool2d(h, 2), permute=lambda h: h.permute(0, 2, 3, 1),
    interpolate=lambda h: F.interpolate(h, scale_factor=0.5), flatten=lambda h: h.flatten(1),
)  # fmt: skip
functions(
    "connection", add=lambda a: a + 1.5, rsub=lambda a: 1 - a, mul=lambda a: a * a, div=lambda a: a / 2.0,
    neg=operator.neg, masked_fill=lambda a: a.masked_fill(_MASK, -2.0), dropout=lambda a: F.dropout(a, 0.4),
)  # fmt: skip
functions(
    "connection", many=2, add=operator.add, sub=operator.sub, mul=operator.mul, div=operator.truediv,
    stack=lambda *hs: torch.stack(hs), where=partial(torch.where, _MASK),
)  # fmt: skip
functions("connection", many=2, add=lambda a, b: torch.add(a, b, alpha=0.3))
functions("connection", many=2, add=lambda a, b: a.add_(b))
functions("connection", mul=lambda a: a.mul_(0.5))
functions("connection", many=3, cat=lambda *hs: torch.cat(hs, 1), addcmul=torch.addcmul)
functions("attention", softmax=lambda a: a.softmax(-1))
functions("attention", (4, 4), 2, matmul=operator.matmul)
functions("attention", (2, 4, 4), 2, bmm=torch.bmm, einsum=lambda a, b: torch.einsum("btd,bsd->bts", a, b))
sdpa = F.scaled_dot_product_attention
functions("attention", (2, 3, 4), scaled_dot_product_attention=lambda h: sdpa(h, h, h))
functions("attention", (2, 3, 4), 3, scaled_dot_product_attention=sdpa)
functions("attention", (2, 2, 5, 4), 3, scaled_dot_product_attention=partial(sdpa, is_causal=True))
functions(
    "weights", weighted=True, linear=lambda w, h: F.linear(h, w),
    matmul=lambda w, h: h @ (w * 0.5),  # what is made of a parameter alone is a weight
    bilinear=lambda w, h: F.bilinear(h, h, w[None]), addmm=lambda w, h: torch.addmm(w[0], h, w),
)  # fmt: skip
functions(
    "weights", (2, 4, 4), weighted=True, matmul=lambda w, h: h @ w.T, tensordot=lambda w, h: torch.tensordot(h, w, 1),
    einsum=lambda w, h: torch.einsum("btd,de->bte", h, w), conv1d=lambda w, h: F.conv1d(h, w[:, :, None]),
)  # fmt: skip
functions(
    "unknown", (2, 4, 4), special_erfcx=torch.special.erfcx, linalg_inv=torch.linalg.inv, linalg_det=torch.linalg.det,
    cumprod=lambda h: h.cumprod(1),
)  # fmt: skip

# -- losses, as one operation or as several ---------------------------------------------------------------------------

_CLASSES = torch.tensor([0, 3, 1, 1, 2])
_HALVES = torch.tensor([0.0, 1.0]).to(D).repeat(5, 2)


def loss(name: str, *operations: tuple[str, Function]) -> None:
    def run(t: Any, net: Net, x: Any) -> Any:
        return t("activation :tanh", torch.tanh, t("weights a", net.a, x))

    def score(t: Any, y: Any) -> Any:
        for operation, function in operations:
            y = t(f"loss :{operation}", function, y)
        return y

    add(f"loss {name}", partial(Net, run, a=linear()), randn(5, 4), score)


for _name, _function in {
    "cross_entropy": lambda y: F.cross_entropy(y, _CLASSES, label_smoothing=0.1),
    "mse_loss": lambda y: F.mse_loss(y, wave(y), reduction="sum"),
    "l1_loss": lambda y: F.l1_loss(y, wave(y)),
    "smooth_l1_loss": lambda y: F.smooth_l1_loss(y, wave(y)),
    "huber_loss": lambda y: F.huber_loss(y, wave(y), delta=0.3),
    "binary_cross_entropy_with_logits": lambda y: F.binary_cross_entropy_with_logits(y, _HALVES),
    "kl_div": lambda y: F.kl_div(y, wave(y).softmax(-1), reduction="batchmean"),
    "multi_margin_loss": lambda y: F.multi_margin_loss(y, _CLASSES),
}.items():
    loss(_name, (_name, _function))
loss("of squares", ("sub", lambda y: y - wave(y)), ("pow", lambda d: d.pow(2)), ("mean", torch.mean))
loss("of logs", ("log_softmax", lambda y: y.log_softmax(-1)), ("nll_loss", lambda y: F.nll_loss(y, _CLASSES)))
loss("module", ("cross_entropy", lambda y: nn.CrossEntropyLoss()(y, _CLASSES)))
