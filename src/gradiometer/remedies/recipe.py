"""A recipe: what it takes to build a training again from a seed, and to change one thing of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ChainedScheduler, LRScheduler

from gradiometer.probe.given import call, own_loss, parts

Loss = Callable[[Any, Any], Tensor]
Step = Callable[[nn.Module, Optimizer, Loss | None, Any], Any]


@dataclass(frozen=True)
class Recipe:
    """Factories for all that a training needs, so that it can be built again from a seed, with one thing changed.

    Formula: a step is ``zero_grad``, ``loss(model(inputs), targets)``, ``backward``, clipping, ``optimizer.step()``.

    Args:
        model: ``model()`` builds the network; the random seed is set just before.
        optimizer: ``optimizer(parameters)`` builds its optimizer.
        loss: ``loss(outputs, targets)``, a scalar; for batches that are mappings ``None`` takes the model's own.
        batches: ``batches(seed)`` yields ``(inputs, targets)``, or mappings of the model's keywords, for as long as it
            is asked; a finite one is begun again.
        evaluate: ``evaluate(model)`` is a score, higher is better; the model is in eval mode, without gradients.
        steps: of one training.
        step: a training step of one's own, ``step(model, optimizer, loss, batch)``, which does everything from
            ``zero_grad`` to ``optimizer.step()`` and returns the loss.
        clip: largest norm of the gradient (``torch.nn.utils.clip_grad_norm_``).
        schedule: ``schedule(optimizer)`` builds a learning-rate scheduler, stepped after every step.
        autocast: number format of the forward pass, ``torch.bfloat16`` or ``torch.float16``.
        scaler: whether ``torch.amp.GradScaler`` scales the loss.

    Returns:
        A frozen recipe; `dataclasses.replace` changes one thing of it.

    Raises:
        nothing: `gradiometer.prescribe` checks what it is given.

    Example:
        >>> recipe = Recipe(
        ...     model=lambda: nn.Linear(4, 2),
        ...     optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1),
        ...     loss=nn.functional.cross_entropy,
        ...     batches=lambda seed: [(torch.randn(8, 4), torch.randint(2, (8,)))],
        ... )
        >>> recipe.steps
        200

    Source:
        none: a convenience.
    """

    model: Callable[[], nn.Module]
    optimizer: Callable[[Any], Optimizer]
    loss: Loss | None
    batches: Callable[[int], Iterable[Any]]
    evaluate: Callable[[nn.Module], float] | None = None
    steps: int = 200
    _: KW_ONLY
    step: Step | None = None
    clip: float | None = None
    schedule: Callable[[Optimizer], LRScheduler] | None = None
    autocast: torch.dtype | None = None
    scaler: bool = False

    def with_model(self, change: Callable[[nn.Module], nn.Module]) -> Recipe:
        """The same with a network that is changed after it was built."""
        made = self.model
        return replace(self, model=lambda: change(made()))

    def with_optimizer(self, change: Callable[[Optimizer], Optimizer]) -> Recipe:
        """The same with an optimizer that is changed after it was built."""
        made = self.optimizer
        return replace(self, optimizer=lambda parameters: change(made(parameters)))

    def with_schedule(self, further: Callable[[Optimizer], LRScheduler]) -> Recipe:
        """The same with a further learning-rate scheduler after the one that there is."""
        made = self.schedule
        if made is None:
            return replace(self, schedule=further)
        return replace(self, schedule=lambda optimizer: ChainedScheduler([made(optimizer), further(optimizer)]))


def loss_of(model: nn.Module, loss: Loss | None, batch: Any) -> Any:
    """The loss of one batch, as `gradiometer.measure` understands batch and loss."""
    inputs, targets = parts(batch, loss)
    outputs = call(model, inputs)
    return own_loss(outputs) if loss is None else loss(outputs, targets)
