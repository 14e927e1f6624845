"""Kills commands at random moments, and breaks their surroundings: `python benchmarks/faults.py`.

A tiny corpus is made and a tiny model is trained on it. Then training, testing, protocol runs
(runner and worker), predicting, tables and reports are struck by SIGKILL and SIGTERM, half of the
times at a random moment, half of the times right before a random change of a file. After every
strike no half file may be read as whole; the same command is then run again, must do no finished
part twice, and must end with what an undisturbed run ends with: equal weights bit by bit, equal
rows, equal pictures and tables. `--cases` runs what `faults_cases.py` lists: full disk, read-only
folder, vanished data and so on.

    python benchmarks/faults.py --times 104 --seed 0 --cases all
"""

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

from faults_check import compare, look  # noqa: E402 - after the threads are set
from faults_child import Command, aside, count_into, start, strike_at  # noqa: E402
from faults_lab import Lab, Task, make_lab  # noqa: E402

SIGNALS = (signal.SIGKILL, signal.SIGTERM)
HOW = ("moment", "change of a file")
SHARE = {"train": 8, "test": 6, "predict": 5, "table": 3, "report": 3, "runner": 2, "worker": 2}
"""How often each task is struck, as a proportion."""


@dataclass
class Strike:
    """One strike and what came of it."""

    task: str
    signal: signal.Signals
    how: str
    problems: list[str] = field(default_factory=list)
    kept: int = 0
    left: int = 0


def main() -> int:
    """Strike, and try the cases; the exit code is 1 when a promise did not hold."""
    args = parse()
    folder = Path(args.folder or tempfile.mkdtemp(prefix="faults-"))
    began = time.monotonic()
    lab = make_lab(folder)
    names = [name for name in SHARE if args.tasks in ("all", "") or name in args.tasks.split(",")]
    strikes = strike_all(lab, names, args.times, args.seed) if args.times else []
    failed = sum(bool(one.problems) for one in strikes)
    if strikes:
        print(as_table(strikes))
        print(f"{len(strikes)} strikes, {failed} with a violation, seed {args.seed}")
    if args.cases:
        from faults_cases import run_cases

        failed += run_cases(lab, args.cases)
    print(
        f"{time.monotonic() - began:.0f} s; files in {folder}" + ("" if args.keep else ", removed")
    )
    if not args.keep:
        shutil.rmtree(folder, ignore_errors=True)
    return 1 if failed else 0


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--times", type=int, default=104, help="strikes in all (104); 0 for none")
    add("--seed", type=int, default=0, help="of signals and moments (0)")
    add("--tasks", default="all", help=f"which of {','.join(SHARE)} (all)")
    add("--cases", default="", help="all, or names of cases of broken surroundings (none)")
    add("--folder", help="where to work; made, and removed at the end (a temporary folder)")
    add("--keep", action="store_true", help="leave the folder")
    return parser.parse_args()


def strike_all(lab: Lab, names: list[str], times: int, seed: int) -> list[Strike]:
    """Strike tasks so many times in all, each by its share."""
    total = sum(SHARE[name] for name in names)
    counts = {name: round(times * SHARE[name] / total) for name in names}
    counts[names[0]] += times - sum(counts.values())
    done: list[Strike] = []
    for name in names:
        striker = Striker(lab, lab.tasks[name], random.Random(f"{seed} {name}"))
        for number in range(counts[name]):
            one = striker.strike(SIGNALS[number % 2], HOW[number // 2 % 2])
            done.append(one)
            said = "; ".join(one.problems) or "whole, and equal after the resume"
            print(f"[{len(done)}/{times}] {name}, {one.signal.name} at a {one.how}: {said}")
            sys.stdout.flush()
    return done


class Striker:
    """Strikes one task again and again.

    Args:
        lab: Where things are.
        task: The task; it is run once undisturbed, for the reference and for its time.
        draw: Of the moments.
    """

    def __init__(self, lab: Lab, task: Task, draw: random.Random) -> None:
        self.lab, self.task, self.draw = lab, task, draw
        self.log = lab.folder / f"{task.name}.log"
        self.reference = lab.folder / "reference" / task.name
        counts = lab.folder / f"{task.name}.count"
        self._clean()
        if task.worker:
            command = start(task.words, self.log, partial(lab.spy_on_worker, count=counts))
        else:
            command = start(task.words, self.log, count_into(counts))
        began = self._begin(command)
        ended = command.wait()
        if ended.code:
            raise RuntimeError(f"{task.name} fails undisturbed: {ended.text[-2000:]}")
        self.seconds = ended.seconds - (began - command.began)
        self.changes = int(counts.read_text())
        shutil.rmtree(self.reference, ignore_errors=True)
        shutil.copytree(task.out, self.reference)
        print(f"{task.name}: {self.seconds:.1f} s undisturbed, {self.changes} changes of files")

    def strike(self, number: signal.Signals, how: str) -> Strike:
        """Strike until it hits, resume, and compare."""
        while not (code := self._hit(number, how)):
            pass
        one = Strike(self.task.name, number, how)
        seen: dict[str, Any] = aside(lambda: look(self.task), self.log)
        one.problems += seen["problems"]
        one.kept, one.left = len(seen["kept"]), seen["left"]
        if "Traceback" in self.log.read_text("utf-8", "replace"):
            one.problems.append(f"ended with {code} and a traceback")
        resumed = start(self.task.words, self.log).wait()
        if resumed.code:
            one.problems.append(f"the resume ended with {resumed.code}: {resumed.last_line}")
        else:
            one.problems += aside(lambda: compare(self.task, self.reference, seen), self.log)
        return one

    def _clean(self) -> None:
        shutil.rmtree(self.task.out, ignore_errors=True)
        self.task.out.mkdir(parents=True)
        for name, content in self.task.before.items():
            (self.task.out / name).write_text(content)

    def _hit(self, number: signal.Signals, how: str) -> int:
        """Run and strike; return the exit code, 0 when it ended before it was hit."""
        self._clean()
        at_change = how == HOW[1]
        place = self.draw.randint(1, self.changes) if at_change else 0
        delay = 0.0 if at_change else self.draw.uniform(0, self.seconds)
        prepare: Callable[[], None] | None = None
        if at_change and self.task.worker:
            prepare = partial(self.lab.spy_on_worker, place=place, number=number)
        elif at_change:
            prepare = strike_at(place, number)
        command = start(self.task.words, self.log, prepare)
        if not at_change:
            began = self._begin(command)
            while command.poll() is None and time.monotonic() < began + delay:
                time.sleep(0.001)
            self._send(command, number)
        return command.wait().code

    def _begin(self, command: Command) -> float:
        """Wait until what is to be struck is there; return that moment."""
        while self.task.worker and command.poll() is None and not children(command.pid):
            time.sleep(0.01)
        return time.monotonic()

    def _send(self, command: Command, number: int) -> None:
        if not self.task.worker:
            command.send(number)
            return
        for pid in children(command.pid)[:1]:
            os.kill(pid, number)


def children(pid: int) -> list[int]:
    """Return the processes that a process has started."""
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def as_table(strikes: list[Strike]) -> str:
    """Return the strikes as a Markdown table, a line for each task."""
    lines = [
        "| struck | SIGKILL | SIGTERM | at a moment | at a change of a file | finished parts kept "
        "| temporary files left | violations |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    groups = [*dict.fromkeys(one.task for one in strikes), "all"]
    for name in groups:
        some = [one for one in strikes if name in (one.task, "all")]
        signals, how = Counter(one.signal for one in some), Counter(one.how for one in some)
        numbers = [
            *(signals[one] for one in SIGNALS),
            *(how[one] for one in HOW),
            sum(one.kept for one in some),
            sum(one.left for one in some),
            sum(bool(one.problems) for one in some),
        ]
        lines.append(f"| {name} | {' | '.join(map(str, numbers))} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
