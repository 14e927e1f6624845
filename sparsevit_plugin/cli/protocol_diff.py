"""`benco protocol diff`: how two protocols, or two recipes, differ, with the sources."""

import argparse
import json
from dataclasses import asdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sparsevit_plugin.protocol.values import Difference, Value

_EPILOG = """\
examples:
  benco protocol diff cat-benco cat-original
  benco protocol diff sparsevit-paper sparsevit-repo
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `benco protocol diff`."""
    parser.description = (
        "Show the values in which two protocols, or two recipes, differ, and where each was found."
    )
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    for name, word in (("first", "A"), ("second", "B")):
        parser.add_argument(
            name, metavar=word, help="a protocol, a recipe, or the YAML file of one"
        )
    parser.add_argument("--json", action="store_true", help="print it as JSON")


def run(args: argparse.Namespace) -> int:
    """Print the differences.

    Raises:
        UserError: There is no such card, or the two are not of a kind.
    """
    from sparsevit_plugin.protocol.values import differences, load_card

    first, second = load_card(args.first), load_card(args.second)
    found = differences(first, second)
    if args.json:
        print(json.dumps([asdict(one) for one in found], indent=1, ensure_ascii=False))
        return 0
    print(f"A  {first.name}: {first.title}")
    print(f"B  {second.name}: {second.title}")
    for one in found:
        print("\n".join(["", *_lines(one)]))
    if not found:
        print("\nno value differs")
    for card in (first, second):
        for text in card.unknown:
            print(f"\nnot known of {card.name}: {text}")
    return 0


def _lines(difference: "Difference") -> list[str]:
    return [
        difference.name,
        f"  A  {_value(difference.name, difference.first)}",
        f"  B  {_value(difference.name, difference.second)}",
    ]


def _value(name: str, value: "Value | None") -> str:
    from sparsevit_plugin.protocol.values import absent_text

    return absent_text(name) if value is None else f"{value.text}  ({value.source})"
