"""`benco data check PATH`: read every image and mask of a data path and report."""

import argparse
import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sparsevit_plugin.harness.check import Progress

PROBLEMS_FOUND = 1

_EPILOG = """\
exit code: 0 when every set can be used as it stands, 1 when there are problems, 2 when PATH is no
data source

examples:
  benco data check CASIA2.0
  benco data check tests.json --json report.json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's arguments to its parser."""
    parser.description = (
        "Read every image and mask once: pairs, sizes, unreadable files, empty and soft masks, "
        "colour models, EXIF rotation, repeated files."
    )
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "path",
        metavar="PATH",
        help="folder with Tp/ and Gt/, JSON list of [image, mask], JSON list of [dataset class, "
        "path], or JSON dict of name to any of these",
    )
    parser.add_argument(
        "--pair",
        choices=("name", "position"),
        default="name",
        help="how masks belong to images: by file name (default), or by position, for sets whose "
        "names do not correspond",
    )
    parser.add_argument("--json", metavar="FILE", help="also write the report as JSON")
    parser.add_argument(
        "--import",
        dest="imports",
        action="append",
        default=[],
        metavar="FILE.py|MODULE",
        help="run this first: it registers dataset classes of your own (repeatable)",
    )


def run(args: argparse.Namespace) -> int:
    """Check a data path.

    Args:
        args: What `add_arguments` added.

    Returns:
        0 where every set can be used as it stands, else 1.

    Raises:
        UserError: If the path is no data source or the report cannot be written.
    """
    from sparsevit_plugin.files import write_json_atomic
    from sparsevit_plugin.harness.check import check_source

    if args.imports:
        from sparsevit_plugin.registration import import_user

        import_user(args.imports)
    with _progress() as progress:
        report = check_source(args.path, args.pair, progress=progress)
    if args.json:
        write_json_atomic(Path(args.json), report.to_dict())
    print("\n".join(report.lines()))
    return 0 if report.ok else PROBLEMS_FOUND


@contextlib.contextmanager
def _progress() -> "Iterator[Progress | None]":
    """Yield what shows a bar on a terminal, or None where there is none."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = ("checking", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("checking", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
