"""Where the values of a card were found, value by value.

A recipe or a protocol says it under `found_in`: a source, in the card's own words, to the names of
the values that stand there; `*` is all that no other source names. A value that none names is
allowed, and shown as unsourced.

>>> sources({"train.sh": ["lr"], "chosen here": ["*"]}, ["lr", "epochs"])
{'lr': 'train.sh', 'epochs': 'chosen here'}
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from sparsevit_plugin.errors import suggest

UNSOURCED: Final = "unsourced"
REST: Final = "*"


def sources(found_in: Mapping[str, Sequence[str]], values: Iterable[str]) -> dict[str, str]:
    """Return the name of each of a card's values to its source."""
    named = {name: source for source, names in found_in.items() for name in names}
    rest = named.pop(REST, UNSOURCED)
    return {name: named.get(name, rest) for name in values}


def problem(found_in: Mapping[str, Sequence[str]], values: Iterable[str]) -> str | None:
    """Return what is wrong with a card's `found_in`, or None.

    Args:
        found_in: Source to names of values.
        values: The values that the card has.
    """
    known, seen = [*values, REST], set()
    for source, names in found_in.items():
        for name in names:
            if name not in known:
                return f'found_in: "{source}" names {name}, which is not set.{suggest(name, known)}'
            if name in seen:
                return f"found_in: {name} is named twice"
            seen.add(name)
    return None
