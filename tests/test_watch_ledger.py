"""The ledger of a watched training: that it is kept now and then, is the right one, and says where a NaN was born."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gradiometer as gm


def plain(depth=6, activation=nn.Sigmoid):
    layers = [layer for _ in range(depth) for layer in (nn.Linear(12, 12), activation())]
    return nn.Sequential(*layers, nn.Linear(12, 4))


def batch():
    return torch.randn(16, 12), torch.randint(4, (16,))


def train(model, steps=1, loss=F.cross_entropy, data=batch, path=None, every=1):
    torch.manual_seed(1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    with gm.watch(model, optimizer, every=every, path=path) as watch:
        for _ in range(steps):
            optimizer.zero_grad()
            x, y = data()
            loss(model(x), y).backward()
            optimizer.step()
    return watch.run


def test_the_ledger_of_a_step_is_that_of_measure():
    torch.manual_seed(0)
    model = plain().double()
    torch.manual_seed(1)
    x, y = torch.randn(16, 12, dtype=torch.float64), torch.randint(4, (16,))
    measured = gm.measure(model, (x, y), F.cross_entropy)
    watched = train(model, data=lambda: (x, y)).readings[0]
    # Nobody asks a training for the gradient of its data: the row of the first layer is the one that is missing.
    for a, b in zip(measured.ledger.rows[1:-1], watched.ledger.rows[-12:], strict=True):
        assert (a.site, a.operation, a.cause) == (b.site, b.operation, b.cause)
        assert b.gain == pytest.approx(a.gain, rel=1e-9)
        assert b.grad_rms == pytest.approx(a.grad_rms, rel=1e-9)
        assert b.derivative == pytest.approx(a.derivative, rel=1e-9) if a.derivative else b.derivative is None
        assert b.scale == pytest.approx(a.scale, rel=1e-9) if a.scale else b.scale is None
    assert watched.ledger.end == "0"
    assert watched.ledger.total == pytest.approx(math.log10(watched.ledger.end_rms), abs=1e-9)
    assert {row.cause for row in watched.ledger.rows[:-12]} == {"loss"}


def test_a_ledger_now_and_then():
    kept = [r.step for r in train(plain(2), 120).readings if r.ledger]
    assert kept == [0, 2, 4, 8, 16, 32, 64, 114]


def test_only_parameters_have_no_ledger():
    model = plain(2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gm.watch(model, optimizer, every=1, level="parameters") as watch:
        x, y = batch()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    assert not watch.run.readings[0].ledger


def test_a_run_on_disk_has_the_same(tmp_path):
    torch.manual_seed(0)
    live = train(plain(), 3)
    torch.manual_seed(0)
    stored = train(plain(), 3, path=tmp_path / "run.sqlite")
    assert live.readings[2].ledger == stored.readings[2].ledger == gm.load(tmp_path / "run.sqlite").readings[2].ledger
    assert len(live.readings[2].ledger) > 10


def test_the_cause_of_a_finding_is_read_off_the_ledger():
    torch.manual_seed(0)
    diagnosis = gm.diagnose(train(plain(12), 40))
    finding = diagnosis[0]
    assert finding.kind == "vanishing_gradient"
    shares = finding.evidence["decades_by_cause"]
    # A sigmoid takes log10(0.24) = -0.62 a layer; the weights, at 1/sqrt(3) of the critical scale, -0.24.
    assert shares["activation"] / sum(shares.values()) == pytest.approx(0.62 / 0.86, abs=0.03)
    assert finding.evidence["activation_derivative"] == pytest.approx(0.24, abs=0.01)
    assert finding.evidence["weight_scale"] == pytest.approx(0.577, abs=0.03)
    assert "the derivative of the activations (sigmoid, rms 0.2" in finding.explanation


class Branches(nn.Module):
    """Residual blocks whose branches are summed at a tenth, behind a stem of small weights."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(*[nn.Linear(12, 12) for _ in range(6)])
        self.blocks = nn.ModuleList(nn.Linear(12, 12) for _ in range(4))
        self.out = nn.Linear(12, 4)
        with torch.no_grad():
            for layer in self.stem:
                layer.weight.mul_(0.2)

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = x + 0.1 * torch.relu(block(x))
        return self.out(x)


def test_causes_in_a_network_with_branches():
    torch.manual_seed(0)
    finding = gm.diagnose(train(Branches(), 60))[0]
    assert finding.kind == "vanishing_gradient"
    assert finding.cause.startswith("weights too small for their layers")


class Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.rnn = kind(3, 8, batch_first=True)
        self.out = nn.Linear(8, 4)

    def forward(self, x):
        return self.out(self.rnn(x)[0][:, -1])


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU])
def test_time_inside_a_recurrent_layer(kind):
    torch.manual_seed(0)
    noise = lambda: (torch.randn(16, 40, 3), torch.randint(4, (16,)))  # noqa: E731
    run = train(Recurrent(kind), 30, data=noise)
    recurrence = run.readings[0].recurrences[0]
    assert (recurrence.parameter, recurrence.steps) == ("rnn.weight_hh_l0", 40)
    diagnosis = gm.diagnose(run)
    assert [f.kind for f in diagnosis if f.severity != "info"] == ["vanishing_gradient"]
    assert "A step passes on" in diagnosis[0].explanation
    assert diagnosis[0].sites[0] == "rnn.weight_hh_l0 at time step 1"


class Broken(nn.Module):
    """A hidden layer, then something that is not finite for half of its values."""

    def __init__(self, act):
        super().__init__()
        self.first, self.last, self.act = nn.Linear(12, 12), nn.Linear(12, 4), act

    def forward(self, x):
        return self.last(self.act(self.first(x)))


class Plain(nn.Module):
    """A function as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, h):
        return self.function(h)


def by_hand(outputs, targets):
    return -torch.log(torch.softmax(1e4 * outputs, -1))[torch.arange(len(targets)), targets].mean()


BIRTHS = {
    "log of zero": (lambda h: torch.log(torch.relu(h)), F.cross_entropy, "forward", ":log"),
    "a zero denominator": (lambda h: h / torch.relu(h), F.cross_entropy, "forward", ":div"),
    "overflow": (lambda h: torch.exp(1e3 * h), F.cross_entropy, "forward", ":exp"),
    # The derivative of the root at h = 0 meets the square of a ReLU there: 0 * inf.
    "sqrt at zero, backward": (lambda h: torch.sqrt(torch.relu(h) * h), F.cross_entropy, "backward", ":sqrt"),
    "in the loss": (lambda h: h, by_hand, "forward", "loss:log"),
}


@pytest.mark.parametrize("name", BIRTHS)
@pytest.mark.parametrize("ledger", [True, False], ids=["with a ledger", "without"])
def test_births(name, ledger):
    act, loss, direction, site = BIRTHS[name]
    torch.manual_seed(0)
    sound = 0 if ledger else 1  # a ledger is kept in reading 0 and not in reading 1

    class Later(nn.Module):
        def __init__(self):
            super().__init__()
            self.calls = 0

        def forward(self, h):
            self.calls += 1
            return act(h) if self.calls > sound else h

    judged = loss if sound == 0 else lambda o, y: (loss if model.act.calls > sound else F.cross_entropy)(o, y)
    model = Broken(Later())
    run = train(model, sound + 1, loss=judged)
    assert bool(run.readings[sound].ledger) == ledger
    birth = run.readings[sound].birth
    assert birth is not None
    assert (birth.direction, birth.site) == (direction, f"act{site}" if site[0] == ":" else site)
    finding = gm.diagnose(run)[0]
    assert finding.kind == "nonfinite"
    assert finding.sites[0] == birth.site
    assert f"at step {sound}" in finding.explanation


def test_a_batch_with_nan_is_the_batch():
    torch.manual_seed(0)
    x, y = batch()
    x[3, 4] = math.nan
    run = train(plain(2), data=lambda: (x, y))
    assert run.readings[0].birth.site == "input"
    assert "1 NaN" in gm.diagnose(run)[0].explanation


def test_the_scale_of_a_gradient_scaler_is_taken_out():
    torch.manual_seed(0)
    model, (x, y) = plain(3), batch()
    measured = gm.measure(model, (x, y), F.cross_entropy)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    with gm.watch(model, optimizer, every=1) as watch:
        scaler.scale(F.cross_entropy(model(x), y)).backward()
        scaler.step(optimizer)
        scaler.update()
    ledger = watch.run.readings[0].ledger
    assert ledger.total == pytest.approx(math.log10(ledger.end_rms), abs=1e-6)
    assert ledger.end_rms == pytest.approx(measured.ledger[-1].grad_rms, rel=1e-5)


def test_two_optimizers_have_a_ledger_each():
    torch.manual_seed(0)
    generator, critic = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 6)), nn.Sequential(nn.Linear(6, 1))
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (generator, critic)]
    with gm.watch({"G": generator, "D": critic}, optimizers, every=1) as watch:
        for _ in range(2):
            fake = generator(torch.randn(8, 4))
            optimizers[1].zero_grad()
            (critic(torch.randn(8, 6)).mean() - critic(fake.detach()).mean()).backward()
            optimizers[1].step()
            optimizers[0].zero_grad()
            critic(fake).mean().backward()
            optimizers[0].step()
    sites = [[row.site for row in r.ledger] for r in watch.run.readings if r.optimizer == 0 and r.ledger]
    assert sites
    assert [s for s in sites[0] if s.startswith("G.")] == ["G.2", "G.1"]


@pytest.mark.parametrize("made", [nn.utils.parametrizations.spectral_norm, nn.utils.parametrizations.weight_norm])
def test_weights_that_are_made_of_parameters(made):
    """Spectral normalization keeps views of buffers that it changes later: torch will not say where they come from."""
    torch.manual_seed(0)
    model = nn.Sequential(made(nn.Linear(12, 12)), nn.Tanh(), made(nn.Linear(12, 4)))
    run = train(model, 3)
    assert (run.notes, len(run.readings)) == ((), 3)
    assert [row.site for row in run.readings[0].ledger if row.model == ""] == ["2:linear", "1"]


def test_a_birth_in_the_first_of_several_passes_is_kept():
    """Of an accumulated batch; only a step that a gradient scaler skips is forgotten, see the next."""
    torch.manual_seed(0)
    act, _, _, _ = BIRTHS["sqrt at zero, backward"]
    model = Broken(nn.Identity())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    x, y = batch()
    with gm.watch(model, optimizer, every=1) as watch:
        model.act = Plain(act)
        F.cross_entropy(model(x), y).backward()
        model.act = nn.Identity()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    birth = watch.run.readings[0].birth
    assert birth is not None
    assert (birth.direction, birth.operation) == ("backward", "sqrt")


def test_a_step_that_a_scaler_skips_is_no_part_of_the_next():
    torch.manual_seed(0)
    model, (x, y) = plain(2), batch()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    with gm.watch(model, optimizer, every=1) as watch:
        while not len(watch.run.readings):
            optimizer.zero_grad()
            scaler.scale(1e3 * F.cross_entropy(model(x), y)).backward()
            scaler.step(optimizer)
            scaler.update()
    reading = watch.run.readings[0]
    assert reading.birth is None
    assert math.isfinite(reading.ledger.end_rms)
