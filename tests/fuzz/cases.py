"""One case of one kind, by its number."""

import shutil
import tempfile
from pathlib import Path
from random import Random

from sparsevit_plugin.pixel_limit import limited_to
from tests.fuzz.targets import KINDS, MOST_PIXELS, Case
from tests.fuzz.watch import LIMIT_S, Violation, run_case


def try_case(kind: str, seed: int, number: int, limit: float = LIMIT_S) -> str:
    """Make a case and run it.

    Args:
        kind: Of `KINDS`.
        seed: Of all cases.
        number: Of this one.
        limit: Seconds that it may take.

    Returns:
        "accepted" or "refused".

    Raises:
        Violation: Something happened that must not; its message says what.
    """
    folder = Path(tempfile.mkdtemp(prefix="benco-fuzz-"))
    try:
        case = Case(folder / "case", Random(f"{kind}/{seed}/{number}"))
        case.into.mkdir(parents=True)
        read = KINDS[kind](case)
        case.out.mkdir(parents=True, exist_ok=True)
        with limited_to(MOST_PIXELS):
            answer = run_case(case.folder, case.out, read, limit)
        if case.canary.exists():
            raise Violation("code of the file ran")
        return answer
    finally:
        shutil.rmtree(folder, ignore_errors=True)
