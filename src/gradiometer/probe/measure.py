"""`measure`: one forward and one backward pass that leave no trace, and all that can be said of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from gradiometer.errors import InputError
from gradiometer.probe import graph, intercept, observation
from gradiometer.probe.ledger import CallLog, Tracing
from gradiometer.probe.outputs import tensors
from gradiometer.probe.roster import Roster
from gradiometer.probe.sites import SiteTracker
from gradiometer.probe.traceless import traceless, unfused, without_reentrant_checkpoints
from gradiometer.records import Reading

Loss = Callable[[Any, Any], Tensor]
_NO_INPUT = ("label", "target", "mask", "weight")


def measure(model: nn.Module, batch: Any, loss: Loss | None = None) -> Reading:
    """Takes one forward and one backward pass and returns everything about its gradients, with the ledger.

    Formula: for every operation between the loss and the input ``gain = rms(gradient leaving) / rms(entering)``; along
    the main path ``sum log10 gain = log10 rms(gradient at the input)``, since that of the loss itself is one.

    The model is run in the mode it is in (``train()`` or ``eval()``) and left as it was: gradients, buffers, plain
    attributes and random states. Recurrent layers run unfused, so that every time step is seen, and reentrant
    checkpoints keep what they compute; both give the same values up to rounding.

    Args:
        model: the network; its parameters, and the batch, stay on the devices they are on.
        batch: ``(inputs, targets)``, where inputs is what the model takes (a tuple or list is unpacked, a
            mapping gives keywords), or a mapping, which gives the model's keywords.
        loss: ``loss(outputs, targets)``, a scalar, mean or sum as you please: gradients are of what it returns.
            For a mapping it may be left out: the loss is then the ``loss`` of the model's output, or its
            first element; otherwise ``loss(outputs, batch)``.

    Returns:
        A `Reading` with ``ledger``, ``recurrences``, ``sites`` (with forward statistics), ``parameters`` and, if
        something was not finite, ``birth``.

    Raises:
        InputError: a batch of another shape; a loss that is no scalar, has no graph or depends on no parameter of the
            model, with the place where the graph was cut.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.Sigmoid(), nn.Linear(8, 3))
        >>> batch = torch.randn(16, 4), torch.randint(3, (16,))
        >>> reading = measure(model, batch, nn.functional.cross_entropy)
        >>> [(row.site, row.cause) for row in reading.ledger]
        [('loss:cross_entropy', 'loss'), ('2', 'weights'), ('1', 'activation'), ('0', 'weights')]
        >>> model[0].weight.grad is None
        True

    Source:
        Nielsen, Neural Networks and Deep Learning (2015), chapter 5: the gradient as a product of ``w sigma'(z)``;
        here of every operation of any network.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"measure needs a torch.nn.Module and got {type(model).__name__}. Give it the model itself.")
    if torch.is_inference_mode_enabled():
        raise InputError(
            "measure needs gradients, and torch.inference_mode() forbids them here: leave that block first."
        )
    given, targets = _parts(batch, loss)
    modules = [model, loss] if isinstance(loss, nn.Module) else [model]
    with traceless(*modules), torch.enable_grad(), without_reentrant_checkpoints():
        return _Measurement(model, given, targets, loss).run()


class _Measurement:
    """Stands in for the probe of a watch while one pass is measured."""

    def __init__(self, model: nn.Module, given: Any, targets: Any, loss: Loss | None) -> None:
        self.thread = threading.get_ident()
        self.roster = Roster(lambda *_: None)
        self.roster.add_model("", model)
        if isinstance(loss, nn.Module):
            self.roster.paths.pop(id(loss), None)
        self.sites = SiteTracker(self.roster.paths, self._fault)
        self.sites.log = self._log = CallLog()
        self._births = self.sites.births
        self.sites.propagation = self.sites.may_wait = True
        self._model, self._targets, self._loss = model, _copied(targets), loss
        self._leaves: list[Tensor] = []
        self._inputs: list[Tensor] = []
        self._given = self._fresh(given)
        self.sites.network_inputs = {id(x) for x in self._inputs}

    # -- what `intercept` asks of a probe -------------------------------------------------------------------------

    def wants(self, module: nn.Module) -> bool:
        """Whether a module's call is led through here."""
        return id(module) in self.roster.paths or self.sites.running

    def call(self, original: Callable[..., Any], module: nn.Module, args: Any, kwargs: Any) -> Any:
        """Stands in for the call of a module."""
        if isinstance(module, nn.RNNBase):
            with unfused():
                return self.sites.call(original, module, args, kwargs)
        return self.sites.call(original, module, args, kwargs)

    def stepping(self, optimizer: torch.optim.Optimizer, closure: bool) -> None:
        """Nothing steps in a measured pass."""

    @staticmethod
    def _fault(_: str, error: Exception) -> None:
        raise error  # nobody's training depends on this pass

    # -- the pass -------------------------------------------------------------------------------------------------

    def run(self) -> Reading:
        """Forward, backward, and the reading."""
        began = perf_counter()
        with intercept.alone(self):
            outputs = self._forward()
            loss = self._loss_of(outputs)
            self._check(loss)
            tracing = Tracing(loss, self._log, self._births, self.sites.guarded, [x.grad_fn for x in self._inputs])
            trained = [p for p in self._model.parameters() if p.requires_grad]
            loss_operations = graph.loss_operations(loss, self.sites.nodes)
            self._births.look_at_loss(loss, self.sites.nodes)
            tracing.install()
            try:
                gradients = intercept.grad(loss, [*trained, *self._leaves], allow_unused=True)
            finally:
                tracing.remove()
        for p, g in zip(trained, gradients, strict=False):
            p.grad = g
        meter = self.roster.meter(0)
        meter.before(gradients_later=False)
        names = observation.names(self.sites.observations)
        parameters = meter.read()
        sick = {row.name for row in parameters if row.grad_nonfinite}
        bad = {key for key, name in self.roster.parameter_names.items() if name in sick}
        traced = tracing.read(names, self.roster.parameter_names, {id(p) for p in trained}, bad)
        return Reading(
            step=0,
            optimizer=0,
            time=perf_counter() - began,
            loss=float(loss.detach()),
            loss_scale=1.0,
            level="full",
            passes=1,
            sites=observation.read(self.sites.observations),
            parameters=parameters,
            loss_operations=loss_operations,
            ledger=traced.ledger,
            recurrences=traced.recurrences,
            birth=traced.birth,
        )

    def _forward(self) -> Any:
        if isinstance(self._given, Mapping):
            return self._model(**self._given)
        if isinstance(self._given, (tuple, list)):
            return self._model(*self._given)
        return self._model(self._given)

    def _loss_of(self, outputs: Any) -> Tensor:
        if self._loss is not None:
            with self.sites.loss_scope():
                loss = self._loss(outputs, self._targets)
        else:
            loss = getattr(outputs, "loss", None)
            if loss is None and isinstance(outputs, Mapping):
                loss = outputs.get("loss")
            if loss is None and not isinstance(outputs, Mapping):
                loss = next((y for _, y in tensors(outputs)), None)
        if not isinstance(loss, Tensor):
            what = "the model's output has no loss" if self._loss is None else f"the loss is {type(loss).__name__}"
            raise InputError(
                f"{what}, and a tensor is needed to go back from. "
                + ("Give loss=, or targets to the model." if self._loss is None else "Remove .item() or float().")
            )
        return loss

    def _check(self, loss: Tensor) -> None:
        if loss.numel() != 1:
            raise InputError(
                f"the loss has shape {tuple(loss.shape)}, and one number is needed to go back from. "
                "Take its mean or sum, as the training does."
            )
        named = {id(p): name for name, p in self._model.named_parameters()}
        if not any(p.requires_grad for p in self._model.parameters()):
            raise InputError(
                f"no parameter of {type(self._model).__name__} requires a gradient: all of it is frozen. "
                "Set requires_grad_(True) on what is to be trained."
            )
        reached = graph.leaves(loss)
        if loss.grad_fn is None or not any(id(p) in named for p in reached):
            raise InputError(self._cut_off(loss))

    def _cut_off(self, loss: Tensor) -> str:
        """In words, where the graph ends between the loss and the parameters."""
        said = "the loss has no graph" if loss.grad_fn is None else "the loss depends on no parameter of the model"
        cut = self._log.cuts[-1] if self._log.cuts else None
        if cut is None:
            return (
                f"{said}: {type(self._model).__name__} gave an output without one although gradients are on. Look for "
                "a tensor that is made anew (torch.tensor, numpy) or for weights that are copied with .data."
            )
        if cut.no_grad:
            first = next(c for c in self._log.cuts if c.no_grad)
            return f"{said}: {first.site} ({first.operation.name}) ran under torch.no_grad(), so it is cut off there."
        return (
            f"{said}: it is cut off at {cut.site}, whose input has a graph and whose output has none. "
            f"Leave out {cut.operation.name} there, or put something differentiable in its place."
        )

    def _fresh(self, given: Any, name: str = "") -> Any:
        """Copies of the inputs, floating ones with a gradient; a copy may be changed in place as the original may."""
        if isinstance(given, Tensor):
            plain = given.detach()
            number = plain.is_floating_point() or plain.is_complex()
            if not number or given.layout is not torch.strided or name == "y" or any(w in name for w in _NO_INPUT):
                return plain.clone()
            leaf = plain.requires_grad_()
            self._leaves.append(leaf)
            self._inputs.append(leaf.clone())
            return self._inputs[-1]
        if isinstance(given, Mapping):
            return {key: self._fresh(value, str(key).lower()) for key, value in given.items()}
        if isinstance(given, (tuple, list)):
            made = [self._fresh(value, name) for value in given]
            return type(given)(*made) if hasattr(given, "_fields") else type(given)(made)
        return given


def _copied(targets: Any) -> Any:
    """The same, safe from changes in place."""
    if isinstance(targets, Tensor):
        return targets.detach().clone()
    if isinstance(targets, Mapping):
        return {key: _copied(value) for key, value in targets.items()}
    if isinstance(targets, (tuple, list)):
        made = [_copied(value) for value in targets]
        return type(targets)(*made) if hasattr(targets, "_fields") else type(targets)(made)
    return targets


def _parts(batch: Any, loss: Loss | None) -> tuple[Any, Any]:
    """What the model gets, and what the loss gets besides the outputs."""
    if isinstance(batch, Mapping):
        return batch, batch
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        what = f"{type(batch).__name__} of {len(batch)}" if isinstance(batch, (tuple, list)) else type(batch).__name__
        raise InputError(f"batch is (inputs, targets) or a mapping of the model's keywords, and not {what}.")
    if loss is None:
        raise InputError("a batch of (inputs, targets) needs loss(outputs, targets), such as F.cross_entropy.")
    return batch[0], batch[1]
