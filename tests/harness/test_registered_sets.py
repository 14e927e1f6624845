"""Sets by name: where they are sought, and what is read of them."""

import json
from pathlib import Path

import pytest

from sparsevit_plugin.errors import UserError
from sparsevit_plugin.harness import registered_sets
from sparsevit_plugin.harness.corpus import make_demo
from sparsevit_plugin.harness.registered_sets import DataRoots, read_registered


def add_authentic(folder: Path, make_photo, count: int = 2) -> None:
    for number in range(count):
        make_photo(folder / "Au" / f"{number}.jpg", seed=50 + number)


def names(found) -> list[str]:
    return [sample.name for sample in found.samples]


class TestLocate:
    def test_below_the_data_root(self, tmp_path: Path, make_set):
        folder = make_set(tmp_path / "CASIAv1")
        assert DataRoots(str(tmp_path)).locate("CASIAv1") == folder
        assert DataRoots(str(tmp_path)).present("CASIAv1") is True
        assert DataRoots(str(tmp_path)).present("CASIAv2") is False
        assert DataRoots().present("CASIAv1") is None

    def test_paths_file_comes_first(self, tmp_path: Path, make_set):
        make_set(tmp_path / "root" / "CASIAv1")
        elsewhere = make_set(tmp_path / "root" / "elsewhere")
        (tmp_path / "root" / "paths.yaml").write_text("CASIAv1: elsewhere\nMine: elsewhere\n")
        roots = DataRoots(str(tmp_path / "root"))
        assert roots.locate("CASIAv1") == elsewhere
        assert read_registered("Mine", roots).name == "Mine"

    def test_a_paths_file_of_ones_own(self, tmp_path: Path, make_set):
        folder = make_set(tmp_path / "CASIA1.0")
        file = tmp_path / "lab.yaml"
        file.write_text(f"CASIAv1: {folder}\n")
        assert DataRoots(paths_file=str(file)).locate("CASIAv1") == folder
        assert DataRoots(paths_file=str(file)).present("CASIAv1") is True

    def test_an_empty_paths_file_says_nothing(self, tmp_path: Path, make_set):
        make_set(tmp_path / "CASIAv1")
        (tmp_path / "paths.yaml").write_text("\n")
        assert DataRoots(str(tmp_path)).present("CASIAv1") is True

    @pytest.mark.parametrize(
        ("name", "root", "wanted"),
        [
            ("CASIAv1", "", r"set CASIAv1: no --data-root is given; name the folder that h"),
            ("CASIAv1", "lost", r"--data-root .*lost: no such folder"),
            ("CASIAv1", ".", r"CASIAv1 does not exist\. Get the set \(.*github.*\) and run: "
             r"benco data import CASIAv1 SRC --data-root"),
            ("CASIAV1", ".", r'unknown set "CASIAV1"\. Did you mean "CASIAv1"\?'),
        ],
    )  # fmt: skip
    def test_what_is_missing_is_said_with_what_to_do(self, tmp_path: Path, name, root, wanted):
        where = str(tmp_path / root) if root else ""
        with pytest.raises(UserError, match=wanted) as caught:
            DataRoots(where).locate(name)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        ("text", "wanted"),
        [
            ("CASIAv1: lost\n", r"paths\.yaml says .*lost, which does not exist"),
            ("CASIAv1: [a]\n", r"paths\.yaml: CASIAv1: expected"),
            ("CASIAv1: a\nCASIAv1: b\n", r'paths\.yaml:2: not YAML: "CASIAv1" is given twice'),
            ("- a\n", r"paths\.yaml:1: a paths file is a mapping"),
        ],
    )
    def test_a_wrong_paths_file(self, tmp_path: Path, text: str, wanted: str):
        (tmp_path / "paths.yaml").write_text(text)
        with pytest.raises(UserError, match=wanted):
            DataRoots(str(tmp_path)).locate("CASIAv1")

    def test_a_paths_file_that_is_not_there(self, tmp_path: Path):
        with pytest.raises(UserError, match=r"lost\.yaml: cannot be read"):
            DataRoots(paths_file=str(tmp_path / "lost.yaml")).locate("CASIAv1")


class TestRead:
    def test_an_imported_set_is_read_by_its_list(self, tmp_path: Path, tiny_corpus: Path):
        tiny_corpus.rename(tmp_path / "CASIAv2")
        roots = DataRoots(str(tmp_path))
        whole = read_registered("CASIAv2", roots)
        assert (whole.name, len(whole)) == ("CASIAv2", 15)
        assert whole.samples[0].photos == ("photo0", "photo1")
        tampered = read_registered("CASIAv2", roots, authentic="exclude")
        assert names(tampered) == [f"Tp/{number:06d}.jpg" for number in range(12)]
        authentic = read_registered("CASIAv2", roots, authentic="only")
        assert names(authentic) == [f"Au/{number:06d}.jpg" for number in range(3)]

    def test_a_copy_made_for_imdlbenco(self, tmp_path: Path, make_set, make_photo):
        folder = make_set(tmp_path / "CASIAv1")
        roots = DataRoots(str(tmp_path))
        assert names(read_registered("CASIAv1", roots)) == [f"Tp/{n:03d}.jpg" for n in range(4)]
        with pytest.raises(UserError, match=r"0 usable images: .* has no authentic image"):
            read_registered("CASIAv1", roots, authentic="only")
        add_authentic(folder, make_photo)
        assert len(read_registered("CASIAv1", roots)) == 6
        assert len(read_registered("CASIAv1", roots, authentic="exclude")) == 4
        only = read_registered("CASIAv1", roots, authentic="only")
        assert names(only) == ["Au/0.jpg", "Au/1.jpg"]
        assert not any("is not read" in note for note in only.notes)

    def test_a_json_list(self, tmp_path: Path, make_set):
        make_set(tmp_path / "CASIA1.0", count=2)
        records = [[f"CASIA1.0/Tp/{n:03d}.jpg", f"CASIA1.0/Gt/{n:03d}.png"] for n in range(2)]
        (tmp_path / "casia.json").write_text(json.dumps(records))
        (tmp_path / "paths.yaml").write_text("CASIAv1: casia.json\n")
        found = read_registered("CASIAv1", DataRoots(str(tmp_path)))
        assert (found.name, found.kind, len(found)) == ("CASIAv1", "JsonDataset", 2)

    def test_a_file_that_names_several_sets_is_refused(self, tmp_path: Path, make_set):
        make_set(tmp_path / "a")
        make_set(tmp_path / "b")
        (tmp_path / "tests.json").write_text(json.dumps({"a": "a", "b": "b"}))
        (tmp_path / "paths.yaml").write_text("CASIAv1: tests.json\n")
        with pytest.raises(UserError, match="names 2 sets, expected one"):
            read_registered("CASIAv1", DataRoots(str(tmp_path)))

    def test_all_authentic_and_none_wanted(self, tmp_path: Path, make_photo):
        make_photo(tmp_path / "compRAISE" / "Au" / "r.jpg")
        (tmp_path / "compRAISE" / "list.json").write_text('[["Au/r.jpg", "Negative"]]')
        roots = DataRoots(str(tmp_path))
        assert len(read_registered("compRAISE", roots)) == 1
        with pytest.raises(UserError, match=r"0 usable images: .* has no tampered image"):
            read_registered("compRAISE", roots, authentic="exclude")

    def test_a_limit_keeps_both_labels(self, tmp_path: Path, tiny_corpus: Path):
        tiny_corpus.rename(tmp_path / "CASIAv2")
        few = read_registered("CASIAv2", DataRoots(str(tmp_path)), limit=4)
        assert len(few) == 4
        assert {sample.mask is None for sample in few.samples} == {True, False}
        assert few.name == "CASIAv2"

    def test_a_shifted_copy_is_refused(self, tmp_path: Path, make_set):
        folder = make_set(tmp_path / "CASIAv1")
        (folder / "Gt" / "000.png").unlink()
        with pytest.raises(UserError, match="1 images without a mask"):
            read_registered("CASIAv1", DataRoots(str(tmp_path)))


@pytest.fixture
def small_demo(monkeypatch: pytest.MonkeyPatch):
    """The demo's corpus at a small scale; yields the folders that it was made in."""
    made: list[Path] = []

    def make(out: Path, **settings):
        made.append(out)
        return make_demo(out, scale=0.001, **settings)

    monkeypatch.setattr("sparsevit_plugin.harness.corpus.make_demo", make)
    registered_sets._make_demo_once.cache_clear()
    yield made
    registered_sets._make_demo_once.cache_clear()


class TestDemo:
    def test_is_made_once_below_the_data_root(self, tmp_path: Path, small_demo):
        roots = DataRoots(str(tmp_path / "data"))
        assert roots.present("demo_splicing") is False
        train = read_registered("demo_train", roots)
        spliced = read_registered("demo_splicing", roots, authentic="exclude")
        assert (train.name, spliced.name) == ("demo_train", "demo_splicing")
        assert all(sample.mask and sample.photos for sample in spliced.samples)
        assert small_demo == [tmp_path / "data" / "demo-data"]
        assert roots.present("demo_splicing") is True

    def test_goes_to_runs_where_there_is_no_root(self, tmp_path: Path, small_demo, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert len(read_registered("demo_removal", DataRoots())) > 0
        assert small_demo == [tmp_path / "runs" / "demo-data"]

    def test_goes_to_runs_where_the_root_is_read_only(self, tmp_path, small_demo, monkeypatch):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(registered_sets, "_can_be_written", lambda _: False)
        read_registered("demo_removal", DataRoots(str(tmp_path / "data")))
        assert small_demo == [tmp_path / "runs" / "demo-data"]
        assert not (tmp_path / "data").exists()

    def test_a_copy_that_is_there_is_used(self, tmp_path: Path, small_demo, make_set):
        folder = make_set(tmp_path / "demo-data" / "removal", count=1)
        (folder / "list.json").write_text('[["Tp/000.jpg", "Gt/000.png"]]')
        assert len(read_registered("demo_removal", DataRoots(str(tmp_path)))) == 1
        assert small_demo == []
