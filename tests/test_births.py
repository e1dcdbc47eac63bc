"""Where NaN and Inf are born: every known way to make one, planted in a small network, must be named."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import gradiometer as gm
from first_bad import FirstBad, finite, first_bad_node

Function = Callable[[Tensor], Tensor]
Planted = tuple[nn.Module, Any, Callable[[Any, Any], Tensor]]

NAN, INF = math.nan, math.inf
PLAIN = torch.tensor([[1.0, 2.0, 3.0, 4.0], [4.0, 3.0, 2.0, 1.0]])
ZEROS = torch.tensor([[0.0, 2.0, 3.0, 0.0], [4.0, 0.0, 2.0, 1.0]])  # three zeros
SIGNED = torch.tensor([[-1.0, 2.0, -3.0, 4.0], [4.0, 3.0, -2.0, 1.0]])  # three are negative
ROW = torch.tensor([[0.0, 0.0, 0.0, 0.0], [4.0, 3.0, 2.0, 1.0]])
CONSTANT = torch.tensor([[3.0, 3.0, 3.0, 3.0], [4.0, 3.0, 2.0, 1.0]])
EDGE = torch.tensor([[1.0, 0.5, 0.25, 0.5], [0.5, 1.0, 0.5, 0.25]])
LARGE = torch.tensor([[1.0, 2.0, 3.0, 200.0], [4.0, 3.0, 2.0, 1.0]])
WHOLE_ROW = torch.tensor([[True, True, True, True], [False, False, False, True]])
SOME = torch.tensor([[False, True, True, True], [False, False, False, True]])
LABELS, PADDING = torch.tensor([[0], [1]]), torch.tensor([[True], [False]])


@dataclass(frozen=True)
class Case:
    """A birth, and what must be said of it.

    ``made`` is what torch calls the operation, where it is not our name for it: the aten function of a forward birth,
    the node of a backward one; ``None`` where nothing is made that was not there before. ``facts`` must be among the
    birth's ``inputs``, ``words`` in its reason.
    """

    name: str
    direction: str
    operation: str
    site: str
    plant: Callable[[], Planted]
    facts: dict[str, Any]
    words: str
    made: str | None
    warns: bool


def born(
    direction: str, name: str, where: str, plant: Callable[[], Planted], words: str = "", *, made: str | None = "",
    warns: bool = False, **facts: Any,
) -> Case:  # fmt: skip
    """``where`` is the site, with the operation behind it if it is not in the site's own name."""
    site, _, operation = where.partition(" ")
    operation = operation or site.rpartition(":")[2].partition(".")[0]
    return Case(name, direction, operation, site, plant, facts, words, made, warns)


forward, backward = partial(born, "forward"), partial(born, "backward")

# -- what is planted --------------------------------------------------------------------------------------------------


class Middle(nn.Module):
    """A function in the middle of a network, and the part with a weight that it uses, if any."""

    def __init__(self, function: Callable[..., Tensor], inner: nn.Module | nn.Parameter | None = None) -> None:
        super().__init__()
        self.function, self.inner = function, inner

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x) if self.inner is None else self.function(self.inner, x)


def copying(factor: float = 1.0) -> nn.Linear:
    """A layer that hands on what it gets, so that what arrives behind it is known to the bit."""
    layer = nn.Linear(4, 4)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(4) * factor)
    nn.init.zeros_(layer.bias)
    return layer


def net(middle: nn.Module | Function, last: nn.Module | None = None) -> nn.Sequential:
    torch.manual_seed(0)
    inner = middle if isinstance(middle, nn.Module) else Middle(middle)
    return nn.Sequential(OrderedDict(first=copying(), mid=inner, last=last or nn.Linear(4, 2)))


def squares(outputs: Tensor, _: Any = None) -> Tensor:
    return outputs.square().mean()


def inside(middle: nn.Module | Function, x: Tensor = PLAIN) -> Callable[[], Planted]:
    """The function runs in the middle of a network."""
    return lambda: (net(middle), (x, None), squares)


def behind(
    loss: Callable[[Tensor, Any], Tensor], x: Tensor = PLAIN, target: Any = None, middle: nn.Module | None = None
) -> Callable[[], Planted]:
    """The function is the loss of a network that hands on what it gets."""
    return lambda: (net(middle or nn.Identity(), copying()), (x, target), loss)


def narrow(middle: nn.Module | Function, x: Tensor = PLAIN, d: torch.dtype = torch.float16) -> Callable[[], Planted]:
    """The same network in half precision; the loss is taken in float32 and does not overflow itself."""
    return lambda: (net(middle).to(d), (x.to(d), None), lambda out, _: out.float().square().mean())


def spoiled(middle: nn.Module, name: str, value: float) -> Callable[[], Planted]:
    """A bad number stands in one place of a parameter or a buffer."""

    def plant() -> Planted:
        model = net(middle).eval()
        with torch.no_grad():
            model.state_dict()[name].view(-1)[-1] = value
        return model, (PLAIN, None), squares

    return plant


def linear(weight: float) -> nn.Linear:
    layer = nn.Linear(4, 4, bias=False)
    nn.init.constant_(layer.weight, weight)
    return layer


class Unsafe(torch.autograd.Function):
    """A root, or a logarithm, whose author forgot the zero."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, log: bool) -> Tensor:
        ctx.save_for_backward(x)
        ctx.log = log
        return x.log() if log else x.sqrt()

    @staticmethod
    def backward(ctx: Any, *g: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return g[0] / (x if ctx.log else 2 * x.sqrt()), None


class Scores(nn.Module):
    """Attention by hand: scores, mask, softmax, mean of values."""

    def __init__(self, mask: Tensor, how: str) -> None:
        super().__init__()
        self.query, self.key = copying(), copying()
        self.mask, self.how = mask[:, :2], how

    def forward(self, x: Tensor) -> Tensor:
        scores, mask, how = self.query(x) @ self.key(x).mT / 2, self.mask, self.how
        added = torch.zeros(mask.shape).masked_fill(mask, -INF)
        if how in ("fill", "hand", "shifted"):
            scores = scores.masked_fill(mask, -INF)
        elif how == "add":
            scores = scores + added
        elif how == "where":
            scores = torch.where(mask, torch.tensor(-INF), scores)
        elif how == "put":
            scores[mask] = -INF
        elif how == "iadd":
            scores += added
        else:
            scores = scores + mask.float() * -INF  # 0 * -inf is NaN where nothing is masked
        if how == "shifted":
            scores = scores - scores.amax(-1, keepdim=True)
        if how in ("hand", "shifted"):
            e = scores.exp()
            return (e / e.sum(-1, keepdim=True)) @ x
        return scores.softmax(-1) @ x


def attended(attention: nn.Module, x: Tensor) -> Tensor:
    return attention(x[:, None], x[:, None], x[:, None], key_padding_mask=PADDING)[0][:, 0]


def cast(layer: nn.Module, x: Tensor) -> Tensor:
    """A part that runs under autocast: its weight is float32, and what it gives is float16."""
    with torch.autocast("cpu", torch.float16):
        return layer(x).float()


def without_last() -> nn.Module:
    """Masks the last class, as a policy forbids a move."""
    last = torch.tensor([False, False, False, True])
    return Middle(lambda layer, x: layer(x).masked_fill(last, -INF), copying())


def classes(targets: list[int], last: nn.Module | None = None) -> Callable[[], Planted]:
    return lambda: (net(nn.Identity(), last or copying()), (PLAIN, torch.tensor(targets)), F.cross_entropy)


def with_row_of_nan() -> Planted:
    model = nn.Sequential(OrderedDict(table=nn.Embedding(5, 4), out=nn.Linear(4, 2)))
    nn.init.constant_(model.table.weight[3], NAN)
    return model, (torch.tensor([1, 3]), None), squares


def half_backward() -> Planted:
    """The gradient is 300 * 4 at the last layer and the sum over it 1e6 at the one before: more than float16 holds."""
    return net(linear(0.0), linear(300.0)).half(), (PLAIN.half(), None), lambda out, _: (out.float() * 300).sum()


def half_weight() -> Planted:
    """The signal's gradient fits, and that of the weight, a sum of products with inputs of 300, does not."""
    x = torch.full((64, 4), 300.0).half()
    return net(linear(0.001)).half(), (x, None), lambda out, _: (out.float() * 30).sum()


def scaled() -> Planted:
    """A loss scale that overflows where the gradient passes from float32 into float16."""
    return net(copying()).half(), (PLAIN.half(), None), lambda out, _: out.float().sum() * 1e6


def hooked(h: Tensor) -> Tensor:
    """A hook that normalizes the gradient, and divides by a zero of its own."""
    h = h * 2
    h.register_hook(lambda g: g / (g - g))
    return h


def by_hand(outputs: Tensor, targets: Tensor) -> Tensor:
    e = outputs.exp()
    return likelihood(e / e.sum(-1, keepdim=True), targets)


def kept(function: Function) -> Function:
    return lambda h: checkpoint(function, h, use_reentrant=False)


def where(function: Function) -> Function:
    return lambda h: torch.where(h > 0, function(h), 0.0)


def entropy(p: Tensor, t: Any) -> Tensor:
    return -(t * p.log() + (1 - t) * (1 - p).log()).mean()


def divergence(p: Tensor, q: Tensor) -> Tensor:
    return (p * (p / q).log()).sum()


def likelihood(p: Tensor, targets: Tensor) -> Tensor:
    return -p.log().gather(1, targets).mean()


def log_of_0(out: Tensor, _: Any) -> Tensor:
    return (out - out).log().sum()


def padded(h: Tensor) -> Tensor:
    return F.pad(h, (0, 2), value=-INF).unfold(-1, 3, 1).amax(-1)


def distance(out: Tensor, targets: Tensor) -> Tensor:
    return (out - targets).square().sum(-1).sqrt().mean()


SINGLE, BRAIN = ({"largest": 200.0, "format": name} for name in ("float32", "bfloat16"))
half = partial(forward, words="overflow", format="float16", format_largest=65504.0)
NORMED = nn.utils.parametrizations.weight_norm(linear(0.0))

FORWARD = [
    # a domain left, in the middle of a network
    forward("log of zero", "mid:log", inside(torch.log, ZEROS), "zero", zeros=3),
    forward("log of a negative", "mid:log", inside(torch.log, SIGNED), "negative", negative=3),
    forward("log in place", "mid:log", inside(lambda h: (h * 1).log_(), ZEROS), "zero", zeros=3),
    forward("log1p of -1", "mid:log1p", inside(lambda h: torch.log1p(-h)), largest=4.0),
    forward("root of a negative", "mid:sqrt", inside(torch.sqrt, SIGNED), "negative", negative=3),
    forward("rsqrt of zero", "mid:rsqrt", inside(torch.rsqrt, ROW), "zero", zeros=4),
    forward("reciprocal", "mid:reciprocal", inside(torch.reciprocal, ZEROS), zeros=3),
    forward("1 / x", "mid:div", inside(lambda h: 1 / h, ZEROS), "zero", made="reciprocal", zeros=3),
    forward("x / 0", "mid:div", inside(lambda h: PLAIN / h, ZEROS), "denominator", zeros=3),
    forward("0 / 0", "mid:div", inside(lambda h: h / h, ZEROS), "denominator", zeros=3),
    forward("a zero that is a number", "mid:div", inside(lambda h: h / (len(h) - 2)), zeros=1),
    forward("normed by hand", "mid:div", inside(lambda h: h / h.norm(dim=-1)[:, None], ROW), "denominator", zeros=1),
    forward("by a spread of zero", "mid:div", inside(lambda h: h / h.std(-1, keepdim=True), CONSTANT), zeros=1),
    forward("std of one example", "mid:std", inside(lambda h: h / h.std(0), PLAIN[:1]), warns=True),
    forward("mean of nothing", "mid:mean", inside(lambda h: h + h[h > 9].mean())),
    forward("0 ** -1", "mid:pow", inside(lambda h: h**-1, ZEROS), zeros=3),
    forward("negative ** 0.3", "mid:pow", inside(lambda h: h**0.3, SIGNED), negative=3),
    forward("acos beyond one", "mid:acos", inside(torch.acos), largest=4.0),
    forward("atanh of one", "mid:atanh", inside(torch.atanh, EDGE), largest=1.0),
    forward("logit of zero", "mid:logit", inside(lambda h: h.clamp(0, 1).logit(), ZEROS)),
    forward("log in a user's function", "mid:log", inside(lambda h: Unsafe.apply(h, True), ZEROS), zeros=3),
    forward("log inside a checkpoint", "mid:log", inside(kept(torch.log), ZEROS), "zero", zeros=3),
    # overflow
    forward("exp in float32", "mid:exp", inside(torch.exp, LARGE), "overflow", **SINGLE),
    forward("exp in bfloat16", "mid:exp", narrow(torch.exp, LARGE, torch.bfloat16), "overflow", **BRAIN),
    half("exp", "mid:exp", narrow(torch.exp, PLAIN * 4), largest=16.0),
    half("linear", "mid linear", narrow(linear(8e3)), made="mm", largest=8e3),
    half(
        "a third call", "mid.inner.2 linear", narrow(Middle(lambda f, x: f(f(f(x))), copying(30.0))), made="mm",
        largest=3600.0,
    ),
    half("scores", "mid:matmul", narrow(lambda h: (h @ h.mT).softmax(-1) @ h, PLAIN * 80), made="mm", largest=320.0),
    half("square", "mid:square", narrow(torch.square, PLAIN * 100), made="pow", largest=400.0),
    half("sum", "mid:sum", narrow(lambda h: h * h.sum(-1, keepdim=True), PLAIN * 1e4), largest=4e4),
    half("product", "mid:mul", narrow(lambda h: h * h, PLAIN * 100)),
    half("autocast", "mid.inner linear", inside(Middle(cast, linear(8e3))), made="mm", largest=8e3),
    half(
        "convolution", "mid:conv1d", narrow(lambda h: F.conv1d(h[:, None], h.new_full((1, 1, 1), 2e4))[:, 0]),
        made="convolution", largest=2e4,
    ),
    half("conversion", "mid:half", inside(lambda h: h.half().float(), PLAIN * 2e4), made="to_copy", largest=8e4),
    half("cumprod", "mid:cumprod", narrow(lambda h: h.cumprod(-1), PLAIN * 30)),
    # to minus infinity alone: looks like a mask, and is none
    half("sum of residuals", "mid:add", narrow(lambda h: h + h, PLAIN * -1e4), largest=4e4),
    half("difference", "mid:sub", narrow(lambda h: -h - h, PLAIN * 1e4)),
    # masks
    *(
        forward(f"a masked row ({how})", "mid:softmax", inside(Scores(WHOLE_ROW, how)), "masked", masked_rows=1)
        for how in ("fill", "add", "where", "put", "iadd")
    ),
    forward("a masked row, softmax by hand", "mid:div.1", inside(Scores(WHOLE_ROW, "hand")), "denominator", zeros=1),
    forward("a masked row, shifted", "mid:sub", inside(Scores(WHOLE_ROW, "shifted"))),
    forward(
        "a masked row, attention of torch.nn", "mid.inner multihead_attention",
        inside(Middle(attended, nn.MultiheadAttention(4, 2, batch_first=True))), made="softmax",
    ),
    forward("a mask made as 0 * -inf", "mid:mul", inside(Scores(SOME, "times"))),
    forward(
        "logsumexp of nothing", "loss:logsumexp",
        behind(lambda out, _: out.masked_fill(WHOLE_ROW, -INF).logsumexp(-1).sum()), made=None, masked_rows=1,
    ),
    forward("log behind a sound mask", "loss:log", behind(log_of_0, middle=Scores(SOME, "fill")), "zero", zeros=8),
    forward("log behind sound padding", "loss:log", behind(log_of_0, middle=Middle(padded)), "zero", zeros=8),
    forward("a target that is masked", "loss:cross_entropy", classes([0, 3], without_last()), made="nll_loss"),
    # normalizations whose guard was taken away
    forward("layer norm", "mid layer_norm", inside(nn.LayerNorm(4, eps=0.0), CONSTANT)),
    forward("F.layer_norm", "mid:layer_norm", inside(lambda h: F.layer_norm(h, (4,), eps=0.0), CONSTANT)),
    forward("rms norm", "mid rms_norm", inside(nn.RMSNorm(4, eps=0.0), ROW), made="rsqrt"),
    # bad weights, bad data
    forward("NaN in a weight", "mid parameter", spoiled(nn.Linear(4, 4), "mid.weight", NAN), "1 NaN"),
    forward("Inf in a bias", "last parameter", spoiled(nn.ReLU(), "last.bias", INF), "1 Inf"),
    forward("a frozen weight", "mid parameter", spoiled(copying().requires_grad_(False), "mid.weight", NAN), "1 NaN"),
    forward(
        "NaN in a weight that a function uses", "mid:linear parameter",
        spoiled(Middle(lambda w, x: F.linear(x, w), nn.Parameter(torch.eye(4))), "mid.inner", NAN), "1 NaN",
    ),
    forward(
        "NaN in a recurrent weight", "mid.inner parameter",
        spoiled(Middle(lambda gru, x: gru(x)[0], nn.GRU(4, 4)), "mid.inner.weight_hh_l0", NAN), "1 NaN",
    ),
    forward("NaN in a variance", "mid buffer", spoiled(nn.BatchNorm1d(4), "mid.running_var", NAN), "1 NaN"),
    forward("a row of NaN in a table", "table parameter", with_row_of_nan, "4 NaN"),
    forward("weight norm of zeros", "mid.parametrizations.weight.0:weight_norm", inside(NORMED), zeros=20),
    forward("NaN in the batch", "input input", inside(nn.ReLU(), PLAIN / ROW * ROW), "4 NaN"),
    forward("Inf in the batch", "input input", inside(nn.ReLU(), PLAIN / ROW), "4 Inf"),
    forward("bad targets", "input input", lambda: (net(nn.ReLU()), (PLAIN, PLAIN[:, :2] * NAN), F.mse_loss), "4 NaN"),
    # in the loss
    forward("cross-entropy by hand", "loss:log.1", behind(entropy, EDGE, torch.ones(2, 4) / 2), "zero", zeros=2),
    forward("log-softmax by hand", "loss:exp", behind(by_hand, LARGE, LABELS), "overflow", **SINGLE),
    forward("log of softmax", "loss:log", behind(likelihood, LARGE, LABELS, nn.Softmax(-1)), "zero", zeros=3),
    forward("divergence from zero", "loss:log", behind(divergence, ZEROS, PLAIN), "zero", zeros=3),
    forward("divergence to zero", "loss:div", behind(divergence, PLAIN, ZEROS), "denominator", zeros=3),
    forward("all ignored", "loss:cross_entropy", classes([-100, -100]), made="nll_loss"),
    forward(
        "weights of a loss that are all zero", "loss:div",
        behind(lambda out, w: (out.square() * w).sum() / w.sum(), PLAIN, torch.zeros(4)), "denominator", zeros=1,
    ),
    forward("mean over no example", "loss:mean", behind(lambda out, t: out[t > 0].mean(), PLAIN, torch.zeros(2, 4))),
    half(
        "nn.MSELoss", "loss:mse_loss",
        lambda: (net(copying(), copying()).half(), ((PLAIN * 300).half(), ZEROS.half()), nn.MSELoss()), largest=1200.0,
    ),
]  # fmt: skip

BACKWARD = [
    backward("root of zero", "mid:sqrt", inside(torch.sqrt, ZEROS), "zero", zeros=3),
    backward("root in place", "mid:sqrt", inside(lambda h: (h * 1).sqrt_(), ZEROS), zeros=3),
    backward("0 ** 0.5", "mid:pow", inside(lambda h: h**0.5, ZEROS), "zero", zeros=3),
    backward("0 ** tensor", "mid:pow", inside(lambda h: h ** torch.tensor(0.25), ZEROS), "zero", zeros=3),
    backward("cube root", "mid:pow", inside(lambda h: h.sign() * h.abs().pow(1 / 3), ROW), "zero", zeros=4),
    backward("norm by hand", "mid:sqrt", inside(lambda h: h / (1 + h.square().sum().sqrt()), ROW * 0), "zero", zeros=1),
    backward("std by hand", "mid:sqrt", inside(lambda h: h / (1 + h[0].var().sqrt()), CONSTANT), "zero", zeros=1),
    backward("log behind where", "mid:log", inside(where(torch.log), ZEROS), "zero", zeros=3),
    backward("root behind where", "mid:sqrt", inside(where(torch.sqrt), ZEROS), "zero", zeros=3),
    backward("division behind where", "mid:div", inside(where(lambda h: PLAIN / h), ZEROS), "zero", zeros=3),
    backward("nan_to_num", "mid:div", inside(lambda h: (h / h).nan_to_num(0.0), ZEROS), "zero", zeros=3),
    backward("sigmoid by hand", "mid:exp", inside(lambda h: 1 / (1 + (-h).exp()), -LARGE), "overflow", **SINGLE),
    backward("acos of one", "mid:acos", inside(torch.acos, EDGE), largest=1.0),
    backward("acosh of one", "mid:acosh", inside(lambda h: h.clamp(min=1).acosh())),
    backward("hypot of nothing", "mid:hypot", inside(lambda h: h.hypot(h), ZEROS), zeros=6),
    backward("x log x of zero", "mid:xlogy", inside(lambda h: torch.xlogy(h, h), ZEROS), zeros=6),
    backward(
        "eigenvectors of equal eigenvalues", "mid:linalg_eigh",
        inside(lambda h: torch.linalg.eigh(torch.diag(h[0]))[1][:2], torch.ones(2, 4)),
    ),
    backward("a user's function", "mid:unsafe", inside(lambda h: Unsafe.apply(h, False), ZEROS), zeros=3),
    backward(
        "a learned variance of zero", "mid:sqrt",
        inside(Middle(lambda variance, x: x * variance.sqrt(), nn.Parameter(torch.zeros(4)))), "zero", zeros=4,
    ),
    backward("gradient in float16", "last linear", half_backward, "overflow", made="mm", format="float16"),
    backward("of a weight", "mid linear", half_weight, "overflow", made="mm", format="float16", largest=300.0),
    backward("loss scaled", "loss:float", scaled, "overflow", made="ToCopy", format="float16", largest_gradient=1e6),
    backward("a hook of the user's", "mid:mul hook", inside(hooked)),
    backward("root inside a checkpoint", "mid:sqrt", inside(kept(torch.sqrt), ZEROS), "zero", zeros=3),
    backward("root of loss", "loss:sqrt", behind(lambda y, t: F.mse_loss(y, t).sqrt(), PLAIN, PLAIN), "zero", zeros=1),
    backward("distance in the loss", "loss:sqrt", behind(distance, PLAIN, PLAIN[:1]), "zero", zeros=1),
    backward("log, clamped", "loss:log", behind(lambda out, _: out.log().clamp(min=-9).sum(), ZEROS), "zero", zeros=3),
    backward("log where", "loss:log", behind(lambda out, _: where(torch.log)(out).sum(), ZEROS), "zero", zeros=3),
    # the gradient of zero that `where` sends back is multiplied with log 0, which it had hidden
    backward("x log x where", "loss:mul", behind(lambda out, _: where(lambda h: h * h.log())(out).sum(), ZEROS), "Inf"),
]  # fmt: skip

ALLOWED = torch.tensor([[True, False], [True, True]])
MASKS = ("fill", "add", "where", "put", "iadd", "hand", "shifted")
HEALTHY: dict[str, Callable[[], Planted]] = {  # though some have infinities inside, or guard against them
    "plain": inside(nn.ReLU()),
    **{f"mask ({how})": inside(Scores(SOME, how)) for how in MASKS},
    "attention": inside(lambda h: F.scaled_dot_product_attention(h, h, h, attn_mask=ALLOWED)),
    "attention, nothing allowed": inside(lambda h: F.scaled_dot_product_attention(h, h, h, attn_mask=~ALLOWED)),
    "log, clamped before": inside(lambda h: h.clamp(min=1e-6).log(), ZEROS),
    "division, guarded": inside(lambda h: PLAIN / (h + 1e-6), ZEROS),
    "where, guarded twice": inside(where(lambda h: torch.where(h > 0, h, 1.0).log()), ZEROS),
    "F.normalize of zero": inside(lambda h: F.normalize(h, dim=-1), ROW),
    "norm of zero": inside(lambda h: h + h.norm(dim=-1, keepdim=True), ROW),
    "std of a constant": inside(lambda h: h + h.std(-1, keepdim=True), CONSTANT),
    "abs of a complex zero": inside(lambda h: torch.complex(h, h).abs(), ZEROS),
    "cumprod of zero": inside(lambda h: h.cumprod(-1), ZEROS),
    "prod of zero": inside(lambda h: h * h.prod(-1, keepdim=True), ZEROS),
    "layer norm of a constant": inside(nn.LayerNorm(4), CONSTANT),
    "batch norm of a constant": inside(nn.BatchNorm1d(4), torch.ones(2, 4)),
    "entropy of certainty": behind(F.binary_cross_entropy, EDGE, torch.ones(2, 4) / 2),
    "overflow that softmax takes": inside(lambda h: (h * 1e30).softmax(-1)),
    "maximum over padding": inside(lambda h: h * padded(h)),
    "logsumexp over padding": inside(lambda h: h + h.masked_fill(SOME, -INF).logsumexp(-1, keepdim=True)),
    "infinity in a buffer that is compared": inside(lambda h: h.minimum(torch.tensor(INF))),
    "float16": narrow(nn.LayerNorm(4)),
    "a class that is masked": classes([0, 2], without_last()),
    "a running maximum": inside(lambda h: torch.full((2, 4), -INF).maximum(h)),
    "some targets ignored": classes([-100, 1]),
}  # fmt: skip

# -- the table itself, against what is found without the program ------------------------------------------------------


def run(planted: Planted) -> Tensor:
    model, (x, target), loss = planted
    x = x.clone()
    if x.is_floating_point():
        x = x.requires_grad_().clone()
    return loss(model(x), target)


def matches(ours: str, name: str) -> bool:
    """Whether a name of ours is that of a function of aten or of a node."""
    plain = name.lower().replace("_", "")
    return ours.lower().replace("_", "") in plain


def named(cases: list[Case]) -> list[Any]:
    warned = pytest.mark.filterwarnings("ignore::UserWarning")  # torch's own, of what is planted
    return [pytest.param(c, id=c.name.replace(" ", "-"), marks=[warned] if c.warns else []) for c in cases]


@pytest.mark.parametrize("case", named([c for c in FORWARD if c.operation not in ("parameter", "input", "buffer")]))
def test_the_table_is_right_about_forward(case: Case) -> None:
    mode = FirstBad()
    planted = case.plant()
    with mode:
        loss = run(planted)
    assert not finite(loss)
    if case.made is None:
        assert not mode.found
    else:
        assert matches(case.made or case.operation, mode.found[0]), mode.found


@pytest.mark.parametrize("case", named(BACKWARD))
def test_the_table_is_right_about_backward(case: Case) -> None:
    loss = run(case.plant())
    assert finite(loss)
    node = first_bad_node(loss)
    if case.operation == "hook":
        assert not node  # between two nodes
    else:
        assert matches(case.made or case.operation, node), node


# -- the program ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", named(FORWARD + BACKWARD))
def test_a_birth_is_named(case: Case) -> None:
    reading = gm.measure(*case.plant())
    birth = reading.birth
    assert birth is not None
    assert (birth.direction, birth.operation, birth.site) == (case.direction, case.operation, case.site), birth
    assert case.words in birth.reason, birth
    for key, value in case.facts.items():
        expected = pytest.approx(value, rel=1e-2) if isinstance(value, float) else value
        assert birth.inputs.get(key) == expected, (key, birth)
    assert all(math.isfinite(v) for v in birth.inputs.values() if isinstance(v, float)), birth
    assert reading.to_dict()["birth"]["operation"] == case.operation


@pytest.mark.parametrize("plant", HEALTHY.values(), ids=HEALTHY)
def test_what_is_healthy_is_not_blamed(plant: Callable[[], Planted]) -> None:
    loss = run(plant())
    assert finite(loss)
    assert not first_bad_node(loss)  # infinite values may be inside, but no gradient is touched by them
    assert gm.measure(*plant()).birth is None


def test_the_table_is_long_enough() -> None:
    assert len(FORWARD) + len(BACKWARD) >= 90
    assert len({c.name for c in FORWARD + BACKWARD}) == len(FORWARD + BACKWARD)
