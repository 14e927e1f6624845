"""What kind of work an operation of PyTorch does, by its name: for lists of what is not counted.

Element-wise operations and those that only move or make data are no work that a counter of products
misses, and have no group. Everything else has one, so that a list of what was not counted can be
checked; an operation that is not known here, or is no operation of PyTorch's own, is its own group.
"""

import fnmatch
import functools
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Final

import torch

PRODUCTS: Final = "products"
FOURIER: Final = "fourier"

_NO_WORK: Final = (
    *(
        "*empty*",
        "zeros*",
        "ones*",
        "full*",
        "new_*",
        "arange*",
        "linspace*",
        "eye",
        "scalar_tensor",
    ),
    *("rand*", "normal*", "bernoulli*", "uniform*", "fill*", "zero", "lift*", "detach*", "alias*"),
    *("clone", "copy", "_to_copy", "to", "contiguous", "type_as", "cat", "concat", "stack"),
    *("*pad", "*pad[123]d", "*pad_nd", "roll", "flip", "fliplr", "flipud", "rot90", "repeat*"),
    *("gather", "scatter", "index", "index_*", "_index_*", "masked_*", "embedding", "nonzero*"),
    *("take*", "tril*", "triu*", "view*", "_unsafe_view", "reshape*", "_reshape_alias", "resize*"),
    *("flatten", "unflatten", "transpose*", "permute*", "expand*", "split*", "chunk", "unbind"),
    *("slice*", "select*", "narrow", "unsqueeze*", "squeeze*", "im2col", "col2im", "unfold*"),
    *("pixel_*shuffle", "channel_shuffle", "meshgrid", "one_hot", "diag*", "numpy_T", "size"),
    *("_local_scalar_dense", "item", "set_*", "feature_dropout", "dropout", "native_dropout"),
    *(
        "constant",
        "Int",
        "floor_divide",
        "_assert*",
        "bitwise_*",
        "__*__",
        "_shape_as_tensor",
        "log_sigmoid*",
    ),
)
"""Patterns of names of operations that make, move or pick data."""

_GROUPS: Final[Mapping[str, tuple[str, ...]]] = {
    PRODUCTS: (
        *(
            "mm",
            "bmm",
            "mv",
            "dot",
            "vdot",
            "matmul",
            "einsum",
            "linear",
            "bilinear",
            "ger",
            "outer",
        ),
        *("add*mm", "addmv", "addr", "baddbmm", "tensordot", "inner", "chain_matmul", "kron"),
        *("*conv1d*", "*conv2d*", "*conv3d*", "*convolution*", "_trilinear", "*cdist*"),
        *("*scaled_dot_product*", "*multi_head_attention*", "*lstm*", "*gru*", "*rnn*", "mkldnn_*"),
        *("linalg_*", "*int_mm*", "_transformer_*", "_native_multi_head_attention"),
    ),
    FOURIER: ("_fft_*", "fft_*", "stft", "istft"),
    "normalisation": (
        "*batch_norm*",
        "*layer_norm*",
        "*group_norm*",
        "*instance_norm*",
        "*rms_norm*",
    ),
    "softmax": ("*softmax*", "logsumexp"),
    "pooling": ("*max_pool*", "*avg_pool*"),
    "resampling": ("*upsample_*", "grid_sampler*", "affine_grid*", "_upsample*"),
    "losses": (
        "*cross_entropy*",
        "nll_loss*",
        "*mse_loss*",
        "*l1_loss*",
        "kl_div",
        "*embedding_loss",
    ),
    "reductions": (
        *("sum", "mean", "amax", "amin", "max", "min", "var", "var_*", "std", "std_*", "prod"),
        *("cumsum", "cumprod", "argmax", "argmin", "aminmax", "any", "all", "norm", "linalg_*norm"),
        *("sort", "topk", "kthvalue", "median", "count_nonzero", "equal", "bincount", "hist*"),
    ),
}


@functools.cache
def group_of(name: str) -> str | None:
    """Return the group of an operation.

    Args:
        name: Its namespace and name without an overload, as `aten.bmm` or `aten::bmm`.

    Returns:
        None for element-wise operations and for those that make or move data.
    """
    namespace, _, bare = name.replace("::", ".").partition(".")
    if namespace == "prim":
        return None
    if namespace != "aten":
        return name
    bare = bare.removesuffix("_")
    if bare.startswith("linalg_") and bare.endswith("norm"):
        return "reductions"
    for group, patterns in _GROUPS.items():
        if _matches(bare, patterns):
            return group
    return None if _matches(bare, _NO_WORK) or _is_light(bare) else name


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _is_light(name: str) -> bool:
    """Say whether PyTorch itself calls an operation element-wise, or a view."""
    packet: Any = getattr(torch.ops.aten, name, None)
    if packet is None:
        return False
    overloads = [getattr(packet, overload) for overload in packet.overloads()]
    return any(torch.Tag.pointwise in one.tags or one.is_view for one in overloads)


def grouped(calls: Mapping[str, int]) -> dict[str, dict[str, int]]:
    """Return calls of operations by their groups, the element-wise and moving ones left out.

    Args:
        calls: Operation to the number of its calls.

    Returns:
        Group to operation to calls, each in the order of its name.
    """
    found: dict[str, Counter[str]] = {}
    for name, number in sorted(calls.items()):
        group = group_of(name)
        if group is not None:
            found.setdefault(group, Counter())[name] += number
    return {group: dict(found[group]) for group in sorted(found)}
