"""`benco score`."""

import numpy as np
import pytest
import yaml

from sparsevit_plugin.cli.main import main
from sparsevit_plugin.cli.parser import SuggestingParser
from sparsevit_plugin.cli.score import add_arguments
from sparsevit_plugin.harness.external import POOLINGS
from sparsevit_plugin.results.store import load
from tests.harness.maps import random_map, write_map, write_maps

SIZE = (48, 64)
TAMPERED = [f"Tp/{number:06d}" for number in range(12)]
AUTHENTIC = [f"Au/{number:06d}" for number in range(3)]


@pytest.fixture
def command(tiny_corpus, tmp_path, monkeypatch):
    """`command(*flags)`: score maps/ as X on the registered set Corpus; returns the exit code."""
    monkeypatch.chdir(tmp_path)
    paths = tmp_path / "paths.yaml"
    paths.write_text(yaml.safe_dump({"Corpus": str(tiny_corpus), "Other": "nowhere"}))
    base = ["score", "--pred", "maps", "--name", "X"]
    registered = ["--set", "Corpus", "--data-paths", str(paths)]

    def run(*flags: str) -> int:
        return main([*base, *([] if "--test-data-path" in flags else registered), *flags])

    return run


@pytest.fixture
def maps(tmp_path):
    write_maps(tmp_path / "maps", [*TAMPERED, *AUTHENTIC], SIZE, "png16")
    return tmp_path / "maps"


@pytest.fixture
def protocol(tmp_path):
    content = {
        "name": "mine",
        "title": "One's own",
        "train": {"sets": [{"set": "Other"}]},
        "test": {"sets": [{"set": "Corpus", "authentic": "exclude"}]},
    }
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(content))
    return "mine.yaml"


def error_of(capsys) -> str:
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith("benco: error: ")
    return lines[-1]


def test_a_registered_set(command, maps, tmp_path, capsys):
    assert command() == 0
    out = capsys.readouterr().out
    assert "X on Corpus: 15 of 15 images scored" in out
    assert "15 png uint16; paired by relative path" in out
    assert "benco table runs/scores/X" in out
    rows = load(tmp_path / "runs/scores/X").rows
    assert rows.groupby("score_at", observed=True).size().to_dict() == {"image": 15, "model": 15}
    assert set(rows["dataset"]) == {"Corpus"}


def test_a_path_and_a_folder_to_store_in(command, maps, tiny_corpus, tmp_path):
    for file in (maps / "Au").iterdir():
        file.unlink()
    path = str(tiny_corpus / "list.json")
    assert command("--test-data-path", path, "--authentic", "exclude", "--output-dir", "here") == 0
    assert len(load(tmp_path / "here").rows) == 24


def test_the_row_of_a_protocol_follows_the_protocol(command, maps, protocol, tmp_path, capsys):
    assert command("--protocol", protocol) == 0
    assert "3 maps of images that are not scored here were left out" in capsys.readouterr().out
    results = load(tmp_path / "runs/mine")
    assert set(results.rows["label"]) == {1}
    assert command("--protocol", protocol, "--authentic", "include") == 2
    assert "tests Corpus with --authentic exclude" in error_of(capsys)


def test_a_set_that_is_not_the_protocols(command, maps, protocol, capsys, tiny_corpus):
    path = str(tiny_corpus / "list.json")
    assert command("--test-data-path", path, "--protocol", protocol) == 2
    assert "--protocol needs --set" in error_of(capsys)
    assert command("--protocol", "mvss") == 2
    assert "mvss does not test on Corpus" in error_of(capsys)


def test_conventions_reach_the_rows(command, maps, tmp_path):
    assert command("--pooling", "mean", "--invert", "--num-workers", "1") == 0
    results = load(tmp_path / "runs/scores/X")
    (manifest,) = results.manifests.values()
    assert (manifest["pooling"], manifest["inverted"]) == ("mean", True)
    first = results.rows[results.rows["sample_name"] == "Tp/000000.jpg"].iloc[0]
    assert first["score"] == pytest.approx(1 - random_map(*SIZE, 0).mean(), abs=1e-4)


def test_problems_are_one_line_and_with_list_all_of_them(command, maps, capsys, tmp_path):
    for stem in TAMPERED[:5]:
        (maps / f"{stem}.png").unlink()
    assert command() == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "5 missing (Tp/000000.jpg, Tp/000001.jpg, Tp/000002.jpg, ...)" in shown.err
    assert command("--list") == 2
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"missing: {stem}.jpg: has no map" for stem in TAMPERED[:5]]
    assert not (tmp_path / "runs").exists()
    assert command("--allow-missing") == 0


def test_stretched_maps_are_taken_when_asked(command, maps, capsys):
    write_map(maps / TAMPERED[0], random_map(32, 32), "png16")
    assert command() == 2
    assert "1 wrong aspect ratio (Tp/000000.png: is 32 x 32, its photograph" in error_of(capsys)
    assert command("--allow-stretched") == 0
    assert "1 of another aspect ratio" in capsys.readouterr().out


def test_maps_of_the_tampered_images_alone(command, maps, capsys):
    for file in (maps / "Au").iterdir():
        file.unlink()
    assert command() == 2
    assert "--authentic exclude" in error_of(capsys)
    assert command("--authentic", "exclude") == 0


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--pred", "nowhere"], "--pred nowhere: no such folder"),
        (["--name", " "], "--name"),
        (["--name", "a\nb"], "--name"),
        (["--num-workers", "0"], "at least 1"),
        (["--pooling", "mx"], 'Did you mean "max"?'),
        (["--set", "Corpu"], 'Did you mean "Corpus"?'),
        (["--test-data-path", "nowhere"], "nowhere: no such folder or file"),
        (["--protocol", "mvs"], 'Did you mean "mvss"?'),
        (["--protocol", "mvss", "--output-dir", "x"], "not allowed with"),
    ],
)
def test_errors_are_one_line(command, maps, capsys, flags, said):
    assert command(*flags) == 2
    assert said in error_of(capsys)


def test_a_path_of_several_sets_is_refused(command, maps, tiny_set, tmp_path, capsys):
    (tmp_path / "two.json").write_text(f'{{"a": "{tiny_set}", "b": "{tiny_set}"}}')
    assert command("--test-data-path", str(tmp_path / "two.json")) == 2
    assert "names 2 sets (a, b)" in error_of(capsys)


def test_the_help_names_every_pooling():
    parser = SuggestingParser(prog="benco score")
    add_arguments(parser)
    (pooling,) = (a for a in parser._actions if a.dest == "pooling")
    assert tuple(pooling.choices) == tuple(POOLINGS)


def test_a_name_that_is_no_file_name(command, maps, tmp_path):
    assert command("--name", "../Their method/2") == 0
    (folder,) = (tmp_path / "runs/scores").iterdir()
    (manifest,) = load(folder).manifests.values()
    assert manifest["model"] == "../Their method/2"


def test_a_map_of_random_numbers_is_no_better_than_chance(command, maps, tmp_path):
    assert command() == 0
    rows = load(tmp_path / "runs/scores/X").rows
    assert np.nanmean(rows["auc"]) == pytest.approx(0.5, abs=0.05)
