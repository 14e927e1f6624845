"""Near-duplicates between sets, on real photographs."""

import io
import itertools
from dataclasses import replace
from pathlib import Path

import imagehash
import numpy as np
import pytest
from PIL import Image, ImageEnhance

from sparsevit_plugin.harness import leak
from sparsevit_plugin.harness.leak import find_leaks, photograph_hash
from sparsevit_plugin.harness.photos import Photograph, embedded_photographs
from sparsevit_plugin.harness.sources import ImageSet, Sample


def small(photograph: Photograph) -> Image.Image:
    """A photograph at a size that keeps the tests quick."""
    picture = Image.fromarray(photograph.array)
    picture.thumbnail((320, 320))
    return picture


# Two views of one scene are the hardest different photographs here, so both are kept.
PHOTOGRAPHS = {photograph.name: small(photograph) for photograph in embedded_photographs()}


def jpeg(picture: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def cropped(picture: Image.Image, part: float) -> Image.Image:
    width, height = picture.size
    return picture.crop((int(width * part), int(height * part), width, height))


def edited(picture: Image.Image) -> Image.Image:
    """Another picture's part, of 2 % of the area, in the middle."""
    width, height = picture.size
    part = PHOTOGRAPHS["coffee"].resize((width // 7, height // 7))
    copy = picture.copy()
    copy.paste(part, (width // 2, height // 2))
    return copy


CHANGES = {
    "saved again": lambda picture: jpeg(picture, 50),
    "halved": lambda picture: picture.resize((picture.width // 2, picture.height // 2)),
    "squared": lambda picture: picture.resize((256, 256)),
    "grey": lambda picture: picture.convert("L"),
    "brighter": lambda picture: ImageEnhance.Brightness(picture).enhance(1.15),
    "cropped by 1 %": lambda picture: cropped(picture, 0.01),
}


def as_set(name: str, folder: Path, pictures: dict[str, Image.Image], suffix="png") -> ImageSet:
    folder.mkdir(parents=True)
    samples = []
    for stem, picture in pictures.items():
        path = folder / f"{stem}.{suffix}"
        picture.save(path)
        samples.append(Sample(path, None, f"{folder.name}/{path.name}"))
    return ImageSet(name, "test", folder, tuple(samples), "name")


@pytest.fixture(scope="module")
def originals(tmp_path_factory) -> ImageSet:
    folder = tmp_path_factory.mktemp("photographs") / "A"
    return as_set("A", folder, PHOTOGRAPHS)


def pairs_of(report: leak.LeakReport) -> set[tuple[str, str]]:
    return {(Path(pair.first).stem, Path(pair.second).stem) for pair in report.pairs}


def test_different_photographs_are_no_pairs(originals: ImageSet):
    hashes = {sample.name: photograph_hash(sample.image) for sample in originals.samples}
    for (_, first), (_, second) in itertools.combinations(hashes.items(), 2):
        assert np.count_nonzero(first != second) > leak.DEFAULT_THRESHOLD


@pytest.mark.parametrize("change", CHANGES)
def test_changed_copies_are_found_and_nothing_else(tmp_path: Path, originals: ImageSet, change):
    changed = {stem: CHANGES[change](picture) for stem, picture in PHOTOGRAPHS.items()}
    report = find_leaks(originals, as_set("B", tmp_path / "B", changed))
    assert pairs_of(report) == {(stem, stem) for stem in PHOTOGRAPHS}
    assert {pair.kind for pair in report.pairs} == {"near-duplicate"}
    assert all(pair.distance <= report.threshold for pair in report.pairs)
    distances = [pair.distance for pair in report.pairs]
    assert distances == sorted(distances)


def test_most_copies_with_an_edit_are_found(tmp_path: Path, originals: ImageSet):
    changed = {stem: edited(picture) for stem, picture in PHOTOGRAPHS.items()}
    found = pairs_of(find_leaks(originals, as_set("B", tmp_path / "B", changed)))
    assert found <= {(stem, stem) for stem in PHOTOGRAPHS}
    assert len(found) > 0.7 * len(PHOTOGRAPHS)


def test_the_stated_limits_hold(tmp_path: Path, originals: ImageSet):
    turned = {
        f"{stem}-{name}": picture.transpose(how)
        for stem, picture in PHOTOGRAPHS.items()
        for name, how in (("left", Image.Transpose.ROTATE_90),
                          ("mirror", Image.Transpose.FLIP_LEFT_RIGHT))
    }  # fmt: skip
    assert find_leaks(originals, as_set("B", tmp_path / "B", turned)).pairs == []


def test_identical_files_come_first(tmp_path: Path, originals: ImageSet):
    other = as_set("B", tmp_path / "B", {"x": PHOTOGRAPHS["coins"], "y": PHOTOGRAPHS["moon"]})
    jpeg(PHOTOGRAPHS["moon"], 60).save(tmp_path / "B" / "y.png")
    report = find_leaks(originals, other)
    closest = report.pairs[0]
    assert (closest.kind, Path(closest.first).stem, closest.distance) == ("identical", "coins", 0)
    assert [pair.kind for pair in report.pairs] == ["identical", "near-duplicate"]
    assert report.touched() == 2
    assert report.touched("identical") == 1


def test_the_threshold_decides(tmp_path: Path, originals: ImageSet):
    other = as_set("B", tmp_path / "B", {"x": cropped(PHOTOGRAPHS["astronaut"], 0.02)})
    (pair,) = find_leaks(originals, other).pairs
    assert pair.distance > 0
    assert find_leaks(originals, other, threshold=pair.distance - 1).pairs == []
    assert len(find_leaks(originals, other, threshold=pair.distance).pairs) == 1


def test_distances_are_the_librarys(tmp_path: Path, originals: ImageSet):
    changed = {stem: cropped(picture, 0.01) for stem, picture in PHOTOGRAPHS.items()}
    report = find_leaks(originals, as_set("B", tmp_path / "B", changed))
    for pair in report.pairs:
        first = Image.open(originals.path / Path(pair.first).name)
        second = Image.open(tmp_path / "B" / Path(pair.second).name)
        hashes = [imagehash.phash(one.convert("L"), hash_size=16) for one in (first, second)]
        assert pair.distance == hashes[0] - hashes[1]


def test_pictures_without_texture_and_damaged_files_are_told(tmp_path: Path, originals: ImageSet):
    other = as_set("B", tmp_path / "B", {"flat": Image.new("RGB", (64, 64), (90, 90, 90))})
    (tmp_path / "B" / "bad.jpg").write_bytes(b"\xff\xd8\xff\xe0 damaged")
    bad = Sample(tmp_path / "B" / "bad.jpg", None, "B/bad.jpg")
    report = find_leaks(originals, replace(other, samples=(*other.samples, bad)))
    assert report.pairs == []
    assert report.flat == ["B/flat.png"]
    assert len(report.unreadable) == 1
    assert "bad.jpg" in report.unreadable[0]


def test_photographs_that_manifests_share(tmp_path: Path):
    names = ("coins", "moon", "coffee")
    first = as_set("A", tmp_path / "A", {name: PHOTOGRAPHS[name] for name in names})
    second = as_set("B", tmp_path / "B", {"x": PHOTOGRAPHS["clock_motion"]})
    first = replace(
        first,
        samples=tuple(replace(one, photos=(f"COCO:{number}", "COCO:9")) for number, one
                      in enumerate(first.samples)),
    )  # fmt: skip
    sample = replace(second.samples[0], photos=("COCO:7", "COCO:1"))
    (pair,) = find_leaks(first, replace(second, samples=(sample,))).pairs
    assert (pair.kind, pair.first, pair.photo) == ("photograph", "A/moon.png", "COCO:1")
    assert pair.distance is None


class TestCache:
    def test_hashes_are_remembered_until_a_file_changes(self, tmp_path, originals, monkeypatch):
        cache = tmp_path / "cache" / "hashes.sqlite"
        other = as_set("B", tmp_path / "B", {"x": PHOTOGRAPHS["coins"]}, "jpg")
        before = find_leaks(originals, other, cache=cache)
        computed: list[Path] = []

        def count(path: Path):
            computed.append(path)
            return photograph_hash(path)

        monkeypatch.setattr(leak, "photograph_hash", count)
        assert find_leaks(originals, other, cache=cache).pairs == before.pairs
        assert computed == []
        PHOTOGRAPHS["moon"].save(other.samples[0].image)
        after = find_leaks(originals, other, cache=cache)
        assert computed == [other.samples[0].image]
        assert pairs_of(after) == {("moon", "x")}

    def test_a_cache_that_cannot_be_used_is_done_without(self, tmp_path: Path, originals: ImageSet):
        (tmp_path / "file").write_text("not a database")
        other = as_set("B", tmp_path / "B", {"x": PHOTOGRAPHS["coins"]})
        for cache in (tmp_path / "file", tmp_path / "file" / "below"):
            assert len(find_leaks(originals, other, cache=cache).pairs) == 1


def test_progress_counts_every_file_once(tmp_path: Path, originals: ImageSet):
    steps: list[tuple[int, int]] = []
    find_leaks(originals, originals, progress=lambda *step: steps.append(step))
    assert steps[-1] == (len(originals), len(originals))


def test_many_images_are_compared_in_blocks(monkeypatch):
    draw = np.random.default_rng(0)
    bits = draw.random((30, leak.HASH_BITS)) < 0.5
    samples = tuple(Sample(Path(f"/{n}"), None, str(n)) for n in range(30))
    hashes = {sample.image: bits[n] for n, sample in enumerate(samples)}
    bits[25] = bits[3]
    bits[25, :5] ^= True
    monkeypatch.setattr(leak, "_ROWS", 7)
    near = leak._near_pairs(samples[:20], samples[20:], hashes, 40)
    assert near == {(3, 5): 5}
