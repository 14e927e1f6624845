"""What is known of a checkpoint: its header, its run, and the rows that tests stored of it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from sparsevit_plugin.errors import UserError
from sparsevit_plugin.files import parse_json, sha256_file
from sparsevit_plugin.hub.config import HubConfig
from sparsevit_plugin.results.conventions import METRICS, UNPERTURBED
from sparsevit_plugin.results.statistics import base_photographs
from sparsevit_plugin.results.store import Results, holds_results
from sparsevit_plugin.results.store import load as load_results

SHOWN: Final = ("pixel_f1", "pixel_iou", "pixel_auc", "authentic_fp_area")
"""The metrics of a model card."""

_RUN: Final = "run.json"
_LISTS: Final = frozenset({".json"})


@dataclass(frozen=True)
class Figure:
    """A mean over the images of a set.

    Attributes:
        row: What was tested, where there are several; by the label of a table's row.
        dataset: The set.
        metric: Of `SHOWN`.
        value: The mean.
        images: How many images it is over.
        undefined: Images left out because their figure is undefined.
    """

    row: str
    dataset: str
    metric: str
    value: float
    images: int
    undefined: int = 0


@dataclass(frozen=True)
class Facts:
    """What a model card is written from. What is not known is empty.

    Attributes:
        name: The model's name, as in tables.
        config: Which registered model it is, and its arguments.
        parameters: Their number.
        metadata: The header of the weights file.
        sha256: Of the checkpoint that was saved.
        training: The options of the run that trained it.
        manifest: Of the newest test of this checkpoint.
        figures: From the rows of every test of it.
        caption: What the figures mean.
        photographs: How many source photographs the images of a set are made from, where its
            images name them.
    """

    name: str
    config: HubConfig
    parameters: int
    metadata: Mapping[str, Any] = field(default_factory=dict)
    sha256: str = ""
    training: Mapping[str, Any] = field(default_factory=dict)
    manifest: Mapping[str, Any] = field(default_factory=dict)
    figures: tuple[Figure, ...] = ()
    caption: str = ""
    photographs: Mapping[str, int] = field(default_factory=dict)

    @property
    def recipe(self) -> Mapping[str, Any]:
        """The recipe: `name`, and `title` and `sources` where the run's folder has them."""
        recipe = self.training.get("recipe_file") or {}
        name = self.metadata.get("recipe") or recipe.get("name")
        return {**recipe, "name": name} if name and name != "none" else {}

    @property
    def selection(self) -> str:
        """How the checkpoint was chosen: `val`, `last`, `test` or `unknown`."""
        return str(self.metadata.get("selection") or self.manifest.get("selection") or "unknown")

    @property
    def training_sets(self) -> dict[str, str]:
        """The names of the training sets, and the fingerprints of their files."""
        found = self.manifest.get("training_data")
        return {str(k): str(v) for k, v in found.items()} if isinstance(found, Mapping) else {}

    @property
    def pretraining(self) -> Any:  # noqa: ANN401 (a sentence, or files by argument)
        """What the training started from."""
        from sparsevit_plugin.model.weights import recorded_json

        recorded = recorded_json(self.metadata, "pretraining")
        return recorded or self.manifest.get("pretraining", "unknown")

    @property
    def is_demo(self) -> bool:
        """Whether these are weights of `benco demo`."""
        return self.recipe.get("name") == "sparsevit-demo"


def facts_of_checkpoint(
    weights: Path,
    config: HubConfig,
    parameters: int,
    metadata: Mapping[str, Any],
    *,
    results: Iterable[Path] = (),
    name: str = "",
) -> Facts:
    """Collect what is known of a checkpoint.

    Args:
        weights: Its file; `run.json` and `results/` beside it are read.
        config: Which model it is.
        parameters: Their number.
        metadata: Its header.
        results: More folders with results; rows of other checkpoints are passed over.
        name: The model's name; that of its newest test, or the registered one, where empty.

    Raises:
        UserError: A folder of results is missing, or broken.
    """
    sha256 = sha256_file(weights)
    found = _results_of(sha256, weights.parent, results)
    manifest = {} if found is None else _newest(found)
    figures, caption = ((), "") if found is None else _figures(found)
    return Facts(
        name=name or str(manifest.get("model") or config.model),
        config=config,
        parameters=parameters,
        metadata=metadata,
        sha256=sha256,
        training=_training(weights.parent / _RUN),
        manifest=manifest,
        figures=figures,
        caption=caption,
        photographs={} if found is None else _photographs(found),
    )


def _training(path: Path) -> dict[str, Any]:
    """Return the options of a training from its `run.json`; empty where there is none."""
    try:
        config = parse_json(path.read_text(encoding="utf-8"))["config"]
        return {**config["options"], "recipe_file": config.get("recipe") or {}}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}): move it away to go on without it") from error


def _results_of(sha256: str, run: Path, more: Iterable[Path]) -> Results | None:
    """Return the stored rows of a checkpoint, None where there are none."""
    folders = [*more]
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"--results {folder}: no such folder")
    if (run / "results").is_dir():
        folders.append(run / "results")
    folders = [folder for folder in folders if holds_results(folder)]
    if not folders:
        return None
    results = load_results(*folders)
    cells = [
        cell
        for cell in results.cells
        if cell.manifest.get("checkpoint", {}).get("sha256") == sha256
        and cell.perturbation == UNPERTURBED
    ]
    if not cells:
        return None
    keys = {cell.key for cell in cells}
    rows = results.rows
    own = zip(rows["manifest_id"], rows["dataset"], rows["perturbation"], strict=True)
    return Results(rows[[key in keys for key in own]].reset_index(drop=True), cells)


def _newest(results: Results) -> dict[str, Any]:
    return max(results.manifests.values(), key=lambda one: str(one.get("created", "")))


def _figures(results: Results) -> tuple[tuple[Figure, ...], str]:
    """Return the means over each set, and what they mean."""
    table = results.table(list(SHOWN), paired=None, average=False, complexity=False)
    if table.is_empty:
        return (), ""
    lines = table.long()
    lines = lines[(lines["kind"] == "measured") & (lines["role"] == "set")]
    figures = [
        Figure(
            row=str(line["row"]),
            dataset=str(line["set"]),
            metric=str(line["metric"]),
            value=float(line["value"]),
            images=int(line["n"]),
            undefined=int(line["undefined"]),
        )
        for line in lines.to_dict("records")
        if line["value"] == line["value"]  # a figure that no image has is left out
    ]
    return tuple(figures), table.caption


def _photographs(results: Results) -> dict[str, int]:
    """Count the source photographs of each set all of whose images name theirs."""
    counts = {}
    for dataset, rows in results.rows.groupby("dataset", observed=True):
        names, known = base_photographs(rows["photos"])
        if known.all():
            counts[str(dataset)] = len(set(names))
    return counts


def metric_title(metric: str) -> str:
    """Return a metric in words."""
    return METRICS[metric].title


def short_path(path: str) -> str:
    """Return the end of a data path: what tells a set without telling a machine's folders."""
    parts = Path(path).parts
    return "/".join(parts[-2:]) if Path(path).suffix in _LISTS else parts[-1] if parts else ""
