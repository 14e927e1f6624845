"""What training and testing share: from a configuration to a model, to sets, and to stored rows."""

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import nn
from torch.utils.data import Dataset

from sparsevit_plugin.backends.choices import TORCH, settle
from sparsevit_plugin.cards import ModelCard, load_model_card
from sparsevit_plugin.errors import UserError
from sparsevit_plugin.files import sha256_file
from sparsevit_plugin.harness.augment import build_transform, transform_names
from sparsevit_plugin.harness.config import Config
from sparsevit_plugin.harness.data_paths import Side, read_data_path
from sparsevit_plugin.harness.datasets import Fit, Reader, build_dataset, read_sample
from sparsevit_plugin.harness.detection import (
    as_detector,
    detection_facts,
    detection_of,
    pooling_name,
)
from sparsevit_plugin.harness.evaluate import EvaluationSettings, SetResult, evaluate_set
from sparsevit_plugin.harness.manifest import run_facts
from sparsevit_plugin.harness.metrics import image_metrics
from sparsevit_plugin.harness.perturb import build_perturbation
from sparsevit_plugin.harness.post_functions import additions
from sparsevit_plugin.harness.sources import (
    BalancedSet,
    Source,
    each_once,
    fingerprint,
    fingerprints,
)
from sparsevit_plugin.harness.tiling import tile_facts, tiled
from sparsevit_plugin.model.weights import load_into
from sparsevit_plugin.results.store import Store, new_manifest_id

INPUT_OPTIONS = ("image_size", "fit", "edge_mask_width")
"""The options that shape what a model is fed."""

WEIGHTS_NAME = re.compile(r"pretrain\w*(path|weight)")


def build_model(cfg: Config) -> nn.Module:
    """Build the registered model; its random weights are drawn from the seed.

    With `--task detection` it answers with image scores too.

    Raises:
        UserError: If the constructor fails, e.g. for want of a weights file.
    """
    torch.manual_seed(cfg.seed)
    check_weight_files(cfg)
    try:
        model: nn.Module = cfg.model_class(**cfg.model_arguments)
    except UserError:
        raise
    except (
        OSError,
        RuntimeError,
        TypeError,
        ValueError,
        KeyError,
        ImportError,
        AttributeError,
    ) as error:
        reason = str(error).splitlines()[0] if str(error) else "no message"
        raise UserError(
            f"{cfg.model} cannot be built from {cfg.model_arguments}: {type(error).__name__}: "
            f'{reason}; try "benco models --probe {cfg.model}"'
        ) from error
    detection = detection_of(cfg)
    return model if detection is None else as_detector(model, detection)


def check_weight_files(cfg: Config) -> None:
    """Refuse weights files that were named and are missing or have the wrong hash.

    Raises:
        UserError: For the first such file.
    """
    named = named_weights(cfg)
    if cfg.pretrained_sha256 and not named:
        raise UserError("--pretrained-sha256 was given, but no weights file: add --pretrained-path")
    for argument, path in named.items():
        if not path.is_file():
            raise UserError(f"--{argument.replace('_', '-')} {path}: no such weights file")
        wanted = cfg.pretrained_sha256 or _hash_on_card(cfg, argument, path)
        if wanted and sha256_file(path) != wanted.lower():
            raise UserError(
                f"{path}: its SHA-256 is {sha256_file(path)}, not {wanted}; fetch it again or "
                "correct --pretrained-sha256"
            )


def named_weights(cfg: Config) -> dict[str, Path]:
    """Return the pretraining files among the constructor arguments.

    An argument means one when the model's card says so or its name does, as in `pretrained_path`,
    `seg_pretrain_path` or `np_pretrain_weights`.
    """
    card = load_model_card(cfg.model)
    on_card = {weight.argument for weight in card.weights} if card else set()
    return {
        name: Path(value)
        for name, value in sorted(cfg.model_arguments.items())
        if isinstance(value, str) and value and (name in on_card or WEIGHTS_NAME.search(name))
    }


def _hash_on_card(cfg: Config, argument: str, path: Path) -> str | None:
    card = load_model_card(cfg.model)
    for weight in card.weights if card else []:
        if weight.argument == argument and weight.name == path.name:
            return weight.sha256
    return None


def describe_for_testing(cfg: Config) -> dict[str, str]:
    """Say how the model was built and fed: metadata of a weights file, for testing it so.

    The pretraining files are left out: the checkpoint supersedes them.
    """
    plain = cfg.to_dict()
    arguments = {**plain["constructor_defaults"], **plain["model_arguments"]}
    superseded = named_weights(cfg)
    return {
        "model": cfg.model,
        "model_arguments": json.dumps({k: v for k, v in arguments.items() if k not in superseded}),
        "options": json.dumps(
            {**{name: plain["options"][name] for name in INPUT_OPTIONS}, **detection_facts(cfg)}
        ),
    }


def pretraining_facts(cfg: Config, model: nn.Module) -> dict[str, Any]:
    """Say which pretraining weights a model started from, for manifests and table footnotes."""
    files = {
        name: {"file": path.name, "sha256": sha256_file(path)}
        for name, path in named_weights(cfg).items()
    }
    facts: dict[str, Any] = {
        "pretraining": files or _without_files(load_model_card(cfg.model), model)
    }
    report = getattr(model, "load_report", None)
    if report is not None:
        facts["pretraining_report"] = report.to_dict()
    return facts


def _without_files(card: ModelCard | None, model: nn.Module) -> str:
    if not any(True for _ in model.parameters()):
        return "none needed"
    return "none (random weights)" if card else "unknown (the model has no card)"


def read_sets(cfg: Config, path: str, *, what: str, side: Side) -> dict[str, Source]:
    """Read a data path into its named sets.

    Args:
        cfg: For the pairing rule and the roots of registered sets.
        path: What `data_paths` reads.
        what: The flag, for the message.
        side: Which sets of a protocol are meant.

    Raises:
        UserError: If the path is empty, or holds no set.
    """
    if not path:
        raise UserError(f"{what} is missing: give a folder with Tp/ and Gt/, or a JSON list")
    return read_data_path(cfg, path, side)


def read_test_sets(cfg: Config) -> dict[str, Source]:
    """Read `--test-data-path`; of a balanced list every image is tested once."""
    sets = read_sets(cfg, cfg.test_data_path, what="--test-data-path", side="test")
    return {name: each_once(source) for name, source in sets.items()}


def make_dataset(
    cfg: Config, source: Source, *, training: bool, reader: Reader = read_sample
) -> Dataset:
    """Build IMDLBenCo's dataset for a source, with the recipe's augmentation when training.

    On the JPEG grid there is no augmentation, see `left_out_transforms`.
    """
    if not training:
        transform = build_perturbation(cfg.perturbation)
    else:
        transform = None if cfg.fit == "grid" else build_transform(cfg.augmentation)
    added = additions(cfg)
    return build_dataset(
        source,
        fit=cast(Fit, cfg.fit),
        image_size=cfg.image_size,
        transform=transform,
        edge_width=cfg.edge_mask_width,
        post_function=added.post_function,
        origin_function=added.origin_function,
        random_crop=training,
        seed=cfg.seed,
        native_mask=not training and cfg.evaluators == "exact",
        reader=reader,
    )


def left_out_transforms(cfg: Config) -> list[str]:
    """Name the transforms of the augmentation that training leaves out.

    On the JPEG grid these are all: scaling, turning and flipping move the blocks, the others change
    pixels whose DCT coefficients stay as they are in the file.
    """
    return transform_names(cfg.augmentation) if cfg.fit == "grid" else []


def evaluation_settings(cfg: Config) -> EvaluationSettings:
    """Pick the evaluation's settings out of a configuration."""
    return EvaluationSettings(
        # On the grid photographs keep their sizes, and those of different size make no batch.
        batch_size=1 if cfg.fit == "grid" else cfg.test_batch_size,
        num_workers=cfg.num_workers,
        evaluators=cfg.evaluators,
        model_eval=not cfg.no_model_eval,
        skip_bad=cfg.on_bad_image == "skip",
        predict_label=cfg.if_predict_label,
        score_name=pooling_name(cfg),
    )


@dataclass
class ModelUnderTest:
    """The model of a result row: its name, where its weights come from, and how they were chosen.

    Attributes:
        name: Shown in tables.
        checkpoint: `{"file", "sha256", "epoch"}`, or empty for a model without weights.
        selection: How the checkpoint was chosen: `val`, `last`, `test`, `unknown` or `none`.
        facts: More for the manifest: pretraining, recipe, training data.
        run: Tells weights apart that are not in a checkpoint yet: the hash of their training's
            configuration.
        computed: What computed the maps, where it was not PyTorch alone: `backend` and what its
            results depend on.
        identity: What names the manifest, where the caller settles that; empty for a hash over what
            was tested and how.
    """

    name: str
    checkpoint: dict[str, Any] = field(default_factory=dict)
    selection: str = "unknown"
    facts: dict[str, Any] = field(default_factory=dict)
    run: str = ""
    computed: dict[str, Any] = field(default_factory=dict)
    identity: str = ""


class SetEvaluator:
    """Evaluates sets and stores their rows.

    A set that is in the store under the same manifest is not evaluated again.

    Args:
        cfg: The configuration.
        fabric: The launched Fabric.
        store: Where rows go.
    """

    def __init__(self, cfg: Config, fabric: Fabric, store: Store) -> None:
        self.cfg = cfg
        self.fabric = fabric
        self.store = store
        self.settings = evaluation_settings(cfg)

    def manifest(self, tested: ModelUnderTest) -> dict[str, Any]:
        """Return what was run, and the identity that the rows carry."""
        cfg = self.cfg
        identity = {
            "model": tested.name,
            "registered_model": cfg.registered,
            "model_arguments": cfg.model_arguments,
            "checkpoint_sha256": tested.checkpoint.get("sha256"),
            "run": tested.run,
            "evaluators": cfg.evaluators,
            "fit": cfg.fit,
            "image_size": cfg.image_size,
            "precision": cfg.precision,
            "model_eval": not cfg.no_model_eval,
            "seed": cfg.seed,
            **tile_facts(cfg),
            **detection_facts(cfg),
            **tested.computed,
        }
        return {
            "backend": TORCH,
            "number_format": settle(cfg.backend, cfg.precision, self.fabric.device.type).precision,
            **identity,
            "manifest_id": tested.identity or new_manifest_id(identity),
            "checkpoint": tested.checkpoint,
            "selection": tested.selection,
            "threshold": 0.5,
            "config": cfg.to_dict(),
            **run_facts(self.fabric.device, cfg.precision, self.fabric.world_size, cfg.backend),
            **tested.facts,
        }

    def evaluate(
        self,
        model: nn.Module,
        tested: ModelUnderTest,
        sets: dict[str, Source],
        *,
        fresh: bool = False,
        facts: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        """Evaluate every set that is not in the store yet, and store its rows.

        Args:
            model: The model with its weights.
            tested: What it is.
            sets: Test sets by name.
            fresh: Evaluate again what the store holds already.
            facts: More to be kept with the cell of each set, by its name.
        """
        manifest = self.manifest(tested)
        model = tiled(self.cfg, model)
        for name, source in sets.items():
            if not fresh and self._is_stored(manifest, name, fingerprint(source)):
                self.say(f"{tested.name} on {name}: in the store already, not evaluated again")
                continue
            dataset = make_dataset(self.cfg, source, training=False)
            label = f"test {tested.name} on {name}"
            result = evaluate_set(self.fabric, model, dataset, self.settings, label=label)
            epoch = tested.checkpoint.get("epoch")
            more = (facts or {}).get(name, {})
            self.write(manifest, name, source, result, epoch=epoch, facts=more)

    def write(
        self,
        manifest: dict[str, Any],
        name: str,
        source: Source,
        result: SetResult,
        *,
        epoch: int | None,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        """Store one set's rows, on the main process."""
        if not self.fabric.is_global_zero:
            return
        photos = {sample.name: list(sample.photos) for sample in samples_of(source)}
        common = {
            "manifest_id": manifest["manifest_id"],
            "model": manifest["model"],
            "checkpoint": (manifest["checkpoint"].get("sha256") or "")[:12],
            "dataset": name,
            "epoch": epoch,
        }
        rows = (
            {**common, **row, "photos": photos.get(row["sample_name"], [])} for row in result.rows
        )
        histograms = ({**common, **row} for row in result.histograms)
        of_set = {
            "path": str(source.path),
            **fingerprints(source),
            "images": len(samples_of(source)),
            "pairing": getattr(source, "pairing", "name"),
            "skipped": [{"name": bad.name, "reason": bad.reason} for bad in result.bad],
            "input_notes": dict(result.notes),
        }
        for note, count in result.notes.items():
            self.say(f"{name}: {count} of {len(samples_of(source))} photographs: {note}")
        for bad in result.bad:
            self.say(f"{name}: skipped {bad.path}: {bad.reason}")
        perturbation = self.cfg.perturbation
        kept = {**of_set, **(facts or {})}
        self.store.write(manifest, name, rows, histograms, kept, perturbation=perturbation)

    def _is_stored(self, manifest: dict[str, Any], name: str, wanted: str) -> bool:
        perturbation = self.cfg.perturbation
        stored = self.store.has(manifest["manifest_id"], name, wanted, perturbation=perturbation)
        return self.fabric.broadcast(stored)

    def say(self, line: str) -> None:
        """Print one line on the main process."""
        if self.fabric.is_global_zero:
            print(line, flush=True)


def samples_of(source: Source) -> list[Any]:
    """Return all samples of a set, those of its parts for a balanced one."""
    if isinstance(source, BalancedSet):
        return [sample for part in source.parts for sample in part.samples]
    return list(source.samples)


def load_checkpoint(model: nn.Module, path: Path) -> dict[str, Any]:
    """Load weights into a model and describe the file for the manifest."""
    report = load_into(model, path)
    return {"file": path.name, "sha256": sha256_file(path), "load": report.to_dict()}


def mean_f1(rows: Iterable[Mapping[str, Any]]) -> tuple[float, int]:
    """Return the mean pixel F1 at 0.5 over tampered images at the model's size, and their count."""
    of_model = (row for row in rows if row["score_at"] == "model" and row["tampered_pixels"] > 0)
    defined = [row["f1"] for row in of_model if not math.isnan(row["f1"])]
    return (float(np.mean(defined)) if defined else math.nan), len(defined)


def image_auc(rows: Iterable[Mapping[str, Any]]) -> float:
    """Return the area under the ROC curve of image scores; NaN with one class."""
    pairs = [(row["label"], row["score"]) for row in rows if row["score_at"] == "model"]
    labels, scores = (np.array(values) for values in zip(*pairs, strict=True))
    return image_metrics(labels.astype(np.int64), scores.astype(np.float64)).auc
