"""What a cell is, as a key: equal keys on equal data give equal results, so none is run twice.

A key is a hash over what makes the results beside the data: the model and its arguments, the
recipe's values, the weights files' contents, how it is computed, and the versions below. It is not
over the commit: most changes of the code leave results as they are. The data's fingerprints stand
beside the key, because they may be compared in two ways (see `plan.same_data`).
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import torch

from sparsevit_plugin.files import sha256_file
from sparsevit_plugin.harness import augment
from sparsevit_plugin.harness.config import Config
from sparsevit_plugin.harness.pipeline import named_weights
from sparsevit_plugin.harness.tiling import tile_facts

COMPONENTS: Final = {
    "training": 1,  # loop, sampling, schedule, augmentation, hold-out
    "data": 2,  # decoding, fitting, edge masks, perturbations
    "models": 1,  # SparseViT and the mended baselines
    "evaluation": 1,  # evaluators and the scoring of maps
}
"""Raise the number of a component whose results change; its cells are then run again."""

_DIGITS: Final = 16
# What enters in another form: data by its fingerprint, weights by their hash, precision and devices
# by what they come to, augmentation by its list.
_OTHERWISE: Final = frozenset(
    {
        *("model", "data_path", "test_data_path", "checkpoint", "perturbation"),
        *("pretrained_sha256", "precision", "devices", "augmentation", "test_batch_size"),
    }
)
_SEED: Final = "seed"
_OF_TESTING: Final = (
    "image_size",
    "fit",
    "edge_mask_width",
    "if_predict_label",
    "no_model_eval",
    "evaluators",
    "limit_images",
    "pair",
    "on_bad_image",
    "compile",
    "seed",
)
_OF_DETECTION: Final = ("task", "image_head")


def digest(content: object) -> str:
    """Return 16 hexadecimal digits over anything that JSON can hold."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]


def backend(cfg: Config) -> dict[str, str]:
    """Return the kind of device that a run will compute on, and its precision.

    The device itself is not part of it: results are meant to be the same on any of its kind.
    """
    kind = cfg.device.partition(":")[0]
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() else "cpu"
    precision = cfg.precision
    if precision == "auto":
        precision = "16-mixed" if kind == "cuda" else "32"
    return {"backend": kind, "precision": precision}


def training_content(cfg: Config, processes: int, draw: int | None = None) -> dict[str, Any]:
    """Return what makes a training's result beside its data, as JSON can hold it.

    Args:
        cfg: The configuration of the verb `train`.
        processes: Processes that train together: they multiply the effective batch.
        draw: Images drawn from each set per epoch, None where every image is used once.
    """
    if cfg.select == "last":  # nothing is judged, so how it would be does not matter
        cfg = replace(cfg, evaluators="exact")
    return {
        "components": COMPONENTS,
        "model": cfg.registered,
        "options": _options(cfg, list(cfg.options())),
        "augmentation": augment.describe(cfg.augmentation)["transforms"],
        "arguments": _arguments(cfg),
        "processes": processes,
        "draw": draw,
        **backend(cfg),
    }


def without_seed(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the same for every seed: what tells the rows of a table apart."""
    options = {name: value for name, value in content["options"].items() if name != _SEED}
    return {**content, "options": options}


def without_device(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the same for every kind of device; the precision stays."""
    return {name: value for name, value in content.items() if name != "backend"}


def testing_content(cfg: Config, weights: str) -> dict[str, Any]:
    """Return what makes the rows of a row beside data and perturbation, as JSON can hold it.

    Args:
        cfg: The configuration of the verb `test`.
        weights: Identity of the training, or hash of the checkpoint; empty without weights.
    """
    versions = {name: COMPONENTS[name] for name in ("data", "models", "evaluation")}
    return {
        "components": versions,
        "model": cfg.registered,
        "options": {**_options(cfg, [*_OF_TESTING, *_OF_DETECTION]), **tile_facts(cfg)},
        "arguments": _arguments(cfg),
        "weights": weights,
        **backend(cfg),
    }


def _options(cfg: Config, names: list[str]) -> dict[str, Any]:
    of_results = cfg.result_options()
    chosen = {
        name: of_results[name] for name in names if name in of_results and name not in _OTHERWISE
    }
    if cfg.no_model_eval:  # BatchNorm's statistics make results depend on the batch
        chosen["test_batch_size"] = cfg.test_batch_size
    plain: dict[str, Any] = json.loads(json.dumps(chosen, default=str))
    return plain


def _arguments(cfg: Config) -> dict[str, Any]:
    """Return the constructor's arguments, files of weights as the hash of their contents."""
    files = {name: sha256_file(path) for name, path in named_weights(cfg).items()}
    plain = cfg.to_dict()
    return {**plain["constructor_defaults"], **plain["model_arguments"], **files}
