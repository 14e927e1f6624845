"""What a user asks a protocol run for, and the command line that each of its rows comes to."""

import fnmatch
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sparsevit_plugin.cards import ModelCard, card_names, load_model_card
from sparsevit_plugin.errors import UserError, suggest
from sparsevit_plugin.harness.config import Config, resolve
from sparsevit_plugin.harness.option_table import BY_NAME
from sparsevit_plugin.harness.options import written
from sparsevit_plugin.harness.perturb import expand
from sparsevit_plugin.harness.testing import recorded_settings
from sparsevit_plugin.protocol.schema import Protocol, RowSpec, load_protocol
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
        word: What names it among `--models`.
        arguments: Constructor arguments of its own.
        options: Options of its own.
    """

    label: str
    card: ModelCard
    checkpoint: Path | None = None
    word: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def trains(self) -> bool:
        """Whether there is something to train."""
        return self.checkpoint is None and self.card.trainable


@dataclass(frozen=True)
class Request:
    """The arguments of `benco protocol run`.

    Attributes:
        protocol: The protocol's name or file.
        models: `all`, names, patterns such as `*resnet*`, or `NAME@FILE` for a ready checkpoint;
            empty for the rows of the protocol. Where it has rows, `all` means them, and names and
            patterns mean them first.
        seeds: Training seeds; a ready checkpoint is tested once, with the first.
        data_root: Folder of the sets.
        data_paths: YAML file of set name to path; empty for none.
        weights: `card` for each model's pretraining files, `hub` for those on the Hub, `none` for
            random weights; empty for what the protocol says.
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
        trained_on: What ready checkpoints were trained on, in words; empty where unknown.
        selection: How they were chosen, in words; empty where unknown.
        labels: The label of a word of `models`, where it was settled among others before.
        perturbations: In the place of the protocol's; empty for these.
    """

    protocol: str
    models: tuple[str, ...]
    seeds: tuple[int, ...] = (42,)
    data_root: str = ""
    data_paths: str = ""
    weights: str = ""
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
    trained_on: str = ""
    selection: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    perturbations: tuple[str, ...] = ()

    def group_of(self, row: "Row", cfg: Config) -> str:
        """Return the heading of a row in a table; empty for a card's own recipe and settings.

        Args:
            row: The row.
            cfg: Its configuration.
        """
        words = [f"recipe {self.recipe}"] if self.recipe and row.trains else []
        if self.defects == "upstream" and row.card.mended:
            words.append("as published, defects included")
        if self.tiny:
            words.append("tiny settings, not a quality claim")
        elif cfg.limit_images is not None:
            words.append(f"{cfg.limit_images} images of every set at most")
        return "; ".join(words)


def requested_protocol(request: Request) -> Protocol:
    """Return the protocol that a request means, with the perturbations that it asks for.

    Raises:
        UserError: There is no such protocol or perturbation.
    """
    protocol = load_protocol(request.protocol)
    if not request.perturbations:
        return protocol
    perturbations = expand(request.perturbations)
    test = protocol.test.model_copy(update={"perturbations": perturbations})
    return protocol.model_copy(update={"test": test})


def read_rows(request: Request, protocol: Protocol) -> list[Row]:
    """Return the rows that `--models` means, in its order, each once.

    Raises:
        UserError: A name is unknown, a checkpoint is missing, or nothing is named.
    """
    register_all()
    import_user(list(request.imports))
    rows = [
        replace(row, label=request.labels.get(word, row.label))
        for word in request.models or ([ALL] if protocol.rows else [])
        for row in _protocol_rows(word, protocol.rows) or _rows_of(word, protocol.rows)
    ]
    if not rows:
        raise UserError(
            f"--models names no model, and protocol {protocol.name} has no rows of its own: give "
            "all, names or NAME@CHECKPOINT"
        )
    return _with_distinct_labels(rows)


def _protocol_rows(word: str, specs: Sequence[RowSpec]) -> list[Row]:
    """Return those of a protocol's own rows that a word means."""
    pattern = "*" if word == ALL else word
    return [
        Row(spec.label, _card(spec.model), None, spec.label, spec.arguments, spec.options)
        for spec in specs
        if spec.label == word or fnmatch.fnmatchcase(spec.label, pattern)
    ]


def _with_distinct_labels(rows: list[Row]) -> list[Row]:
    """Drop what is named twice; checkpoints of one name are told apart by their folders.

    Raises:
        UserError: Even these are the same.
    """
    unique = list({(row.label, row.checkpoint): row for row in rows}.values())
    shared = {row.label for row in unique if sum(r.label == row.label for r in unique) > 1}
    named = [
        replace(row, label=f"{row.card.name}@{row.checkpoint.parent.name}/{row.checkpoint.stem}")
        if row.label in shared and row.checkpoint
        else row
        for row in unique
    ]
    for row in named:
        if sum(other.label == row.label for other in named) > 1:
            raise UserError(f"--models: two checkpoints would be called {row.label}: rename one")
    return named


def _rows_of(word: str, specs: Sequence[RowSpec] = ()) -> list[Row]:
    name, at, file = word.partition("@")
    if at:
        path = Path(file)
        if not path.is_file():
            raise UserError(f"--models {word}: {path} is no file")
        return [Row(f"{name}@{path.stem}", _card(name), path, f"{name}@{path}")]
    if word == ALL or any(sign in word for sign in "*?["):
        names = card_names() if word == ALL else fnmatch.filter(card_names(), word)
        if not names:
            raise UserError(f"--models {word}: no card has such a name")
        cards = [_card(found) for found in names]
        return [Row(card.name, card, word=card.name) for card in cards if card.benchmark]
    return [Row(name, _card(name, [spec.label for spec in specs]), word=name)]


def _card(name: str, rows: Sequence[str] = ()) -> ModelCard:
    card = load_model_card(name)
    if card is None:
        hint = suggest(name, [*rows, *card_names()])
        own = f" The protocol's rows: {', '.join(rows)}." if rows else ""
        raise UserError(
            f'--models: there is no model card "{name}".{hint}{own} "benco models" lists the '
            "models; a model of your own needs a card (docs/adding-a-model.md)"
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
    chosen = {
        **_of_protocol(request, protocol, row),
        **_of_defects(request, row.card),
        **_of_tiny(request, row),
        **row.arguments,
        **row.options,
        **request.settings,
    }
    values: dict[str, Any] = {
        "model": row.card.name,
        "name": row.label,
        "seed": seed,
        "data_root": request.data_root,
        "data_paths": request.data_paths,
        "device": request.device,
        "precision": request.precision,
        **_values_of_the_side(request, protocol, row, str(chosen.get("select", ""))),
        **chosen,
    }
    verb = "train" if row.trains else "test"
    words = [word for name in request.imports for word in ("--import", name)]
    for name, value in values.items():
        # What concerns training only (epochs, say) means nothing to a row that is only tested.
        elsewhere = name in BY_NAME and verb not in BY_NAME[name].verbs
        if value != "" and not elsewhere:
            words.append(f"{written(name)}={_as_text(value)}")
    return words


def _values_of_the_side(
    request: Request, protocol: Protocol, row: Row, select: str
) -> dict[str, Any]:
    path = f"protocol:{request.protocol}"
    if not row.trains:
        checkpoint = str(row.checkpoint) if row.checkpoint else ""
        return {"test_data_path": path, "checkpoint": checkpoint}
    if protocol.train is None:
        raise UserError(
            f"protocol {protocol.name} trains nothing: give a ready checkpoint, as "
            f"{row.card.name}@FILE"
        )
    select = select or protocol.train.select
    return {
        "data_path": path,
        "test_data_path": path if select == "test" else "",
        "select": select,
        "val_fraction": protocol.train.val_fraction,
        "recipe": request.recipe or protocol.recipe,
        "weights": request.weights or protocol.weights,
        "weights_root": request.weights_root,
    }


def _of_protocol(request: Request, protocol: Protocol, row: Row) -> dict[str, Any]:
    """Return the protocol's options; its size gives way to a ready checkpoint's and to `--tiny`."""
    if not request.tiny and row.checkpoint is None:
        return protocol.options
    return {name: value for name, value in protocol.options.items() if name != "image_size"}


def _of_defects(request: Request, card: ModelCard) -> dict[str, Any]:
    if request.defects == "mended":
        return {}
    return {mended.argument: mended.upstream for mended in card.mended}


def _of_tiny(request: Request, row: Row) -> dict[str, Any]:
    if not request.tiny:
        return {}
    smallest = row.card.smallest
    size: dict[str, Any] = {}
    if smallest is not None and row.checkpoint is None:  # its size is settled by its weights
        size = {"image_size": smallest.image_size, **smallest.arguments}
    return {**TINY, **size}


def _as_text(value: object) -> str:
    if isinstance(value, str):
        return value
    if value is None:
        return "none"
    return json.dumps(value)
