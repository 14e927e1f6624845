"""Every metric against scikit-learn over thousands of cases: `python benchmarks/metrics.py`.

Maps with ties, constants, extreme logits and half precision, empty and full masks, padding, single
pixels, and sets whose images come in another order of batches are drawn by hypothesis, see
`tests/numbers`. Printed are, by figure, the comparisons made, how many of them were undefined on
both sides, and the largest difference of the others. The exit code is 1 where one is too large;
then the smallest case that shows it is printed.

Needs the repository and its test requirements. Cases are the same for the same seed and versions.
"""

import argparse
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    """Try every family of metrics; 1 where one of them differs."""
    args = _arguments()
    sys.path.insert(0, str(ROOT))
    from tests.numbers.families import FAMILIES, try_family

    start, failed, total = time.monotonic(), False, 0
    print(f"{'figure':34}{'compared':>10}{'undefined':>11}{'largest difference':>20}{'allowed':>9}")
    for family in args.only or FAMILIES:
        if family not in FAMILIES:
            print(f'no family "{family}"; families: {", ".join(FAMILIES)}', file=sys.stderr)
            return 2
        began = time.monotonic()
        try:
            tried, tallies = try_family(family, args.cases, args.seed)
        except AssertionError as error:
            failed = True
            print(f"{family}: {error}", *getattr(error, "__notes__", ()), sep="\n")
            continue
        print(f"-- {family}: {tried} cases, {time.monotonic() - began:.0f} s")
        for name, tally in tallies.items():
            total += tally.cases
            counts = f"{tally.cases:10}{tally.undefined:11}"
            print(f"{name:34}{counts}{tally.largest:20.1e}{tally.tolerance:9.0e}", flush=True)
    print(f"{total} comparisons, {time.monotonic() - start:.0f} s{', FAILED' * failed}")
    return int(failed)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=3000, metavar="N", help="of each family")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", action="append", default=[], metavar="FAMILY", help="repeatable")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
