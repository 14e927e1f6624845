"""`benco detection`: image-level figures and reliability, from stored rows; nothing runs again."""

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import Final

from sparsevit_plugin.cli.parser import listed
from sparsevit_plugin.cli.stored_options import (
    add_allow_mixed,
    add_choice,
    add_digits,
    add_out_folder,
    add_perturbation,
    add_sources,
    check_digits,
    chosen_protocol,
    stored_folders,
    write_folder,
)
from sparsevit_plugin.files import prove_writable

_FOLDER: Final = "detection"
_FIGURES: Final = ("reliability.pdf", "reliability.png")

_EXAMPLES = """\
examples:
  benco detection mvss-with-authentic
  benco detection runs/a runs/b --sets NIST16_world --out figures
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `benco detection`."""
    parser.description = (
        "Say how well image scores tell tampered photographs from authentic ones, and how well "
        "they are calibrated, with a reliability plot. docs/detection.md."
    )
    parser.epilog = _EXAMPLES
    add_sources(parser)
    add_choice(parser)
    add_perturbation(parser)
    add_allow_mixed(parser)
    add_digits(parser)
    add_out_folder(parser, _FOLDER)


def run(args: argparse.Namespace) -> int:
    """Write tables and figures, and print the table.

    Raises:
        UserError: There are no fitting rows, or a name is unknown.
    """
    check_digits(args.digits)
    from sparsevit_plugin.results.detection import build_detection
    from sparsevit_plugin.results.detection_plots import write_reliability_plot
    from sparsevit_plugin.results.panels import too_many
    from sparsevit_plugin.results.render import print_grid
    from sparsevit_plugin.results.store import load

    folders = stored_folders(args)
    out = Path(args.out) if args.out else folders[0] / _FOLDER
    prove_writable(out, "--out")
    study = build_detection(
        load(*folders),
        rows=listed(args.rows),
        sets=listed(args.sets),
        protocol=chosen_protocol(args, "a table of detection"),
        perturbation=args.perturbation,
        allow_mixed=args.allow_mixed,
    )
    texts = {
        "detection.md": study.to_markdown(args.digits),
        "detection.tex": study.to_latex(args.digits),
        "detection.csv": study.figures_csv(),
        "reliability.csv": study.reliability_csv(),
    }
    why_not = "" if study.sets else "no set has both classes and scores that are probabilities"
    why_not = why_not or too_many(len(study.models))
    figures = () if why_not else _FIGURES
    write_folder(out, texts, dict.fromkeys(figures, partial(write_reliability_plot, study)))
    print_grid(study.grid(args.digits), study.lines(), sys.stdout, names=2)
    if why_not:
        print(f"no reliability plot: {why_not}")
    print(f"wrote {', '.join([*texts, *figures])} into {out}")
    return 0
