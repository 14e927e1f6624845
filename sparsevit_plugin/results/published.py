"""Published cards: numbers that others report, each with its source, never measured here.

A card is a YAML file in `registry/published`, in a package that the entry-point group
`sparsevit_plugin.published_cards` names, or in `published/` below a folder of `SPARSEVIT_REGISTRY`.
Its rows may stand under the table of its protocol, as a block of their own. They are never ranked,
tested or averaged, with measured rows or among themselves.
"""

from typing import Literal

from pydantic import Field, model_validator

from sparsevit_plugin.cards.reading import Strict, find_cards, read_card
from sparsevit_plugin.errors import UserError, suggest
from sparsevit_plugin.results.conventions import METRICS

_SCALE = {"fraction": 1.0, "percent": 0.01}


class Sourced(Strict):
    """A number whose source is another than its row's.

    Attributes:
        value: The number, in the card's unit.
        source: Key of the card's `sources`.
    """

    value: float
    source: str


class PublishedRow(Strict):
    """What a source reports of one method.

    Attributes:
        method: As the source calls it.
        values: Column to number.
        average: The average as the source gives it; None where it gives none. It is never computed.
        source: Key of the card's `sources`; the card's own by default.
    """

    method: str
    values: dict[str, float | Sourced] = Field(default_factory=dict)
    average: float | Sourced | None = None
    source: str | None = None

    @model_validator(mode="after")
    def _says_something(self) -> "PublishedRow":
        if not self.values and self.average is None:
            raise ValueError("a row has values, an average, or both")
        return self


class Published(Strict):
    """A table, or a part of one, as it was published.

    Attributes:
        name: The card's and the file's name.
        title: How the block is called, as "as reported by RelayFormer".
        protocol: The protocol under whose table it may stand; None for none: on record only.
        metric: Key of the tables' metrics; None where none of them is meant or the source does not
            say.
        figure: What the numbers are, in words.
        threshold: Of the metric; None where it has none or the source does not say.
        unit: Of the numbers.
        sources: Short name to the source, as to be cited.
        source: Short name of the source of every row that names no other.
        columns: Test sets, by the names of their cards, or what else the columns are.
        rows: The methods.
        notes: What a reader must know.
    """

    name: str
    title: str
    protocol: str | None
    metric: str | None
    figure: str
    threshold: float | None = None
    unit: Literal["fraction", "percent"]
    sources: dict[str, str] = Field(min_length=1)
    source: str
    columns: list[str] = Field(default_factory=list)
    rows: list[PublishedRow] = Field(min_length=1)
    notes: str = ""

    @model_validator(mode="after")
    def _fits_together(self) -> "Published":
        if self.metric is not None and self.metric not in METRICS:
            raise ValueError(f'unknown metric "{self.metric}".{suggest(self.metric, METRICS)}')
        if self.protocol is not None and self.metric is None:
            raise ValueError("rows of a protocol's table need a metric")
        for row in self.rows:
            unknown = [name for name in row.values if name not in self.columns]
            if unknown:
                raise ValueError(f'{row.method}: "{unknown[0]}" is none of the columns')
        for key in self._source_keys():
            if key not in self.sources:
                raise ValueError(f'"{key}" is none of the sources')
        return self

    def _source_keys(self) -> list[str]:
        numbers = [value for row in self.rows for value in (*row.values.values(), row.average)]
        return [
            self.source,
            *(row.source for row in self.rows if row.source is not None),
            *(number.source for number in numbers if isinstance(number, Sourced)),
        ]

    def value(self, row: PublishedRow, column: str | None) -> float:
        """Return a row's number as a fraction, NaN where the source gives none.

        Args:
            row: One of the card's.
            column: One of the card's columns; None for the average.
        """
        number = row.average if column is None else row.values.get(column)
        if number is None:
            return float("nan")
        plain = number.value if isinstance(number, Sourced) else number
        return plain * _SCALE[self.unit]

    def source_of(self, row: PublishedRow, column: str | None) -> str:
        """Return the source of a row's number, as to be cited."""
        number = row.average if column is None else row.values.get(column)
        key = number.source if isinstance(number, Sourced) else row.source or self.source
        return self.sources[key]


def published_names() -> list[str]:
    """Return the names of all published cards."""
    return sorted(find_cards("published"))


def load_published(name: str) -> Published:
    """Read a published card.

    Raises:
        UserError: There is none, or a field is wrong; names the file, the line and the field.
    """
    cards = find_cards("published")
    if name not in cards:
        known = ", ".join(sorted(cards)) or "none"
        raise UserError(f'no published card "{name}", only {known}.{suggest(name, cards)}')
    return read_card(cards[name], Published, "a published card")
