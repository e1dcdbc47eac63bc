"""What the initializations draw: scales against theory and slow integrals, and what must stay as it is."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from scipy.integrate import quad
from torch import Tensor, nn

from gradiometer.remedies import initialization
from gradiometer.remedies.asymmetric import asymmetric_
from gradiometer.remedies.base import Remedy
from gradiometer.remedies.delta_orthogonal import delta_orthogonal_
from gradiometer.remedies.flow import flow
from gradiometer.remedies.gains import critical, gain, moments
from gradiometer.remedies.weights import lecun, weights
from gradiometer.remedies.whole import whole
from networks_to_treat import Branch, Language
from test_remedies_network import outputs, situation

ROWS: dict[str, Remedy] = {remedy.name: remedy for remedy in initialization.REMEDIES}
SMOOTH = {
    "tanh": (math.tanh, lambda x: 1 - math.tanh(x) ** 2),
    "sigmoid": (lambda x: 1 / (1 + math.exp(-x)), lambda x: math.exp(-x) / (1 + math.exp(-x)) ** 2),
    "softplus": (lambda x: math.log1p(math.exp(x)), lambda x: 1 / (1 + math.exp(-x))),
    "relu": (lambda x: max(x, 0.0), lambda x: float(x > 0)),
}


def treat(name: str, model: nn.Module, batch: Any) -> nn.Module:
    return ROWS[name].model(model, situation(model, batch))  # type: ignore[misc]


@pytest.mark.parametrize("q", [0.3, 1.0, 5.0])
@pytest.mark.parametrize("name", SMOOTH)
def test_moments_are_the_integrals(name: str, q: float) -> None:
    for found, function in zip(moments(name, q), SMOOTH[name], strict=True):

        def density(z: float, function: Any = function) -> float:
            return math.exp(-z * z / 2) / math.sqrt(2 * math.pi) * function(math.sqrt(q) * z) ** 2

        slow = quad(density, -12, 0, epsabs=1e-12)[0] + quad(density, 0, 12, epsabs=1e-12)[0]
        assert found == pytest.approx(slow, abs=1e-9)


@pytest.mark.parametrize(
    ("name", "value"),
    [("relu", 1.41421), ("leaky_relu", 1.41414), ("tanh", 1.59254), ("sigmoid", 1.84623), ("elu", 1.24520),
     ("selu", 1.00000), ("softsign", 2.33753), ("silu", 1.67653), ("gelu", 1.53353), ("linear", 1.0)],
)  # fmt: skip
def test_gains_of_the_literature(name: str, value: float) -> None:
    assert gain(name) == pytest.approx(value, abs=1e-4)


def test_gains_look_at_the_module_itself() -> None:
    assert gain(nn.LeakyReLU(0.2)) == pytest.approx(math.sqrt(2 / 1.04), abs=1e-6)
    assert gain(nn.PReLU(4, init=0.25)) == pytest.approx(math.sqrt(2 / 1.0625), abs=1e-6)
    assert gain(nn.ReLU(inplace=True)) == pytest.approx(math.sqrt(2), abs=1e-9)


@pytest.mark.parametrize(
    ("bias", "weight"),
    [(1e-4, 1.086026), (0.001, 1.189190), (0.01, 1.424205), (0.05, 1.760955), (0.2, 2.285152), (0.5, 2.843167)],
)
def test_the_edge_of_chaos_of_tanh(bias: float, weight: float) -> None:
    found = critical("tanh", math.sqrt(bias))
    assert found is not None
    assert found[0] ** 2 == pytest.approx(weight, abs=1e-5)
    assert found[1] ** 2 == pytest.approx(bias)


@pytest.mark.parametrize("name", ["tanh", "elu", "gelu", "silu", "softsign", "hardtanh"])
def test_at_the_edge_variances_stay_and_gradients_too(name: str) -> None:
    found = critical(name)
    assert found is not None
    sw, sb = found
    q = 1.0
    for _ in range(5000):
        q = sw**2 * moments(name, q)[0] + sb**2
        if not 1e-6 < q < 1e3:
            break
    if 1e-6 < q < 1e3:  # the fixed point is one that is come to
        assert sw**2 * moments(name, q)[1] == pytest.approx(1, abs=2e-3)


def test_homogeneous_activations_have_bias_zero() -> None:
    assert critical("relu") == pytest.approx((math.sqrt(2), 0.0))
    assert critical(nn.LeakyReLU(0.2)) == pytest.approx((math.sqrt(2 / 1.04), 0.0))
    assert critical("softplus") is None


@pytest.mark.parametrize("name", ["relu", "tanh", "gelu", "selu", "sigmoid"])
def test_he_keeps_the_mean_square(name: str) -> None:
    kinds = {"relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU, "selu": nn.SELU, "sigmoid": nn.Sigmoid}
    layers: list[nn.Module] = [nn.Linear(400, 400), kinds[name]()]
    for _ in range(5):
        layers += [nn.Linear(400, 400), kinds[name]()]
    model = nn.Sequential(*layers, nn.Linear(400, 3))
    torch.manual_seed(0)
    x = torch.randn(64, 400) / gain(name)
    treat("he", model, (x, None))
    with torch.no_grad():
        sizes = [float(model[: i + 1](x).square().mean()) for i in range(0, 12, 2)]
    assert sizes == pytest.approx([1.0] * 6, rel=0.25)


def test_fans_of_grouped_and_transposed_convolutions() -> None:
    model = nn.Sequential(
        nn.Conv2d(8, 16, 3, groups=4, padding=1), nn.Tanh(), nn.ConvTranspose2d(16, 8, 4, stride=2), nn.Tanh(),
        nn.Conv2d(8, 2, 1),
    )  # fmt: skip
    batch = (torch.randn(2, 8, 6, 6), None)
    found = {weight.path: (weight.fan_in, weight.fan_out) for weight in weights(model, flow(model, batch))}
    assert found == {"0": (18, 36), "2": (64, 128), "4": (8, 2)}


def test_a_transposed_convolution_keeps_the_signal() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.ConvTranspose2d(64, 64, 4, stride=2, padding=1))
    x = torch.randn(8, 64, 12, 12)
    treat("lecun", model, (x, None))
    assert float(model(x).detach()[..., 2:-2, 2:-2].std()) == pytest.approx(1, rel=0.1)


def test_delta_orthogonal_keeps_norms() -> None:
    weight = delta_orthogonal_(torch.empty(8, 4, 3, 3))
    x = torch.randn(2, 4, 5, 5)
    y = F.conv2d(x, weight, padding=1)
    assert torch.allclose(y.square().sum(), x.square().sum(), rtol=1e-5)
    assert not weight[:, :, 0].any()


def test_asymmetric_rows_have_one_weight_or_bias_of_beta() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(2000, 3000)
    with torch.no_grad():
        asymmetric_(layer)
        rows = torch.cat((layer.weight, layer.bias[:, None]), 1)
        largest = rows.max(1).values
    assert float(rows.square().mean()) == pytest.approx((0.6007**2 + 0.5) / 2001, rel=0.01)
    assert float(largest.mean()) == pytest.approx(2 / 3, abs=0.02)
    assert float(largest.square().mean()) == pytest.approx(1 / 2, abs=0.02)


def test_narrow_networks_are_born_dead_less_often() -> None:
    def dead(treated: bool) -> int:
        count = 0
        for seed in range(60):
            torch.manual_seed(seed)
            layers: list[nn.Module] = [nn.Linear(1, 2), nn.ReLU()]
            for _ in range(8):
                layers += [nn.Linear(2, 2), nn.ReLU()]
            model = nn.Sequential(*layers, nn.Linear(2, 1))
            x = torch.linspace(-1, 1, 50)[:, None]
            treat("asymmetric" if treated else "he", model, (x, None))
            with torch.no_grad():
                count += float(model(x).std()) < 1e-9
        return count

    assert dead(True) < 0.6 * dead(False)


def test_lsuv_gives_every_layer_variance_one() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.Tanh(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 10)
    )
    x = 30 * torch.randn(32, 1, 8, 8)
    treat("lsuv", model, (x, None))
    with torch.no_grad():
        for stop in (1, 3, 6):
            assert float(model[:stop](x).std()) == pytest.approx(1, rel=1e-4)


def test_centred_units_fire_for_about_half_of_the_batch() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 30), nn.ReLU(), nn.Linear(30, 2))
    for p in (model[0].bias, model[3].bias):
        nn.init.constant_(p, -20.0)
    x = torch.randn(64, 1, 8, 8)
    treat("centred_bias", model, (x, None))
    with torch.no_grad():
        assert model[0](x).mean((0, 2, 3)).abs().max() < 1e-4
        assert model[:4](x).mean(0).abs().max() < 1e-4


@pytest.mark.parametrize("cell", [nn.LSTM, nn.GRU])
def test_the_gate_that_carries_the_state_on_is_opened(cell: Any) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = cell(3, 4, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x)[0]

    model = Net()
    for p in model.parameters():
        nn.init.zeros_(p)
    x = torch.randn(2, 1, 3)
    treat("forget_bias", model, (x, None))
    state = torch.ones(1, 2, 4)
    given = (state, state) if cell is nn.LSTM else state
    new = model.layer(x, given)[1]
    carried = new[1] if cell is nn.LSTM else new
    assert torch.allclose(carried, torch.sigmoid(torch.tensor(1.0)).expand_as(carried))


def test_identity_recurrence_carries_a_positive_state_on() -> None:
    model = nn.Sequential(nn.RNN(3, 4, batch_first=True))
    x = torch.zeros(2, 50, 3)
    treat("irnn", model, (x, None))
    state = torch.rand(1, 2, 4)
    assert torch.equal(model[0](x, state)[1], state)


def test_gates_are_drawn_one_by_one() -> None:
    model = nn.Sequential(nn.LSTM(6, 5, batch_first=True))
    treat("he", model, (torch.randn(2, 3, 6), None))
    for gate in model[0].weight_hh_l0.chunk(4):
        assert torch.allclose(gate @ gate.t(), torch.eye(5), atol=1e-5)
    assert model[0].bias_ih_l0.tolist() == [0.0] * 5 + [1.0] * 5 + [0.0] * 10


def test_branches_that_begin_at_zero_stay_and_odd_scales_do_not() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 1), Branch(True), Branch(False), nn.Flatten(), nn.Linear(64, 2))
    treat("he", model, (torch.randn(2, 1, 4, 4), None))
    assert not model[1].norm2.weight.any()
    assert torch.equal(model[2].norm2.weight, torch.ones(4))


class LowRank(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.main, self.down, self.up = nn.Linear(6, 6), nn.Linear(6, 2, bias=False), nn.Linear(2, 6, bias=False)
        self.drop, self.head = nn.Dropout(0.1), nn.Linear(6, 2)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.main(x) + 2 * self.drop(self.up(self.down(x)))))


def test_a_zero_layer_stays_in_front_of_an_addition_and_goes_elsewhere() -> None:
    model = LowRank()
    treat("he", model, (torch.randn(2, 6), None))
    assert not model.up.weight.any()
    chain = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2))
    nn.init.zeros_(chain[2].weight)
    treat("he", chain, (torch.randn(2, 6), None))
    assert chain[2].weight.std() > 0.3


def test_symmetry_is_broken_where_it_is_and_nowhere_else() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    nn.init.constant_(model[2].weight, 0.3)
    before = model[0].weight.clone()
    treat("break_symmetry", model, (torch.randn(2, 6), None))
    assert torch.equal(model[0].weight, before)
    assert len(torch.unique(model[2].weight)) == 64
    known = situation(model, (torch.randn(2, 6), None))
    assert "copies" in str(ROWS["break_symmetry"].unusable(known))


def test_an_output_layer_of_zeros_is_no_symmetry() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))
    nn.init.zeros_(model[2].weight)
    assert ROWS["break_symmetry"].unusable(situation(model, (torch.randn(2, 6), None))) is not None


def test_two_units_that_are_the_same_are_copies() -> None:
    model = nn.Sequential(nn.Linear(6, 2), nn.Tanh(), nn.Linear(2, 1))
    nn.init.constant_(model[0].weight, 0.5)
    assert ROWS["break_symmetry"].unusable(situation(model, (torch.randn(2, 6), None))) is None


def test_loud_outputs_become_small_and_regressions_keep_the_size_of_their_targets() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    with torch.no_grad():
        model[2].weight.mul_(100)
        model[2].bias.zero_()
    x = torch.randn(64, 6)
    treat("small_output", model, (x, torch.zeros(64, dtype=torch.long)))
    assert float(model(x).detach().square().mean().sqrt()) == pytest.approx(0.1, rel=0.5)
    targets = 1000 * torch.randn(64, 3)
    assert "not loud" in str(ROWS["small_output"].unusable(situation(model, (x, targets))))


def test_a_tied_embedding_is_drawn_once_and_keeps_its_padding() -> None:
    torch.manual_seed(0)
    model = Language()
    tokens = torch.randint(11, (4, 6))
    treat("xavier", model, {"tokens": tokens})
    assert model.out.weight is model.embed.weight
    assert not model.embed.weight[0].any()
    assert float(model.embed.weight.detach()[1:].std()) == pytest.approx(8**-0.5, rel=0.3)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.read, self.carry, self.head = nn.Linear(3, 8), nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.zeros(len(x), 8)
        for t in range(x.shape[1]):
            h = torch.tanh(self.read(x[:, t]) + self.carry(h))
        return self.head(h)


def test_a_recurrence_by_hand_is_drawn_like_one_of_torch() -> None:
    model = Recurrent()
    batch = (torch.randn(4, 6, 3), None)
    treat("he", model, batch)
    assert torch.allclose(model.carry.weight @ model.carry.weight.t(), torch.eye(8), atol=1e-5)
    found = {weight.path: weight.recurrent for weight in weights(model, flow(model, batch))}
    assert found == {"read": False, "carry": True, "head": False}


def test_draws_take_nothing_but_what_they_name() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    batch = (torch.randn(8, 4), None)
    before = [y.clone() for y in outputs(model, batch)]
    buffers = {name: b.clone() for name, b in model.named_buffers()}
    state = torch.get_rng_state()
    whole(model, flow(model, batch), lecun)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(before[0], outputs(model, batch)[0])
    assert buffers.keys() == dict(model.named_buffers()).keys()
