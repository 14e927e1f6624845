"""The options of `benco complexity` that measure and draw."""

import argparse
import math

import pytest

from sparsevit_plugin.cli import complexity_plot
from sparsevit_plugin.cli.complexity_plot import (
    add_plot_arguments,
    check_plot_arguments,
    curves,
    draw,
    measured_points,
    published_points,
    score_column,
)
from sparsevit_plugin.cli.complexity_time import (
    _request,
    add_time_arguments,
    check_time_arguments,
    measured,
)
from sparsevit_plugin.cli.parser import SuggestingParser
from sparsevit_plugin.complexity.columns import CostTable
from sparsevit_plugin.errors import UserError
from sparsevit_plugin.results.published import load_published

ROWS = [
    {"model": "SparseViT", "image_size": 256, "macs": 1e10, "parameters": 5e7},
    {"model": "SparseViT", "image_size": 512, "macs": 4e10, "parameters": 5e7},
    {"model": "Trufor", "image_size": 512, "macs": 2e11, "parameters": 7e7},
    {"model": "broken", "image_size": 512, "macs": None, "parameters": None},
]
COSTS = CostTable(ROWS, (), "")


def parse(*words: str) -> argparse.Namespace:
    parser = SuggestingParser(prog="benco complexity")
    add_time_arguments(parser)
    add_plot_arguments(parser)
    args = parser.parse_args(list(words))
    args.imports, args.runs = [], "runs"
    return args


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_defaults_and_given_values_reach_the_request():
    args = parse("--time")
    args.imports = ["mine.py"]
    request = _request(args)
    assert request.settings.batch_sizes == (1, 2, 4, 8)
    assert (request.settings.repeats, request.settings.training) == (10, False)
    assert (request.relative_to, request.folder) == ("", "runs/complexity")
    assert request.subject.imports == ("mine.py",)

    words = ["--time", "--training", "--batch-sizes", "8,1,1", "--repeats", "3"]
    words += ["--relative-to", "a", "--device", "cpu", "--backend", "openvino"]
    words += ["--precision", "bf16", "--threads", "2", "--timeout", "9", "--output-dir", "d"]
    words += ["--matmul", "mkl", "--calibration-data", "d e", "--calibration-images", "9"]
    request = _request(parse(*words))
    assert request.settings.batch_sizes == (1, 8)
    assert (request.settings.repeats, request.settings.training) == (3, True)
    assert (request.settings.timeout, request.folder, request.relative_to) == (9, "d", "a")
    subject = request.subject
    assert (subject.device, subject.backend, subject.precision) == ("cpu", "openvino", "bf16")
    assert subject.threads == 2
    assert subject.matmul == "mkl"
    assert subject.words == ("--calibration-data", "d e", "--calibration-images", "9")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--training"], "--training is of --time"),
        (["--batch-sizes", "1"], "--batch-sizes is of --time"),
        (["--relative-to", "a"], "--relative-to is of --time"),
        (["--time", "--batch-sizes", "1,x"], '"x" is no number of images'),
        (["--time", "--batch-sizes", "0"], '"0" is no number of images'),
        (["--time", "--batch-sizes", ","], "names no size"),
        (["--time", "--repeats", "0"], "--repeats 0: give a number above 0"),
        (["--time", "--threads", "-1"], "--threads -1"),
        (["--time", "--timeout", "nan"], "--timeout nan"),
        (["--time", "--timeout", "inf"], "--timeout inf: give at most"),
        (["--time", "--device", "cuda:99"], "--device"),
        (["--time", "--device", "gpu"], '--device "gpu" is not known'),
        (["--time", "--relative-to", "SparsViT"], 'Did you mean "SparseViT"'),
        (["--time", "--precision", "foo"], '--precision: "foo" is not one of'),
        (["--time", "--backend", "openvino", "--precision", "16-mixed"], "has the precisions"),
        (["--time", "--backend", "openvino", "--training"], "openvino 32 only predicts"),
        (["--time", "--backend", "openvino", "--precision", "int8"], "--calibration-data PATH"),
        (["--time", "--calibration-data", "d"], "--calibration-data is of --precision int8"),
        (["--time", "--calibration-images", "3"], "--calibration-images is of --precision int8"),
        (
            ["--time", "--backend=openvino", "--precision=int8", "--calibration-data=nowhere"],
            "nowhere: no such folder or file",
        ),
        (["--time", "--output-dir", "/dev/null/x"], "--output-dir /dev/null/x cannot be written"),
    ],
)
def test_bad_values_are_refused_before_anything_runs(words, message):
    with pytest.raises(UserError, match=message):
        check_time_arguments(parse(*words))


def test_nothing_is_measured_unasked():
    check_time_arguments(parse())
    assert measured(COSTS, parse()) is COSTS


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--plot", "a.jpg"], "file name ends with"),
        (["--published", "mvss"], "--published is of --plot"),
        (["--plot", "a.pdf", "--published", "mvs"], "mvss"),
    ],
)
def test_bad_plots_are_refused_before_anything_runs(words, message):
    with pytest.raises(UserError, match=message):
        check_plot_arguments(parse(*words))


def test_curves_are_of_each_model_over_its_sides():
    rows = [{**ROWS[0], "inference_seconds:1": 0.5}, *ROWS[1:]]
    first, second, broken = curves(CostTable(rows, (), ""))
    assert (first.label, first.macs) == ("SparseViT", {256: 1e10, 512: 4e10})
    assert first.seconds == {256: 0.5}
    assert (second.label, second.macs, second.seconds) == ("Trufor", {512: 2e11}, {})
    assert broken.macs == {}


def test_a_score_stands_at_the_size_that_it_was_made_at():
    rows = [{**row, "pixel_f1:x": 0.4, "scored_at": 512} for row in ROWS[:3]]
    points = measured_points(CostTable([*rows, ROWS[3]], (), ""), "pixel_f1:x")
    assert [(p.label, p.score, p.macs) for p in points] == [
        ("SparseViT", 0.4, 4e10),
        ("Trufor", 0.4, 2e11),
    ]


def test_rows_that_have_no_place_in_a_plot_of_scores_are_named(tmp_path, capsys):
    rows = [{**row, "pixel_f1:x": 0.4, "scored_at": 512} for row in (ROWS[0], ROWS[2])]
    args = parse("--plot", str(tmp_path / "a.pdf"))
    draw(CostTable(rows, (), ""), args, "pixel_f1:x")
    assert "not counted at the size of their scores: SparseViT\n" in capsys.readouterr().err


def test_published_scores_stand_at_the_cost_of_the_model_of_that_name():
    points = {p.label: p for p in published_points(COSTS, load_published("mvss"))}
    assert set(points) == {"TruFor", "SparseViT"}
    assert points["TruFor"].macs == 2e11
    assert points["TruFor"].kind == "published"
    assert points["TruFor"].score == load_published("mvss").rows[0].average


def test_a_model_without_a_count_has_a_point_without_a_cost():
    (point,) = measured_points(CostTable([{**ROWS[3], "iou": 0.3}], (), ""), "iou")
    assert math.isnan(point.macs)


def test_the_score_to_draw_is_the_average_or_the_only_set():
    assert score_column(["macs", "pixel_f1:a", "pixel_f1:average"], "pixel_f1").endswith("average")
    assert score_column(["pixel_f1:a", "pixel_auc:b"], "pixel_f1") == "pixel_f1:a"
    with pytest.raises(UserError, match="pixel_f1 has 2 columns"):
        score_column(["pixel_f1:a", "pixel_f1:b"], "pixel_f1")


def test_a_plot_replaces_a_plot_and_nothing_else(tmp_path):
    photograph, plot = tmp_path / "photograph.png", tmp_path / "plot.png"
    photograph.write_bytes(b"PNG")
    with pytest.raises(UserError, match=r"--plot .*photograph\.png: is there and is no figure"):
        check_plot_arguments(parse("--plot", str(photograph)))
    for _ in range(2):
        check_plot_arguments(parse("--plot", str(plot)))
        draw(COSTS, parse("--plot", str(plot)))


def test_plots_are_drawn_where_they_are_asked_for(tmp_path, capsys, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        complexity_plot, "_figure", lambda *given: drawn.append(given) or original(*given)
    )
    draw(COSTS, parse())
    assert drawn == []
    for words in (["--plot", "a.svg"], ["--plot", "b.svg", "--published", "mvss"]):
        file = tmp_path / words[1]
        draw(COSTS, parse("--plot", str(file), *words[2:]))
        assert file.stat().st_size
        assert str(file) in capsys.readouterr().out


original = complexity_plot._figure
