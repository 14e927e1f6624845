"""`benco robust`: cells of a protocol under a ladder, then curves from them, or curves alone."""

import json

import pandas as pd
import pytest

from sparsevit_plugin.cli import main as cli
from sparsevit_plugin.harness import perturb
from sparsevit_plugin.protocol.request import requested_protocol
from sparsevit_plugin.protocol.schema import load_protocol
from sparsevit_plugin.protocol.unnamed import unnamed_card
from sparsevit_plugin.protocol.worker import order_of, read_order, run_order, write_order
from sparsevit_plugin.results.store import load
from tests.protocol.conftest import lab  # noqa: F401 - a fixture
from tests.registry import fresh_registry  # noqa: F401 - a fixture

SETS = ("First", "Second")
STEPS = ["none", "blur:3", "resize:50", "social:telegram"]


def run_here(lab, plan):  # noqa: F811
    """Run a plan's jobs in this process."""
    for job in plan.jobs:
        path = lab.folder.job_file(job.name)
        write_order(path, order_of(job, plan.request, lab.folder))
        assert run_order(path) == 0


def refused(capsys, *words):
    assert cli.main(["robust", *words]) == cli.USER_ERROR
    *_, line = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("benco: error: ")
    return line.removeprefix("benco: error: ")


# --- cells ----------------------------------------------------------------------------------------


def test_a_request_for_perturbations_is_a_protocol_that_lists_them(lab):  # noqa: F811
    asked = lab.plan(perturbations=("none", "ladder:blur"))
    card = lab.root / "registry" / "protocols" / "lab.yaml"
    listed = '  perturbations: [none, "ladder:blur"]\n'
    card.write_text(card.read_text() + listed)
    written = lab.plan()
    assert [cell.key for cell in asked.jobs[0].tests] == [c.key for c in written.jobs[0].tests]
    assert asked.jobs[0].name == written.jobs[0].name
    expected = [(name, text) for text in ["none", *perturb.ladder("blur")] for name in SETS]
    assert [(cell.set, cell.perturbation) for cell in asked.jobs[0].tests] == expected


def test_unperturbed_cells_keep_the_keys_that_they_had(lab):  # noqa: F811
    plain = [cell.key for cell in lab.plan().jobs[0].tests]
    more = [cell.key for cell in lab.plan(perturbations=("none", "jpeg:50")).jobs[0].tests]
    assert more[:2] == plain
    assert len(set(more)) == 4


def test_another_preset_of_the_same_name_is_another_cell(lab, monkeypatch):  # noqa: F811
    def keys():
        plan = lab.plan(perturbations=("jpeg:50", "social:signal"))
        return {cell.perturbation: cell.key for cell in plan.jobs[0].tests}

    before = keys()
    other = perturb.networks()["signal"].model_copy(update={"quality": 71})
    monkeypatch.setattr(perturb, "networks", lambda: {"signal": other})
    after = keys()
    assert before["jpeg:50"] == after["jpeg:50"]
    assert before["social:signal"] != after["social:signal"]


def test_an_order_carries_the_perturbations(lab):  # noqa: F811
    plan = lab.plan(perturbations=("none", "blur:3"))
    path = lab.folder.job_file("job")
    write_order(path, order_of(plan.jobs[0], plan.request, lab.folder))
    assert read_order(path).request.perturbations == ("none", "blur:3")
    tests = requested_protocol(read_order(path).request).test
    assert tests.perturbations == ["none", "blur:3"]


def test_the_demos_protocol_lists_every_ladder():
    every = [text for name in perturb.ladders() for text in perturb.ladder(name)]
    assert load_protocol("demo-robust").test.perturbations == ["none", *every]


# --- curves of what is stored ---------------------------------------------------------------------


def test_curves_are_drawn_from_stored_rows(lab, capsys):  # noqa: F811
    run_here(lab, lab.plan())
    line = refused(capsys, "lab", "--runs", str(lab.runs))
    assert line.startswith("no perturbed rows: a curve needs some. Run benco robust PROTOCOL")
    run_here(lab, lab.plan(perturbations=tuple(STEPS)))
    out = lab.root / "figures"
    words = ["lab", "--runs", str(lab.runs), "--metric", "pixel_f1,pixel_auc"]
    assert cli.main(["robust", *words, "--ladders", "social,resize:50", "--out", str(out)]) == 0
    plots = {f"{kind}-{m}" for kind in ("resize", "social") for m in ("pixel_f1", "pixel_auc")}
    names = {f"{name}.{ending}" for name in plots for ending in ("pdf", "png")}
    assert {path.name for path in out.iterdir()} == {"curves.csv", "curves.tex"} | names
    frame = pd.read_csv(out / "curves.csv", keep_default_na=False)
    assert list(dict.fromkeys(frame["perturbation"])) == ["none", "resize:50", "social:telegram"]
    assert set(frame["set"]) == set(SETS)
    table = load(lab.runs).table("pixel_f1", perturbation="resize:50").values
    chosen = frame[(frame["perturbation"] == "resize:50") & (frame["metric"] == "pixel_f1")]
    assert {line.set: float(line.mean) for line in chosen.itertuples()} == pytest.approx(
        {name: table.at["Plain", name] for name in SETS}
    )
    printed = capsys.readouterr().out
    assert "resize 50" in printed
    assert "Band: " in printed
    latex = (out / "curves.tex").read_text()
    assert latex.count(r"\begin{table}") == latex.count(r"\end{table}") == 4
    assert r"set & model & none & 50 \\" in latex
    assert latex.count("First (n=3) & Plain & ") == 4
    assert "Band" not in latex  # of means only
    assert r"size that it was shrunk to (\% of each side)" in latex
    (out / "curves.csv").write_text("mine\n")
    assert cli.main(["robust", *words, "--ladders", "social", "--out", str(out)]) == 2
    assert "curves.csv: is there and is no such table" in capsys.readouterr().err
    assert (out / "curves.csv").read_text() == "mine\n"
    # A folder will do as well, and what is finished is not run again.
    assert cli.main(["robust", str(lab.runs / "lab"), "--ladders", "blur"]) == 0
    drawn = {path.name for path in (lab.runs / "lab" / "robustness").glob("*.png")}
    assert drawn == {"blur-pixel_f1.png"}
    before = {path: path.stat().st_mtime_ns for path in lab.runs.rglob("rows/*.parquet")}
    run_here(lab, lab.plan(perturbations=(*STEPS, "noise:3")))
    after = {path: path.stat().st_mtime_ns for path in lab.runs.rglob("rows/*.parquet")}
    assert before.items() <= after.items()
    assert (len(before), len(after)) == (2 * len(STEPS), 2 * (len(STEPS) + 1))


# --- running --------------------------------------------------------------------------------------


def test_models_are_run_on_a_path_without_a_protocol(lab, capsys):  # noqa: F811
    """The whole way, with the runner's processes: test, draw, and nothing is left to do."""
    paths = {name: str(lab.root / "data" / name) for name in SETS}
    (lab.root / "tests.json").write_text(json.dumps(paths))
    words = ["--test-data-path", str(lab.root / "tests.json"), "--models", "AllTampered"]
    words += ["--runs", str(lab.runs), "--device", "cpu", "--ladders", "blur:3,double:90-60@40"]
    assert cli.main(["robust", *words, "--set", "image_size=16"]) == 0
    folder = lab.runs / "robust-tests"
    protocol = load_protocol(str(unnamed_card(folder)))
    assert protocol.train is None
    assert [use.set for use in protocol.test.sets] == list(SETS)
    frame = pd.read_csv(folder / "robustness" / "curves.csv")
    assert list(dict.fromkeys(frame["perturbation"])) == ["none", "blur:3", "double:90-60@40"]
    assert frame["images"].tolist() == [3, 2] * 3  # the path's images, Au/ not among them
    capsys.readouterr()
    assert cli.main(["robust", *words, "--set", "image_size=16", "--dry-run"]) == 0
    assert "0 of 6 to do" in capsys.readouterr().out


def test_registered_sets_need_no_protocol_either(lab, capsys):  # noqa: F811
    words = ["--test-data-path", "set:First:tampered,Second", "--models", "AllTampered"]
    words += ["--data-root", str(lab.root / "data"), "--runs", str(lab.runs), "--dry-run"]
    assert cli.main(["robust", *words, "--name", "some", "--ladders", "all"]) == 0
    protocol = load_protocol(str(unnamed_card(lab.runs / "some")))
    uses = [(use.set, use.authentic) for use in protocol.test.sets]
    assert uses == [("First", "exclude"), ("Second", "include")]
    every = sum(len(perturb.ladder(name)) for name in perturb.ladders())
    assert f"{2 * (1 + every)} of {2 * (1 + every)} to do" in capsys.readouterr().out


def test_the_protocols_own_perturbations_come_before_upstreams(lab, capsys):  # noqa: F811
    words = [*lab.arguments(models="AllTampered"), "--dry-run"]
    assert cli.main(["robust", *words]) == 0
    assert f"{2 * (1 + 18)} of {2 * (1 + 18)} to do" in capsys.readouterr().out
    card = lab.root / "registry" / "protocols" / "lab.yaml"
    card.write_text(card.read_text() + '  perturbations: ["ladder:social"]\n')
    assert cli.main(["robust", *words]) == 0
    count = 2 * (1 + len(perturb.ladder("social")))
    assert f"{count} of {count} to do" in capsys.readouterr().out


def test_a_protocol_that_trains_nothing_says_so(lab, capsys):  # noqa: F811
    card = lab.root / "tests-only.yaml"
    card.write_text("name: tests-only\ntitle: Tests\ntest:\n  sets: [{set: First}]\n")
    words = [str(card), *lab.arguments("--dry-run")[1:]]
    assert "protocol tests-only trains nothing: give a ready checkpoint, as Plain@FILE" in refused(
        capsys, *words
    )
    assert cli.main(["protocol", "show", str(card)]) == 0
    assert "trains nothing" in capsys.readouterr().out


# --- mistakes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give a protocol, folders of runs, or --test-data-path with --models"),
        (["lab", "--test-data-path", "x"], "--test-data-path takes the place of a protocol"),
        (["--test-data-path", "x"], "--test-data-path needs --models NAME@CHECKPOINT"),
        (["lab", "mvss", "--models", "Plain"], "lab and mvss: models are run on one protocol"),
        (["lab", "--name", "x"], "--name belongs to --test-data-path"),
        (["lab", "--level", "95"], "--level 95: give a share such as 0.95"),
        (["lab", "--draws", "10"], "--draws 10: give at least 100"),
        (["lab", "--digits", "-1"], "--digits -1: give 0 to 9"),
        (["lab", "--models", "Plain", "--ladders", "jpg"], 'no ladder "jpg". Did you mean "jpeg"?'),
        (["lab", "--models", "Plain", "--ladders", "jpeg:500"], "quality lies between 1 and 100"),
        (["lab", "--models", "Plain", "--metric", "f2"], 'metric "f2" is not one of pixel_f1'),
        (["lab", "--models", "Plain", "--out", "card/x"], "--out card/x cannot be written"),
        (["lab"], "no results of protocol lab"),
        (["nowhere"], "nowhere is no folder"),
        (["--test-data-path", "protocol:mvss", "--models", "Plain"], "as benco robust mvss"),
        (["--test-data-path", "nowhere", "--models", "AllTampered"], "nowhere"),
        (["--test-data-path", "set:", "--models", "AllTampered"], "name the sets after the colon"),
        (
            ["--test-data-path", "set:First", "--name", "a/b", "--models", "AllTampered"],
            "--name a/b: give letters, digits, dots and hyphens",
        ),
        (
            ["--test-data-path", "set:First", "--name", "lab", "--models", "AllTampered"],
            "--name lab: a protocol is called so",
        ),
    ],
)
def test_mistakes_are_named(lab, capsys, monkeypatch, words, message):  # noqa: F811
    monkeypatch.chdir(lab.root)
    (lab.root / "card").write_text("a file")
    assert message in refused(capsys, *words)


def test_a_wrong_strength_leaves_no_card_of_an_unnamed_protocol(lab, capsys):  # noqa: F811
    words = ["--test-data-path", str(lab.root / "data" / SETS[0]), "--models", "AllTampered"]
    assert "odd side" in refused(capsys, *words, "--ladders", "blur:4", "--runs", str(lab.runs))
    assert not list(lab.runs.glob("robust-*"))
