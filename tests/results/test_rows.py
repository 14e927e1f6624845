"""Which manifests make a row, what the row is called, and its mean and spread over seeds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsevit_plugin.errors import UserError
from tests.results.helpers import in_memory, manifest, scored


def run(model, seed, figures, series="s", **more):
    """Cells of one run: set to the figures of its images."""
    one = manifest(model, f"{model}-{series}-{seed}", seed=seed, series=series, **more)
    return [(one, name, scored(values)) for name, values in figures.items()]


def three_seeds():
    return [
        *run("A", 0, {"casia": [0.4, 0.6], "nist": [0.2]}),
        *run("A", 1, {"casia": [0.6, 0.6], "nist": [0.4]}),
        *run("A", 2, {"casia": [0.8, 0.6], "nist": [0.9]}),
        *run("B", 0, {"casia": [0.1, 0.3], "nist": [0.5]}, series="other"),
    ]


class TestSeeds:
    def test_runs_of_a_series_are_one_row_with_mean_and_sample_deviation(self):
        table = in_memory(*three_seeds()).table()
        assert list(table.values.index) == ["A", "B"]
        assert table.values.at["A", "casia"] == pytest.approx(0.6)
        assert table.std.at["A", "casia"] == pytest.approx(np.std([0.5, 0.6, 0.7], ddof=1))
        assert table.seeds.at["A", "casia"] == 3
        assert table.counts.at["A", "casia"] == 2
        assert "n seeds: A 3 (0, 1, 2); rows without it are one run" in table.caption
        assert "One checkpoint" not in table.caption  # nothing says how one was chosen

    def test_the_average_is_made_for_each_seed_first(self):
        table = in_memory(*three_seeds()).table()
        per_seed = [(0.5 + 0.2) / 2, (0.6 + 0.4) / 2, (0.7 + 0.9) / 2]
        assert table.values.at["A", "average"] == pytest.approx(np.mean(per_seed))
        assert table.std.at["A", "average"] == pytest.approx(np.std(per_seed, ddof=1))

    def test_one_seed_has_no_deviation(self):
        table = in_memory(*three_seeds()).table()
        assert np.isnan(table.std.loc["B"]).all()
        assert table.grid()[1][1] == "0.600 ± 0.100"
        assert table.grid()[2][1] == "0.200"
        assert "±" not in in_memory(*three_seeds()[-2:]).table().caption

    def test_a_seed_that_misses_a_set_empties_the_average_and_is_said(self):
        cells = [cell for cell in three_seeds() if (cell[0]["seed"], cell[1]) != (2, "nist")]
        table = in_memory(*cells).table(rows=["A"])
        assert table.values.at["A", "nist"] == pytest.approx(0.3)
        assert np.isnan(table.values.at["A", "average"])
        assert np.isnan(table.std.at["A", "average"])
        assert table.grid()[1][2:] == ["0.300 ± 0.141 (n=1) [1]", "-"]
        assert "[1] nist: F1 of 2 of 3 seeds" in table.lines()

    def test_without_a_series_each_manifest_is_a_row(self):
        cells = [(manifest("A", f"id-{seed}", seed=seed), "casia", scored([0.5])) for seed in "01"]
        assert len(in_memory(*cells).table().rows) == 2

    def test_a_seed_that_is_there_twice_is_not_averaged(self):
        cells = [
            *run("A", 0, {"casia": [0.1]}),
            *run("A", 1, {"casia": [0.2]}),
            (manifest("A", "again", seed=1, series="s"), "casia", scored([0.9])),
        ]
        table = in_memory(*cells).table()
        assert sorted(table.values["casia"]) == [0.1, 0.2, 0.9]
        assert any("seed is there twice" in line for line in table.lines())

    def test_seeds_of_several_devices_are_one_row_that_says_so(self):
        cells = [
            *run("A", 0, {"casia": [0.1]}, device="NVIDIA H200"),
            *run("A", 1, {"casia": [0.2]}, device="cpu (x86_64, 1 threads)"),
            *run("A", 2, {"casia": [0.3]}, device="NVIDIA H200"),
        ]
        table = in_memory(*cells).table()
        assert table.values.at["A", "casia"] == pytest.approx(0.2)
        assert "[1] computed on NVIDIA H200 (seeds 0, 2) and cpu (seed 1)" in table.lines()

    def test_one_device_is_not_spoken_of(self):
        cells = [run("A", seed, {"casia": [0.1]}, device="cpu (a)")[0] for seed in (0, 1)]
        assert not any("computed on" in line for line in in_memory(*cells).table().lines())

    def test_a_seed_of_two_devices_makes_a_row_of_each(self):
        cells = [
            *run("A", 0, {"casia": [0.1]}, device="cpu (x86_64, 1 threads)"),
            *run("A", 1, {"casia": [0.3]}, device="cpu (x86_64, 1 threads)"),
            (manifest("A", "x", seed=0, series="s", device="H200"), "casia", scored([0.4])),
            (manifest("A", "y", seed=1, series="s", device="H200"), "casia", scored([0.8])),
        ]
        table = in_memory(*cells).table()
        assert table.values["casia"].to_dict() == pytest.approx({"A on cpu": 0.2, "A on H200": 0.6})
        words = "seeds 0, 1, not joined with its series, in which a seed is there twice"
        assert any(words in line for line in table.lines())

    def test_seeds_of_two_series_and_two_devices_are_four_rows(self):
        cells = [
            (
                manifest("A", f"{series}{device}{seed}", seed=seed, series=series, device=device),
                "casia",
                scored([0.5]),
            )
            for series in ("one", "two")
            for device in ("cpu (a)", "H200")
            for seed in (0, 1)
        ]
        assert {row.label for row in in_memory(*cells).table().rows} == {
            "A on cpu (series one)",
            "A on H200 (series one)",
            "A on cpu (series two)",
            "A on H200 (series two)",
        }

    def test_beside_a_series_of_two_devices_another_has_a_name_too(self):
        cells = [
            (
                manifest("A", f"{series}{device}{seed}", seed=seed, series=series, device=device),
                "casia",
                scored([0.5]),
            )
            for series, device, seed in (
                ("one", "cpu", 0),
                ("one", "H200", 0),
                ("two", "cpu", 0),
                ("two", "cpu", 1),
            )
        ]
        labels = {row.label for row in in_memory(*cells).table().rows}
        assert labels == {"A on cpu", "A on H200", "A (series two)"}

    def test_one_seed_of_another_device_is_named_by_it(self):
        cells = [
            *(cell for seed in range(3) for cell in run("A", seed, {"casia": [0.1]}, device="cpu")),
            (manifest("A", "x", seed=0, series="s", device="H200"), "casia", scored([0.4])),
        ]
        assert {row.label for row in in_memory(*cells).table().rows} == {"A on cpu", "A on H200"}

    def test_a_device_that_is_not_known_is_named_so(self):
        cells = [
            *(cell for seed in (0, 1) for cell in run("A", seed, {"casia": [0.1]})),
            (manifest("A", "x", seed=0, series="s", device="H200"), "casia", scored([0.4])),
        ]
        labels = {row.label for row in in_memory(*cells).table().rows}
        assert labels == {"A on an unknown device", "A on H200"}

    def test_seeds_that_were_run_again_on_a_copy_of_the_data_are_a_row_of_their_own(self):
        cells = [
            (
                manifest("A", f"{copy}-{seed}", seed=seed, series="s", training_data={"t": copy}),
                "casia",
                scored([figure]),
            )
            for copy, figure in (("first", 0.2), ("second", 0.6))
            for seed in range(3)
        ]
        table = in_memory(*cells).table()
        assert table.values["casia"].to_dict() == pytest.approx(
            {"A (first-0)": 0.2, "A (second-0)": 0.6}
        )
        assert [len(row.members) for row in table.rows] == [3, 3]
        assert any("twice on different copies of the training data" in one for one in table.lines())

    def test_a_seed_twice_on_one_copy_is_not_put_down_to_another(self):
        cells = [
            (
                manifest("A", str(number), seed=seed, series="s", training_data={"t": copy}),
                "casia",
                scored([0.5]),
            )
            for number, (seed, copy) in enumerate([(0, "x"), (0, "x"), (1, "y")])
        ]
        lines = in_memory(*cells).table().lines()
        assert any("in which a seed is there twice" in line for line in lines)
        assert not any("different copies" in line for line in lines)

    @given(
        st.lists(
            st.tuples(
                st.sampled_from(["one", "two", ""]),
                st.sampled_from(["cpu", "H200", ""]),
                st.sampled_from(["here", "there"]),
                st.integers(0, 2),
                st.sampled_from(["a", "b"]),
            ),
            min_size=1,
            max_size=8,
        )
    )
    def test_no_two_rows_are_called_the_same(self, runs):
        cells = [
            (
                manifest(
                    *("A", f"{number:08d}"),
                    seed=seed,
                    series=series,
                    device=device,
                    training_data={"t": copy},
                    checkpoint={"sha256": file * 64},
                ),
                "casia",
                scored([0.5]),
            )
            for number, (series, device, copy, seed, file) in enumerate(runs)
        ]
        rows = in_memory(*cells).table().rows
        assert len({row.label for row in rows}) == len(rows)
        assert len(rows) == 1 or "A" not in {row.label for row in rows}
        assert sum(len(row.members) for row in rows) == len(runs)
        assert all(len({one.seed for one in row.members}) == len(row.members) for row in rows)

    def test_seeds_are_in_order_of_number(self):
        cells = [cell for seed in (10, 2, 1) for cell in run("A", seed, {"casia": [0.5]})]
        assert "A 3 (1, 2, 10)" in in_memory(*cells).table().caption


class TestNames:
    def test_another_backend_is_in_the_name_and_in_a_footnote(self):
        int8 = {
            "backend": "openvino",
            "number_format": "int8",
            "floats": "bf16",
            "calibration": {"sets": ["casia2"], "images": 64, "preset": "performance"},
        }
        cells = [
            (manifest("A", "plain", number_format="32"), "casia", scored([0.5])),
            (manifest("A", "fast", **int8), "casia", scored([0.4])),
            (manifest("A", "half", backend="torch", number_format="bf16"), "casia", scored([0.3])),
        ]
        table = in_memory(*cells).table()
        assert set(table.values.index) == {"A", "A (openvino int8)", "A (torch bf16)"}
        lines = "\n".join(table.lines())
        assert "computed by openvino int8, calibrated on 64 photographs of casia2" in lines
        assert "NNCF's preset performance, the rest in bf16" in lines
        chosen = in_memory(*cells).table(rows=["A (openvino int8)"])
        assert list(chosen.values["casia"]) == [0.4]

    def test_two_runs_of_a_backend_are_still_told_apart(self):
        more = {"backend": "openvino", "number_format": "32"}
        cells = [
            (
                manifest("A", f"id-{n}", checkpoint={"sha256": n * 64}, **more),
                "casia",
                scored([0.5]),
            )
            for n in "ab"
        ]
        names = list(in_memory(*cells).table().values.index)
        assert names == ["A (openvino 32) aaaaaaaa", "A (openvino 32) bbbbbbbb"]

    def test_two_series_of_a_model_are_told_apart(self):
        cells = [
            cell
            for series in ("first-series", "other-series")
            for seed in (0, 1)
            for cell in run("A", seed, {"casia": [0.5]}, series)
        ]
        assert [row.label for row in in_memory(*cells).table().rows] == [
            "A (series first-se)",
            "A (series other-se)",
        ]

    def test_groups_are_blocks_under_their_heading(self):
        recipe = "recipe sparsevit-paper"
        cells = [
            *run("A", 0, {"casia": [0.5]}, "one", group=recipe, created="1"),
            *run("B", 0, {"casia": [0.4]}, "two", group=recipe, created="2"),
            *run("A", 0, {"casia": [0.3]}, "three", created="3"),
        ]
        table = in_memory(*cells).table()
        assert [row.label for row in table.rows] == ["A", f"A, {recipe}", "B"]
        blocks = table.layout().blocks
        assert [block.heading for block in blocks] == ["", recipe]
        assert [[row.name for row in block.rows] for block in blocks] == [["A"], ["A", "B"]]
        assert f"*{recipe}*" in table.to_markdown()
        assert [row.label for row in in_memory(*cells).table(rows=[recipe, "A"]).rows] == [
            f"A, {recipe}",
            "B",
            "A",
        ]

    def test_rows_and_models_are_two_names_of_one_argument(self):
        results = in_memory(*three_seeds())
        assert results.table(rows=["B"]).values.equals(results.table(models=["B"]).values)
        with pytest.raises(UserError, match="give one of them"):
            results.table(rows=["B"], models=["B"])


class TestNotes:
    def test_external_maps_are_marked(self):
        unknown = {"selection": "unknown", "training_data": "unknown", "pretraining": "unknown"}
        one = manifest("Theirs", kind="external maps", checkpoint={"sha256": "ab"}, **unknown)
        table = in_memory((one, "casia", scored([0.5]))).table()
        assert table.notes["Theirs"] == [
            "external maps: made elsewhere, only scored here; how the method was trained, chosen "
            "and run is not known here"
        ]
        assert table.rows[0].is_external

    def test_a_ready_checkpoint_has_its_hash_and_what_is_unknown(self):
        one = manifest(
            "A@official.pth",
            checkpoint={"file": "/some/where/official.pth", "sha256": "0123456789abcdef" * 4},
            selection="unknown",
            training_data="unknown",
        )
        (note,) = in_memory((one, "casia", scored([0.5]))).table().notes["A@official.pth"]
        assert note == (
            "ready checkpoint official.pth (SHA-256 0123456789abcdef...): what it was trained on "
            "and how it was chosen: unknown"
        )

    def test_how_many_checkpoints_were_chosen_is_said_shortly(self):
        cells = [
            (manifest(name, selection=how), "casia", scored([0.5]))
            for name, how in (("A", "val"), ("B", "val"), ("C", "test"), ("D", "val"))
        ]
        assert (
            "chosen on: val, but for C test." in in_memory(*cells).table(allow_mixed=True).caption
        )


class TestComplexity:
    def test_columns_units_and_the_counter(self):
        def costing(name, parameters, macs, size=512):
            counted = {"parameters": parameters, "macs": macs, "counter": "c", "image_size": size}
            return (manifest(name, complexity=counted), "casia", scored([0.5]))

        cells = [
            costing("A", 50_350_000, 46_200_000_000),
            costing("B", 3_810_000, None),
            costing("C", 91_780_000, 1_152_000_000_000),
            costing("D", 0, 0),
            (manifest("E"), "casia", scored([0.5])),
        ]
        table = in_memory(*cells).table()
        grid = table.grid()
        assert grid[0][2:] == ["Params (M)", "MACs (G)"]
        assert [row[2:] for row in grid[1:]] == [
            ["50.4", "46.2"],
            ["3.81", "-"],
            ["91.8", "1152"],
            ["0", "0"],
            ["-", "-"],
        ]
        assert "512 x 512 pixels, a multiply-add being one MAC, counted by c" in table.caption
        assert in_memory(*cells).table(complexity=False).grid()[0] == ["model", "casia (n=1)"]
        other = in_memory(*cells, costing("F", 1, 1, 1024)).table()
        assert "own input size (A 512, B 512, C 512, D 512, F 1024 pixels a side)" in other.caption

    def test_without_any_there_are_no_columns(self):
        assert in_memory(*three_seeds()).table().grid()[0][-1] == "average"
