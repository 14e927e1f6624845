"""What many cells cost, and what DuckDB makes of them: `python benchmarks/store_scale.py`.

Writes a store of small cells (`--cells` files of `--images` rows) and prints the seconds for each
file of reading it by `results.load`, and the time of one question, the mean pixel F1 by model and
set over tampered images, asked of the loaded rows by pandas and of the files by DuckDB (`pip
install duckdb`), with the difference of the answers. `--folder DIR` asks a store that is there.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from table_speed import KIB_IN_GIB, print_size, write

from sparsevit_plugin.results.store import Store, load

SETS = 5
QUESTION = """
    select model, dataset, avg(f1) as f1 from read_parquet('{rows}')
    where score_at = 'model' and evaluator = 'exact' and tampered_pixels > 0
    group by all order by all
"""


def main() -> None:
    """Write, and ask in two ways, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=5000)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--folder", type=Path, metavar="DIR")
    parser.add_argument("--ask", choices=("pandas", "duckdb"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.ask:
        print(json.dumps(ask_pandas(args.folder) if args.ask == "pandas" else ask(args.folder)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.folder or Path(scratch)
        if args.folder is None:
            began = time.perf_counter()
            write(Store(folder), args.cells // SETS, args.images)
            print(f"write: {(time.perf_counter() - began) / args.cells * 1e3:.1f} ms a cell")
        print_size(folder)
        compare(folder)


def compare(folder: Path) -> None:
    """Ask both, and compare the answers."""
    answers = {}
    for way in ("pandas", "duckdb"):
        command = [sys.executable, __file__, "--folder", str(folder)]
        run = subprocess.run([*command, "--ask", way], check=True, capture_output=True, text=True)
        answers[way] = json.loads(run.stdout)
        print(f"{way}: {answers[way]['said']}, at most {answers[way]['peak']:.2f} GiB")
    pairs = zip(answers["pandas"]["means"], answers["duckdb"]["means"], strict=True)
    print(f"largest difference of the means: {max(abs(a - b) for a, b in pairs):.1e}")


def ask_pandas(folder: Path) -> dict:
    """Load the store, and ask."""
    began = time.perf_counter()
    results = load(folder)
    loaded = time.perf_counter()
    rows = results.rows
    rows = rows[(rows["score_at"] == "model") & (rows["evaluator"] == "exact")]
    rows = rows[rows["tampered_pixels"] > 0]
    means = rows.groupby(["model", "dataset"], observed=True)["f1"].mean()
    asked = time.perf_counter()
    each = (loaded - began) / len(results.cells) * 1e3
    said = f"load {loaded - began:.1f} s ({each:.1f} ms a cell), question {asked - loaded:.2f} s"
    keys = sorted((str(model), str(dataset)) for model, dataset in means.index)
    return {"said": said, "means": [float(means[key]) for key in keys], "peak": peak()}


def ask(folder: Path) -> dict:
    """Ask DuckDB, which reads the columns that it needs."""
    import duckdb

    began = time.perf_counter()
    found = duckdb.sql(QUESTION.format(rows=folder / "**" / "rows" / "*.parquet")).fetchall()
    said = f"question {time.perf_counter() - began:.2f} s, reading included"
    return {"said": said, "means": [value for _, _, value in sorted(found)], "peak": peak()}


def peak() -> float:
    """Return the most memory that this process has had, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / KIB_IN_GIB  # KiB on Linux


if __name__ == "__main__":
    main()
