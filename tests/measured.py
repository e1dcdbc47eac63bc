"""What `measure` must take and leave as it is: kinds of model, batch and loss, and all that could bear a trace."""

from __future__ import annotations

import random
from collections import UserDict, deque, namedtuple
from collections.abc import Callable, Mapping
from dataclasses import dataclass, make_dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence
from torch.optim import optimizer
from torch.utils.checkpoint import CheckpointFunction, checkpoint

from trainings import Net, mlp

# -- everything that could bear a trace -------------------------------------------------------------------------------


def places() -> dict[str, Any]:
    """What the instrument may replace or set while it needs to."""
    steps = (optimizer._global_optimizer_pre_hooks, optimizer._global_optimizer_post_hooks)
    return {
        "calls": (nn.Module.__call__, torch.autograd.backward, torch.autograd.grad, torch.amp.GradScaler.scale),
        "checkpoint": (vars(CheckpointFunction).get("apply"), CheckpointFunction.backward),
        "steps": [hook.__qualname__ for hooks in steps for hook in hooks.values()],
        "cudnn": (torch.backends.cudnn.enabled, torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic),
        "mkldnn": torch.backends.mkldnn.enabled,
        "grad mode": (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_anomaly_enabled()),
        "autocast": (torch.is_autocast_enabled("cpu"), torch.is_autocast_cache_enabled()),
        "dtype and mode": (torch.get_default_dtype(), torch.overrides._get_current_function_mode()),
    }


def bits(x: Tensor) -> tuple[Any, ...]:
    x = x.detach()
    if x.is_sparse:
        return bits(x._indices()), bits(x._values()), x.is_coalesced()
    x = torch.view_as_real(x) if x.is_complex() else x
    return x.dtype, tuple(x.shape), x.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def print_of_tensor(x: Tensor) -> tuple[Any, ...]:
    gradient = print_of(x.grad) if x.is_leaf and x.grad is not None else None
    hooks = len(x._backward_hooks or ()), len(getattr(x, "_post_accumulate_grad_hooks", None) or ())
    # The count of changes is what a backward pass that is still to come asks for.
    return x.requires_grad, x.is_leaf, None if x.is_inference() else x._version, hooks, bits(x), gradient


HELD: dict[Any, Callable[[Any], Any]] = {
    Tensor: print_of_tensor,
    np.ndarray: np.ndarray.tobytes,
    torch.Generator: lambda g: bits(g.get_state()),
    np.random.Generator: lambda g: repr(g.bit_generator.state),
    random.Random: random.Random.getstate,
    Mapping: lambda held: [(key, print_of(value)) for key, value in held.items()],
    (list, tuple, deque): lambda held: [print_of(value) for value in held],
    set: lambda held: sorted(map(repr, held)),
}


def print_of(value: Any) -> Any:
    """Of any value what may not change: which object it is, and what it holds."""
    return id(value), next((held(value) for kinds, held in HELD.items() if isinstance(value, kinds)), None)


def state(model: nn.Module, *others: Any) -> dict[str, Any]:
    """Everything that a pass may change: of a model, of the process, and of ``others`` (batch, loss)."""
    out: dict[str, Any] = {
        "torch's random state": bits(torch.get_rng_state()),
        "numpy's random state": (lambda s: (s[1].tobytes(), *s[2:]))(np.random.get_state()),
        "python's random state": random.getstate(),
        **places(),
    }
    for i, root in enumerate((model, *others)):
        out[f"{i}"] = print_of(root)
        for path, module in root.named_modules() if isinstance(root, nn.Module) else ():
            out[f"{i} class of {path}"] = type(module)
            held = vars(module)
            if isinstance(module, torch.jit.ScriptModule):
                held = dict((*module.named_parameters(), *module.named_buffers()))
            out |= {f"{i} {path}.{name}": print_of(value) for name, value in held.items()}
    return out


def assert_same(before: dict[str, Any], after: dict[str, Any]) -> None:
    changed = sorted(name for name in before.keys() | after.keys() if before.get(name, ()) != after.get(name, ()))
    assert not changed, f"a trace is left in: {', '.join(changed)}"


# -- kinds of model, batch and loss -----------------------------------------------------------------------------------


@dataclass
class Case:
    model: nn.Module
    batch: Any
    loss: Callable[..., Tensor] | None = F.mse_loss

    def plain(self) -> Tensor:
        """The loss as the training computes it."""
        given, targets = (self.batch,) * 2 if isinstance(self.batch, Mapping) else self.batch
        if isinstance(given, Mapping):
            output = self.model(**given)
        elif isinstance(given, (tuple, list)) and not isinstance(given, PackedSequence):
            output = self.model(*given)
        else:
            output = self.model(given)
        if self.loss is not None:
            return self.loss(output, targets)
        if isinstance(output, Mapping):
            return output["loss"]
        return output[0] if isinstance(output, tuple) else output.loss


def x() -> Tensor:
    return torch.randn(8, 6)


def pair(*shape: int, out: int = 3) -> tuple[Tensor, Tensor]:
    return torch.randn(*(shape or (8, 6))), torch.randn(shape[0] if shape else 8, out)


def one(forward: Callable[..., Any], inputs: Any = None, loss: Any = F.mse_loss, **parts: Any) -> Case:
    given, targets = pair()
    return Case(Net(forward, **(parts or {"body": mlp()})), (given if inputs is None else inputs, targets), loss)


def parts(width: int = 4, frozen: bool = False) -> dict[str, nn.Module]:
    return {"a": nn.Linear(6, width).requires_grad_(not frozen), "b": nn.Linear(width, 3)}


def tokens(*layers: nn.Module) -> Case:
    return Case(nn.Sequential(*layers), (torch.randint(20, (6, 3)), torch.randint(4, (6,))), F.cross_entropy)


Points = namedtuple("Points", "near far")
Output = make_dataclass("Output", ("loss", "logits"))


class Classifier(nn.Module):  # as Hugging Face has them; `kind` is what is returned
    def __init__(self, kind: Callable[[Any], Any] = lambda output: output) -> None:
        super().__init__()
        self.body, self.kind = mlp(), kind

    def forward(self, x: Tensor, labels: Tensor | None = None, scale: float = 1.0) -> Any:
        logits = self.body(x) * scale
        return self.kind(Output(None if labels is None else F.cross_entropy(logits, labels), logits))


def labelled(kind: Any = lambda output: output, loss: Any = None, batch: Any = dict) -> Case:
    return Case(Classifier(kind), batch({"x": x(), "labels": torch.randint(3, (8,))}), loss)


class Sigmoid(torch.autograd.Function):
    """By the name of an operation of torch, as many write it; counts how often each way is gone."""

    ways: list[str] = []  # noqa: RUF012

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        Sigmoid.ways.append("forward")
        ctx.save_for_backward(y := x.sigmoid())
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        Sigmoid.ways.append("backward")
        y = ctx.saved_tensors[0]
        return g * y * (1 - y)


Cubic = type("Cubic", (Sigmoid,), {"__doc__": "By a name of its own."})


def noisy(m: nn.Module, x: Tensor) -> Tensor:
    own = torch.randn(x.shape, generator=m.torch) + float(m.numpy.random()) + m.python.random()
    return m.body(x + own + torch.randn_like(x) * random.random() + float(np.random.rand()))


def busy(m: nn.Module, x: Tensor) -> Tensor:
    """Replaces, adds and fills all that a module can hold."""
    m.seen = m.seen + 1
    m.calls += 1
    m.register_buffer("late", x.detach().mean(0))
    m.history.append(len(m.history))
    m.cache["last"] = m.cache.get("last", 0) + 1
    m.recent.append(x.detach().mean().item())
    m.steps.add(m.calls)
    m.counts[0] += 1
    m.average.mul_(0.9).add_(x.detach().mean(0), alpha=0.1)
    m.last = m.body(x - m.average)
    m.last.retain_grad()
    m.body[0].bias.requires_grad_(False)
    m.eval()
    return m.last


def attributes() -> dict[str, Any]:
    buffers = {"seen": nn.Buffer(torch.zeros(())), "center": nn.Parameter(torch.ones(3))}
    plain = {"calls": 0, "history": [], "cache": {}, "recent": deque(maxlen=2), "steps": set(), "last": None}
    return plain | {"counts": np.zeros(2), "average": torch.zeros(6), **buffers}


def quantized(m: nn.Module, x: Tensor) -> Tensor:
    # Codes that follow the data are changed in forward, and the gradient goes straight through.
    h = m.a(x)
    near = torch.cdist(h, m.codes).argmin(1)
    q = m.codes[near]
    m.codes[near] = 0.9 * m.codes[near] + 0.1 * h.detach()
    return m.b(h * m.codes.std() + (q - h).detach())


def checkpointed(reentrant: bool) -> Case:
    inner = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.3), nn.ReLU(inplace=True))
    return one(lambda m, x: m.b(checkpoint(m.inner, m.a(x), use_reentrant=reentrant)), inner=inner, **parts())


def recurrent(layer: type[nn.RNNBase]) -> Case:
    parts = {"rnn": layer(6, 5), "out": nn.Linear(5, 3)}
    return one(lambda m, x: m.out(m.rnn(x)[0].sum(0)), torch.randn(7, 8, 6), **parts)


def packed() -> Case:
    made, lengths = recurrent(nn.GRU), torch.tensor([7, 6, 6, 5, 5, 5, 2, 1])
    made.model._forward = lambda m, x: m.out(pad_packed_sequence(m.rnn(x)[0])[0].sum(0))
    made.batch = pack_padded_sequence(made.batch[0], lengths), made.batch[1]
    return made


def hooked() -> Case:
    made = Case(mlp(), pair())
    once = made.model[0].register_forward_hook(lambda *_: once.remove())
    made.model[0].register_forward_pre_hook(lambda m, args: (args[0] * 2,))
    made.model[2].register_forward_hook(lambda m, args, y: y + 1)
    made.model[2].register_full_backward_hook(lambda m, i, o: (i[0] * 0.5,))
    made.model[0].weight.register_hook(lambda g: g.clamp(-0.01, 0.01))
    return made


CASES: dict[str, Callable[[], Case]] = {
    "perceptron": lambda: Case(mlp(), pair()),
    "list_as_batch": lambda: Case(mlp(), list(pair())),
    "named_tuple_as_batch": lambda: Case(mlp(), Points(*pair())),
    "list_of_inputs": lambda: one(lambda m, a, b: m.body(a) - m.body(b), [x(), x()]),
    "named_tuple_of_inputs": lambda: one(lambda m, near, far: m.body(near - far), Points(x(), x())),
    "nested_inputs": lambda: one(
        lambda m, a, b: m.body(a + b[0]["c"].mul_(2)) + m.body(b[1]), (x(), [{"c": x()}, x()])
    ),
    "inputs_by_keyword": lambda: Case(
        Classifier(lambda y: y.logits), ({"x": x(), "labels": None, "scale": 2}, pair()[1])
    ),
    # A named tuple to Python, one input to everybody else.
    "packed_sequence": packed,
    # Whether query, key and value are the same object decides which of two projections is taken.
    "query_key_value": lambda: one(lambda m, *x: m.b(m.a(*x)[0]), (x(),) * 3, a=nn.MultiheadAttention(6, 2), b=mlp()),
    "tokens": lambda: tokens(nn.Embedding(20, 5), nn.Flatten(), nn.Linear(15, 4)),
    "sparse_gradients": lambda: tokens(nn.Embedding(20, 5, sparse=True), nn.Flatten(), nn.Linear(15, 4)),
    "array": lambda: one(lambda m, a: m.body(torch.from_numpy(a).mul_(2)), np.ones((8, 6), np.float32)),
    "sparse": lambda: one(lambda m, x: torch.sparse.mm(x, m.w), x().to_sparse(), w=nn.Parameter(torch.randn(6, 3))),
    "complex": lambda: one(lambda m, x: (x @ m.w).abs(), x() * 1j, w=nn.Parameter(torch.randn(6, 3) * 1j)),
    "own_loss_in_a_dataclass": labelled,
    "own_loss_in_a_dictionary": lambda: labelled(lambda y: dict(vars(y))),
    "own_loss_in_a_tuple": lambda: labelled(lambda y: (y.loss, y.logits)),
    "batch_like_a_tokenizers": lambda: labelled(batch=UserDict),
    "keywords_and_a_loss": lambda: labelled(loss=lambda y, batch: F.cross_entropy(y.logits / 2, batch["labels"])),
    "many_outputs": lambda: one(
        lambda m, x: {"a": m.body(x), "b": (x, [m.body(x).exp()])},
        loss=lambda y, t: F.mse_loss(y["a"] + y["b"][1][0], t),
    ),
    "loss_with_parameters": lambda: one(
        lambda m, x: m.body(x),
        loss=Net(lambda m, y, t: F.mse_loss(y - m.center, t + 0 * m.seen.add_(1)), **attributes()),
    ),
    "loss_of_shape_one": lambda: Case(mlp(), pair(), lambda y, t: (y - t).square().mean().reshape(1, 1)),
    "input_changed_in_place": lambda: one(lambda m, x: (x[:, :2].zero_(), m.body(x.mul_(2)))[1]),
    "integers_changed": lambda: one(lambda m, i: m.a(i.add_(1)), torch.randint(9, (8,)), a=nn.Embedding(10, 3)),
    "targets_changed_in_place": lambda: Case(mlp(), pair(), lambda y, t: (y - t.mul_(3)).square().mean()),
    "input_with_a_gradient": lambda: Case(mlp(), tuple(map(nn.Parameter, pair()))),
    # Fine in a training, where nobody wants a gradient of the data.
    "input_to_numpy": lambda: one(lambda m, x: m.body(x + torch.from_numpy(np.sort(x.numpy(), 1)))),
    "dropout": lambda: Case(mlp(nn.Dropout(0.5), nn.AlphaDropout(0.2), nn.Dropout(0.1, inplace=True)), pair()),
    "noise_from_everywhere": lambda: one(
        noisy, body=mlp(), torch=torch.Generator(), numpy=np.random.default_rng(1), python=random.Random(1)
    ),
    "batch_norm": lambda: Case(
        nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(64, 3)),
        pair(4, 2, 6, 6),
    ),
    "batch_norm_in_evaluation": lambda: Case(mlp(nn.BatchNorm1d(8)).eval(), pair()),
    "attributes": lambda: one(busy, body=mlp(), **attributes()),
    # The lookup itself shrinks the rows of the table.
    "largest_norm": lambda: tokens(nn.Embedding(20, 5, max_norm=0.5), nn.Flatten(), nn.Linear(15, 4)),
    "clipped_weights": lambda: one(lambda m, x: (m.body[0].weight.data.clamp_(-0.1, 0.1), m.body(x))[1]),
    "bounded_buffer": lambda: one(lambda m, x: m.a(x) * m.w.clamp_(max=2), w=nn.Buffer(torch.ones(3)), **parts(3)),
    "hooks_of_the_users": hooked,
    "spectral_norm": lambda: Case(parametrizations.spectral_norm(nn.Linear(6, 3)), pair()),
    "weight_norm": lambda: Case(parametrizations.weight_norm(nn.Linear(6, 3)), pair()),
    "pruned": lambda: Case(prune.l1_unstructured(nn.Linear(6, 3), "weight", 0.5), pair()),
    "codes_that_follow_the_data": lambda: one(quantized, codes=nn.Buffer(torch.randn(5, 4)), **parts()),
    "checkpoint": lambda: checkpointed(False),
    "checkpoint_reentrant": lambda: checkpointed(True),
    "frozen_backbone": lambda: one(lambda m, x: m.b(torch.no_grad()(m.a)(x)), **parts(frozen=True)),
    "inference": lambda: one(lambda m, x: m.b(torch.inference_mode()(m.a)(x).clone()), **parts(frozen=True)),
    "transformer": lambda: Case(nn.Sequential(nn.TransformerEncoderLayer(6, 2, 16, dropout=0.2), mlp()), pair()),
    **{layer.__name__.lower(): partial(recurrent, layer) for layer in (nn.RNN, nn.LSTM, nn.GRU)},
    "low_precision": lambda: Case(mlp(nn.LayerNorm(8)).bfloat16(), tuple(t.bfloat16() for t in pair())),
    "tied_weights": lambda: one(lambda m, x: F.linear(m.b(m.a(m.a(x)).sin()), m.a.weight[:3, :3]), **parts(6)),
    "forces_are_gradients": lambda: one(
        lambda m, x: torch.autograd.grad(m.body(z := x.detach().requires_grad_()).sum(), z, create_graph=True)[0][:, :3]
    ),
    "mapped_over_examples": lambda: one(lambda m, x: torch.vmap(m.body)(x)),
    "scripted": lambda: Case(torch.jit.script(mlp(nn.BatchNorm1d(8))), pair()),
    "compiled": lambda: Case(torch.compile(mlp(), backend="eager"), pair()),
    "function_named_as_torch_names_it": lambda: one(lambda m, x: m.b(Sigmoid.apply(m.a(x))), **parts()),
    "function_with_a_name_of_its_own": lambda: one(lambda m, x: m.b(Cubic.apply(m.a(x))), **parts()),
    "target": lambda: one(lambda m, x: m.b(m.a(x)) - torch.no_grad()(m.c)(x), c=mlp().requires_grad_(False), **parts()),
    "stopped_on_one_of_two_sides": lambda: one(  # of the same network, and an accuracy beside the loss
        lambda m, x: F.cosine_similarity(m.body(x), m.body(x.flip(0)).detach()),
        loss=lambda y, t: y.mean() + 0 * (y.argmax(0) == 0).float().item(),
    ),
    "straight_through": lambda: one(lambda m, x: m.b((h := m.a(x)) + (h.sign() - h).detach()), **parts()),
    "stopped_on_one_of_two_paths": lambda: one(lambda m, x: m.b((h := m.a(x)) * h.detach().softmax(-1)), **parts()),
}
