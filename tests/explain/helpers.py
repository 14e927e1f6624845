"""Small checkpoints to look into."""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from sparsevit_plugin.harness.config import resolve
from sparsevit_plugin.harness.pipeline import build_model, describe_for_testing
from tests.harness.helpers import register_plain_convolution


def save_model(path: Path, name: str = "SparseViT_tiny", *flags: str) -> Path:
    """Save a model whose every weight counts, recorded as trained at 64 x 64 with `flags`."""
    words = ["--model", name, "--image-size", "64", "--fit", "resize", *flags]
    cfg = resolve("test", words, needs_data=False)
    model = build_model(cfg)
    with torch.no_grad():
        for module in model.modules():
            # Large enough that attention is far from even.
            scale = 0.15 if isinstance(module, nn.Linear) else 0.05
            for parameter in module.parameters(recurse=False):
                parameter.add_(scale * torch.randn_like(parameter))
    save_file(model.state_dict(), path, metadata=describe_for_testing(cfg))
    return path


def save_plain(path: Path) -> Path:
    """Save a model of one convolution, which has no blocks of any kind."""
    register_plain_convolution()
    return save_model(path, "PlainConvolution")
