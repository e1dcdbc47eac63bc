"""A slow backward that owes nothing to autograd's graph, to compare the ledger with.

A network is written down once, as a straight line of operations, and run in two ways. `DIRECT` just calls them: that
is the network's forward, which the ledger measures. A `Tape` runs each on copies of its inputs that are cut off from
what came before, so that its vector-Jacobian product is that of this operation alone; the chain rule between them, and
the sums where a tensor is used more than once, are done by hand. An *attached* tape leaves the whole graph in one piece
and asks `torch.autograd.grad` for the gradient at every tensor instead.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gradiometer as gm

D = torch.float64
SUMS = ("fork", "hook")
Function = Callable[..., Any]


def rms(x: Tensor) -> float:
    return x.detach().abs().square().mean().sqrt().item()


def near(value: float | None, expected: float, tolerance: float = 1e-9) -> bool:
    if value is None or math.isnan(expected) or math.isnan(value):
        return value is not None and math.isnan(value) == math.isnan(expected)
    return math.isclose(value, expected, rel_tol=tolerance, abs_tol=1e-14)


def wave(y: Tensor) -> Tensor:
    """A target of this shape, without anything random."""
    return torch.sin(torch.arange(1.0, y.numel() + 1, dtype=y.dtype)).reshape(y.shape)


def mse(y: Any, _: Any = None) -> Tensor:
    return F.mse_loss(y, wave(y))


# -- the network itself -----------------------------------------------------------------------------------------------


class Direct:
    """Runs what is written down. ``what`` is the cause and the site that the ledger must find, as one text."""

    def __call__(self, what: str, function: Function, *inputs: Any) -> Any:
        return function(*inputs)

    lookup = __call__

    def within(self, path: str, part: Net, x: Any, call: Function | None = None) -> Any:
        """A part with a name of its own, called as torch calls modules, or by ``call``."""
        return part(x) if call is None else call(part, x)

    def hook(self, h: Tensor, hook: Callable[[Tensor], Tensor]) -> None:
        if h.requires_grad:
            h.register_hook(hook)


DIRECT = Direct()


class Net(nn.Module):
    """What is written down as ``run``, with the parts it uses."""

    def __init__(self, run: Function, **parts: Callable[[], Any]) -> None:
        super().__init__()
        self.run = run
        for name, make in parts.items():
            setattr(self, name, make())

    def forward(self, *inputs: Tensor) -> Any:
        return self.run(DIRECT, self, *inputs)


# -- the tape ---------------------------------------------------------------------------------------------------------


class Var:
    """A tensor of the forward pass: what made it, what used it, and the gradients these sent back."""

    def __init__(self, value: Tensor, step: Step) -> None:
        self.value, self.step = value, step
        self.arrived: list[tuple[Step, Tensor]] = []
        self.hook: Callable[[Tensor], Tensor] | None = None

    @property
    def sum(self) -> Tensor | None:
        """All that arrived, before a hook of the user's."""
        return None if not self.arrived else torch.stack([g for _, g in self.arrived]).sum(0)

    @property
    def grad(self) -> Tensor | None:
        return self.sum if self.hook is None or self.sum is None else self.hook(self.sum)


@dataclass(eq=False)
class Step:
    cause: str
    site: str
    inputs: list[Var]
    leaves: list[Tensor]
    outputs: list[Var] = field(default_factory=list)
    sent: list[tuple[Var, Tensor]] = field(default_factory=list)
    table: Tensor | None = None

    @property
    def reached(self) -> list[Var]:
        return [v for v in self.outputs if v.arrived]

    @property
    def entering(self) -> Tensor:
        return torch.cat([v.grad.reshape(-1) for v in self.reached])

    @property
    def ways(self) -> list[tuple[Step, Tensor]]:
        """What each user sent, in the place it has in all outputs together."""
        out, at = [], 0
        whole = self.entering
        for v in self.reached:
            for user, g in v.arrived:
                placed = torch.zeros_like(whole)
                placed[at : at + g.numel()] = g.reshape(-1)
                out.append((user, placed))
            at += v.value.numel()
        return out


class Tape:
    def __init__(self, attached: bool = False) -> None:
        self.attached = attached
        self.steps: list[Step] = []
        self._scope = ""
        self._calls: Counter[str] = Counter()

    def _site(self, name: str) -> str:
        base = f"{self._scope}{name}" if name.startswith(":") else f"{self._scope}.{name}".lstrip(".")
        self._calls[base] += 1
        return base if self._calls[base] == 1 else f"{base}.{self._calls[base] - 1}"

    @contextmanager
    def scope(self, path: str) -> Iterator[None]:
        before, self._scope = self._scope, f"{self._scope}.{path}".lstrip(".")
        yield
        self._scope = before

    def input(self, x: Tensor) -> Var:
        step = Step("", self._site("input"), [], [])
        self.steps.append(step)
        step.outputs = [Var(x.detach().clone().requires_grad_(x.is_floating_point()), step)]
        return step.outputs[0]

    def __call__(self, what: str, function: Function, *inputs: Var) -> Any:
        once = list(dict.fromkeys(inputs))
        leaves = [v.value if self.attached else v.value.detach().requires_grad_(v.value.requires_grad) for v in once]
        copies = {v: leaf.clone() for v, leaf in zip(once, leaves, strict=True)}  # it may change them in place
        out = function(*(copies[v] for v in inputs))
        several = isinstance(out, (tuple, list))
        cause, name = what.split()
        step = Step(cause, self._site(name), once, leaves)
        step.outputs = [Var(y, step) for y in (out if several else [out])]
        self.steps.append(step)
        return step.outputs if several else step.outputs[0]

    def lookup(self, what: str, module: nn.Module, *inputs: Var) -> Var:
        """An operation whose gradient ends in the table it reads."""
        out = self(what, module, *inputs)
        out.step.table = module.weight
        return out

    def within(self, path: str, part: Net, x: Var, call: Function | None = None) -> Any:
        with self.scope(path):
            return part.run(self, part, x)

    def hook(self, h: Var, hook: Callable[[Tensor], Tensor]) -> None:
        h.hook = hook
        if self.attached:
            h.value.register_hook(hook)

    def backward(self, loss: Var, factors: Mapping[str, float] | None = None) -> None:
        """By hand: each operation's own vector-Jacobian product, and a sum wherever several meet.

        ``factors`` by site multiply what an operation sends.
        """
        loss.arrived.append((Step("", "loss", [], []), torch.ones_like(loss.value)))
        for step in reversed(self.steps):
            if not step.reached:
                continue
            wanted = [(v, leaf) for v, leaf in zip(step.inputs, step.leaves, strict=True) if leaf.requires_grad]
            ends = [leaf for _, leaf in wanted] + ([step.table] if step.table is not None else [])
            if not ends:
                continue
            outs, grads = [v.value for v in step.reached], [v.grad for v in step.reached]
            found = torch.autograd.grad(outs, ends, grads, allow_unused=True)
            if step.table is not None:
                step.table = found[-1]
            for (v, _), g in zip(wanted, found, strict=False):
                if g is not None:
                    g = g * (factors or {}).get(step.site, 1.0)
                    v.arrived.append((step, g))
                    step.sent.append((v, g))


# -- a network with its data, measured and taped ----------------------------------------------------------------------


def score_mse(t: Any, y: Any) -> Any:
    return t("loss :mse_loss", mse, y)


@dataclass(frozen=True)
class Case:
    name: str
    make: Callable[[], Net]
    inputs: Callable[[], tuple[Tensor, ...]]
    score: Function = score_mse

    def build(self) -> tuple[Net, tuple[Tensor, ...]]:
        # Hundreds of times: `torch.manual_seed` writes down a stack for every kind of device each time.
        torch.default_generator.manual_seed(sum(map(ord, self.name)))
        return self.make().to(D), self.inputs()

    def loss(self, y: Any, _: Any = None) -> Tensor:
        return self.score(DIRECT, y)

    def record(self, *, attached: bool = False, factors: Mapping[str, float] | None = None) -> tuple[Tape, Var]:
        """The tape and its loss; backward has been through it, unless the tape is attached."""
        net, inputs = self.build()
        tape = Tape(attached)
        out = net.run(tape, net, *map(tape.input, inputs))
        with tape.scope("loss"):
            loss = self.score(tape, out)
        if not attached:
            tape.backward(loss, factors)
        return tape, loss

    @property
    def is_chain(self) -> bool:
        """Whether no tensor is used twice, and no operation has two inputs."""
        steps = [s for s in taped(self).steps if s.reached]
        return all(len(s.ways) == 1 and len(s.sent) <= 1 and s.outputs[0].hook is None for s in steps)


@cache
def measured(case: Case) -> gm.Ledger:
    net, inputs = case.build()
    return gm.measure(net, (inputs, None), case.loss).ledger


@cache
def taped(case: Case) -> Tape:
    return case.record()[0]


def expected_steps(case: Case) -> list[Step]:
    return [s for s in taped(case).steps if s.reached and (s.sent or s.table is not None)]


def rows_of(case: Case) -> dict[str, gm.LedgerRow]:
    rows = [row for row in measured(case) if row.operation not in SUMS]
    assert len({row.site for row in rows}) == len(rows)
    return {row.site: row for row in rows}
