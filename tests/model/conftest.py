"""Models with weights at which every branch of the network is visible in the output."""

import contextlib
import io

import pytest
import torch

from sparsevit_plugin.model.register import register


@pytest.fixture(scope="session")
def registry():
    """IMDLBenCo's MODELS with the plugin's models in it."""
    register()
    from IMDLBenCo.registry import MODELS

    return MODELS


@pytest.fixture(scope="session")
def make_upstream(registry):
    """Build IMDLBenCo's own SparseViT, which prints a line per block, without its lines."""

    def make(**arguments):
        with contextlib.redirect_stdout(io.StringIO()):
            return registry.get("SparseViT_upstream")(**arguments).eval()

    return make


@pytest.fixture(scope="session")
def upstream_state(make_upstream):
    """Weights of upstream's model with scales and BatchNorm statistics drawn at random.

    At their start of 1e-6 the scales hide the attention and the fusion altogether.
    """
    return randomised(make_upstream().state_dict(), seed=7)


def randomised(state, seed):
    """Copy a state dict, drawing layer scales, fusion scales, biases and BatchNorm statistics."""
    generator = torch.Generator().manual_seed(seed)
    drawn = {}
    for key, value in state.items():
        drawn[key] = value.clone()
        if "gamma" in key or "running_var" in key:
            drawn[key].uniform_(0.3, 1.2, generator=generator)
        elif "running_mean" in key or key.endswith("bias"):
            drawn[key].normal_(0, 0.1, generator=generator)
    return drawn
