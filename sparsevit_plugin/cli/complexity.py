"""`benco complexity`: parameters, MACs, FLOPs and activation memory of models, counted alike."""

import argparse
import fnmatch
import io
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from sparsevit_plugin.cli.complexity_plot import (
    add_plot_arguments,
    check_plot_arguments,
    draw,
    score_column,
)
from sparsevit_plugin.cli.complexity_time import add_time_arguments, check_time_arguments, measured
from sparsevit_plugin.cli.stored_options import check_digits, results_folder
from sparsevit_plugin.errors import UserError, suggest
from sparsevit_plugin.files import write_text_atomic
from sparsevit_plugin.results.conventions import FORMATS, METRICS

if TYPE_CHECKING:
    from sparsevit_plugin.complexity.columns import CostTable
    from sparsevit_plugin.harness.config import Config

ALL = "all"
OWN = "own"
_RUNS = "runs"
_METRIC = "pixel_f1"
_LONGEST_SIDE = 16384  # the counted photograph is drawn: this one takes 0.8 GB
_SHORT_COUNTERS = {"torch": "torch.utils.flop_counter", "fvcore": "fvcore", "hand": "hand"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `benco complexity`."""
    parser.description = (
        "Count what models cost on one photograph: parameters, multiply-accumulates, FLOPs and "
        "activation memory. Nothing is computed where a model can be called by its shapes alone. "
        "What is counted: docs/complexity.md."
    )
    parser.add_argument(
        "--models",
        metavar="NAME[,NAME...]",
        help="cards, registered models or patterns such as *resnet*; all = every card and every "
        "registered localiser without one (default)",
    )
    parser.add_argument(
        "--image-size",
        default=OWN,
        metavar="SIDE[,SIDE...]",
        help="sides of the square input in pixels; own = what each model's card gives (default)",
    )
    parser.add_argument(
        "--counter",
        choices=_SHORT_COUNTERS,
        help="torch.utils.flop_counter (default), fvcore, or the formulas of SparseViT by hand",
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--module-depth",
        type=int,
        metavar="N",
        help="show one model's modules down to this depth instead",
    )
    what.add_argument(
        "--sparsity-table",
        action="store_true",
        help="show the cost of SparseViT's sparse blocks over the sparsity rate instead",
    )
    what.add_argument(
        "--rows-of",
        metavar="PROTOCOL",
        help="count the rows that a protocol names itself instead, each with its own arguments",
    )
    what.add_argument(
        "--with-protocol",
        metavar="PROTOCOL_OR_FOLDER",
        help="put the scores of a protocol's runs, or of a folder of runs, beside the costs of "
        "their models; without --models only of these",
    )
    parser.add_argument(
        "--cache",
        metavar="DIR",
        help="keep counts there, and take from there what was counted before",
    )
    parser.add_argument(
        "--import",
        dest="imports",
        action="append",
        default=[],
        metavar="FILE.py|MODULE",
        help="run the registrations of your own code first; may be repeated",
    )
    _add_scores(parser)
    add_time_arguments(parser)
    add_plot_arguments(parser)
    _add_output(parser)


def _add_scores(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", metavar="DIR", help=f"where runs are (default: {_RUNS})")
    parser.add_argument(
        "--metric",
        metavar="NAME[,NAME...]",
        help=f"with --with-protocol: some of {', '.join(METRICS)} (default: {_METRIC})",
    )


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--format", choices=FORMATS, default="terminal", help="default: terminal")
    parser.add_argument(
        "--digits",
        type=int,
        default=2,
        metavar="N",
        help="after the point, below 1 significant ones (default: 2)",
    )
    parser.add_argument(
        "--standalone", action="store_true", help="with latex: a document that compiles by itself"
    )
    parser.add_argument("--out", metavar="FILE", help="write there instead of printing")


def run(args: argparse.Namespace) -> int:
    """Print or write the table.

    Raises:
        UserError: A name, a size or a combination of options is wrong.
    """
    sides = _sides(args.image_size)
    _check(args, sides)
    args.runs, args.metric = args.runs or _RUNS, args.metric or _METRIC
    check_time_arguments(args)
    check_plot_arguments(args)
    table = _table(args, sides)
    _write(table, args)
    draw(table, args, _score_to_draw(table, args))
    return 0


def _score_to_draw(table: "CostTable", args: argparse.Namespace) -> str:
    """Return the column of scores for `--plot`; empty where it is of none."""
    if not (args.plot and args.with_protocol):
        return ""
    return score_column([column.name for column in table.columns], args.metric.split(",")[0])


def _table(args: argparse.Namespace, sides: Sequence[int | None]) -> "CostTable":
    from sparsevit_plugin.harness.complexity_table import (
        config_table,
        module_table,
        sparsity_table,
    )

    if args.sparsity_table:
        return sparsity_table(sides)
    counter = _counter(args)
    if args.rows_of:
        return config_table(_protocol_rows(args), counter, args.cache)
    if args.with_protocol:
        return _scored(args, sides)
    models = _model_names(args.models or ALL, args.imports)
    if args.module_depth is None:
        return _counted(args, models, sides)
    if len(models) > 1:
        raise UserError("--module-depth shows one model: give its name by --models")
    return module_table(models[0], sides[0], args.module_depth, counter)


def _protocol_rows(args: argparse.Namespace) -> "list[tuple[str, Config]]":
    """Return the rows of a protocol as they would be trained; of those, what `--models` means.

    Raises:
        UserError: There is no such protocol, it names no rows, or one cannot be resolved.
    """
    from sparsevit_plugin.protocol.request import Request, read_rows, requested_protocol, row_config

    models = tuple(filter(None, (word.strip() for word in (args.models or "").split(","))))
    request = Request(args.rows_of, models, weights="none", imports=tuple(args.imports))
    protocol = requested_protocol(request)
    seed = protocol.seeds[0]
    return [
        (row.label, row_config(request, protocol, row, seed))
        for row in read_rows(request, protocol)
    ]


def _scored(args: argparse.Namespace, sides: Sequence[int | None]) -> "CostTable":
    """Count the models of a protocol's runs as they were tested, and put their scores beside.

    With `--models` those rows that are of them, and the models that were not tested here, as their
    cards have them.
    """
    from sparsevit_plugin.complexity.scores import with_scores
    from sparsevit_plugin.harness.complexity_table import complexity_table, recorded_table
    from sparsevit_plugin.harness.recorded import recorded_model
    from sparsevit_plugin.results.columns import is_protocol
    from sparsevit_plugin.results.store import load

    protocol = args.with_protocol if is_protocol(args.with_protocol) else None
    folder = results_folder(args.with_protocol, Path(args.runs))
    metrics = [word.strip() for word in args.metric.split(",") if word.strip()]
    table = load(folder).table(metrics, protocol=protocol)
    own = [row for row in table.rows if not row.is_external]
    names = {row.label: {row.model, recorded_model(row.members[0].manifest)} for row in own}
    tested = set().union(*names.values())
    if args.models:
        wanted = _model_names(args.models, args.imports)
    else:  # of maps that another program made, the models that are registered here
        external = {row.model for row in table.rows if row.is_external}
        wanted = [*tested, *external.intersection(_model_names(ALL, args.imports))]
    of_rows = [row for row in own if not names[row.label].isdisjoint(wanted)]
    others = [name for name in wanted if name not in tested]
    costs = recorded_table(of_rows, sides, _counter(args), args.cache, args.imports)
    if others:
        more = complexity_table(others, sides, _counter(args), args.cache)
        costs = replace(costs, rows=[*costs.rows, *more.rows])
    return with_scores(measured(costs, args), table)


def _counted(
    args: argparse.Namespace, models: Sequence[str], sides: Sequence[int | None]
) -> "CostTable":
    """Count models, and measure them where `--time` asks for it."""
    from sparsevit_plugin.harness.complexity_table import complexity_table

    return measured(complexity_table(models, sides, _counter(args), args.cache), args)


def _counter(args: argparse.Namespace) -> str:
    return _SHORT_COUNTERS[args.counter or "torch"]


def _model_names(text: str, imports: Sequence[str]) -> list[str]:
    """Return the names that `--models` means, each once.

    Raises:
        UserError: A word means no model, or an import fails.
    """
    from sparsevit_plugin.cards import card_names, is_timm_word
    from sparsevit_plugin.cli.models import is_localiser
    from sparsevit_plugin.registration import import_user, register_all, resolve_model

    register_all()
    import_user(list(imports))
    registered = register_all()
    others = [
        name for name in registered if is_localiser(registered[name].constructor) is not False
    ]
    known = list(dict.fromkeys([*card_names(), *others]))
    found: list[str] = []
    for word in filter(None, (word.strip() for word in text.split(","))):
        if is_timm_word(word):
            resolve_model(word)
            found.append(word)
            continue
        chosen = known if word == ALL else fnmatch.filter(known, word)
        if not chosen:
            hint = suggest(word, known)
            raise UserError(f'--models: no model "{word}".{hint} "benco models" lists them')
        found += chosen
    if not found:
        raise UserError("--models names no model: give all, names or patterns")
    return list(dict.fromkeys(found))


def _check(args: argparse.Namespace, sides: Sequence[int | None]) -> None:
    check_digits(args.digits)
    if args.standalone and args.format != "latex":
        raise UserError("--standalone is of --format latex")
    if args.module_depth is not None and (args.module_depth < 0 or len(sides) > 1):
        raise UserError("--module-depth takes 0 or more, and one --image-size")
    of_other = args.sparsity_table or args.module_depth is not None or args.rows_of
    if of_other and (args.time or args.plot):
        raise UserError(
            "--time and --plot are not of --module-depth, --sparsity-table or --rows-of"
        )
    _refuse_without_effect(args)
    if args.rows_of and args.image_size != OWN:
        raise UserError("--rows-of counts each row at its own size: leave out --image-size")


def _refuse_without_effect(args: argparse.Namespace) -> None:
    """Refuse options that the table asked for has no use for."""
    unused: list[tuple[str, bool]] = []
    if args.sparsity_table:
        unused += [(name, True) for name in ("models", "counter", "cache", "imports")]
    if args.module_depth is not None:
        unused += [("cache", True)]
    unused += [("metric", not args.with_protocol), ("runs", not (args.with_protocol or args.time))]
    for name, is_unused in unused:
        if is_unused and getattr(args, name):
            flag = "--import" if name == "imports" else f"--{name}"
            raise UserError(f"{flag} has no effect on this table: leave it out")


def _sides(text: str) -> list[int | None]:
    """Read `--image-size`; None stands for each model's own."""
    sides: list[int | None] = []
    for word in filter(None, (word.strip() for word in text.split(","))):
        if word != OWN and not (word.isdecimal() and int(word)):
            raise UserError(f'--image-size: "{word}" is neither {OWN} nor a number of pixels')
        if word != OWN and int(word) > _LONGEST_SIDE:
            raise UserError(f"--image-size {word}: give at most {_LONGEST_SIDE} pixels")
        sides.append(None if word == OWN else int(word))
    if not sides:
        raise UserError(f"--image-size names no size: give {OWN}, or pixels such as 512")
    return list(dict.fromkeys(sides))


def _write(table: "CostTable", args: argparse.Namespace) -> None:
    text = io.StringIO()
    _show(table, args, sys.stdout if args.out is None else text)
    if args.out is not None:
        write_text_atomic(args.out, text.getvalue())
        print(f"wrote {args.out}")


def _show(table: "CostTable", args: argparse.Namespace, stream: TextIO) -> None:
    from sparsevit_plugin.results import html, latex, render

    if args.format == "csv":
        stream.write(table.to_csv())
        return
    layout = table.layout(args.digits)
    if args.format == "terminal":
        render.print_layout(layout, stream)
    elif args.format == "markdown":
        stream.write(render.layout_to_markdown(layout))
    elif args.format == "html":
        stream.write(html.to_html(layout, table.title))
    else:
        stream.write(latex.to_latex(layout, "complexity", standalone=args.standalone))
