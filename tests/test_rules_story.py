"""What rules leave to each other: which finding explains which, and who speaks of a training that stands still."""

from dataclasses import replace

import pytest

from gradiometer.records import Finding
from gradiometer.rules import cases, exploding_gradient
from gradiometer.rules.diagnosis import _examine
from gradiometer.rules.order import in_order


def _found(kind, onset):
    return Finding(kind, "warning", (kind,), {"onset": onset}, "", "", (), "")


@pytest.mark.parametrize(("onset", "explained"), [(0, False), (50, False), (100, True), (120, True)])
@pytest.mark.parametrize("kind", ["vanishing_gradient", "dead_units", "saturated_units"])
def test_a_spike_explains_what_came_after_it(kind, onset, explained):
    spike, later = _found("loss_spike", 100), _found(kind, onset)
    story = {f.kind: f for f in in_order([later, spike])}
    assert story[kind].follows_from == ("loss_spike" if explained else None)
    assert story["loss_spike"].follows_from != kind or not explained


@pytest.mark.parametrize(("rate", "told"), [(1e-3, True), (0.0, False)])
def test_with_a_learning_rate_of_zero_nothing_else_is_to_blame(rate, told):
    made = cases.chain([1.0] * 5, "relu", loss="stalled", dead=0.78)

    def at_rate(reading):
        moved = [replace(p, update_rms=p.update_rms if rate else 0.0) for p in reading.parameters]
        return replace(reading, parameters=tuple(moved), learning_rate=rate)

    patient = replace(made, early=[at_rate(r) for r in made.early], recent=[at_rate(r) for r in made.recent])
    found = {f.kind for f in _examine(patient) if f.severity != "info"}
    assert "stalled_training" in found
    assert ("dead_units" in found) is told


def test_a_recurrence_among_layers_is_told_as_such():
    found = exploding_gradient.RULE.check(cases.through_time(1.4, 30, loss="stalled"))[0]
    assert found.sites[0] == "rnn.weight_hh_l0 at time step 1"
    assert found.explanation.startswith("The first time step receives")
