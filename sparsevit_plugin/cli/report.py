"""`benco report`: runs or a protocol as one page that needs neither network nor program."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from sparsevit_plugin.cli.parser import listed
from sparsevit_plugin.cli.stored_options import check_digits, chosen_protocol, results_folder
from sparsevit_plugin.errors import UserError
from sparsevit_plugin.results.conventions import AUTHENTIC, EVALUATORS, METRICS, SCORE_AT

if TYPE_CHECKING:
    from sparsevit_plugin.report.collect import Request

_EPILOG = """\
The page holds the cross-dataset table, robustness curves where photographs were perturbed, the
distributions of single images, the best and worst images with mask and map, training curves,
complexity, sets, configuration and environment. What is missing is left out or said. A report that
is there already is replaced, any other file is not.

examples:
  benco report runs/a --out report.html
  benco report mvss --metric pixel_f1,pixel_auc --images 5 --images-of SparseViT,Trufor
  benco report runs/a runs/b --no-images --complexity complexity.csv
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `benco report`."""
    parser.description = (
        "Write one HTML page about runs or a protocol. It opens from a file, without a network, on "
        "a phone too. What is on it: docs/report.md."
    )
    parser.epilog = _EPILOG
    add = parser.add_argument
    add(
        "what",
        nargs="+",
        metavar="RUN_OR_PROTOCOL",
        help="folders of runs, or that hold some; or a protocol's name or file, which gives the "
        "columns and means its folder below --runs",
    )
    add("--out", default="report.html", metavar="FILE", help="the page (default: %(default)s)")
    add("--runs", default="runs", metavar="DIR", help="where runs are (default: %(default)s)")
    add("--protocol", metavar="NAME", help="the protocol whose columns to show, for folders")
    _add_figures(parser)
    _add_pictures(parser)


def _add_figures(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("figures").add_argument
    add(
        "--metric",
        default="pixel_f1",
        metavar="NAME[,NAME...]",
        help=f"some of: {', '.join(METRICS)} (default: %(default)s)",
    )
    add("--authentic", choices=AUTHENTIC, default="tampered", help="as in benco table")
    add("--score-at", choices=SCORE_AT, default="model", help="as in benco table")
    add("--evaluators", choices=EVALUATORS, default="exact", help="as in benco table")
    add("--rows", "--models", metavar="NAME[,NAME...]", help="rows to show, in this order")
    add("--sets", metavar="NAME[,NAME...]", help="columns to show, in this order")
    add(
        "--allow-mixed",
        action="store_true",
        help="let rows of different terms share the table, and mark their cells, as benco table",
    )
    add("--no-published", action="store_true", help="leave the protocol's published rows out")
    add("--digits", type=int, default=3, metavar="N", help="after the point (default: %(default)s)")
    add(
        "--complexity",
        default="",
        metavar="FILE",
        help="a CSV file of benco complexity, or the word count to count models now; without it "
        "what the runs know",
    )


def _add_pictures(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("pictures").add_argument
    add(
        "--images",
        type=int,
        default=3,
        metavar="N",
        help="so many best and so many worst images of each set and model (default: %(default)s)",
    )
    add("--no-images", action="store_true", help="leave the pictures out; no checkpoint is loaded")
    add(
        "--images-of",
        metavar="NAME[,NAME...]",
        help="models to draw (default: the first three whose weights are there)",
    )
    add("--data-root", metavar="DIR", help="where sets are that are not where the test found them")
    add("--device", default="auto", help="that makes the maps (default: %(default)s)")
    add(
        "--import",
        dest="imports",
        action="append",
        default=[],
        metavar="MODULE",
        help="a module or file that registers models; may be repeated",
    )


def run(args: argparse.Namespace) -> int:
    """Write the page.

    Raises:
        UserError: There are no fitting results, a name is unknown, or the file is no report.
    """
    out = Path(args.out)
    if args.images < 0:
        raise UserError(f"--images {args.images}: give 0 or more")
    check_digits(args.digits)
    from sparsevit_plugin.cli.progress import shown_progress
    from sparsevit_plugin.report.collect import collect
    from sparsevit_plugin.report.render import refuse_other_file, write

    refuse_other_file(out)  # before anything takes time
    with shown_progress("maps") as progress:
        report = collect(_request(args), progress)
    size = write(report, out)
    print(f"wrote {out}: {size / 2**20:.1f} MiB")
    return 0


def _request(args: argparse.Namespace) -> "Request":
    from sparsevit_plugin.report.collect import Request
    from sparsevit_plugin.report.pictures import Wish

    wish = Wish(
        count=args.images,
        models=tuple(listed(args.images_of) or ()),
        data_root=Path(args.data_root) if args.data_root else None,
        device=args.device,
        imports=tuple(args.imports),
    )
    runs = Path(args.runs)
    folders = tuple(results_folder(_protocol_name(word) or word, runs) for word in args.what)
    return Request(
        folders=tuple(dict.fromkeys(folders)),
        protocol=chosen_protocol(args, "a report", _protocol_name),
        metrics=tuple(listed(args.metric) or ()),
        authentic=args.authentic,
        score_at=args.score_at,
        evaluator=args.evaluators,
        rows=listed(args.rows),
        sets=listed(args.sets),
        published=not args.no_published,
        allow_mixed=args.allow_mixed,
        digits=args.digits,
        complexity=args.complexity,
        pictures=None if args.no_images or not args.images else wish,
    )


def _protocol_name(word: str) -> str | None:
    """Return the name of the protocol that a word means, by name or by file; None for none."""
    from sparsevit_plugin.results.columns import is_protocol, protocol_columns

    if Path(word).suffix in (".yaml", ".yml") and Path(word).is_file():
        return protocol_columns(word).name
    return word if is_protocol(word) else None
