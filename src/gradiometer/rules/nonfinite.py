"""NaN or Inf in the loss, in a gradient or in a weight, and the operation where it first appeared."""

from __future__ import annotations

import math
from collections.abc import Sequence

from gradiometer.records import Birth, Finding, Reading, SiteReading
from gradiometer.rules import cases
from gradiometer.rules.base import Case, Patient, Rule

_WRONG_IF = "the training leaves out such steps by itself, and its weights stay finite"
_MASKING = frozenset(("masked_fill", "where", "add", "sub", "tril", "triu"))


def check(patient: Patient) -> list[Finding]:
    """One finding, made from the first reading in which something that counts is not finite."""
    for reading in patient.readings:
        if _is_sick(reading):
            return [_finding(patient, reading)]
    for step, loss in patient.losses:
        if not math.isfinite(loss):
            return [_unsampled(step, loss)]
    return []


def _is_sick(reading: Reading) -> bool:
    if reading.loss is not None and not math.isfinite(reading.loss):
        return True
    if any(p.weight_nonfinite for p in reading.parameters):
        return True
    gradient = any(p.grad_nonfinite for p in reading.parameters)
    if not reading.parameters:  # else one that reaches no parameter is masked on its way, and does no harm
        gradient = any(row.grad_nonfinite for row in reading.sites)
    # Under loss scaling a gradient that overflows is the normal way to find the scale: the step is skipped.
    return gradient and reading.loss_scale == 1.0


def without(patient: Patient) -> Patient:
    """The same training up to the first value that is not finite."""
    sick = [r.step for r in patient.readings if _is_sick(r)]
    sick += [step for step, loss in patient.losses if not math.isfinite(loss)]
    end = min(sick)
    before = {r.step: r for r in patient.readings if r.step < end}
    losses = [(step, loss) for step, loss in patient.losses if step < end]
    ledgers = [r for r in patient.ledgers if r.step < end]
    return Patient(patient.early, list(before.values()), losses, failed=True, alone=patient.alone, ledgers=ledgers)


def _bad(row: SiteReading) -> bool:
    """Minus infinity is the usual mask before a softmax, and does no harm by itself if it was put there on purpose."""
    return row.nonfinite > (row.masked if row.site.operation in _MASKING else 0)


def _finding(patient: Patient, reading: Reading) -> Finding:
    weights = [p.name for p in reading.parameters if p.weight_nonfinite]
    forward = next((row for row in reading.sites if _bad(row)), None)
    before = max((s for s, v in patient.losses if s < reading.step and math.isfinite(v)), default=None)
    evidence: dict[str, object] = {
        "step": reading.step,
        "onset": reading.step,
        "loss": reading.loss,
        "last_finite_loss_at_step": before,
    }
    when = f"at step {reading.step}"
    sites: tuple[str, ...]
    if weights:
        sites, cause = tuple(weights), "the weights were not finite any more when this step began"
        said = f"{weights[0]} holds NaN or Inf {when}, before the forward pass: the step that made it so came earlier"
        said += f"; the loss was finite up to step {before}." if before is not None else "."
        evidence["first_loss_not_finite_at_step"] = next((s for s, v in patient.losses if not math.isfinite(v)), None)
        evidence["weights"] = len(weights)
        todo = ("a smaller learning rate", "gradient clipping", "every=1 to see the step at which it happens")
    elif reading.birth is not None:
        sites, cause, said, todo = _born(
            reading.birth, when, next((r.sites for r in (reading, *patient.readings) if r.sites), ())
        )
        evidence |= {"direction": reading.birth.direction, **reading.birth.inputs}
    elif forward is not None:
        i = reading.sites.index(forward)
        previous = reading.sites[i - 1] if i else None
        sites, cause = (forward.name,), f"{forward.site.operation} gave NaN or Inf from finite inputs"
        said = f"{forward.name} ({forward.site.operation}) is the first operation whose output is not finite {when}"
        said += f": {forward.nonfinite:,} of {math.prod(forward.shape) * forward.passes:,} values."
        if previous is not None:
            said += f" The last output before it was finite, with rms {previous.rms:.2g}."
        else:
            said += " It is the first operation of all: look for NaN or Inf in the batch."
            cause = "the batch holds NaN or Inf, or values that overflow the first operation"
        evidence |= {"nonfinite": forward.nonfinite, "rms_of_finite": forward.rms}
        todo = (
            "check the batch",
            "keep the argument of log, sqrt, exp and division inside its domain (eps, clamp)",
            "a smaller learning rate",
        )
    elif reading.loss is not None and not math.isfinite(reading.loss):
        operations = ", ".join(reading.loss_operations) or "the loss"
        sites, cause = ("loss",), "the loss function gave NaN or Inf from finite outputs"
        said = f"The loss is {reading.loss} {when}, while every output of the network is finite: "
        said += f"it came about in {operations}."
        evidence["loss_operations"] = list(reading.loss_operations)
        todo = (
            "a loss that takes logits instead of a log of probabilities",
            "check the targets",
            "eps in log and division",
        )
    else:
        sites, cause, said = _born_backward(reading)
        said += f" {when}, while the forward pass and the loss are finite."
        todo = ("eps inside sqrt, norm and division", "gradient clipping does not help: it would be NaN as well")
    return Finding("nonfinite", "critical", sites, evidence, cause, said, todo, _WRONG_IF)


def _born(birth: Birth, when: str, sites: Sequence[SiteReading]) -> tuple[tuple[str, ...], str, str, tuple[str, ...]]:
    """Sites, cause, explanation and what to do, from what was seen of it as it happened."""
    if birth.operation == "input":
        first = next((row.name for row in sites), None)
        places = ("input", first) if first else ("input",)
        return places, birth.reason, f"{_capital(birth.reason)} {when}.", ("check the batch", "drop such examples")
    said = (
        f"The first NaN or Inf {when} was made by {birth.site} ({birth.operation}) in the {birth.direction} pass: "
        f"{birth.reason}."
    )
    if birth.direction == "backward":
        said += " The forward pass and the loss are finite."
        todo = ("eps inside sqrt, norm and division", "gradient clipping does not help: it would be NaN as well")
    elif "masked" in birth.reason:
        todo = ("leave one place of every row unmasked", "set the output of such rows to zero with torch.where")
    elif "overflow" in birth.reason:
        todo = ("a smaller learning rate", "normalization or a smaller initialization", "bfloat16 or float32 there")
    else:
        todo = ("keep its argument inside the domain (eps, clamp)", "a loss that takes logits", "check the batch")
    return (birth.site,), birth.reason, said, todo


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _born_backward(reading: Reading) -> tuple[tuple[str, ...], str, str]:
    """The last operation of the forward pass into which a finite gradient went and out of which none came."""
    bad = [i for i, row in enumerate(reading.sites) if row.grad_nonfinite]
    if not bad:
        names = tuple(p.name for p in reading.parameters if p.grad_nonfinite)
        return names, "a gradient overflowed", f"The gradient of {names[0]} is NaN or Inf"
    receiver = reading.sites[bad[-1]]
    if bad[-1] + 1 < len(reading.sites):
        maker = reading.sites[bad[-1] + 1]
        text = f"The gradient turns NaN or Inf in the backward pass of {maker.name} ({maker.site.operation}), "
        text += f"and arrives so at {receiver.name}"
        return (maker.name, receiver.name), f"the derivative of {maker.site.operation} is not finite there", text
    operations = ", ".join(reading.loss_operations) or "the loss"
    text = f"The gradient that arrives at {receiver.name} from {operations} is NaN or Inf"
    return (receiver.name,), "the derivative of the loss is not finite", text


def _unsampled(step: int, loss: float) -> Finding:
    return Finding(
        kind="nonfinite",
        severity="critical",
        sites=("loss",),
        evidence={"step": step, "onset": step, "loss": loss},
        cause="not known: the step was not sampled",
        explanation=f"The loss is {loss} at step {step}, which was not sampled, and none after it was.",
        remedies=("watch with every=1 to see the operation", "a smaller learning rate", "gradient clipping"),
        wrong_if=_WRONG_IF,
    )


RULE = Rule(
    kind="nonfinite",
    check=check,
    sick=(
        Case("born in a log", cases.nonfinite(site=3)),
        Case("born in a log, the loss not recorded", cases.nonfinite(site=3, loss=None)),
        Case("born in the loss", cases.nonfinite(loss=math.nan)),
        Case("born in the backward pass", cases.nonfinite(gradient=2)),
        Case("minus infinity from an operation that is no mask", cases.nonfinite(site=3, minus=True)),
        Case("weights gone before the step", cases.nonfinite(weights=True)),
        Case("a NaN between two samples", cases.nonfinite(losses=math.inf)),
    ),
    healthy=(
        Case("nothing", cases.nonfinite()),
        Case("a mask of minus infinity", cases.nonfinite(mask=True)),
        Case("a gradient that a ReLU stops before it reaches a weight", cases.nonfinite(gradient=2, reaches=False)),
        Case("overflow under loss scaling", cases.nonfinite(gradient=2, loss_scale=65536.0)),
    ),
)
