"""Normalization: where it goes, what it computes, and what it refuses."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradiometer.remedies import normalization
from gradiometer.remedies.base import UnusableError
from gradiometer.remedies.behind import hidden_places
from gradiometer.remedies.cases.normalization import PostNorm, Written, WrittenReader
from gradiometer.remedies.normalization import ChannelRMSNorm
from gradiometer.remedies.placing import Followed, listed
from gradiometer.remedies.qk_norm import NormalizedAttention
from gradiometer.remedies.weight_standardization import Standardized, gain_of
from networks_to_treat import NETWORKS
from test_remedies_network import built, situation
from test_remedies_network import test_code_gives_the_network_that_the_treatment_gives as agree

ROWS = {remedy.name: remedy for remedy in normalization.REMEDIES}
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, ChannelRMSNorm)


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def placed(model: nn.Module) -> list[str]:
    return [path for path, module in model.named_modules() if isinstance(module, NORMS)]


def treat(name: str, model: nn.Module, inputs: Any) -> nn.Module:
    known = situation(copy.deepcopy(model), (inputs, None))
    assert ROWS[name].unusable(known) is None
    return ROWS[name].model(model, known)  # type: ignore[misc]


def why(name: str, model: nn.Module, inputs: Any) -> str:
    known = situation(model, (inputs, None))
    reason = ROWS[name].unusable(known)
    assert reason is not None
    with pytest.raises(UnusableError):
        ROWS[name].model(copy.deepcopy(model), known)  # type: ignore[misc]
    return reason


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("remedy", ROWS)
def test_code_gives_what_the_treatment_gives(remedy: str, name: str) -> None:
    agree(ROWS[remedy], name)


@pytest.mark.parametrize(
    ("layer", "shape", "norms"),
    [
        (nn.Linear(6, 16), (4, 6), (nn.BatchNorm1d, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)),
        (nn.Conv1d(3, 16, 3), (4, 3, 9), (nn.BatchNorm1d, nn.GroupNorm, nn.GroupNorm, ChannelRMSNorm)),
        (nn.Conv2d(3, 16, 3), (4, 3, 9, 9), (nn.BatchNorm2d, nn.GroupNorm, nn.GroupNorm, ChannelRMSNorm)),
        (nn.ConvTranspose2d(3, 16, 3), (4, 3, 4, 4), (nn.BatchNorm2d, nn.GroupNorm, nn.GroupNorm, ChannelRMSNorm)),
        (nn.Conv3d(3, 16, 3), (4, 3, 5, 5, 5), (nn.BatchNorm3d, nn.GroupNorm, nn.GroupNorm, ChannelRMSNorm)),
    ],
)
def test_each_shape_gets_its_norm(layer: nn.Module, shape: tuple[int, ...], norms: tuple[type, ...]) -> None:
    for name, kind in zip(("batch_norm", "layer_norm", "group_norm", "rms_norm"), norms, strict=True):
        model = nn.Sequential(copy.deepcopy(layer), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3))
        model(random(*shape))
        treated = treat(name, model, random(*shape))
        assert placed(treated) == ["0.1"]
        assert isinstance(treated[0][1], kind)
        out = treated[0](random(*shape))
        if name == "layer_norm":
            assert torch.allclose(out.flatten(1).mean(1), torch.zeros(4), atol=1e-5)
        if name == "group_norm":
            assert treated[0][1].num_groups == 2
        if name == "rms_norm":
            assert torch.allclose(out.square().mean(1), torch.ones(()), atol=1e-3)


def test_sequences_are_normalized_over_their_channels_alone() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))
    x = random(4, 5, 6)
    assert "sequences" in why("batch_norm", model, x)
    assert "sequences" in why("group_norm", model, x)
    assert placed(treat("layer_norm", model, x)) == ["0.1", "2.1"]


@pytest.mark.parametrize("size", [1, 2])
def test_batches_of_one_or_two_examples_have_no_statistics(size: int) -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    assert f"{size} example" in why("batch_norm", model, random(size, 6))
    assert f"{size} example" in why("input_norm", model, random(size, 6))
    assert placed(treat("layer_norm", model, random(size, 6))) == ["0.1"]


class Heads(nn.Module):
    """An actor and a critic on one trunk, and a bottleneck that is returned as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.mean = nn.Linear(6, 8), nn.Linear(8, 4)
        self.policy, self.value = nn.Linear(4, 3), nn.Linear(4, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        z = self.mean(F.relu(self.trunk(x)))
        return self.policy(z), self.value(z).squeeze(1), z


def test_no_norm_stands_behind_what_is_returned() -> None:
    assert placed(treat("batch_norm", Heads(), random(8, 6))) == ["trunk.1"]


class Shortcut(nn.Module):
    """A skip by a convolution of its own, in the order in which people write it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.shortcut, self.head = nn.Conv2d(2, 4, 1), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv2(F.relu(self.conv1(x)))
        h += self.shortcut(x)
        return self.head(F.relu(h).mean((2, 3)))


def test_a_shortcut_is_normalized_like_its_branch() -> None:
    assert placed(treat("batch_norm", Shortcut(), random(4, 2, 5, 5))) == ["conv1.1", "conv2.1", "shortcut.1"]


def test_what_is_normalized_stays_and_what_is_not_is_added() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    treated = treat("batch_norm", model, random(8, 6))
    assert placed(treated) == ["1", "3.1"]
    assert "already" in why("layer_norm", treated, random(8, 6))
    assert "leads into" in why("layer_norm", nn.Linear(6, 3), random(8, 6))


class Own(nn.Module):
    """A norm of the user's own."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(6, 8), MyNorm(), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.norm(self.a(x)).relu())


class MyNorm(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / x.norm(dim=1, keepdim=True)


def test_a_norm_of_the_users_own_is_one() -> None:
    assert "already" in why("batch_norm", Own(), random(8, 6))


class Tied(nn.Module):
    """An autoencoder that uses the weight of its encoder twice, and asks for its size."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.middle, self.out = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        h = self.middle(torch.relu(self.encode(x)))
        assert self.encode.out_features == 8
        return F.linear(torch.relu(h), self.encode.weight.t()) + 0 * self.out(h)


def test_who_asks_a_layer_for_its_weight_still_gets_it() -> None:
    model = Tied()
    known = situation(copy.deepcopy(model), (random(8, 6), None))
    code = ROWS["layer_norm"].code(known)
    assert "Followed" in code.definitions
    treated = treat("layer_norm", model, random(8, 6))
    assert isinstance(treated.encode, Followed)
    assert treated.encode.weight is treated.encode[0].weight
    assert not hasattr(treated.encode, "nothing")
    copy.deepcopy(treated)(random(8, 6))


def test_a_step_of_ones_own_may_ask_for_anything() -> None:
    from dataclasses import replace

    model, batch = built("sequential")
    known = situation(model, batch)
    known = replace(known, recipe=replace(known.recipe, step=lambda *_: torch.zeros(())))
    assert isinstance(ROWS["batch_norm"].model(built("sequential")[0], known)[0], Followed)  # type: ignore[misc,index]


class Listed(nn.Module):
    """Layers that are registered and called from a plain list."""

    def __init__(self) -> None:
        super().__init__()
        self.plain = [nn.Linear(6, 6) for _ in range(3)]
        for i, layer in enumerate(self.plain):
            self.add_module(f"layer{i}", layer)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.plain:
            x = layer(x).relu()
        return x.sum(1)


def test_layers_that_cannot_be_replaced_are_told_and_left() -> None:
    model = Listed()
    assert "plain list" in why("layer_norm", model, random(8, 6))
    assert all(isinstance(getattr(model, f"layer{i}"), nn.Linear) for i in range(3))


def test_a_layer_under_two_names_is_normalized_under_both() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.out = nn.Linear(6, 6), nn.Linear(6, 3)
            self.b = self.a

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.b(self.a(x).relu()).relu())

    model = Twice()
    known = situation(copy.deepcopy(model), (random(8, 6), None))
    treated = treat("layer_norm", model, random(8, 6))
    assert treated.a is treated.b
    scope = {"model": Twice(), "nn": nn}
    exec(ROWS["layer_norm"].code(known).model, scope)
    assert scope["model"].a is scope["model"].b  # type: ignore[attr-defined]
    assert "once a time step" in why("batch_norm", Twice(), random(8, 6))


def test_modes_and_formats_are_those_of_the_layer() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).double().eval()
    treated = treat("batch_norm", model, random(8, 6).double())
    assert not any(m.training for m in treated.modules())
    assert {p.dtype for p in treated.parameters()} == {torch.float64}


def test_what_lies_behind_a_cut_is_found_by_the_order_of_calls() -> None:
    class Cut(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.out = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                h = self.b(self.a(x).relu())
            return self.out(h.relu())

    assert placed(treat("layer_norm", Cut(), random(8, 6))) == ["a.1", "b.1"]


def test_long_lists_of_paths_become_loops() -> None:
    layers = [m for _ in range(30) for m in (nn.Linear(6, 6), nn.ReLU())]
    known = situation(nn.Sequential(*layers, nn.Linear(6, 3)), (random(8, 6), None))
    assert ROWS["batch_norm"].code(known).model == (
        'for path in [f"{i}" for i in range(0, 59, 2)]:\n'
        "    model.set_submodule(path, nn.Sequential(model.get_submodule(path), nn.BatchNorm1d(6)))"
    )
    assert listed(["a.1.b", "a.2.b", "a.3.b", "a.5.b"]) == '["a.1.b", "a.2.b", "a.3.b", "a.5.b"]'
    assert eval(listed([f"x{i}.y" for i in range(3, 9, 2)] + ["x9.y"])) == ["x3.y", "x5.y", "x7.y", "x9.y"]


def test_hidden_places_are_none_where_the_norm_has_no_form() -> None:
    model, batch = built("sequential")
    assert hidden_places(model, situation(model, batch), lambda _: None) == []


def test_inputs_are_normalized_where_they_enter() -> None:
    x = 50 + 3 * random(64, 6)
    treated = treat("input_norm", nn.Sequential(nn.Flatten(), nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), x)
    seen = treated[1][0](x)
    assert torch.allclose(seen.mean(0), torch.zeros(6), atol=1e-4)
    assert torch.allclose(seen.var(0, unbiased=False), torch.ones(6), atol=1e-3)
    alone = treat("input_norm", nn.Linear(6, 3), x)
    assert isinstance(alone[0], nn.BatchNorm1d)
    known = situation(nn.Linear(6, 3), (x, None))
    assert ROWS["input_norm"].code(known).model == "model = nn.Sequential(nn.BatchNorm1d(6), model)"
    assert "embedding" in why("input_norm", nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 3)), torch.ones(4).long())
    normed = nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 3))
    assert "normalization" in why("input_norm", normed, x)


@pytest.mark.parametrize(
    ("name", "mean", "square"),
    [("relu", (2 * torch.pi) ** -0.5, 0.5), ("linear", 0.0, 1.0), ("tanh", 0.0, 0.394294), ("sigmoid", 0.5, 0.293379)],
)
def test_gains_keep_the_variance(name: str, mean: float, square: float) -> None:
    assert gain_of(name) == pytest.approx((square - mean**2) ** -0.5, rel=1e-4)


def test_standardized_weights_have_the_moments_they_are_to_have() -> None:
    weight = (3 + 5 * random(7, 4, 3, 3)).double()
    rows = Standardized(7, 1.5).double()(weight).flatten(1)
    assert torch.allclose(rows.mean(1), torch.zeros(7).double(), atol=1e-9)
    assert torch.allclose(rows.square().sum(1), torch.full((7,), 2.25).double(), rtol=1e-4)
    assert Standardized(2, 1.0)(torch.zeros(2, 3)).abs().sum() == 0


def test_tied_weights_stay_tied_and_outputs_as_they_are() -> None:
    model = nn.Sequential(
        nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3)
    )
    model[4].weight = model[2].weight
    treated = treat("weight_standardization", model, random(8, 6))
    assert hasattr(treated[0], "parametrizations")
    assert not any(hasattr(treated[i], "parametrizations") for i in (2, 4, 6))
    assert treated[4].weight is treated[2].weight


MASKS: dict[str, dict[str, Any]] = {
    "none": {},
    "causal": {"attn_mask": torch.ones(5, 5).triu(1).bool(), "is_causal": True},
    "added": {"attn_mask": random(5, 5)},
    "by head": {"attn_mask": random(12, 5, 5)},
    "padding": {"key_padding_mask": torch.arange(5).expand(6, 5) > 3},
    "added padding": {"key_padding_mask": random(6, 5)},
    "weights by head": {"average_attn_weights": False},
    "no weights": {"need_weights": False},
}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize(
    "options", [{}, {"batch_first": True}, {"kdim": 8, "vdim": 8, "batch_first": True}, {"bias": False}]
)
def test_attention_is_that_of_torch_save_for_the_norms(options: dict[str, Any], mask: str) -> None:
    plain = nn.MultiheadAttention(8, 2, **options)
    own = NormalizedAttention(plain)
    assert own.in_proj_weight is plain.in_proj_weight
    own.query_norm, own.key_norm = nn.Identity(), nn.Identity()  # type: ignore[assignment]
    x = random(6, 5, 8) if options.get("batch_first") else random(5, 6, 8)
    given = (x, x, x)
    for a, b in zip(plain(*given, **MASKS[mask]), own(*given, **MASKS[mask]), strict=True):
        assert (a is None and b is None) or torch.allclose(a, b, atol=1e-5)
    assert all(p.grad_fn is None for p in own.parameters())


def test_attention_without_a_batch() -> None:
    plain = nn.MultiheadAttention(8, 2)
    own = NormalizedAttention(plain)
    own.query_norm, own.key_norm = nn.Identity(), nn.Identity()  # type: ignore[assignment]
    x = random(5, 8)
    for a, b in zip(plain(x, x, x), own(x, x, x), strict=True):
        assert a.shape == b.shape
        assert torch.allclose(a, b, atol=1e-5)


def test_normalized_logits_have_a_bound() -> None:
    attention = nn.MultiheadAttention(8, 2, batch_first=True)
    with torch.no_grad():
        attention.in_proj_weight[:16] *= 1000
    own = NormalizedAttention(attention)
    x = random(6, 5, 8)
    assert own(x, x, x)[1].max() < 0.999  # logits of at most sqrt(4) on either side
    assert attention(x, x, x)[1].max() == 1


@pytest.mark.parametrize("padded", [False, True])
def test_fused_paths_know_of_the_norms_too(padded: bool) -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    for name in ("qk_norm", "pre_norm"):
        treated = treat(name, nn.TransformerEncoder(layer, 2), random(4, 5, 8))
        mask = {"src_key_padding_mask": torch.arange(5).expand(4, 5) > 3} if padded else {}
        keep = slice(None, 4 if padded else None)
        training = treated(random(4, 5, 8), **mask)[:, keep]
        with torch.no_grad():
            evaluated = treated.eval()(random(4, 5, 8), **mask)[:, keep]
        assert torch.allclose(training, evaluated, atol=1e-5)


def test_queries_and_keys_by_hand_are_found_by_name_and_use() -> None:
    x = random(4, 7, 10)
    treated = treat("qk_norm", WrittenReader(), x)
    assert [p for p, m in treated.named_modules() if isinstance(m, nn.LayerNorm)] == ["to_q.1", "to_k.1"]

    class Packed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv, self.out = nn.Linear(10, 24), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = self.qkv(x).chunk(3, -1)
            return self.out(F.scaled_dot_product_attention(q, k, v))

    reason = why("qk_norm", Packed(), x)
    assert "qkv" in reason
    assert "q, k = " in reason

    class NotAttention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k = nn.Linear(10, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.k(self.q(x))

    assert "no queries" in why("qk_norm", NotAttention(), x)
    assert "already" in why(
        "qk_norm", treat("qk_norm", nn.MultiheadAttention(8, 2), (random(5, 4, 8),) * 3), (random(5, 4, 8),) * 3
    )
    assert "bias_kv" in why("qk_norm", nn.MultiheadAttention(8, 2, add_bias_kv=True), (random(5, 4, 8),) * 3)


class PreNorm(PostNorm):
    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        logits = self.q(y) @ self.k(y).transpose(1, 2) / x.shape[-1] ** 0.5
        x = x + self.out(logits.softmax(-1) @ self.v(y))
        return x + self.mlp(self.norm2(x))


def test_blocks_by_hand_become_pre_norm() -> None:
    model = Written(3)
    oracle = copy.deepcopy(model)
    x = random(4, 8, 8)
    treated = treat("pre_norm", model, x)
    h = oracle.read(x) + oracle.positions
    for block in oracle.blocks:
        h = PreNorm.forward(block, h)  # type: ignore[arg-type]
    assert torch.allclose(treated(x), oracle.head(F.layer_norm(h, (16,)).mean(1)), atol=1e-5)
    assert "no normalization behind an addition" in why("pre_norm", treated, x)
    known = situation(oracle, (x, None))
    scope: dict[str, Any] = {"model": copy.deepcopy(oracle), "nn": nn, "torch": torch}
    code = ROWS["pre_norm"].code(known)
    exec("\n".join([*code.imports, code.definitions, code.model]), scope)
    assert torch.equal(scope["model"](x), treated(x))
    assert scope["model"].state_dict().keys() == treated.state_dict().keys()


class WithModules(nn.Module):
    """A post-norm block with attention of torch, cross attention and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.attend = nn.MultiheadAttention(8, 2, batch_first=True)
        self.cross = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm1, self.norm2 = nn.LayerNorm(8), nn.LayerNorm(8)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        x = self.norm1(x + self.drop(self.attend(x, x, x, need_weights=False)[0]))
        return self.norm2(x + self.drop(self.cross(x, memory, memory, need_weights=False)[0]))


def test_only_the_stream_is_normalized_before_cross_attention() -> None:
    model = WithModules().eval()
    oracle = copy.deepcopy(model)
    x, memory = random(4, 5, 8), random(4, 3, 8)
    treated = treat("pre_norm", model, (x, memory))
    y = oracle.norm1(x)
    h = x + oracle.attend(y, y, y)[0]
    h = h + oracle.cross(oracle.norm2(h), memory, memory)[0]
    assert torch.allclose(treated(x, memory), F.layer_norm(h, (8,)), atol=1e-5)


def test_blocks_of_torch_are_told_and_their_stack_gets_a_norm() -> None:
    x = random(4, 5, 8)
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    stack = treat("pre_norm", nn.TransformerEncoder(layer, 3, enable_nested_tensor=False), x)
    assert all(block.norm_first for block in stack.layers)  # type: ignore[union-attr]
    assert isinstance(stack.norm, nn.LayerNorm)
    assert "pre-norm already" in why("pre_norm", stack, x)
    loose = treat("pre_norm", nn.Sequential(copy.deepcopy(layer), copy.deepcopy(layer), nn.Linear(8, 3)), x)
    assert isinstance(loose[1], Followed)
    assert isinstance(loose[0], nn.TransformerEncoderLayer)
    whole = nn.Transformer(8, 2, 1, 2, 16, dropout=0.0, batch_first=True)
    both = treat("pre_norm", whole, (x, x))
    assert all(block.norm_first for block in (*both.encoder.layers, *both.decoder.layers))  # type: ignore[union-attr]


def test_pre_norm_leaves_pre_norm_alone() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks, self.norm = nn.ModuleList(PreNorm(16) for _ in range(2)), nn.LayerNorm(16)
            self.head = nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            for block in self.blocks:
                x = block(x)
            return self.head(self.norm(x))

    assert "no normalization behind an addition" in why("pre_norm", Net(), random(4, 5, 16))
