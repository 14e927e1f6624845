"""`benco complexity`."""

import csv
import io

import pytest
from IMDLBenCo.registry import MODELS

from sparsevit_plugin.cli.main import main
from sparsevit_plugin.harness.complexity import count_config
from sparsevit_plugin.harness.complexity_table import model_config
from sparsevit_plugin.harness.recorded import recorded_words
from sparsevit_plugin.results.store import Store
from tests.complexity.helpers import Fails
from tests.harness.helpers import register_plain_convolution
from tests.results.helpers import counted, manifest

COMMAND = ("complexity", "--models", "SparseViT_tiny,AllTampered")


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


@pytest.fixture(autouse=True)
def plain_convolution():
    register_plain_convolution()


def test_models_are_counted_at_their_own_size_and_at_a_common_one(capsys):
    assert main([*COMMAND, "--image_size", "own,64,128", "--format", "csv"]) == 0
    rows = rows_of(capsys.readouterr().out)
    assert [(row["model"], row["own_size"], row["image_size"]) for row in rows] == [
        ("SparseViT_tiny", "128", "128"),
        ("SparseViT_tiny", "128", "64"),
        ("AllTampered", "512", "512"),
        ("AllTampered", "512", "64"),
        ("AllTampered", "512", "128"),
    ]
    assert [int(row["macs"]) for row in rows[2:]] == [0, 0, 0]
    assert int(rows[0]["flops"]) == 2 * int(rows[0]["macs"]) == 156_631_040
    assert rows[0]["live_parameters"] == rows[0]["parameters"] == "1097249"
    assert all(int(row["kept_bytes"]) > int(row["peak_bytes"]) > 0 for row in rows[:2])


def test_a_model_that_cannot_run_is_one_line_and_the_others_go_on(capsys):
    MODELS.register_module(module=Fails, force=True)
    command = ["complexity", "--models", "Fails,PlainConvolution", "--image-size", "100"]
    assert main([*command, "--format", "csv"]) == 0
    out, err = capsys.readouterr()
    failed, counted_one = rows_of(out)
    assert (failed["model"], failed["macs"]) == ("Fails", "")
    assert failed["reason"].startswith("the forward pass failed: RuntimeError: no luck")
    (line,) = [line for line in err.splitlines() if line.startswith("benco: warning: Fails")]
    assert "the forward pass failed: RuntimeError: no luck" in line
    assert int(counted_one["macs"]) == 100 * 100 * 27
    assert "own_size" not in counted_one  # neither has a card


def test_an_imported_model_without_a_card_is_counted(tmp_path, capsys):
    file = tmp_path / "mine.py"
    file.write_text(
        "from IMDLBenCo.registry import MODELS\n"
        "from tests.harness.helpers import PlainConvolution\n"
        "class Mine(PlainConvolution):\n    pass\n"
        "MODELS.register_module(module=Mine, force=True)\n"
    )
    command = ["complexity", "--import", str(file), "--models", "Mine", "--image-size", "16"]
    assert main([*command, "--format", "csv"]) == 0
    (row,) = rows_of(capsys.readouterr().out)
    assert int(row["macs"]) == 16 * 16 * 27


def test_counters_are_named_in_every_row(capsys):
    macs = {}
    for counter in ("torch", "hand", "fvcore"):
        command = [*COMMAND[:2], "SparseViT_tiny", "--counter", counter, "--format", "csv"]
        assert main(command) == 0
        (row,) = rows_of(capsys.readouterr().out)
        macs[row["counter"]] = int(row["macs"])
    assert macs["torch.utils.flop_counter"] == macs["hand"]
    assert macs["fvcore"] > 0


@pytest.mark.parametrize(
    ("words", "holds"),
    [
        ("terminal", "0.078"),
        ("markdown", "| SparseViT_tiny |"),
        ("html", "<!DOCTYPE html>"),
        ("latex", r"SparseViT\_tiny"),
    ],
)
def test_every_format_of_benco_table(words, holds, tmp_path, capsys):
    out = tmp_path / "new" / "costs"
    command = [*COMMAND[:2], "SparseViT_tiny", "--cache", str(tmp_path / "counts")]
    assert main([*command, "--format", words, "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"wrote {out}\n"
    assert holds in out.read_text()
    assert len(list((tmp_path / "counts").iterdir())) == 1


def test_one_model_by_its_modules(capsys):
    command = [*COMMAND[:2], "SparseViT_tiny", "--module-depth", "1", "--format", "csv"]
    assert main(command) == 0
    rows = {row["module"]: row for row in rows_of(capsys.readouterr().out)}
    assert list(rows) == ["(whole model)", "encoder_net", "lmu"]
    whole = int(rows["(whole model)"]["macs"])
    assert int(rows["encoder_net"]["macs"]) + int(rows["lmu"]["macs"]) == whole
    assert rows["lmu"]["kind"] == "FusionHead"


def test_scores_stand_beside_costs(tmp_path, capsys):
    store = Store(tmp_path / "runs/a/results")
    rows = [counted("Tp/1", 3, 1, 1, 5)]
    for name, side in (("SparseViT_tiny", 64), ("Unknown", 32)):
        store.write(manifest(name, image_size=side), "casia", rows)
    command = ["complexity", "--with-protocol", str(tmp_path / "runs"), "--format", "csv"]
    assert main(command) == 0
    out, err = capsys.readouterr()
    first, second = rows_of(out)
    assert (first["model"], first["pixel_f1:casia"]) == ("SparseViT_tiny", "0.75")
    assert (first["scored_at"], first["image_size"]) == ("64", "64")
    at_64 = int(first["macs"])
    assert 0 < at_64 < 78_315_520 / 3
    assert (second["model"], second["pixel_f1:casia"], second["macs"]) == ("Unknown", "0.75", "")
    assert "Unknown" in second["reason"]
    assert "benco: warning: Unknown: " in err
    assert main([*command, "--image-size", "own,64,128"]) == 0
    sides = [
        (row["model"], row["image_size"], row["macs"]) for row in rows_of(capsys.readouterr().out)
    ]
    assert sides[:2] == [
        ("SparseViT_tiny", "64", str(at_64)),
        ("SparseViT_tiny", "128", "78315520"),
    ]


def test_rows_are_counted_with_the_arguments_that_they_were_tested_with(tmp_path, capsys):
    store = Store(tmp_path / "runs/a/results")
    arguments = {"s_blocks3": [1, 1, 1, 1], "s_blocks4": [1, 1], "head": "last"}
    for name, own in (("published", {}), ("dense", arguments)):
        of_model = {"registered_model": "SparseViT_tiny", "image_size": 128, "fit": "resize"}
        stored = manifest(name, **of_model, model_arguments=own)
        store.write(stored, "casia", [counted("Tp/1", 3, 1, 1, 5)])
    command = ["complexity", "--with-protocol", str(tmp_path / "runs"), "--format", "csv"]
    assert main(command) == 0
    found = {row["model"]: row for row in rows_of(capsys.readouterr().out)}
    assert int(found["published"]["macs"]) == 78_315_520
    flags = ["--s-blocks3", "1,1,1,1", "--s-blocks4", "1,1", "--head", "last"]
    by_hand = count_config(model_config("SparseViT_tiny", 128, flags))
    assert int(found["dense"]["macs"]) == by_hand.macs
    assert int(found["dense"]["parameters"]) == by_hand.parameters
    # With --models: rows of these, and models that no row is of.
    assert main([*command, "--models", "AllTampered"]) == 0
    rows = rows_of(capsys.readouterr().out)
    assert {row["model"]: row["macs"] for row in rows} == {
        "published": "",
        "dense": "",
        "AllTampered": "0",
    }


def test_maps_of_another_program_stand_beside_the_cost_of_the_model_of_that_name(tmp_path, capsys):
    store = Store(tmp_path / "runs/a/results")
    for name in ("AllTampered", "Secret"):
        store.write(manifest(name, kind="external"), "casia", [counted("Tp/1", 3, 1, 1, 5)])
    command = ["complexity", "--with-protocol", str(tmp_path / "runs"), "--format", "csv"]
    for words in ([], ["--models", "AllTampered"]):
        assert main([*command, *words]) == 0
        found = {row["model"]: row for row in rows_of(capsys.readouterr().out)}
        (known,) = (row for name, row in found.items() if name.startswith("AllTampered"))
        (unknown,) = (row for name, row in found.items() if name.startswith("Secret"))
        assert (known["macs"], known["pixel_f1:casia"]) == ("0", "0.75")
        assert (unknown["macs"], unknown["pixel_f1:casia"]) == ("", "0.75")


def test_arguments_of_a_manifest_but_for_its_files():
    arguments = {
        "drop_path": 0.3,
        "s_blocks3": [1, 2],
        "pretrained_path": "a.pth",
        "norm": {"a": 1},
    }
    tested = {"registered_model": "SparseViT_tiny", "model_arguments": arguments, "fit": "pad"}
    assert recorded_words({**tested, "image_size": 64}) == [
        *("--model", "SparseViT_tiny", "--image-size", "64", "--fit", "pad"),
        *("--drop-path=0.3", "--s-blocks3=[1, 2]"),
    ]
    without_card = {"model": "Mine", "model_arguments": {"path": "a.pth", "path_rate": 0.5}}
    assert recorded_words(without_card, 32) == [
        "--model",
        "Mine",
        "--image-size",
        "32",
        "--path-rate=0.5",
    ]


@pytest.mark.parametrize(
    "words",
    [
        ["--sparsity-table", "--models", "Trufor"],
        ["--sparsity-table", "--counter", "fvcore"],
        ["--sparsity-table", "--cache", "counts"],
        ["--models", "SparseViT_tiny", "--module-depth", "1", "--cache", "counts"],
        ["--models", "SparseViT_tiny", "--metric", "pixel_auc"],
        ["--models", "SparseViT_tiny", "--runs", "runs"],
    ],
    ids=" ".join,
)
def test_options_without_effect_are_refused(words, capsys):
    assert main(["complexity", *words]) == 2
    assert f"{words[-2]} has no effect on this table" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--models", "SparseVit_tiny"],
            'no model "SparseVit_tiny". Did you mean "SparseViT_tiny"',
        ),
        (["--models", ","], "names no model"),
        (["--image-size", "big"], '"big" is neither own nor a number of pixels'),
        (["--image-size", "0"], '"0" is neither own nor a number of pixels'),
        (["--image-size", ","], "names no size"),
        (["--image-size", "99999999999"], "at most 16384"),
        (["--digits", "12"], "--digits 12: give 0 to 9"),
        (["--standalone"], "--standalone is of --format latex"),
        (["--module-depth", "1"], "--module-depth shows one model"),
        (["--module-depth", "-1"], "--module-depth takes 0 or more"),
        (["--with-protocol", "no-such-folder"], "no-such-folder is no folder"),
        (["--sparsity-table", "--image-size", "100"], "multiple"),
    ],
)
def test_bad_input_is_one_line(words, message, capsys):
    assert main(["complexity", *words]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.startswith("benco: error: ")
    assert err.count("\n") == 1
