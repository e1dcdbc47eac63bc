"""`assert_healthy`, as somebody's own test calls it."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import gradiometer as gm
from gradiometer.networks import mlp

pytest_plugins = "pytester"


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def batch():
    return torch.randn(128, 16), torch.randint(10, (128,))


@pytest.fixture
def sick():
    return mlp(16, 32, 16, 10, "sigmoid")


def test_a_healthy_network_passes_and_keeps_no_trace(batch):
    model = mlp(16, 32, 4, 10, "relu")
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    diagnosis = gm.assert_healthy(model, batch, cross_entropy)
    assert isinstance(diagnosis, gm.Diagnosis)
    assert diagnosis.healthy is True
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)


def test_a_sick_one_fails_with_its_diagnosis(batch, sick):
    with pytest.raises(AssertionError) as caught:
        gm.assert_healthy(sick, batch, cross_entropy)
    error = caught.value
    assert isinstance(error, gm.UnhealthyError)
    assert error.diagnosis[0].kind == "vanishing_gradient"
    assert str(error) == str(error.diagnosis)
    for part in ("not healthy", "1  vanishing gradient [critical]", "decades lost", "where: hidden1", "do: "):
        assert part in str(error)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)  # workers of a test run hand errors over so


def test_what_is_ignored_does_not_fail(batch, sick):
    diagnosis = gm.assert_healthy(sick, batch, cross_entropy, ignore=["vanishing_gradient", "rank_collapse"])
    assert diagnosis.silenced == 2
    with pytest.raises(gm.UnhealthyError):
        gm.assert_healthy(sick, batch, cross_entropy, ignore=["vanishing_gradient:output"])


def test_the_lowest_severity_that_fails(batch, sick, monkeypatch):
    warning = gm.Diagnosis((gm.Finding("dead_units", "warning", (), {}, "cause", "explanation"),))
    monkeypatch.setattr("gradiometer.healthy.diagnose", lambda reading, ignore: warning)
    assert gm.assert_healthy(sick, batch, cross_entropy, severity="critical") is warning
    with pytest.raises(gm.UnhealthyError):
        gm.assert_healthy(sick, batch, cross_entropy, severity="warning")
    for severity in ("info", "fatal"):
        with pytest.raises(gm.InputError, match="warning, critical"):
            gm.assert_healthy(sick, batch, cross_entropy, severity=severity)


def test_a_mapping_and_the_loss_of_the_model_itself():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 2)

        def forward(self, x, y):
            return {"loss": cross_entropy(self.layer(x), y)}

    assert gm.assert_healthy(Own(), {"x": torch.randn(32, 4), "y": torch.randint(2, (32,))}).healthy


def test_pytest_points_at_the_line_of_the_test(pytester):
    pytester.makepyfile("""
        import torch
        import gradiometer as gm
        from gradiometer.networks import mlp

        def test_network():
            batch = torch.randn(64, 16), torch.randint(10, (64,))
            gm.assert_healthy(mlp(16, 32, 16, 10, "sigmoid"), batch, torch.nn.functional.cross_entropy)
    """)
    result = pytester.runpytest_inprocess("-q", "-p", "no:cacheprovider")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([">*gm.assert_healthy*", "E*1  vanishing gradient*", "*test_pytest_points*.py:7: *"])
    result.stdout.no_fnmatch_line("*healthy.py*")
