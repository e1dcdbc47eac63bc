"""What the probe knows of operations: the name it gives each, and the cause a change of gradient there has.

An operation that is not in the table is measured all the same, under the name of its function, as ``unknown``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gradiometer.records import Cause


class Operation(NamedTuple):
    """A name for people, the cause of the design's list, and whether units lie along dimension 1 (channels)."""

    name: str
    cause: Cause
    channels_first: bool | None = None


_TABLE: dict[Cause, str] = {
    "weights": """linear bilinear addmm addmv embedding embedding_bag lstm gru rnn rnn_tanh rnn_relu
        lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell rnn_cell
        conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d convolution""",
    "activation": """relu relu6 leaky_relu prelu rrelu elu selu celu gelu silu mish sigmoid tanh softplus
        softsign hardsigmoid hardswish hardtanh hardshrink softshrink tanhshrink threshold logsigmoid
        log_sigmoid glu swiglu sin cos exp log sqrt rsqrt square pow erf clamp clamp_min clamp_max
        abs maximum minimum log1p expm1 reciprocal""",
    "normalization": """layer_norm rms_norm batch_norm sync_batch_norm group_norm instance_norm
        local_response_norm cross_map_lrn2d normalize cosine_similarity""",
    "connection": """add sub rsub mul div neg true_divide cat concat concatenate stack hstack vstack lerp where
        masked_fill addcmul addcdiv dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout""",
    "attention": "softmax softmin scaled_dot_product_attention multi_head_attention_forward multihead_attention",
    "reshaping": """max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d
        adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d
        lp_pool1d lp_pool2d lp_pool3d fractional_max_pool2d fractional_max_pool3d interpolate upsample
        upsampling_nearest2d upsampling_bilinear2d pixel_shuffle pixel_unshuffle channel_shuffle fold pad
        zero_pad1d zero_pad2d zero_pad3d constant_pad1d constant_pad2d constant_pad3d reflection_pad1d
        reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d replication_pad3d circular_pad1d
        circular_pad2d circular_pad3d mean sum max min amax amin logsumexp norm cumsum gather index_select
        scatter scatter_add index_add roll flip tril triu""",
    "loss": """cross_entropy nll_loss mse_loss l1_loss smooth_l1_loss huber_loss kl_div poisson_nll_loss
        gaussian_nll_loss binary_cross_entropy binary_cross_entropy_with_logits hinge_embedding_loss
        margin_ranking_loss triplet_margin_loss cosine_embedding_loss multi_margin_loss ctc_loss log_softmax""",
}
_CAUSES: dict[str, Cause] = {name: cause for cause, names in _TABLE.items() for name in names.split()}

# A product of two tensors is a weight layer if one of them is a parameter, and attention if none is.
PRODUCTS = frozenset("matmul mm bmm mv dot einsum baddbmm tensordot bilinear".split())

# Neither computing nor connecting: views, copies, types, random and constant tensors, questions.
_PASSED_OVER = frozenset(
    """view view_as reshape reshape_as flatten unflatten permute transpose t swapaxes swapdims movedim squeeze
    unsqueeze expand expand_as broadcast_to contiguous clone detach to type type_as float double half bfloat16 cpu
    cuda chunk split split_with_sizes tensor_split unbind select narrow slice getitem index setitem diagonal unfold
    as_strided repeat repeat_interleave tile requires_grad register_hook retain_grad item tolist numpy copy fill
    zero normal uniform bernoulli zeros_like ones_like rand_like randn_like empty_like full_like new_zeros new_ones
    new_empty new_full new_tensor size dim numel stride is_floating_point is_complex data_ptr apply
    pack_padded_sequence pad_packed_sequence backward real imag mT H T set get one_hot identity""".split()
)

# Methods of operators, whose names are not those of their functions.
_OPERATORS = {
    "truediv": "div", "rtruediv": "div", "itruediv": "div", "rdiv": "div", "idiv": "div", "rmatmul": "matmul",
    "imatmul": "matmul", "rpow": "pow", "ipow": "pow", "radd": "add", "iadd": "add", "isub": "sub", "rmul": "mul",
    "imul": "mul",
}  # fmt: skip

_CHANNELS = ("conv", "batch_norm", "instance_norm", "group_norm", "sync_batch_norm")

# Class names of torch.nn whose operation is not their name in snake case.
_MODULE_OPERATIONS = {
    "ReLU": "relu", "ReLU6": "relu6", "LeakyReLU": "leaky_relu", "PReLU": "prelu", "RReLU": "rrelu",
    "ELU": "elu", "SELU": "selu", "CELU": "celu", "GELU": "gelu", "SiLU": "silu", "GLU": "glu",
    "LogSoftmax": "log_softmax", "RNN": "rnn", "LSTM": "lstm", "GRU": "gru",
    "RNNCell": "rnn_cell", "LSTMCell": "lstm_cell", "GRUCell": "gru_cell", "LayerNorm": "layer_norm",
    "RMSNorm": "rms_norm", "GroupNorm": "group_norm", "SyncBatchNorm": "sync_batch_norm",
    "LocalResponseNorm": "local_response_norm", "MultiheadAttention": "multihead_attention",
    "NonDynamicallyQuantizableLinear": "linear", "Softmax2d": "softmax", "CrossEntropyLoss": "cross_entropy",
    "NLLLoss": "nll_loss", "MSELoss": "mse_loss", "L1Loss": "l1_loss", "BCELoss": "binary_cross_entropy",
    "LPPool1d": "lp_pool1d", "LPPool2d": "lp_pool2d", "LPPool3d": "lp_pool3d",
    "LogSigmoid": "log_sigmoid", "BCEWithLogitsLoss": "binary_cross_entropy_with_logits", "Upsample": "upsample",
}  # fmt: skip


def _snake(name: str) -> str:
    out = ""
    for i, c in enumerate(name):
        starts_word = c.isupper() and i and not (name[i - 1].isupper() or name[i - 1].isdigit())
        out += ("_" if starts_word else "") + c.lower()
    return out


def of_name(name: str) -> Operation:
    """The operation that goes by this name; ``unknown`` if none does.

    Example:
        >>> of_name("relu").cause, of_name("eig").cause
        ('activation', 'unknown')
    """
    channels = True if name.startswith(_CHANNELS) else None
    if name in ("linear", "layer_norm", "rms_norm", "embedding", "addmm"):
        channels = False
    cause = _CAUSES.get(name) or ("reshaping" if name in _PASSED_OVER else "unknown")
    return Operation(name, cause, channels)


def of_module(module: nn.Module) -> Operation:
    """The operation that a module without children stands for.

    Example:
        >>> of_module(nn.BatchNorm2d(3)).name, of_module(nn.Conv2d(1, 1, 1)).cause
        ('batch_norm', 'weights')
    """
    kind = type(module).__name__
    name = _MODULE_OPERATIONS.get(kind) or _snake(kind.removeprefix("Lazy"))
    for prefix in ("batch_norm", "instance_norm"):
        if name.startswith(prefix):
            name = prefix
    return of_name(name)


_functions: dict[Any, str | None] = {}


def of_function(function: Callable[..., Any], args: tuple[Any, ...]) -> Operation | None:
    """The operation that a call of ``torch.*``, ``F.*`` or a tensor method stands for; ``None`` to pass over.

    Example:
        >>> of_function(torch.Tensor.relu_, ()).name, of_function(torch.reshape, ())
        ('relu', None)
    """
    try:
        name = _functions[function]
    except KeyError:
        name = _functions[function] = _function_name(function)
    if name is None:
        return None
    if name in PRODUCTS:
        # A parameter, or a view of one such as its transpose, makes the product a weight layer.
        flat = [a for arg in args for a in (arg if isinstance(arg, (list, tuple)) else (arg,))]
        weights = any(isinstance(a, Tensor) and _is_weight(a) for a in flat)
        return Operation(name, "weights" if weights else "attention", False)
    return of_name(name)


def is_reversed(function: Callable[..., Any]) -> bool:
    """Whether this is the method of the second operand, ``__rdiv__`` of ``1 / x``: its arguments change places."""
    return getattr(function, "__name__", "") in ("__rdiv__", "__rtruediv__", "__rsub__", "__rpow__")


def is_in_place(function: Callable[..., Any]) -> bool:
    """Whether a function overwrites its first argument."""
    name = getattr(function, "__name__", "")
    return name.endswith("_") and not name.endswith("__")


def of_view(function: Callable[..., Any]) -> Operation:
    """The operation of a function that `of_function` passes over, for where every step of the gradient counts.

    Example:
        >>> of_view(torch.Tensor.T.__get__), of_view(torch.Tensor.detach).cause
        (Operation(name='T', cause='reshaping', channels_first=None), 'connection')
    """
    name = getattr(function, "__name__", "")
    if name == "__get__":
        name = getattr(getattr(function, "__self__", None), "__name__", name)
    name = name.strip("_")
    return Operation(name, "connection" if name in ("detach", "data") else "reshaping")


def _is_weight(a: Tensor) -> bool:
    """A parameter, frozen or not, or a view of one such as its transpose."""
    whole = a if a._base is None else a._base
    return isinstance(whole, nn.Parameter) or (whole.is_leaf and whole.requires_grad)


def _function_name(function: Callable[..., Any]) -> str | None:
    name = getattr(function, "__name__", "")
    if name in ("__get__", "__set__", "__delete__"):
        return None  # properties of tensors (shape, grad, T) pass through here too
    dunder = name.startswith("__") and name.endswith("__")
    name = name.strip("_")
    if dunder:
        name = _OPERATORS.get(name, name)
    return None if not name or name in _PASSED_OVER or name.startswith(("is_", "has_", "sym_")) else name


def is_leaf(module: nn.Module) -> bool:
    """Whether a module of torch.nn is one operation, whose inside is not looked into."""
    return type(module).__module__.startswith("torch.nn.modules") and (
        not module._modules or isinstance(module, nn.MultiheadAttention)
    )


def is_compiled(module: nn.Module) -> bool:
    """Whether a compiler looks into this module, and would take the instrument for a part of it."""
    return (
        isinstance(module, torch.jit.ScriptModule)
        or getattr(module, "_compiled_call_impl", None) is not None
        or type(module).__module__.startswith("torch._dynamo")
    )


def is_opaque(module: nn.Module) -> bool:
    """Whether a module must be called exactly as without us, since a look inside would change what it does.

    Compiled ones, and the attention modules of torch.nn outside training, whose fused path is taken only when
    nothing overrides their functions.
    """
    fused = (nn.TransformerEncoder, nn.TransformerEncoderLayer, nn.MultiheadAttention)
    return (isinstance(module, fused) and not module.training) or is_compiled(module)
