"""SparseViT on a GPU against IMDLBenCo's, with the same weights: `python benchmarks/gpu.py`.

Every path at every batch runs in a process of its own. All are built side by side, for compiling
takes long; one that is not ready after `--build-seconds` is left out. Those of a batch are then
measured in turns, with nothing else running, and medians are compared. Ratios are to
IMDLBenCo's model, eager, in fp16 autocast, as its scripts run it on a GPU. A training step is
forward, loss and backward, with stochastic depth. Peak memory is the most that PyTorch had
allocated, weights included. Differences are to IMDLBenCo's model in single precision (TF32 off): of
the map of photographs; in training, of the gradients, each as a share of its tensor's largest.
"""

import argparse
import concurrent.futures
import contextlib
import itertools
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from model import child_environment

from sparsevit_plugin.harness.child_process import ChildError, ChildProcess

REFERENCE = "upstream fp16"
EXACT = "upstream fp32"
PATHS = (EXACT, REFERENCE, "fp32", "fp16", "bf16", "fp16 compiled", "bf16 compiled")
TIMEOUT = 120.0
"""Seconds for one answer of a path that is built."""
COMPILING = "compiled"

HEADINGS = (
    *("path", "milliseconds", "ratio", "images/s", "peak MiB", "of upstream fp16's"),
    "difference, largest / mean",
)


class Lane(NamedTuple):
    """A path at a batch."""

    what: str
    batch: int
    path: str


def main() -> int:
    """Measure, and print a table for every batch."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batches", default="1,8,16", metavar="N[,N...]")
    parser.add_argument("--what", default="inference,training")
    parser.add_argument("--rounds", type=int, default=7, help="turns of every process")
    parser.add_argument("--seconds", type=float, default=0.1, help="length of a turn")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--model", default="SparseViT", help="SparseViT, or a smaller one to try")
    parser.add_argument("--build-seconds", type=float, default=600.0, metavar="N")
    parser.add_argument("--only", default="", help="paths to run, separated by semicolons")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        print("error: no GPU that PyTorch can use", file=sys.stderr)
        return 2
    print(machine(args.device), flush=True)
    lanes = [
        Lane(what, int(batch), path)
        for what in args.what.split(",")
        for batch in args.batches.split(",")
        for path in chosen(args)
    ]
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        built = build(args, lanes, folder, stack)
        for _, group in itertools.groupby(lanes, key=lambda lane: lane[:2]):
            compare(args, {lane: built[lane] for lane in group if lane in built})
    return 0


def chosen(args: argparse.Namespace) -> list[str]:
    """Return the paths that were asked for."""
    only = [name.strip() for name in args.only.split(";") if name]
    return [path for path in PATHS if path in only or not only]


def machine(device: str) -> str:
    """Say what the figures were measured on."""
    name = torch.cuda.get_device_name() if device == "cuda" else device
    return f"{name}; torch {torch.__version__}"


def build(
    args: argparse.Namespace, lanes: list[Lane], folder: str, stack: contextlib.ExitStack
) -> dict[Lane, ChildProcess]:
    """Build every path in a process of its own, as many at once as there are cores.

    One that fails, or is not ready in time, is named.
    """
    # Each process would otherwise keep as many compilers as there are cores.
    environment = {**child_environment(threads=1), "TORCHINDUCTOR_COMPILE_THREADS": "2"}
    question = {"do": "make", "device": args.device, "name": args.model, "folder": folder}
    question["weights"] = str(Path(folder) / "weights.safetensors")
    built: dict[Lane, ChildProcess] = {}
    began = time.monotonic()

    def make(lane: Lane) -> None:
        left = began + args.build_seconds - time.monotonic()
        process = stack.enter_context(ChildProcess("gpu_child", environment))
        try:
            process.ask({**question, **lane._asdict()}, max(left, 0.0))
            built[lane] = process
        except ChildError as error:
            print(f"{lane.what}, batch {lane.batch}, {lane.path}: {error}", flush=True)

    make(lanes[0])  # it writes the weights that the others load
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        longest_first = sorted(lanes[1:], key=lambda lane: COMPILING not in lane.path)
        list(pool.map(make, longest_first))
    print(f"built {len(built)} of {len(lanes)} in {time.monotonic() - began:.0f} s", flush=True)
    return built


def compare(args: argparse.Namespace, lanes: dict[Lane, ChildProcess]) -> None:
    """Let the paths of one batch take turns, and print their table."""
    if not lanes:
        return
    what, batch, _ = next(iter(lanes))
    processes = {lane.path: process for lane, process in lanes.items()}
    turns: dict[str, list[float]] = {path: [] for path in processes}
    for _ in range(args.rounds):
        for path, process in processes.items():
            taken = process.ask({"do": "run", "seconds": args.seconds}, TIMEOUT)
            turns[path].append(taken["milliseconds"])
    facts = {path: process.ask({"do": "facts"}, TIMEOUT) for path, process in processes.items()}
    median = {path: statistics.median(values) for path, values in turns.items()}
    print(f"\n{args.model}, {what}, {batch} x 512 x 512, {args.rounds} turns\n")
    print("| " + " | ".join(HEADINGS) + " |")
    print("|---" * len(HEADINGS) + "|")
    for path, value in median.items():
        print("| " + " | ".join(cells_of(path, value, batch, median, facts)) + " |", flush=True)


def cells_of(
    path: str,
    value: float,
    batch: int,
    median: dict[str, float],
    facts: dict[str, dict[str, Any]],
) -> list[str]:
    """Return the cells of one path."""
    own, reference = facts[path], facts.get(REFERENCE)
    difference = own["difference"]
    times = f"{median[REFERENCE] / value:.2f}" if reference else "-"
    share = f"{own['peak'] / reference['peak']:.0%}" if reference and reference["peak"] else "-"
    return [
        path,
        f"{value:.2f}",
        times,
        f"{1000 * batch / value:.0f}",
        f"{own['peak']:.0f}",
        share,
        "-" if difference is None else f"{difference[0]:.1e} / {difference[1]:.1e}",
    ]


if __name__ == "__main__":
    sys.exit(main())
