"""A small SparseViT whose every path shows in its map, and its checkpoint."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from sparsevit_plugin.model.sparsevit import SparseViT_tiny

# Few blocks, for what a graph costs: a stage with a stride, and one of dense attention.
SMALL = {
    "depth": (1, 1, 1, 1),
    "embed_dim": (16, 16, 32, 32),
    "head_dim": 16,
    "s_blocks3": (2,),
    "s_blocks4": (1,),
    "lff_dim": 32,
}


def small_model(sparsity: str = "rate", seed: int = 0) -> nn.Module:
    """Scales start at 1e-6, which hides the attention: here they are drawn from 0.5 to 1.5."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = SparseViT_tiny(sparsity=sparsity, **SMALL)
        for name, parameter in model.named_parameters():
            if "gamma" in name:
                nn.init.uniform_(parameter, 0.5, 1.5)
    return model.eval().requires_grad_(False)


def images(count: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for exported files: graphs are made once for the tests of a module."""
    return tmp_path_factory.mktemp("exports")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "weights.safetensors"
    save_file(small_model().state_dict(), str(path))
    return path
