"""`benco table`: tables from stored rows, by conventions chosen here; nothing runs again."""

import argparse
import io
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, TextIO

from sparsevit_plugin.cli.parser import listed
from sparsevit_plugin.cli.stored_options import (
    add_allow_mixed,
    add_choice,
    add_digits,
    add_perturbation,
    add_scoring,
    add_sources,
    check_digits,
    chosen_protocol,
    stored_folders,
)
from sparsevit_plugin.errors import UserError
from sparsevit_plugin.files import write_text_atomic
from sparsevit_plugin.results.conventions import CELLS, EVALUATORS, FORMATS, METRICS

if TYPE_CHECKING:
    from sparsevit_plugin.results.tables import Table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `benco table`."""
    parser.description = (
        "Make cross-dataset tables from the rows that tests stored: rows are models, columns are "
        "test sets. How to read one: docs/tables.md."
    )
    add_sources(parser)
    _add_figures(parser)
    _add_conventions(parser)
    _add_output(parser)


def _add_figures(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--metric",
        default="pixel_f1",
        metavar="NAME[,NAME...]",
        help=f"some of: {', '.join(METRICS)} (default: pixel_f1)",
    )
    parser.add_argument(
        "--cells",
        choices=CELLS,
        default="columns",
        help="several metrics as columns below each set (default), or joined as F1 / AUC",
    )
    add_choice(parser)
    parser.add_argument("--no-average", action="store_true", help="leave the average column out")
    parser.add_argument(
        "--no-complexity", action="store_true", help="leave parameters and MACs out"
    )
    parser.add_argument(
        "--published",
        action="store_true",
        help="add the protocol's published rows, as a block of their own",
    )
    test = parser.add_mutually_exclusive_group()
    test.add_argument(
        "--paired",
        metavar="MODEL",
        help="compare every row with this one by a paired test (default: SparseViT where it is "
        "there)",
    )
    test.add_argument("--no-paired", action="store_true", help="make no paired test")


def _add_conventions(parser: argparse.ArgumentParser) -> None:
    add_scoring(parser)
    parser.add_argument(
        "--evaluators",
        choices=EVALUATORS,
        default="exact",
        help="rows of the exact evaluators (default) or of IMDLBenCo's",
    )
    add_perturbation(parser)
    add_allow_mixed(parser)


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--format", choices=FORMATS, default="terminal", help="default: terminal")
    add_digits(parser)
    parser.add_argument(
        "--standalone", action="store_true", help="with latex: a document that compiles by itself"
    )
    parser.add_argument("--out", metavar="FILE", help="write there instead of printing")
    parser.add_argument(
        "--explain",
        nargs=2,
        metavar=("ROW", "SET"),
        help="instead of the table, say where one cell's numbers come from: rows, counts, "
        "checkpoint, command (SET may be average)",
    )


def run(args: argparse.Namespace) -> int:
    """Print or write the table.

    Raises:
        UserError: There are no fitting results, or a name is unknown.
    """
    _check(args)
    from sparsevit_plugin.results.paired import AUTOMATIC
    from sparsevit_plugin.results.store import load

    folders = stored_folders(args)
    results = load(*folders)
    table = results.table(
        listed(args.metric) or [],
        authentic=args.authentic,
        score_at=args.score_at,
        evaluator=args.evaluators,
        perturbation=args.perturbation,
        rows=listed(args.rows),
        sets=listed(args.sets),
        average=not args.no_average,
        protocol=chosen_protocol(args, "a table"),
        published=args.published,
        paired=None if args.no_paired else args.paired or AUTOMATIC,
        complexity=not args.no_complexity,
        cells=args.cells,
        allow_mixed=args.allow_mixed,
    )
    if table.is_empty:
        raise UserError(
            f"no rows by the {args.evaluators} evaluators, scored at {args.score_at}, in "
            f"{', '.join(map(str, folders))}: see --evaluators, --score-at and --sets"
        )
    show: Callable[[TextIO], object] = partial(_show, table, args)
    if args.explain:
        from sparsevit_plugin.results.explain import explain

        lines = explain(table, results, *args.explain)
        show = partial(_write_lines, lines)
    if args.out is None:
        show(sys.stdout)
    else:
        text = io.StringIO()
        show(text)
        write_text_atomic(args.out, text.getvalue())
        print(f"wrote {args.out}")
    return 0


def _check(args: argparse.Namespace) -> None:
    check_digits(args.digits)
    if args.standalone and args.format != "latex":
        raise UserError("--standalone is of --format latex")


def _write_lines(lines: Sequence[str], stream: TextIO) -> None:
    stream.writelines(f"{line}\n" for line in lines)


def _show(table: "Table", args: argparse.Namespace, stream: TextIO) -> None:
    if args.format == "terminal":
        table.print(stream, args.digits)
    elif args.format == "markdown":
        stream.write(table.to_markdown(args.digits))
    elif args.format == "csv":
        stream.write(table.to_csv())
    elif args.format == "html":
        stream.write(table.to_html(args.digits))
    else:
        stream.write(table.to_latex(args.digits, standalone=args.standalone))
