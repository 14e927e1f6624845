"""`benco table`: tables from stored rows, by conventions chosen here; nothing runs again."""

import argparse
import io
import sys
from typing import TYPE_CHECKING, TextIO

from sparsevit_plugin.errors import UserError
from sparsevit_plugin.files import write_text_atomic
from sparsevit_plugin.results.conventions import AUTHENTIC, EVALUATORS, FORMATS, METRICS, SCORE_AT

if TYPE_CHECKING:
    from sparsevit_plugin.results.tables import Table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `benco table`."""
    parser.description = (
        "Make cross-dataset tables from the rows that benco test stored: rows are models, columns "
        "are test sets."
    )
    parser.add_argument(
        "runs", nargs="+", metavar="RUNS", help="folders of runs, or folders that hold some"
    )
    parser.add_argument(
        "--metric",
        default="pixel_f1",
        metavar="NAME[,NAME...]",
        help=f"one table for each of: {', '.join(METRICS)} (default: pixel_f1)",
    )
    parser.add_argument(
        "--authentic",
        choices=AUTHENTIC,
        default="tampered",
        help="what an authentic image counts for: tampered = it is left out (default), zero, or "
        "one = 1 when nothing in it is predicted, else 0",
    )
    parser.add_argument(
        "--score-at",
        choices=SCORE_AT,
        default="model",
        help="score maps at the model's size (default) or at the photograph's own (image)",
    )
    parser.add_argument(
        "--evaluators",
        choices=EVALUATORS,
        default="exact",
        help="rows of the exact evaluators (default) or of IMDLBenCo's",
    )
    parser.add_argument("--models", metavar="NAME[,NAME...]", help="rows to show, in this order")
    parser.add_argument(
        "--sets",
        metavar="NAME[,NAME...]",
        help="columns to show, in this order (default: all but the hold-out val)",
    )
    parser.add_argument("--no-average", action="store_true", help="leave the average column out")
    parser.add_argument("--format", choices=FORMATS, default="terminal", help="default: terminal")
    parser.add_argument("--out", metavar="FILE", help="write there instead of printing")


def run(args: argparse.Namespace) -> int:
    """Print or write the tables.

    Raises:
        UserError: There are no fitting results, or a name is unknown.
    """
    from sparsevit_plugin.results.store import load

    results = load(*args.runs)
    tables = [
        results.table(
            metric,
            authentic=args.authentic,
            score_at=args.score_at,
            average=not args.no_average,
            models=_words(args.models),
            sets=_words(args.sets),
            evaluator=args.evaluators,
        )
        for metric in _words(args.metric) or []
    ]
    if all(table.is_empty for table in tables):
        raise UserError(
            f"no rows by the {args.evaluators} evaluators, scored at {args.score_at}, in "
            f"{', '.join(args.runs)}: see --evaluators, --score-at and --sets"
        )
    if args.out is None:
        _show(tables, args.format, sys.stdout)
    else:
        text = io.StringIO()
        _show(tables, args.format, text)
        write_text_atomic(args.out, text.getvalue())
        print(f"wrote {args.out}")
    return 0


def _words(text: str | None) -> list[str] | None:
    """Split a list at its commas; None for none."""
    return [word.strip() for word in text.split(",") if word.strip()] if text else None


def _show(tables: "list[Table]", form: str, stream: TextIO) -> None:
    """Write the tables; those in CSV share one header, so that they are one file to read."""
    for place, table in enumerate(tables):
        if form == "terminal":
            table.print(stream)
        elif form == "markdown":
            stream.write(("\n" if place else "") + table.to_markdown())
        else:
            stream.write(table.to_csv(header=place == 0))
