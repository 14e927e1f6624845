"""`benco protocol work`: what `benco protocol run` starts for every job; not for people."""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `benco protocol work`."""
    parser.add_argument("order", type=Path, metavar="ORDER.json", help="file that says what to do")


def run(args: argparse.Namespace) -> int:
    """Do one job.

    Returns:
        0, or 75 when another process has the job.

    Raises:
        UserError: The job cannot be done.
    """
    from sparsevit_plugin.protocol.worker import run_order

    return run_order(args.order)
