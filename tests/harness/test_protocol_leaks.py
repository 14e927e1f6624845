"""The leaks of a protocol, on a stand-in for NIST16's own split: photographs on both sides."""

import csv
import json

import pytest
import yaml
from PIL import Image

from sparsevit_plugin.cli.main import main
from sparsevit_plugin.errors import UserError
from sparsevit_plugin.harness.photos import embedded_photographs
from sparsevit_plugin.harness.protocol_leaks import protocol_leaks
from sparsevit_plugin.harness.registered_sets import DataRoots
from sparsevit_plugin.protocol.schema import load_protocol

SIDE = 160
FORGERIES = 4  # of one photograph, as NIST16 has several; two of them in each half


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    """Forgeries of the same photographs in both halves of a split, and a set that shares none."""
    root = tmp_path_factory.mktemp("split")
    photographs = embedded_photographs()[:5]
    lists: dict[str, list] = {"half_a": [], "half_b": [], "clean": []}
    for number, photograph in enumerate(photographs):
        picture = Image.fromarray(photograph.array).resize((SIDE, SIDE))
        for forgery in range(FORGERIES):
            half = "clean" if number > 2 else ("half_a", "half_b")[forgery % 2]
            lists[half].append(forge(root, picture, f"{number}-{forgery}", forgery))
    paths = {}
    for name, entries in lists.items():
        paths[name] = root / f"{name}.json"
        paths[name].write_text(json.dumps(entries))
    (root / "paths.yaml").write_text(yaml.safe_dump({k: str(v) for k, v in paths.items()}))
    return root


def forge(root, picture, name, place):
    """Paste a grey patch at one of four places, and save with a mask."""
    forged, mask = picture.copy(), Image.new("L", picture.size)
    box = (20 + 30 * place, 30, 44 + 30 * place, 54)
    for canvas, fill in ((forged, (128, 128, 128)), (mask, 255)):
        canvas.paste(fill, box)
    forged.save(root / f"{name}.jpg", quality=90 - place)
    mask.save(root / f"{name}.png")
    return [str(root / f"{name}.jpg"), str(root / f"{name}.png")]


@pytest.fixture
def protocol(split, tmp_path):
    def write(train, test):
        card = {
            "name": "own-split",
            "title": "A set's own split",
            "train": {"sets": [{"set": name} for name in train]},
            "test": {"sets": [{"set": name} for name in test]},
        }
        path = tmp_path / "own-split.yaml"
        path.write_text(yaml.safe_dump(card))
        return str(path)

    return write


def find(split, path):
    roots = DataRoots("", str(split / "paths.yaml"))
    return protocol_leaks(load_protocol(path), roots)


def test_a_split_that_shares_photographs_is_shown(split, protocol):
    leaks = find(split, protocol(["half_a", "clean"], ["half_b"]))
    assert leaks.has_leaks
    frame = leaks.frame().set_index("train")
    assert frame.at["half_a", "shared"] == frame.at["half_a", "test_images"] == 6
    assert frame.at["half_a", "near-duplicate"] == 6
    assert frame.at["clean", "shared"] == 0
    rows = {row.name: row.cells[0].parts[0].text for row in leaks.layout().blocks[0].rows}
    assert rows == {
        "half_a": "6 of 6 (6 near-duplicate)",
        "clean": "0 of 6",
        "any of them": "6 of 6",
    }


def test_a_clean_protocol_has_none_and_absent_sets_are_named(split, protocol):
    leaks = find(split, protocol(["half_a"], ["clean", "CASIAv1"]))
    assert not leaks.has_leaks
    assert leaks.frame()["shared"].isna().tolist() == [False, True]
    assert leaks.layout().blocks[0].rows[0].cells[1].is_missing
    (remark,) = leaks.layout().remarks
    assert "CASIAv1" in remark


def test_nothing_to_compare_is_an_error(split, protocol, tmp_path):
    with pytest.raises(UserError, match="none of its test sets is there"):
        find(split, protocol(["half_a"], ["CASIAv1"]))
    tests_only = tmp_path / "ready.yaml"
    tests_only.write_text("{name: ready, title: Ready checkpoints, test: {sets: [{set: clean}]}}")
    with pytest.raises(UserError, match="trains nothing"):
        protocol_leaks(load_protocol(str(tests_only)), DataRoots("", ""))


def test_the_command_writes_the_matrix(split, protocol, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    leaky, paths = protocol(["half_a"], ["half_b"]), str(split / "paths.yaml")
    words = ["data", "leak", "--protocol", leaky, "--data-paths", paths]
    assert main(words) == 1
    assert "6 of 6 (6 near-duplicate)" in capsys.readouterr().out
    out = tmp_path / "leaks.csv"
    assert main([*words, "--format", "csv", "--out", str(out)]) == 1
    (line,) = csv.DictReader(out.open(newline=""))
    assert (line["train"], line["test"], line["shared"]) == ("half_a", "half_b", "6")
    assert main([*words, "--format", "markdown"]) == 1
    assert "| half_a | 6 of 6 (6 near-duplicate) |" in capsys.readouterr().out
    assert main([*words[:3], protocol(["half_a"], ["clean"]), "--data-paths", paths]) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give two sets, A and B, or --protocol NAME"),
        (["a"], "give two sets, A and B, or --protocol NAME"),
        (["a", "b", "--format", "csv"], "give --protocol NAME"),
        (["a", "b", "--protocol", "mvss"], "takes neither A nor B"),
        (["--protocol", "mvs"], 'Did you mean "mvss"'),
    ],
)
def test_words_that_do_not_go_together(words, message, capsys):
    assert main(["data", "leak", *words]) == 2
    assert message in capsys.readouterr().err
