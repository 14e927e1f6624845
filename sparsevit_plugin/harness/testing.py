"""Testing ready checkpoints: from files to stored rows."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric

from sparsevit_plugin.backends.from_config import backend_facts, fabric_for, predictor_for
from sparsevit_plugin.errors import UserError
from sparsevit_plugin.files import prove_writable, sha256_file
from sparsevit_plugin.harness.config import Config
from sparsevit_plugin.harness.pipeline import (
    ModelUnderTest,
    SetEvaluator,
    build_model,
    load_checkpoint,
    named_weights,
    read_test_sets,
)
from sparsevit_plugin.hub.config import WEIGHTS
from sparsevit_plugin.hub.remote import fetched_weights, repository_of
from sparsevit_plugin.model.weights import read_checkpoint, recorded_json
from sparsevit_plugin.results.store import Store

UPSTREAM_CHECKPOINT = re.compile(r"checkpoint-(\d+)\.pth")


def checkpoint_files(checkpoint: str) -> list[Path]:
    """Return the checkpoint files that `--checkpoint` means.

    A file is itself, whatever its name. A folder of one of our runs is its `best.safetensors`, a
    model folder its `model.safetensors`. A folder with upstream's `checkpoint-N.pth` is all of them
    in the order of N, as upstream's test.py has it. `OWNER/NAME` that is no path is a repository of
    the Hugging Face Hub. Without `--checkpoint` the list is empty: a trivial baseline needs none.

    Raises:
        UserError: If there is no such file, the folder holds no checkpoint, or the repository
            cannot be fetched.
    """
    if not checkpoint:
        return []
    repository = repository_of(checkpoint)
    if repository is not None:
        return [fetched_weights(*repository)]
    path = Path(checkpoint)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UserError(f"--checkpoint {path}: no such file or folder")
    for name in ("best.safetensors", "last.safetensors", WEIGHTS):
        if (path / name).is_file():
            return [path / name]
    numbered = [
        (match, file)
        for file in path.iterdir()
        if (match := UPSTREAM_CHECKPOINT.fullmatch(file.name))
    ]
    if not numbered:
        raise UserError(
            f"--checkpoint {path}: the folder holds neither best.safetensors nor {WEIGHTS} nor "
            "checkpoint-N.pth; name the file"
        )
    return [file for _, file in sorted(numbered, key=lambda pair: int(pair[0][1]))]


def checkpoint_file(checkpoint: str) -> Path:
    """Return the one weights file that `--checkpoint` means.

    Raises:
        UserError: There is none, or several.
    """
    files = checkpoint_files(checkpoint)
    if len(files) != 1:
        found = f"holds {len(files)} of them" if files else "none is named"
        raise UserError(f"--checkpoint {checkpoint}: {found}: give the path of one weights file")
    return files[0]


def recorded_settings(checkpoint: str) -> dict[str, dict[str, Any]]:
    """Return what a checkpoint of ours says of how its model was built and fed; empty for others.

    Args:
        checkpoint: The value of `--checkpoint`.
    """
    files = checkpoint_files(checkpoint)
    if not files:
        return {}
    metadata = read_checkpoint(files[0]).metadata
    record: dict[str, dict[str, Any]] = {
        key: recorded_json(metadata, key, f"--checkpoint {files[0]}") or {}
        for key in ("options", "model_arguments")
        if key in metadata
    }
    if metadata.get("model"):
        record["options"] = {"model": metadata["model"], **record.get("options", {})}
    return record


def without_pretraining(cfg: Config) -> Config:
    """Drop pretraining files from the constructor arguments: a checkpoint supersedes them."""
    superseded = named_weights(cfg)
    kept = {name: value for name, value in cfg.model_arguments.items() if name not in superseded}
    return replace(cfg, model_arguments=kept)


def evaluate_checkpoints(cfg: Config) -> None:
    """Test every checkpoint on every set and store the rows.

    Raises:
        UserError: If a set or a checkpoint cannot be used.
    """
    sets = read_test_sets(cfg)
    checkpoints = checkpoint_files(cfg.checkpoint)
    fabric = fabric_for(cfg)
    if fabric.is_global_zero:
        prove_writable(Path(cfg.output_dir), "--output-dir")
    fabric.barrier()
    store = Store(Path(cfg.output_dir) / "results")
    chosen: list[Path | None] = [*checkpoints] or [None]
    for path in chosen:
        _test_one(cfg, fabric, store, sets, path)


def _test_one(
    cfg: Config, fabric: Fabric, store: Store, sets: dict[str, Any], path: Path | None
) -> None:
    if path is None:
        model = build_model(cfg)
        if any(True for _ in model.parameters()):
            raise UserError(f"{cfg.model} has weights: name them with --checkpoint FILE")
        tested = ModelUnderTest(cfg.name, selection="none", facts={"pretraining": "none needed"})
    else:
        metadata = read_checkpoint(path).metadata
        cfg = without_pretraining(cfg)
        model = build_model(cfg)
        tested = ModelUnderTest(
            cfg.name,
            checkpoint={**load_checkpoint(model, path), "sha256": sha256_file(path)},
            selection=metadata.get("selection", "unknown"),
            facts=checkpoint_facts(metadata),
        )
    tested.computed = backend_facts(cfg)
    predictor = predictor_for(cfg, model, path, fabric.device)
    SetEvaluator(cfg, fabric, store).evaluate(predictor, tested, sets, fresh=cfg.overwrite)


def checkpoint_facts(metadata: dict[str, str]) -> dict[str, Any]:
    """Say what is known of a checkpoint's training; what its file does not say is unknown."""
    known = {key: metadata.get(key, "unknown") for key in ("recipe", "effective_batch")}
    learnt = recorded_json(metadata, "detection")
    detection = learnt if isinstance(learnt, dict) else {}
    pretraining = recorded_json(metadata, "pretraining") or "unknown"
    return {**known, **detection, **updates_of(metadata), "pretraining": pretraining}


def updates_of(metadata: dict[str, str]) -> dict[str, int]:
    """Return the updates that led to a checkpoint and how many were left out, where it says so."""
    names = ("updates", "updates_left_out")
    return {name: int(metadata[name]) for name in names if metadata.get(name, "").isdecimal()}
