"""Import of distributed sets: what is taken, what stops it, and that nothing is ever half there."""

import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from sparsevit_plugin.cards import DatasetCard, dataset_card_names, load_dataset_card
from sparsevit_plugin.cards.datasets import ImportRules
from sparsevit_plugin.errors import UserError
from sparsevit_plugin.harness import importer
from sparsevit_plugin.harness.import_plan import plan_import, walk
from sparsevit_plugin.harness.importer import ImportReport, import_set
from sparsevit_plugin.harness.registered_sets import DataRoots, read_registered
from sparsevit_plugin.harness.sources import read_source
from tests.harness.layouts import LAYOUTS, SIZE, region, write_mask, write_photo


def card(name: str) -> DatasetCard:
    found = load_dataset_card(name)
    assert found is not None
    return found


def make_card(**rules) -> DatasetCard:
    """A card with rules of its own; by default Tp/, Gt/ and Au/ anywhere below."""
    given_rules = {
        "example": ["Tp/a.jpg"],
        "rules": [
            {"label": "tampered", "image": r"(?:.*/)?Tp/(?P<stem>[^/]+)\.(?:jpg|png|tif)",
             "masks": ["**/Gt/{stem}.png"]},
            {"label": "authentic", "image": r"(?:.*/)?Au/[^/]+\.jpg"},
        ],
        "mask_files": [r"(?:.*/)?Gt/.*"],
        **rules,
    }  # fmt: skip
    counts = [{"tampered": 2, "authentic": 1, "source": "its paper"}]
    return DatasetCard.model_validate(
        {"name": "Mine", "title": "Mine", "where": "here", "counts": counts, "import": given_rules}
    )


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A distribution for `make_card`: two tampered images, one authentic."""
    folder = tmp_path / "download"
    for number, stem in enumerate(("a", "b")):
        write_photo(folder / f"Tp/{stem}.jpg", number)
        write_mask(folder / f"Gt/{stem}.png", region(number), "white")
    write_photo(folder / "Au/c.jpg", 2)
    return folder


def manifest(folder: Path) -> dict:
    return json.loads((folder / "manifest.json").read_text(encoding="utf-8"))


def hidden(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


# --- every card's layout --------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_the_layout_of_each_set(tmp_path: Path, name: str):
    layout = LAYOUTS[name]
    folder = layout.write(tmp_path / "download")
    report = import_set(card(name), folder, tmp_path / "data" / name)
    assert (report.tampered, report.authentic) == (len(layout.pairs), len(layout.authentic))
    assert sum(report.clutter.values()) == len(layout.clutter) + any(
        Path(text).name == "Thumbs.db" for text in layout.texts
    )
    assert not report.unmatched
    assert not report.problems

    found = read_registered(name, DataRoots(str(tmp_path / "data")))
    images = manifest(found.path.parent)["images"]
    origins = {key: entry["origin"] for key, entry in images.items()}
    samples = {origins[sample.name]: sample for sample in found.samples}
    for number, (image, _, photos) in enumerate(layout.pairs):
        sample = samples[image]
        assert sample.photos == photos
        assert sample.image.read_bytes() == (folder / image).read_bytes()
        with Image.open(sample.mask) as mask:
            assert (mask.format, mask.mode) == ("PNG", "L")
            assert np.array_equal(np.asarray(mask), region(number) * np.uint8(255))
    for image, photos in layout.authentic:
        assert samples[image].mask is None
        assert samples[image].photos == photos


def test_every_card_with_rules_has_a_miniature():
    like_another = {"AutoSplice_90", "IMD2020_1024", "NIST16_1024_cleaned"}
    named = {name for name in dataset_card_names() if card(name).importing}
    assert named - like_another == set(LAYOUTS)


ASCII = st.characters(codec="ascii", exclude_characters="\x00", min_codepoint=32)


@pytest.mark.parametrize("name", sorted(name for name in LAYOUTS if not name.startswith("NIST16")))
@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(data=st.data())
def test_any_name_that_a_rule_allows_finds_its_mask(tmp_path_factory, name: str, data):
    rules = card(name).importing
    assert rules is not None
    rule = data.draw(st.sampled_from(rules.rules))
    image = data.draw(st.from_regex(f"(?i){rule.image}", fullmatch=True, alphabet=ASCII))
    parts = image.split("/")
    assume(all(part.strip(" .") == part and part for part in parts))
    assume(not any(len(part) > 100 for part in parts))
    folder = tmp_path_factory.mktemp("any")
    touch(folder / image)
    if rule.label == "tampered":
        groups = match_of(rules, image)
        assume(groups is not None)
        template = rule.masks[0].replace("**/", "some/where/").replace("*", "x")
        mask = template.format_map(groups)
        assume(all(part.strip(" .") == part and part for part in mask.split("/")))
        assume(mask.lower() != image.lower())
        touch(folder / mask)
    plan = plan_import(card(name), folder)
    (item,) = plan.items
    assert item.image == image
    assert item.masks == ((mask,) if rule.label == "tampered" else ())
    assert not plan.unmatched
    assert not plan.without_image


def touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def match_of(rules: ImportRules, image: str) -> dict[str, str] | None:
    """The groups of the first rule that matches, None for a mask or an authentic image."""
    from sparsevit_plugin.cards.datasets import compile_pattern

    if any(compile_pattern(text).fullmatch(image) for text in rules.mask_files):
        return None
    for rule in rules.rules:
        match = compile_pattern(rule.image).fullmatch(image)
        if match:
            groups = {key: value or "" for key, value in match.groupdict().items()}
            return groups if rule.label == "tampered" else None
    return None


# --- what an import writes ------------------------------------------------------------------------


def test_the_shared_format(tmp_path: Path, source: Path):
    (source / "notes.txt").touch()
    (source / ".DS_Store").touch()
    report = import_set(make_card(), source, tmp_path / "data" / "Mine")
    target = tmp_path / "data" / "Mine"
    assert json.loads((target / "list.json").read_text()) == [
        ["Tp/a.jpg", "Gt/a.png"],
        ["Tp/b.jpg", "Gt/b.png"],
        ["Au/c.jpg", "Negative"],
    ]
    assert sorted(walk(target)) == [
        *("Au/c.jpg", "Gt/a.png", "Gt/b.png", "Tp/a.jpg", "Tp/b.jpg"),
        *("list.json", "manifest.json"),
    ]
    assert hidden(target.parent) == []
    told = manifest(target)
    assert told["images"]["Tp/a.jpg"] == {
        "mask": "Gt/a.png",
        "photos": [],
        "origin": "Tp/a.jpg",
        "mask_origin": ["Gt/a.png"],
    }
    assert told["import"]["counts"] == {"tampered": 2, "authentic": 1}
    assert told["import"]["source"] == "download"
    assert told["import"]["clutter"] == {"hidden and system files": [".DS_Store"]}
    assert told["import"]["no_images"] == {".txt": 1}
    assert str(tmp_path) not in json.dumps(told)
    assert report.lines()[0].startswith("Mine: imported 2 tampered and 1 authentic images into ")
    # IMDLBenCo's own folder reading and ours agree on the pairs.
    (as_folder,) = read_source(target).values()
    assert [sample.mask.name for sample in as_folder.samples] == ["a.png", "b.png"]


def test_an_unverified_layout_says_so(tmp_path: Path, source: Path):
    report = import_set(make_card(), source, tmp_path / "data")
    assert "layout: unverified" in "\n".join(report.lines())
    assert manifest(tmp_path / "data")["import"]["layout"] == "unverified"


@pytest.mark.parametrize(
    ("link", "same", "symbolic"),
    [("hard", True, False), ("symlink", True, True), ("copy", False, False)],
)
def test_links(tmp_path: Path, source: Path, link, same: bool, symbolic: bool):
    report = import_set(make_card(), source, tmp_path / "data", link=link)
    image = tmp_path / "data" / "Tp" / "a.jpg"
    assert image.samefile(source / "Tp" / "a.jpg") == same
    assert image.is_symlink() == symbolic
    assert sum(report.placed.values()) == 3


def test_a_file_system_without_links_gets_copies(tmp_path: Path, source: Path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    assert import_set(make_card(), source, tmp_path / "data").placed == {"copy": 3}


def test_dry_run_writes_nothing(tmp_path: Path, source: Path):
    report = import_set(make_card(), source, tmp_path / "data" / "Mine", dry_run=True)
    assert (report.tampered, report.authentic, report.written) == (2, 1, False)
    assert "would import" in report.lines()[0]
    assert not (tmp_path / "data").exists()


def test_equal_names_do_not_overwrite_each_other(tmp_path: Path):
    source = tmp_path / "download"
    for number, (folder, name) in enumerate(
        [("x", "a.jpg"), ("y", "a.jpg"), ("x", "A.png"), ("x", "b.jpg")]
    ):
        write_photo(source / folder / "Tp" / name, number)
        write_mask(source / folder / "Gt" / f"{name[:-4]}.png", region(number), "white")
    rules = [
        {"label": "tampered", "image": r"(?P<folder>[xy])/Tp/(?P<stem>[^/]+)\.(?:jpg|png)",
         "masks": ["{folder}/Gt/{stem}.png"]}
    ]  # fmt: skip
    report = import_set(make_card(rules=rules, mask_files=[]), source, tmp_path / "data",
                        allow_unmatched=True)  # fmt: skip
    assert report.renamed == 3
    images = manifest(tmp_path / "data")["images"]
    assert sorted(images) == ["Tp/b.jpg", "Tp/x__Tp__A.png", "Tp/x__Tp__a_2.jpg", "Tp/y__Tp__a.jpg"]
    for number, origin in enumerate(["x/Tp/a.jpg", "y/Tp/a.jpg", "x/Tp/A.png", "x/Tp/b.jpg"]):
        (name,) = (name for name, entry in images.items() if entry["origin"] == origin)
        assert (tmp_path / "data" / name).read_bytes() == (source / origin).read_bytes()
        mask = np.asarray(Image.open(tmp_path / "data" / images[name]["mask"]))
        assert np.array_equal(mask > 0, region(number))


def test_counts_that_differ_from_the_cards_are_told(tmp_path: Path, source: Path):
    write_photo(source / "Au/d.jpg", 9)
    lines = "\n".join(import_set(make_card(), source, tmp_path / "data").lines())
    assert "counts differ: 2 authentic images, but 1 according to its paper" in lines
    assert "tampered images, but" not in lines


# --- what stops an import -------------------------------------------------------------------------


def test_unmatched_images_stop_it_with_counts(tmp_path: Path, source: Path):
    for number in range(3):
        write_photo(source / f"extra/{number}.jpg", number)
    write_photo(source / "Tp/deeper/x.jpg", 1)
    with pytest.raises(UserError, match=r"4 images match no rule .*\(3 in extra/, 1 in Tp/deeper/"):
        import_set(make_card(), source, tmp_path / "data")
    assert not (tmp_path / "data").exists()
    report = import_set(make_card(), source, tmp_path / "data", allow_unmatched=True)
    assert len(report.unmatched) == 4
    assert manifest(tmp_path / "data")["import"]["unmatched"] == report.unmatched
    assert "4 images that match no rule" in "\n".join(report.lines())


def spoil(source: Path) -> None:
    """Add one of each mismatch."""
    height, width = SIZE
    lying = np.zeros((width, height), bool)
    for stem, mask in (("larger", np.zeros((height + 1, width), bool)), ("lying", lying)):
        write_photo(source / f"Tp/{stem}.jpg", 5)
        write_mask(source / f"Gt/{stem}.png", mask, "white")
    write_photo(source / "Tp/lonely.jpg", 6)
    write_mask(source / "Gt/orphan.png", region(0), "white")
    write_photo(source / "Tp/broken.jpg", 7)
    (source / "Gt/broken.png").write_bytes(b"\x89PNG\r\n\x1a\n damaged")
    write_mask(source / "Gt/text.png", region(1), "white")
    (source / "Tp/text.jpg").write_text("not an image")


def test_mismatches_stop_it_and_are_listed(tmp_path: Path, source: Path):
    spoil(source)
    with pytest.raises(UserError) as caught:
        import_set(make_card(), source, tmp_path / "data")
    told = str(caught.value)
    assert "\n" not in told
    for words in (
        "1 tampered images without a mask: Tp/lonely.jpg",
        "1 masks without an image: Gt/orphan.png",
        "1 masks of another size: Tp/larger.jpg (32 x 24, mask 32 x 25)",
        "1 masks lie on their side: Tp/lying.jpg (32 x 24, mask 24 x 32)",
        "2 unreadable files: Tp/broken.jpg",
        "--allow-mismatched",
    ):
        assert words in told
    assert not (tmp_path / "data").exists()

    report = import_set(make_card(), source, tmp_path / "data", allow_mismatched=True)
    assert (report.tampered, report.authentic) == (2, 1)
    left_out = {entry["file"] for entry in manifest(tmp_path / "data")["import"]["left_out"]}
    assert left_out == {"Tp/lonely.jpg", "Gt/orphan.png", "Tp/larger.jpg", "Tp/lying.jpg",
                        "Tp/broken.jpg", "Tp/text.jpg"}  # fmt: skip
    names = [path.name for path in (tmp_path / "data" / "Tp").iterdir()]
    assert sorted(names) == ["a.jpg", "b.jpg"]


def test_a_photograph_that_exif_turns_may_have_an_upright_mask(tmp_path: Path, source: Path):
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = Image.open(source / "Tp/a.jpg").transpose(Image.Transpose.ROTATE_90)
    upright.save(source / "Tp/turned.jpg", exif=exif)
    write_mask(source / "Gt/turned.png", region(2), "white")
    assert import_set(make_card(), source, tmp_path / "data").tampered == 3


def test_a_card_need_not_say_which_files_are_masks(tmp_path: Path, source: Path):
    report = import_set(make_card(mask_files=[]), source, tmp_path / "data")
    assert (report.tampered, report.unmatched) == (2, [])
    write_mask(source / "Gt/orphan.png", region(0), "white")
    with pytest.raises(UserError, match=r"1 images match no rule .*\(1 in Gt/"):
        import_set(make_card(mask_files=[]), source, tmp_path / "other")


def test_masks_without_a_tampered_pixel_are_counted(tmp_path: Path, source: Path):
    write_mask(source / "Gt/a.png", np.zeros(SIZE, bool), "white")
    report = import_set(make_card(), source, tmp_path / "data")
    assert report.empty == 1
    assert "1 masks have no tampered pixel" in "\n".join(report.lines())


def test_several_masks_are_refused_or_joined(tmp_path: Path, source: Path):
    write_mask(source / "more/Gt/a.png", region(4), "white")
    with pytest.raises(UserError, match=r"1 tampered images with several possible masks: Tp/a"):
        import_set(make_card(), source, tmp_path / "data")
    rules = make_card().model_dump(by_alias=True)["import"]["rules"]
    rules[0]["several"] = "union"
    import_set(make_card(rules=rules), source, tmp_path / "data")
    mask = np.asarray(Image.open(tmp_path / "data/Gt/a.png"))
    assert np.array_equal(mask > 0, region(0) | region(4))


def test_the_wrong_folder_is_told_with_the_right_one(tmp_path: Path, source: Path):
    rules = [{"label": "tampered", "image": r"Tp/(?P<stem>[^/]+)\.jpg", "masks": ["Gt/{stem}.png"]}]
    strict = make_card(rules=rules)
    with pytest.raises(UserError, match=rf"such as Tp/a\.jpg.*Perhaps {source} was meant"):
        import_set(strict, source.parent, tmp_path.parent / "elsewhere")
    with pytest.raises(UserError, match=rf"Perhaps {source} was meant"):
        import_set(strict, source / "Tp", tmp_path / "data")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"such as Tp/a\.jpg\); found nothing\.$"):
        import_set(strict, tmp_path / "empty", tmp_path / "data")
    with pytest.raises(UserError, match="no such folder"):
        import_set(strict, tmp_path / "lost", tmp_path / "data")


def test_a_table_that_lacks_a_column_is_named(tmp_path: Path):
    folder = LAYOUTS["NIST16"].write(tmp_path / "download")
    table = folder / "reference/manipulation/NC2016-manipulation-ref.csv"
    table.write_text(table.read_text().replace("ProbeMaskFileName", "MaskName"))
    with pytest.raises(UserError, match=r'ref\.csv: has no column "ProbeMaskFileName"; it has T'):
        import_set(card("NIST16"), folder, tmp_path / "data")
    table.unlink()
    with pytest.raises(UserError, match="no image of NIST16 is where its card expects one"):
        import_set(card("NIST16"), folder, tmp_path / "data")


def test_a_target_is_never_overwritten_unasked(tmp_path: Path, source: Path):
    target = tmp_path / "data"
    import_set(make_card(), source, target)
    with pytest.raises(UserError, match="exists already; --overwrite replaces it"):
        import_set(make_card(), source, target)
    (source / "Au/c.jpg").unlink()
    import_set(make_card(), source, target, overwrite=True)
    assert list((target / "Au").iterdir()) == []
    assert hidden(tmp_path) == []
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "precious.txt").touch()
    with pytest.raises(UserError, match="was not written by an import"):
        import_set(make_card(), source, tmp_path / "own", overwrite=True)
    assert (tmp_path / "own" / "precious.txt").exists()


@pytest.mark.parametrize("place", [".", "Tp/new", ".."])
def test_a_set_is_not_imported_into_itself(source: Path, place: str):
    with pytest.raises(UserError, match="cannot be written into or around"):
        import_set(make_card(), source, source / place, overwrite=True)


# --- kills and full disks -------------------------------------------------------------------------


def same_sets(first: Path, second: Path) -> bool:
    names = list(walk(first))
    return names == list(walk(second)) and all(
        (first / name).read_bytes() == (second / name).read_bytes()
        for name in names
        if name != "manifest.json"
    )


@pytest.fixture
def large_source(tmp_path: Path) -> Path:
    """Seventy pairs: more than one chunk."""
    folder = tmp_path / "large"
    for number in range(70):
        write_photo(folder / f"Tp/{number:02d}.png", number)
        write_mask(folder / f"Gt/{number:02d}.png", region(number), "white")
    return folder


def test_a_killed_import_goes_on(tmp_path: Path, large_source: Path):
    script = f"""
        import os, signal, sys
        from pathlib import Path

        sys.argv[0] = "benco"  # the command registers no models
        from sparsevit_plugin.cards import DatasetCard
        from sparsevit_plugin.harness.importer import import_set

        def kill(done, total):
            os.kill(os.getpid(), signal.SIGKILL)

        card = DatasetCard.model_validate_json(sys.argv[1])
        source, target = Path({str(large_source)!r}), Path({str(tmp_path / "set")!r})
        import_set(card, source, target, progress=kill)
    """
    rules = make_card().model_dump_json(by_alias=True)
    words = [sys.executable, "-c", textwrap.dedent(script), rules]
    killed = subprocess.run(words, cwd=Path(__file__).parents[2], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "set").exists()
    assert ".set.importing" in hidden(tmp_path)

    report = import_set(make_card(), large_source, tmp_path / "set")
    assert report.resumed == 64
    assert report.tampered == 70
    assert hidden(tmp_path) == []
    import_set(make_card(), large_source, tmp_path / "afresh")
    assert same_sets(tmp_path / "set", tmp_path / "afresh")


def interrupted(tmp_path: Path, source: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_set(make_card(), source, tmp_path / "set", progress=stop)


def test_another_import_is_not_continued(tmp_path: Path, large_source: Path):
    interrupted(tmp_path, large_source)
    write_photo(large_source / "Tp/00.png", 999)  # another file by the same name
    os.utime(large_source / "Tp/00.png", (1, 1))
    assert import_set(make_card(), large_source, tmp_path / "set").resumed == 0


def test_a_torn_journal_is_read_as_far_as_it_goes(tmp_path: Path, large_source: Path):
    interrupted(tmp_path, large_source)
    journal = tmp_path / ".set.importing" / "journal.jsonl"
    lines = journal.read_text().splitlines()
    assert len(lines) == 64
    journal.write_text("\n".join(lines[:10]) + '\n{"image": "Tp/1')
    report = import_set(make_card(), large_source, tmp_path / "set")
    assert (report.resumed, report.tampered) == (10, 70)


@pytest.mark.parametrize("where", ["write_bytes", "hardlink_to", "write_text"])
def test_a_full_disk_is_one_line(tmp_path: Path, source: Path, monkeypatch, where: str):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, where, full)
        with pytest.raises(UserError, match=r"cannot .*: No space left on device") as caught:
            import_set(make_card(), source, tmp_path / "data")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "data").exists()
    assert import_set(make_card(), source, tmp_path / "data").tampered == 2


def test_two_imports_of_one_set_do_not_meet(tmp_path: Path, source: Path):
    with importer._locked(tmp_path / "data"), pytest.raises(UserError, match="another import is"):
        import_set(make_card(), source, tmp_path / "data")
    assert isinstance(import_set(make_card(), source, tmp_path / "data"), ImportReport)
