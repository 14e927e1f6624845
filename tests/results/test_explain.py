"""Where a cell's numbers come from."""

import pytest

from sparsevit_plugin.cli.main import main
from sparsevit_plugin.errors import UserError
from sparsevit_plugin.results.explain import explain
from sparsevit_plugin.results.store import Store, load
from tests.results.helpers import counted, in_memory, manifest, scored

ROWS = [
    counted("Tp/1", 3, 1, 1, 5, score=0.9),
    counted("Tp/2", 1, 3, 3, 3, score=0.4),
    counted("Au/1", 0, 2, 0, 8, score=0.2),
]


@pytest.fixture
def runs(tmp_path):
    store = Store(tmp_path / "runs/a/results")
    whole = manifest(
        "A",
        seed=3,
        selection="val",
        checkpoint={"file": "best.safetensors", "sha256": "ab" * 32, "epoch": 7},
        command="benco test --model A",
        created="2026-01-02",
    )
    for name in ("casia", "columbia"):
        store.write(whole, name, ROWS, facts={"path": f"/data/{name}", "skipped": [{}, {}]})
    return tmp_path / "runs"


def test_rows_counts_checkpoint_and_command(runs, capsys):
    assert main(["table", str(runs), "--explain", "A", "casia"]) == 0
    text = capsys.readouterr().out
    for words in (
        "A, casia, pixel F1: 0.500000",
        "seed 3, manifest id-A: 0.500000 (2 of 3 images)",
        "pixels of these images together: tp 4, fp 4, fn 4, tn 8",
        "rows: ",
        ".parquet, written ",
        "set: /data/casia",
        "skipped: 2 images",
        "checkpoint: best.safetensors, SHA-256 abababababababab..., chosen on val, epoch 7",
        "command: benco test --model A",
        "authentic images are left out",
    ):
        assert words in text


def test_it_goes_to_a_file_and_names_what_is_not_there(runs, tmp_path, capsys):
    out = tmp_path / "why.txt"
    assert main(["table", str(runs), "--explain", "A", "average", "--out", str(out)]) == 0
    assert "  columbia: 0.500000" in out.read_text()
    assert main(["table", str(runs), "--explain", "A", "cassia"]) == 2
    assert 'no column "cassia"' in capsys.readouterr().err
    assert main(["table", str(runs), "--explain", "B", "casia"]) == 2
    assert 'no row "B", only A' in capsys.readouterr().err


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        ("image_auc", "2 tampered and 1 authentic"),
        ("authentic_fp_area", "tp 0, fp 2, fn 0, tn 8"),
        ("pooled_f1", "tp 4, fp 4, fn 4, tn 8"),
        ("pixel_f1", "tp 4, fp 4, fn 4, tn 8"),
    ],
)
def test_counts_are_of_the_images_behind_the_figure(runs, metric, words):
    results = load(runs)
    table = results.table(metric)
    lines = explain(table, results, "A", "casia")
    assert any(words in line for line in lines)
    value = table.values.at["A", "casia"]
    assert lines[0].endswith(f": {value:.6f}")


def test_every_seed_of_a_row_is_named():
    cells = [
        (manifest("A", f"id-{seed}", seed=seed, series="s"), "casia", scored([0.1 * seed, 0.5]))
        for seed in (1, 2)
    ]
    results = in_memory(*cells)
    lines = explain(results.table(), results, "A", "casia")
    assert "mean of 2 seeds, sample standard deviation 0.035355" in lines[0]
    assert [line for line in lines if line.startswith("  seed")] == [
        "  seed 1, manifest id-1: 0.300000 (2 of 2 images)",
        "  seed 2, manifest id-2: 0.350000 (2 of 2 images)",
    ]


def test_a_row_of_other_terms_and_an_undefined_image():
    rows = [{**row, "evaluator": "benco"} for row in scored([0.5, float("nan")])]
    results = in_memory(
        (manifest("A"), "casia", scored([0.5, 0.5])), (manifest("B"), "casia", rows)
    )
    lines = explain(results.table(allow_mixed=True), results, "B", "casia")
    assert "0.500000 (1 of 2 images, 1 more left out as undefined)" in lines[1]
    assert "IMDLBenCo's evaluators" in lines[2]
    assert any("note: scored by IMDLBenCo's evaluators" in line for line in lines)


def test_a_published_number_names_its_source():
    results = in_memory((manifest("A"), "NIST16", scored([0.5])))
    table = results.table(protocol="mvss", published=True)
    text = "\n".join(explain(table, results, "TruFor", "NIST16"))
    assert "0.311" in text
    assert "not measured here" in text
    assert "source: " in text
    with pytest.raises(UserError, match="TruFor"):
        explain(table, results, "TruFro", "NIST16")
