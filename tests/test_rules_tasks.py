"""The rules about what a training is asked to do and how it was put together, on real trainings, sick and healthy."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gradiometer as gm
from gradiometer.records import Run
from gradiometer.rules import (
    bad_initialization,
    diverging_loss,
    frozen_parameters,
    nonfinite,
    output_mismatch,
    symmetric_units,
    unscaled_inputs,
)
from gradiometer.rules.base import Rule
from gradiometer.rules.diagnosis import _patients
from gradiometer.rules.drawn import as_drawn

RULES = (bad_initialization.RULE, frozen_parameters.RULE, output_mismatch.RULE, symmetric_units.RULE)
RULES += (unscaled_inputs.RULE,)


def _name(value):
    return value.kind if isinstance(value, Rule) else value.name


@pytest.mark.parametrize(("rule", "case"), [(r, c) for r in RULES for c in r.sick], ids=_name)
def test_sick_case_is_found_and_told(rule, case):
    found = [f for f in rule.check(case.patient) if f.severity != "info"]
    assert [f.kind for f in found] == [rule.kind]
    for text in (found[0].cause, found[0].explanation, found[0].wrong_if):
        assert text
        assert "  " not in text
    assert found[0].explanation.endswith(".")
    assert found[0].sites
    assert found[0].remedies
    assert "onset" in found[0].evidence


@pytest.mark.parametrize(("rule", "case"), [(r, c) for r in RULES for c in r.healthy], ids=_name)
def test_healthy_case_raises_no_alarm(rule, case):
    assert [f for f in rule.check(case.patient) if f.severity != "info"] == []


# -- real trainings -------------------------------------------------------------------------------------------------


def train(model, loss, x, y, steps=120, optimizer=None, lr=0.1, every=10, zero=True, batch=64):
    g = torch.Generator().manual_seed(1)
    optimizer = optimizer or torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr)
    watch = gm.watch(model, optimizer, every=every)
    try:
        with watch:
            for _ in range(steps):
                chosen = torch.randint(len(x), (batch,), generator=g)
                if zero:
                    optimizer.zero_grad()
                loss(model(x[chosen]), y[chosen]).backward()
                optimizer.step()
    except Exception as error:
        if not isinstance(error, IndexError | RuntimeError):
            raise
    return watch.run


def findings(run, rule):
    """As a diagnosis asks for them: of what came before the first NaN."""
    whole = (nonfinite.without(p) if nonfinite.RULE.check(p) else p for p in _patients(run))
    return [f for patient in whole if patient.recent for f in rule.check(patient)]


def worst(run, rule):
    order = {"info": 0, "warning": 1, "critical": 2}
    return max((f.severity for f in findings(run, rule)), key=order.__getitem__, default="nothing")


def first(run):
    return Run(readings=run.readings[:1], scalars={"loss": run.scalars["loss"][:1]}, steps=1, models=run.models)


def blobs(classes=4, inputs=8):
    g = torch.Generator().manual_seed(0)
    y = torch.randint(classes, (600,), generator=g)
    return 2 * torch.randn(classes, inputs, generator=g)[y] + torch.randn(600, inputs, generator=g), y


def line(inputs=8):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(600, inputs, generator=g)
    return x, (x[:, :1] - x[:, 1:2]) / math.sqrt(2)


def net(*end, inputs=8, outputs=4, width=32, act: type[nn.Module] = nn.ReLU):
    torch.manual_seed(0)
    layers = [nn.Linear(inputs, width), act(), nn.Linear(width, width), act(), nn.Linear(width, outputs)]
    return nn.Sequential(*layers, *end)


def binary(y):
    return (y[:, :1] > 0).float()


X, C = blobs()
U, T = line()
BCE = F.binary_cross_entropy_with_logits
SOFT = F.one_hot(C).float() * 0.9 + 0.025
KL, KL_OF_LOGS = (nn.KLDivLoss(reduction="batchmean", log_target=logs) for logs in (False, True))

MISMATCHED = {
    "softmax": lambda: train(net(nn.Softmax(1)), F.cross_entropy, x=X, y=C),
    "softmax outside": lambda: train(net(), lambda o, t: F.cross_entropy(o.softmax(1), t), x=X, y=C),
    "sigmoid": lambda: train(net(nn.Sigmoid()), F.cross_entropy, x=X, y=C),
    "nll of raw scores": lambda: train(net(), F.nll_loss, x=X, y=C, lr=1e-3),
    "nll of probabilities": lambda: train(net(nn.Softmax(1)), F.nll_loss, x=X, y=C),
    "softmax over the batch": lambda: train(net(nn.LogSoftmax(0)), F.nll_loss, x=X, y=C),
    "log of a softmax over the batch": lambda: train(net(), lambda o, t: F.nll_loss(o.softmax(0).log(), t), x=X, y=C),
    "divergence of probabilities": lambda: train(net(nn.Softmax(1)), KL, x=X, y=SOFT),
    "divergence of raw scores": lambda: train(net(), KL, x=X, y=SOFT, lr=1e-3),
    "divergence, log_target": lambda: train(net(nn.LogSoftmax(1)), KL_OF_LOGS, x=X, y=SOFT),
    "softmax before soft labels": lambda: train(net(nn.Softmax(1)), F.cross_entropy, x=X, y=SOFT),
    "counts in a row, outputs in a column": lambda: train(net(outputs=1), F.poisson_nll_loss, x=U, y=T[:, 0].exp()),
    "one class": lambda: train(net(outputs=1), F.cross_entropy, x=X, y=torch.zeros_like(C)),
    "softmax of one": lambda: train(net(nn.Softmax(1), outputs=1), F.binary_cross_entropy, x=U, y=binary(T)),
    "sigmoid twice": lambda: train(net(nn.Sigmoid(), outputs=1), BCE, x=U, y=binary(T)),
    "targets of -1": lambda: train(net(outputs=1), BCE, x=U, y=2 * binary(T) - 1, lr=1e-2),
    "relu output": lambda: train(net(nn.ReLU(), outputs=1), F.mse_loss, x=U, y=T),
    "sigmoid output": lambda: train(net(nn.Sigmoid(), outputs=1), F.mse_loss, x=U, y=10 * T),
    "softplus output, huber": lambda: train(net(nn.Softplus(), outputs=1), F.huber_loss, x=U, y=T),
    "(N, 1) and (N,)": lambda: train(net(outputs=1), F.mse_loss, x=U, y=T[:, 0]),
    "(N,) and (N, 1)": lambda: train(net(nn.Flatten(0), outputs=1), F.mse_loss, x=U, y=T),
    "(N, 1) and (N,), by hand": lambda: train(net(outputs=1), lambda o, t: ((o - t) ** 2).mean(), x=U, y=T[:, 0]),
}
TURNED = {
    "minus": lambda: train(net(), lambda o, t: -F.cross_entropy(o, t), x=X, y=C, lr=1e-3),
    "times -1": lambda: train(net(outputs=1), lambda o, t: -1 * F.mse_loss(o, t), x=U, y=T, lr=1e-3),
}
FITTING = {
    "cross-entropy": lambda: train(net(), F.cross_entropy, x=X, y=C),
    "too short a step": lambda: train(net(), F.cross_entropy, x=X, y=C, lr=1e-7),
    "smoothed": lambda: train(net(), lambda o, t: F.cross_entropy(o, t, label_smoothing=0.1), x=X, y=C),
    "soft labels": lambda: train(net(), F.cross_entropy, x=X, y=SOFT),
    "divergence": lambda: train(net(nn.LogSoftmax(1)), KL, x=X, y=SOFT),
    "divergence, not learning": lambda: train(net(nn.LogSoftmax(1)), KL, x=X, y=SOFT, lr=1e-7),
    "divergence of logarithms": lambda: train(net(nn.LogSoftmax(1)), KL_OF_LOGS, x=X, y=SOFT.log()),
    "a warm student": lambda: train(
        net(), lambda o, t: 4 * KL((o / 2).log_softmax(1), t) + F.cross_entropy(o, t.argmax(1)), x=X, y=SOFT
    ),
    "weighted": lambda: train(
        net(), lambda o, t: F.cross_entropy(o, t, weight=torch.tensor([1.0, 9.0, 0.1, 2.0])), x=X, y=C
    ),
    "counts": lambda: train(net(outputs=1), F.poisson_nll_loss, x=U, y=T.exp()),
    "nll of log_softmax": lambda: train(net(nn.LogSoftmax(1)), F.nll_loss, x=X, y=C),
    "nll of log of softmax": lambda: train(
        net(nn.Softmax(1)), lambda o, t: F.nll_loss((o + 1e-8).log(), t), x=X, y=C, lr=0.05
    ),
    "log_softmax twice": lambda: train(net(nn.LogSoftmax(1)), F.cross_entropy, x=X, y=C),
    "tanh times ten": lambda: train(net(nn.Tanh()), lambda o, t: F.cross_entropy(10 * o, t), x=X, y=C),
    "tanh, and it learns": lambda: train(net(nn.Tanh()), F.cross_entropy, x=X, y=C),
    "binary with logits": lambda: train(net(outputs=1), BCE, x=U, y=binary(T)),
    "binary of a sigmoid": lambda: train(net(nn.Sigmoid(), outputs=1), F.binary_cross_entropy, x=U, y=binary(T)),
    "relu output, positive targets": lambda: train(net(nn.Softplus(), outputs=1), F.mse_loss, x=U, y=T.abs()),
    "tanh output in range": lambda: train(net(nn.Tanh(), outputs=1), F.mse_loss, x=U, y=T.tanh()),
    "shapes alike": lambda: train(net(outputs=1), F.mse_loss, x=U, y=T),
    "one target for all outputs": lambda: train(net(outputs=5), F.mse_loss, x=U, y=T),
    "constant labels": lambda: train(net(outputs=1), lambda o, t: F.mse_loss(o, torch.ones(1).expand_as(o)), x=U, y=T),
    "an ensemble": lambda: train(
        net(outputs=5), lambda o, t: F.mse_loss(o.T, t[:, 0].expand(5, -1)), x=U, y=T, lr=1e-7
    ),
    "policy gradient": lambda: train(
        net(), lambda o, t: (F.cross_entropy(o, t, reduction="none") * torch.linspace(-2, 1, 64)).mean(), x=X, y=C
    ),
    "minimax generator": lambda: train(net(outputs=1), lambda o, t: -BCE(o, torch.zeros_like(o)), x=U, y=T, lr=1e-3),
}


@pytest.mark.filterwarnings("ignore:Using a target size")
@pytest.mark.parametrize("name", MISMATCHED)
def test_output_and_loss_that_do_not_fit_are_told_at_once_and_later(name):
    run = MISMATCHED[name]()
    assert worst(run, output_mismatch.RULE) in ("warning", "critical")
    assert worst(first(run), output_mismatch.RULE) in ("warning", "critical")
    assert len([f for f in findings(run, output_mismatch.RULE) if f.severity != "info"]) == 1


@pytest.mark.parametrize("name", TURNED)
def test_a_loss_that_is_maximized_diverges(name):
    run = TURNED[name]()
    assert worst(run, diverging_loss.RULE) in ("warning", "critical")
    assert worst(first(run), diverging_loss.RULE) in ("warning", "critical")


@pytest.mark.filterwarnings("ignore:Using a target size")
@pytest.mark.parametrize("name", FITTING)
def test_output_and_loss_that_fit_raise_no_alarm(name):
    run = FITTING[name]()
    assert worst(run, output_mismatch.RULE) in ("nothing", "info")
    assert worst(first(run), output_mismatch.RULE) in ("nothing", "info")


def test_learning_is_known_of_soft_labels_divergences_and_weights():
    for name in ("soft labels", "divergence", "divergence of logarithms", "weighted"):
        (patient,) = _patients(FITTING[name]())
        assert patient.progress.guess is not None
        assert patient.progress.learning
    (patient,) = _patients(FITTING["divergence, not learning"]())
    assert patient.progress.learning is False


def test_place_of_a_softmax_is_named():
    assert findings(MISMATCHED["softmax"](), output_mismatch.RULE)[0].sites == ("5", "loss")
    assert findings(MISMATCHED["relu output"](), output_mismatch.RULE)[0].sites == ("5", "loss")
    assert findings(MISMATCHED["nll of raw scores"](), output_mismatch.RULE)[0].sites == ("4", "loss")


def test_floor_of_a_double_softmax_is_that_of_the_best_logits():
    found = findings(MISMATCHED["softmax"](), output_mismatch.RULE)[0]
    best = F.cross_entropy(torch.eye(4), torch.arange(4)).item()
    assert found.evidence["floor"] == pytest.approx(best, rel=1e-6)


@pytest.mark.parametrize(
    ("model", "loss", "y", "said"),
    [
        (lambda: net(outputs=3), F.cross_entropy, C, "class 3"),
        (lambda: net(), F.cross_entropy, C - 1, "class -1"),
        (lambda: net(outputs=1), F.binary_cross_entropy, binary(T), "raw scores"),
    ],
)
def test_error_of_the_loss_becomes_a_finding(model, loss, y, said):
    run = train(model(), loss, x=X, y=y)
    found = output_mismatch.ended(run.notes)
    assert found is not None
    assert said in found.explanation
    assert found.severity == "critical"


def test_other_errors_are_not_taken_for_one_of_the_loss():
    assert output_mismatch.ended(()) is None
    assert (
        output_mismatch.ended(("the block ended by KeyboardInterrupt", "the block ended by IndexError: list")) is None
    )
    cuda = "the block ended by RuntimeError: CUDA error: device-side assert triggered"
    found = output_mismatch.ended((cuda,))
    assert found is not None
    assert "CPU" in found.remedies[0]


# -- inputs -----------------------------------------------------------------------------------------------------------


def fed(change, *begin, lr=0.05, optimizer=None, **options):
    model = nn.Sequential(*begin, *net(**options))
    made = optimizer(model.parameters()) if optimizer else None
    return train(model, F.cross_entropy, x=change(X), y=C, lr=lr, optimizer=made)


UNSCALED = {
    "bytes": lambda: fed(lambda x: 40 * x + 100),
    "a millionth": lambda: fed(lambda x: 1e-6 * x),
    "years": lambda: fed(lambda x: x + 2000, optimizer=lambda p: torch.optim.Adam(p, 1e-3)),
    "one feature": lambda: fed(lambda x: x * torch.tensor([1e4] + [1.0] * 7), lr=1e-3),
}
SCALED = {
    "standardized": lambda: fed(lambda x: x / x.std()),
    "standardized, not learning": lambda: fed(lambda x: x / x.std(), lr=1e-7),
    "between 0 and 1, not learning": lambda: fed(lambda x: (x - x.min()) / (x.max() - x.min()), lr=1e-7),
    "bytes and Adam": lambda: fed(lambda x: 40 * x + 100, optimizer=lambda p: torch.optim.Adam(p, 3e-3)),
    "bytes, batch norm": lambda: fed(lambda x: 40 * x + 100, nn.BatchNorm1d(8)),
    "bytes, layer norm, not learning": lambda: fed(lambda x: 40 * x + 100, nn.LayerNorm(8), lr=1e-7),
    "years before batch norm": lambda: fed(lambda x: x + 2000, nn.Linear(8, 8), nn.BatchNorm1d(8), lr=1e-7),
}


@pytest.mark.parametrize("name", UNSCALED)
def test_unscaled_inputs_are_told_where_they_hurt(name):
    run = UNSCALED[name]()
    assert worst(run, unscaled_inputs.RULE) in ("warning", "critical")
    assert findings(run, unscaled_inputs.RULE)[0].sites[0] == "input"


@pytest.mark.parametrize("name", SCALED)
def test_inputs_that_do_no_harm_raise_no_alarm(name):
    run = SCALED[name]()
    assert worst(run, unscaled_inputs.RULE) in ("nothing", "info")
    assert worst(first(run), unscaled_inputs.RULE) in ("nothing", "info")


# -- units ------------------------------------------------------------------------------------------------------------


def with_weights(change, act: type[nn.Module] = nn.ReLU, adam=None, **options):
    model = net(act=act)
    with torch.no_grad():
        change(model)
    options |= {"optimizer": torch.optim.Adam(model.parameters(), adam)} if adam else {}
    return train(model, F.cross_entropy, x=X / 2, y=C, **options)


def constant(model):
    for layer in model[::2]:
        nn.init.constant_(layer.weight, 0.05)
        nn.init.zeros_(layer.bias)


def doubled(model):
    model[2].weight[16:], model[2].bias[16:] = model[2].weight[:16], model[2].bias[:16]
    model[4].weight[:, 16:] = -model[4].weight[:, :16]


def two_units(model):
    model[0].weight.copy_(model[0].weight[:2].repeat(16, 1))
    model[0].bias.copy_(model[0].bias[:2].repeat(16))
    model[2].weight.copy_(model[2].weight[:, :2].repeat(1, 16) / 16)


def zeros(*layers):
    return lambda model: [nn.init.zeros_(p) for k in layers for p in model[k].parameters()]


SYMMETRIC = {
    "constant": lambda: with_weights(constant),
    "two units": lambda: with_weights(two_units, act=nn.Tanh),
    "two layers of zeros": lambda: with_weights(zeros(2, 4)),
}
DIFFERENT = {
    "as drawn": lambda: with_weights(lambda m: None),
    "not learning": lambda: with_weights(lambda m: None, lr=1e-8),
    "an output layer of zeros": lambda: with_weights(zeros(4)),
    "an output layer of zeros, not learning": lambda: with_weights(zeros(4), lr=1e-8),
    "every unit twice, with opposite signs behind": lambda: with_weights(doubled),
    "a tanh layer of zeros": lambda: with_weights(zeros(2), act=nn.Tanh),
}


@pytest.mark.parametrize("name", SYMMETRIC)
def test_copies_that_stay_are_told_at_birth_and_later(name):
    run = SYMMETRIC[name]()
    assert worst(first(run), symmetric_units.RULE) == "critical"
    assert worst(run, symmetric_units.RULE) in ("warning", "critical")


@pytest.mark.parametrize("name", DIFFERENT)
def test_units_that_part_raise_no_alarm(name):
    run = DIFFERENT[name]()
    assert worst(run, symmetric_units.RULE) in ("nothing", "info")
    assert worst(first(run), symmetric_units.RULE) in ("nothing", "info")


# -- initialization ---------------------------------------------------------------------------------------------------


def times(factor, *layers):
    return lambda model: [model[k].weight.mul_(factor) for k in layers or (0, 2, 4)]


ILL_DRAWN = {
    "a hundredth": lambda: with_weights(times(0.01)),
    "one layer a hundred times too large": lambda: with_weights(times(200.0, 2), act=nn.LeakyReLU),
    "a hidden layer of zeros": lambda: with_weights(zeros(2)),
}
WELL_DRAWN = {
    "torch's own": lambda: with_weights(lambda m: None),
    "torch's own, not learning": lambda: with_weights(lambda m: None, lr=1e-8),
    "a third": lambda: with_weights(times(0.33), lr=0.5),
    "an output layer of zeros, not learning": lambda: with_weights(zeros(4), lr=1e-8),
    "a hundredth, and Adam": lambda: with_weights(times(0.01), adam=1e-2),
}


@pytest.mark.parametrize("name", ILL_DRAWN)
def test_weights_of_a_wrong_scale_are_told(name):
    assert worst(ILL_DRAWN[name](), bad_initialization.RULE) == "critical"


@pytest.mark.parametrize("name", WELL_DRAWN)
def test_weights_of_a_usual_scale_raise_no_alarm(name):
    run = WELL_DRAWN[name]()
    assert worst(run, bad_initialization.RULE) in ("nothing", "info")
    assert worst(first(run), bad_initialization.RULE) in ("nothing", "info")


def test_scale_before_a_normalization_does_not_matter():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.LayerNorm(32), nn.ReLU(), nn.Linear(32, 4))
    model[0].weight.data.mul_(1e3)
    assert findings(train(model, F.cross_entropy, x=X, y=C, lr=1e-8), bad_initialization.RULE) == []


# -- wiring -----------------------------------------------------------------------------------------------------------


class Listed(nn.Module):
    """Two layers in a Python list, of which no module knows."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.begin, self.layers, self.head = nn.Linear(8, 2), [nn.Linear(2, 2), nn.Linear(2, 2)], nn.Linear(2, 4)

    def forward(self, x):
        x = self.begin(x)
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return self.head(x)


def parted(train_first=0):
    """A body of 64 units, and a head of its own."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU()), nn.Linear(64, 4))
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    for _ in range(train_first):
        optimizer.zero_grad()
        F.cross_entropy(model(X), C).backward()
        optimizer.step()
    return model


def wired(model, parameters, lr=0.1, **options):
    return train(model, F.cross_entropy, x=X / 2, y=C, optimizer=torch.optim.SGD(parameters, lr), **options)


def replaced_head():
    model = parted()
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    model[1] = nn.Linear(64, 4)
    return train(model, F.cross_entropy, x=X / 2, y=C, optimizer=optimizer)


def body_forgotten(lr):
    model = parted()
    return wired(model, model[1].parameters(), lr)


def body_frozen(lr, pretrained):
    model = parted(pretrained)
    model[0].requires_grad_(False)
    return wired(model, model[1].parameters(), lr)


def all_frozen():
    model = parted()
    model[1].requires_grad_(False)
    return wired(model, model[1].parameters())


def unused():
    model = parted()
    model.extra = nn.Linear(64, 200)
    model.forward = lambda x: model[1](model[0](x))
    return wired(model, model.parameters(), 1e-7)


def never_zeroed(lr=0.2):
    return train(net(act=nn.Tanh, outputs=1), F.mse_loss, x=U, y=T, lr=lr, zero=False)


MISWIRED = {
    "a head replaced after the optimizer was made": (replaced_head, "made before"),
    "the body in no optimizer": (lambda: body_forgotten(1e-4), "no optimizer holds"),
    "the body frozen as drawn": (lambda: body_frozen(1e-4, 0), "frozen before"),
    "all of it frozen": (all_frozen, "frozen parameters only"),
    "a part that is not used": (unused, "no part"),
    "zero_grad missing": (never_zeroed, "never set to zero"),
    "layers in a list": (lambda: wired(m := Listed(), m.parameters(), 1e-4), "does not know"),
}
WIRED = {
    "all held": lambda: wired(m := parted(), m.parameters()),
    "all held, not learning": lambda: wired(m := parted(), m.parameters(), 1e-7),
    "the body in no optimizer, and it learns": lambda: body_forgotten(0.3),
    "a pretrained body, frozen": lambda: body_frozen(0.1, 60),
    "a pretrained body, frozen, not learning": lambda: body_frozen(1e-7, 60),
}


@pytest.mark.parametrize("name", MISWIRED)
def test_parameters_that_stand_still_are_told(name):
    make, said = MISWIRED[name]
    run = make()
    serious = [f for f in findings(run, frozen_parameters.RULE) if f.severity != "info"]
    assert len(serious) == 1
    assert said in serious[0].cause


@pytest.mark.parametrize("name", WIRED)
def test_what_stands_still_on_purpose_raises_no_alarm(name):
    run = WIRED[name]()
    assert worst(run, frozen_parameters.RULE) in ("nothing", "info")
    assert worst(first(run), frozen_parameters.RULE) in ("nothing", "info")


def test_gradients_accumulated_over_passes_are_not_a_missing_zero_grad():
    model, optimizer = (m := net()), torch.optim.SGD(m.parameters(), 1e-7)
    with gm.watch(model, optimizer, every=1) as watch:
        for i in range(120):
            F.cross_entropy(model(X[i : i + 32]), C[i : i + 32]).backward()
            if i % 4 == 3:
                optimizer.step()
                optimizer.zero_grad()
    assert findings(watch.run, frozen_parameters.RULE) == []


def test_two_networks_against_each_other_raise_no_alarm():
    torch.manual_seed(0)
    maker, judge = net(outputs=8), net(outputs=1)
    optimizers = [torch.optim.Adam(m.parameters(), 1e-3) for m in (maker, judge)]
    ones, nulls = torch.ones(64, 1), torch.zeros(64, 1)
    with gm.watch([maker, judge], optimizers, every=5) as watch:
        for i in range(60):
            z, real = torch.randn(64, 8), X[i : i + 64]
            optimizers[1].zero_grad()
            (BCE(judge(real), ones) + BCE(judge(maker(z).detach()), nulls)).backward()
            optimizers[1].step()
            optimizers[0].zero_grad()
            BCE(judge(maker(z)), ones).backward()
            optimizers[0].step()
    for rule in RULES:
        assert worst(watch.run, rule) in ("nothing", "info"), rule.kind


@pytest.mark.parametrize("n", [(64, 32), (256, 64)])
def test_weights_are_known_as_drawn_until_they_are_trained(n):
    torch.manual_seed(0)
    layer = nn.Linear(*n)
    reading = gm.measure(layer, (torch.randn(8, n[0]), torch.randn(8, n[1])), F.mse_loss).parameters[0]
    assert as_drawn([reading]) == "torch"
    assert as_drawn([replace(reading, weight_rms=reading.weight_rms * 1.2)]) is None
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    reading = gm.measure(layer, (torch.randn(8, n[0]), torch.randn(8, n[1])), F.mse_loss).parameters[0]
    assert as_drawn([reading]) == "He"


@pytest.mark.parametrize(
    ("layer", "batch"),
    [
        (nn.LSTM(24, 40, batch_first=True), torch.randn(4, 5, 24)),
        (nn.GRU(24, 40, 2), torch.randn(4, 5, 24)),
        (nn.RNN(24, 40), torch.randn(4, 5, 24)),
        (nn.Embedding(50, 40), torch.randint(50, (4, 5))),
        (nn.TransformerEncoderLayer(32, 4, 64), torch.randn(4, 5, 32)),
        (nn.Conv2d(8, 16, 3), torch.randn(2, 8, 6, 6)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_the_layers_of_torch_draw_is_known(layer: nn.Module, batch: torch.Tensor):
    def loss(y, _):
        return (y[0] if isinstance(y, tuple) else y).square().mean()

    read = gm.measure(layer, (batch, torch.zeros(1)), loss).parameters
    assert as_drawn(read) == "torch"
    assert as_drawn([replace(p, weight_rms=1.25 * p.weight_rms) for p in read]) != "torch"
