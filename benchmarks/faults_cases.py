"""Broken surroundings, each with the line that a user sees; part of `faults.py`.

Every case breaks something for a command of the laboratory, wants a single clear line and no
traceback, mends it, runs the same command again and compares with an undisturbed run.
"""

import contextlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from faults_check import compare
from faults_child import Ended, aside, start
from faults_lab import TESTS, Lab, Task, test_words, train_words

_MIB = 1 << 20
_USER_ERROR = 2


class Skipped(Exception):  # noqa: N818 (a result, not an error)
    """A case that cannot be tried here, with the reason."""


class Broken(Exception):  # noqa: N818
    """A promise that did not hold, with what happened instead."""


def run_cases(lab: Lab, wanted: str) -> int:
    """Try cases, print a line for each, and return how many failed."""
    names = list(CASES) if wanted == "all" else wanted.split(",")
    failed = 0
    for name in names:
        try:
            said = CASES[name](lab)
        except Skipped as reason:
            said = [f"not tried: {reason}"]
        except Broken as reason:
            failed += 1
            said = [f"BROKEN: {reason}"]
        for line in said:
            print(f"{name}: {line.replace(str(lab.folder), '...')}", flush=True)
    print(f"{len(names)} cases, {failed} broken")
    return failed


# --- full and read-only disks --------------------------------------------------------------------


@contextlib.contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path]:
    """Mount a file system of so many bytes in memory at a folder.

    Raises:
        Skipped: That is not allowed here.
    """
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise Skipped(f"a small file system cannot be mounted ({error})") from error
    if done.returncode:
        raise Skipped(f"a small file system cannot be mounted ({done.stderr.strip()})")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)


def remount(folder: Path, options: str) -> None:
    """Change the options of a mounted file system."""
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


def full_disk(lab: Lab) -> list[str]:
    """Let the disk be full while each task writes; enlarge it and go on."""
    sizes = {"train": 9 * _MIB, "test": 96 << 10, "predict": 128 << 10, "table": 4 << 10}
    sizes |= {"report": 64 << 10, "runner": 9 * _MIB}
    return [_on_small_disk(lab, lab.tasks[name], size) for name, size in sizes.items()]


def full_between_saves(lab: Lab) -> list[str]:
    """Let the disk fill up when a training logs its steps, and saves seldom."""
    known = lab.tasks["train"]
    task = Task("train-seldom", [*known.words, "--save-every", "60min"], known.out)
    reference = undisturbed(lab, task)
    with small_disk(task.out, 60 * _MIB) as folder:
        line = one_line(_run(lab, task, partial(_fill, folder)), task)
        (folder / "ballast").unlink()
        resumed(lab, task, reference)
    return [line]


def _fill(folder: Path) -> None:
    """Fill a disk when this process logs its third step."""
    count = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if event == "open" and str(arguments[0]).endswith("metrics.jsonl"):
            count += 1
            if count == 3:
                with contextlib.suppress(OSError), (folder / "ballast").open("wb", 0) as ballast:
                    while ballast.write(b"0" * 4096):
                        pass

    sys.addaudithook(hook)


def _on_small_disk(lab: Lab, task: Task, size: int) -> str:
    reference = undisturbed(lab, task)
    with small_disk(task.out, size) as folder:
        for name, content in task.before.items():
            (folder / name).write_text(content)
        ended = _run(lab, task)
        line = one_line(ended, task, code=1 if task.name == "runner" else _USER_ERROR)
        remount(folder, f"size={100 * _MIB}")
        resumed(lab, task, reference)
    return f"{task.name}: {line}"


def read_only_folder(lab: Lab) -> list[str]:
    """Let the folder be read-only; make it writable and go on."""
    said = []
    for name in ("train", "test", "predict", "table", "report", "runner"):
        task = lab.tasks[name]
        reference = undisturbed(lab, task)
        with small_disk(task.out, 100 * _MIB) as folder:
            for before, content in task.before.items():
                (folder / before).write_text(content)
            remount(folder, "ro")
            line = one_line(_run(lab, task), task)
            remount(folder, "rw")
            resumed(lab, task, reference)
        said.append(f"{name}: {line}")
    return said


# --- data that vanish ----------------------------------------------------------------------------


def vanished_data(lab: Lab) -> list[str]:
    """Take the data away while they are read; bring them back and go on."""
    said = []
    for name, more in (("train", ""), ("train", "skip"), ("test", ""), ("test", "skip")):
        known = lab.tasks[name]
        words = [*known.words, *(("--on-bad-image", more) if more else ())]
        task = Task(f"{name}-{more or 'stop'}", words, known.out)
        reference = undisturbed(lab, task)
        gone = lab.corpus.with_name("gone")
        prepare = partial(_take_away, lab.corpus, gone, 40 if name == "train" else 9)
        try:
            ended = _run(lab, task, prepare)
        finally:
            if gone.exists():
                gone.rename(lab.corpus)
        line = one_line(ended, task)
        resumed(lab, task, reference)
        said.append(f"{name}{' --on-bad-image skip' if more else ''}: {line}")
    return said


def _take_away(folder: Path, target: Path, place: int) -> None:
    """Rename a folder when this process opens the n-th photograph below it."""
    count = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if event == "open" and str(arguments[0]).startswith(f"{folder}/"):
            count += str(arguments[0]).endswith((".jpg", ".png"))
            if count == place and folder.exists():
                folder.rename(target)

    sys.addaudithook(hook)


# --- the clock -----------------------------------------------------------------------------------


def clock_back(lab: Lab) -> list[str]:
    """Test a set, change it, set the clock back by a year and test again: the second is read."""
    out = lab.folder / "work" / "clock"
    shutil.rmtree(out, ignore_errors=True)
    log = lab.folder / "clock.log"
    words = test_words(lab, out)
    _good(start(words, log).wait())
    photograph = next((lab.corpus / TESTS[0] / "Tp").glob("*"))
    state = photograph.stat()
    os.utime(photograph, (state.st_atime, state.st_mtime + 10))
    try:
        _good(start(words, log, _set_clock_back).wait())
        fingerprint = aside(partial(_fingerprint, lab), log)
    finally:
        os.utime(photograph, ns=(state.st_atime_ns, state.st_mtime_ns))
    read = aside(partial(_cells_read, out), log)
    if read[TESTS[0]] != fingerprint:
        raise Broken("the rows from before the change are read")
    return [f"of two writings of {TESTS[0]} the second is read, its clock a year earlier"]


def _set_clock_back() -> None:
    from sparsevit_plugin.harness import manifest
    from sparsevit_plugin.results import store

    class Earlier(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:  # noqa: ANN401
            return datetime.now(tz) - timedelta(days=365)

    store.datetime = manifest.datetime = Earlier  # type: ignore[misc, attr-defined]


def _fingerprint(lab: Lab) -> str:
    from sparsevit_plugin.harness.config import resolve
    from sparsevit_plugin.harness.pipeline import read_test_sets
    from sparsevit_plugin.harness.sources import fingerprint

    cfg = resolve("test", test_words(lab, lab.folder / "work" / "clock")[1:])
    return fingerprint(read_test_sets(cfg)[TESTS[0]])


def _cells_read(out: Path) -> dict[str, str]:
    from sparsevit_plugin.results.store import load

    return {cell.dataset: cell.facts["fingerprint"] for cell in load(out).cells}


# --- two at once ---------------------------------------------------------------------------------


def two_at_once(lab: Lab) -> list[str]:
    """Run the same protocol, and the same test, twice at the same time in one folder."""
    said = []
    for name in ("runner", "test"):
        task = lab.tasks[name]
        reference = undisturbed(lab, task)
        _clean(task)
        both = [start(task.words, lab.folder / f"{name}-{number}.log") for number in (1, 2)]
        ended = [command.wait() for command in both]
        for one in ended:
            _good(one)
        resumed(lab, task, reference)
        lines = {line for one in ended for line in one.text.splitlines() if "another" in line}
        said.append(f"{name}: both end with 0; {'; '.join(sorted(lines)) or 'rows as of one'}")
    return said


# --- killed parts --------------------------------------------------------------------------------


def out_of_memory(lab: Lab) -> list[str]:
    """Leave a training and a test too little memory; then enough."""
    said = []
    for name in ("train", "test"):
        task = lab.tasks[name]
        reference = undisturbed(lab, task)
        ended = _run(lab, task, _little_memory)
        line = one_line(ended, task, code=1)
        resumed(lab, task, reference)
        said.append(f"{name}: {line}")
    return said


def _little_memory() -> None:
    """Allow this process a little more address space than it has."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * os.sysconf("SC_PAGE_SIZE") + 24 * _MIB
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def killed_worker(lab: Lab) -> list[str]:
    """Kill the worker of a protocol run as the kernel does when memory is short."""
    task = lab.tasks["worker"]
    reference = undisturbed(lab, task)
    _clean(task)
    prepare = partial(lab.spy_on_worker, place=60, number=signal.SIGKILL)
    ended = start(task.words, lab.folder / "case.log", prepare).wait()
    if ended.code != 1 or "ended by SIGKILL (out of memory?)" not in ended.text:
        raise Broken(f"code {ended.code}: {ended.last_line}")
    resumed(lab, task, reference)
    return [line.strip() for line in ended.text.splitlines() if "failed: " in line][:1]


def killed_loader(lab: Lab) -> list[str]:
    """Kill a process that loads images for a training."""
    known = lab.tasks["train"]
    task = Task("train-loader", [*known.words, "--num-workers", "1"], known.out)
    reference = undisturbed(lab, task)
    _clean(task)
    command = start(task.words, lab.folder / "case.log")
    from faults import children

    while command.poll() is None and not (task.out / "metrics.jsonl").exists():
        time.sleep(0.01)
    for pid in children(command.pid):
        os.kill(pid, signal.SIGKILL)
    line = one_line(command.wait(120), task, code=1)
    resumed(lab, task, reference)
    return [line]


def dead_rank(lab: Lab) -> list[str]:
    """Kill one of two processes that train together: the other must not wait for ever."""
    out = lab.folder / "work" / "ranks"
    shutil.rmtree(out, ignore_errors=True)
    words = train_words(lab, out, "--devices", "2", "--batch-size", "8")
    log = lab.folder / "case.log"
    from faults import children

    command = start(words, log)
    while command.poll() is None and not (out / "resume.pt").exists():
        time.sleep(0.01)
    began = time.monotonic()
    ranks = children(command.pid)
    if len(ranks) < 2:
        raise Broken(f"there are {len(ranks)} processes: {command.wait().text[-300:]}")
    os.kill(ranks[1], signal.SIGKILL)
    ended = command.wait(120)
    seconds = time.monotonic() - began
    if ended.code == 0 or not ended.error:
        raise Broken(f"code {ended.code}: {ended.last_line}")
    line = ended.error
    _good(start(words, log).wait())
    whole = out.with_name("ranks-whole")
    shutil.rmtree(whole, ignore_errors=True)
    words = train_words(lab, whole, "--devices", "2", "--batch-size", "8")
    _good(start(words, log).wait())
    if not aside(partial(_same_weights, out, whole), log):
        raise Broken("the resumed weights differ from those of an undisturbed run")
    return [f"{line} (after {seconds:.0f} s; resumed to equal weights)"]


def stopped_ranks(lab: Lab) -> list[str]:
    """Stop a training of two processes by SIGTERM, as a cluster does."""
    out = lab.folder / "work" / "stopped"
    shutil.rmtree(out, ignore_errors=True)
    words = train_words(lab, out, "--devices", "2", "--batch-size", "8", "--save-every", "60min")
    command = start(words, lab.folder / "case.log")
    while command.poll() is None and not (out / "metrics.jsonl").exists():
        time.sleep(0.01)
    command.send(signal.SIGTERM)
    ended = command.wait(120)
    if "Traceback" in ended.text or not (out / "resume.pt").exists():
        raise Broken(
            f"code {ended.code}, state saved: {(out / 'resume.pt').exists()}: {ended.text}"
        )
    _good(start(words, lab.folder / "case.log").wait())
    said = [line for line in ended.text.splitlines() if line.startswith("stopped")]
    return [f"code {ended.code}: {said[-1]} (the state was saved, and resumed to the end)"]


def _same_weights(one: Path, other: Path) -> bool:
    import torch
    from safetensors.torch import load_file

    first, second = (load_file(folder / "best.safetensors") for folder in (one, other))
    return all(torch.equal(first[name], second[name]) for name in first)


# --- what all cases share ------------------------------------------------------------------------


def undisturbed(lab: Lab, task: Task) -> Path:
    """Run a task without any trouble, once; return a copy of what it leaves."""
    place = lab.folder / "reference" / task.name
    if not place.exists():
        _clean(task)
        _good(_run(lab, task))
        shutil.copytree(task.out, place)
    _clean(task)
    return place


def resumed(lab: Lab, task: Task, reference: Path) -> None:
    """Run a task again, now undisturbed, and compare with the reference.

    Raises:
        Broken: It fails, or something differs.
    """
    _good(start(task.words, lab.folder / "case.log").wait())
    seen = {"kept": {}}
    problems = aside(lambda: compare(task, reference, seen), lab.folder / "case.log")
    if problems:
        raise Broken(f"{task.name}: after the resume: {'; '.join(problems)}")


def one_line(ended: Ended, task: Task, code: int = _USER_ERROR) -> str:
    """Return the line that says what was wrong.

    Raises:
        Broken: There is a traceback, another exit code, or no such line.
    """
    if "Traceback" in ended.text:
        raise Broken(f"{task.name}: a traceback, at its end: {ended.last_line}")
    if ended.code != code:
        raise Broken(f"{task.name}: code {ended.code}: {ended.last_line}")
    failed = [line.strip() for line in ended.text.splitlines() if "failed: " in line]
    line = ended.error or (failed[-1] if failed else "")
    if not line:
        raise Broken(f"{task.name}: no line says what is wrong: {ended.text[-300:]}")
    return line


def _clean(task: Task) -> None:
    shutil.rmtree(task.out, ignore_errors=True)
    task.out.mkdir(parents=True, exist_ok=True)
    for name, content in task.before.items():
        (task.out / name).write_text(content)


def _run(lab: Lab, task: Task, prepare: Callable[[], None] | None = None) -> Ended:
    return start(task.words, lab.folder / "case.log", prepare).wait()


def _good(ended: Ended) -> None:
    if ended.code:
        raise Broken(f"code {ended.code}: {ended.text[-600:]}")


CASES: dict[str, Callable[[Lab], list[str]]] = {
    "full-disk": full_disk,
    "full-between-saves": full_between_saves,
    "read-only": read_only_folder,
    "vanished-data": vanished_data,
    "clock-back": clock_back,
    "two-at-once": two_at_once,
    "out-of-memory": out_of_memory,
    "killed-worker": killed_worker,
    "killed-loader": killed_loader,
    "dead-rank": dead_rank,
    "stopped-ranks": stopped_ranks,
}
