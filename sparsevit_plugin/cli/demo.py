"""`benco demo`: the main job on embedded photographs, from a corpus to a cross-dataset table."""

import argparse
import os
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's flags."""
    parser.add_argument(
        "--out", type=Path, default=Path("runs/demo"), help="folder for everything (runs/demo)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of corpus and training (0)")
    parser.add_argument(
        "--workers", type=int, default=min(2, os.cpu_count() or 1), help="loader processes (2)"
    )
    parser.add_argument(
        "--scale", type=float, default=1.0, help="factor of the number of pictures (1)"
    )


def run(args: argparse.Namespace) -> int:
    """Run the demo."""
    from sparsevit_plugin.harness.demo import run_demo

    run_demo(args.out, seed=args.seed, workers=args.workers, scale=args.scale)
    return 0
