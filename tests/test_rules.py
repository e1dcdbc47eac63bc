"""The rules, against the cases they carry, and against trainings that are really sick or healthy."""

import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import gradiometer as gm
from gradiometer.datasets import digits
from gradiometer.networks import mlp
from gradiometer.rules import RULES, cases
from gradiometer.rules.base import Rule
from gradiometer.rules.progress import progress

SICK = [(rule, case) for rule in RULES for case in rule.sick]
GUESS = math.log(64)
HEALTHY = [(rule, case) for rule in RULES for case in rule.healthy]


def _name(value):
    return value.kind if isinstance(value, Rule) else value.name


@pytest.mark.parametrize(("rule", "case"), SICK, ids=_name)
def test_sick_case_is_found_with_sites_and_evidence(rule, case):
    found = rule.check(case.patient)
    assert [f.kind for f in found] == [rule.kind]
    assert found[0].severity != "info"
    assert found[0].sites
    assert found[0].evidence
    assert found[0].cause
    assert found[0].remedies
    assert found[0].wrong_if


@pytest.mark.parametrize(("rule", "case"), HEALTHY, ids=_name)
def test_healthy_case_raises_no_alarm(rule, case):
    assert [f for f in rule.check(case.patient) if f.severity != "info"] == []


@pytest.mark.parametrize("rule", RULES, ids=_name)
@pytest.mark.parametrize(("other", "case"), SICK, ids=_name)
def test_no_rule_is_disturbed_by_the_scale_of_the_loss(rule, other, case):
    """The same training with its gradients a million times smaller gets the same findings."""
    from dataclasses import replace

    def scaled(reading):
        rows = [replace(r, grad_rms=None if r.grad_rms is None else r.grad_rms * 1e-6) for r in reading.sites]
        return replace(reading, sites=tuple(rows))

    patient = case.patient
    small = type(patient)([scaled(r) for r in patient.early], [scaled(r) for r in patient.recent], patient.losses)
    assert [(f.kind, f.severity, f.sites) for f in rule.check(small)] == [
        (f.kind, f.severity, f.sites) for f in rule.check(patient)
    ]


def test_a_rule_without_cases_is_refused():
    with pytest.raises(ValueError, match="at least one sick and one healthy"):
        Rule("vanishing_gradient", lambda p: [], (), ())


# -- real trainings -------------------------------------------------------------------------------------------------


def _train(model, steps=150, lr=0.01, momentum=0.9, optimizer=None, inputs=lambda x: x, every=10):
    torch.manual_seed(1)
    data = digits()
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum)
    with gm.watch(model, optimizer, every=every) as watch:
        for _ in range(steps):
            batch = torch.randint(len(data.train_inputs), (64,))
            optimizer.zero_grad()
            cross_entropy(model(inputs(data.train_inputs[batch])), data.train_targets[batch]).backward()
            optimizer.step()
    return watch.run


def _scaled(model, factor):
    for layer in model:
        if isinstance(layer, nn.Linear):
            layer.weight.data *= factor
    return model


def _dead(model, layer):
    model[layer].bias.data.fill_(-100.0)
    return model


class NaNAt(nn.Module):
    """Takes the log of something that becomes negative at a known step."""

    def __init__(self, step):
        super().__init__()
        self.fc, self.out, self.step, self.now = nn.Linear(64, 32), nn.Linear(32, 10), step, 0

    def forward(self, x):
        self.now += 1
        x = torch.relu(self.fc(x))
        x = torch.log(x + (1 if self.now <= self.step else -1))
        return self.out(x)


def make(name):
    torch.manual_seed(0)
    return {
        "12 sigmoid layers": lambda: (mlp(64, 64, 12, 10, "sigmoid"), {}),
        "30 ReLU layers at a third of He": lambda: (_scaled(mlp(64, 64, 30, 10), 0.6), {}),
        "34 ReLU layers as PyTorch makes them": lambda: (_torch_default(34), {}),
        "20 ReLU layers at three times He": lambda: (_scaled(mlp(64, 64, 20, 10), 3.0), {"lr": 1e-6}),
        "a dead layer": lambda: (_dead(mlp(64, 64, 6, 10), 4), {}),
        "saturated tanh": lambda: (_scaled(mlp(64, 64, 6, 10, "tanh"), 20.0), {"lr": 1e-3}),
        "a NaN at step 80": lambda: (NaNAt(80), {}),
        "a learning rate far too large": lambda: (mlp(64, 64, 12, 10), {"lr": 5.0}),
        "12 ReLU layers": lambda: (mlp(64, 64, 12, 10), {}),
        "5 tanh layers": lambda: (mlp(64, 64, 5, 10, "tanh"), {}),
        "2 sigmoid layers": lambda: (mlp(64, 64, 2, 10, "sigmoid"), {"lr": 0.1}),
        "logistic regression": lambda: (mlp(64, 64, 0, 10), {}),
        "20 ReLU layers, a first look": lambda: (mlp(64, 64, 20, 10), {"steps": 2}),
        "Adam": lambda: ((m := mlp(64, 64, 8, 10)), {"optimizer": torch.optim.Adam(m.parameters(), lr=1e-3)}),
        "batch normalization": lambda: (_normalized(10), {}),
        "a last layer born at zero": lambda: (_zero_head(mlp(64, 64, 6, 10)), {"lr": 0.05}),
        "one step of it": lambda: (_zero_head(mlp(64, 64, 6, 10)), {"steps": 1}),
    }[name]()


def _torch_default(depth):
    layers = [m for _ in range(depth) for m in (nn.Linear(64, 64), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(64, 10))


def _normalized(depth):
    layers = [m for _ in range(depth) for m in (nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(64, 10))


def _zero_head(model):
    model.output.weight.data.zero_()
    return model


@pytest.mark.parametrize(
    ("name", "kind", "site"),
    [
        ("12 sigmoid layers", "vanishing_gradient", "hidden1"),
        ("30 ReLU layers at a third of He", "vanishing_gradient", "hidden1"),
        ("34 ReLU layers as PyTorch makes them", "vanishing_gradient", "0"),
        ("20 ReLU layers at three times He", "exploding_gradient", "hidden1"),
        ("a dead layer", "dead_units", "act3"),
        ("saturated tanh", "saturated_units", None),
        ("a NaN at step 80", "nonfinite", ":log"),
        ("a learning rate far too large", "nonfinite", None),
    ],
)
def test_sick_training_is_found_first(name, kind, site):
    model, how = make(name)
    diagnosis = gm.diagnose(_train(model, **how))
    assert diagnosis.healthy is False
    assert diagnosis[0].kind == kind, str(diagnosis)
    if site is not None:
        assert site in diagnosis[0].sites


@pytest.mark.parametrize(
    "name",
    [
        "12 ReLU layers",
        "5 tanh layers",
        "2 sigmoid layers",
        "logistic regression",
        "20 ReLU layers, a first look",
        "Adam",
        "batch normalization",
        "a last layer born at zero",
        "one step of it",
    ],
)
def test_healthy_training_is_left_alone(name):
    model, how = make(name)
    diagnosis = gm.diagnose(_train(model, **how))
    assert diagnosis.healthy is True, str(diagnosis)


def test_the_nan_is_dated():
    model, how = make("a NaN at step 80")
    finding = gm.diagnose(_train(model, **how, every=1))[0]
    assert finding.evidence["step"] == 80
    assert finding.evidence["last_finite_loss_at_step"] == 79


def test_cause_comes_before_consequence():
    model, how = make("a dead layer")
    diagnosis = gm.diagnose(_train(model, **how))
    kinds = [f.kind for f in diagnosis]
    assert kinds == ["dead_units", "vanishing_gradient", "stalled_training"]
    assert [f.follows_from for f in diagnosis] == [None, "dead_units", "vanishing_gradient"]


def test_a_reading_alone_can_be_diagnosed():
    model, how = make("12 sigmoid layers")
    reading = _train(model, **how, every=50).readings[0]
    assert gm.diagnose(reading)[0].kind == "vanishing_gradient"


@pytest.mark.parametrize("factor", [1e-6, 0.1, 0.5, 2.0, 1e6])
def test_the_verdict_does_not_depend_on_the_scale_of_the_loss(factor):
    """The same training, with the loss multiplied and the learning rate divided."""
    seen = []
    for s in (1.0, factor):
        model, _ = make("12 sigmoid layers")
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01 / s)
        data = digits()
        with gm.watch(model, optimizer, every=10) as watch:
            for i in range(60):
                optimizer.zero_grad()
                rows = slice(16 * i, 16 * i + 16)
                (cross_entropy(model(data.train_inputs[rows]), data.train_targets[rows]) * s).backward()
                optimizer.step()
        seen.append([(f.kind, f.severity) for f in gm.diagnose(watch.run)])
    assert seen[0] == seen[1]
    assert seen[0][0] == ("vanishing_gradient", "critical")


def test_parameters_alone_are_no_evidence_of_health():
    model = mlp(64, 16, 2, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with gm.watch(model, optimizer, every=1, level="parameters") as watch:
        cross_entropy(model(torch.randn(8, 64)), torch.zeros(8, dtype=torch.long)).backward()
        optimizer.step()
    diagnosis = gm.diagnose(watch.run)
    assert diagnosis.healthy is None
    assert "full" in diagnosis.reason


def test_nothing_recorded_is_no_verdict():
    diagnosis = gm.diagnose(gm.Run(readings=()))
    assert diagnosis.healthy is None
    assert "step" in diagnosis.reason
    with pytest.raises(TypeError, match="Reading or a Run"):
        gm.diagnose("run.sqlite")


@pytest.mark.parametrize(
    ("losses", "learning"),
    [
        ([GUESS] * 200, False),
        ([GUESS * 0.99**i for i in range(200)], True),
        ([1e6 * 0.5**i + GUESS for i in range(200)], False),  # from a wild start to the constant guess
        ([GUESS] * 10, None),
        ([1.0] * 50 + [math.nan], False),
        ([4.0 - 0.02 * i for i in range(300)], True),  # a loss that may be negative
        ([GUESS + 0.1] * 5 + [GUESS] * 195, False),  # only the output's bias was learned
        ([GUESS * 0.85] * 200, None),  # noisy labels: trained before, as far as it goes
        ([1.7] * 200, True),  # watched from a plateau on, far below the constant guess
        ([GUESS * 0.95**i for i in range(50)] + [GUESS] * 50, False),  # learned, and lost it again
        ([20.0 * GUESS - 0.07 * i for i in range(200)], False),  # logits of too large a scale, and no sum
    ],
)
def test_progress(losses, learning):
    reading = cases.chain([1.0] * 5, "relu", loss="unknown", top=0.01).last
    assert progress(list(enumerate(losses)), [reading]).learning is learning
