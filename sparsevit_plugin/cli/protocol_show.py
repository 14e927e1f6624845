"""`benco protocol show`: what a protocol or a recipe says, and where each value was found."""

import argparse
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sparsevit_plugin.harness.recipes import Recipe


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `benco protocol show`."""
    parser.add_argument("protocol", metavar="PROTOCOL", help="a protocol, a recipe, or a YAML file")
    parser.add_argument("--json", action="store_true", help="print it as JSON")


def run(args: argparse.Namespace) -> int:
    """Print one protocol or recipe.

    Raises:
        UserError: There is none of that name, or its card is wrong.
    """
    from sparsevit_plugin.cli.protocol_list import describe, describe_recipe
    from sparsevit_plugin.protocol.schema import Protocol
    from sparsevit_plugin.protocol.values import load_card

    card = load_card(args.protocol)
    if isinstance(card, Protocol):
        print(card.model_dump_json(indent=2) if args.json else describe(card))
    else:
        print(json.dumps(_plain(card), indent=2) if args.json else describe_recipe(card))
    return 0


def _plain(recipe: "Recipe") -> dict[str, object]:
    return {
        **recipe.to_dict(),
        "notes": recipe.notes,
        "values": recipe.values(),
        "found_in": recipe.found_in,
        "unknown": recipe.unknown,
    }
