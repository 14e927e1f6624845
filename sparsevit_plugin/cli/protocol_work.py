"""`benco protocol work`: what `benco protocol run` starts for every job; not for people."""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `benco protocol work`."""
    parser.add_argument("order", type=Path, metavar="ORDER.json", help="file that says what to do")
    parser.add_argument("--processes", type=int, default=1, help="processes that share the job")


def run(args: argparse.Namespace) -> int:
    """Do one job.

    Returns:
        0, or 75 when another process has the job.

    Raises:
        UserError: The job cannot be done.
    """
    from sparsevit_plugin.harness.devices import launch_processes, under_torchrun

    if args.processes > 1 and not under_torchrun():
        return launch_processes(args.processes, ["protocol", "work", str(args.order)])
    from sparsevit_plugin.protocol.worker import run_order

    return run_order(args.order)
