"""What was run: the facts that stand behind every result row."""

import platform
import shlex
import sys
from datetime import datetime, timezone
from typing import Any

import torch

from sparsevit_plugin.backends.choices import TORCH
from sparsevit_plugin.model.kernels import current_kernels
from sparsevit_plugin.versions import DISTRIBUTION, git_commit, installed_version

LIBRARIES = (
    "IMDLBenCo",
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "albumentations",
    "opencv-python-headless",
    "pillow",
    "scikit-learn",
    "pandas",
    "pyarrow",
    "lightning-fabric",
)


def library_versions() -> dict[str, str]:
    """Return the installed version of every library that results depend on."""
    versions = {name: installed_version(name) for name in LIBRARIES}
    return {"python": platform.python_version(), **versions}


def code_version() -> str:
    """Return the plugin's version, with the commit when it runs from a checkout."""
    commit = git_commit("sparsevit_plugin")
    release = installed_version(DISTRIBUTION)
    return f"{release}+{commit[:12]}" if commit else release


def describe_device(device: torch.device) -> str:
    """Name the device: the GPU's name, or the kind of processor and its thread count."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({platform.machine()}, {torch.get_num_threads()} threads)"


def run_facts(
    device: torch.device, precision: str, world_size: int, backend: str = TORCH
) -> dict[str, Any]:
    """Return the part of a manifest that describes the code, the machine and the command.

    Where PyTorch computes on a CPU, `kernels` says which implementations, see `model.kernels`.
    """
    by_kernels = backend == TORCH and device.type == "cpu"
    kernels = {"kernels": current_kernels().to_dict()} if by_kernels else {}
    return {
        "code_version": code_version(),
        "libraries": library_versions(),
        "command": shlex.join(["benco", *sys.argv[1:]]),
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "device": describe_device(device),
        "precision": precision,
        "world_size": world_size,
        **kernels,
    }
