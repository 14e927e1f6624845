"""Runs the ablations and keeps their rows: `python benchmarks/ablations.py run` and `... tables`.

`run` goes through the rows of the ablations at every seed, seed by seed, so that a run that is
stopped half-way has compared something. Each row is trained and tested by `benco protocol run`; its
result rows are then copied below `results/ablations/`, which is committed, and a row that is there
is not run again: on another machine the work goes on where it was. A training that another ablation
has finished already (their first rows are the same model) is not repeated.

`tables` makes the tables out of the committed rows: a file an ablation, a table a metric.

The sets are made by `python benchmarks/wallpapers.py --data-root runs/data`.
"""

import argparse
import contextlib
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sparsevit_plugin.cli.main import main as benco
from sparsevit_plugin.errors import UserError
from sparsevit_plugin.files import write_text_atomic
from sparsevit_plugin.protocol.folder import RECORD, ProtocolFolder
from sparsevit_plugin.protocol.plan import Job, make_plan
from sparsevit_plugin.protocol.request import Request
from sparsevit_plugin.protocol.schema import load_protocol
from sparsevit_plugin.results.conventions import METRICS as KNOWN_METRICS
from sparsevit_plugin.results.store import Results, Store, holds_results, load

ABLATIONS = ("ablation-sparsity", "ablation-fusion", "ablation-extractors")
METRICS = ("pixel_f1", "pixel_auc", "authentic_fp_area")


@dataclass(frozen=True)
class Row:
    """A row of an ablation at a seed."""

    protocol: str
    label: str
    seed: int


def main() -> int:
    """Run what is missing, or make the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("run", "tables", "list"))
    parser.add_argument("--data-root", default="runs/data", metavar="DIR")
    parser.add_argument("--runs", default="runs", type=Path, metavar="DIR")
    parser.add_argument("--kept", default="results/ablations", type=Path, metavar="DIR")
    parser.add_argument("--only", default=",".join(ABLATIONS), metavar="NAME[,NAME...]")
    args = parser.parse_args()
    names = args.only.split(",")
    try:
        if args.what == "tables":
            return make_tables(names, args.kept)
        missing = [row for row in in_order(names) if not is_kept(args.kept, row)]
        for number, row in enumerate(missing, start=1):
            print(f"[{number}/{len(missing)}] {row.protocol}: {row.label}, seed {row.seed}")
            if args.what == "run":
                run_row(args, row)
                keep(args.runs, args.kept, row)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def in_order(names: list[str]) -> Iterator[Row]:
    """Yield every row: seed by seed, and the rows that others are compared with first."""
    protocols = [load_protocol(name) for name in names]
    for seed in dict.fromkeys(seed for protocol in protocols for seed in protocol.seeds):
        for rows in (slice(0, 1), slice(1, None)):
            for protocol in protocols:
                for spec in protocol.rows[rows]:
                    if seed in protocol.seeds:
                        yield Row(protocol.name, spec.label, seed)


def is_kept(kept: Path, row: Row) -> bool:
    """Say whether a row's results are committed for every set of its protocol."""
    store = kept / row.protocol
    if not store.is_dir() or not holds_results(store):
        return False
    sets = {use.set for use in load_protocol(row.protocol).test.sets}
    return sets <= set(cells_of(load(store), row))


def cells_of(results: Results, row: Row) -> dict[str, str]:
    """Return the manifest of a row by set."""
    return {
        cell.dataset: cell.manifest_id
        for cell in results.cells
        if cell.manifest["model"] == row.label and cell.manifest["seed"] == row.seed
    }


def run_row(args: argparse.Namespace, row: Row) -> None:
    """Train and test one row.

    Raises:
        UserError: It failed; its log is named above.
    """
    share_training(args, row)
    words = ["--data-root", args.data_root, "--runs", str(args.runs), "--verify"]
    words += ["--models", row.label, "--seeds", str(row.seed)]
    command = [sys.executable, "-m", "sparsevit_plugin", "protocol", "run", row.protocol, *words]
    if subprocess.run(command, check=False).returncode:
        raise UserError(f"{row.protocol}: {row.label}, seed {row.seed} failed")


def share_training(args: argparse.Namespace, row: Row) -> None:
    """Copy the row's training from another ablation that has finished the same one."""
    folder = ProtocolFolder(args.runs / row.protocol)
    train = job_of(args, row, folder).train
    if train is None or folder.training_record(train.folder):
        return
    for other in ABLATIONS:
        source = ProtocolFolder(args.runs / other)
        for name, record in source.training_records(train.key).items():
            if train.prints.same(record):
                copy_training(source.train_folder(name), folder.train_folder(name))
                return


def job_of(args: argparse.Namespace, row: Row, folder: ProtocolFolder) -> Job:
    """Return what a row comes to."""
    request = Request(
        row.protocol, models=(row.label,), seeds=(row.seed,), data_root=args.data_root, verify=True
    )
    (job,) = make_plan(request, folder).jobs
    return job


def copy_training(source: Path, target: Path) -> None:
    """Copy a finished training; its record, which says that it is finished, comes last."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns(RECORD), dirs_exist_ok=True)
    shutil.copy2(source / RECORD, target / RECORD)


def keep(runs: Path, kept: Path, row: Row) -> None:
    """Copy the row's results, scored at the model's size, to where they are committed.

    Raises:
        UserError: A set is missing, or the rows would hold a path of this machine.
    """
    results = load(runs / row.protocol)
    cells = cells_of(results, row)
    store = Store(kept / row.protocol)
    for cell in results.cells:
        if cells.get(cell.dataset) != cell.manifest_id:
            continue
        rows = results.rows
        rows = rows[(rows["manifest_id"] == cell.manifest_id) & (rows["dataset"] == cell.dataset)]
        rows = rows[(rows["score_at"] == "model") & (rows["evaluator"] == "exact")]
        if str(Path.cwd()) in json.dumps([cell.manifest, cell.facts]):
            raise UserError("the rows hold an absolute path: give --data-root and --runs relative")
        store.write(cell.manifest, cell.dataset, rows, facts=cell.facts)
    if not is_kept(kept, row):
        raise UserError(f"{row.protocol}: {row.label}, seed {row.seed}: a set's rows are missing")


def make_tables(names: list[str], kept: Path) -> int:
    """Write each ablation's tables, one a metric, from its committed rows."""
    for name in names:
        protocol = load_protocol(name)
        parts = [f"# {protocol.title}"]
        for metric in METRICS:
            words = [str(kept / name), "--protocol", name, "--metric", metric]
            words += ["--rows", ",".join(row.label for row in protocol.rows)]
            words += ["--paired", protocol.rows[0].label, "--format", "markdown"]
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                code = benco(["table", *words])
            if code:
                return code
            parts += [f"## {KNOWN_METRICS[metric].title}", printed.getvalue().strip()]
        write_text_atomic(kept / f"{name}.md", "\n\n".join(parts) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
