"""What a user asks a protocol run for, and the command line that each of its rows comes to."""

import fnmatch
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sparsevit_plugin.cards import ModelCard, card_names, load_model_card
from sparsevit_plugin.errors import UserError, suggest
from sparsevit_plugin.harness.config import Config, resolve
from sparsevit_plugin.harness.option_table import BY_NAME
from sparsevit_plugin.harness.options import written
from sparsevit_plugin.harness.testing import recorded_settings
from sparsevit_plugin.protocol.schema import Protocol
from sparsevit_plugin.registration import import_user, register_all

ALL = "all"

TINY = {
    "epochs": 1,
    "batch_size": 2,
    "accum_iter": 1,
    "warmup_epochs": 0,
    "test_period": 1,
    "limit_images": 4,
    "test_batch_size": 2,
    "num_workers": 0,
}
"""What `--tiny` sets beside each model's smallest size: two steps, four images of every set."""


@dataclass(frozen=True)
class Row:
    """A row of the table to be.

    Attributes:
        label: Its name.
        card: The model's card.
        checkpoint: A ready checkpoint, which is only tested; None for a model to be trained.
    """

    label: str
    card: ModelCard
    checkpoint: Path | None = None

    @property
    def trains(self) -> bool:
        """Whether there is something to train."""
        return self.checkpoint is None and self.card.trainable


@dataclass(frozen=True)
class Request:
    """The arguments of `benco protocol run`.

    Attributes:
        protocol: The protocol's name or file.
        models: `all`, names, patterns such as `*resnet*`, or `NAME@FILE` for a ready checkpoint.
        seeds: Training seeds; a ready checkpoint is tested once, with the first.
        data_root: Folder of the sets.
        data_paths: YAML file of set name to path; empty for none.
        weights: `card` for each model's pretraining files, `none` for random weights.
        weights_root: Folder of those files.
        recipe: A recipe for all models; empty for each card's own.
        settings: Options for every model, over everything else.
        tiny: Whether to run everything at the least cost.
        defects: `mended`, or `upstream` for the published code's way with its known defects.
        device: As of `benco train`.
        precision: As of `benco train`; empty for each model's own.
        processes: Processes that train one model together.
        imports: Files or modules that register models.
        verify: Whether data is compared by contents, not by names, sizes and times.
    """

    protocol: str
    models: tuple[str, ...]
    seeds: tuple[int, ...] = (42,)
    data_root: str = ""
    data_paths: str = ""
    weights: str = "card"
    weights_root: str = ""
    recipe: str = ""
    settings: dict[str, str] = field(default_factory=dict)
    tiny: bool = False
    defects: str = "mended"
    device: str = "auto"
    precision: str = ""
    processes: int = 1
    imports: tuple[str, ...] = ()
    verify: bool = False

    @property
    def group(self) -> str:
        """The heading of this request's rows in a table; empty for each card's own recipe."""
        words = [f"recipe {self.recipe}"] if self.recipe else []
        if self.defects == "upstream":
            words.append("baselines as published, defects included")
        if self.tiny:
            words.append("tiny settings, not a quality claim")
        return "; ".join(words)


def read_rows(request: Request) -> list[Row]:
    """Return the rows that `--models` means, in its order, each once.

    Raises:
        UserError: A name is unknown, a checkpoint is missing, or nothing is named.
    """
    register_all()
    import_user(list(request.imports))
    rows: dict[str, Row] = {}
    for word in request.models:
        for row in _rows_of(word):
            rows.setdefault(row.label, row)
    if not rows:
        raise UserError("--models names no model: give all, names or NAME@CHECKPOINT")
    return list(rows.values())


def _rows_of(word: str) -> list[Row]:
    name, at, file = word.partition("@")
    if at:
        path = Path(file)
        if not path.is_file():
            raise UserError(f"--models {word}: {path} is no file")
        return [Row(f"{name}@{path.stem}", _card(name), path)]
    if word == ALL or any(sign in word for sign in "*?["):
        names = card_names() if word == ALL else fnmatch.filter(card_names(), word)
        if not names:
            raise UserError(f"--models {word}: no card has such a name")
        cards = [_card(found) for found in names]
        return [Row(card.name, card) for card in cards if card.benchmark]
    return [Row(name, _card(name))]


def _card(name: str) -> ModelCard:
    card = load_model_card(name)
    if card is None:
        hint = suggest(name, card_names())
        raise UserError(
            f'--models: there is no model card "{name}".{hint} "benco models" lists the models; '
            "a model of your own needs a card (docs/adding-a-model.md)"
        )
    return card


def row_config(request: Request, protocol: Protocol, row: Row, seed: int) -> Config:
    """Resolve everything that a row is run with: of `train`, or of `test` where it only tests.

    Raises:
        UserError: Something in the request, the recipe or the card does not fit the model, or a
            weights file that it needs is missing.
    """
    verb = "train" if row.trains else "test"
    return resolve(
        verb,
        row_arguments(request, protocol, row, seed),
        recorded=recorded_settings,
        common_recipe=bool(request.recipe),
    )


def row_arguments(request: Request, protocol: Protocol, row: Row, seed: int) -> list[str]:
    """Return the words that `benco train` or `benco test` would take for a row."""
    values: dict[str, Any] = {
        "model": row.card.name,
        "name": row.label,
        "seed": seed,
        "data_root": request.data_root,
        "data_paths": request.data_paths,
        "device": request.device,
        "precision": request.precision,
        **_values_of_the_side(request, protocol, row),
        **protocol.options,
        **_of_defects(request, row.card),
        **_of_tiny(request, row.card),
        **request.settings,
    }
    verb = "train" if row.trains else "test"
    words = [word for name in request.imports for word in ("--import", name)]
    for name, value in values.items():
        # What concerns training only (epochs, say) means nothing to a row that is only tested.
        elsewhere = name in BY_NAME and verb not in BY_NAME[name].verbs
        if value != "" and not elsewhere:
            words.append(f"{written(name)}={_as_text(value)}")
    return words


def _values_of_the_side(request: Request, protocol: Protocol, row: Row) -> dict[str, Any]:
    path = f"protocol:{request.protocol}"
    if not row.trains:
        checkpoint = str(row.checkpoint) if row.checkpoint else ""
        return {"test_data_path": path, "checkpoint": checkpoint}
    return {
        "data_path": path,
        "test_data_path": path if protocol.train.select == "test" else "",
        "select": protocol.train.select,
        "val_fraction": protocol.train.val_fraction,
        "recipe": request.recipe,
        "weights": request.weights,
        "weights_root": request.weights_root,
    }


def _of_defects(request: Request, card: ModelCard) -> dict[str, Any]:
    if request.defects == "mended":
        return {}
    return {mended.argument: mended.upstream for mended in card.mended}


def _of_tiny(request: Request, card: ModelCard) -> dict[str, Any]:
    if not request.tiny:
        return {}
    smallest = card.smallest
    size: dict[str, Any] = {}
    if smallest is not None:
        size = {"image_size": smallest.image_size, **smallest.arguments}
    return {**TINY, **size}


def _as_text(value: object) -> str:
    if isinstance(value, str):
        return value
    if value is None:
        return "none"
    return json.dumps(value)
