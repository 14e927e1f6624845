"""Which sets a corpus has: the demo's, and those of any folder of photographs."""

from collections.abc import Sequence
from zlib import crc32

import numpy as np

from sparsevit_plugin.errors import UserError
from sparsevit_plugin.harness.manipulations import CameraRange, FinishRange
from sparsevit_plugin.harness.photos import Photograph
from sparsevit_plugin.harness.synthesis import ALL_MANIPULATIONS, SetSpec

# Chosen before anything was trained: the test scenes are things that a reader can judge by eye (a
# man, a cat, a cup, coins, a flower, a rocket), colour and grey, from JPEG and PNG files. The
# training scenes are the rest.
DEMO_TEST_SCENES = ("camera", "chelsea", "coffee", "coins", "flower", "rocket")
DEMO_TRAIN_SCENES = (
    "astronaut",
    "brick",
    "china",
    "clock",
    "grass",
    "gravel",
    "hubble",
    "ihc",
    "moon",
    "motorcycle",
    "retina",
)
DEMO_TRAIN_IMAGES = 8000
DEMO_TEST_IMAGES = 90

# The demo trains at 128 x 128. Resizing wipes out the traces of an edit, so most images have that
# size and the others are near it.
DEMO_SIZES = ((128, 128), (128, 128), (128, 128), (144, 128), (128, 144), (128, 112), (160, 128))

#: Another camera maker: more sharpening, other noise, harder compression.
OTHER_CAMERA = CameraRange(
    read_noise=(0.5, 3.0),
    shot_noise=(2.0, 8.0),
    sharpening=(0.8, 1.6),
    jpeg=(70, 95),
    raw_share=0.0,
)
#: A picture that was shrunk, sharpened and saved again after the edit.
RESAVED = FinishRange(shrink=(0.85, 1.0), sharpening=(0.0, 0.6), jpeg=(75, 92), png_share=0.0)


def smallest_photograph(sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Return the (width, height) that a photograph needs for the usual sets of these sizes."""
    specs = _usual_sets(("",), ("",), 0, 0, tuple(sizes))
    widths, heights = zip(*(spec.smallest_photograph for spec in specs), strict=True)
    return max(widths), max(heights)


def folder_sets(
    photographs: Sequence[Photograph],
    *,
    count: int,
    seed: int,
    sizes: Sequence[tuple[int, int]],
    test_count: int | None = None,
    test_share: float = 0.3,
) -> list[SetSpec]:
    """Choose the usual sets for any photographs: one training set and four test sets.

    Args:
        photographs: What there is.
        count: Tampered images of the training set.
        seed: Seed of the split.
        sizes: (width, height) of the images.
        test_count: Tampered images of each test set; by default a tenth of `count`, but no fewer
            than one for each scene.
        test_share: Part of the scenes that are tested on, at least two scenes.

    Returns:
        The sets.

    Raises:
        UserError: If there are fewer than four scenes: splicing needs two in each split.
    """
    scenes = sorted({photograph.scene for photograph in photographs})
    if len(scenes) < 4:  # noqa: PLR2004 (two in each split)
        raise UserError(
            f"{len(scenes)} different photographs, at least 4 needed: splicing takes two, and "
            "training and test share none"
        )
    order = np.random.default_rng([seed, crc32(b"split")]).permutation(len(scenes))
    number = min(max(2, round(test_share * len(scenes))), len(scenes) - 2)
    test = tuple(sorted(scenes[place] for place in order[:number]))
    train = tuple(sorted(scenes[place] for place in order[number:]))
    if test_count is None:
        test_count = max(count // 10, len(test))
    return _usual_sets(train, test, count, test_count, tuple(sizes))


def demo_sets(scale: float = 1.0) -> list[SetSpec]:
    """The demo's sets.

    Args:
        scale: Factor of the number of images; 1 for the demo itself.

    Returns:
        The sets: one for training and four for testing, over disjoint scenes.
    """
    count = max(len(DEMO_TRAIN_SCENES), round(DEMO_TRAIN_IMAGES * scale))
    test_count = max(len(DEMO_TEST_SCENES), round(DEMO_TEST_IMAGES * scale))
    return _usual_sets(DEMO_TRAIN_SCENES, DEMO_TEST_SCENES, count, test_count, DEMO_SIZES)


def _usual_sets(
    train: tuple[str, ...],
    test: tuple[str, ...],
    count: int,
    test_count: int,
    sizes: tuple[tuple[int, int], ...],
) -> list[SetSpec]:
    """One training set of every manipulation, a test set of each, and one of another pipeline."""
    # Copy-move is the hardest to learn, so half of the training edits are of that kind.
    mixture = (*ALL_MANIPULATIONS, "copy-move")
    sets = [SetSpec("train", "train", train, count, count // 10, mixture, sizes=sizes)]
    for name in ALL_MANIPULATIONS:
        sets.append(SetSpec(name, "test", test, test_count, test_count // 5, (name,), sizes=sizes))
    resaved = SetSpec(
        "resaved",
        "test",
        test,
        test_count,
        test_count // 5,
        sizes=sizes,
        camera=OTHER_CAMERA,
        finish=RESAVED,
    )
    return [*sets, resaved]
