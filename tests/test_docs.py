"""The documentation: links lead somewhere, the site builds without a warning, notebooks run."""

import functools
import http.server
import importlib.util
import json
import re
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(
    path
    for path in (*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *ROOT.glob("*/README.md"))
    if "site" not in path.relative_to(ROOT).parts
)
PARTS = ("ul", "ol", "li", "table", "tr", "pre", "blockquote", "h1", "h2", "h3", "img")


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def rendered(path: Path) -> str:
    """Return a page as HTML, as a code host shows it."""
    return MarkdownIt("commonmark").enable("table").render(path.read_text(encoding="utf-8"))


def load_script(name: str):
    spec = importlib.util.spec_from_file_location(f"docs_{name}", DOCS / "site" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_to_files_of_the_repository(page: Path):
    for link in re.findall(r'(?:href|src)="([^"#]+)', rendered(page)):
        if not re.match(r"[a-z]+:", link):
            assert (page.parent / link).exists(), f"{named(page)}: {link}"


def commands_of(page: Path) -> list[str]:
    """Return the commands in a page's fences, without comments and what they are piped into."""
    found = []
    for token in MarkdownIt("commonmark").parse(page.read_text(encoding="utf-8")):
        if token.type == "fence" and token.info in ("", "sh", "bash", "console"):
            text = token.content.replace("\\\n", " ")
            for line in text.splitlines():
                match = re.match(r"(?:\$ )?(?:\w+=\S+ )*benco (.+)", line.strip())
                found += [match[1]] if match else []
    return found


COMMANDS = [
    (named(page), command)
    for page in (*PAGES, *ROOT.glob("results/**/*.md"))
    for command in commands_of(page)
]


def test_commands_on_the_pages_have_their_verbs_and_options():
    from sparsevit_plugin.cli.main import VERBS
    from sparsevit_plugin.cli.parser import SuggestingParser
    from sparsevit_plugin.errors import UserError

    wrong, read = [], 0
    for page, command in COMMANDS:
        words = re.split(r"\s[|&>]", command)[0]
        verb, *rest = shlex.split(words, comments=True)
        found = VERBS.get(verb)
        if found is not None and found.parts and rest:
            found = found.parts.get(rest.pop(0))
        if verb.startswith("-") or "..." in rest or (found is not None and found.own_parser):
            continue
        if found is None:
            wrong.append(f"{page}: benco {command}: no such verb")
            continue
        parser = SuggestingParser(prog="benco")
        importlib.import_module(f"sparsevit_plugin.cli.{found.module}").add_arguments(parser)
        read += 1
        try:
            parser.parse_args(rest)
        except UserError as error:
            wrong.append(f"{page}: benco {command}: {error}")
    assert wrong == []
    assert read > 100


def test_every_public_name_is_in_the_reference():
    import sparsevit_plugin
    from sparsevit_plugin import backends, cards, complexity

    text = "\n".join(path.read_text() for path in (DOCS / "api").glob("*.md"))
    directives = set(re.findall(r"^::: (\S+)", text, re.MULTILINE))
    for module in (sparsevit_plugin, backends, complexity):
        wanted = {f"{module.__name__}.{name}" for name in module.__all__}
        assert wanted - directives - {"sparsevit_plugin.backends.BACKENDS"} == set()
    assert cards.__name__ in directives  # with all its members


def test_links_are_moved_to_their_place_in_the_site():
    pytest.importorskip("mkdocs")
    hooks = load_script("hooks")
    assert hooks.target_of("docs/a.md", "../results/") == "results/README.md"
    assert hooks.target_of("docs/a.md", "https://example.org/README.md") is None
    assert hooks.target_of("docs/a.md", "../../other") is None
    assert hooks.place_of("docs/notebooks/a.ipynb") == "notebooks/a.md"
    found = hooks.linked_files(["docs/performance.md"])
    assert "benchmarks/README.md" in found
    assert not any(name.startswith("docs/") for name in found)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` builds it."""
    folder = tmp_path_factory.mktemp("site")
    words = ["--strict", "--config-file", DOCS / "site" / "mkdocs.yml", "--site-dir", folder]
    answer = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert answer.returncode == 0, answer.stderr
    return folder


@pytest.mark.system
def test_every_page_has_the_parts_that_a_code_host_shows(site: Path):
    """The site's Markdown and a code host's differ in lists and tables within lists."""
    from bs4 import BeautifulSoup

    for page in sorted(DOCS.glob("*.md")):
        place = site if page.stem == "index" else site / page.stem
        shown = BeautifulSoup((place / "index.html").read_text(), "html.parser").find("article")
        hosted = BeautifulSoup(rendered(page), "html.parser")
        for part in PARTS:
            assert len(shown.select(part)) == len(hosted.select(part)), f"{named(page)}: <{part}>"


@pytest.mark.system
def test_the_command_line_and_the_reference_are_in_the_site(site: Path):
    command_line = (site / "reference" / "command-line" / "index.html").read_text()
    for words in (
        "benco train",
        "benco protocol run",
        "--perturbation",
        "--find-unused-parameters",
    ):
        assert words in command_line
    assert (
        'id="sparsevit_plugin.Localiser.stream"'
        in (site / "api" / "predict" / "index.html").read_text()
    )
    assert "tampered_pixels" in (site / "reference" / "rows" / "index.html").read_text()


@pytest.mark.system
def test_links_within_the_site_lead_somewhere(site: Path):
    """Raw HTML and notebooks too, which MkDocs does not check."""
    from bs4 import BeautifulSoup

    for page in sorted(site.rglob("index.html")):
        soup = BeautifulSoup(page.read_text(), "html.parser")
        for element in soup.select("[href], [src]"):
            link = str(element.get("href") or element.get("src")).split("#")[0]
            if not link or re.match(r"[a-z]+:", link):
                continue
            target = page.parent / link
            assert target.is_file() or (target / "index.html").is_file(), f"{page}: {link}"


@pytest.fixture
def address(site: Path) -> Iterator[str]:
    """The site as a web server on this machine gives it."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(site))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/"
    server.shutdown()


@pytest.mark.system
@pytest.mark.parametrize("width", [1280, 375])
def test_no_page_needs_another_host_or_sideways_scrolling(site, address, open_page, width):
    pages = [page.relative_to(site).parent.as_posix() for page in site.rglob("index.html")]
    assert "tables" in pages
    seen = open_page(address, width=width)
    for page in sorted(pages):
        seen.page.goto(f"{address}{page}/", wait_until="load")
        root = seen.page.locator("html")
        assert root.evaluate("element => element.scrollWidth - element.clientWidth") <= 0, page
    assert seen.problems == []
    assert [url for url in seen.requests if not url.startswith((address, "data:"))] == []


@pytest.mark.system
def test_search_finds_a_page(address, open_page):
    seen = open_page(address)
    # Keys, one by one: the page listens to them, and would miss a text that is put in at once.
    seen.page.get_by_role("textbox", name="Search").press_sequentially("Holm")
    seen.page.locator(".md-search-result__link[href*='/tables/']").first.wait_for(state="attached")
    assert [url for url in seen.requests if not url.startswith((address, "data:"))] == []


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs of the smallest demo, and a test of it under JPEG."""
    folder = tmp_path_factory.mktemp("demo")
    benco = [sys.executable, "-m", "sparsevit_plugin"]
    demo = [*benco, "demo", "--out", str(folder), "--scale", "0.02", "--workers", "1"]
    subprocess.run(demo, check=True, capture_output=True, timeout=900)
    trained = folder / "runs" / "SparseViT_tiny"
    words = ["--model", "SparseViT_tiny", "--checkpoint", trained, "--output-dir", trained]
    words += ["--test-data-path", folder / "corpus" / "tests.json", "--perturbation", "jpeg:50"]
    subprocess.run([*benco, "test", *map(str, words)], check=True, capture_output=True, timeout=900)
    return folder / "runs"


@pytest.mark.system
@pytest.mark.parametrize("name", sorted(path.stem for path in DOCS.glob("notebooks/*.ipynb")))
def test_the_notebook_runs(runs: Path, name: str, tmp_path: Path):
    path = shutil.copy(DOCS / "notebooks" / f"{name}.ipynb", tmp_path)
    done = load_script("notebooks").execute(Path(path), runs)
    saved = json.loads(Path(path).read_text())
    for new, old in zip(done.cells, saved["cells"], strict=True):
        if new.cell_type == "code":
            kinds = [sorted(output.get("data", {})) for output in new.outputs]
            assert kinds == [sorted(output.get("data", {})) for output in old["outputs"]]
