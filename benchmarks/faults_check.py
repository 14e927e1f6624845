"""What must hold after a strike, and after the run that goes on; part of `faults.py`."""

import csv
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from faults_lab import Task

_UNTIMED = re.compile(rb"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d)?( UTC)?")
_OF_THE_RUN = ("seconds", "created", "code_version")
_HOLD_OUT = "--val--"  # rows of the hold-out are replaced at every judgement


def look(task: Task) -> dict[str, Any]:
    """Look at the folder of a task that was struck.

    Returns:
        `problems`: files that are not whole, and steps that were lost; `kept`: finished parts, with
        what tells whether they are made again; `left`: how many temporary files there are.
    """
    problems: list[str] = []
    kept: dict[str, list[int]] = {}
    for path in _visible(task.out):
        try:
            _read_whole(path, task)
        except Exception as error:
            problems.append(f"half a file: {path.name} ({error})")
        if _is_finished_part(path):
            state = path.stat()
            kept[str(path.relative_to(task.out))] = [state.st_ino, state.st_mtime_ns]
    problems += _lost_steps(task.out)
    hidden = [path for path in task.out.rglob(".*") if ".tmp" in path.name]
    return {"problems": problems, "kept": kept, "left": len(hidden)}


def compare(task: Task, reference: Path, seen: dict[str, Any]) -> list[str]:
    """Return in what a resumed run differs from an undisturbed one.

    Args:
        task: The task, resumed to its end.
        reference: A copy of what an undisturbed run left.
        seen: What `look` returned after the strike.
    """
    problems = list(look(task)["problems"])
    for name, state in seen["kept"].items():
        path = task.out / name
        if not path.exists() or [path.stat().st_ino, path.stat().st_mtime_ns] != state:
            problems.append(f"done again: {name}")
    names = {str(path.relative_to(task.out)) for path in _visible(task.out)}
    wanted = {str(path.relative_to(reference)) for path in _visible(reference)}
    problems += [f"missing: {name}" for name in sorted(wanted - names) if not _is_log(name)]
    problems += [f"too much: {name}" for name in sorted(names - wanted) if not _is_log(name)]
    for name in sorted(names & wanted):
        if not _is_log(name) and not _equal(task.out / name, reference / name):
            problems.append(f"differs: {name}")
    return problems


def _visible(folder: Path) -> list[Path]:
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return [path for path in paths if not path.name.startswith(".") and path.suffix != ".lock"]


def _is_log(name: str) -> bool:
    """Say whether a file tells what happened, so that it differs after a strike."""
    parts = Path(name).parts
    kept = ("logs", "failed", "jobs", "locks")
    return "tfevents" in name or name.endswith("timings.jsonl") or any(p in kept for p in parts)


def _is_finished_part(path: Path) -> bool:
    rows = path.parent.name == "rows" and _HOLD_OUT not in path.name
    return rows or path.parent.name == "records"


def _lost_steps(folder: Path) -> list[str]:
    """Compare the steps that were logged with the saved state: one may be missing, the last."""
    from sparsevit_plugin.harness.checkpoint import load_state

    problems = []
    for log in folder.rglob("metrics.jsonl"):
        points = [_point(line) for line in log.read_text(encoding="utf-8").splitlines()]
        logged = [point for point in points if "lr" in point]
        if not logged:
            continue
        path = log.parent / "resume.pt"
        if not path.exists():  # of a finished cell it is not kept
            if len(logged) > 1 and not (log.parent / "cell.json").exists():
                problems.append(f"{len(logged)} steps were made, and no state is saved")
            continue
        state = load_state(path)
        steps = 1 + max(point["step"] for point in logged)
        position = state.epoch * steps + state.step if state.epoch else state.step
        if position < len(logged) - 1:
            problems.append(f"{len(logged)} steps were made, the saved state knows {position}")
    return problems


def _point(line: str) -> dict[str, Any]:
    try:
        content = json.loads(line)
    except ValueError:
        return {}  # a line torn by the strike; the run that goes on drops it
    return content if isinstance(content, dict) else {}


# --- whole files ---------------------------------------------------------------------------------


def _read_whole(path: Path, task: Task) -> None:
    """Read a file to its end.

    Raises:
        Exception: It is not whole.
    """
    if path.name in task.before and path.read_text() == task.before[path.name]:
        return
    reader = _READERS.get(path.suffix)
    if reader is not None:
        reader(path)


def _read_weights(path: Path) -> None:
    from safetensors.torch import load_file

    load_file(path)


def _read_state(path: Path) -> None:
    from sparsevit_plugin.harness.checkpoint import load_state

    load_state(path)


def _read_rows(path: Path) -> None:
    import pyarrow.parquet as pq

    if not pq.read_table(path).num_rows:
        raise ValueError("no rows")
    if path.parent.name == "rows":
        from sparsevit_plugin.results.store import load

        results = load(path.parent.parent)
        assert len(results.histograms)


def _read_picture(path: Path) -> None:
    from PIL import Image

    with Image.open(path) as picture:
        picture.load()


def _read_end(path: Path, end: str) -> None:
    text = path.read_text(encoding="utf-8")
    if not text.rstrip(" ").endswith(end):
        raise ValueError(f"does not end in {end!r}")


_READERS: dict[str, Callable[[Path], object]] = {
    ".safetensors": _read_weights,
    ".pt": _read_state,
    ".parquet": _read_rows,
    ".json": lambda path: json.loads(path.read_text(encoding="utf-8")),
    ".png": _read_picture,
    ".jpg": _read_picture,
    ".html": lambda path: _read_end(path, "</html>"),
    ".md": lambda path: _read_end(path, "\n"),
    ".csv": lambda path: _read_end(path, "\n"),
}


# --- equal files ---------------------------------------------------------------------------------


def _equal(one: Path, other: Path) -> bool:
    if one.suffix == ".safetensors":
        return _equal_weights(one, other)
    if one.suffix == ".pt":
        return _equal_states(one, other)
    if one.suffix == ".parquet":
        return _equal_rows(one, other)
    if one.name == "predictions.csv":
        return _without_seconds(one) == _without_seconds(other)
    if one.suffix in (".json", ".jsonl"):
        read = lambda path: [_timeless(line) for line in _documents(path)]  # noqa: E731
        return read(one) == read(other)
    return _UNTIMED.sub(b"", one.read_bytes()) == _UNTIMED.sub(b"", other.read_bytes())


def _equal_weights(one: Path, other: Path) -> bool:
    from safetensors.torch import load_file

    return _equal_values(load_file(one), load_file(other))


def _equal_states(one: Path, other: Path) -> bool:
    from sparsevit_plugin.harness.checkpoint import load_state

    return _equal_values(vars(load_state(one)), vars(load_state(other)))


def _equal_values(one: Any, other: Any) -> bool:  # noqa: ANN401 - nested dictionaries and tensors
    import torch

    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    if isinstance(one, dict):
        same = isinstance(other, dict) and one.keys() == other.keys()
        return same and all(_equal_values(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        same = isinstance(other, (list, tuple)) and len(one) == len(other)
        return same and all(map(_equal_values, one, other))
    return bool(one == other)


def _equal_rows(one: Path, other: Path) -> bool:
    import pyarrow.parquet as pq

    return bool(pq.read_table(one).to_pandas().equals(pq.read_table(other).to_pandas()))


def _without_seconds(path: Path) -> list[dict[str, str]]:
    rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def _documents(path: Path) -> list[Any]:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in text.splitlines()]
    return [json.loads(text)]


def _timeless(value: Any) -> Any:  # noqa: ANN401 - any JSON
    """Return a value without what tells when it was made, and by which state of the code."""
    if isinstance(value, dict):
        return {k: _timeless(v) for k, v in value.items() if k not in _OF_THE_RUN}
    if isinstance(value, list):
        return [_timeless(one) for one in value]
    return value
