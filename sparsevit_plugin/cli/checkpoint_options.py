"""Options of `benco test` for verbs that take a checkpoint as it is: `predict` and `export`.

Nothing heavy is imported until a function is called.
"""

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from sparsevit_plugin.errors import UserError

Groups = Mapping[str, Sequence[str]]
"""Names in the table of options, by the heading that they stand under."""


def add_groups(parser: argparse.ArgumentParser, groups: Groups) -> None:
    """Declare options of `benco test`, and `--argument` for those of a model's constructor."""
    from sparsevit_plugin.harness.option_table import BY_NAME
    from sparsevit_plugin.harness.options import add_to_parser

    for title, names in groups.items():
        group = parser.add_argument_group(title)
        for name in names:
            add_to_parser(group, BY_NAME[name])
    parser.add_argument(
        "--argument",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an argument of the model's constructor; may be repeated",
    )


def given_options(args: argparse.Namespace, groups: Groups) -> dict[str, Any]:
    """Return the options by name, None for those not given, and the model's arguments as text.

    Args:
        args: From a parser that `add_groups` filled.
        groups: The same.

    Raises:
        UserError: An `--argument` is not NAME=VALUE.
    """
    from sparsevit_plugin.harness.option_table import BY_NAME

    names = [name for group in groups.values() for name in group]
    options = {name: vars(args)[BY_NAME[name].flag.replace("-", "_")] for name in names}
    for text in args.argument:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise UserError(f"--argument {text}: write NAME=VALUE, as in sparsity=group")
        options[name.replace("-", "_")] = value
    return options
