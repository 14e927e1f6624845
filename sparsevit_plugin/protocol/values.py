"""The values of a recipe or a protocol with their sources, and how two of a kind differ."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from sparsevit_plugin.cards.provenance import sources
from sparsevit_plugin.errors import UserError, suggest
from sparsevit_plugin.harness.option_table import BY_NAME
from sparsevit_plugin.harness.recipes import (
    NO_RECIPE,
    Recipe,
    load_recipe,
    read_mapping,
    shipped_recipes,
)
from sparsevit_plugin.protocol.schema import Protocol, load_protocol, protocol_names

Card: TypeAlias = Protocol | Recipe

NOT_SET = "not set"
_AUTHENTIC = {"exclude": "tampered only", "include": "with authentic", "only": "authentic only"}


@dataclass(frozen=True)
class Value:
    """A value of a card.

    Attributes:
        text: As it is shown.
        source: Where it was found; `UNSOURCED` where the card does not say.
    """

    text: str
    source: str


@dataclass(frozen=True)
class Difference:
    """A value in which two cards differ; None where a card does not have it."""

    name: str
    first: Value | None
    second: Value | None


def load_card(word: str) -> Card:
    """Read the protocol or the recipe that a word means.

    Args:
        word: A protocol's name, a recipe's name, or the path of a YAML file of one of them.

    Raises:
        UserError: There is none of that name, or its file is wrong.
    """
    if word in protocol_names():
        return load_protocol(word)
    if word in shipped_recipes():
        return load_recipe(word)
    if Path(word).is_file():
        return load_protocol(word) if "test" in read_mapping(Path(word)) else load_recipe(word)
    if Path(word).suffix in (".yaml", ".yml"):
        raise UserError(f"{word}: no such file")
    names = [*protocol_names(), *(name for name in shipped_recipes() if name != NO_RECIPE)]
    raise UserError(
        f'unknown protocol or recipe "{word}".{suggest(word, names)} Give one of '
        f"{', '.join(names)}, or the path of a YAML file"
    )


def values_of(card: Card) -> dict[str, Value]:
    """Return what a card sets, by name, with the sources."""
    values = card.values()
    cited = sources(card.found_in, values)
    return {name: Value(_text(value), cited[name]) for name, value in values.items()}


def _text(value: object) -> str:
    if isinstance(value, str):
        return _AUTHENTIC.get(value, value) or "none"
    return str(value)


def differences(first: Card, second: Card) -> list[Difference]:
    """Return the values in which two cards of a kind differ, in the order of the first.

    Raises:
        UserError: One is a protocol and the other a recipe.
    """
    if isinstance(first, Protocol) != isinstance(second, Protocol):
        kinds = [
            f"{card.name} is a {'protocol' if isinstance(card, Protocol) else 'recipe'}"
            for card in (first, second)
        ]
        raise UserError(f"{' and '.join(kinds)}: compare two of a kind")
    one, other = values_of(first), values_of(second)
    return [
        Difference(name, one.get(name), other.get(name))
        for name in dict.fromkeys([*one, *other])
        if _shown(one, name) != _shown(other, name)
    ]


def _shown(values: Mapping[str, Value], name: str) -> str | None:
    return values[name].text if name in values else None


def absent_text(name: str) -> str:
    """Say what holds where a card does not set a value."""
    option = BY_NAME.get(name)
    if option is None or option.default in (None, ""):
        return NOT_SET
    return f"{NOT_SET} (default {option.default})"
