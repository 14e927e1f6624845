"""`benco thresholds`: pixel F1 against thresholds, from stored rows; nothing runs again."""

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sparsevit_plugin.cli.parser import listed
from sparsevit_plugin.cli.stored_options import (
    add_allow_mixed,
    add_bootstrap,
    add_choice,
    add_digits,
    add_out_folder,
    add_scoring,
    add_sources,
    check_bootstrap,
    check_digits,
    chosen_protocol,
    stored_folders,
    write_folder,
)
from sparsevit_plugin.files import prove_writable

if TYPE_CHECKING:
    from sparsevit_plugin.results.thresholds import ThresholdStudy

_FOLDER: Final = "thresholds"
_FIGURES: Final = ("curves.pdf", "curves.png")

_EXAMPLES = """\
examples:
  benco thresholds mvss --rows SparseViT,Mesorch
  benco thresholds runs/a runs/b --against SparseViT --out figures
  benco thresholds runs/a --choose-on my-validation-set
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `benco thresholds`."""
    parser.description = (
        "Draw pixel F1 against the threshold, and compare the fixed 0.5, the best threshold of the "
        "validation split, and the oracles: how much of a difference between two models is only "
        "calibration? docs/thresholds.md."
    )
    parser.epilog = _EXAMPLES
    add_sources(parser)
    add_choice(parser)
    parser.add_argument(
        "--against",
        default="auto",
        metavar="MODEL",
        help="the model that the others are compared with (default: SparseViT where it is there, "
        "else the first)",
    )
    parser.add_argument(
        "--choose-on",
        default="",
        metavar="SET",
        help="choose the validation threshold on this set of the results instead of the hold-out "
        "of each training",
    )
    add_scoring(parser)
    add_allow_mixed(parser)
    add_bootstrap(parser, "intervals")
    add_digits(parser)
    add_out_folder(parser, _FOLDER)


def run(args: argparse.Namespace) -> int:
    """Write tables and figures, and print the tables.

    Raises:
        UserError: There are no fitting rows, or a name is unknown.
    """
    check_digits(args.digits)
    check_bootstrap(args)
    from sparsevit_plugin.results.store import load
    from sparsevit_plugin.results.thresholds import build_thresholds

    folders = stored_folders(args)
    out = Path(args.out) if args.out else folders[0] / _FOLDER
    prove_writable(out, "--out")
    study = build_thresholds(
        load(*folders),
        authentic=args.authentic,
        score_at=args.score_at,
        rows=listed(args.rows),
        sets=listed(args.sets),
        protocol=chosen_protocol(args, "a study of thresholds"),
        against=args.against,
        choose_on=args.choose_on,
        allow_mixed=args.allow_mixed,
        level=args.level,
        samples=args.draws,
    )
    written = _write(study, out, args.digits)
    _print(study, args.digits)
    print(f"wrote {', '.join(written)} into {out}")
    return 0


def _write(study: "ThresholdStudy", out: Path, digits: int) -> list[str]:
    from sparsevit_plugin.results.panels import too_many
    from sparsevit_plugin.results.thresholds_plots import write_threshold_plot
    from sparsevit_plugin.results.thresholds_tables import study_to_latex, study_to_markdown

    texts = {
        "thresholds.md": study_to_markdown(study, digits),
        "thresholds.tex": study_to_latex(study, digits),
        "thresholds.csv": study.table_csv(),
        "differences.csv": study.differences_csv(),
        "curves.csv": study.curves_csv(),
    }
    why_not = too_many(len(study.models))
    figures = () if why_not else _FIGURES
    write_folder(out, texts, dict.fromkeys(figures, partial(write_threshold_plot, study)))
    if why_not:
        print(f"no figure of the curves: {why_not}")
    return [*texts, *figures]


def _print(study: "ThresholdStudy", digits: int) -> None:
    from sparsevit_plugin.results.render import print_grid
    from sparsevit_plugin.results.thresholds_tables import (
        differences_grid,
        figures_grid,
        lines_below,
    )

    below = lines_below(study)
    if not len(study.differences):
        print_grid(figures_grid(study, digits), below, sys.stdout, names=2)
        return
    print_grid(figures_grid(study, digits), [], sys.stdout, names=2)
    print_grid(differences_grid(study, digits), below, sys.stdout, names=2)
