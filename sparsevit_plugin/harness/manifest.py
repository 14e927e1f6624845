"""What was run: the facts that stand behind every result row."""

import platform
import shlex
import subprocess
import sys
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

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
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def code_version() -> str:
    """Return the plugin's version, with the commit when it runs from a checkout."""
    release = version("sparsevit-plugin")
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return release
    try:
        described = subprocess.run(  # noqa: S603
            ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"],  # noqa: S607
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return release
    return f"{release}+{described}"


def describe_device(device: torch.device) -> str:
    """Name the device: the GPU's name, or the kind of processor and its thread count."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({platform.machine()}, {torch.get_num_threads()} threads)"


def run_facts(device: torch.device, precision: str, world_size: int) -> dict[str, Any]:
    """Return the part of a manifest that describes the code, the machine and the command."""
    return {
        "code_version": code_version(),
        "libraries": library_versions(),
        "command": shlex.join(["benco", *sys.argv[1:]]),
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "device": describe_device(device),
        "precision": precision,
        "world_size": world_size,
    }
