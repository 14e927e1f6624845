"""Devices and processes, through Lightning Fabric.

Fabric was chosen over Accelerate because it takes its settings as arguments alone (no
configuration file, no command of its own) and leaves the loop to us; over hand-written code
because it runs the same loop on a CPU, one GPU or many, in fp32, fp16 or bf16, started by
`torchrun` or not.
"""

import os
import signal
import sys
from collections.abc import Sequence

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy

from sparsevit_plugin.errors import UserError
from sparsevit_plugin.failures import PEER_GONE, signal_in_words
from sparsevit_plugin.harness.processor import leave_out_cudnn_attention, set_up_processor

PRECISIONS = {"32": "32-true", "16-mixed": "16-mixed", "bf16-mixed": "bf16-mixed"}


def under_torchrun() -> bool:
    """Say whether a launcher (torchrun or the like) started this process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def is_main_process() -> bool:
    """Say whether this process is the one that writes and prints."""
    return int(os.environ.get("RANK", "0")) == 0


def make_fabric(
    device: str,
    precision: str,
    *,
    find_unused_parameters: bool = False,
    matmul: str = "auto",
    purpose: str = "inference",
    number_format: str = "",
) -> Fabric:
    """Return a launched Fabric for this process, its processor set up for the purpose.

    Args:
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
        precision: `auto` (fp16 autocast on a GPU, as upstream trains, else fp32), `32`,
            `16-mixed` or `bf16-mixed`.
        find_unused_parameters: Passed to DistributedDataParallel.
        matmul: `auto`, `mkl` or `onednn`: which library multiplies matrices on a CPU.
        purpose: `inference` or `training`.
        number_format: `fp32` or `bf16`: what a CPU computes in, where the precision does not say.

    Raises:
        UserError: If the device is not there, or cannot train in the precision.
    """
    accelerator, index = accelerator_of(device)
    chosen = PRECISIONS.get(precision) or ("16-mixed" if accelerator == "cuda" else "32-true")
    if purpose == "training" and accelerator == "cpu" and chosen == "16-mixed":
        # Fabric would take bfloat16 in its place, and the rows would not say so.
        raise UserError("--precision 16-mixed trains on a GPU: on a CPU take bf16-mixed or 32")
    fabric = Fabric(
        accelerator=accelerator,
        devices=_local_devices(accelerator, index),
        num_nodes=_node_count(),
        strategy=DDPStrategy(find_unused_parameters=find_unused_parameters)
        if under_torchrun()
        else "auto",
        precision=chosen,  # type: ignore[arg-type]
    )
    fabric.launch()
    leave_out_cudnn_attention()
    if accelerator == "cpu":
        set_up_processor(matmul, purpose, number_format or format_of(chosen))
    return fabric


def format_of(precision: str) -> str:
    """Return what a CPU computes most in at a precision: `fp32` or `bf16`."""
    return "bf16" if precision.startswith("bf16") else "fp32"


def accelerator_of(device: str) -> tuple[str, int | None]:
    """Split `cuda:1` into its kind and number, and check that the kind is there."""
    kind, _, number = device.partition(":")
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() else "cpu"
    available = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if kind not in available:
        raise UserError(f'--device "{device}" is not known: use auto, cpu, cuda, cuda:N or mps')
    if not available[kind]:
        raise UserError(
            f'--device {device} was asked for, but PyTorch finds none: use "--device auto"'
        )
    if number and not number.isdigit():
        raise UserError(f'--device "{device}": the part after the colon must be a number')
    if kind == "cuda" and number and int(number) >= torch.cuda.device_count():
        raise UserError(
            f"--device {device}: there are {torch.cuda.device_count()} GPUs, counted from 0"
        )
    return kind, int(number) if number else None


def shares_batch_norm(asked: bool | None, accelerator: str, world: int) -> bool:
    """Say whether BatchNorm's statistics are taken over all processes.

    Args:
        asked: `--sync-bn`: yes, no, or None for what the device allows.
        accelerator: `cpu`, `cuda` or `mps`.
        world: Number of processes.

    Raises:
        UserError: If it is asked for where PyTorch has no such thing.
    """
    if asked and accelerator != "cuda":
        raise UserError(
            f"--sync-bn: PyTorch's SyncBatchNorm works on GPUs only, and the device is "
            f"{accelerator}; leave it out (each process then uses the statistics of its own "
            "images), or train in one process with the whole batch"
        )
    return asked is not False and accelerator == "cuda" and world > 1


def _local_devices(accelerator: str, index: int | None) -> int | list[int]:
    if under_torchrun():
        return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return [index] if accelerator == "cuda" and index is not None else 1


def _node_count() -> int:
    world = int(os.environ.get("WORLD_SIZE", "1"))
    return max(1, world // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def launch_processes(count: int, arguments: Sequence[str]) -> int:
    """Run `python -m sparsevit_plugin ARGUMENTS` in `count` processes and wait for them.

    This is what `torchrun --standalone --nproc_per_node COUNT` does, with the exit code of the
    process that failed first instead of a traceback of the launcher. One that fails ends the
    others. A line says which it was, unless it was bad input, which has a line already.

    Returns:
        0, or the exit code of the first process that failed; 1 when it was killed, 128 and the
        signal's number when this process was asked to stop.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        run_id="benco",
        max_restarts=0,
    )
    try:
        elastic_launch(config, sys.executable)("-m", "sparsevit_plugin", *arguments)
    except SignalException as error:
        return 128 + int(error.sigval)
    except ChildFailedError as error:
        codes = {rank: failure.exitcode for rank, failure in error.failures.items()}
        return _say_who_failed(codes, error.get_first_failure()[0], count)
    return 0


def _say_who_failed(codes: dict[int, int], noticed: int, count: int) -> int:
    """Print which process failed first; return the job's exit code.

    Args:
        codes: Exit codes by rank, negative signals as `subprocess` has them.
        noticed: The rank that was seen first, to the second: of processes that fail together any.
        count: How many processes there are.
    """
    # The others fail because one did, and may be seen before it; SIGTERM is the launcher's.
    culprits = {
        rank: code for rank, code in codes.items() if code not in (PEER_GONE, -signal.SIGTERM)
    }
    for rank, code in culprits.items():
        if code < 0:
            print(
                f"benco: error: process {rank + 1} of {count}: {signal_in_words(-code)}; the "
                "others were stopped; run the same command again, a training with --resume auto",
                file=sys.stderr,
            )
            return 1
    rank = noticed if noticed in culprits or not culprits else next(iter(culprits))
    code = culprits.get(rank, 1)
    if code == 1:
        print(
            f"benco: error: process {rank + 1} of {count} failed first, its reason stands "
            "above; the others were stopped",
            file=sys.stderr,
        )
    return code
