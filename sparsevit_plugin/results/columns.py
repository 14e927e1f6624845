"""What a protocol says about the columns of its table."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from sparsevit_plugin.cards.reading import find_cards


@dataclass(frozen=True)
class ProtocolColumns:
    """The columns of a protocol's table.

    Attributes:
        name: The protocol's.
        title: One line for people.
        sets: Its test sets, in order.
        expected: Images that a set has by its card as the protocol uses it, where the card knows.
        published: Name of the published card that may stand under the table; None for none.
    """

    name: str
    title: str
    sets: tuple[str, ...]
    expected: Mapping[str, int] = field(default_factory=dict)
    published: str | None = None


def is_protocol(name: str) -> bool:
    """Say whether a protocol has that name."""
    return name in find_cards("protocol")


def protocol_columns(name: str) -> ProtocolColumns:
    """Return what a protocol's card says about its columns.

    Args:
        name: A protocol's name, or the path of a YAML file.

    Raises:
        UserError: There is no such protocol, or a card is wrong.
    """
    from sparsevit_plugin.protocol.schema import load_protocol

    protocol = load_protocol(name)
    counts = {use.set: _expected(use.set, use.authentic) for use in protocol.test.sets}
    return ProtocolColumns(
        name=protocol.name,
        title=protocol.title,
        sets=tuple(use.set for use in protocol.test.sets),
        expected={name: count for name, count in counts.items() if count is not None},
        published=protocol.published,
    )


def _expected(dataset: str, authentic: str) -> int | None:
    """Return how many images a set has by the first count of its card; None when unknown."""
    from sparsevit_plugin.cards.datasets import load_dataset_card

    card = load_dataset_card(dataset)
    if card is None or not card.counts:
        return None
    count = card.counts[0]
    parts = {
        "exclude": [count.tampered],
        "only": [count.authentic],
        "include": [count.tampered, count.authentic],
    }[authentic]
    known = [part for part in parts if part is not None]
    return sum(known) if len(known) == len(parts) else None
