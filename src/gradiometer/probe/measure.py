"""`measure`: one forward and one backward pass that leave no trace, and all that can be said of them."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from gradiometer.errors import InputError
from gradiometer.probe import graph, intercept, observation
from gradiometer.probe.given import Inputs, Loss, check_model, copied, no_loss, own_loss, parts
from gradiometer.probe.ledger import CallLog, Tracing
from gradiometer.probe.ledger.calls import number_of_next_node
from gradiometer.probe.ledger.cuts import cut_off
from gradiometer.probe.lookout import Lookout
from gradiometer.probe.outputs import tensors
from gradiometer.probe.roster import Roster
from gradiometer.probe.sites import SiteTracker
from gradiometer.probe.steps import StepNotes
from gradiometer.probe.traceless import traceless, unfused, without_reentrant_checkpoints
from gradiometer.records import Reading


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
    check_model(model, loss)
    if torch.is_inference_mode_enabled():
        raise InputError(
            "measure needs gradients, and torch.inference_mode() forbids them here: leave that block first."
        )
    given, targets = parts(batch, loss)
    modules = [model, loss] if isinstance(loss, nn.Module) else [model]
    with contextlib.suppress(_InputForbidsError), traceless(*modules), torch.enable_grad():
        return _Measurement(model, Inputs(given, with_gradient=True), targets, loss).run()
    # A model may treat its input as data (x.numpy(), x.requires_grad_(False)): the ledger then ends at a layer.
    with traceless(*modules), torch.enable_grad():
        return _Measurement(model, Inputs(given, with_gradient=False), targets, loss).run()


class _InputForbidsError(Exception):
    """The model failed, perhaps because its input has a gradient, which it has not in a training."""


class _Measurement:
    """Stands in for the probe of a watch while one pass is measured."""

    def __init__(self, model: nn.Module, inputs: Inputs, targets: Any, loss: Loss | None) -> None:
        self.thread = threading.get_ident()
        self.roster = Roster(lambda *_: None)
        self.roster.add_model("", model)
        if isinstance(loss, nn.Module):
            self.roster.paths.pop(id(loss), None)
        self.sites = SiteTracker(self.roster.paths, self._fault)
        self.sites.log = self._log = CallLog()
        self.sites.propagation = True
        self._model, self._inputs, self._targets, self._loss = model, inputs, copied(targets), loss
        self._outputs: Tensor | None = None
        self._notes = StepNotes()
        self.sites.lookout = Lookout(may_wait=True, network_inputs=frozenset(id(x) for x in inputs.tensors))
        self._births = self.sites.lookout.births

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
        torch.clear_autocast_cache()  # after an evaluation it may hold casts of the weights without a graph
        began = perf_counter()
        start = number_of_next_node()
        leaves = {id(x) for x in self._inputs.leaves}
        with intercept.alone(self), without_reentrant_checkpoints(leaves), contextlib.closing(self.sites):
            outputs = self._forward()
            loss = self._loss_of(outputs)
            self._check(loss)
            inputs = [x.grad_fn for x in self._inputs.tensors]
            tracing = Tracing(loss, self._log, self._births, self.sites.guarded, inputs, may_wait=True)
            trained = [p for p in self._model.parameters() if p.requires_grad]
            loss_operations = graph.loss_operations(loss, self.sites.nodes)
            self._births.look_at_loss(loss, self.sites.nodes)
            self._notes.backward_begins(loss, ())
            tracing.install()
            # What was in the graph before (features that the model has cached) is somebody else's, who may need it.
            older = any(k.number < start and k.node not in inputs for k in tracing.layout.knots if k.parameter is None)
            try:
                gradients = intercept.grad(
                    loss, [*trained, *self._inputs.leaves], allow_unused=True, retain_graph=older or None
                )
            finally:
                tracing.remove()
                self._births.backward_ended()
            observations = self.sites.observations
        for p, g in zip(trained, gradients, strict=False):
            p.grad = g
        meter = self.roster.meter(0)
        meter.before(gradients_later=False, copies=True)
        names = observation.names(observations)
        parameters = meter.read()
        sick = {row.name for row in parameters if row.grad_nonfinite}
        bad = {key for key, name in self.roster.parameter_names.items() if name in sick}
        self._inputs.clear()
        self._targets = self._outputs = None
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
            **self._notes.read({}),
        )

    def _forward(self) -> Any:
        try:
            self._notes.batch(self._inputs.tensors, {})
            return self._inputs.call(self._model)
        except Exception as error:
            if self._inputs.leaves:
                raise _InputForbidsError from error
            raise

    def _loss_of(self, outputs: Any) -> Tensor:
        self._outputs = next((y for _, y in tensors(outputs)), None)
        if self._loss is not None:
            with self.sites.loss_scope():
                loss = self._loss(outputs, self._targets)
        else:
            loss = own_loss(outputs)
        if not isinstance(loss, Tensor):
            raise InputError(no_loss(loss, self._loss))
        return loss

    def _check(self, loss: Tensor) -> None:
        if loss.numel() != 1 or loss.is_complex():
            kind = "is complex" if loss.is_complex() else f"has shape {tuple(loss.shape)}"
            todo = "Take its absolute value or real part." if loss.is_complex() else "Take its mean or sum."
            raise InputError(f"the loss {kind}, and one real number is needed to go back from. {todo}")
        parameters = {id(p) for p in self._model.parameters()}
        if loss.grad_fn is None and id(loss) in parameters:
            raise InputError("the loss is a parameter of the model itself: there is no operation to go back through.")
        if not any(id(p) in parameters for p in graph.leaves(loss)):
            raise InputError(cut_off(loss, self._outputs, self._log, type(self._model).__name__))
