"""What the model of a configuration costs: it is built, called as in a test, and counted.

What is counted, and how, is in `sparsevit_plugin.complexity`; here are the model's own input and
the folder of earlier counts.
"""

import contextlib
import functools
import hashlib
import inspect
import io
import json
import tempfile
from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from PIL import Image

from sparsevit_plugin.cards import load_model_card
from sparsevit_plugin.complexity import TORCH_COUNTER, Complexity, count
from sparsevit_plugin.files import file_name, parse_json, write_json_atomic
from sparsevit_plugin.harness.config import Config
from sparsevit_plugin.harness.datasets import collate
from sparsevit_plugin.harness.evaluate import model_inputs, refuse_bad
from sparsevit_plugin.harness.pipeline import build_model, make_dataset
from sparsevit_plugin.harness.sources import ImageSet, Sample, Source
from sparsevit_plugin.versions import DISTRIBUTION, installed_version

COUNT_VERSION: Final = 2
"""Raised when the same model would be counted differently: cached counts are then made again."""

_COUNTED_BY: Final = ("torch", "timm", "fvcore", "IMDLBenCo", DISTRIBUTION)

TRAINING_BATCH: Final = 2
"""Photographs in the training pass: some models cannot normalise over a batch of one."""


def count_config(cfg: Config, counter: str = TORCH_COUNTER) -> Complexity:
    """Build a configuration's model and count it on one photograph of the model's size.

    Args:
        cfg: The configuration of a training or a test.
        counter: A key of `complexity.counting.COUNTERS`.

    Raises:
        UserError: The model cannot be built, or a photograph cannot be brought to its input.
    """
    # Some constructors of IMDLBenCo print a line per layer.
    with torch.random.fork_rng(devices=[]), contextlib.redirect_stdout(io.StringIO()):
        model = build_model(cfg)
        training_inputs = example_inputs(cfg, batch=TRAINING_BATCH)
        return count(model, example_inputs(cfg), counter, training_inputs=training_inputs)


def cached_count(
    cfg: Config, folder: str | PathLike[str], counter: str = TORCH_COUNTER
) -> Complexity:
    """Return what `count_config` does, from a folder of earlier counts where it is there.

    A count is found again by what makes it: the registered model and the Python files beside that
    of its class, its arguments without weights files, how its input is made, and the versions of
    the libraries that build, call and count it and of this package. A damaged file is made again. A
    model whose forward pass fails is not kept.

    Args:
        cfg: The configuration of a training or a test.
        folder: Holds one JSON file per count; made when the first is written.
        counter: As of `count_config`.

    Raises:
        UserError: As `count_config`; or the folder cannot be written.
    """
    content = _content(cfg, counter)
    text = json.dumps(content, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    file = Path(folder) / f"{file_name(cfg.model)}-{cfg.image_size}-{digest}.json"
    found = _read_cached(file)
    if found is None:
        found = count_config(cfg, counter)
        if found.macs is not None:
            write_json_atomic(file, {"complexity": found.to_dict(), "of": content})
    return found


def example_inputs(cfg: Config, source: Source | None = None, *, batch: int = 1) -> dict[str, Any]:
    """Make a batch as a model gets it in a test, on the CPU.

    Args:
        cfg: How images are brought to the model.
        source: Where the photograph comes from; None for a synthetic JPEG of the model's size.
        batch: How often the photograph is in it.

    Returns:
        Keyword arguments of the model.

    Raises:
        UserError: The photograph cannot be used.
    """
    if source is not None:
        return _first_item(cfg, source, batch)
    with tempfile.TemporaryDirectory() as folder:
        return _first_item(cfg, _synthetic_set(Path(folder), cfg.image_size), batch)


def _first_item(cfg: Config, source: Source, batch: int) -> dict[str, Any]:
    dataset = make_dataset(cfg, source, training=False)
    items = collate([dataset[0] for _ in range(batch)])
    refuse_bad(items["bad"], skip=False)
    inputs = model_inputs(items, torch.device("cpu"))
    return {**inputs, "if_predcit_label": cfg.if_predict_label}  # upstream's spelling


def _synthetic_set(folder: Path, side: int) -> ImageSet:
    """Write a photograph and its mask: some models read the file itself, so there must be one."""
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    mask = np.zeros((side, side), np.uint8)
    mask[: (side + 1) // 2] = 255
    image_file, mask_file = folder / "photo.jpg", folder / "photo.png"
    Image.fromarray(pixels).save(image_file)
    Image.fromarray(mask).save(mask_file)
    sample = Sample(image_file, mask_file, image_file.name)
    return ImageSet("synthetic", "JsonDataset", folder, (sample,), pairing="as written")


# --- the cache -----------------------------------------------------------------------------------


def _content(cfg: Config, counter: str = TORCH_COUNTER) -> dict[str, Any]:
    """Return all that a count depends on, as JSON can hold it."""
    card = load_model_card(cfg.model)
    weights = card.weight_arguments if card else ()
    plain = cfg.to_dict()
    call = {**plain["constructor_defaults"], **plain["model_arguments"]}
    return {
        "count_version": COUNT_VERSION,
        "counter": counter,
        "model": cfg.model,
        "registered": cfg.registered,
        "sources": sources_hash(cfg.model_class),
        "arguments": {name: value for name, value in call.items() if name not in weights},
        "image_size": cfg.image_size,
        "fit": cfg.fit,
        "edge_mask_width": cfg.edge_mask_width,
        "if_predict_label": cfg.if_predict_label,
        "post_function": card.post_function if card else None,
        "versions": {name: installed_version(name) for name in _COUNTED_BY},
    }


def sources_hash(constructor: Callable[..., Any]) -> str:
    """Hash the Python files beside that of a model's class; empty where there is none to read."""
    while isinstance(constructor, functools.partial):
        constructor = constructor.func
    try:
        file = inspect.getsourcefile(constructor)
    except TypeError:  # built in
        file = None
    if file is None:
        return ""
    digest = hashlib.sha256()
    for path in sorted(Path(file).parent.glob("[!.]*.py")):
        with contextlib.suppress(OSError):  # a folder or a dangling link is not what is run
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def _read_cached(file: Path) -> Complexity | None:
    try:
        return Complexity(**parse_json(file.read_text(encoding="utf-8"))["complexity"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
