"""What the site has besides the pages in `docs/`.

- Files of the repository that pages link to (`../benchmarks/README.md`) become part of the site,
  below `repository/`, so that a link which works on a code host works in the site too.
- Notebooks become pages, with the outputs that they were saved with.
- The page of the command line is made from the parsers, that of the rows from their schema.
"""

import contextlib
import io
import os
import posixpath
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit
from xml.etree.ElementTree import Element

from markdown import Extension, Markdown
from markdown.treeprocessors import Treeprocessor
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

if TYPE_CHECKING:
    from pyarrow import DataType

    from sparsevit_plugin.results.schema import Column

ROOT = Path(__file__).resolve().parents[2]
PAGES = "docs/"
BROUGHT = "repository/"
ALWAYS = (
    *("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "benchmarks/README.md"),
    "results/README.md",
)
"""Files of the repository that are in the navigation."""

COMMAND_LINE = "reference/command-line.md"
ROW_COLUMNS = "reference/rows.md"
HELP_WIDTH = "80"  # what the column of text holds
_LINK = re.compile(r"\]\(<?([^)>\s]+)")
# What pandas says of a table's looks; without it, the site's own style holds.
_PANDAS = re.compile(r'(<style scoped>.*?</style>\s*)?<table border="1" class="dataframe">', re.S)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Let links be rewritten before MkDocs checks them, and give every page a place."""
    config.markdown_extensions.append(_links)  # type: ignore[arg-type]  # takes instances too
    named = set(_pages_in(config.nav))
    (use,) = [part["Use"] for part in config.nav if "Use" in part]
    use += [page.name for page in sorted((ROOT / PAGES).glob("*.md")) if page.name not in named]
    return config


def _pages_in(part: Any) -> Iterator[str]:  # noqa: ANN401 -- lists and dicts, as in the YAML file
    """Yield the pages that the navigation names."""
    if isinstance(part, str):
        yield part
    else:
        for inner in part.values() if isinstance(part, dict) else part:
            yield from _pages_in(inner)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what is not in `docs/`."""
    pages = [file.src_uri for file in files.documentation_pages()]
    for path in sorted(linked_files([*(PAGES + uri for uri in pages), *ALWAYS])):
        files.append(File.generated(config, BROUGHT + path, abs_src_path=str(ROOT / path)))
    for file in [file for file in files if file.src_uri.endswith(".ipynb")]:
        for made in notebook_page(file, config):
            files.append(made)
    files.append(File.generated(config, COMMAND_LINE, content=command_line()))
    files.append(File.generated(config, ROW_COLUMNS, content=row_columns()))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Tell the link rewriter which page comes next."""
    _links.page = page.file
    return markdown


def linked_files(pages: list[str]) -> set[str]:
    """Return the files outside `docs/` that pages link to, and those that these link to.

    Args:
        pages: Paths of Markdown files in the repository.

    Returns:
        Paths in the repository, those of `pages` outside `docs/` among them.
    """
    found: set[str] = set()
    queue = list(pages)
    while queue:
        source = queue.pop()
        if not source.startswith(PAGES):
            if source in found:
                continue
            found.add(source)
        if source.endswith(".md"):
            text = (ROOT / source).read_text(encoding="utf-8")
            targets = [target_of(source, link) for link in _LINK.findall(text)]
            queue += [path for path in targets if path and not path.startswith(PAGES)]
    return found


def target_of(source: str, link: str) -> str | None:
    """Return the repository's file that a link in the file `source` means.

    A folder means its README, as on a code host.

    Returns:
        A path in the repository; None for an address, an anchor or what is not there.
    """
    parts = urlsplit(link)
    if parts.scheme or parts.netloc or not parts.path or parts.path.startswith("/"):
        return None
    path = posixpath.normpath(posixpath.join(posixpath.dirname(source), unquote(parts.path)))
    if path.startswith(".."):
        return None
    if (ROOT / path).is_dir():
        path += "/README.md"
    return path if (ROOT / path).is_file() else None


def source_of(uri: str) -> str:
    """Return the repository's file behind a page of the site."""
    return uri.removeprefix(BROUGHT) if uri.startswith(BROUGHT) else PAGES + uri


def place_of(path: str) -> str:
    """Return where a file of the repository stands in the site's sources."""
    if not path.startswith(PAGES):
        return BROUGHT + path
    return re.sub(r"\.ipynb$", ".md", path.removeprefix(PAGES))


class Links(Extension):
    """Points links between files of the repository to their places in the site.

    Attributes:
        page: The page that is rendered next; None before the first.
    """

    page: File | None = None

    def extendMarkdown(self, md: Markdown) -> None:  # noqa: N802 (Markdown's name)
        """Come before MkDocs' own check of links, whose priority is 0."""
        md.treeprocessors.register(_Rewriter(md, self), "repository-links", 5)

    def rewritten(self, link: str) -> str:
        """Return a link as the site needs it; one that leads nowhere is left for the check."""
        if self.page is None:
            return link
        uri = self.page.src_uri
        path = target_of(source_of(uri), link)
        if path is None:
            return link
        moved = posixpath.relpath(place_of(path), posixpath.dirname(uri) or ".")
        anchor = urlsplit(link).fragment
        return f"{moved}#{anchor}" if anchor else moved


class _Rewriter(Treeprocessor):
    def __init__(self, md: Markdown, links: Links) -> None:
        super().__init__(md)
        self.links = links

    def run(self, root: Element) -> None:
        for element in root.iter():
            name = {"a": "href", "img": "src"}.get(element.tag)
            if name and element.get(name):
                element.set(name, self.links.rewritten(element.get(name, "")))


_links = Links()


def notebook_page(file: File, config: MkDocsConfig) -> Iterator[File]:
    """Make a page of a notebook, and a file of each picture in its outputs."""
    from nbconvert import MarkdownExporter

    name = file.src_uri.removesuffix(".ipynb")
    body, resources = MarkdownExporter().from_filename(str(file.abs_src_path))
    for picture, content in resources["outputs"].items():
        unique = f"{name}-{picture}"
        body = body.replace(f"]({picture})", f"]({posixpath.basename(unique)})")
        yield File.generated(config, unique, content=content)
    yield File.generated(config, name + ".md", content=_PANDAS.sub("<table>", body))


def command_line() -> str:
    """Return the page of the command line: the help text of every verb."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of what IMDLBenCo imports
        from sparsevit_plugin.cli.main import VERBS

    parts = ["# Command line\n\nWhat `--help` prints, made from the parsers.\n", _help_of()]
    for name, verb in VERBS.items():
        parts.append(_help_of(name))
        for part, inner in (verb.parts or {}).items():
            if "not for people" not in inner.summary:
                parts.append(_help_of(name, part))
    return "\n".join(parts)


def _help_of(*words: str) -> str:
    """Return a section with the help text of a verb; it exits, or returns 0."""
    from sparsevit_plugin.cli.main import main

    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = HELP_WIDTH
    text = io.StringIO()
    try:
        with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
            main([*words, "--help"])
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before
    return f"## {' '.join(('benco', *words))}\n\n```text\n{text.getvalue().rstrip()}\n```\n"


def row_columns() -> str:
    """Return the page of the columns of stored rows."""
    from sparsevit_plugin.results.schema import HISTOGRAM_COLUMNS, ROW_COLUMNS, SCHEMA_VERSION

    return (
        "# Columns of stored rows\n\n"
        f"Of `Results.rows`, one row per image, score size and cell; schema {SCHEMA_VERSION}.\n\n"
        f"{_column_table(ROW_COLUMNS)}\n"
        "## Histograms\n\nOf `Results.histograms`.\n\n"
        f"{_column_table(HISTOGRAM_COLUMNS)}"
    )


def _column_table(columns: "tuple[Column, ...]") -> str:
    lines = ["| column | type | meaning |", "|---|---|---|"]
    lines += [f"| `{one.name}` | {_type(one.type)} | {one.meaning} |" for one in columns]
    return "\n".join(lines) + "\n"


def _type(kind: "DataType") -> str:
    """Return an Arrow type in few words; a dictionary is text that repeats."""
    return "string" if str(kind).startswith("dictionary") else str(kind).split("<")[0]
