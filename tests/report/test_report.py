"""`benco report`: what is on the page, what is escaped, what is refused."""

import itertools
import re
from html.parser import HTMLParser

import pytest

from sparsevit_plugin.cli.main import main
from sparsevit_plugin.report import pictures, render, training
from sparsevit_plugin.report.collect import Request, collect
from tests.report.conftest import AUTHENTIC, EVIL, PLAIN, TAMPERED

VOID = {"meta", "link", "img", "br", "input"}
HEADINGS = ("h1", "h2", "h3", "h4", "h5", "h6")


class Reader(HTMLParser):
    """Checks that elements close in order, and gathers them with the text inside."""

    def __init__(self, text):
        super().__init__()
        self.open, self.seen, self.words = [], [], {}
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.seen.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append((tag, len(self.seen) - 1))

    def handle_startendtag(self, tag, attributes):
        self.seen.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        for _, place in self.open:
            self.words[place] = self.words.get(place, "") + data

    def all(self, tag):
        return [attributes for name, attributes in self.seen if name == tag]

    def texts(self, tag):
        places = [place for place, (name, _) in enumerate(self.seen) if name == tag]
        return [self.words.get(place, "").strip() for place in places]


@pytest.fixture(scope="module")
def text(page):
    return page.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def read(text):
    return Reader(text)


def run(tested, out, *words):
    return main(["report", str(tested.run), "--out", str(out), *map(str, words)])


def test_every_section_is_there_and_linked(read):
    titles = read.texts("h2")
    assert titles == [
        *("Results", "Robustness", "Single images", "Best and worst images", "Training"),
        *("Test sets", "Configuration and environment"),
    ]
    targets = {a["id"] for _, a in read.seen if "id" in a}
    links = [a["href"] for a in read.all("a")]
    assert len(links) > len(titles)
    assert {link[1:] for link in links} <= targets
    ids = [a["id"] for _, a in read.seen if "id" in a]
    assert len(ids) == len(set(ids))
    named = [w for _, a in read.seen for k in ("aria-labelledby", "aria-describedby")
             for w in a.get(k, "").split()]  # fmt: skip
    assert named
    assert set(named) <= targets


def test_names_are_escaped_everywhere(text, read):
    assert EVIL not in text
    assert "<b>loss" not in text
    assert len(read.all("script")) == 1
    assert EVIL in read.texts("h3")
    assert any("<b>loss</b>" in words for words in read.texts("li"))
    assert EVIL in " ".join(read.texts("th"))


def test_it_needs_nothing_else(text, read):
    assert not re.search(r'(?:src|href)="(?!#|data:)', text)
    assert "@import" not in text
    assert "url(" not in text
    (policy,) = [a["content"] for a in read.all("meta") if "http-equiv" in a]
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert not [a for _, a in read.seen if any(k.startswith("on") or k == "style" for k in a)]


def test_headings_are_in_order(read):
    levels = [int(tag[1]) for tag, _ in read.seen if tag in HEADINGS]
    assert levels.count(1) == 1
    assert all(b <= a + 1 for a, b in itertools.pairwise(levels))


def test_pictures_have_texts_and_tables_have_heads(read):
    # Two sets; of each two best and worst, one authentic; four pictures each.
    images = read.all("img")
    assert len(images) % 4 == 0
    assert len(images) >= 2 * 4 * 4
    assert all(a["alt"] and a["src"].startswith("data:image/") for a in images)
    assert {a["scope"] for a in read.all("th")} >= {"col", "row"}
    assert all("scope" in a for a in read.all("th"))
    drawn = [a for a in read.all("svg") if a.get("role") == "img"]
    assert len(read.texts("title")) == len(drawn) + 1
    assert all(read.texts("desc"))


def test_the_report_as_data(tested):
    found = collect(Request((tested.run.parent,), pictures=None))
    assert (found.models, found.sets) == (2, 2)
    assert {(s.tampered, s.authentic) for s in found.set_facts} == {(TAMPERED, AUTHENTIC)}
    assert {block.rows[0].name for block in found.table.blocks} == {EVIL}
    (curve,) = found.robustness.sets
    assert curve.dataset == PLAIN
    assert curve.perturbations == ("none", "jpeg:90", "jpeg:50")
    (run_log,) = found.training
    assert run_log.selected_on == "val"
    facts = dict(found.run_facts[0].facts)
    assert facts["images fitted by"] == "resize"
    assert '"manifest_id"' in found.run_facts[0].manifest
    assert ("torch" in dict(found.libraries.rows)) is True
    assert found.costs == ()


def test_the_curves_are_the_tables_figures(tested):
    from sparsevit_plugin.results.store import load

    found = collect(Request((tested.run,), metrics=("pixel_iou",), pictures=None))
    results = load(tested.run)
    for place, name in enumerate(("none", "jpeg:90", "jpeg:50")):
        table = results.table("pixel_iou", perturbation=name, sets=[PLAIN])
        assert found.robustness.sets[0].rows[EVIL][place].mean == table.values.at[EVIL, PLAIN]


@pytest.mark.parametrize(
    "more", [{"sets": (EVIL,)}, {"rows": ("AllTampered",)}], ids=["sets", "rows"]
)
def test_what_was_not_perturbed_has_no_curves(tested, more):
    found = collect(Request((tested.run.parent,), pictures=None, **more))
    assert found.robustness is None
    assert "Robustness" not in Reader(render.render(found)).texts("h2")


def test_a_report_is_replaced_and_other_files_are_not(tested, tmp_path, capsys):
    out = tmp_path / "report.html"
    out.write_text("<html>my thesis</html>")
    assert run(tested, out, "--no-images") == 2
    assert "is no report" in capsys.readouterr().err
    assert out.read_text() == "<html>my thesis</html>"
    assert run(tested, tmp_path, "--no-images") == 2
    out.unlink()
    assert run(tested, out, "--no-images") == 0
    first = out.read_text()
    assert run(tested, out, "--no-images", "--digits", "2") == 0
    assert out.read_text() != first
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_without_pictures_no_checkpoint_is_loaded(tested, tmp_path, monkeypatch):
    def refuse(*_args, **_kwargs):
        raise AssertionError

    monkeypatch.setattr(pictures, "collect", refuse)
    monkeypatch.setattr("sparsevit_plugin.report.collect.collect_pictures", refuse)
    out = tmp_path / "report.html"
    assert run(tested, out, "--no-images") == 0
    assert "Best and worst" not in out.read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--images", "-1"], "--images -1"),
        (["--digits", "10"], "--digits 10"),
        (["--metric", "pixel_f2"], 'Did you mean "pixel_f1"?'),
        (["--sets", "plane"], 'Did you mean "plain"?'),
        (["--evaluators", "benco"], "no rows by the benco evaluators"),
        (["--complexity", "missing.csv"], "--complexity missing.csv"),
        (["--images-of", "Nobody"], 'no model "Nobody"'),
    ],
)
def test_mistakes_are_one_line(tested, tmp_path, capsys, words, said):
    out = tmp_path / "report.html"
    assert run(tested, out, *words) == 2
    message = capsys.readouterr().err
    assert said in message
    assert not out.exists()


def test_folders_without_results_are_told(tmp_path, capsys):
    assert main(["report", str(tmp_path), "--out", str(tmp_path / "r.html")]) == 2
    assert "no results below" in capsys.readouterr().err


def test_a_page_that_is_too_large_is_not_written(tested, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(render, "LIMIT", 1000)
    assert run(tested, tmp_path / "r.html", "--no-images") == 2
    assert "--sets" in capsys.readouterr().err
    assert not (tmp_path / "r.html").exists()


def test_complexity_comes_from_a_table(tested, tmp_path):
    table = tmp_path / "c.csv"
    table.write_text(
        "model,image_size,parameters,macs,flops,counter\n"
        "SparseViT_tiny,64,1097000,2000,4000,by hand\nSparseViT_tiny,512,1,1,1,by hand\n"
    )
    request = Request((tested.run.parent,), complexity=str(table), pictures=None)
    first, second = collect(request).costs
    assert (first.parameters, first.macs, first.flops, first.counter) == (
        *(1097000, 2000, 4000),
        "by hand",
    )
    assert second.problem
    table.write_text("model\nx\n")
    assert run(tested, tmp_path / "r.html", "--no-images", "--complexity", table) == 2


def test_complexity_can_be_counted(tested):
    request = Request((tested.run,), complexity="count", pictures=None)
    (cost,) = collect(request).costs
    assert cost.problem == ""
    assert cost.image_size == 64
    assert cost.parameters > 1_000_000
    assert cost.flops == 2 * cost.macs > 0


def test_logs_have_the_names_that_training_gives_them():
    from sparsevit_plugin.harness import logs, train

    assert (training.LOG_NAME, training.RUN_NAME) == (logs.LOG_NAME, train.RUN_NAME)
