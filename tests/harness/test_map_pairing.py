"""Which map belongs to which image."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsevit_plugin.errors import UserError
from sparsevit_plugin.harness.map_pairing import DOUBLED, UNREADABLE, find_maps, pair_maps
from sparsevit_plugin.harness.sources import Sample


def samples(*names: str) -> list[Sample]:
    return [Sample(Path(name), None, name) for name in names]


def maps(*stems: str) -> dict[str, Path]:
    return {stem: Path(f"{stem}.npy") for stem in stems}


def paired(found) -> dict[str, str]:
    return {sample.name: file.as_posix().removesuffix(".npy") for sample, file in found.pairs}


@pytest.mark.parametrize(
    ("images", "stems", "rule"),
    [
        (["Tp/a.jpg", "Tp/b.png"], ["Tp/a", "Tp/b"], "relative path"),
        (["a.jpg", "a.png"], ["a.jpg", "a.png"], "relative path, the image's suffix included"),
        (["Tp/a.jpg", "Tp/b.png"], ["a", "b"], "relative path below the common folder"),
        (["Tp/x/1.jpg", "Tp/y/1.jpg"], ["m/x/1", "m/y/1"], "relative path below the common folder"),
        (["Tp/a.jpg", "Au/b.jpg"], ["a", "b"], "base name"),
        (["Tp/a.jpg", "Au/b.jpg"], ["a.jpg", "b.jpg"], "base name, the image's suffix included"),
        (
            ["Tp/A.JPG", "Tp/b.jpg"],
            ["tp/a", "tp/B"],
            "relative path, upper and lower case taken for equal",
        ),
        (["Tp/a.jpg", "Tp/A.jpg"], ["Tp/a", "Tp/A"], "relative path"),
        (["Tp/u\u0308.jpg"], ["Tp/\u00fc"], "relative path"),
        (["Tp/a.b.jpg", "Tp/a.c.jpg"], ["Tp/a.b", "Tp/a.c"], "relative path"),
    ],
)
def test_rules_from_the_strictest_on(images, stems, rule):
    found = pair_maps(samples(*images), maps(*stems))
    assert found.rule == rule
    assert paired(found) == dict(zip(images, stems, strict=True))
    assert found.missing == found.extra == ()


def test_equal_base_names_in_two_folders_are_not_mixed_up():
    images = samples("a/1.jpg", "b/1.jpg")
    assert paired(pair_maps(images, maps("b/1", "a/1"))) == {"a/1.jpg": "a/1", "b/1.jpg": "b/1"}
    found = pair_maps(images, maps("1"))
    assert found.pairs == ()
    assert found.extra == ("1",)
    assert "keep these folders" in found.hint


def test_names_that_differ_in_case_only_are_told_apart_or_left_alone():
    found = pair_maps(samples("Tp/a.jpg", "Tp/A.jpg"), maps("tp/a", "tp/A"))
    assert found.rule == "relative path below the common folder"
    assert pair_maps(samples("a.jpg", "A.jpg"), maps("a", "b")).missing == tuple(samples("A.jpg"))


def test_an_incomplete_pairing_follows_the_rule_that_pairs_most():
    found = pair_maps(samples("Tp/a.jpg", "Tp/b.jpg", "Tp/c.jpg"), maps("a", "b", "d"))
    assert found.rule == "relative path below the common folder"
    assert [sample.name for sample in found.missing] == ["Tp/c.jpg"]
    assert found.extra == ("d",)


def test_a_common_suffix_is_pointed_out_and_not_taken():
    found = pair_maps(samples("Tp/a.jpg", "Tp/b.jpg"), maps("a_pred", "b_pred"))
    assert found.pairs == ()
    assert 'end in "_pred"' in found.hint


@settings(max_examples=50)
@given(
    st.lists(st.from_regex(r"([ab]/){0,2}[abAB1]{1,3}", fullmatch=True), min_size=1, unique=True),
    st.randoms(),
)
def test_whole_relative_paths_always_pair_themselves(stems, random):
    shuffled = list(stems)
    random.shuffle(shuffled)
    found = pair_maps(samples(*(f"{stem}.jpg" for stem in stems)), maps(*shuffled))
    assert paired(found) == {f"{stem}.jpg": stem for stem in stems}


@given(
    st.lists(st.from_regex(r"([ab]/){0,2}[abA]{1,2}\.jpg", fullmatch=True), unique=True),
    st.lists(st.from_regex(r"([ab]/){0,2}[abA]{1,2}", fullmatch=True), unique=True),
)
def test_nothing_is_lost_or_paired_twice(images, stems):
    found = pair_maps(samples(*images), maps(*stems))
    pairs = paired(found)
    assert len(set(pairs.values())) == len(pairs)
    assert {*pairs, *(sample.name for sample in found.missing)} == set(images)
    assert {*pairs.values(), *found.extra} == set(stems)
    assert len(pairs) + len(found.extra) == len(stems)


def test_a_folder_lists_its_maps_and_what_cannot_be_taken(tmp_path):
    for name in ("b/x.PNG", "a.npy", "c.npz", "a.png", "d.jpg", "README.txt", ".hidden.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "circle").symlink_to(tmp_path)
    (tmp_path / "__MACOSX").mkdir()
    (tmp_path / "__MACOSX/e.png").touch()
    found = find_maps(tmp_path)
    assert list(found.maps) == ["a", "b/x", "c"]
    kinds = {(problem.kind, problem.name) for problem in found.problems}
    assert kinds == {(DOUBLED, "a.png"), (UNREADABLE, "d.jpg")}
    assert found.others == 1  # the circle is not entered


@pytest.mark.parametrize("name", ["absent", "empty", "file"])
def test_a_folder_without_maps_is_one_line(tmp_path, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/notes.txt").touch()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"no such folder|holds no maps"):
        find_maps(tmp_path / name)
