"""How a process uses its processor or GPU: which kernels compute, what becomes of freed memory."""

import ctypes
import os
import sys

import torch

from sparsevit_plugin.model.kernels import Kernels, use_kernels
from sparsevit_plugin.model.probe import choose_kernels

# From glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST = 2**31 - 1
_OF_THE_USER = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "LD_PRELOAD")


def set_up_processor(matmul: str, purpose: str, number_format: str = "fp32") -> Kernels:
    """Make this process compute as fast as its processor allows.

    Args:
        matmul: "auto", "mkl" or "onednn", see `model.probe`.
        purpose: "inference" or "training".
        number_format: "fp32" or "bf16": what most is computed in.

    Returns:
        The kernels that hold from now on.

    Raises:
        UserError: There is no such choice.
    """
    keep_freed_memory()
    kernels = choose_kernels(matmul, purpose, number_format)
    use_kernels(kernels)
    return kernels


def leave_out_cudnn_attention() -> None:
    """Keep `scaled_dot_product_attention` from cuDNN's kernels on GPUs, for every model.

    From PyTorch 2.11 on they come first on H100 and H200, and their backward pass returns NaN for
    groups of 64 tokens (any number that leaves 64 when it is divided by 128) where a query's scores
    are all far below zero: https://github.com/pytorch/pytorch/issues/196678. Flash attention and
    the memory-efficient one take their place.
    """
    torch.backends.cuda.enable_cudnn_sdp(False)


def keep_freed_memory() -> bool:
    """Let the C library keep the memory of freed tensors instead of giving it back each time.

    A network frees and takes the same tensors in every pass. Given back to the system, each page of
    them is cleared and mapped anew when it is first touched. With `mallopt` (glibc) the process
    stays as large as it was at its largest, which is what it would need again anyway.

    Returns:
        Whether it was done: not without glibc, and not where the user has set up malloc.
    """
    if not sys.platform.startswith("linux") or any(os.environ.get(n) for n in _OF_THE_USER):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    return all(mallopt(name, _LARGEST) == 1 for name in (_TRIM_THRESHOLD, _MMAP_THRESHOLD))
