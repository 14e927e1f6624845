"""Which of several equal implementations a CPU computes the model's products with.

A linear layer over tokens is a 1 x 1 convolution of a channels-last map. PyTorch sends the one to
MKL and the other to oneDNN, and which of them is faster depends on the processor, by up to a factor
of two. Attention over a small group is faster as two matrix products and a softmax than as one
fused operation; where that turns depends on the processor and on the number format too. Every
choice gives the same result but for rounding.

The choice holds for the process, like `torch.set_num_threads`; `model.probe` makes it by measuring.
Without one the model uses `F.linear` and fused attention, as on any other device.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsevit_plugin.model.choices import LIBRARIES, check_choice


@dataclass(frozen=True)
class Kernels:
    """One choice.

    Attributes:
        matmul: "mkl": linear layers as `F.linear`. "onednn": as 1 x 1 convolutions.
        attention_fp32: Tokens of the largest group whose attention is computed by matrix products
            in single precision; 0 for none.
        attention_bf16: The same in bfloat16.

    Raises:
        UserError: There is no such library.
    """

    matmul: str = "mkl"
    attention_fp32: int = 0
    attention_bf16: int = 0

    def __post_init__(self) -> None:
        check_choice("matmul", self.matmul, LIBRARIES)

    def to_dict(self) -> dict[str, Any]:
        """Return it as a manifest keeps it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "Kernels":
        """Read what `to_dict` gave."""
        return cls(**{field.name: content[field.name] for field in fields(cls)})

    def by_products(self, tokens: int, dtype: torch.dtype) -> bool:
        """Say whether the attention of a group of so many tokens is computed by products."""
        limits = {torch.float32: self.attention_fp32, torch.bfloat16: self.attention_bf16}
        return tokens <= limits.get(dtype, 0)


_current = Kernels()


def current_kernels() -> Kernels:
    """Return the choice that holds."""
    return _current


def use_kernels(kernels: Kernels) -> None:
    """Make a choice hold for this process."""
    global _current  # noqa: PLW0603 - a setting of the process, as torch's own are
    _current = kernels


@contextlib.contextmanager
def using_kernels(kernels: Kernels) -> Iterator[None]:
    """Make a choice hold within a block."""
    before = current_kernels()
    use_kernels(kernels)
    try:
        yield
    finally:
        use_kernels(before)


def linear(grid: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Map the channels of a B x H x W x C grid by a weight of K x C or K x C x 1 x 1.

    Returns:
        B x H x W x K.
    """
    if grid.device.type == "cpu" and _current.matmul == "onednn":
        kernel = weight if weight.dim() == 4 else weight[:, :, None, None]  # noqa: PLR2004
        return F.conv2d(grid.permute(0, 3, 1, 2), kernel, bias).permute(0, 2, 3, 1)
    return F.linear(grid, weight.flatten(1), bias)


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """Return softmax(q k^T / sqrt(d)) v within each of R groups and h heads.

    Args:
        query: R x h x N x d.
        key: R x h x N x d.
        value: R x h x N x d.
        mask: R x 1 x 1 x N, True at the keys that count; None for all.
    """
    on_cpu = query.device.type == "cpu"
    if not (on_cpu and _current.by_products(key.shape[-2], query.dtype)):
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return scores.softmax(-1) @ value
