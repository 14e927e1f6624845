"""The page: whole in itself, right for screen readers, sortable."""

import re
from html.parser import HTMLParser

import pytest

from tests.results.helpers import in_memory, manifest, scored
from tests.results.test_latex import ODD, odd_table

VOID = {"meta"}


class Page(HTMLParser):
    """Checks that elements close in order, and gathers the table's rows."""

    def __init__(self, text):
        super().__init__()
        self.open, self.rows, self.seen = [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.seen.append((tag, dict(attributes)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.rows[-1].append({"tag": tag, "text": "", **dict(attributes)})
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if {"th", "td"} & set(self.open):
            self.rows[-1][-1]["text"] += data


@pytest.fixture(scope="module")
def text():
    return odd_table().to_html()


@pytest.fixture(scope="module")
def page(text):
    return Page(text)


def test_it_needs_nothing_else(text, page):
    assert not re.search(r'(src|href)="(?!#)', text)
    assert "@import" not in text
    assert "url(" not in text
    assert {tag for tag, _ in page.seen} & {"link", "img", "iframe"} == set()


def test_rows_are_as_wide_as_the_head(page):
    first, second, *rows = page.rows
    width = sum(int(cell.get("colspan", 1)) for cell in first)
    assert len(second) == width - sum("rowspan" in cell for cell in first)
    for row in rows:
        assert sum(int(cell.get("colspan", 1)) for cell in row) == width


def test_heads_have_their_scope(page):
    scopes = [cell["scope"] for row in page.rows for cell in row if cell["tag"] == "th"]
    assert set(scopes) == {"col", "colgroup", "row", "rowgroup"}
    assert all(row[0]["scope"] == "row" for row in page.rows[2:] if row[-1]["tag"] == "td")
    assert [a["lang"] for tag, a in page.seen if tag == "html"] == ["en"]


def test_names_are_escaped(text, page):
    assert "<z>" not in text
    assert any(row[0]["text"].startswith(ODD) for row in page.rows)


def test_every_column_sorts_by_its_own_values(page):
    buttons = [a for tag, a in page.seen if tag == "button"]
    width = sum(int(cell.get("colspan", 1)) for cell in page.rows[0])
    assert sorted(int(a["data-column"]) for a in buttons) == list(range(width))
    for row in page.rows[2:]:
        for cell in row[1:]:
            assert ("data-value" in cell) == (cell["text"].strip() not in ("-", "- / -"))
            if "data-value" in cell and "±" not in cell["text"]:
                shown = re.search(r"[+-]?\d+(\.\d+)?", cell["text"])[0]
                wanted = float(cell["data-value"])
                assert any(
                    float(shown) == pytest.approx(wanted / scale, rel=0.01, abs=6e-4)
                    for scale in (1, 1e6, 1e9)
                )


def test_published_rows_are_a_block_of_their_own(text):
    bodies = re.findall(r'<tbody class="(\w+)">', text)
    assert bodies == ["measured", "measured", "published"]


def test_footnotes_are_linked(text, page):
    targets = {a["id"] for _, a in page.seen if "id" in a}
    links = {a["href"][1:] for tag, a in page.seen if tag == "a"}
    assert links
    assert links <= targets


def test_the_best_is_marked_and_what_is_small_comes_first():
    cells = [(manifest(n), "casia", scored([v])) for n, v in (("A", 0.5), ("B", 0.7))]
    text = in_memory(*cells).table().to_html(digits=2)
    assert '<span class="best">0.70</span>' in text
    assert '<span class="second">0.50</span>' in text
    assert 'data-column="1" data-first="descending"' in text
    lower = in_memory(*cells).table("authentic_fp_area", sets=["casia"])
    assert 'data-column="1" data-first="ascending"' in lower.to_html()
