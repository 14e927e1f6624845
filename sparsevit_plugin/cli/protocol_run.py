"""`benco protocol run`: train and test every model of a protocol, as far as it is not done."""

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sparsevit_plugin.cli.parser import listed
from sparsevit_plugin.errors import UserError, suggest
from sparsevit_plugin.protocol import KEEP

if TYPE_CHECKING:
    from sparsevit_plugin.protocol.folder import ProtocolFolder
    from sparsevit_plugin.protocol.launchers import Launcher
    from sparsevit_plugin.protocol.plan import Plan
    from sparsevit_plugin.protocol.request import Request
    from sparsevit_plugin.protocol.runner import Outcome, Slot

FAILED: Final = 1

_EXAMPLES = """\
examples:
  benco protocol run demo --models all --weights none --tiny
  benco protocol run mvss --data-root /data --weights-root /weights \\
      --models SparseViT,MVSSNet,Mesorch --seeds 0,1,2 --dry-run
  benco protocol run mvss --data-root /data --models SparseViT@official.pth,Trufor@trufor.pth
  benco protocol run mvss --data-root /data --models '*resnet*' --recipe sparsevit-paper
  benco protocol run ablation-sparsity --data-root /data --models published,dense --seeds 0
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `benco protocol run`."""
    parser.epilog = _EXAMPLES
    parser.add_argument("protocol", metavar="PROTOCOL", help="name of a protocol, or a YAML file")
    add_run_arguments(parser)


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what says how a protocol is run, all but its name."""
    _add_what(parser)
    _add_where(parser)
    _add_how(parser)


def _add_what(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what is run")
    group.add_argument(
        "--models",
        default="",
        metavar="NAME[,NAME...]",
        help="rows of the table: all, names of the protocol's own rows or of model cards, patterns "
        "such as '*resnet*', and NAME@FILE for a ready checkpoint, which is only tested (default: "
        "the protocol's own rows)",
    )
    group.add_argument(
        "--seeds", default="", metavar="N[,N...]", help="training seeds (the protocol's; else 42)"
    )
    group.add_argument(
        "--recipe",
        default="",
        help="train all models by this recipe, as a row group of its own; what a model is fed "
        "stays as its card has it (default: each card's recipe)",
    )
    group.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="OPTION=VALUE",
        dest="settings",
        help="set an option of benco train or test for every model, as --set epochs=10; may be "
        "repeated",
    )
    group.add_argument(
        "--trained-on",
        default="",
        metavar="TEXT",
        help="what the ready checkpoints were trained on",
    )
    group.add_argument(
        "--selection", default="", metavar="TEXT", help="how the ready checkpoints were chosen"
    )
    group.add_argument(
        "--tiny",
        action="store_true",
        help="each model at its smallest size, two training steps, four images of every set: to "
        "see that everything runs",
    )
    group.add_argument(
        "--defects",
        choices=("mended", "upstream"),
        default="mended",
        help="published code's known defects (see the cards): mended, or upstream to match "
        "published tables (default: mended)",
    )


def _add_where(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("where things are")
    group.add_argument("--data-root", default="", metavar="DIR", help="folder of the sets")
    group.add_argument(
        "--data-paths",
        default="",
        metavar="FILE",
        help="YAML file of set name to path, for sets elsewhere (default: DATA_ROOT/paths.yaml)",
    )
    group.add_argument(
        "--weights-root", default="", metavar="DIR", help="folder of pretraining files"
    )
    group.add_argument(
        "--weights",
        choices=("card", "hub", "none"),
        default="",
        help="start from the files that each card names, from those on the Hugging Face Hub alone, "
        "or from random weights (default: what the protocol says, or else card)",
    )
    group.add_argument(
        "--runs", default="runs", metavar="DIR", help="everything goes to DIR/PROTOCOL (runs)"
    )
    group.add_argument(
        "--import",
        dest="imports",
        action="append",
        default=[],
        metavar="FILE.py|MODULE",
        help="run the registrations of your own code first; may be repeated",
    )
    group.add_argument(
        "--keep",
        choices=KEEP,
        default="best",
        help="of a finished training keep everything, its best weights, or none of them (best)",
    )


def _add_how(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("how it is run")
    group.add_argument(
        "--dry-run", action="store_true", help="print the plan and its cost, and stop"
    )
    group.add_argument(
        "--probe-steps",
        type=int,
        default=0,
        metavar="N",
        help="measure N training steps of each model first, for the hours of --dry-run",
    )
    group.add_argument(
        "--verify",
        action="store_true",
        help="compare data with finished cells by contents, not by names, sizes and times",
    )
    group.add_argument(
        "--jobs",
        type=int,
        default=None,
        metavar="N",
        help="models at once (one per GPU, else 1; on a cluster all)",
    )
    group.add_argument(
        "--processes",
        type=int,
        default=1,
        metavar="N",
        help="processes that train one model together, by torchrun (1)",
    )
    group.add_argument(
        "--launcher",
        choices=("local", "slurm"),
        default="local",
        help="processes of this machine, or a job of a Slurm cluster for every row (local)",
    )
    group.add_argument(
        "--slurm",
        action="append",
        default=[],
        metavar="OPTION=VALUE",
        help="an option of sbatch for every job, as partition=gpu, time=12:00:00 or "
        "gpus-per-node=1; may be repeated",
    )
    group.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    group.add_argument(
        "--precision", default="", help="auto, 32, 16-mixed or bf16-mixed (each card's)"
    )


def run(args: argparse.Namespace) -> int:
    """Run what is missing, or say what would be.

    Returns:
        0 when every cell is there, 1 when some job failed.

    Raises:
        UserError: Something cannot be run as asked; nothing was started.
    """
    from sparsevit_plugin.protocol.folder import ProtocolFolder
    from sparsevit_plugin.protocol.plan import make_plan
    from sparsevit_plugin.protocol.schema import load_protocol

    protocol = load_protocol(args.protocol)
    request = request_of(args, protocol.seeds)
    folder = ProtocolFolder(Path(args.runs) / protocol.name)
    return carry_out(args, make_plan(request, folder), folder)


def carry_out(args: argparse.Namespace, plan: "Plan", folder: "ProtocolFolder") -> int:
    """Run what is missing of a plan, or say what would be.

    Args:
        args: The arguments of `add_run_arguments`.
        plan: The plan.
        folder: The protocol's folder.

    Returns:
        0 when every cell is there, or was only to be listed; 1 when some job failed.
    """
    from sparsevit_plugin.protocol.cost import print_plan
    from sparsevit_plugin.protocol.plan import unverified
    from sparsevit_plugin.protocol.runner import Runner

    slots, launcher = _slots(args, len(plan.jobs)), _launcher(args, folder)
    command = shlex.join(["benco", *sys.argv[1:]])
    if args.probe_steps:
        probe = Runner(plan, folder, slots[:1], probe_steps=args.probe_steps, launcher=launcher)
        for job, failure in probe.run().failed:
            print(f"not measured: {job.label}: {failure['reason']} (log {failure['log']})")
    if args.verify:
        print(_about_verifying(unverified(plan, folder)))
    if args.dry_run:
        print_plan(plan, folder, keep=args.keep)
        return 0
    runner = Runner(plan, folder, slots, keep=args.keep, command=command, launcher=launcher)
    outcome = runner.run()
    return _report(outcome, folder, args)


def _about_verifying(count: int) -> str:
    if not count:
        return "verified: every finished cell's data was compared by contents"
    return (
        f"not verified: {count} finished cells were made without --verify, so that their data is "
        "known by names, sizes and times only"
    )


def request_of(args: argparse.Namespace, seeds: Sequence[int] = ()) -> "Request":
    """Return the request that a command line makes.

    Args:
        args: The arguments of `add_run_arguments`, and `protocol`.
        seeds: Training seeds where the command line names none.

    Raises:
        UserError: A list or a setting is not of its form.
    """
    from sparsevit_plugin.protocol.request import Request

    if args.processes < 1 or (args.jobs is not None and args.jobs < 1) or args.probe_steps < 0:
        raise UserError("--jobs, --processes and --probe-steps must be positive")
    return Request(
        protocol=args.protocol,
        models=tuple(listed(args.models) or ()),
        seeds=_seeds(args.seeds) if args.seeds else tuple(seeds),
        data_root=args.data_root,
        data_paths=args.data_paths,
        weights=args.weights,
        weights_root=args.weights_root,
        recipe=args.recipe,
        settings=dict(_setting(text) for text in args.settings),
        tiny=args.tiny,
        defects=args.defects,
        device=args.device,
        precision=args.precision,
        processes=args.processes,
        imports=tuple(args.imports),
        verify=args.verify,
        trained_on=args.trained_on,
        selection=args.selection,
    )


def _seeds(text: str) -> tuple[int, ...]:
    words = listed(text)
    if not words or not all(word.isdigit() for word in words):
        raise UserError(f'--seeds "{text}": expected whole numbers such as 0,1,2')
    return tuple(dict.fromkeys(int(word) for word in words))


def _setting(text: str) -> tuple[str, str]:
    from sparsevit_plugin.harness.option_table import BY_NAME
    from sparsevit_plugin.protocol.schema import SETTLED

    name, equals, value = text.partition("=")
    name = name.strip().lstrip("-").replace("-", "_")
    if not equals or not name:
        raise UserError(f'--set "{text}": expected OPTION=VALUE, as in --set epochs=10')
    option = BY_NAME.get(name)
    if option is None or name in SETTLED:
        allowed = [known for known in BY_NAME if known not in SETTLED]
        raise UserError(
            f"--set {name}: no option that holds for all models.{suggest(name, allowed)}"
        )
    return name, value


def _slots(args: argparse.Namespace, rows: int) -> "list[Slot]":
    import torch

    from sparsevit_plugin.protocol.runner import Slot, make_slots

    if args.launcher == "slurm":  # the cluster has its own queue
        return [Slot()] * (args.jobs or max(rows, 1))
    gpus = torch.cuda.device_count() if args.device in ("auto", "cuda") else 0
    return make_slots(args.jobs, args.processes, gpus, os.cpu_count() or 1)


def _launcher(args: argparse.Namespace, folder: "ProtocolFolder") -> "Launcher | None":
    """Return what starts the jobs; None for this machine.

    Raises:
        UserError: Options of a cluster without one, or it cannot be used.
    """
    from sparsevit_plugin.protocol.launchers import SlurmLauncher, slurm_options

    if args.launcher == "slurm":
        return SlurmLauncher(folder.path / "slurm", slurm_options(args.slurm))
    if args.slurm:
        raise UserError("--slurm is of --launcher slurm")
    return None


def _report(outcome: "Outcome", folder: "ProtocolFolder", args: argparse.Namespace) -> int:
    """Say what came of the run, and how to see it."""
    parts = [f"{len(outcome.done)} rows done now", f"{len(outcome.finished)} were done before"]
    if outcome.others:
        parts.append(f"{len(outcome.others)} were done by another runner")
    if outcome.failed:
        parts.append(f"{len(outcome.failed)} failed")
    print("; ".join(parts))
    for job, failure in outcome.failed:
        print(f"  failed: {job.label}, seed {job.seed}: {failure['reason']} (log {failure['log']})")
    name = folder.path.name
    runs = "" if args.runs == "runs" else f" --runs {shlex.quote(args.runs)}"
    print(f"table: benco table {name}{runs}")
    print(f"state: benco protocol status {name}{runs}")
    return FAILED if outcome.failed else 0
