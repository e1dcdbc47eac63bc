"""Attention, likeness of inputs, 16-bit formats and clipping: real trainings, each sick one with its healthy twin."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gradiometer as gm
from gradiometer.datasets import digits
from gradiometer.rules import attention_collapse, clipping_bound, rank_collapse, underflow
from gradiometer.rules.diagnosis import _patients

RULES = {rule.kind: rule for rule in (attention_collapse.RULE, rank_collapse.RULE, underflow.RULE, clipping_bound.RULE)}
SICK = [(rule, case) for rule in RULES.values() for case in rule.sick]
HEALTHY = [(rule, case) for rule in RULES.values() for case in rule.healthy]
KEYS, PAIRS = 8, 6


def _name(value):
    return getattr(value, "kind", None) or value.name


@pytest.mark.parametrize(("rule", "case"), SICK, ids=_name)
def test_a_sick_case_is_told_in_full(rule, case):
    (found,) = rule.check(case.patient)
    assert found.kind == rule.kind
    assert found.severity != "info"
    assert found.sites
    assert found.cause
    assert found.explanation
    assert found.remedies
    assert found.wrong_if
    assert found.evidence["onset"] <= case.patient.last.step
    assert not any(isinstance(v, float) and math.isnan(v) for v in found.evidence.values())


@pytest.mark.parametrize(("rule", "case"), HEALTHY, ids=_name)
def test_a_healthy_case_raises_no_alarm(rule, case):
    assert [f for f in rule.check(case.patient) if f.severity != "info"] == []


# -- real trainings -------------------------------------------------------------------------------------------------


def alarms(run, *, kinds=RULES):
    """What the rules say about a run that is above ``info``."""
    found = [f for patient in _patients(run) for kind in kinds for f in RULES[kind].check(patient)]
    return [f for f in found if f.severity != "info"]


def on_digits(model, optimizer, steps=60, *, dtype=torch.float32, autocast=None, factor=1.0, clip=None, every=1):
    data, g = digits(), torch.Generator().manual_seed(1)
    with gm.watch(model, optimizer, every=every) as watch:
        for _ in range(steps):
            batch = torch.randint(len(data.train_inputs), (64,), generator=g)
            optimizer.zero_grad()
            with torch.autocast("cpu", autocast or torch.bfloat16, enabled=autocast is not None):
                outputs = model(data.train_inputs[batch].to(dtype))
                loss = factor * F.cross_entropy(outputs, data.train_targets[batch])
            loss.backward()
            if clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
    return watch.run


def layers(depth, activation=nn.ReLU, weight=2.0**0.5, bias=0.0):
    """Weights of variance ``weight^2 / fan_in``, biases of standard deviation ``bias``; a linear layer at the end."""
    torch.manual_seed(0)
    made = [m for _ in range(depth) for m in (nn.Linear(64, 64), activation())] + [nn.Linear(64, 10)]
    for m in made[::2]:
        nn.init.normal_(m.weight, std=weight / 8)
        nn.init.normal_(m.bias, std=bias if m is not made[-1] else 0.0)
    return nn.Sequential(*made)


def sgd(model, lr, momentum=0.9):
    return torch.optim.SGD(model.parameters(), lr, momentum)


class Attention(nn.Module):
    """One head; ``how`` it is computed is one of three ways."""

    def __init__(self, width, how="hand", factor=1.0):
        super().__init__()
        self.how = how
        self.query, self.key, self.value = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.query.weight.data *= factor
        self.key.weight.data *= factor
        self.drop = nn.Dropout(0.0)

    def forward(self, q, k):
        queries, keys = self.query(q), self.key(k)
        if self.how == "fused":
            return F.scaled_dot_product_attention(queries, keys, self.value(k))
        weights = (queries @ keys.transpose(1, 2) / math.sqrt(q.shape[-1])).softmax(-1)
        return self.drop(weights) @ self.value(k)


class Packed(nn.Module):
    def __init__(self, width, factor=1.0):
        super().__init__()
        self.inner = nn.MultiheadAttention(width, 1, batch_first=True)
        self.inner.in_proj_weight.data[: 2 * width] *= factor

    def forward(self, q, k):
        return self.inner(q, k, k, need_weights=False)[0]


class Lookup(nn.Module):
    """Pairs of a key and a value, and the key that is asked for: attention alone can answer."""

    def __init__(self, attention, width=16):
        super().__init__()
        self.keys, self.values = nn.Embedding(KEYS, width), nn.Embedding(KEYS, width)
        self.attention, self.head = attention, nn.Linear(width, KEYS)

    def forward(self, pairs, asked):
        tokens = self.keys(pairs[..., 0]) + self.values(pairs[..., 1])
        return self.head(self.attention(self.keys(asked), tokens)[:, 0])


def lookup(model, optimizer, steps=100, every=1):
    g = torch.Generator().manual_seed(1)
    with gm.watch(model, optimizer, every=every) as watch:
        for _ in range(steps):
            keys = torch.rand(64, KEYS, generator=g).argsort(1)[:, :PAIRS]
            values = torch.randint(KEYS, (64, PAIRS), generator=g)
            asked = torch.randint(PAIRS, (64, 1), generator=g)
            optimizer.zero_grad()
            outputs = model(torch.stack([keys, values], 2), keys.gather(1, asked))
            F.cross_entropy(outputs, values.gather(1, asked)[:, 0]).backward()
            optimizer.step()
    return watch.run


def attending(how, factor):
    torch.manual_seed(0)
    return Lookup(Packed(16, factor) if how == "packed" else Attention(16, how, factor))


@pytest.mark.parametrize("how", ["hand", "fused", "packed"])
def test_attention_on_one_place_from_birth(how):
    model = attending(how, 40.0)
    first = alarms(lookup(model, torch.optim.Adam(model.parameters(), 1e-2), 1))
    assert [(f.kind, f.severity) for f in first] == [("attention_collapse", "warning")]
    (found,) = alarms(lookup(model, torch.optim.Adam(model.parameters(), 5e-3), 30, every=2))
    assert (found.kind, found.severity) == ("attention_collapse", "critical")
    assert found.sites[0].startswith("attention")
    assert found.evidence["onset"] == 0


@pytest.mark.parametrize("how", ["hand", "fused", "packed"])
@pytest.mark.parametrize("steps", [1, 15, 100])
def test_attention_that_learns_what_to_look_at(how, steps):
    model = attending(how, 1.0)
    assert alarms(lookup(model, torch.optim.Adam(model.parameters(), 1e-2), steps, every=5)) == []


def test_attention_whose_logits_grow():
    model = attending("hand", 1.0)
    sharp = [*model.attention.query.parameters(), *model.attention.key.parameters()]
    optimizer = torch.optim.Adam([{"params": sharp, "lr": 1.0}, {"params": model.head.parameters(), "lr": 1e-2}])
    (found,) = alarms(lookup(model, optimizer, 60))
    assert (found.kind, found.severity) == ("attention_collapse", "critical")
    assert found.evidence["onset"] > 0
    assert "grown" in found.cause


class Gate(nn.Module):
    """A softmax that mixes experts by products, and one that is the output: neither is attention."""

    def __init__(self):
        super().__init__()
        self.choose, self.one, self.two, self.head = (
            nn.Linear(64, 2),
            nn.Linear(64, 32),
            nn.Linear(64, 32),
            nn.Linear(32, 10),
        )
        self.choose.weight.data *= 300.0

    def forward(self, x):
        x = x[:, None]
        a, b = self.choose(x).softmax(-1).unbind(-1)
        return self.head(a[..., None] * self.one(x).relu() + b[..., None] * self.two(x).relu())[:, 0]


def test_a_softmax_that_is_no_attention():
    torch.manual_seed(0)
    model = Gate()
    assert alarms(on_digits(model, sgd(model, 0.0), 25, every=5)) == []


@pytest.mark.parametrize("steps", [1, 40])
def test_ordered_phase_and_the_edge_of_chaos(steps):
    """Schoenholz et al. (2017): small weights and large biases against weights at the edge."""
    model = layers(12, nn.Tanh, weight=0.7, bias=1.0)
    (found,) = alarms(on_digits(model, sgd(model, 0.01), steps))
    assert (found.kind, found.severity) == ("rank_collapse", "critical" if steps > 20 else "warning")
    assert found.sites[0] == "22"
    assert found.evidence["apart_after"] < 1e-6 < 1e-2 < found.evidence["apart_before"]
    model = layers(12, nn.Tanh, weight=1.02)
    assert alarms(on_digits(model, sgd(model, 0.01), steps)) == []


def test_alike_at_birth_and_learned_by_adam():
    torch.manual_seed(0)
    model = nn.Sequential(*[m for _ in range(10) for m in (nn.Linear(64, 64), nn.ReLU())], nn.Linear(64, 10))
    for steps in (1, 30, 60):
        assert alarms(on_digits(model, torch.optim.Adam(model.parameters(), 2e-3), steps, every=3)) == []


@pytest.mark.parametrize("bias", [0.0, 1.0])
def test_an_output_that_begins_at_zero(bias):
    model = layers(4)
    model[-1].weight.data.zero_()
    model[-1].bias.data.fill_(bias)
    assert alarms(on_digits(model, sgd(model, 0.0), 30)) == []


def test_a_batch_of_copies_is_no_collapse():
    model, x = layers(8), torch.randn(1, 64).expand(32, -1)
    optimizer = sgd(model, 0.0)
    with gm.watch(model, optimizer, every=1) as watch:
        for _ in range(30):
            F.cross_entropy(model(x), torch.zeros(32, dtype=torch.long)).backward()
            optimizer.step()
    assert alarms(watch.run) == []


class Copy(nn.Module):
    """Attention layers that shall say each token again, or the most frequent one of all."""

    def __init__(self, skips, pooled=False):
        super().__init__()
        self.skips, self.pooled = skips, pooled
        self.embedding, self.head = nn.Embedding(8, 16), nn.Linear(16, 8)
        self.layers = nn.ModuleList(Attention(16) for _ in range(5))

    def forward(self, x):
        h = self.embedding(x)
        for layer in self.layers:
            h = layer(h, h) + (h if self.skips else 0.0)
        return self.head(h.mean(1) if self.pooled else h).flatten(0, -2)


def copying(model, steps=30):
    optimizer, g = torch.optim.Adam(model.parameters(), 2e-3), torch.Generator().manual_seed(1)
    with gm.watch(model, optimizer, every=5) as watch:
        for _ in range(steps):
            x = torch.randint(8, (16, 10), generator=g)
            optimizer.zero_grad()
            F.cross_entropy(model(x), x.mode(1).values if model.pooled else x.flatten()).backward()
            optimizer.step()
    return watch.run


@pytest.mark.parametrize("steps", [1, 30])
def test_tokens_that_attention_makes_one(steps):
    torch.manual_seed(0)
    (found,) = alarms(copying(Copy(skips=False), steps))
    assert (found.kind, found.severity) == ("rank_collapse", "critical" if steps > 20 else "warning")
    assert found.evidence["between"] == "tokens"
    assert alarms(copying(Copy(skips=True), steps)) == []
    assert alarms(copying(Copy(skips=False, pooled=True), steps)) == []


@pytest.mark.parametrize("steps", [1, 40])
def test_gradients_below_float16(steps):
    model = layers(3)
    adam = torch.optim.Adam(model.parameters(), 1e-3, eps=1e-16)
    (found,) = alarms(on_digits(model, adam, steps, autocast=torch.float16, factor=1e-7))
    assert (found.kind, found.severity) == ("underflow", "critical")
    assert found.evidence["enters"] < underflow.FLOOR


@pytest.mark.parametrize("factor", [1.0, 1e-4])
@pytest.mark.parametrize("autocast", [torch.float16, torch.bfloat16])
def test_small_gradients_that_teach(factor, autocast):
    for steps in (1, 60):
        model = layers(3)
        adam = torch.optim.Adam(model.parameters(), 1e-3, eps=1e-16)
        assert alarms(on_digits(model, adam, steps, autocast=autocast, factor=factor, every=3)) == []


def test_a_dead_layer_in_float16_is_no_underflow():
    model = layers(4)
    model[4].bias.data.fill_(-100.0)
    run = on_digits(model, sgd(model, 0.01), 40, autocast=torch.float16)
    assert alarms(run, kinds=["underflow", "rank_collapse"]) == []


def test_updates_lost_to_bfloat16_weights():
    model = layers(2).bfloat16()
    (found,) = alarms(on_digits(model, sgd(model, 1e-5, 0.0), 40, dtype=torch.bfloat16))
    assert (found.kind, found.severity) == ("underflow", "critical")
    assert "bfloat16" in found.cause
    for steps in (1, 60):
        model = layers(2).bfloat16()
        assert alarms(on_digits(model, sgd(model, 0.05), steps, dtype=torch.bfloat16)) == []


def test_clipping_that_leaves_nothing():
    model = layers(2)
    (found,) = alarms(on_digits(model, sgd(model, 0.05), 40, clip=1e-5))
    assert (found.kind, found.severity) == ("clipping_bound", "critical")
    assert found.evidence["clipped_steps"] == 1.0


@pytest.mark.parametrize("clip", [0.3, 1.0])
def test_clipping_in_nearly_every_step_of_a_training_that_learns(clip):
    model = layers(2)
    assert alarms(on_digits(model, sgd(model, 0.05), 60, clip=clip)) == []


def test_clipping_does_not_shorten_the_steps_of_adam():
    model = layers(8, nn.Sigmoid, weight=1.0)
    run = on_digits(model, torch.optim.Adam(model.parameters(), 1e-4), 40, clip=1e-4)
    assert alarms(run, kinds=["clipping_bound"]) == []
