"""Options of the verbs that make something of stored rows: table, thresholds, detection."""

import argparse
from typing import Final

from sparsevit_plugin.errors import UserError
from sparsevit_plugin.results.conventions import AUTHENTIC, SCORE_AT, UNPERTURBED

_MOST_DIGITS: Final = 9


def add_sources(parser: argparse.ArgumentParser) -> None:
    """Declare where rows are read from: words, `--runs`, `--protocol`."""
    parser.add_argument(
        "what",
        nargs="+",
        metavar="PROTOCOL_OR_FOLDER",
        help="a protocol's name, which gives the sets and means its folder below --runs; folders "
        "of runs; or folders that hold some",
    )
    parser.add_argument(
        "--runs", default="runs", metavar="DIR", help="where runs are (default: runs)"
    )
    parser.add_argument(
        "--protocol", metavar="NAME", help="the protocol whose sets to show, for folders"
    )


def add_choice(parser: argparse.ArgumentParser) -> None:
    """Declare `--rows` and `--sets`."""
    parser.add_argument(
        "--rows",
        "--models",
        metavar="NAME[,NAME...]",
        help="rows to show, in this order: models, labels or groups (default: all)",
    )
    parser.add_argument(
        "--sets",
        metavar="NAME[,NAME...]",
        help="sets to show, in this order (default: the protocol's, else all but hold-outs)",
    )


def add_scoring(parser: argparse.ArgumentParser) -> None:
    """Declare `--authentic` and `--score-at`."""
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


def add_perturbation(parser: argparse.ArgumentParser) -> None:
    """Declare `--perturbation`."""
    parser.add_argument(
        "--perturbation",
        default=UNPERTURBED,
        metavar="NAME",
        help="rows of photographs that were perturbed so, as jpeg:75 (default: none)",
    )


def add_allow_mixed(parser: argparse.ArgumentParser) -> None:
    """Declare `--allow-mixed`."""
    parser.add_argument(
        "--allow-mixed",
        action="store_true",
        help="let rows differ in evaluators, size of scoring, threshold, what chose their "
        "checkpoint or the images of a set, and mark them",
    )


def add_digits(parser: argparse.ArgumentParser) -> None:
    """Declare `--digits`."""
    parser.add_argument(
        "--digits", type=int, default=3, metavar="N", help="after the point (default: 3)"
    )


def check_digits(digits: int) -> None:
    """Refuse a number of digits that no figure has.

    Raises:
        UserError: It is out of range.
    """
    if not 0 <= digits <= _MOST_DIGITS:
        raise UserError(f"--digits {digits}: give 0 to {_MOST_DIGITS}")
