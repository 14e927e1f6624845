"""Which photographs paths and patterns mean, and what their results are called."""

import pytest

from sparsevit_plugin.errors import UserError
from sparsevit_plugin.harness.photo_paths import find_photographs


@pytest.fixture
def folder(tmp_path):
    names = ("a.jpg", "deep/er/b.PNG", "deep/c.tif", "notes.txt", ".hidden/d.jpg", "out/maps/a.png")
    for name in names:
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return tmp_path / "photos"


def names(*words, **settings) -> list[str]:
    return sorted(photo.name for photo in find_photographs([str(w) for w in words], **settings))


def test_a_folder_means_its_photographs_but_not_those_of_the_results(folder):
    assert names(folder, leave_out=folder / "out") == ["a", "deep/c", "deep/er/b"]
    assert names(folder) == ["a", "deep/c", "deep/er/b", "out/maps/a"]


def test_patterns_are_expanded(folder):
    assert names(f"{folder}/**/*.[tP]*", leave_out=folder / "out") == ["c", "er/b"]
    assert names(f"{folder}/de*") == ["c", "er/b"]
    assert names(f"{folder}/*", leave_out=folder / "out") == names(*folder.glob("[ad]*"))


def test_files_are_called_by_their_path_below_the_folder_of_all(folder):
    assert names(folder / "a.jpg") == ["a"]
    assert names(folder / "a.jpg", folder / "deep/c.tif") == ["a", "deep/c"]
    assert names(folder / "deep/er", folder / "a.jpg") == ["a", "deep/er/b"]


def test_what_is_named_twice_counts_once(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert names(folder / "deep", "deep/c.tif", "./deep/../deep") == ["c", "er/b"]


def test_photographs_of_one_stem_keep_their_suffixes(folder):
    (folder / "deep/C.png").write_bytes(b"x")
    assert names(folder / "deep") == ["C.png", "c.tif", "er/b"]


def test_a_name_is_given_once_where_a_stem_is_another_files_name(folder):
    for name in ("x.jpg", "x.png", "x.jpg.png"):
        (folder / "deep/er" / name).write_bytes(b"x")
    found = names(folder / "deep/er")
    assert found == ["b", "x.jpg", "x.jpg.png", "x.png"]


def test_a_file_is_taken_whatever_its_suffix(folder):
    assert names(folder / "notes.txt") == ["notes"]


@pytest.mark.parametrize(
    ("word", "words"),
    [
        ("nowhere", "no such file or folder"),
        ("*.xyz", "matches no file"),
        ("empty", "holds no photographs"),
    ],
)
def test_words_that_mean_nothing_are_refused(folder, word, words):
    (folder / "empty").mkdir()
    with pytest.raises(UserError, match=words):
        find_photographs([str(folder / word)])
