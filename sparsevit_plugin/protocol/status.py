"""How far the jobs that were asked for are, from what the folder remembers alone."""

from typing import Any

from sparsevit_plugin.errors import UserError
from sparsevit_plugin.protocol.folder import ProtocolFolder
from sparsevit_plugin.protocol.plan import Prints, State, TestCell, TrainCell, state_of


def job_states(folder: ProtocolFolder) -> list[dict[str, Any]]:
    """Return the state of every job that was asked for.

    Returns:
        One dict per job: `label`, `seed`, `training` (in words), `tested` and `tests` (numbers of
        cells), `finished`, `running`, `failure` (its record or None).

    Raises:
        UserError: Nothing was run here, or a file of the folder is damaged.
    """
    plan = folder.plan()
    if plan is None:
        name = folder.path.name
        raise UserError(
            f"{folder.path}: nothing was run here yet; see benco protocol run {name} --help"
        )
    finished = folder.finished_tests()
    return [_state(job, folder, finished) for job in plan["jobs"]]


def _state(
    job: dict[str, Any], folder: ProtocolFolder, finished: dict[str, list[dict[str, Any]]]
) -> dict[str, Any]:
    train = None
    if job["train"] is not None:
        train = TrainCell(**{**job["train"], "prints": Prints(**job["train"]["prints"])})
    tests = tuple(TestCell(**{**c, "prints": Prints(**c["prints"])}) for c in job["tests"])
    state = state_of(train, tests, folder, finished)
    running = folder.is_locked(job["name"])
    return {
        "label": job["label"],
        "seed": job["seed"],
        "group": job["group"],
        "training": _training(train, state, folder, running=running),
        "tested": len(state.done),
        "tests": len(tests),
        "finished": state.finished,
        "running": running,
        "failure": None if state.finished else folder.failure(job["name"]),
    }


def _training(
    train: TrainCell | None, state: State, folder: ProtocolFolder, *, running: bool
) -> str:
    if train is None:
        return "none needed"
    if state.trained:
        return "finished" if state.weights or not state.missing else "to be repeated (weights gone)"
    begun = (folder.train_folder(train.folder) / "resume.pt").is_file()
    if running:
        return "running"
    return "begun" if begun else "not begun"
