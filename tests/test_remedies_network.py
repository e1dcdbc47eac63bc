"""Activations and initializations on networks full of traps: the code does what the treatment does."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gradiometer.probe.given import call
from gradiometer.probe.outputs import tensors
from gradiometer.remedies import activation, initialization
from gradiometer.remedies.base import Remedy, Situation, UnusableError
from gradiometer.remedies.recipe import Recipe
from networks_to_treat import NETWORKS

ROWS = (*activation.REMEDIES, *initialization.REMEDIES)


def situation(model: nn.Module, batch: Any) -> Situation:
    recipe = Recipe(lambda: model, lambda p: torch.optim.SGD(p, 0.1), None, lambda seed: [batch])
    return Situation(recipe, model, batch, None)  # type: ignore[arg-type]


def built(name: str) -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    return NETWORKS[name]()


def inputs_of(batch: Any) -> Any:
    return batch[0] if isinstance(batch, (tuple, list)) else batch


def outputs(model: nn.Module, batch: Any) -> list[Tensor]:
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(5)
        return [y for _, y in tensors(call(model, inputs_of(batch)))]


def run(remedy: Remedy, model: nn.Module, known: Situation) -> nn.Module:
    code = remedy.code(known)
    scope = {"model": model, "nn": nn, "torch": torch, "inputs": inputs_of(known.batch)}
    exec("\n".join(code.imports), scope)
    exec(code.definitions, scope)
    exec(code.model, scope)
    return scope["model"]


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("remedy", ROWS, ids=lambda r: r.name)
def test_code_gives_the_network_that_the_treatment_gives(remedy: Remedy, name: str) -> None:
    model, batch = built(name)
    known = situation(model, batch)
    before = copy.deepcopy(model.state_dict())
    attributes = [set(m.__dict__) for m in model.modules()]
    reason = remedy.unusable(known)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert attributes == [set(m.__dict__) for m in model.modules()]
    fresh, _ = built(name)
    if reason is not None:
        assert len(reason) > 30
        with pytest.raises(UnusableError):
            remedy.model(fresh, known)  # type: ignore[misc]
        return
    treated = remedy.model(fresh, known)  # type: ignore[misc]
    drawn = torch.rand(1)
    other, _ = built(name)
    written = run(remedy, other, known)
    assert torch.equal(drawn, torch.rand(1)), "they draw different numbers"
    a, b = treated.state_dict(), written.state_dict()
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a), [key for key in a if not torch.equal(a[key], b[key])]
    for mode in (True, False):
        for one, two in zip(outputs(treated.train(mode), batch), outputs(written.train(mode), batch), strict=True):
            assert torch.equal(one, two)
            assert one.isfinite().all()
    treated.train()
    assert {(p.dtype, p.device) for p in treated.parameters()} == {(p.dtype, p.device) for p in model.parameters()}
    assert changed(remedy, model, before, treated, batch)
    copy.deepcopy(treated)


def changed(remedy: Remedy, model: nn.Module, before: dict[str, Tensor], treated: nn.Module, batch: Any) -> bool:
    after = treated.state_dict()
    if len(list(model.modules())) != len(list(treated.modules())):
        return True
    differ = before.keys() != after.keys() or any(not torch.equal(before[key], after[key]) for key in before)
    return differ or any(
        not torch.equal(a, b) for a, b in zip(outputs(model, batch), outputs(treated, batch), strict=True)
    )


@pytest.mark.parametrize("remedy", ROWS, ids=lambda r: r.name)
def test_frozen_parameters_stay(remedy: Remedy) -> None:
    model, batch = built("frozen")
    known = situation(model, batch)
    if remedy.unusable(known) is not None:
        return
    fresh, _ = built("frozen")
    treated = remedy.model(fresh, known)  # type: ignore[misc]
    assert torch.equal(treated[0].weight, model[0].weight)
    assert torch.equal(treated[0].bias, model[0].bias)
