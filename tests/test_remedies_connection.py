"""Connections: what becomes a branch, what it computes, and what is refused."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from gradiometer.networks import convolutional, recurrent, transformer
from gradiometer.remedies import connection
from gradiometer.remedies.base import UnusableError
from gradiometer.remedies.cases.connection import Stepwise
from gradiometer.remedies.deepnorm import DeepNormLayer, constants
from gradiometer.remedies.dense import Dense
from gradiometer.remedies.gated import QuietLSTM, QuietLSTMCell
from gradiometer.remedies.residual import Residual, ScaledResidual, units
from networks_to_treat import NETWORKS
from test_remedies_network import run, situation
from test_remedies_network import test_code_gives_the_network_that_the_treatment_gives as agree

ROWS = {remedy.name: remedy for remedy in connection.REMEDIES}
SKIPS = ("residual", "residual_rezero", "residual_skipinit", "residual_fixup", "dense")


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def treat(name: str, model: nn.Module, inputs: Any) -> nn.Module:
    known = situation(copy.deepcopy(model), (inputs, None))
    assert ROWS[name].unusable(known) is None
    return ROWS[name].model(model, known)  # type: ignore[misc]


def why(name: str, model: nn.Module, inputs: Any) -> str:
    reason = ROWS[name].unusable(situation(model, (inputs, None)))
    assert reason is not None
    with pytest.raises(UnusableError):
        ROWS[name].model(copy.deepcopy(model), situation(model, (inputs, None)))  # type: ignore[misc]
    return reason


def branches(model: nn.Module, inputs: Any) -> list[tuple[str, ...]]:
    return [unit.paths for unit in units(model, situation(model, (inputs, None)))]


def chain(depth: int, *between: type[nn.Module], width: int = 6) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Linear(width, width), *(kind(width) if kind is nn.BatchNorm1d else kind() for kind in between)]
    return nn.Sequential(*layers, nn.Linear(width, 3))


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("remedy", ROWS)
def test_code_gives_what_the_treatment_gives(remedy: str, name: str) -> None:
    agree(ROWS[remedy], name)


class Block(nn.Module):
    """Two layers and no skip, with functions between."""

    def __init__(self, inputs: int = 6, outputs: int = 6) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(inputs, outputs), nn.Linear(outputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.tanh(self.a(x)))


class Functional(nn.Module):
    def __init__(self, depth: int = 4) -> None:
        super().__init__()
        self.first, self.layers = nn.Linear(4, 6), nn.ModuleList(nn.Linear(6, 6) for _ in range(depth))
        self.norms, self.head = nn.ModuleList(nn.BatchNorm1d(6) for _ in range(depth)), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x))
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = F.relu(norm(layer(x)))
        return self.head(x)


MORE: dict[str, tuple[nn.Module, Any]] = {
    "chain": (chain(6, nn.ReLU), random(8, 6)),
    "odd chain": (chain(5, nn.Tanh), random(8, 6)),
    "normalized": (chain(6, nn.BatchNorm1d, nn.ReLU), random(8, 6)),
    "norm last": (chain(6, nn.ReLU, nn.BatchNorm1d), random(8, 6)),
    "linear": (chain(4), random(8, 6)),
    "blocks": (nn.Sequential(nn.Linear(4, 6), *(Block() for _ in range(4)), nn.Linear(6, 3)), random(8, 4)),
    "functional": (Functional(), random(8, 4)),
    "in place": (
        nn.Sequential(*(m for _ in range(5) for m in (nn.Linear(6, 6), nn.ReLU(inplace=True))), nn.Linear(6, 3)),
        random(8, 6),
    ),
    "images": (
        nn.Sequential(
            nn.Conv2d(1, 6, 3), *(m for _ in range(6) for m in (nn.ReLU(), nn.Conv2d(6, 6, 3, padding=1)))
        ).append(nn.Conv2d(6, 2, 1)),
        random(2, 1, 8, 8),
    ),
    "double": (chain(6, nn.ReLU).double(), random(8, 6).double()),
    "transformer": (transformer(4, 8, 2, 3, heads=2, pre_norm=False), random(4, 5, 4)),
    "cells": (Stepwise(), random(8, 6, 4)),
    "recurrent": (recurrent(4, 6, 3, layers=2), random(8, 5, 4)),
}


@pytest.mark.parametrize("name", MORE)
@pytest.mark.parametrize("remedy", ROWS)
def test_code_gives_what_the_treatment_gives_here_too(remedy: str, name: str) -> None:
    model, inputs = MORE[name]
    known = situation(copy.deepcopy(model), (inputs, None))
    before = copy.deepcopy(known.model.state_dict())
    if ROWS[remedy].unusable(known) is not None:
        return
    torch.manual_seed(3)
    treated = ROWS[remedy].model(copy.deepcopy(model), known)  # type: ignore[misc]
    drawn = torch.rand(1)
    torch.manual_seed(3)
    written = run(ROWS[remedy], copy.deepcopy(model), known)
    assert torch.equal(drawn, torch.rand(1))
    assert treated.state_dict().keys() == written.state_dict().keys()
    assert all(
        torch.equal(a, b) for a, b in zip(treated.state_dict().values(), written.state_dict().values(), strict=True)
    )
    for mode in (True, False):
        assert torch.equal(treated.train(mode)(inputs), written.train(mode)(inputs))
    assert all(torch.equal(a, b) for a, b in zip(before.values(), known.model.state_dict().values(), strict=True))
    treated(inputs).sum().backward()
    assert {p.dtype for p in treated.parameters()} == {inputs.dtype}


def test_the_remedies_are_used_where_they_are_to_be() -> None:
    used = {
        name: [key for key, (model, x) in MORE.items() if ROWS[name].unusable(situation(model, (x, None))) is None]
        for name in ROWS
    }
    towers = ["chain", "odd chain", "normalized", "norm last", "linear", "blocks", "functional", "in place", "images"]
    towers.append("double")
    normed = ["normalized", "norm last", "functional"]
    assert used["residual"] == used["residual_rezero"] == used["residual_skipinit"] == towers
    assert used["residual_fixup"] == [key for key in towers if key not in normed]
    assert used["dense"] == [key for key in towers if key != "functional"]
    assert used["deepnorm"] == ["transformer"]
    assert used["rnn_to_lstm"] == used["rnn_to_gru"] == ["cells", "recurrent"]


def test_chains_make_branches_of_two_layers_that_end_with_weights() -> None:
    assert branches(*MORE["chain"]) == [("0",), ("1", "2", "3", "4"), ("5", "6", "7", "8"), ("9", "10")]
    assert branches(*MORE["normalized"])[1] == ("1", "2", "3", "4", "5", "6")
    assert branches(*MORE["blocks"]) == [("1",), ("2",), ("3",), ("4",)]
    assert branches(*MORE["functional"]) == [(f"layers.{i}", f"norms.{i}") for i in range(4)]


def test_a_residual_branch_adds_to_what_it_gets() -> None:
    model, x = copy.deepcopy(MORE["in place"][0]), MORE["in place"][1]
    treated = treat("residual", model, x)
    oracle = x
    for module in treated:  # type: ignore[union-attr]
        if isinstance(module, Residual):
            inside = oracle.clone()
            for m in module:
                inside = m(inside)
            oracle = oracle + inside
        else:
            oracle = module(oracle)
    given = x.clone()
    assert torch.allclose(treated(given), oracle)
    assert torch.equal(given, x)


@pytest.mark.parametrize(("name", "scale"), [("residual_rezero", 0.0), ("residual_skipinit", 0.5)])
def test_branches_begin_at_their_scale(name: str, scale: float) -> None:
    model, x = copy.deepcopy(MORE["blocks"][0]), MORE["blocks"][1]
    layers = [copy.deepcopy(m) for m in model]  # type: ignore[union-attr]
    treated = treat(name, model, x)
    h = layers[0](x)
    for block in layers[1:5]:
        h = h + scale * block(h)
    assert torch.allclose(treated(x), layers[5](h), atol=1e-6)
    assert sum(isinstance(m, ScaledResidual) for m in treated) == 4  # type: ignore[union-attr]


def test_fixup_draws_the_first_layers_small_and_the_last_at_zero() -> None:
    torch.manual_seed(0)
    blocks = [Block(64, 64) for _ in range(9)]
    treated = treat("residual_fixup", nn.Sequential(*blocks, nn.Linear(64, 3)), random(8, 64))
    for residual in list(treated)[:9]:  # type: ignore[call-overload]
        block = residual[0]
        assert block.b.weight.abs().sum() == block.b.bias.abs().sum() == 0
        assert block.a.weight.std().item() == pytest.approx(math.sqrt(2 / 64) * 9**-0.5, rel=0.05)
    x = random(8, 64)
    assert torch.equal(treated(x), treated[9](x))  # type: ignore[index]


def test_fixup_is_told_where_zero_would_stay_zero() -> None:
    class Ends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            return F.relu(self.b(F.relu(self.a(x))))

    assert "zero" in why("residual_fixup", nn.Sequential(Ends(), Ends(), nn.Linear(6, 3)), random(8, 6))
    assert "normalization" in why("residual_fixup", chain(6, nn.BatchNorm1d, nn.ReLU), random(8, 6))


@pytest.mark.parametrize("name", SKIPS)
def test_what_has_skips_is_left(name: str) -> None:
    assert "skips" in why(name, convolutional(4, 8, 3), random(2, 1, 8, 8))

    class Projected(nn.Module):
        def __init__(self, inputs: int) -> None:
            super().__init__()
            self.block, self.skip = Block(inputs, 6), nn.Linear(inputs, 6)

        def forward(self, x: Tensor) -> Tensor:
            return F.relu(self.skip(x) + self.block(x))

    model = nn.Sequential(Projected(4), Projected(6), Projected(6), nn.Linear(6, 3))
    assert "skips" in why(name, model, random(8, 4))


def test_widths_that_change_are_named() -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))
    assert "5, 4, 3" in why("residual", model, random(8, 6))
    assert "no two hidden layers" in why("residual", nn.Linear(6, 3), random(8, 6))


def test_a_network_that_cannot_take_a_skip_is_left_as_it_was() -> None:
    class Odd(nn.Module):
        """Calls a method of its own that a branch does not have."""

        def __init__(self) -> None:
            super().__init__()
            self.plain = [Block() for _ in range(3)]
            self.blocks, self.head = nn.ModuleList(self.plain), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            for block in self.plain:
                x = block(x)
            return self.head(x)

    model = Odd()
    known = situation(copy.deepcopy(model), (random(8, 6), None))
    with pytest.raises(UnusableError, match="plain list"):
        ROWS["residual"].model(model, known)  # type: ignore[misc]
    assert all(isinstance(block, Block) for block in model.blocks)


def test_blocks_keep_their_attributes_and_further_arguments() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.width, self.layer = 6, nn.Linear(6, 6)

        def forward(self, x: Tensor, keep: Tensor, *, scale: float = 1.0) -> Tensor:
            return self.layer(x * keep).tanh() * scale

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks, self.head = nn.ModuleList(Masked() for _ in range(3)), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            keep = torch.ones(self.blocks[0].width)  # type: ignore[arg-type]
            for block in self.blocks:
                x = block(x, keep, scale=0.5)
            return self.head(x)

    model = Net()
    oracle = copy.deepcopy(model)
    treated = treat("residual", model, random(8, 6))
    h = random(8, 6)
    for block in oracle.blocks:
        h = h + block(h, torch.ones(6), scale=0.5)
    assert torch.allclose(treated(random(8, 6)), oracle.head(h), atol=1e-6)


def test_attention_without_skips_gets_them() -> None:
    class Attend(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.v, self.out = (nn.Linear(8, 8) for _ in range(4))

        def forward(self, x: Tensor) -> Tensor:
            return self.out((self.q(x) @ self.k(x).transpose(1, 2)).softmax(-1) @ self.v(x))

    model = nn.Sequential(*(Attend() for _ in range(3)), nn.Linear(8, 3))
    assert branches(model, random(4, 5, 8)) == [("0",), ("1",), ("2",)]


def test_time_steps_are_no_depth() -> None:
    class Loop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.u, self.w, self.out = nn.Linear(6, 6), nn.Linear(4, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            h = x.new_zeros(len(x), 6)
            for t in range(x.shape[1]):
                h = torch.tanh(self.w(x[:, t]) + self.u(h))
            return self.out(h)

    assert "time step" in why("residual", Loop(), random(8, 5, 4))
    assert "by hand" in why("rnn_to_gru", Loop(), random(8, 5, 4))


@pytest.mark.parametrize("dimensions", [0, 1, 2, 3])
def test_dense_connections_mix_everything_before(dimensions: int) -> None:
    kind = [nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d][dimensions]
    layers = [kind(4, 4, *((3,) if dimensions else ()), **({"padding": 1} if dimensions else {})) for _ in range(3)]
    dense = Dense(layers, 4, dimensions).double()
    x = random(2, 4, *(5,) * dimensions).double()
    dim = 1 if dimensions else -1
    seen, h = [x], x
    for layer, mix in zip(layers, dense.mixes, strict=True):
        seen.append(layer(h))
        joined = torch.cat(seen, dim)
        weight = mix.weight.flatten(1)  # type: ignore[operator]
        h = torch.einsum("oi,bi...->bo...", weight, joined)  # type: ignore[arg-type]
    assert torch.allclose(dense(x), h, atol=1e-9)
    assert [m.weight.shape[1] for m in dense.mixes] == [8, 12, 16]  # type: ignore[union-attr,index]


def test_dense_connections_ask_for_a_row() -> None:
    assert "in a row" in why("dense", MORE["functional"][0], MORE["functional"][1])
    treated = treat("dense", copy.deepcopy(MORE["blocks"][0]), MORE["blocks"][1])
    assert [type(m).__name__ for m in treated] == ["Linear", "Dense", "Identity", "Identity", "Identity", "Linear"]  # type: ignore[union-attr]


def test_deepnorm_weighs_the_stream_up() -> None:
    alpha, beta = constants(2)
    assert (round(alpha, 4), round(beta, 4)) == (1.4142, 0.5)
    assert [round(x, 4) for n in (100, 200, 1000) for x in constants(n)] == [
        3.7606,
        0.188,
        4.4721,
        0.1581,
        6.6874,
        0.1057,
    ]
    layer = nn.TransformerEncoderLayer(64, 4, 256, dropout=0.0, batch_first=True)
    x = random(4, 5, 64)
    treated = treat("deepnorm", nn.TransformerEncoder(layer, 2), x)
    h = x
    for block in treated.layers:  # type: ignore[union-attr]
        h = block.norm1(round(alpha, 4) * h + block.self_attn(h, h, h)[0])
        h = block.norm2(round(alpha, 4) * h + block.linear2(F.relu(block.linear1(h))))
    assert torch.allclose(treated(x), h, atol=1e-5)
    block = treated.layers[1]  # type: ignore[index,union-attr]
    assert isinstance(block, DeepNormLayer)
    assert block.linear1.weight.std().item() == pytest.approx(0.5 * math.sqrt(2 / 320), rel=0.05)
    assert block.self_attn.out_proj.weight.std().item() == pytest.approx(0.5 * math.sqrt(2 / 128), rel=0.05)
    query, _, value = block.self_attn.in_proj_weight.chunk(3)
    assert query.std().item() == pytest.approx(math.sqrt(2 / 128), rel=0.05)
    assert value.std().item() == pytest.approx(0.5 * math.sqrt(2 / 128), rel=0.05)
    padding = torch.arange(5).expand(4, 5) > 3
    with torch.no_grad():
        evaluated = treated.eval()(x, src_key_padding_mask=padding)[:, :4]
    assert torch.allclose(evaluated, treated.train()(x, src_key_padding_mask=padding)[:, :4], atol=1e-5)


def test_deepnorm_is_for_encoders_of_torch_alone() -> None:
    x = random(4, 5, 8)
    assert "decoder" in why("deepnorm", nn.Transformer(8, 2, 1, 1, 16, batch_first=True), (x, x))
    assert "pre-norm" in why("deepnorm", nn.TransformerEncoderLayer(8, 2, 16, norm_first=True, batch_first=True), x)
    assert "alpha" in why("deepnorm", nn.Linear(8, 3), x)
    assert isinstance(treat("deepnorm", nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), x), DeepNormLayer)


OPTIONS: list[dict[str, Any]] = [
    {},
    {"num_layers": 2, "batch_first": True},
    {"bidirectional": True, "batch_first": True},
    {"bias": False},
    {"nonlinearity": "relu", "num_layers": 2, "dropout": 0.1},
]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("name", ["rnn_to_lstm", "rnn_to_gru"])
def test_gated_layers_return_what_plain_ones_do(name: str, options: dict[str, Any]) -> None:
    plain = nn.RNN(4, 6, **options)
    gated = treat(name, copy.deepcopy(plain), random(7, 5, 4))
    state = random(plain.num_layers * (2 if plain.bidirectional else 1), 7 if plain.batch_first else 5, 6)
    for given in ((random(7, 5, 4),), (random(7, 5, 4), state)):
        for a, b in zip(plain(*given), gated(*given), strict=True):
            assert a.shape == b.shape
    sequence = random(7, 5, 4)
    packed = pack_padded_sequence(sequence, torch.tensor([5, 4, 3, 2, 1, 1, 1]), batch_first=True)
    if plain.batch_first:
        assert gated(packed)[0].data.shape == plain(packed)[0].data.shape
    known = situation(plain, (random(7, 5, 4), None))
    torch.manual_seed(2)
    one = ROWS[name].model(copy.deepcopy(plain), known)  # type: ignore[misc]
    torch.manual_seed(2)
    two = run(ROWS[name], copy.deepcopy(plain), known)
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))
    assert type(two).__name__ == type(one).__name__


def test_biases_remember_as_long_as_the_sequence_is() -> None:
    x = random(3, 60, 4)
    lstm = treat("rnn_to_lstm", recurrent(4, 512, 3), x).recurrent
    gru = treat("rnn_to_gru", recurrent(4, 512, 3), x).recurrent
    assert isinstance(lstm, QuietLSTM)
    forget = lstm.bias_ih_l0[512:1024]
    times = forget.exp()
    assert 1 <= times.min() < 3 < 50 < times.max() <= 59
    assert torch.equal(lstm.bias_ih_l0[:512], -forget)
    assert lstm.bias_hh_l0[:1024].abs().sum() == 0
    assert lstm.bias_hh_l0[1024:].abs().sum() > 0
    update = gru.bias_ih_l0[512:1024].exp()  # type: ignore[operator,index]
    assert 1 <= update.min() < 3 < 50 < update.max() <= 59
    assert gru.bias_ih_l0[:512].abs().max() < 0.05  # type: ignore[operator,index]


def test_the_state_of_cells_travels_with_the_hidden_state() -> None:
    x = random(8, 6, 4)
    treated = treat("rnn_to_lstm", Stepwise(), x)
    assert isinstance(treated.cell, QuietLSTMCell)
    plain = nn.LSTMCell(4, 24)
    plain.load_state_dict(treated.cell.state_dict())
    h = c = torch.zeros(8, 24)
    for step in x.unbind(1):
        h, c = plain(step, (h, c))
    assert torch.allclose(treated(x), treated.output(h), atol=1e-6)  # type: ignore[operator]
    h, c = plain(x[:, 0])
    assert torch.equal(treated.cell(x[:, 0]), h)


def test_a_hidden_state_that_is_changed_on_its_way_is_told() -> None:
    class Masked(Stepwise):
        def forward(self, x: Tensor) -> Tensor:
            h = x.new_zeros(len(x), 24)
            for step in x.unbind(1):
                h = self.cell(step, h) * 0.9
            return self.output(h)

    assert "rnn_to_gru" in why("rnn_to_lstm", Masked(), random(8, 6, 4))
    assert isinstance(treat("rnn_to_gru", Masked(), random(8, 6, 4)).cell, nn.GRUCell)


def test_nothing_recurrent_is_told() -> None:
    assert "no nn.RNN" in why("rnn_to_lstm", nn.Linear(4, 3), random(8, 4))
    assert "already" in why("rnn_to_gru", recurrent(4, 6, 3, "lstm"), random(8, 5, 4))


def test_treatment_looks_at_the_network_it_is_given() -> None:
    model = chain(4, nn.ReLU)
    known = situation(model, (random(8, 6), None))
    changed = nn.Sequential(*copy.deepcopy(model), nn.Identity())
    wider = nn.Sequential(*(copy.deepcopy(m) for m in chain(6, nn.ReLU)))
    for other in (changed, wider):
        treated = ROWS["residual"].model(other, replace(known, model=model))  # type: ignore[misc]
        assert any(isinstance(m, Residual) for m in treated.modules())
