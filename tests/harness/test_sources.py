"""Data sources: what a path names, how names are paired, what is held out."""

import json
import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, reject, settings
from hypothesis import strategies as st
from IMDLBenCo.datasets import JsonDataset, ManiDataset
from IMDLBenCo.datasets.abstract_dataset import AbstractDataset
from IMDLBenCo.registry import DATASETS

from sparsevit_plugin.errors import UserError
from sparsevit_plugin.harness import pairing, sources
from sparsevit_plugin.harness.sources import BalancedSet, ImageSet


def write_json(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def only(path: Path, **settings_: str) -> ImageSet | BalancedSet:
    (found,) = sources.read_source(path, **settings_).values()
    return found


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


# --- folders --------------------------------------------------------------------------------------


def test_a_folder_is_read_in_the_order_of_upstream(tiny_set):
    found = only(tiny_set)
    upstream = ManiDataset(str(tiny_set), is_resizing=True)
    assert [str(sample.image) for sample in found.samples] == upstream.tp_path
    assert [str(sample.mask) for sample in found.samples] == upstream.gt_path
    assert (found.name, found.kind, found.pairing) == ("tiny", "ManiDataset", "name")
    assert found.samples[0].name == "Tp/000.jpg"
    assert found.samples[0].photos == ()


def test_clutter_is_ignored_and_listed(tiny_set):
    for name in (".DS_Store", "Thumbs.db", "._000.jpg", "readme.txt"):
        (tiny_set / "Tp" / name).touch()
    (tiny_set / "Gt" / "old").mkdir()
    found = only(tiny_set)
    assert len(found) == 4
    notes = "\n".join(found.notes)
    for name in (".DS_Store", "Thumbs.db", "._000.jpg", "readme.txt", "old/"):
        assert name in notes


def test_names_of_any_alphabet_are_read(tmp_path, make_set):
    stems = ["a b", "图片 一", "📷 photo", "é", "name.with.dots", "100%"]
    found = only(make_set(tmp_path / "データ set", stems=stems))
    assert {Path(sample.name).stem for sample in found.samples} == set(stems)


def test_accents_stored_in_two_ways_are_one_name(tmp_path):
    touch(tmp_path / "Tp" / (unicodedata.normalize("NFC", "é") + ".jpg"))
    touch(tmp_path / "Gt" / (unicodedata.normalize("NFD", "é") + ".png"))
    assert len(only(tmp_path)) == 1


@pytest.mark.parametrize("missing", ["Tp", "Gt"])
def test_a_folder_without_its_two_parts_is_refused_with_what_was_found(tiny_set, missing):
    (tiny_set / missing).rename(tiny_set / missing.lower())
    with pytest.raises(UserError, match=rf'no {missing}/.*found.*Did you mean "{missing.lower()}"'):
        sources.read_source(tiny_set)


def test_missing_and_empty_folders_are_refused(tmp_path, tiny_set):
    with pytest.raises(UserError, match=r'no such folder.*Did you mean "tiny"'):
        sources.read_source(tmp_path / "tinny")
    with pytest.raises(UserError, match="no such folder"):
        sources.read_source("x" * 5000)
    for part in ("Tp", "Gt"):
        (tmp_path / "hollow" / part).mkdir(parents=True)
    with pytest.raises(UserError, match="no images"):
        sources.read_source(tmp_path / "hollow")


def test_authentic_folders_beside_are_named(tiny_corpus):
    assert any("Au" in note for note in only(tiny_corpus).notes)


def test_a_file_name_that_is_no_text_is_refused(tiny_set):
    try:
        Path(os.fsdecode(bytes(tiny_set / "Tp") + b"/\xff.jpg")).touch()
    except OSError:
        pytest.skip("this file system takes valid names only")
    with pytest.raises(UserError, match="not valid UTF-8"):
        sources.read_source(tiny_set)


# --- pairing by name ------------------------------------------------------------------------------

STEMS = st.lists(
    st.text("abc01_é ", min_size=1, max_size=6).filter(lambda text: text.strip() == text),
    min_size=1,
    max_size=12,
    unique=True,
)
SUFFIXES = st.sampled_from(["", "_gt", "_mask", "0", "-a"])


@settings(max_examples=80, deadline=None, derandomize=True)
@given(stems=STEMS, suffix=SUFFIXES)
def test_complete_sets_pair_each_image_with_its_own_mask(stems, suffix):
    images = sorted(f"{stem}.jpg" for stem in stems)
    masks = sorted(f"{stem}{suffix}.png" for stem in stems)
    found: list[pairing.Finding] = []
    pairs, words = pairing.pair_by_name(images, masks, Path("set"), found.append)
    assert not found
    assert pairs == [(image, f"{Path(image).stem}{suffix}.png") for image in images]
    assert suffix in words


@settings(max_examples=80, deadline=None, derandomize=True)
@given(stems=STEMS, suffix=SUFFIXES, side=st.sampled_from(["image", "mask"]), data=st.data())
def test_one_file_missing_never_shifts_a_pair(stems, suffix, side, data):
    images = sorted(f"{stem}.jpg" for stem in stems)
    masks = sorted(f"{stem}{suffix}.png" for stem in stems)
    lost = data.draw(st.sampled_from(images if side == "image" else masks))
    (images if side == "image" else masks).remove(lost)
    assume(len(images) > 2 and len(masks) > 2)
    found: list[pairing.Finding] = []
    pairs, _ = pairing.pair_by_name(images, masks, Path("set"), found.append)
    assert found
    # Another suffix may fit more files (of "a", "a0", ...); whichever it is, it is one for all.
    assert len({Path(mask).stem[len(Path(image).stem) :] for image, mask in pairs}) <= 1


def test_an_unpaired_file_is_named_and_position_needs_equal_numbers(tiny_set):
    (tiny_set / "Gt" / "001.png").unlink()
    with pytest.raises(UserError, match=r"1 images without a mask.*Tp/001\.jpg.*--pair position"):
        sources.read_source(tiny_set)
    with pytest.raises(UserError, match=r"4 images.*3 masks.*equal numbers"):
        sources.read_source(tiny_set, pair="position")


def test_a_replaced_mask_is_found_though_the_numbers_agree(tiny_set):
    (tiny_set / "Gt" / "001.png").rename(tiny_set / "Gt" / "009.png")
    with pytest.raises(UserError, match=r"Tp/001\.jpg, Gt/009\.png"):
        sources.read_source(tiny_set)
    found = only(tiny_set, pair="position")
    assert found.pairing == "position"
    assert [sample.mask.name for sample in found.samples] == [
        *("000.png", "002.png", "003.png", "009.png")
    ]


def test_a_suffix_common_to_the_set_is_accepted_and_recorded(tiny_set):
    for mask in (tiny_set / "Gt").iterdir():
        mask.rename(mask.with_name(f"{mask.stem}_gt.png"))
    assert only(tiny_set).pairing == 'name, mask suffix "_gt"'
    (tiny_set / "Gt" / "001_gt.png").rename(tiny_set / "Gt" / "001_mask.png")
    with pytest.raises(UserError, match=r"Tp/001\.jpg, Gt/001_mask\.png"):
        sources.read_source(tiny_set)


def test_names_that_differ_in_extension_only_are_refused(tiny_set, make_photo):
    make_photo(tiny_set / "Tp" / "000.png")
    with pytest.raises(UserError, match=r"000\.jpg, 000\.png"):
        sources.read_source(tiny_set)


def test_numbers_without_leading_zeros_pair_in_a_large_set():
    images = sorted(f"{number}.jpg" for number in range(3000))
    masks = sorted(f"{number}_gt.png" for number in range(3000))
    pairs, _ = pairing.pair_by_name(
        images, masks, Path("set"), lambda finding: pytest.fail(finding.line())
    )
    assert len(pairs) == 3000


# --- lists ----------------------------------------------------------------------------------------


def as_list(folder: Path) -> list[list[str]]:
    return [
        [f"Tp/{path.name}", f"Gt/{path.stem}.png"] for path in sorted((folder / "Tp").iterdir())
    ]


def test_a_list_reads_as_upstream_reads_it(tiny_corpus, monkeypatch):
    found = only(tiny_corpus / "list.json")
    monkeypatch.chdir(tiny_corpus)  # upstream knows no other base for relative paths
    upstream = JsonDataset("list.json", is_resizing=True)
    assert [sample.name for sample in found.samples] == upstream.tp_path
    assert [
        "Negative" if sample.mask is None else sample.mask.relative_to(tiny_corpus).as_posix()
        for sample in found.samples
    ] == upstream.gt_path
    assert (found.name, found.kind) == ("list", "JsonDataset")


def test_paths_are_sought_below_the_list_and_then_the_working_folder(
    tmp_path, make_set, monkeypatch
):
    here = make_set(tmp_path / "here")
    make_set(tmp_path / "there", size=(20, 20))
    relative = write_json(tmp_path / "there" / "list.json", as_list(here))
    monkeypatch.chdir(here)
    assert only(relative).samples[0].image == tmp_path / "there" / "Tp" / "000.jpg"
    (tmp_path / "elsewhere").mkdir()
    elsewhere = write_json(tmp_path / "elsewhere" / "list.json", as_list(here))
    assert only(elsewhere).samples[0].image == Path("Tp/000.jpg")
    absolute = [[str(here / part) for part in record] for record in as_list(here)]
    found = only(write_json(tmp_path / "elsewhere" / "absolute.json", absolute))
    assert found.samples[0].image == here / "Tp" / "000.jpg"
    assert [sample.name for sample in found.samples] == [f"00{number}.jpg" for number in range(4)]


def test_missing_files_of_a_list_are_counted_and_named(tiny_set):
    listing = write_json(
        tiny_set / "l.json",
        [*as_list(tiny_set), ["Tp/x.jpg", "Gt/y.png"], ["Tp/z.jpg", "Negative"]],
    )
    with pytest.raises(UserError, match=r"3 files.*Tp/x\.jpg, Gt/y\.png, Tp/z\.jpg"):
        sources.read_source(listing)


def test_a_misspelt_negative_is_explained(tiny_set):
    with pytest.raises(UserError, match='marked "Negative"'):
        sources.read_source(write_json(tiny_set / "l.json", [["Tp/000.jpg", "negative"]]))


def test_a_shifted_list_is_refused_unless_position_is_asked_for(tiny_set):
    records = as_list(tiny_set)
    masks = [mask for _, mask in records]
    shifted = [[image, mask] for (image, _), mask in zip(records, masks[1:] + masks[:1])]  # noqa: B905
    listing = write_json(tiny_set / "l.json", shifted)
    with pytest.raises(UserError, match=r"4 of 4 pairs.*000\.jpg with 001\.png.*--pair position"):
        sources.read_source(listing)
    found = only(listing, pair="position")
    assert "position" in found.pairing
    assert found.samples[0].mask.name == "001.png"


def test_images_listed_twice_keep_names_apart(tiny_set):
    found = only(write_json(tiny_set / "l.json", as_list(tiny_set) * 2))
    assert len({sample.name for sample in found.samples}) == 8
    assert any("more than once" in note for note in found.notes)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[]", "empty"),
        ("{}", "names no set"),
        ("3", "found the value 3"),
        ("[3]", "entry 1 must be"),
        ('[["a", "b", "c"]]', "entry 1 must be"),
        ('[["a", null]]', "entry 1 must hold two strings"),
        ("[[", "neither a folder.*nor"),
        ('{"a": "tiny", "a": "tiny"}', '"a" stands in it twice'),
        ('{"a": {"b": "tiny"}}', "nested dict"),
        ('{"a": "nowhere"}', '"a" names nowhere'),
        ('{"a": []}', "empty"),
        ('[["ManiDatast", "tiny"]]', 'Did you mean "ManiDataset"'),
        ('[["BalancedDataset", "tiny"]]', "no subclass"),
        ('[["JsonDataset", "tiny"]]', "JSON list"),
        ('[["ManiDataset", "nowhere"]]', "does not exist"),
        ('[["ManiDataset", "tiny"], ["tiny/Tp/000.jpg", "tiny/Gt/000.png"]]', "mixes"),
    ],
)
def test_anything_else_is_refused_in_one_line(tiny_set, text, words):
    path = tiny_set.parent / "l.json"
    path.write_text(text)
    with pytest.raises(UserError, match=words) as caught:
        sources.read_source(path)
    assert "\n" not in str(caught.value)
    assert "l.json" in str(caught.value) or "tiny" in str(caught.value)


def test_a_nested_dict_behind_a_path_and_an_image_as_source_are_refused(tiny_set):
    write_json(tiny_set / "inner.json", {"a": "."})
    with pytest.raises(UserError, match="nested dict"):
        sources.read_source(write_json(tiny_set / "outer.json", {"b": "inner.json"}))
    with pytest.raises(UserError, match="neither a folder"):
        sources.read_source(tiny_set / "Tp" / "000.jpg")


# --- dicts and balanced lists ---------------------------------------------------------------------


def test_a_dict_names_sets_of_every_kind(tiny_set, tiny_corpus):
    content = {
        "folder": str(tiny_set),
        "list": "corpus/list.json",
        "written out": [["tiny/Tp/000.jpg", "tiny/Gt/000.png"]],
        "balanced": [["ManiDataset", "tiny"], ["JsonDataset", "corpus/list.json"]],
    }
    found = sources.read_source(write_json(tiny_set.parent / "tests.json", content))
    assert list(found) == list(content)
    assert [len(found[name]) for name in content] == [4, 15, 1, 2 * 1840]
    assert [part.name for part in found["balanced"].parts] == ["tiny", "list"]


def test_parts_of_a_balanced_list_have_names_of_their_own(tiny_set):
    found = only(write_json(tiny_set / "b.json", [["ManiDataset", "."], ["ManiDataset", "."]]))
    assert [part.name for part in found.parts] == ["tiny", "tiny#2"]


def test_a_registered_class_of_someone_else_gives_its_own_lists(tiny_set, monkeypatch):
    class Reversed(AbstractDataset):
        def _init_dataset_path(self, path):
            images = sorted((Path(path) / "Tp").iterdir(), reverse=True)
            return [str(image) for image in images], ["Negative"] * len(images)

    monkeypatch.setitem(DATASETS.module_dict, "Reversed", Reversed)
    (part,) = only(write_json(tiny_set / "b.json", [["Reversed", "."]])).parts
    assert part.samples[0].image.name == "003.jpg"
    assert all(sample.mask is None for sample in part.samples)
    assert (part.kind, part.pairing) == ("Reversed", "as Reversed lists them")


def test_a_class_of_someone_else_that_fails_is_named(tiny_set, monkeypatch):
    class Broken(AbstractDataset):
        def _init_dataset_path(self, path):
            raise FileNotFoundError("meta.txt")

    monkeypatch.setitem(DATASETS.module_dict, "Broken", Broken)
    with pytest.raises(UserError, match=r"Broken cannot list it.*meta\.txt"):
        sources.read_source(write_json(tiny_set / "b.json", [["Broken", "."]]))


# --- photographs ----------------------------------------------------------------------------------


def test_photographs_come_from_the_manifest(tiny_corpus):
    listed = only(tiny_corpus / "list.json")
    assert listed.samples[3].photos == ("photo1", "photo2")
    assert listed.samples[-1].photos == ("photo4",)
    assert only(tiny_corpus).samples[3].photos == ("photo1", "photo2")


@pytest.mark.parametrize(
    "content",
    [
        {"schema": 1, "kind": "sparsevit-corpus"},
        {"schema": 2, "kind": "sparsevit-corpus", "images": {}},
        {"schema": 1, "kind": "sparsevit-corpus", "images": {"Tp/000000.jpg": {}}},
        {"schema": 1, "kind": "sparsevit-corpus", "images": {"Tp/000000.jpg": {"photos": "a"}}},
    ],
)
def test_a_damaged_manifest_is_refused(tiny_corpus, content):
    write_json(tiny_corpus / "manifest.json", content)
    with pytest.raises(UserError, match=r"manifest\.json"):
        sources.read_source(tiny_corpus / "list.json")
    (tiny_corpus / "manifest.json").write_text("{")
    with pytest.raises(UserError, match=r"manifest\.json"):
        sources.read_source(tiny_corpus)


def test_a_manifest_of_another_program_is_ignored_with_a_note(tiny_set):
    write_json(tiny_set / "manifest.json", {"files": 4})
    assert any("not a corpus manifest" in note for note in only(tiny_set).notes)


# --- hold-out -------------------------------------------------------------------------------------


def synthetic(photos: list[tuple[str, ...]], name: str = "set") -> ImageSet:
    samples = tuple(
        sources.Sample(Path(f"{number}.jpg"), Path(f"{number}.png"), f"{number}.jpg", of)
        for number, of in enumerate(photos)
    )
    return ImageSet(name, "JsonDataset", Path("l.json"), samples, "name")


PHOTOS = st.lists(st.lists(st.sampled_from("abcdefghij"), max_size=3).map(tuple), min_size=1)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    photos=PHOTOS,
    fraction=st.floats(0.01, 0.6),
    seed=st.integers(0, 5),
    most=st.integers(1, 3),
)
def test_no_held_out_photograph_is_seen_in_training(photos, fraction, seed, most):
    whole = synthetic(photos)
    try:
        train, validation = sources.hold_out(whole, fraction, seed, most)
    except UserError:
        reject()  # nothing left to train on: a test of its own
    bases = {sample.photos[0] for sample in validation.samples if sample.photos}
    seen = {photo for sample in train.samples for photo in sample.photos}
    assert not bases & seen
    assert not {s.name for s in train.samples} & {s.name for s in validation.samples}
    assert len(train) > 0
    unknown = sum(not sample.photos for sample in validation.samples)
    all_known = {of[0] for of in photos if of}
    total = len(all_known) + sum(not of for of in photos)
    assert len(bases) + unknown == min(max(1, round(fraction * total)), most)
    dropped = len(whole) - len(train) - len(validation)
    assert any(str(dropped) in note for note in train.notes) == (dropped > 0)


def test_the_choice_depends_on_the_seed_and_not_on_the_order():
    photos = [(name,) for name in "abcdefghijklmnopqrstuvwxyz"]
    forward, backward = synthetic(photos), synthetic(photos[::-1])

    def held(images: ImageSet, seed: int) -> set[tuple[str, ...]]:
        return {sample.photos for sample in sources.hold_out(images, 0.2, seed)[1].samples}

    assert held(forward, 1) == held(backward, 1)
    assert len({frozenset(held(forward, seed)) for seed in range(5)}) > 1


def test_at_most_five_hundred_photographs_are_held_out():
    whole = synthetic([(f"p{number}",) for number in range(12000)])
    assert len(sources.hold_out(whole)[1]) == 500


def test_some_tampered_image_is_held_out_where_there_is_one():
    samples = [
        sources.Sample(Path(f"{n}.jpg"), Path("m.png") if n == 0 else None, f"{n}.jpg")
        for n in range(60)
    ]
    whole = ImageSet("set", "JsonDataset", Path("l.json"), tuple(samples), "name")
    for seed in range(5):
        held = sources.hold_out(whole, seed=seed)[1].samples
        assert len(held) == 3
        assert any(sample.mask is not None for sample in held)


def test_balanced_sets_are_held_out_from_part_by_part():
    photos = [(name,) for name in "abcdefghij"]
    parts = (synthetic(photos, "x"), synthetic(photos, "y"), synthetic([()] * 30, "z"))
    train, validation = sources.hold_out(BalancedSet("b", Path("b.json"), parts), 0.1)
    assert [len(part) for part in train.parts] == [9, 9, 27]
    names = [sample.name for sample in validation.samples]
    assert len(set(names)) == len(names) == 5
    assert {name.split("/")[0] for name in names} == {"x", "y", "z"}
    # Parts made of the same photographs hold out the same ones.
    assert len({sample.photos for sample in validation.samples[:2]}) == 1


def test_nothing_left_to_train_on_is_refused():
    with pytest.raises(UserError, match="leaves none"):
        sources.hold_out(synthetic([("a",), ("a",)]))
    with pytest.raises(UserError, match="between 0 and 1"):
        sources.hold_out(synthetic([("a",), ("b",)]), 0.0)


def test_the_fingerprint_changes_with_any_file(tiny_set):
    first = sources.fingerprint(only(tiny_set))
    assert sources.fingerprint(only(tiny_set)) == first
    mask = tiny_set / "Gt" / "002.png"
    content = np.frombuffer(mask.read_bytes(), np.uint8)
    mask.write_bytes(content.tobytes() + b"\0")
    changed = sources.fingerprint(only(tiny_set))
    assert changed != first
    whole = only(tiny_set)
    mask.unlink()
    with pytest.raises(UserError, match="cannot be read"):
        sources.fingerprint(whole)
