"""What a review of the diagnosis found once: healthy trainings that raised an alarm, and traces that were left."""

import gc
import weakref

import torch
from torch import nn
from torch.nn import functional as F

import gradiometer as gm


def net(inputs=8, outputs=1):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(inputs, 32), nn.ReLU(), nn.Linear(32, outputs))


def alarms(run):
    return [(f.kind, f.explanation) for f in gm.diagnose(run, ignore=()) if f.severity != "info"]


def train(model, step, steps, lr=3e-3):
    adam = torch.optim.Adam(model.parameters(), lr)
    generator = torch.Generator().manual_seed(0)
    with gm.watch(model, adam, every=5) as watch:
        for i in range(steps):
            adam.zero_grad()
            step(i, generator).backward()
            adam.step()
    return watch.run


def test_batches_without_the_rare_class_are_no_constant_guess_of_zero():
    model = net()

    def step(i, generator):
        x = torch.randn(16, 8, generator=generator)
        return F.binary_cross_entropy_with_logits(model(x)[:, 0], (x[:, 0] > 1.9).float())

    run = train(model, step, 400)
    assert all(reading.tasks[0].guess > 0 for reading in run.readings)
    assert alarms(run) == []


def test_a_loss_summed_over_growing_sequences_does_not_diverge():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 1))

    def step(i, generator):
        x = torch.randn(16, 2 + i // 8, 1, generator=generator)
        return (model(x) - 3 * x.sin()).square().sum(1).mean()

    assert alarms(train(model, step, 240)) == []


def test_a_loss_that_is_mostly_zero_has_no_spikes():
    model = net(outputs=4)

    def step(i, generator):
        x = torch.randn(8, 8, generator=generator)
        return F.relu(0.001 - model(x).square().mean() + (0.05 if i in (60, 61) else 0.0)) + 0 * model(x).sum()

    assert [kind for kind, _ in alarms(train(model, step, 120)) if kind == "loss_spike"] == []


def test_a_step_that_is_never_taken_is_told():
    model = net()
    adam = torch.optim.Adam(model.parameters())
    with gm.watch(model, adam) as watch:
        for _ in range(5):
            adam.zero_grad()
            model(torch.randn(4, 8)).square().mean().backward()
    found = gm.diagnose(watch.run)[0]
    assert (found.kind, found.severity, found.sites) == ("frozen_parameters", "critical", ("optimizer",))
    assert "5 times" in found.explanation


def test_nothing_that_a_model_gave_is_kept_alive():
    model = net()
    sgd = torch.optim.SGD(model.parameters(), 1e-3)
    given = []
    with gm.watch(model, sgd, every=4) as watch:
        for _ in range(6):
            model(torch.randn(8, 8)).square().mean().backward()
            output = model(torch.randn(8, 8))
            given.append(weakref.ref(output))
            del output
            sgd.step()
        gc.collect()
        assert [ref() for ref in given] == [None] * 6
    assert not watch.run.notes


def test_layers_in_a_list_are_known_from_every_pass_of_the_first_step():
    class Hidden(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = [nn.Linear(4, 4), nn.Linear(4, 4)]
            self.out = nn.Linear(4, 1)

        def forward(self, x, k):
            return self.out(self.layers[k](x))

    model = Hidden()
    sgd = torch.optim.SGD(model.parameters(), 1e-3)
    with gm.watch(model, sgd, every=1) as watch:
        for k in (0, 1):
            model(torch.randn(8, 4), k).square().mean().backward()
        sgd.step()
    names = {p.name for p in watch.run.readings[0].parameters}
    assert {"layers[0].weight", "layers[1].weight"} <= names
