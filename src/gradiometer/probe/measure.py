"""`measure`: one forward and one backward pass that leave no trace, and all that can be said of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import closing
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from gradiometer.errors import InputError
from gradiometer.probe import graph, intercept, observation
from gradiometer.probe.ledger import CallLog, Tracing
from gradiometer.probe.ledger.calls import number_of_next_node
from gradiometer.probe.ledger.cuts import cut_off
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
    _check_model(model, loss)
    if torch.is_inference_mode_enabled():
        raise InputError(
            "measure needs gradients, and torch.inference_mode() forbids them here: leave that block first."
        )
    given, targets = _parts(batch, loss)
    modules = [model, loss] if isinstance(loss, nn.Module) else [model]
    try:
        with traceless(*modules), torch.enable_grad():
            return _Measurement(model, given, targets, loss, through_input=True).run()
    except _InputForbidsError:
        # A model may treat its input as data (x.numpy(), x.requires_grad_(False)): the ledger then ends at a layer.
        with traceless(*modules), torch.enable_grad():
            return _Measurement(model, given, targets, loss, through_input=False).run()


class _InputForbidsError(Exception):
    """The model failed, perhaps because its input has a gradient, which it has not in a training."""


class _Measurement:
    """Stands in for the probe of a watch while one pass is measured."""

    def __init__(self, model: nn.Module, given: Any, targets: Any, loss: Loss | None, *, through_input: bool) -> None:
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
        self._through_input = through_input
        self._outputs: Tensor | None = None
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
        start = number_of_next_node()
        leaves = {id(x) for x in self._leaves}
        with intercept.alone(self), without_reentrant_checkpoints(leaves), closing(self.sites):
            outputs = self._forward()
            loss = self._loss_of(outputs)
            self._check(loss)
            inputs = [x.grad_fn for x in self._inputs]
            tracing = Tracing(loss, self._log, self._births, self.sites.guarded, inputs, may_wait=True)
            trained = [p for p in self._model.parameters() if p.requires_grad]
            loss_operations = graph.loss_operations(loss, self.sites.nodes)
            self._births.look_at_loss(loss, self.sites.nodes)
            tracing.install()
            # What was in the graph before (features that the model has cached) is somebody else's, who may need it.
            older = any(k.number < start for k in tracing.layout.knots if k.parameter is None)
            try:
                gradients = intercept.grad(
                    loss, [*trained, *self._leaves], allow_unused=True, retain_graph=older or None
                )
            finally:
                tracing.remove()
                self._births.backward_ended()
            observations = self.sites.observations
        for p, g in zip(trained, gradients, strict=False):
            p.grad = g
        meter = self.roster.meter(0)
        meter.before(gradients_later=False)
        names = observation.names(observations)
        parameters = meter.read()
        sick = {row.name for row in parameters if row.grad_nonfinite}
        bad = {key for key, name in self.roster.parameter_names.items() if name in sick}
        self._given = self._targets = self._outputs = None
        self._inputs, self._leaves = [], []
        traced = tracing.read(names, self.roster.parameter_names, {id(p) for p in trained}, bad)
        return Reading(
            step=0,
            optimizer=0,
            time=perf_counter() - began,
            loss=float(loss.detach()),
            loss_scale=1.0,
            level="full",
            passes=1,
            sites=observation.read(observations),
            parameters=parameters,
            loss_operations=loss_operations,
            ledger=traced.ledger,
            recurrences=traced.recurrences,
            birth=traced.birth,
        )

    def _forward(self) -> Any:
        try:
            if isinstance(self._given, Mapping):
                return self._model(**self._given)
            if isinstance(self._given, (tuple, list)) and not isinstance(self._given, PackedSequence):
                return self._model(*self._given)
            return self._model(self._given)
        except RuntimeError as error:
            if self._leaves:
                raise _InputForbidsError from error
            raise

    def _loss_of(self, outputs: Any) -> Tensor:
        self._outputs = next((y for _, y in tensors(outputs)), None)
        if self._loss is not None:
            with self.sites.loss_scope():
                loss = self._loss(outputs, self._targets)
        else:
            loss = _own_loss(outputs)
        if not isinstance(loss, Tensor):
            raise InputError(_no_loss(loss, self._loss))
        return loss

    def _check(self, loss: Tensor) -> None:
        if loss.numel() != 1 or loss.is_complex():
            kind = "is complex" if loss.is_complex() else f"has shape {tuple(loss.shape)}"
            todo = "Take its absolute value or real part." if loss.is_complex() else "Take its mean or sum."
            raise InputError(f"the loss {kind}, and one real number is needed to go back from. {todo}")
        parameters = {id(p) for p in self._model.parameters()}
        if not any(id(p) in parameters for p in graph.leaves(loss)):
            raise InputError(cut_off(loss, self._outputs, self._log, type(self._model).__name__))

    def _fresh(self, given: Any, name: str = "") -> Any:
        """Copies of the inputs, floating ones with a gradient; a copy may be changed in place as the original may."""
        if isinstance(given, Tensor):
            plain = given.detach()
            number = plain.is_floating_point() or plain.is_complex()
            data = not number or not self._through_input or given.layout is not torch.strided
            if data or name == "y" or any(word in name for word in _NO_INPUT):
                return plain.clone()
            leaf = plain.requires_grad_()
            self._leaves.append(leaf)
            self._inputs.append(leaf.clone())
            return self._inputs[-1]
        if isinstance(given, Mapping):
            return {key: self._fresh(value, str(key).lower()) for key, value in given.items()}
        if isinstance(given, np.ndarray):
            return given.copy()
        if isinstance(given, (tuple, list)) and not isinstance(given, PackedSequence):
            made = [self._fresh(value, name) for value in given]
            return type(given)(*made) if hasattr(given, "_fields") else type(given)(made)
        return given


def _copied(targets: Any) -> Any:
    """The same, safe from changes in place."""
    if isinstance(targets, Tensor):
        return targets.detach().clone()
    if isinstance(targets, Mapping):
        return {key: _copied(value) for key, value in targets.items()}
    if isinstance(targets, (tuple, list)) and not isinstance(targets, PackedSequence):
        made = [_copied(value) for value in targets]
        return type(targets)(*made) if hasattr(targets, "_fields") else type(targets)(made)
    return targets


def _own_loss(outputs: Any) -> Any:
    """The loss that a model computes itself: ``.loss``, ``["loss"]``, or the first of a tuple if it is one number."""
    loss = getattr(outputs, "loss", None)
    if loss is None and isinstance(outputs, Mapping):
        return outputs.get("loss")
    if loss is None:
        first = next((y for _, y in tensors(outputs)), None)
        return first if first is not None and first.numel() == 1 else None
    return loss


def _no_loss(loss: Any, function: Loss | None) -> str:
    if function is None:
        return "the output of the model has no loss. Give the batch the targets that it takes, or give loss=."
    if loss is None:
        return "the loss function returned None. Let it return the loss."
    if isinstance(loss, (int, float)):
        return f"the loss is a {type(loss).__name__}, from which nothing leads back. Leave out .item() or float()."
    return f"the loss function returned {type(loss).__name__}, and one tensor is needed to go back from."


def _check_model(model: Any, loss: Any) -> None:
    if not isinstance(model, nn.Module):
        raise InputError(f"measure needs a torch.nn.Module and got {type(model).__name__}. Give it the model itself.")
    if isinstance(loss, type) or (loss is not None and not callable(loss)):
        what = f"the class {loss.__name__}: make an instance" if isinstance(loss, type) else type(loss).__name__
        raise InputError(f"loss is a function of outputs and targets, and not {what}.")
    name = type(model).__name__
    parameters = list(model.named_parameters())
    if not parameters:
        raise InputError(f"{name} has no parameters, so nothing of it can be trained.")
    for place, p in (*parameters, *model.named_buffers()):
        if nn.parameter.is_lazy(p):
            raise InputError(f"{place} of {name} is not initialized yet (lazy): run the model once on a batch first.")
        if p.device.type == "meta":
            raise InputError(f"{place} of {name} is on the meta device and has no values: move it to a real one first.")
        if p.is_inference():
            raise InputError(f"{place} of {name} was made under torch.inference_mode(): make the model outside of it.")
    if not any(p.requires_grad for _, p in parameters):
        raise InputError(
            f"no parameter of {name} requires a gradient: all of it is frozen. "
            "Set requires_grad_(True) on what is to be trained."
        )


def _parts(batch: Any, loss: Loss | None) -> tuple[Any, Any]:
    """What the model gets, and what the loss gets besides the outputs."""
    if isinstance(batch, Mapping):
        given, targets = batch, batch
    elif not isinstance(batch, (tuple, list)) or len(batch) != 2 or isinstance(batch, PackedSequence):
        what = f"{type(batch).__name__} of {len(batch)}" if isinstance(batch, (tuple, list)) else type(batch).__name__
        raise InputError(f"batch is (inputs, targets) or a mapping of the model's keywords, and not {what}.")
    elif loss is None:
        raise InputError("a batch of (inputs, targets) needs loss(outputs, targets), such as F.cross_entropy.")
    else:
        given, targets = batch
    for name, x in tensors(given):
        if x.is_nested:
            raise InputError(f"an input{name} is a nested tensor, which cannot be measured: pad it.")
        if not x.numel():
            raise InputError(f"the batch is empty: an input{name} has shape {tuple(x.shape)}.")
        if x.is_inference():
            raise InputError("the batch was made under torch.inference_mode(): make it outside of it.")
    return given, targets
