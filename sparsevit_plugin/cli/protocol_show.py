"""`benco protocol show`: what a protocol trains on, tests on, and how checkpoints are chosen."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `benco protocol show`."""
    parser.add_argument("protocol", metavar="PROTOCOL", help="name of a protocol, or a YAML file")
    parser.add_argument("--json", action="store_true", help="print it as JSON")


def run(args: argparse.Namespace) -> int:
    """Print one protocol.

    Raises:
        UserError: There is no such protocol, or its card is wrong.
    """
    from sparsevit_plugin.cli.protocol_list import describe
    from sparsevit_plugin.protocol.schema import load_protocol

    protocol = load_protocol(args.protocol)
    print(protocol.model_dump_json(indent=2) if args.json else describe(protocol))
    return 0
