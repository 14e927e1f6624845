"""Checkpoints of a training run.

A run's folder holds three files, each written whole or not at all:

- `resume.pt`: everything that a killed run needs (weights, optimiser, scaler, position, best
value);
- `last.safetensors`, `best.safetensors`: weights alone, for testing and publishing.

No generator states are stored: every draw is seeded from (seed, epoch, step or index), see
`sampling`.
"""

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparsevit_plugin.errors import UserError
from sparsevit_plugin.failures import in_words
from sparsevit_plugin.files import atomic_path

STATE_SCHEMA = 2
RESUME_NAME = "resume.pt"


# What each part of the file must be.
_KINDS: dict[str, Any] = {
    **dict.fromkeys(("model", "optimizer", "scaler", "kernels"), dict),
    **dict.fromkeys(("epoch", "step", "updates", "left_out"), int),
    **{"best": (dict, type(None)), "config_hash": str, "skipped": list, "finished": bool},
}


@dataclass
class TrainingState:
    """Where a training run stands.

    Attributes:
        model: State dict of the bare model.
        optimizer: State dict of the optimiser.
        scaler: State of the fp16 loss scaler; empty in other precisions.
        epoch: Epoch that the next step belongs to, counted from 0.
        step: Next global batch within `epoch`.
        best: `{"epoch": int, "value": float}` of the best checkpoint so far, or None.
        config_hash: Hash of the settings that change the weights.
        skipped: Names of the bad images that were passed over.
        updates: Updates of the weights that were due since the start, or since a state that did not
            count them was resumed.
        left_out: How many of them were left out because their gradients were not finite.
        finished: Whether all epochs are done.
        kernels: What computed on a CPU, see `model.kernels`; empty on another device.
    """

    model: dict[str, Tensor]
    optimizer: dict[str, Any]
    scaler: dict[str, Any] = field(default_factory=dict)
    epoch: int = 0
    step: int = 0
    best: dict[str, Any] | None = None
    config_hash: str = ""
    skipped: list[str] = field(default_factory=list)
    updates: int = 0
    left_out: int = 0
    finished: bool = False
    kernels: dict[str, Any] = field(default_factory=dict)


def save_state(state: TrainingState, path: Path) -> None:
    """Write `state` to `path`, whole or not at all.

    Raises:
        UserError: It cannot be written, e.g. because the disk is full.
    """
    with atomic_path(path) as temporary:
        try:
            torch.save({"schema": STATE_SCHEMA, **vars(state)}, temporary)
        except RuntimeError as error:  # what PyTorch makes of a write that failed
            if in_words(error):
                raise  # a loader that died is reported wherever the process is just then
            reason = str(error).splitlines()[0]
            raise UserError(f"cannot write {path} (is the disk full?): {reason}") from error


def load_state(path: Path) -> TrainingState:
    """Read a training state, ours or one of IMDLBenCo's train.py, on the CPU; no code of it runs.

    Raises:
        UserError: If the file is missing, damaged, of a newer schema, or no training state.
    """
    if not path.is_file():
        raise UserError(f"--resume {path}: no such file; give a resume.pt, or --resume auto")
    try:
        # IMDLBenCo's checkpoints hold their command line as a Namespace: a plain container.
        with torch.serialization.safe_globals([argparse.Namespace]):
            data = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes make the unpickler raise whatever it stumbles over
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{path} cannot be resumed from: it is damaged or no training checkpoint ({reason})"
        ) from error
    if not isinstance(data, dict) or "optimizer" not in data or "model" not in data:
        raise UserError(
            f"{path} holds no optimiser, so it cannot be resumed from; start from its weights "
            "with --checkpoint"
        )
    if "schema" not in data:
        return _from_upstream(data, path)
    schema = data.pop("schema")
    if "updates" not in data:  # then the others of its training are not known
        data.pop("left_out", None)
    if isinstance(schema, int) and schema > STATE_SCHEMA:
        raise UserError(
            f"{path} was written by a newer version of sparsevit-plugin: upgrade to resume it"
        )
    return _checked(data, path)


def _checked(data: dict[Any, Any], path: Path) -> TrainingState:
    """Return the state that a file holds, once its parts are what they must be."""
    for name, value in data.items():
        kind = _KINDS.get(name)
        if kind is None or not isinstance(value, kind) or (kind is int and value < 0):
            raise UserError(f"{path} cannot be resumed from: it is damaged ({name!r} is wrong)")
    return TrainingState(**data)


def _from_upstream(data: dict[str, Any], path: Path) -> TrainingState:
    epoch = data.get("epoch", -1)
    content = {
        "model": data["model"],
        "optimizer": data["optimizer"],
        "scaler": data.get("scaler") or {},
        "epoch": epoch + 1 if isinstance(epoch, int) else epoch,
    }
    return _checked(content, path)
