"""The folder of a protocol's runs, and what it remembers.

::

    runs/<protocol>/
        plan.json              what was asked for, for `benco protocol status`
        train/<cell>/          one training: the run's own files, and cell.json once it is finished
        results/               the rows, see `sparsevit_plugin.results.store`
        logs/<job>.log         what each job printed
        failed/<job>.json      why a job ended without its cells; gone when it succeeds
        locks/<job>.lock       held while a job runs
        jobs/<job>.json        what a job's process is to do
        timings.jsonl          how long images took, by model and device
        complexity/            counted parameters and MACs
"""

import json
import os
import platform
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from sparsevit_plugin.errors import UserError
from sparsevit_plugin.files import parse_json, write_json_atomic
from sparsevit_plugin.results.store import Store

RECORD = "cell.json"


class ProtocolFolder:
    """Reads and writes what a protocol's folder remembers.

    Args:
        path: The folder; made when something is first written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.store = Store(path / "results")

    def train_folder(self, cell: str) -> Path:
        """Return the folder of a training."""
        return self.path / "train" / cell

    def log_file(self, job: str) -> Path:
        """Return the file with what a job printed."""
        return self.path / "logs" / f"{job}.log"

    def lock(self, name: str) -> FileLock:
        """Return the lock of a job, or of a training; taking it never waits."""
        folder = self.path / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        return FileLock(folder / f"{name}.lock", timeout=0)

    def is_locked(self, name: str) -> bool:
        """Say whether some process on this file system has a lock."""
        if not (self.path / "locks" / f"{name}.lock").exists():
            return False
        try:
            with self.lock(name):
                return False
        except (Timeout, OSError):
            return True

    def job_file(self, job: str) -> Path:
        """Return the file that says what a job is to do."""
        return self.path / "jobs" / f"{job}.json"

    @property
    def complexity(self) -> Path:
        """The folder of counted complexities."""
        return self.path / "complexity"

    @property
    def plan_file(self) -> Path:
        """What was asked for."""
        return self.path / "plan.json"

    def plan(self) -> dict[str, Any] | None:
        """Return what was asked for, None where nothing was.

        Raises:
            UserError: The file is damaged.
        """
        return _read_json(self.plan_file)

    def training_record(self, cell: str) -> dict[str, Any] | None:
        """Return what is known of a finished training, None where it is not finished."""
        return _read_json(self.train_folder(cell) / RECORD)

    def forget_training(self, cell: str) -> None:
        """Note that a training is to be repeated; what is stored of its weights is void then."""
        (self.train_folder(cell) / RECORD).unlink(missing_ok=True)

    def write_training_record(self, cell: str, record: Mapping[str, Any]) -> None:
        """Note that a training is finished; the last file of it that is written."""
        write_json_atomic(self.train_folder(cell) / RECORD, dict(record))

    def training_records(self, key: str) -> dict[str, dict[str, Any]]:
        """Return the records of all finished trainings with a key by their folders' names.

        Raises:
            UserError: A record is damaged.
        """
        paths = sorted(self.path.glob(f"train/*/{RECORD}"))
        records = {path.parent.name: _read_json(path) for path in paths}
        return {name: record for name, record in records.items() if record and record["key"] == key}

    def finished_tests(self) -> dict[str, list[dict[str, Any]]]:
        """Return the facts of every finished test cell by its key.

        Raises:
            UserError: A row file is broken.
        """
        found: dict[str, list[dict[str, Any]]] = {}
        for note in self.store.all_notes():
            if "cell" in note["facts"]:
                found.setdefault(note["facts"]["cell"], []).append(note["facts"])
        return found

    def failure(self, job: str) -> dict[str, Any] | None:
        """Return why a job failed last, None where it did not."""
        return _read_json(self.path / "failed" / f"{job}.json")

    def write_failure(self, job: str, failure: Mapping[str, Any]) -> None:
        """Note why a job failed."""
        write_json_atomic(self.path / "failed" / f"{job}.json", dict(failure))

    def forget_failure(self, job: str) -> None:
        """Note that a job has succeeded."""
        (self.path / "failed" / f"{job}.json").unlink(missing_ok=True)

    def add_timings(self, entries: Iterable[Mapping[str, Any]]) -> None:
        """Append to the timings: one line each, in one write, so that writers do not mix."""
        # The first line break ends a line that a kill or a full disk has torn.
        text = "\n" + "".join(json.dumps(dict(entry)) + "\n" for entry in entries)
        path = self.path / "timings.jsonl"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror or error}") from error

    def timings(self) -> list[dict[str, Any]]:
        """Return every timing; a line torn by a kill or a full disk is left out."""
        try:
            lines = (self.path / "timings.jsonl").read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []
        found = []
        for line in lines:
            try:
                entry = parse_json(line)
            except ValueError:
                continue
            if isinstance(entry, dict):
                found.append(entry)
        return found

    def remove_weights(self, cell: str, names: Iterable[str]) -> None:
        """Remove files of a finished training that are not to be kept."""
        for name in names:
            (self.train_folder(cell) / name).unlink(missing_ok=True)


def _read_json(path: Path) -> dict[str, Any] | None:
    """Return what a file of ours holds; None where it is not there.

    Raises:
        UserError: It is damaged or cannot be read.
    """
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}): remove it and run again") from error
    return content if isinstance(content, dict) else None


def timed_device(device: torch.device) -> str:
    """Name a device as timings know it: threads are left out, which jobs at once share."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({platform.machine()}, {os.cpu_count()} processors)"
