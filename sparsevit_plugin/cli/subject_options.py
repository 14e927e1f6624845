"""Options of the verbs that look into a checkpoint: `attention` and `explain`."""

import argparse
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparsevit_plugin.cli.checkpoint_options import add_groups, given_options
from sparsevit_plugin.errors import UserError

if TYPE_CHECKING:
    from sparsevit_plugin.explain.subject import Subject

OPTIONS = {
    "model": ("model", "imports"),
    "how a photograph is fitted": ("fit", "image_size"),
    "device": ("device",),
}
"""Options that `benco test` has too, by their heading."""


def add_subject_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the checkpoint, the figure's file and width, and how photographs are fed."""
    add = parser.add_argument
    add("--checkpoint", required=True, metavar="FILE", help="weights, or the folder of a run")
    add("--out", required=True, metavar="FILE", help="the figure: .png, .pdf or .svg")
    add(
        "--width",
        default="page",
        metavar="WIDTH",
        help="of the figure: column (3.35 inches), page (6.9 inches) or inches (%(default)s)",
    )
    add_groups(parser, OPTIONS)


def check_out(args: argparse.Namespace, *endings: str) -> float:
    """Refuse a figure that cannot be written before anything is computed; return its width.

    Args:
        args: The arguments of `add_subject_arguments`.
        *endings: Of the files of numbers beside the figure.

    Raises:
        UserError: The file's ending or the width is wrong, the folder cannot be written, or a file
            is there that is no figure of this program.
    """
    from sparsevit_plugin.explain.canvas import figure_width

    check_figures([args.out], *endings)
    return figure_width(args.width)


def check_figures(outs: Sequence[str], *endings: str) -> None:
    """Refuse figures that cannot be written, or in whose place there is something else.

    Numbers are replaced only beside a figure of their name, with which they were made.

    Args:
        outs: The figures.
        *endings: Of the files of numbers beside the first.

    Raises:
        UserError: A file's ending is wrong, a folder cannot be written, or a file is there that is
            no figure of this program.
    """
    from sparsevit_plugin.files import prove_writable
    from sparsevit_plugin.results.cost_plots import FORMATS, is_own_figure, refuse_other_file

    for out in outs:
        refuse_other_file("--out", out)
    figures = [beside(outs[0], f".{kind}") for kind in FORMATS]
    for numbers in (beside(outs[0], ending) for ending in endings):
        if numbers.exists() and not any(map(is_own_figure, figures)):
            raise UserError(
                f"--out {outs[0]}: its numbers would replace {numbers}, beside which there is no "
                "figure of this program: give another name, or remove it"
            )
    for out in outs:
        prove_writable(Path(out).absolute().parent, "--out")


def open_subject(args: argparse.Namespace) -> "Subject":
    """Open the checkpoint that the command line names."""
    from sparsevit_plugin.explain.subject import Subject

    return Subject(args.checkpoint, **given_options(args, OPTIONS))


def beside(out: str, ending: str) -> Path:
    """Return the file of a figure's numbers: its path with another ending."""
    path = Path(out)
    return path.with_name(path.stem + ending)


def write_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write arrays as a compressed npz file, whole or not at all.

    Raises:
        UserError: The file cannot be written.
    """
    import numpy as np

    from sparsevit_plugin.files import atomic_path

    with atomic_path(path) as temporary:
        np.savez_compressed(temporary, **arrays)


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a CSV file; undefined figures are empty.

    Raises:
        UserError: The file cannot be written.
    """
    import csv
    import io

    from sparsevit_plugin.files import write_text_atomic

    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _defined(row.get(name)) for name in columns} for row in rows)
    write_text_atomic(path, text.getvalue())


def _defined(value: object) -> object:
    return None if isinstance(value, float) and math.isnan(value) else value


def whole_pair(text: str, option: str) -> tuple[int, int]:
    """Read "x,y".

    Raises:
        UserError: It is something else.
    """
    words = text.split(",")
    try:
        x, y = (int(word) for word in words)
    except ValueError:
        raise UserError(f"{option} {text}: write two whole numbers, as {option} 120,80") from None
    return x, y
