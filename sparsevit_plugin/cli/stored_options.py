"""What the verbs share that make something of stored rows: options, and where the rows are."""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from sparsevit_plugin.errors import UserError, suggest
from sparsevit_plugin.files import write_text_atomic
from sparsevit_plugin.results.conventions import AUTHENTIC, SCORE_AT, UNPERTURBED

_MOST_DIGITS: Final = 9
_FEWEST_DRAWS: Final = 100
_LONGEST_HEAD: Final = 1 << 16  # bytes


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


def add_scoring(parser: argparse._ActionsContainer) -> None:
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


def add_allow_mixed(parser: argparse._ActionsContainer) -> None:
    """Declare `--allow-mixed`."""
    parser.add_argument(
        "--allow-mixed",
        action="store_true",
        help="let rows differ in evaluators, size of scoring, threshold, what chose their "
        "checkpoint or the images of a set, and mark them",
    )


def add_bootstrap(parser: argparse._ActionsContainer, what: str) -> None:
    """Declare `--level` and `--draws`.

    Args:
        parser: Or a group of one.
        what: What they are of, in words.
    """
    parser.add_argument(
        "--level", type=float, default=0.95, metavar="P", help=f"of the {what} (default: 0.95)"
    )
    parser.add_argument(
        "--draws", type=int, default=10_000, metavar="N", help="of the bootstrap (default: 10000)"
    )


def check_bootstrap(args: argparse.Namespace) -> None:
    """Refuse a level or a number of draws that make no interval.

    Raises:
        UserError: One is out of range.
    """
    if not 0 < args.level < 1:
        raise UserError(f"--level {args.level:g}: give a share such as 0.95")
    if args.draws < _FEWEST_DRAWS:
        raise UserError(f"--draws {args.draws}: give at least {_FEWEST_DRAWS}")


def add_out_folder(parser: argparse.ArgumentParser, folder: str) -> None:
    """Declare `--out` of a verb that writes several files: by default a folder beside the rows."""
    parser.add_argument(
        "--out",
        default="",
        metavar="DIR",
        help=f"where tables and figures go (default: {folder} in the first folder)",
    )


def write_folder(
    out: Path, texts: Mapping[str, str], figures: Mapping[str, Callable[[Path], None]]
) -> None:
    """Write a verb's tables and figures, each in the place of nothing but its own earlier one.

    An earlier table is told by its first line: a CSV's columns, the head of a table.

    Args:
        out: The folder.
        texts: By name.
        figures: What writes each, by name.

    Raises:
        UserError: There is another file of one of the names, and nothing was written; or a file
            cannot be written.
    """
    from sparsevit_plugin.results.cost_plots import refuse_other_file

    for name, text in texts.items():
        _refuse_other_table(out / name, text)
    for name in figures:
        refuse_other_file("--out", out / name)
    for name, text in texts.items():
        write_text_atomic(out / name, text)
    for name, write in figures.items():
        write(out / name)


def _refuse_other_table(path: Path, text: str) -> None:
    if not path.exists():
        return
    head = text.partition("\n")[0].encode().split()  # a Markdown table is as wide as its cells
    try:
        with path.open("rb") as file:
            own = file.readline(_LONGEST_HEAD).split() == head
    except OSError as error:
        raise UserError(f"--out {path}: cannot be read: {error.strerror or error}") from error
    if not own:
        raise UserError(
            f"--out {path}: is there and is no such table of this verb: give another folder, or "
            "remove it"
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


def stored_folders(args: argparse.Namespace) -> list[Path]:
    """Return the folders of results that the words of `add_sources` mean.

    Raises:
        UserError: As `results_folder`.
    """
    return [results_folder(word, Path(args.runs)) for word in args.what]


def results_folder(word: str, runs: Path) -> Path:
    """Return the folder of results that a word means: itself, or one below the runs.

    Raises:
        UserError: There is no such folder.
    """
    from sparsevit_plugin.results.columns import is_protocol
    from sparsevit_plugin.results.store import holds_results

    own, below = Path(word), runs / word
    for folder in (own, below):
        if folder.is_dir() and holds_results(folder):
            return folder
    if is_protocol(word):
        raise UserError(
            f"no results of protocol {word} in {below}: run benco protocol run {word}, or say "
            "where they are by --runs DIR"
        )
    if own.is_dir():
        return own
    names = [path.name for path in runs.iterdir() if path.is_dir()] if runs.is_dir() else []
    raise UserError(
        f"{word} is no folder, nor is {below}.{suggest(word, names)} Give a run's folder, one that "
        "holds runs, or a protocol"
    )


def _protocol_name(word: str) -> str | None:
    from sparsevit_plugin.results.columns import is_protocol

    return word if is_protocol(word) else None


def chosen_protocol(
    args: argparse.Namespace,
    what: str,
    protocol_of: Callable[[str], str | None] = _protocol_name,
) -> str | None:
    """Return the protocol that gives the sets: the named one, or that of the words.

    Args:
        args: Have `protocol` and the words `what`.
        what: What is made, in words.
        protocol_of: Returns the protocol that a word means; None for none.

    Raises:
        UserError: The words are several protocols.
    """
    if args.protocol:
        return str(args.protocol)
    names = list(dict.fromkeys(word for word in args.what if protocol_of(word)))
    if len(names) > 1:
        raise UserError(f"{' and '.join(names)} are protocols: {what} is of one")
    return names[0] if names else None
