"""From stored results to the sections of a report: everything that a page shows, as typed data."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

from sparsevit_plugin.errors import UserError
from sparsevit_plugin.report.costs import Cost, costs
from sparsevit_plugin.report.curves import Robustness, robustness
from sparsevit_plugin.report.facts import (
    Libraries,
    RunFacts,
    SetFacts,
    libraries,
    run_facts,
    set_facts,
)
from sparsevit_plugin.report.pictures import Pictures, Wish
from sparsevit_plugin.report.pictures import collect as collect_pictures
from sparsevit_plugin.report.scores import SetScores, distributions
from sparsevit_plugin.report.training import Training, find_logs, read_training
from sparsevit_plugin.results.aggregate import select_rows
from sparsevit_plugin.results.columns import protocol_columns
from sparsevit_plugin.results.conventions import UNPERTURBED
from sparsevit_plugin.results.layout import Layout
from sparsevit_plugin.results.paired import AUTOMATIC
from sparsevit_plugin.results.robustness import build_curves
from sparsevit_plugin.results.store import Results, load
from sparsevit_plugin.results.tables import Table, build_table
from sparsevit_plugin.versions import DISTRIBUTION, installed_version

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Request:
    """What a report is to be of.

    Attributes:
        folders: Folders with results.
        protocol: The protocol that gives the columns; None for none.
        metrics: Keys of `conventions.METRICS`; the first is that of the robustness curves.
        authentic: As of `benco table`.
        score_at: As of `benco table`.
        evaluator: As of `benco table`.
        rows: Rows to show, in this order; None for all.
        sets: Columns to show, in this order; None for the protocol's, else all but hold-outs.
        published: Whether to show the protocol's published rows where it has some.
        digits: Of the table's figures, after the point.
        complexity: As `costs` takes it.
        pictures: Which pictures; None for none.
        allow_mixed: As of `benco table`.
    """

    folders: tuple[Path, ...]
    protocol: str | None = None
    metrics: tuple[str, ...] = ("pixel_f1",)
    authentic: str = "tampered"
    score_at: str = "model"
    evaluator: str = "exact"
    rows: Sequence[str] | None = None
    sets: Sequence[str] | None = None
    published: bool = True
    digits: int = 3
    complexity: str = ""
    pictures: Wish | None = field(default_factory=Wish)
    allow_mixed: bool = False


@dataclass(frozen=True)
class Report:
    """Everything that a page shows.

    Attributes:
        title: The page's.
        sources: The folders, as they were given.
        made: When, in UTC.
        version: Of the program that made it.
        models: How many rows the table has.
        runs: How many runs stand behind them.
        sets: How many columns.
        images: How many images these sets have.
        table: The cross-dataset table.
        robustness: None where nothing was perturbed.
        scores: By set.
        pictures: None where none are wanted.
        training: The runs that left a log.
        costs: The rows of which the cost is known.
        set_facts: By set.
        run_facts: By run.
        libraries: Versions.
    """

    title: str
    sources: tuple[str, ...]
    made: str
    version: str
    models: int
    runs: int
    sets: int
    images: int
    table: Layout
    robustness: Robustness | None
    scores: tuple[SetScores, ...]
    pictures: Pictures | None
    training: tuple[Training, ...]
    costs: tuple[Cost, ...]
    set_facts: tuple[SetFacts, ...]
    run_facts: tuple[RunFacts, ...]
    libraries: Libraries


def collect(request: Request, progress: Progress | None = None) -> Report:
    """Gather a report.

    Args:
        request: What it is to be of.
        progress: Called with the pictures' maps that are made and those that are to be made.

    Raises:
        UserError: There are no fitting results, or a name is unknown.
    """
    results = load(*request.folders)
    table = _table(results, request)
    conventions = table.conventions[0]
    training = [read_training(path) for path in find_logs(request.folders)]
    chosen = select_rows(results.rows.reset_index(drop=True), conventions)
    of_sets = set_facts(results, table.sets, chosen)
    pictures = None
    if request.pictures is not None:
        pictures = collect_pictures(
            results,
            table.rows,
            table.sets,
            conventions,
            request.pictures,
            folders=request.folders,
            progress=progress,
        )
    imports = request.pictures.imports if request.pictures else ()
    return Report(
        title=_title(request, table),
        sources=tuple(str(folder) for folder in request.folders),
        made=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        version=installed_version(DISTRIBUTION),
        models=len(table.rows),
        runs=sum(len(row.members) for row in table.rows),
        sets=len(of_sets),
        images=sum(one.images for one in of_sets),
        table=table.layout(request.digits),
        robustness=_robustness(results, table, request),
        scores=distributions(results, table.rows, table.sets, conventions),
        pictures=pictures,
        training=tuple(run for run in training if run is not None),
        costs=costs(table.rows, request.complexity, imports),
        set_facts=of_sets,
        run_facts=run_facts(table.rows),
        libraries=libraries(table.rows),
    )


def _table(results: Results, request: Request) -> Table:
    columns = protocol_columns(request.protocol) if request.protocol else None
    table = build_table(
        results,
        request.metrics,
        authentic=request.authentic,
        score_at=request.score_at,
        evaluator=request.evaluator,
        rows=request.rows,
        sets=request.sets,
        protocol=request.protocol,
        published=bool(request.published and columns and columns.published),
        paired=AUTOMATIC,
        allow_mixed=request.allow_mixed,
    )
    if table.is_empty:
        raise UserError(
            f"no rows by the {request.evaluator} evaluators, scored at {request.score_at}, in "
            f"{', '.join(map(str, request.folders))}: see --evaluators, --score-at and --sets"
        )
    return table


def _robustness(results: Results, table: Table, request: Request) -> Robustness | None:
    """Return the curves of the first metric; None where nothing of the table was perturbed."""
    one = table.conventions[0]
    rows, ids = results.rows, [name for row in table.rows for name in row.manifest_ids]
    fitting = rows[
        (rows["evaluator"] == one.evaluator)
        & (rows["score_at"] == one.score_at)
        & rows["manifest_id"].isin(ids)
        & rows["dataset"].isin(table.sets)
    ]
    if not (fitting["perturbation"] != UNPERTURBED).any():
        return None
    present = set(fitting["dataset"].unique())
    curves = build_curves(
        results,
        one.metric,
        authentic=one.authentic,
        score_at=one.score_at,
        evaluator=one.evaluator,
        rows=request.rows,
        sets=[name for name in table.sets if name in present],
        allow_mixed=request.allow_mixed,
    )
    found = robustness(curves)
    return found if found.sets else None


def _title(request: Request, table: Table) -> str:
    if table.protocol is not None:
        return table.protocol.title
    names = [folder.resolve().name for folder in request.folders]
    return f"Results in {_listed(names)}"


def _listed(names: Sequence[str]) -> str:
    most = 4
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
