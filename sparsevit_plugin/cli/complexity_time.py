"""The part of `benco complexity` that measures: time, throughput and memory."""

import argparse
import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from sparsevit_plugin.backends.choices import BACKENDS
from sparsevit_plugin.errors import UserError
from sparsevit_plugin.files import prove_writable
from sparsevit_plugin.model.choices import MATMULS

if TYPE_CHECKING:
    from sparsevit_plugin.complexity.columns import CostTable
    from sparsevit_plugin.harness.cost_table import Request

_BATCHES = "1,2,4,8"
_REPEATS = 10
_TIMEOUT = 600.0
_ANY_MODEL = "SparseViT"  # with which options are checked that are the same for all models
# What means nothing without --time; each is None or False where it is not given.
_OF_TIME = (
    *("batch_sizes", "training", "repeats", "relative_to", "device", "backend", "precision"),
    *("matmul", "threads", "timeout", "output_dir", "calibration_data", "calibration_images"),
)


def add_time_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare `--time` and what goes with it."""
    group = parser.add_argument_group("measuring", "how to report these figures: docs/cost.md")
    group.add_argument(
        "--time",
        action="store_true",
        help="measure as well: latency, images a second and peak memory, each model in a process "
        "of its own",
    )
    group.add_argument(
        "--batch-sizes", metavar="N[,N...]", help=f"images a call (default: {_BATCHES})"
    )
    group.add_argument(
        "--training",
        action="store_true",
        help="measure a training step too: forward, loss and backward, without the optimiser",
    )
    group.add_argument(
        "--repeats", type=int, metavar="N", help=f"timed calls (default: {_REPEATS})"
    )
    group.add_argument(
        "--relative-to",
        metavar="MODEL",
        help="measure this model in turns with every other, at the same size, and give the ratios",
    )
    group.add_argument("--device", help="auto, cpu, cuda, cuda:N or mps (default: auto)")
    group.add_argument("--backend", choices=BACKENDS, help="what computes (default: torch)")
    group.add_argument(
        "--precision", metavar="NAME", help="one of the backend's, as in benco test (default: auto)"
    )
    group.add_argument(
        "--calibration-data",
        metavar="PATH",
        help="for --precision int8, as in benco test: training photographs",
    )
    group.add_argument(
        "--calibration-images", type=int, metavar="N", help="of these, as in benco test"
    )
    group.add_argument(
        "--matmul",
        choices=MATMULS,
        help="which library multiplies matrices on a CPU, as in benco test (default: auto)",
    )
    group.add_argument(
        "--threads", type=int, metavar="N", help="of the CPU (default: as PyTorch chooses)"
    )
    group.add_argument(
        "--timeout",
        type=float,
        metavar="SECONDS",
        help="give up on a model that takes longer to build, to warm up at a batch size, or for a "
        f"fifth of its timed calls (default: {_TIMEOUT:g})",
    )
    group.add_argument(
        "--output-dir",
        metavar="DIR",
        help="keep what was measured there, a file a model; the same command goes on from it "
        "(default: complexity below --runs)",
    )


def check_time_arguments(args: argparse.Namespace) -> None:
    """Refuse values that cannot be used, before anything is counted.

    Raises:
        UserError: For the first of them; or the folder cannot be written.
    """
    if not args.time:
        for name in _OF_TIME:
            if getattr(args, name) not in (None, False):
                raise UserError(f"--{name.replace('_', '-')} is of --time: add --time")
        return
    _batch_sizes(args.batch_sizes or _BATCHES)
    for name in ("repeats", "threads", "timeout"):
        value = getattr(args, name)
        if value is not None and not value > 0:
            raise UserError(f"--{name} {value:g}: give a number above 0")
    if (args.timeout or 0) > threading.TIMEOUT_MAX:
        raise UserError(
            f"--timeout {args.timeout:g}: give at most {threading.TIMEOUT_MAX:g} seconds"
        )
    _check_what_computes(args)
    prove_writable(Path(_request(args).folder), "--output-dir")


def _check_what_computes(args: argparse.Namespace) -> None:
    """Refuse a device, a backend or a reference that is not there, and what they cannot do."""
    from sparsevit_plugin.backends.choices import INT8, require
    from sparsevit_plugin.backends.from_config import calibration_sets, choice_of
    from sparsevit_plugin.harness.config import resolve
    from sparsevit_plugin.harness.cost_child import refuse_without_backward
    from sparsevit_plugin.harness.measured_cost import device_name

    device_name(args.device or "auto")
    subject = replace(_request(args).subject, model=args.relative_to or _ANY_MODEL)
    cfg = resolve("test", subject.command())
    backend, precision = choice_of(cfg)
    require(backend)
    if args.training:
        refuse_without_backward(cfg)
    if precision == INT8:
        calibration_sets(cfg)
    for name in ("calibration-data", "calibration-images"):
        if precision != INT8 and getattr(args, name.replace("-", "_")) is not None:
            raise UserError(f"--{name} is of --precision int8")


def measured(costs: "CostTable", args: argparse.Namespace) -> "CostTable":
    """Add measured costs to a table of counts where `--time` asks for them.

    Raises:
        UserError: The folder cannot be written.
    """
    if not args.time:
        return costs
    from sparsevit_plugin.harness.cost_table import with_measured

    return with_measured(costs, _request(args))


def _request(args: argparse.Namespace) -> "Request":
    from sparsevit_plugin.harness.cost_table import Request
    from sparsevit_plugin.harness.measured_cost import Settings, Subject

    subject = Subject(
        model="",
        device=args.device or "auto",
        backend=args.backend or "torch",
        precision=args.precision or "auto",
        threads=args.threads,
        matmul=args.matmul or "auto",
        imports=tuple(args.imports),
        words=tuple(
            word
            for name in ("calibration_data", "calibration_images")
            if (value := getattr(args, name)) is not None
            for word in (f"--{name.replace('_', '-')}", str(value))
        ),
    )
    settings = Settings(
        batch_sizes=_batch_sizes(args.batch_sizes or _BATCHES),
        training=args.training,
        repeats=args.repeats or _REPEATS,
        timeout=args.timeout or _TIMEOUT,
    )
    folder = args.output_dir or str(Path(args.runs) / "complexity")
    return Request(subject, settings, args.relative_to or "", folder)


def _batch_sizes(text: str) -> tuple[int, ...]:
    """Read `--batch-sizes`, smallest first.

    Raises:
        UserError: A word is no number of images.
    """
    sizes = set()
    for word in filter(None, (word.strip() for word in text.split(","))):
        if not (word.isdecimal() and int(word)):
            raise UserError(f'--batch-sizes: "{word}" is no number of images')
        sizes.add(int(word))
    if not sizes:
        raise UserError(f"--batch-sizes names no size: give numbers of images such as {_BATCHES}")
    return tuple(sorted(sizes))
