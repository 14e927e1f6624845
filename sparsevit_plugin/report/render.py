"""From the sections of a report to the page: one file that holds everything it shows.

Every name and value is escaped by Jinja's autoescape. A content security policy lets the page run
its own script alone, by its hash, and load nothing but pictures inside it.
"""

import base64
import hashlib
import math
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from sparsevit_plugin.errors import UserError
from sparsevit_plugin.files import write_text_atomic
from sparsevit_plugin.report.charts import draw
from sparsevit_plugin.report.collect import Report
from sparsevit_plugin.report.pictures import Gallery
from sparsevit_plugin.results.html import SORT_SCRIPT, TABLE_STYLE, table_html
from sparsevit_plugin.results.layout import MISSING

GENERATOR: Final = "sparsevit-plugin report"
"""By this word in its head a file is known as a report, which another may replace."""

LIMIT: Final = 24 * 2**20
"""The largest page, in bytes: what a phone's browser opens without trouble."""

_HEAD: Final = 8192  # bytes in which the generator is sought
_ENOUGH: Final = 3  # significant digits


def render(report: Report) -> str:
    """Return a report as a page.

    Raises:
        UserError: It is larger than `LIMIT`.
    """
    style = TABLE_STYLE + files("sparsevit_plugin.report").joinpath(
        "templates/style.css"
    ).read_text(encoding="utf-8")
    environment = Environment(
        loader=PackageLoader("sparsevit_plugin.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["draw"] = draw
    environment.filters |= {
        "figure": _figure,
        "size": _size,
        "whole": _whole,
        "percent": _percent,
        "count_of": _count_of,
        "groupby_order": _by_set,
    }
    text = environment.get_template("page.html").render(
        report=report,
        sections=_sections(report),
        # Escaped where it is made.
        table=Markup(table_html(report.table, "table-", "Models and test sets")),  # noqa: S704
        generator=GENERATOR,
        style=Markup(style),  # noqa: S704
        script=Markup(SORT_SCRIPT),  # noqa: S704
        style_hash=_hash(style),
        script_hash=_hash(SORT_SCRIPT),
    )
    size = len(text.encode())
    if size > LIMIT:
        raise UserError(
            f"the page would take {size / 2**20:.0f} MiB, more than {LIMIT / 2**20:.0f}: give "
            "fewer --rows or --sets, or a smaller --images"
        )
    return text


def write(report: Report, path: Path) -> int:
    """Write a report's page, whole or not at all.

    Returns:
        Its size in bytes.

    Raises:
        UserError: The file is there and no report, or cannot be written, or would be too large.
    """
    refuse_other_file(path)
    text = render(report)
    write_text_atomic(path, text)
    return len(text.encode())


def refuse_other_file(path: Path) -> None:
    """Refuse to replace a file that is no report.

    Raises:
        UserError: If so, or the file cannot be read.
    """
    if not path.exists():
        return
    if path.is_file():
        try:
            with path.open("rb") as file:
                head = file.read(_HEAD)
        except OSError as error:
            raise UserError(f"--out {path}: cannot be read: {error.strerror or error}") from error
        if f'name="generator" content="{GENERATOR}"'.encode() in head:
            return
    raise UserError(f"--out {path}: is there and is no report: give another name, or remove it")


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode('ascii')}"


def _sections(report: Report) -> list[tuple[str, str]]:
    """Return ids and titles of the sections that the page has."""
    every = (
        ("results", "Results", True),
        ("robustness", "Robustness", report.robustness is not None),
        ("scores", "Single images", report.scores),
        ("images", "Best and worst images", report.pictures is not None),
        ("training", "Training", report.training),
        ("cost", "Complexity", report.costs),
        ("sets", "Test sets", True),
        ("runs", "Configuration and environment", True),
    )
    return [(name, title) for name, title, is_there in every if is_there]


def _figure(value: float) -> str:
    return MISSING if math.isnan(value) else f"{value:.3f}"


def _size(value: float) -> str:
    return MISSING if math.isnan(value) else f"{value:.{_ENOUGH}g}"


def _whole(value: int | None) -> str:
    return MISSING if value is None else f"{value:,}"


def _percent(value: float) -> str:
    return MISSING if math.isnan(value) else f"{value:.1%}"


def _count_of(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def _by_set(galleries: Iterable[Gallery]) -> list[tuple[str, list[Gallery]]]:
    found: dict[str, list[Gallery]] = {}
    for gallery in galleries:
        found.setdefault(gallery.dataset, []).append(gallery)
    return list(found.items())
