"""What `measure` is given: checked, and copied, so that it may be changed in place and asked for gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from gradiometer.errors import InputError
from gradiometer.probe.outputs import tensors

Loss = Callable[[Any, Any], Tensor]

_NO_INPUT = ("label", "target", "mask", "weight")
"""In the names of keywords: what is no signal, and gets no gradient."""


class Inputs:
    """Copies of the inputs, floating ones with a gradient."""

    def __init__(self, given: Any, *, with_gradient: bool) -> None:
        """``with_gradient`` asks for gradients at all."""
        self._with_gradient = with_gradient
        self.leaves: list[Tensor] = []
        """The tensors at which gradients come to rest."""
        self.tensors: list[Tensor] = []
        """What the model gets of them."""
        self.value = self._copy(given)

    def call(self, model: nn.Module) -> Any:
        """The model's output for them."""
        return call(model, self.value)

    def clear(self) -> None:
        """Lets go of all of them."""
        self.value, self.leaves, self.tensors = None, [], []

    def _copy(self, given: Any, name: str = "") -> Any:
        if isinstance(given, Tensor):
            plain = given.detach()
            number = plain.is_floating_point() or plain.is_complex()
            data = not number or not self._with_gradient or given.layout is not torch.strided
            if data or name == "y" or any(word in name for word in _NO_INPUT):
                return plain.clone()
            leaf = plain.requires_grad_()
            self.leaves.append(leaf)
            self.tensors.append(leaf.clone())
            return self.tensors[-1]
        if isinstance(given, Mapping):
            return {key: self._copy(value, str(key).lower()) for key, value in given.items()}
        if isinstance(given, np.ndarray):
            return given.copy()
        if isinstance(given, (tuple, list)) and not isinstance(given, PackedSequence):
            made = [self._copy(value, name) for value in given]
            return type(given)(*made) if hasattr(given, "_fields") else type(given)(made)
        return given


def call(model: nn.Module, inputs: Any) -> Any:
    """The model's output: a mapping gives keywords, a tuple or list several arguments."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    if isinstance(inputs, (tuple, list)) and not isinstance(inputs, PackedSequence):
        return model(*inputs)
    return model(inputs)


def copied(targets: Any) -> Any:
    """The same, safe from changes in place."""
    if isinstance(targets, Tensor):
        return targets.detach().clone()
    if isinstance(targets, Mapping):
        return {key: copied(value) for key, value in targets.items()}
    if isinstance(targets, (tuple, list)) and not isinstance(targets, PackedSequence):
        made = [copied(value) for value in targets]
        return type(targets)(*made) if hasattr(targets, "_fields") else type(targets)(made)
    return targets


def own_loss(outputs: Any) -> Any:
    """The loss that a model computes itself: ``.loss``, ``["loss"]``, or the first of a tuple if it is one number."""
    loss = getattr(outputs, "loss", None)
    if loss is None and isinstance(outputs, Mapping):
        return outputs.get("loss")
    if loss is None:
        first = next((y for _, y in tensors(outputs)), None)
        return first if first is not None and first.numel() == 1 else None
    return loss


def no_loss(loss: Any, function: Loss | None) -> str:
    """In words, what is wrong with what should be a loss."""
    if function is None:
        return "the output of the model has no loss. Give the batch the targets that it takes, or give loss=."
    if loss is None:
        return "the loss function returned None. Let it return the loss."
    if isinstance(loss, (int, float)):
        return f"the loss is a {type(loss).__name__}, from which nothing leads back. Leave out .item() or float()."
    return f"the loss function returned {type(loss).__name__}, and one tensor is needed to go back from."


def check_model(model: Any, loss: Any) -> None:
    """Refuses a model that cannot be measured, and a loss that is no function."""
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


def parts(batch: Any, loss: Loss | None) -> tuple[Any, Any]:
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
