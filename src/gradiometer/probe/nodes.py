"""What the probe knows of the nodes of autograd's graph: the operation that a node's name stands for."""

from __future__ import annotations

import re
from functools import cache

from gradiometer.probe.operations import Operation, of_name

_ALIASES = {
    "addmm": "linear", "mm": "linear", "mv": "linear", "addmv": "linear", "addbmm": "linear", "baddbmm": "bmm",
    "native_layer_norm": "layer_norm", "native_group_norm": "group_norm", "native_batch_norm": "batch_norm",
    "cudnn_batch_norm": "batch_norm", "miopen_batch_norm": "batch_norm", "batch_norm_impl_index": "batch_norm",
    "fused_rms_norm": "rms_norm",
    "convolution_overrideable": "convolution", "mkldnn_convolution": "convolution", "mkldnn_rnn_layer": "lstm",
    "cudnn_rnn": "rnn", "miopen_rnn": "rnn", "thnn_fused_lstm_cell": "lstm_cell", "thnn_fused_gru_cell": "gru_cell",
    "native_dropout": "dropout", "safe_softmax": "softmax", "max_pool2d_with_indices": "max_pool2d",
    "max_pool3d_with_indices": "max_pool3d", "prelu_kernel": "prelu",
    "nll_loss2d": "nll_loss", "linalg_vector_norm": "norm", "rrelu_with_noise": "rrelu",
}  # fmt: skip
_PRODUCTS = frozenset(("linear", "bmm", "matmul", "dot", "einsum"))
_ATTENTION = "scaled_dot_product"
_MOVED = frozenset(
    """view unsafe_view reshape reshape_alias transpose t permute squeeze unsqueeze expand select slice split
    unsafe_split split_with_sizes unbind clone to_copy alias index repeat as_strided copy_slices detach narrow
    diagonal unfold copy contiguous""".split()
)


@cache
def plain(name: str) -> str:
    """The name of a node in snake case.

    Example:
        >>> plain("AvgPool2DBackward0"), plain("torch::autograd::CopySlices")
        ('avg_pool2d', 'copy_slices')
    """
    name = name.removeprefix("torch::autograd::").rstrip("0123456789").removesuffix("Backward")
    name = re.sub(r"(\d)D", r"\1d", name)
    out = ""
    for i, c in enumerate(name):
        out += ("_" if c.isupper() and i and not name[i - 1].isupper() else "") + c.lower()
    return out.strip("_")


@cache
def of_node(name: str, has_parameter: bool) -> Operation:
    """The operation of a node; ``has_parameter`` says that one of its inputs is made of parameters alone.

    Example:
        >>> of_node("AddmmBackward0", True).cause, of_node("BmmBackward0", False).cause, of_node("Odd", False).cause
        ('weights', 'attention', 'unknown')
    """
    name = plain(name)
    name = _ALIASES.get(name, name)
    if name in _PRODUCTS:
        if has_parameter:
            return Operation(name, "weights")
        return Operation("matmul" if name == "linear" else name, "attention")
    if _ATTENTION in name:
        return of_name("scaled_dot_product_attention")
    return Operation(name, "reshaping") if name in _MOVED else of_name(name)
