"""What a plan costs: images x epochs x MACs, and hours where they were measured on this device."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch

from sparsevit_plugin.harness.complexity import cached_count
from sparsevit_plugin.harness.devices import accelerator_of
from sparsevit_plugin.harness.progress import Progress
from sparsevit_plugin.protocol.folder import ProtocolFolder, timed_device
from sparsevit_plugin.protocol.keys import backend
from sparsevit_plugin.protocol.plan import Job, Plan, State, state_of, testing_config
from sparsevit_plugin.results.render import print_grid

UNKNOWN: Final = "unknown"
_HOUR: Final = 3600.0


@dataclass(frozen=True)
class Cost:
    """What is left to do of a job.

    Attributes:
        train_images: Training images, over all epochs.
        test_images: Test images, over all sets and perturbations.
        macs: Of one forward pass; None when they cannot be counted.
        seconds: None where nothing of this kind was timed in this store on this device.
    """

    train_images: int
    test_images: int
    macs: int | None
    seconds: float | None


def job_cost(job: Job, state: State, macs: int | None, timings: Sequence[dict[str, Any]]) -> Cost:
    """Return what is left to do of a job.

    Args:
        job: The job.
        state: How far it is.
        macs: Of one forward pass of its model.
        timings: Of this device, from the protocol's folder.
    """
    train = job.train.images * job.train.epochs if job.train and state.must_train else 0
    test = sum(cell.images for cell in state.missing)
    parts = [
        0.0 if not images else _seconds(job, kind, images, timings)
        for kind, images in (("train", train), ("test", test))
    ]
    known = [part for part in parts if part is not None]
    return Cost(train, test, macs, sum(known) if len(known) == len(parts) else None)


def _seconds(job: Job, kind: str, images: int, timings: Sequence[dict[str, Any]]) -> float | None:
    """Scale what images of this model, size and precision took here; None where none were timed."""
    wanted = {
        "kind": kind,
        "card": job.config.model,
        "image_size": job.config.image_size,
        **backend(job.config),
    }
    same = [entry for entry in timings if all(entry.get(k) == v for k, v in wanted.items())]
    timed = sum(entry["images"] for entry in same)
    return None if not timed else images * sum(entry["seconds"] for entry in same) / timed


def print_plan(plan: Plan, folder: ProtocolFolder, *, keep: str) -> None:
    """Print every row of a plan with what is left to do and its cost."""
    finished = folder.finished_tests()
    timings = _timings_here(plan, folder)
    rows = [["model", "seed", "training", "sets", "images trained", "images tested"]]
    rows[0] += ["GMACs each", "PMACs forward", "hours"]
    costs = []
    with Progress(len(plan.jobs), "counting MACs") as progress:
        for job in plan.jobs:
            state = state_of(job.train, job.tests, folder, finished)
            cost = job_cost(job, state, _macs(job, folder), timings)
            costs.append(cost)
            rows.append(_row(job, state, cost))
            progress.advance()
    print_grid(rows, _summary(plan, costs, keep))


def _timings_here(plan: Plan, folder: ProtocolFolder) -> list[dict[str, Any]]:
    kind, _ = accelerator_of(plan.request.device)
    device = timed_device(torch.device(kind))
    processes = plan.request.processes
    return [
        entry
        for entry in folder.timings()
        if entry.get("device") == device and entry.get("processes") == processes
    ]


def _macs(job: Job, folder: ProtocolFolder) -> int | None:
    try:
        return cached_count(testing_config(job.config), folder.complexity).macs
    except Exception:  # anybody's constructor may raise anything; the run will say what
        return None


def _row(job: Job, state: State, cost: Cost) -> list[str]:
    images = cost.train_images + cost.test_images
    training = "-" if job.train is None else ("to do" if state.must_train else "finished")
    return [
        job.label,
        str(job.seed),
        training,
        f"{len(state.missing)} of {len(job.tests)} to do",
        f"{cost.train_images:,}",
        f"{cost.test_images:,}",
        UNKNOWN if cost.macs is None else f"{cost.macs / 1e9:.1f}",
        UNKNOWN if cost.macs is None else f"{images * cost.macs / 1e15:.3g}",
        UNKNOWN if cost.seconds is None else f"{cost.seconds / _HOUR:.2f}",
    ]


def _summary(plan: Plan, costs: Sequence[Cost], keep: str) -> list[str]:
    images = sum(cost.train_images + cost.test_images for cost in costs)
    unknown = sum(cost.macs is None for cost in costs)
    macs = sum((c.train_images + c.test_images) * c.macs for c in costs if c.macs is not None)
    hours = [cost.seconds for cost in costs]
    known = [seconds for seconds in hours if seconds is not None]
    without = f" without the {unknown} rows whose MACs are unknown" if unknown else ""
    lines = [
        f"In all {images:,} images, {macs / 1e15:.3g} PMACs of forward passes{without}: images "
        "trained (an epoch's x epochs, a hold-out included) and tested, x MACs of one forward pass "
        "by torch.utils.flop_counter. Backward passes come on top.",
        f"Hours: {sum(known) / _HOUR:.2f} for the {len(known)} of {len(hours)} rows that were "
        "timed in this store on this device, one at a time; --probe-steps 20 measures the others.",
    ]
    sets = ", ".join(f"{name} {len(source):,}" for name, source in plan.data.tests.items())
    trained = ", ".join(f"{name} {len(source):,}" for name, source in plan.data.train.items())
    lines.append(f"Images: train {trained or 'none'}; test {sets}.")
    if keep != "best":
        lines.append(f"Of finished trainings is kept: {keep}.")
    return lines
