"""Post-norm transformer blocks whose stream is weighted up and whose branches begin small."""

from __future__ import annotations

from typing import Any

from torch import nn

from gradiometer.remedies.base import Code, Remedy, Situation, UnusableError
from gradiometer.remedies.cases import connection as cases
from gradiometer.remedies.placing import listed, objection


class DeepNormLayer(nn.TransformerEncoderLayer):
    """A post-norm block in which the stream counts ``alpha`` times."""

    alpha = 1.0

    def forward(self, src, src_mask=None, src_key_padding_mask=None, is_causal=False):
        """The block's output."""
        attended = self._sa_block(src, src_mask, src_key_padding_mask, is_causal=is_causal)
        x = self.norm1(self.alpha * src + attended)
        return self.norm2(self.alpha * x + self._ff_block(x))


def deep_norm(layer, alpha, beta):
    """Makes a block of torch such a one: values, outputs and the feed-forward layers Xavier's times ``beta``."""
    layer.__class__ = DeepNormLayer
    layer.alpha = alpha
    attention = layer.self_attn
    query, key, value = attention.in_proj_weight.chunk(3)
    for weight in (query, key):
        nn.init.xavier_normal_(weight)
    for weight in (value, attention.out_proj.weight, layer.linear1.weight, layer.linear2.weight):
        nn.init.xavier_normal_(weight, gain=beta)


def constants(blocks: int) -> tuple[float, float]:
    """Weight of the stream and gain of the branches for an encoder, or a decoder, alone.

    Formula: ``alpha = (2 N)^(1/4)``, ``beta = (8 N)^(-1/4)``.

    Args:
        blocks: their number N.

    Returns:
        ``(alpha, beta)``.

    Raises:
        ZeroDivisionError: for no blocks.

    Example:
        >>> [round(x, 4) for x in constants(12)]
        [2.2134, 0.3195]

    Source:
        Wang et al., DeepNet: scaling transformers to 1,000 layers (2022), figure 2.
    """
    return (2 * blocks) ** 0.25, (8 * blocks) ** -0.25


def _plan(model: nn.Module, _: Situation) -> list[str]:
    found = [(path, m) for path, m in model.named_modules() if isinstance(m, nn.TransformerEncoderLayer)]
    post = [path for path, m in found if type(m) is nn.TransformerEncoderLayer and not m.norm_first]
    if any(isinstance(m, nn.TransformerDecoderLayer) for m in model.modules()):
        raise UnusableError("it has decoder blocks, for which the constants are others: use pre_norm.")
    if found and not post:
        raise UnusableError("the transformer's blocks are pre-norm, or of a class of their own.")
    if not post:
        raise UnusableError(
            "it has no nn.TransformerEncoderLayer. In post-norm blocks written by hand write norm(alpha * x + f(x)) "
            "with alpha = (2 N)^(1/4) for N blocks, and draw the branches' weights at (8 N)^(-1/4) of Xavier's."
        )
    for path in post:
        layer: Any = model.get_submodule(path)
        if not layer.self_attn._qkv_same_embed_dim:
            raise UnusableError(f"{path} has keys or values of another size.")
    return post


def _treat(model: nn.Module, situation: Situation) -> nn.Module:
    paths = _plan(model, situation)
    alpha, beta = (round(x, 4) for x in constants(len(paths)))
    for path in paths:
        deep_norm(model.get_submodule(path), alpha, beta)
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoder):
            module.use_nested_tensor = False  # its fused path knows no alpha
    return model


def _code(situation: Situation) -> Code:
    paths = _plan(situation.model, situation)
    alpha, beta = (round(x, 4) for x in constants(len(paths)))
    lines = [f"for path in {listed(paths)}:", f"    deep_norm(model.get_submodule(path), alpha={alpha}, beta={beta})"]
    if paths == [""]:
        lines = [f"deep_norm(model, alpha={alpha}, beta={beta})"]
    if any(isinstance(m, nn.TransformerEncoder) for m in situation.model.modules()):
        lines += ["for module in model.modules():", "    if isinstance(module, nn.TransformerEncoder):"]
        lines += ["        module.use_nested_tensor = False"]
    return Code(classes=(DeepNormLayer, deep_norm), model="\n".join(lines))


DEEPNORM = Remedy(
    name="deepnorm",
    title="DeepNorm's weighted stream in a post-norm transformer",
    group="connection",
    treats=(
        "vanishing_gradient",
        "exploding_gradient",
        "stalled_training",
        "diverging_loss",
        "loss_spike",
        "oscillating_loss",
        "rank_collapse",
    ),
    changes_function=True,
    source="Wang et al., DeepNet: scaling transformers to 1,000 layers (2022), equation 1 and figure 2",
    code=_code,
    model=_treat,
    unusable=objection(_plan),
    proofs=cases.DEEPNORM,
)
