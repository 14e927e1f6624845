"""Protocol cards: on which sets models are trained and tested, and how checkpoints are chosen.

A protocol is a YAML file in `benchmark_configs/protocols`, in a package that the entry-point group
`sparsevit_plugin.protocol_cards` names, in `protocols/` below a folder of `SPARSEVIT_REGISTRY`, or
any YAML file that is given by its path. Sets are named by their cards.

    >>> [use.set for use in load_protocol("mvss").test.sets][:2]
    ['CASIAv1', 'Columbia']
"""

from pathlib import Path
from typing import Any, Final, Literal

from pydantic import Field, field_validator, model_validator

from sparsevit_plugin.cards.datasets import Authentic
from sparsevit_plugin.cards.provenance import problem
from sparsevit_plugin.cards.reading import Strict, find_cards, read_card
from sparsevit_plugin.errors import UserError, suggest
from sparsevit_plugin.harness.perturb import expand
from sparsevit_plugin.results.conventions import UNPERTURBED

SETTLED = frozenset(
    {
        *("model", "name", "seed", "imports", "recipe", "checkpoint", "weights", "weights_root"),
        *("data_path", "test_data_path", "data_root", "data_paths", "perturbation"),
        *("device", "devices", "precision", "output_dir", "log_dir", "overwrite", "resume"),
        *("backend", "calibration_data", "calibration_images"),  # a protocol computes with PyTorch
    }
)
"""Options that the protocol and the command settle themselves."""

# Words about a protocol, and what `Protocol.values` names one by one.
_NOT_VALUES: Final = {
    *("name", "title", "sources", "notes", "found_in", "unknown"),
    *("train", "test", "options", "rows"),
}


class SetUse(Strict):
    """A set as a protocol uses it.

    Attributes:
        set: Name of its card, which is also the column's name.
        authentic: Whether its authentic images take part.
        notes: Which variant of the set is meant, and why.
    """

    set: str
    authentic: Authentic = "exclude"
    notes: str = ""


class Training(Strict):
    """What models are trained on.

    Attributes:
        sets: The training sets.
        draw: Images drawn at random from each set per epoch (IMDLBenCo's BalancedDataset); None
            where an epoch is every image once.
        select: What picks the checkpoint: `val` (a seeded hold-out of the training data), `last`,
            or `test` (the test sets, upstream's way).
        val_fraction: Share of each training set that is held out under `val`.
    """

    sets: list[SetUse] = Field(min_length=1)
    draw: int | None = Field(default=None, gt=0)
    select: Literal["val", "last", "test"] = "val"
    val_fraction: float = Field(default=0.05, gt=0, lt=1)


class Testing(Strict):
    """What models are tested on.

    Attributes:
        sets: The test sets, in the order of a table's columns.
        perturbations: What is done to the photographs, one cell for each, as `jpeg:75`; `none` is
            the photographs as they are, and `ladder:NAME` stands for the strengths of a ladder.
    """

    sets: list[SetUse] = Field(min_length=1)
    perturbations: list[str] = Field(default=[UNPERTURBED], min_length=1)

    @field_validator("perturbations")
    @classmethod
    def _are_known(cls, texts: list[str]) -> list[str]:
        try:
            return expand(texts)
        except UserError as error:
            raise ValueError(str(error)) from error


class RowSpec(Strict):
    """A row that a protocol names itself, as a variant of a model in an ablation.

    Attributes:
        label: Its name in the table.
        model: Name of its model card.
        arguments: Constructor arguments of this row, over those of the card and the recipe.
        options: Options of `benco train` and `benco test` of this row, over the protocol's.
        notes: What is varied, where the label does not say it.
    """

    label: str = Field(min_length=1)
    model: str
    arguments: dict[str, Any] = Field(default_factory=dict)
    options: dict[str, Any] = Field(default_factory=dict)
    notes: str = ""

    @field_validator("options")
    @classmethod
    def _are_a_rows_own(cls, options: dict[str, Any]) -> dict[str, Any]:
        return _unsettled(options)

    @field_validator("label")
    @classmethod
    def _is_one_word_of_a_list(cls, label: str) -> str:
        if any(sign in label for sign in ",@*?[") or label == "all":
            raise ValueError('a label is no pattern, not "all", and holds no comma and no @')
        return label


class Protocol(Strict):
    """A protocol.

    Attributes:
        name: Its name, which is also the file's.
        title: One line for people.
        sources: Where it comes from.
        notes: What a reader of its table must know.
        found_in: Source to the names of the values that stand there; see `cards.provenance`.
        unknown: What a reader would want to know and no source says.
        train: What models are trained on; None where ready checkpoints are tested only.
        test: What they are tested on.
        published: Name of the published block that may stand under its table, None for none.
        options: Options of `benco train` and `benco test` that hold for every model, over each
            model's recipe.
        recipe: The recipe of every model; empty for each card's own.
        weights: What training starts from where the command does not say: `card`, each card's
            pretraining files, or `none`, random weights.
        rows: Rows that are run where `--models` names none.
        seeds: Training seeds where `--seeds` names none.
    """

    name: str
    title: str
    sources: list[str] = Field(default_factory=list)
    notes: str = ""
    found_in: dict[str, list[str]] = Field(default_factory=dict)
    unknown: list[str] = Field(default_factory=list)
    train: Training | None = None
    test: Testing
    published: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    recipe: str = ""
    weights: Literal["card", "none"] = "card"
    rows: list[RowSpec] = Field(default_factory=list)
    seeds: list[int] = Field(default=[42], min_length=1)

    @field_validator("options")
    @classmethod
    def _hold_for_every_model(cls, options: dict[str, Any]) -> dict[str, Any]:
        return _unsettled(options)

    @model_validator(mode="after")
    def _cites_its_own_values(self) -> "Protocol":
        if wrong := problem(self.found_in, self.values()):
            raise ValueError(wrong)
        return self

    def values(self) -> dict[str, object]:
        """Return every value that it sets, by name: `train CASIAv2` is a use of a set."""
        found: dict[str, object] = {}
        for part, block in (("train", self.train), ("test", self.test)):
            if block is None:
                continue
            for use in block.sets:
                name = f"{part} {use.set}"
                # A list of authentic images beside that of the tampered ones is another value.
                found[f"{name} {use.authentic}" if name in found else name] = use.authentic
            chosen = block.model_dump(exclude={"sets"}, exclude_unset=True)
            found |= {f"{part} {name}": value for name, value in chosen.items()}
        found |= self.model_dump(exclude=_NOT_VALUES, exclude_unset=True)
        found |= {f"row {row.label}": _row_text(row) for row in self.rows}
        return {**found, **self.options}

    def set_names(self) -> list[str]:
        """Return every set that it names, each once, training sets first."""
        uses = [*(self.train.sets if self.train else ()), *self.test.sets]
        return list(dict.fromkeys(use.set for use in uses))


def _row_text(row: RowSpec) -> str:
    words = [row.model, *(f"{k} = {v}" for k, v in {**row.arguments, **row.options}.items())]
    return ", ".join(words)


def _unsettled(options: dict[str, Any]) -> dict[str, Any]:
    """Return options as they are if none of them is settled elsewhere."""
    for name in options:
        if name in SETTLED:
            raise ValueError(f"{name} is settled by the command, not by a protocol")
    return options


def protocol_names() -> list[str]:
    """Return the names of all protocols."""
    return sorted(find_cards("protocol"))


def load_protocol(name: str) -> Protocol:
    """Read a protocol.

    Args:
        name: A protocol's name, or the path of a YAML file.

    Raises:
        UserError: There is none, or a field is wrong; names the file, the line and the field.
    """
    known = find_cards("protocol")
    file = known.get(name, Path(name))
    if name not in known and Path(name).suffix not in (".yaml", ".yml"):
        raise UserError(
            f'unknown protocol "{name}".{suggest(name, known)} Give one of '
            f"{', '.join(sorted(known))}, or the path of a YAML file"
        )
    if not file.is_file():
        raise UserError(f"protocol {name}: no such file")
    protocol = read_card(file, Protocol, "a protocol")
    _refuse_doubled(file, protocol)
    return protocol


def _refuse_doubled(file: Path, protocol: Protocol) -> None:
    """Refuse what stands twice: rows of one test set, or draws of one list, not told apart."""
    uses = protocol.train.sets if protocol.train else []
    trained = [f"{use.set} ({use.authentic})" for use in uses]
    tested = [use.set for use in protocol.test.sets]
    labels = [row.label for row in protocol.rows]
    for where, names in (("train.sets", trained), ("test.sets", tested), ("rows", labels)):
        for name in names:
            if names.count(name) > 1:
                raise UserError(f"{file}: {where} names {name} twice")
