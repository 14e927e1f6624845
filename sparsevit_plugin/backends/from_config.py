"""From a configuration to a predictor: what `benco test` and the verbs like it compute with."""

import hashlib
from dataclasses import replace
from os import PathLike
from typing import Any, Final

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import nn

from sparsevit_plugin.backends.calibration import Calibration
from sparsevit_plugin.backends.choices import (
    INT8,
    INT8_PRESET,
    OPENVINO,
    TORCH,
    Choice,
    require,
    settle,
)
from sparsevit_plugin.backends.openvino import rest_precision
from sparsevit_plugin.backends.predictor import prepare
from sparsevit_plugin.backends.torch import BF16
from sparsevit_plugin.errors import UserError
from sparsevit_plugin.harness.config import Config
from sparsevit_plugin.harness.datasets import collate
from sparsevit_plugin.harness.devices import PRECISIONS, format_of, make_fabric
from sparsevit_plugin.harness.evaluate import model_inputs, refuse_bad
from sparsevit_plugin.harness.pipeline import make_dataset, read_sets
from sparsevit_plugin.harness.sources import ImageSet, each_once, fingerprint

_SEED: Final = 0
"""Of the choice of photographs for calibration."""


def choice_of(cfg: Config) -> Choice:
    """Return the backend and the precision that a test computes with.

    Raises:
        UserError: There is no such combination.
    """
    return settle(cfg.backend, cfg.precision, device_of(cfg))


def fabric_for(cfg: Config, purpose: str = "inference") -> Fabric:
    """Return a launched Fabric for a test: on the CPU, in single precision, for other backends.

    Args:
        cfg: Of a test.
        purpose: What the processor's kernels are chosen for: `inference` or `training`.

    Raises:
        UserError: The device is not there.
    """
    backend, precision = choice_of(cfg)
    return make_fabric(
        device_of(cfg),
        precision if precision in PRECISIONS else "32",
        matmul=matmul_of(cfg, purpose),
        purpose=purpose,
        # Of another backend PyTorch computes next to nothing, and no probe is worth its time.
        number_format=format_of(precision) if backend == TORCH else "fp32",
    )


def matmul_of(cfg: Config, purpose: str) -> str:
    """Return `--matmul` as far as it has a part.

    What is compiled, or bfloat16 from end to end, is computed by oneDNN whatever was asked for, see
    `backends.torch`.
    """
    backend, precision = choice_of(cfg)
    is_fixed = backend == TORCH and purpose == "inference" and (cfg.compile or precision == BF16)
    return "onednn" if is_fixed else cfg.matmul


def device_of(cfg: Config) -> str:
    """Return the device that a test computes on: `auto` is a GPU for PyTorch alone."""
    if cfg.device == "auto":
        gpu = cfg.backend == TORCH and torch.cuda.is_available()
        return "cuda" if gpu else "cpu"
    return cfg.device


def predictor_for(
    cfg: Config,
    model: nn.Module,
    checkpoint: str | PathLike[str] | None,
    device: torch.device | str = "cpu",
) -> nn.Module:
    """Return a model as the configuration computes it.

    Args:
        cfg: Of a test.
        model: With its weights.
        checkpoint: The file of the weights; None without one.
        device: Where PyTorch computes.

    Returns:
        What `prepare` returns; with `--no-model-eval` the model itself, on the device.

    Raises:
        UserError: As `prepare`; or the photographs of calibration cannot be used.
    """
    if cfg.no_model_eval:
        if choice_of(cfg).backend != TORCH or choice_of(cfg).precision not in PRECISIONS:
            raise UserError("--no-model-eval needs --backend torch in 32 or a mixed precision")
        return model.to(device)
    backend, precision = choice_of(cfg)
    require(backend)
    return prepare(
        model,
        backend=backend,
        precision=precision,
        device=device,
        checkpoint=checkpoint,
        calibration=calibration_of(cfg) if precision == INT8 else None,
        compiled=cfg.compile,
    )


def backend_facts(cfg: Config) -> dict[str, Any]:
    """Return what a manifest says, beside the precision, of how maps were computed.

    PyTorch adds nothing: what was stored before there were backends stays known by its identity.
    """
    backend, precision = choice_of(cfg)
    if backend == TORCH:
        return {}
    facts: dict[str, Any] = {"backend": backend}
    if backend == OPENVINO:
        require(backend)
        facts["floats"] = rest_precision(precision)
    if precision == INT8:
        facts["calibration"] = calibration_facts(cfg, calibration_sets(cfg))
    return facts


def calibration_of(cfg: Config) -> Calibration:
    """Read the photographs that int8 is calibrated on, fitted as those of the test.

    They are drawn evenly at random, always the same ones of the same sets.

    Raises:
        UserError: There are none, or one is bad.
    """
    sets = calibration_sets(cfg)
    plain = replace(cfg, perturbation="none")
    batches = []
    for source, index in _drawn(sets, cfg.calibration_images):
        item = make_dataset(plain, source, training=False)[index]
        batch = collate([item])
        refuse_bad(batch["bad"], skip=False)
        batches.append(model_inputs(batch, torch.device("cpu")))
    return Calibration(tuple(batches), calibration_facts(cfg, sets))


def calibration_sets(cfg: Config) -> dict[str, ImageSet]:
    """Read `--calibration-data`.

    Raises:
        UserError: It is missing or names no set.
    """
    if not cfg.calibration_data:
        raise UserError("--precision int8 needs --calibration-data PATH: training photographs")
    what = "--calibration-data"
    sets = read_sets(cfg, cfg.calibration_data, what=what, side="train")
    return {name: each_once(source) for name, source in sets.items()}


def calibration_facts(cfg: Config, sets: dict[str, ImageSet]) -> dict[str, Any]:
    """Say what int8 is calibrated on: how many photographs, and the fingerprint of their sets."""
    total = sum(map(len, sets.values()))
    digest = hashlib.sha256("\n".join(map(fingerprint, sets.values())).encode())
    return {
        "preset": INT8_PRESET,
        "sets": list(sets),
        "images": min(cfg.calibration_images, total),
        "fingerprint": digest.hexdigest()[:16],
    }


def _drawn(sets: dict[str, ImageSet], count: int) -> list[tuple[ImageSet, int]]:
    """Draw photographs from all sets together, without repetition."""
    places = [(source, index) for source in sets.values() for index in range(len(source))]
    chosen = np.random.default_rng(_SEED).permutation(len(places))[:count]
    return [places[int(place)] for place in chosen]
