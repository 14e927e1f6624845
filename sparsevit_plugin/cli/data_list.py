"""`benco data list [NAME]`: the data set cards, and one card in full."""

import argparse
import json
import textwrap
from typing import TYPE_CHECKING, Any

from sparsevit_plugin.errors import UserError, suggest

if TYPE_CHECKING:
    from sparsevit_plugin.cards import DatasetCard
    from sparsevit_plugin.harness.registered_sets import DataRoots

_WIDTH = 100
_EPILOG = """\
examples:
  benco data list --data-root /data
  benco data list NIST16
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's arguments to its parser."""
    parser.description = (
        "List the data set cards: counts, whether the layout follows a source, where to get the "
        "set, and whether it is there."
    )
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("name", metavar="NAME", nargs="?", help="show this card in full")
    parser.add_argument("--data-root", default="", metavar="DIR", help="folder of the sets")
    parser.add_argument(
        "--data-paths", default="", metavar="FILE", help="YAML file of set name to path"
    )
    parser.add_argument("--json", action="store_true", help="print the cards as JSON")


def run(args: argparse.Namespace) -> int:
    """List the cards.

    Args:
        args: The arguments of `add_arguments`.

    Returns:
        The exit code, 0.

    Raises:
        UserError: A card or the paths file is wrong, or there is no card of this name.
    """
    from sparsevit_plugin.cards import dataset_card_names, load_dataset_card
    from sparsevit_plugin.harness.registered_sets import DataRoots

    known = dataset_card_names()
    if args.name and args.name not in known:
        raise UserError(f'unknown set "{args.name}".{suggest(args.name, known)} Cards: '
                        f"{', '.join(known)}")  # fmt: skip
    names = [args.name] if args.name else known
    cards = [card for card in map(load_dataset_card, names) if card is not None]
    roots = DataRoots(args.data_root, args.data_paths)
    if args.json:
        print(json.dumps([_as_json(card, roots) for card in cards], indent=2, ensure_ascii=False))
    elif args.name:
        print("\n".join(_full(cards[0], roots)))
    else:
        print("\n".join(_table(cards, roots)))
    return 0


def _as_json(card: "DatasetCard", roots: "DataRoots") -> dict[str, Any]:
    return {**card.model_dump(by_alias=True), "present": roots.present(card.name)}


def _counts(card: "DatasetCard") -> str:
    if not card.counts:
        return "?"
    first = card.counts[0]
    return " / ".join(
        "?" if number is None else str(number) for number in (first.tampered, first.authentic)
    )


def _present(card: "DatasetCard", roots: "DataRoots") -> str:
    return {True: "yes", False: "no", None: "?"}[roots.present(card.name)]


def _table(cards: "list[DatasetCard]", roots: "DataRoots") -> list[str]:
    head = ("set", "tampered / authentic", "layout", "there", "licence", "title")
    rows = [
        (
            card.name,
            "made here" if card.made_by else _counts(card),
            card.layout,
            _present(card, roots),
            _shortened(card.licence or "unknown", 30),
            _shortened(card.title, 60),
        )
        for card in cards
    ]
    widths = [max(len(row[place]) for row in [head, *rows]) for place in range(len(head))]
    lines = [
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in [head, *rows]
    ]
    return [*lines, "", '"benco data list NAME" says where to get a set and how it is imported.']


def _shortened(text: str, width: int) -> str:
    return textwrap.shorten(text, width, placeholder=" ...")


def _full(card: "DatasetCard", roots: "DataRoots") -> list[str]:
    """Describe one card."""
    lines = [f"{card.name}: {card.title}"]
    fields = {
        "paper": card.paper,
        "where": card.where,
        "licence": card.licence or "unknown: none was found",
        "sizes": card.sizes,
        "splits": card.splits,
        "variant of": card.variant_of or "",
        "folder": f"{card.place} below the data root (there: {_present(card, roots)})",
        "layout": card.layout,
        "notes": card.notes,
    }
    for count in card.counts:
        numbers = (count.tampered, count.authentic)
        tampered, authentic = ("?" if number is None else number for number in numbers)
        lines += _wrapped("count", f"{tampered} tampered, {authentic} authentic ({count.source})")
    for name, text in fields.items():
        if text:
            lines += _wrapped(name, text)
    for source in card.layout_source:
        lines += _wrapped("layout source", f"{source.url}: {source.what}")
    return lines + _import_lines(card)


def _import_lines(card: "DatasetCard") -> list[str]:
    rules = card.importing
    if rules is None:
        return []
    lines = [f"  import: benco data import {card.name} SRC --data-root DIR; SRC holds, for example"]
    lines += [f"    {path}" for path in rules.example]
    for rule in rules.rules:
        lines.append(f"    {rule.label}: {rule.image}")
        lines += [f"      mask ({rule.mask_rule}): {mask}" for mask in rule.masks]
        lines += [f"      photograph: {photo}" for photo in rule.photos]
        if rule.table:
            where = ", ".join(f"{name} = {value}" for name, value in rule.table.where.items())
            lines.append(f"      by {rule.table.file}, column {rule.table.column}; {where}")
    return lines + [f"    not of the set: {one.files}: {one.what}" for one in rules.clutter]


def _wrapped(name: str, text: str) -> list[str]:
    return textwrap.wrap(
        f"{name}: {text}",
        _WIDTH,
        initial_indent="  ",
        subsequent_indent="    ",
        break_long_words=False,
        break_on_hyphens=False,
    )
