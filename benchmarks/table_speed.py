"""How long a table of a million rows takes: `python benchmarks/table_speed.py`.

Ten models on five sets of 20,000 images, as random numbers, are written to a temporary store.
Printed are the seconds of reading it, of aggregating it, and of the paired test, which is timed
apart; the store's size on the disk; and after each step the most memory that the process has had.
`--rows 10000000 --models 50` is the measurement of docs/scaling.md.
"""

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd

from sparsevit_plugin.results.store import Results, Store, load

SETS = 5
IMAGES_PER_PHOTOGRAPH = 4
MIB = 1 << 20
KIB_IN_GIB = 1 << 20
T = TypeVar("T")


def main() -> None:
    """Write, read, aggregate, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--models", type=int, default=10)
    args = parser.parse_args()
    images = args.rows // args.models // SETS
    with tempfile.TemporaryDirectory() as folder:
        timed("write", lambda: write(Store(folder), args.models, images))
        print_size(Path(folder))
        results = timed("load", lambda: load(folder))
        both = ["pixel_f1", "pixel_auc"]
        timed("table of one metric", results.table)
        timed("table of two metrics", lambda: results.table(both))
        timed("table of one metric, names compared", lambda: without_prints(results).table())
        timed("the first with the paired test", lambda: results.table(paired="model 0"))


def timed(what: str, call: Callable[[], T]) -> T:
    """Call, and print how long it took."""
    start = time.perf_counter()
    result = call()
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / KIB_IN_GIB  # KiB on Linux
    print(f"{what}: {seconds:.2f} s, at most {peak:.2f} GiB until then", flush=True)
    return result


def print_size(folder: Path) -> None:
    """Print how many files the store has, and how many bytes."""
    sizes = [path.stat().st_size for path in folder.rglob("*.parquet")]
    print(f"on the disk: {sum(sizes) / MIB:.0f} MiB in {len(sizes)} files of rows")


def write(store: Store, models: int, images: int) -> None:
    """Write a cell for each model and set."""
    generator = np.random.default_rng(0)
    names = [f"Tp/{i:06d}.png" for i in range(images)]
    photos = [[f"photo {i // IMAGES_PER_PHOTOGRAPH}"] for i in range(images)]
    for model in range(models):
        for number in range(SETS):
            columns = {
                "sample_name": names,
                "photos": photos,
                **{name: generator.random(images) for name in ("f1", "auc", "score")},
                **{name: generator.integers(0, 9999, images) for name in ("tp", "fp", "fn", "tn")},
            }
            words = {"score_at": "model", "evaluator": "exact", "pooling": "max", "checkpoint": ""}
            numbers = {"threshold": 0.5, "label": 1, "tampered_pixels": 9, "pixels": 99}
            store.write(
                {"manifest_id": f"id{model}", "model": f"model {model}"},
                f"set {number}",
                pd.DataFrame(columns).assign(**words, **numbers),
                facts={"fingerprint": f"print of set {number}"},
            )


def without_prints(results: Results) -> Results:
    """Forget the sets' fingerprints, so that images are compared by their names."""
    return Results(results.rows)


if __name__ == "__main__":
    main()
