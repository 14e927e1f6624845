r"""Data set cards: where a set comes from, what it holds, and how its distribution is laid out.

A card is a YAML file named after the set's column in a table. Its `import` section says in patterns
which file of the distribution is a tampered image, an authentic one or a mask, so that a new set is
one new card and no code:

    import:
      example: [Tp/Tp_D_NRN_S_N_arc00013_sec00045_11700.jpg]
      rules:
        - label: tampered
          image: 'Tp/(?P<stem>Tp_[^/]+)\.(jpg|tif)'
          masks: ['Gt/{stem}_gt.png']
        - label: authentic
          image: 'Au/[^/]+\.jpg'
      mask_files: ['Gt/[^/]+_gt\.png']

Paths are posix paths below the folder that is imported. Patterns are regular expressions that match
a whole path, upper and lower case alike. A file is a mask if one of `mask_files` matches, else an
image if one of the `rules` does, else clutter if one of `clutter` does; an image file that is none
of these stops an import.
"""

import re
import string
from typing import Literal

from pydantic import Field, field_validator, model_validator

from sparsevit_plugin.cards.reading import Strict, find_cards, read_card

Authentic = Literal["include", "exclude", "only"]
"""Whether a set's authentic images are used: with the tampered ones, not at all, or alone."""

MaskRule = Literal["default", "inverted", "nonzero", "red", "green"]
"""How a mask file says which pixels are tampered; see `harness.mask_rules`."""


class Count(Strict):
    """How many images a source says there are.

    Attributes:
        tampered: Tampered images, None where the source does not say.
        authentic: Authentic images, None where the source does not say.
        source: Who says so.
    """

    tampered: int | None = Field(default=None, ge=0)
    authentic: int | None = Field(default=None, ge=0)
    source: str


class LayoutSource(Strict):
    """Where a layout was taken from.

    Attributes:
        url: A page, or a file of a repository.
        what: What it shows.
    """

    url: str
    what: str


class Clutter(Strict):
    """Files of a distribution that are no images of the set, or known to lack their mask.

    Attributes:
        files: A pattern.
        what: What they are.
    """

    files: str
    what: str

    @field_validator("files")
    @classmethod
    def _is_pattern(cls, text: str) -> str:
        compile_pattern(text)
        return text


class Table(Strict):
    """A table of the distribution that says more about an image than its path does.

    Attributes:
        file: Its path: a text file of separated values with a line of column names.
        separator: What stands between two values.
        column: The column that names the image.
        value: Template of what stands there; the image's path where it is empty.
        where: Values that other columns must have; a row is one image's if all of them do.
    """

    file: str
    separator: str = Field(default=",", min_length=1, max_length=1)
    column: str
    value: str = ""
    where: dict[str, str] = Field(default_factory=dict)


class Rule(Strict):
    """Which files are images of one label, and which masks belong to them.

    Attributes:
        label: The images' label.
        image: Pattern of their paths; its named groups can be used in `masks` and `photos`.
        table: A table whose columns can be used like groups; the rule is for the images that have
            a row there.
        masks: Templates of the mask's path, sought in this order: the first that names a file is
            taken. `{group}` stands for a named group, `*` for any part of one file's name, and
            `**/` at the beginning for any folder.
        several: What to do when a template names several files: `refuse`, or take every pixel that
            is tampered in one of them (`union`).
        mask_rule: How the mask says which pixels are tampered.
        photos: Templates of the names of the source photographs, the base first. One name must mean
            one photograph in every set, so that it begins with the collection's name.
    """

    label: Literal["tampered", "authentic"]
    image: str
    table: Table | None = None
    masks: list[str] = Field(default_factory=list)
    several: Literal["refuse", "union"] = "refuse"
    mask_rule: MaskRule = "default"
    photos: list[str] = Field(default_factory=list)

    @field_validator("image")
    @classmethod
    def _is_pattern(cls, text: str) -> str:
        compile_pattern(text)
        return text

    @model_validator(mode="after")
    def _fits_together(self) -> "Rule":
        if (self.label == "tampered") != bool(self.masks):
            raise ValueError("tampered images have masks, authentic ones have none")
        groups = compile_pattern(self.image).groupindex
        own = [self.table.value] if self.table else []
        for template in (*self.masks, *self.photos, *own):
            # Which columns a table has is known when it is read.
            free = self.table is not None and template not in own
            unknown = [name for name in template_fields(template) if name not in groups]
            if unknown and not free:
                raise ValueError(f'"{template}": the image pattern has no group "{unknown[0]}"')
        return self


class ImportRules(Strict):
    """How a set as it is distributed becomes a set in the shared format.

    Attributes:
        example: Paths that are in every copy, to tell a user which folder is meant.
        rules: The first whose pattern matches a path labels it.
        mask_files: Patterns of all masks, so that one without an image is noticed.
        clutter: What else is in the distribution.
    """

    example: list[str] = Field(min_length=1)
    rules: list[Rule] = Field(min_length=1)
    mask_files: list[str] = Field(default_factory=list)
    clutter: list[Clutter] = Field(default_factory=list)

    @field_validator("mask_files")
    @classmethod
    def _are_patterns(cls, texts: list[str]) -> list[str]:
        for text in texts:
            compile_pattern(text)
        return texts


class DatasetCard(Strict):
    """An image set for training or testing.

    Attributes:
        name: The card's and the file's name, and the column's in a table.
        title: One line for people.
        paper: Citation or link; empty where there is none.
        where: Where to get it.
        licence: Licence or terms as its authors state them; None where none was found.
        counts: Images as sources count them; the first is what an import is compared with.
        sizes: Image sizes, in words.
        folder: Where it is expected below the data root; the card's name by default.
        variant_of: The card of the set that this one was made from, None for none.
        splits: Official splits, in words; empty where there are none or they play no part.
        layout: Whether the import rules follow a named source.
        layout_source: Those sources.
        importing: The card's section `import`; None for a set that is not imported.
        made_by: `demo` for the sets that the plugin makes itself at their first use, else the
            command that makes the set; None for a set that is distributed.
        notes: What else a user must know.
    """

    name: str
    title: str
    paper: str = ""
    where: str
    licence: str | None = None
    counts: list[Count] = Field(default_factory=list)
    sizes: str = ""
    folder: str = ""
    variant_of: str | None = None
    splits: str = ""
    layout: Literal["sourced", "unverified"] = "unverified"
    layout_source: list[LayoutSource] = Field(default_factory=list)
    importing: ImportRules | None = Field(default=None, alias="import")
    made_by: str | None = None
    notes: str = ""

    @model_validator(mode="after")
    def _sourced_by_something(self) -> "DatasetCard":
        if self.layout == "sourced" and not (self.layout_source or self.made_by):
            raise ValueError("a sourced layout names its layout_source")
        return self

    @property
    def place(self) -> str:
        """The set's folder below the data root."""
        return self.folder or self.name


def compile_pattern(text: str) -> re.Pattern[str]:
    """Compile a card's pattern.

    Raises:
        ValueError: It is no regular expression.
    """
    try:
        return re.compile(text, re.IGNORECASE)
    except re.error as error:
        raise ValueError(f'"{text}" is no regular expression: {error}') from error


def template_fields(template: str) -> list[str]:
    """Return the names of the groups that a template uses.

    Raises:
        ValueError: Its braces do not match, or hold something else than a name.
    """
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise ValueError(f'"{template}": {error}') from error
    names = [name for _, name, _, _ in parts if name is not None]
    if not all(name.isidentifier() for name in names):
        raise ValueError(f'"{template}": braces hold the name of a group')
    return names


def load_dataset_card(name: str) -> DatasetCard | None:
    """Return the card called `name`, None where there is none.

    Raises:
        UserError: When the card is wrong; names the file, the line and the field.
    """
    file = find_cards("dataset").get(name)
    return None if file is None else read_card(file, DatasetCard, "a data set card")


def dataset_card_names() -> list[str]:
    """Return the names of all data set cards."""
    return sorted(find_cards("dataset"))
