"""Curves are what the table's cells are, with a band over photographs that is checked by hand."""

import numpy as np
import pytest

from sparsevit_plugin.errors import UserError
from sparsevit_plugin.results.bands import IMAGES, MIXED, PHOTOGRAPHS
from sparsevit_plugin.results.robustness import COLUMNS, build_curves, robustness_curves
from sparsevit_plugin.results.robustness_plots import robustness_plot, write_plots
from sparsevit_plugin.results.robustness_tables import grid, to_latex
from sparsevit_plugin.results.store import Cell, Results
from tests.results.helpers import counted, in_memory, manifest, scored

STRENGTHS = {"none": 0.0, "jpeg:90": 0.1, "jpeg:50": 0.3, "noise:11": 0.2}


def photographed(values, **more):
    """Images of two photographs, alternating."""
    rows = scored(values, **more)
    return [{**row, "photos": [f"photo{i % 2}", "donor"]} for i, row in enumerate(rows)]


def perturbed(*cells):
    """Results of (manifest, set, perturbation, rows)."""
    found = in_memory(
        *(
            (one, name, [{**row, "perturbation": text} for row in rows])
            for one, name, text, rows in cells
        )
    )
    known = [
        Cell(one["manifest_id"], name, f"{one['manifest_id']}-{name}-{text}", one, {}, None, text)
        for one, name, text, _ in cells
    ]
    return Results(found.rows, known)


def falling(*names, values=(0.9, 0.5, 0.7, 0.6), sets=("First", "Second"), rows=photographed):
    """Models whose figures fall by what each perturbation takes."""
    return perturbed(
        *(
            (manifest(name), dataset, text, rows([value - loss for value in values]))
            for name in names
            for dataset in sets
            for text, loss in STRENGTHS.items()
        )
    )


def test_a_point_is_the_mean_over_images_and_the_tables_cell():
    results = falling("A", "B")
    frame = robustness_curves(results)
    assert list(frame.columns) == list(COLUMNS)
    assert len(frame) == 2 * 2 * 4
    for text, loss in STRENGTHS.items():
        chosen = frame[frame["perturbation"] == text]
        assert chosen["mean"].tolist() == pytest.approx([0.675 - loss] * 4)
        table = results.table("pixel_f1", perturbation=text).values
        for line in chosen.itertuples():
            assert line.mean == pytest.approx(table.at[line.model, line.set], abs=1e-15)
    assert (frame["images"] == 4).all()
    assert (frame["photographs"] == 2).all()
    assert set(frame["unit"]) == {PHOTOGRAPHS}


@pytest.mark.parametrize(
    ("change", "words"),
    [({"selection": "test"}, "checkpoint chosen on test"), ({}, "threshold > 0.3")],
)
def test_models_of_other_terms_are_drawn_together_only_where_that_is_asked_for(change, words):
    def cells(name, **more):
        return [
            (
                manifest(name, **{"selection": "val", **more}),
                "First",
                text,
                [
                    {**row, "threshold": 0.3 if name == "C" and not change else 0.5}
                    for row in photographed([0.9 - loss, 0.7 - loss])
                ],
            )
            for text, loss in STRENGTHS.items()
        ]

    results = perturbed(*cells("A"), *cells("B"), *cells("C", **change))
    with pytest.raises(UserError, match=f"C .{words}.*--allow-mixed"):
        build_curves(results)
    curves = build_curves(results, allow_mixed=True)
    assert set(curves.frame["model"]) == {"A", "B", "C"}
    assert curves.remarks == [f"C: {words}, unlike the rest."]
    assert curves.threshold == 0.5
    assert f"C: {words}, unlike the rest." in "".join(
        text.get_text() for text in robustness_plot(curves, "jpeg").texts
    ).replace("\n", " ")
    assert build_curves(results, rows=["A", "B"]).remarks == []


def test_strengths_rise_and_none_comes_first():
    frame = robustness_curves(falling("A", sets=("First",)))
    assert frame["perturbation"].tolist() == ["none", "jpeg:90", "jpeg:50", "noise:11"]
    assert frame["kind"].tolist() == ["none", "jpeg", "jpeg", "noise"]
    assert frame["strength"].tolist() == ["", "90", "50", "11"]


def test_the_band_is_the_bootstrap_over_photographs():
    """Of two photographs with means 0.8 and 0.55, a draw is both (half of them) or one twice."""
    frame = robustness_curves(falling("A", sets=("First",)), level=0.4)
    line = frame.iloc[0]
    assert (line["low"], line["high"]) == pytest.approx((0.675, 0.675))
    line = robustness_curves(falling("A", sets=("First",)), level=0.6).iloc[0]
    assert (line["low"], line["high"]) == pytest.approx((0.55, 0.8))


def test_photographs_weigh_as_much_as_they_have_images():
    rows = photographed([0.9, 0.5, 0.9]) + [
        {**row, "sample_name": f"Tp/more{i}", "photos": ["photo0"]}
        for i, row in enumerate(scored([0.9, 0.9]))
    ]
    results = perturbed(*((manifest("A"), "S", text, rows) for text in ("none", "blur:3")))
    frame = robustness_curves(results, level=0.6)
    assert frame["mean"].tolist() == pytest.approx([0.82] * 2)
    assert frame[["low", "high"]].to_numpy().tolist() == [pytest.approx([0.5, 0.9])] * 2


def test_a_large_band_is_that_of_the_mean():
    values = np.random.default_rng(1).uniform(size=300)
    results = perturbed(*((manifest("A"), "S", t, scored(values)) for t in ("none", "blur:3")))
    line = robustness_curves(results).iloc[0]
    error = 1.96 * values.std() / np.sqrt(values.size)
    assert line["low"] == pytest.approx(values.mean() - error, abs=0.003)
    assert line["high"] == pytest.approx(values.mean() + error, abs=0.003)
    assert line["unit"] == IMAGES


def test_the_same_draws_everywhere_and_every_time():
    frame = robustness_curves(falling("A", "B", values=np.linspace(0.3, 0.9, 12)))
    again = robustness_curves(falling("A", "B", values=np.linspace(0.3, 0.9, 12)))
    assert frame.equals(again)
    widths = frame["high"] - frame["low"]
    assert widths.to_numpy() == pytest.approx([widths[0]] * len(frame))


def test_undefined_figures_are_left_out_and_counted():
    results = perturbed(
        (manifest("A"), "S", "none", photographed([0.5, 0.7, float("nan")])),
        (manifest("A"), "S", "blur:3", photographed([0.5, float("nan"), float("nan")])),
    )
    frame = robustness_curves(results)
    assert frame["mean"].tolist() == pytest.approx([0.6, 0.5])
    assert frame["images"].tolist() == [2, 1]
    assert frame["undefined"].tolist() == [1, 2]
    assert frame["photographs"].tolist() == [2, 1]  # the other has no image with a figure
    assert frame["low"].isna().tolist() == [False, True]


def test_seeds_are_one_curve():
    cells = [
        (manifest("A", f"id{seed}", series="s", seed=seed), "S", text, photographed([x, x]))
        for seed, x in ((0, 0.4), (1, 0.8))
        for text in ("none", "jpeg:50")
    ]
    curves = build_curves(perturbed(*cells))
    assert curves.frame["mean"].tolist() == pytest.approx([0.6, 0.6])
    assert curves.frame["seeds"].tolist() == [2, 2]
    assert curves.frame["std"].tolist() == pytest.approx([np.std([0.4, 0.8], ddof=1)] * 2)
    assert curves.frame["low"].tolist() == pytest.approx([0.6, 0.6])
    assert "Mean over seeds (A 2)." in curves.short["pixel_f1"]
    assert "without what seeds differ by" in curves.short["pixel_f1"]


def test_pooled_figures_have_a_band_too():
    rows = [counted("a", 4, 0, 0, 4, photos=["p"]), counted("b", 0, 4, 4, 0, photos=["q"])]
    results = perturbed(*((manifest("A"), "S", text, rows) for text in ("none", "blur:3")))
    line = robustness_curves(results, "pooled_f1", level=0.6).iloc[0]
    assert line[["mean", "low", "high"]].tolist() == pytest.approx([0.5, 0.0, 1.0])


def test_image_level_figures_have_no_band():
    rows = [counted("a", 4, 0, 0, 4, score=0.9), counted("b", 0, 0, 0, 4, score=0.1)]
    results = perturbed(*((manifest("A"), "S", text, rows) for text in ("none", "blur:3")))
    curves = build_curves(results, "image_auc")
    assert curves.frame["mean"].tolist() == [1.0, 1.0]
    assert curves.frame["low"].isna().all()
    assert "No band" in curves.captions["image_auc"]


def test_authentic_images_count_as_asked():
    rows = [*photographed([0.5]), counted("au", 0, 0, 0, 4, photos=["photo0"])]
    results = perturbed(*((manifest("A"), "S", text, rows) for text in ("none", "blur:3")))
    means = [
        robustness_curves(results, authentic=word)["mean"][0]
        for word in ("tampered", "zero", "one")
    ]
    assert means == pytest.approx([0.5, 0.25, 0.75])


def test_captions_state_the_conventions():
    curves = build_curves(falling("A"), ["pixel_f1", "pixel_iou"])
    for metric, words in (("pixel_f1", "Pixel F1 at threshold > 0.5"), ("pixel_iou", "Pixel IoU")):
        assert curves.captions[metric].startswith(words)
        assert (
            "95% percentile bootstrap over source photographs; 10,000 draws"
            in (curves.captions[metric])
        )
    assert curves.metrics == ["pixel_f1", "pixel_iou"]
    assert curves.kinds == ["jpeg", "noise"]
    csv = curves.to_csv().splitlines()
    assert csv[0].startswith("model,group,set,kind,strength,perturbation,metric,mean,low,high")
    assert len(csv) == 1 + 2 * 2 * 4


def test_unknown_photographs_are_said():
    curves = build_curves(falling("A", rows=scored))
    assert "over images (their source photographs are unknown)" in curves.short["pixel_f1"]

    def half(values):
        return photographed(values)[:2] + scored(values)[2:]

    assert MIXED in build_curves(falling("A", rows=half)).short["pixel_f1"]


def test_other_images_are_remarked():
    results = perturbed(
        (manifest("A"), "S", "none", photographed([0.5, 0.7])),
        (manifest("A"), "S", "jpeg:50", photographed([0.5, 0.7])),
        (manifest("B"), "S", "none", photographed([0.5, 0.7])),
        (manifest("B"), "S", "jpeg:50", photographed([0.5])),
    )
    assert build_curves(results).remarks == ["S: other images than the rest: B under jpeg:50."]
    assert build_curves(results, rows=["A"]).remarks == []


def test_rows_sets_and_perturbations_can_be_chosen():
    frame = robustness_curves(
        falling("A", "B"), rows=["B"], sets=["Second"], perturbations=["jpeg:50"]
    )
    assert frame[["model", "set", "perturbation"]].to_numpy().tolist() == [
        ["B", "Second", "none"],
        ["B", "Second", "jpeg:50"],
    ]


def test_what_cannot_be_is_said():
    with pytest.raises(UserError, match="no perturbed rows"):
        build_curves(perturbed((manifest("A"), "S", "none", photographed([0.5]))))
    with pytest.raises(UserError, match="stored are jpeg, noise: see --ladders"):
        build_curves(falling("A"), perturbations=["jpeg:10"])
    with pytest.raises(UserError, match='no rows of model "C"'):
        build_curves(falling("A"), rows=["C"])
    with pytest.raises(UserError, match='metric "pixel_f2"'):
        build_curves(falling("A"), "pixel_f2")
    with pytest.raises(UserError, match='no rows of set "Third"'):
        build_curves(falling("A"), sets=["Third"])


# --- figures --------------------------------------------------------------------------------------


def test_a_figure_has_a_panel_per_set_and_a_line_per_model():
    curves = build_curves(falling("A", "B"))
    figure = robustness_plot(curves, "jpeg")
    panels = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title() for axes in panels] == [
        "First\n4 images of 2 photographs",
        "Second\n4 images of 2 photographs",
    ]
    labels = [text.get_text() for text in panels[0].get_xticklabels()]
    assert sorted(labels) == ["50", "90", "none"]
    left, right = panels[0].get_xlim()
    assert left > right  # quality falls from left to right
    marked = [line for line in panels[0].lines if line.get_marker() not in ("None", "")]
    assert [line.get_label() for line in marked] == ["A", "B"]
    assert marked[0].get_ydata() == pytest.approx([0.675, 0.575, 0.375])
    words = " ".join(text.get_text() for text in figure.texts)
    assert "source photographs" in words.replace("\n", " ")
    assert "threshold > 0.5" in words.replace("\n", " ")


def test_names_are_points_in_their_order():
    cells = [
        (manifest("A"), "S", text, photographed([0.5, 0.7]))
        for text in ("none", "social:telegram", "social:signal")
    ]
    figure = robustness_plot(build_curves(perturbed(*cells)), "social")
    labels = [text.get_text() for text in figure.axes[0].get_xticklabels()]
    assert labels == ["none", "telegram", "signal"]


def test_figures_are_written_the_same_every_time(tmp_path):
    curves = build_curves(falling("A", sets=("First",)))
    written = write_plots(curves, tmp_path)
    assert [path.name for path in written] == [
        *("jpeg-pixel_f1.pdf", "jpeg-pixel_f1.png"),
        *("noise-pixel_f1.pdf", "noise-pixel_f1.png"),
    ]
    before = [path.read_bytes() for path in written]
    write_plots(curves, tmp_path)
    assert [path.read_bytes() for path in written] == before
    assert before[0].startswith(b"%PDF")


def test_dollars_of_names_are_no_formula(tmp_path):
    written = write_plots(build_curves(falling("$x^{a_$", sets=("$y_{$",))), tmp_path)
    assert all(path.is_file() for path in written)


def test_too_many_models_are_refused():
    curves = build_curves(falling(*"ABCDEFGHI", sets=("First",)))
    with pytest.raises(UserError, match="9 models: a figure shows at most 8"):
        robustness_plot(curves, "jpeg")
    with pytest.raises(UserError, match="no rows perturbed by blur"):
        robustness_plot(curves, "blur")


def test_a_metric_without_a_value_is_said_and_not_drawn(tmp_path):
    results = perturbed(
        *(
            (manifest("A"), "S", text, photographed([float("nan")] * 3))
            for text in ("none", "blur:3")
        )
    )
    curves = build_curves(results)
    assert curves.frame["mean"].isna().all()
    assert curves.frame["undefined"].tolist() == [3, 3]
    for words in (curves.captions, curves.plain, curves.short):
        assert "Undefined under every perturbation: A." in words["pixel_f1"]
    assert write_plots(curves, tmp_path) == []
    with pytest.raises(UserError, match="pixel_f1 has no value under blur"):
        robustness_plot(curves, "blur")
    assert grid(curves, "blur", "pixel_f1")[1] == ["S (n=0)", "A", "-", "-"]
    assert r"S (n=0) & A & -- & -- \\" in to_latex(curves)
