"""Thousands of broken and hostile files: `python benchmarks/fuzz.py --cases 200`.

Good files of every kind that the package reads are broken by a seeded generator and read, each case
in a folder of its own, in a process that is started again when it dies or hangs. Printed are how
many were read and how many refused with one line, by kind, and every violation: a traceback, more
than one line, a hang, a dead process, code that ran, a file that was written outside the output
folder. The exit code is 1 where there is one. `--only KIND --case N` runs one case again in this
process and shows its traceback.

Needs the repository and its test requirements. Cases are the same for the same seed and versions.
"""

import argparse
import json
import os
import resource
import selectors
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
MEMORY = 8 << 30
"""Bytes of address space of the process that reads: what asks for more fails there alone."""

GRACE_S = 20
"""What a case may take beyond its limit before its process counts as hanging."""


def main() -> int:
    """Run the cases; 1 where one of them was a violation."""
    args = _arguments()
    sys.path.insert(0, str(ROOT))
    if args.worker:
        return work(args.seed, args.limit)
    from tests.fuzz.targets import KINDS

    unknown = [kind for kind in args.only if kind not in KINDS]
    if unknown:
        print(f'unknown kind "{unknown[0]}"; kinds: {", ".join(KINDS)}', file=sys.stderr)
        return 2
    kinds = args.only or list(KINDS)
    if args.case is not None:
        from tests.fuzz.cases import try_case

        print(*(f"{kind}: {try_case(kind, args.seed, args.case)}" for kind in kinds), sep="\n")
        return 0
    return run(kinds, args.seed, args.cases, args.limit)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=200, metavar="N", help="of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=float, default=20, metavar="S", help="seconds a case has")
    parser.add_argument("--only", action="append", default=[], metavar="KIND", help="repeatable")
    parser.add_argument("--case", type=int, metavar="N", help="run one case again, here")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def run(kinds: list[str], seed: int, cases: int, limit: float) -> int:
    """Run all cases and print what came of them."""
    start, violations, total = time.monotonic(), [], Counter()
    print(f"{'kind':26}{'cases':>8}{'read':>8}{'refused':>9}{'violations':>12}{'slowest':>10}")
    reader = Reader(seed, limit)
    try:
        for kind in kinds:
            counts, slowest = Counter(), 0.0
            for number in range(cases):
                answer, text, seconds = reader.ask(kind, number)
                counts[answer] += 1
                slowest = max(slowest, seconds)
                if answer == "violation":
                    violations.append(f"{kind} {number}: {text}")
            total += counts
            _line(kind, counts, f"{slowest:.1f} s")
    finally:
        reader.close()
    _line("all", total, f"{time.monotonic() - start:.0f} s")
    for violation in violations:
        print(violation)
    return int(bool(violations))


def _line(kind: str, counts: Counter[str], seconds: str) -> None:
    read, refused, violated = (counts[key] for key in ("accepted", "refused", "violation"))
    print(f"{kind:26}{counts.total():8}{read:8}{refused:9}{violated:12}{seconds:>10}", flush=True)


class Reader:
    """The process that reads the files; started again when it is gone."""

    def __init__(self, seed: int, limit: float) -> None:
        self._command = [sys.executable, __file__, "--worker", "--seed", str(seed)]
        self._command += ["--limit", str(limit)]
        self._limit = limit
        self._process: subprocess.Popen[str] | None = None

    def ask(self, kind: str, number: int) -> tuple[str, str, float]:
        """Return what came of a case, what there is to say, and the seconds it took."""
        process = self._process or self._start()
        assert process.stdin is not None
        process.stdin.write(json.dumps([kind, number]) + "\n")
        process.stdin.flush()
        line = self._wait(process, self._limit + GRACE_S)
        if line:
            answer, text, seconds = json.loads(line)
            return answer, text, seconds
        try:
            words = f"the process died ({process.wait(2)})"
        except subprocess.TimeoutExpired:
            words = "the process hangs"
        self.close()
        return "violation", words, 0.0

    def _start(self) -> subprocess.Popen[str]:
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # decoders in C write there what they think of a file
            text=True,
        )
        if self._wait(self._process, 600) != "ready\n":
            raise RuntimeError("the process that reads the files does not start")
        return self._process

    @staticmethod
    def _wait(process: subprocess.Popen[str], seconds: float) -> str:
        assert process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            return process.stdout.readline() if selector.select(seconds) else ""

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def work(seed: int, limit: float) -> int:
    """Read cases from the standard input, one a line, and answer on the standard output."""
    from tests.fuzz.cases import try_case
    from tests.fuzz.watch import Violation

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    print("ready", file=answers)
    for line in sys.stdin:
        kind, number = json.loads(line)
        start = time.monotonic()
        answer: list[Any]
        try:
            answer = [try_case(kind, seed, number, limit), ""]
        except Violation as violation:
            answer = ["violation", " ".join(str(violation).split())]
        print(json.dumps([*answer, time.monotonic() - start]), file=answers)
    return 0


if __name__ == "__main__":
    sys.exit(main())
