"""The shared browser notes what a page does; without this, tests of pages could not fail."""

import pytest

PAGE = """<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>t</title>
<link rel="icon" href="data:,"><style>p {{ color: black }}
@media (prefers-color-scheme: dark) {{ p {{ color: white }} }}</style></head>
<body><p>words</p>{}</body></html>"""


@pytest.fixture
def write(tmp_path):
    def write_page(body):
        path = tmp_path / "page.html"
        path.write_text(PAGE.format(body))
        return path.as_uri()

    return write_page


@pytest.mark.system
def test_a_quiet_page_has_no_problems(open_page, write):
    seen = open_page(write("<script>console.log('fine')</script>"))
    assert (seen.problems, seen.network) == ([], [])
    assert len(seen.requests) == 1


@pytest.mark.system
@pytest.mark.parametrize(
    "body",
    [
        "<script>console.error('wrong')</script>",
        "<script>missing()</script>",
        '<img src="missing.png" alt="">',
    ],
)
def test_problems_are_noted(open_page, write, body):
    seen = open_page(write(body))
    seen.page.wait_for_timeout(100)
    assert seen.problems


@pytest.mark.system
def test_requests_are_noted(open_page, write):
    seen = open_page(write('<img src="http://127.0.0.1:9/a.png" alt="">'))
    assert seen.network == ["http://127.0.0.1:9/a.png"]


@pytest.mark.system
@pytest.mark.parametrize(
    ("scheme", "colour"), [("light", "rgb(0, 0, 0)"), ("dark", "rgb(255, 255, 255)")]
)
def test_width_and_scheme_are_the_readers(open_page, write, scheme, colour):
    page = open_page(write(""), width=375, scheme=scheme).page
    assert page.evaluate("innerWidth") == 375
    assert page.evaluate("getComputedStyle(document.querySelector('p')).color") == colour
