"""Speed and memory of SparseViT against IMDLBenCo's, with the same weights.

    python benchmarks/model.py inference [--batch 1] [--compile] [--calibration-data PATH]
    python benchmarks/model.py training [--batch 2]
    python benchmarks/model.py profile
    python benchmarks/model.py scores --checkpoint FILE --test-data-path P --calibration-data P

Every path runs in a process of its own, set up as the command that uses it sets itself up; the
processes take turns, so that all of them see the same machine, and medians are compared. Ratios are
to IMDLBenCo's model in PyTorch, eager, in single precision, as IMDLBenCo's scripts run it.

The share is the rate of a path, with the multiply-accumulates of `benco complexity`, over the best
rate of a matrix product that any installed library reaches here in that number format. Weights are
IMDLBenCo's initialisation with every layer scale, fusion scale and BatchNorm statistic drawn at
random: at their start the attention is invisible in the map. Differences are of that map, on a
photograph; of a training step, of the gradients, as a share of the largest of each tensor.

`profile` says in which operations one forward pass of each PyTorch path spends its time. `scores`
tests one checkpoint on every backend and prints the pixel F1 of each.
"""

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from sparsevit_plugin.harness.child_process import ChildError, ChildProcess
from sparsevit_plugin.machine import processor_facts, processor_name
from sparsevit_plugin.versions import installed_version

REFERENCE = "upstream"
INFERENCE = {
    "torch fp32": ("torch", "32"),
    "torch fp32, compiled": ("torch", "32"),
    "torch bf16": ("torch", "bf16"),
    "openvino fp32": ("openvino", "32"),
    "openvino bf16": ("openvino", "bf16"),
    "openvino int8": ("openvino", "int8"),
    "onnxruntime fp32": ("onnxruntime", "32"),
}
TRAINING = (
    "upstream bf16 autocast",
    "training fp32",
    "training fp32, checkpointed",
    "training bf16 autocast",
)
FLAGS = ("amx_bf16", "amx_int8", "avx512_bf16", "avx512_vnni")
"""Instructions for products in low precision."""

SIZE = 512
MACS = 46_033_534_976
"""Of one photograph, by `benco complexity --models SparseViT --image-size 512`."""

TIMEOUT = 1800.0
"""Seconds for one answer; compiling takes minutes."""

HEADINGS = (
    *("path", "seconds", "ratio", "GFLOP/s", "share", "peak MiB", "of upstream's"),
    *("process MiB", "of upstream's", "difference, largest / mean"),
)


def main() -> None:
    """Run one of the benchmarks."""
    args = parse()
    {"scores": compare_scores, "profile": show_profiles}.get(args.what, compare_paths)(args)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("inference", "training", "profile", "scores"))
    parser.add_argument("--batch", type=int, default=0, help="images: 1, for training 2")
    parser.add_argument("--rounds", type=int, default=7, help="turns of every process")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", default="", help="paths to run, separated by semicolons")
    parser.add_argument(
        "--apart", action="store_true", help="one process after the other, for want of memory"
    )
    parser.add_argument("--compile", action="store_true", help="torch.compile too: minutes")
    parser.add_argument("--calibration-data", default="", help="photographs for int8")
    parser.add_argument("--checkpoint", default="", help="of scores")
    parser.add_argument("--test-data-path", default="", help="of scores")
    parser.add_argument("--model", default="SparseViT_tiny", help="of scores")
    args = parser.parse_args()
    args.batch = args.batch or (2 if args.what == "training" else 1)
    return args


def chosen(args: argparse.Namespace) -> list[str]:
    """Return the paths that were asked for."""
    if args.only:
        return [name.strip() for name in args.only.split(";")]
    if args.what == "training":
        return list(TRAINING)
    left_out = set() if args.compile else {"torch fp32, compiled"}
    if not args.calibration_data:
        left_out.add("openvino int8")
    return [name for name in INFERENCE if name not in left_out]


def compare_paths(args: argparse.Namespace) -> None:
    """Let every path take turns and print their table."""
    print(machine(args.threads), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        best = rates(args)
        print(f"best matrix products: {best['said']}", flush=True)
        settings = {
            "weights": str(Path(folder) / "weights.safetensors"),
            "cache": folder,
            "batch": args.batch,
            "calibration": args.calibration_data,
        }
        names = (REFERENCE, *chosen(args))
        groups = [(name,) for name in names] if args.apart else [names]
        seconds: dict[str, list[float]] = {}
        facts: dict[str, dict[str, Any]] = {}
        for group in groups:
            take_turns(args, group, settings, seconds, facts)
    print_table(args, seconds, facts, best)


def take_turns(
    args: argparse.Namespace,
    names: tuple[str, ...],
    settings: dict[str, Any],
    seconds: dict[str, list[float]],
    facts: dict[str, dict[str, Any]],
) -> None:
    """Run some paths in turns; add their seconds and facts. One that does not work is named."""
    with contextlib.ExitStack() as stack:
        processes = {}
        for name in names:
            process = stack.enter_context(child(args.threads))
            question = {"do": "make", "path": name, "training": args.what == "training"}
            try:
                process.ask({**question, **settings}, TIMEOUT)
                processes[name] = process
            except ChildError as error:
                if name == REFERENCE:
                    raise
                print(f"{name}: {error}", flush=True)
        for _ in range(args.rounds):
            for name, process in processes.items():
                taken = process.ask({"do": "run"}, TIMEOUT)["seconds"]
                seconds.setdefault(name, []).append(taken)
        for name, process in processes.items():
            facts[name] = process.ask({"do": "facts"}, TIMEOUT)


def child(threads: int) -> ChildProcess:
    """Start a process for one path."""
    return ChildProcess("model_child", child_environment(threads))


def child_environment(threads: int) -> dict[str, str]:
    """Return the environment of a process that finds the modules beside this one."""
    here = str(Path(__file__).parent)
    known = os.environ.get("PYTHONPATH", "")
    return {
        **os.environ,
        "PYTHONPATH": f"{here}{os.pathsep}{known}" if known else here,
        "OMP_NUM_THREADS": str(threads),
    }


def rates(args: argparse.Namespace) -> dict[str, Any]:
    """Measure matrix products in a process of its own."""
    with child(args.threads) as process:
        return process.ask({"do": "products"}, TIMEOUT)


def print_table(
    args: argparse.Namespace,
    seconds: dict[str, list[float]],
    facts: dict[str, dict[str, Any]],
    best: dict[str, Any],
) -> None:
    """Print medians, ratios to the reference, shares, memory and differences."""
    operations = 2 * MACS * args.batch * (3 if args.what == "training" else 1)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    reference = facts[REFERENCE]
    print(
        f"\nSparseViT, {args.what}, {args.batch} x {SIZE} x {SIZE}, {args.threads} threads, "
        f"{args.rounds} turns. Peak memory: above the imports; of the whole process.\n"
    )
    print("| " + " | ".join(HEADINGS) + " |")
    print("|---" * len(HEADINGS) + "|")
    for name, value in median.items():
        kind = "bf16" if "bf16" in name or "int8" in name else "fp32"
        rate = operations / value / 1e9
        own = facts[name]
        difference = own["difference"]
        cells = (
            *(name, f"{value:.3f}", f"{median[REFERENCE] / value:.2f}", f"{rate:.0f}"),
            *(f"{rate / best[kind]:.0%} of {kind}", f"{own['peak']:.0f}"),
            *(f"{own['peak'] / reference['peak']:.0%}", f"{own['process']:.0f}"),
            f"{own['process'] / reference['process']:.0%}",
            "-" if difference is None else f"{difference[0]:.1e} / {difference[1]:.1e}",
        )
        print("| " + " | ".join(cells) + " |")


def show_profiles(args: argparse.Namespace) -> None:
    """Print the milliseconds of one forward pass by operation."""
    print(machine(args.threads), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for path in (REFERENCE, "torch fp32", "torch bf16"):
            with child(args.threads) as process:
                question = {"do": "make", "path": path, "training": False, "calibration": ""}
                weights = str(Path(folder) / "weights.safetensors")
                process.ask(
                    {**question, "weights": weights, "cache": folder, "batch": args.batch}, TIMEOUT
                )
                found = process.ask({"do": "profile"}, TIMEOUT)["milliseconds"]
            print(f"\n{path}: {sum(found.values()):.0f} ms")
            for name, value in sorted(found.items(), key=lambda pair: -pair[1])[:10]:
                print(f"  {value:7.1f}  {name}")


def machine(threads: int) -> str:
    """Say what the figures were measured on."""
    facts = processor_facts()
    found = [facts[key] for key in ("cpu family", "model") if key in facts]
    flags = [flag for flag in FLAGS if flag in facts.get("flags", "").split()]
    name = ", ".join([processor_name(), *found, *flags])
    versions = ", ".join(
        f"{package} {installed_version(package)}"
        for package in ("torch", "openvino", "nncf", "onnxruntime")
    )
    return f"{name}; {threads} threads; {versions}"


def compare_scores(args: argparse.Namespace) -> None:
    """Test one checkpoint on every backend and print the pixel F1 of each."""
    from sparsevit_plugin.results.store import load

    with tempfile.TemporaryDirectory() as folder:
        for name, (backend, precision) in INFERENCE.items():
            if "compiled" in name:
                continue
            words = ["test", "--model", args.model, "--checkpoint", args.checkpoint]
            words += ["--test-data-path", args.test_data_path, "--output-dir", folder]
            words += ["--backend", backend, "--precision", precision, "--device", "cpu"]
            if precision == "int8":
                words += ["--calibration-data", args.calibration_data]
            command = [sys.executable, "-m", "sparsevit_plugin", *words]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        print(load(folder).table(metric="pixel_f1").to_markdown(digits=4))


if __name__ == "__main__":
    main()
