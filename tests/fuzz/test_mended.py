"""What broken files once did to this package, and do no more."""

import json
import struct
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from sparsevit_plugin.cards.reading import parse_yaml, read_yaml
from sparsevit_plugin.cli.main import main
from sparsevit_plugin.errors import UserError, one_line
from sparsevit_plugin.files import file_name, parse_json, write_text_atomic
from sparsevit_plugin.harness.checkpoint import load_state
from sparsevit_plugin.harness.images import BadImage, decode_image
from sparsevit_plugin.harness.mask_rules import read_ruled_mask
from sparsevit_plugin.harness.recipes import read_mapping
from sparsevit_plugin.harness.sources import read_source
from sparsevit_plugin.harness.testing import recorded_settings
from sparsevit_plugin.hub.config import read_config
from sparsevit_plugin.model.weights import save_safetensors
from sparsevit_plugin.report.training import _point
from sparsevit_plugin.results.store import Store, load
from tests.fuzz.mutate import yaml_attacks
from tests.fuzz.watch import check_line
from tests.results.helpers import counted, manifest

ATTACKS = yaml_attacks("canary")


@pytest.mark.parametrize("attack", ATTACKS, ids=[repr(text[:30]) for text in ATTACKS])
@pytest.mark.parametrize("read", [lambda file: read_yaml(file, "a card")[0], read_mapping])
def test_yaml_is_read_or_refused_in_one_line_and_runs_nothing(tmp_path, monkeypatch, attack, read):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "card.yaml"
    file.write_text(f"name: card\n{attack}", encoding="utf-8")
    said = ""
    try:
        assert len(repr(read(file))) < 20_000
    except UserError as error:
        said = str(error)
    if said:
        check_line(said)
        assert str(file) in said
    assert [path.name for path in tmp_path.iterdir()] == ["card.yaml"]


def test_a_bomb_of_aliases_is_refused_and_a_few_aliases_are_not(tmp_path):
    assert parse_yaml("a: &x [1, 2]\nb: *x\nc: [*x, *x]\n")[0]["c"] == [[1, 2], [1, 2]]
    bomb = next(attack for attack in ATTACKS if attack.startswith("a: &a"))
    file = tmp_path / "bomb.yaml"
    file.write_text(bomb)
    with pytest.raises(UserError, match="aliases unfold"):
        read_mapping(file)
    file.write_text("x: " + "y" * (1 << 19))
    with pytest.raises(UserError, match="bytes, and no YAML of ours"):
        read_mapping(file)


def test_json_that_is_nested_without_an_end_is_no_json(tmp_path):
    for text in ("[" * 100_000, '{"a":' * 100_000):
        with pytest.raises(ValueError, match="nested too deeply"):
            parse_json(text)
        assert _point(text) is None
    path = tmp_path / "list.json"
    path.write_text("9" * 5000)  # Python refuses to make a number of so many digits
    with pytest.raises(UserError, match=r"list\.json"):
        read_source(path)


@pytest.mark.parametrize("text", ['{"\\ud800": "x"}', '[["a\\uDC80.png", "Negative"]]'])
def test_a_list_with_half_a_sign_is_refused(tmp_path, text):
    path = tmp_path / "list.json"
    path.write_text(text)
    with pytest.raises(UserError, match=r"list\.json.*surrogates not allowed"):
        read_source(path)
    path.write_text(text.replace("ud800", "ud83d\\ude00").replace("uDC80", "ud83d\\ude00"))
    with pytest.raises(UserError, match=r"neither below|do not exist"):
        read_source(path)


def test_half_of_a_character_is_no_yaml(tmp_path):
    card = tmp_path / "half.yaml"
    card.write_text('name: half\ntitle: "\\ud800"\n')
    with pytest.raises(UserError, match=r"half.yaml:2: not YAML: half of a character"):
        read_yaml(card, "a protocol")


def test_messages_are_one_line_whatever_they_quote():
    for hostile in ("a\nb", "a\x1b[2Jb", "a\u202eb", "\ud800", "a\0b", "a" * 100_000):
        for error in (UserError(f"x: {hostile} is wrong"), BadImage(hostile, f"no {hostile}")):
            check_line(str(error))
            str(error).encode()
    assert one_line("C:\\new é 名.png: 3 x 4") == "C:\\new é 名.png: 3 x 4"


@pytest.mark.parametrize("digits", [19, 20, 400, 5000])
def test_numbers_of_too_many_digits_are_refused(tmp_path, digits, capsys):
    text = "9" * digits
    recipe = tmp_path / "long.yaml"
    recipe.write_text(f"name: long\noptions: {{epochs: '{text}'}}\n")
    for flags in (["--epochs", text], ["--recipe", str(recipe)], ["--lr", f"1{text}"]):
        if flags[0] == "--lr" and digits < 400:  # a number
            continue
        words = ["train", "--model", "SparseViT_tiny", "--output-dir", str(tmp_path), *flags]
        assert main([*words, "--data-path", str(tmp_path)]) == 2
        check_line(capsys.readouterr().err.strip())
    assert main(["complexity", "--models", "SparseViT_tiny", "--image-size", text]) == 2
    check_line(capsys.readouterr().err.strip())


HEADERS = {
    "options": ["[1]", "{", "[" * 50_000, '"text"', "5"],
    "model_arguments": ["[1]", "nope", "1"],
}


@pytest.mark.parametrize(("key", "text"), [(k, t) for k, texts in HEADERS.items() for t in texts])
def test_a_damaged_header_of_weights_is_named(tmp_path, key, text):
    path = tmp_path / "best.safetensors"
    save_safetensors({"w": torch.zeros(2)}, path, {key: text})
    for read in (lambda: recorded_settings(str(path)), lambda: read_config(path)):
        with pytest.raises(UserError, match=f"{key} in its header"):
            read()


@pytest.mark.parametrize(
    "broken",
    [
        {"epoch": "three"},
        {"epoch": -1},
        {"optimizer": 3},
        {"schema": None, "step": None},
        {"unknown": 1},
        {"best": 7},
    ],
)
def test_a_damaged_training_state_is_refused(tmp_path, broken):
    good = {"schema": 1, "model": {}, "optimizer": {}, "epoch": 1, "step": 2}
    path = tmp_path / "resume.pt"
    torch.save(good, path)
    assert load_state(path).epoch == 1
    torch.save({**good, **broken}, path)
    with pytest.raises(UserError, match="cannot be resumed from"):
        load_state(path)


@pytest.mark.parametrize(
    "note",
    [
        b"{",
        b"[" * 50_000,
        b"\xff",
        b"[]",
        b'{"schema_version": "2"}',
        {"dataset": ["a"]},
        {"manifest": [1]},
        {"manifest": {"manifest_id": "id-A", "model": 3}},
        {"manifest": {"manifest_id": "id-A", "model": "A", "checkpoint": "x"}},
        {"manifest": {"model": "A", "config": {"options": 5}}},
        {"manifest": {"model": "\ud800"}},
        {"manifest": {"model": "A", "complexity": {"counter": ["torch"]}}},
        {"manifest": {"model": "A", "complexity": {"macs": float("inf")}}},
        {"manifest": {"model": "A", "complexity": {"macs": float("nan")}}},
        {"manifest": {"model": "A", "complexity": {"parameters": 10**400}}},
        {"histograms": "../../secret.parquet"},
        {"facts": 5},
        {"written": 7},
    ],
    ids=repr,
)
def test_a_row_file_with_a_damaged_note_is_named(tmp_path, note):
    path = Store(tmp_path).write(manifest("A"), "casia", [counted("a", 1, 1, 1, 1)])
    table = pq.read_table(path)
    good = json.loads(table.schema.metadata[b"sparsevit_plugin"])
    text = note if isinstance(note, bytes) else json.dumps({**good, **note}).encode()
    pq.write_table(table.replace_schema_metadata({b"sparsevit_plugin": text}), path)
    with pytest.raises(UserError, match=f"{path.name} is broken") as caught:
        load(tmp_path)
    check_line(str(caught.value))


@pytest.mark.parametrize("name", ["manifest_id", "dataset"])
def test_rows_of_nobody_are_named(tmp_path, name):
    path = Store(tmp_path).write(manifest("A"), "casia", [counted("a", 1, 1, 1, 1)])
    table = pq.read_table(path)
    nobody = pa.nulls(len(table)).cast(table.schema.field(name).type)
    place = table.schema.get_field_index(name)
    pq.write_table(table.set_column(place, table.schema.field(name), nobody), path)
    with pytest.raises(UserError, match=f"{path.name} is broken, rows lack their {name}") as caught:
        load(tmp_path)
    check_line(str(caught.value))


def test_an_array_that_claims_more_than_it_holds_takes_no_memory(tmp_path):
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000, 1000000), }"
    header += b" " * (118 - len(header)) + b"\n"
    member = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(64)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("arr_0.npy", member)
    with pytest.raises(BadImage, match="too many pixels"):
        read_ruled_mask([tmp_path / "a.npz"], "nonzero")
    np.savez(tmp_path / "b.npz", np.eye(3))
    assert read_ruled_mask([tmp_path / "b.npz"], "nonzero").pixels.sum() == 3 * 255


def test_names_too_long_for_a_file_system(tmp_path):
    assert file_name("SparseViT (seed 3)") == "SparseViT__seed_3_"
    one, other = file_name("x" * 5000), file_name("x" * 5001)
    assert one != other
    assert len(one) < 200
    with pytest.raises(UserError, match="cannot write"):
        write_text_atomic(tmp_path / ("x" * 300), "text")


def test_what_a_decoder_stumbles_over_is_named(tmp_path, monkeypatch):
    def fail(*_: object) -> None:
        raise ZeroDivisionError("division by zero")

    path = tmp_path / "a.png"
    path.write_bytes(b"\x89PNG")
    monkeypatch.setattr("PIL.Image.open", fail)
    with pytest.raises(BadImage, match="cannot be decoded: division by zero"):
        decode_image(path)
