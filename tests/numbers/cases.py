"""What the metrics are tried on: hypothesis strategies for maps, masks, padding and scores.

Small maps are drawn value by value, so that a failure shrinks to the fewest pixels that show it;
larger ones come from a seeded generator.
"""

from dataclasses import dataclass

import numpy as np
import torch
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from torch import Tensor

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
LARGEST_SIDE = 48

# Ties, among them 0.5, its neighbours in single precision, and edges of the 256 bins.
LEVELS = st.sampled_from([0.0, 1 / 256, 0.25, 0.4999999, 0.5, 0.50000006, 0.75, 255 / 256, 1.0])
# The sigmoid of these is 0 or 1, next to it, subnormal, or in between.
LOGITS = st.sampled_from([-1e4, -104.0, -95.0, -88.0, -17.0, -5.0, -1e-7]) | st.sampled_from(
    [0.0, 1e-7, 1e-3, 3.0, 16.0, 17.0, 40.0, 1e4]
)
FREE = st.floats(0, 1, width=32)


@dataclass(frozen=True)
class Image:
    """One map with its mask.

    Attributes:
        values: Probabilities as a model gives them, shape (H, W), any float type; anything, also
            NaN, where `valid` is False.
        tampered: bool, shape (H, W).
        valid: bool, shape (H, W); None where there is no padding.
    """

    values: Tensor
    tampered: NDArray[np.bool_]
    valid: NDArray[np.bool_] | None

    @property
    def inside(self) -> NDArray[np.bool_]:
        """Where the photograph is."""
        return np.ones(self.tampered.shape, bool) if self.valid is None else self.valid

    def pixels(self) -> tuple[NDArray[np.bool_], NDArray[np.floating]]:
        """Return classes and values of the photograph's pixels, of (N,) each.

        Half precisions become single, and values that rounding took out of [0, 1] are clipped.
        """
        wide = self.values if self.values.dtype == torch.float64 else self.values.float()
        return self.tampered[self.inside], wide.numpy()[self.inside].clip(0, 1)


@st.composite
def values(draw, shape: tuple[int, int], tampered: NDArray[np.bool_]) -> Tensor:
    """Draw a map."""
    ways = ("levels", "free", "logits", "constant", "mask", "inverse", "random", "overshoot")
    way = draw(st.sampled_from(ways))
    if tampered.size > 64 and way in ("levels", "free", "logits"):
        way = "random"
    if way == "levels":
        found = torch.from_numpy(draw(hnp.arrays(np.float64, shape, elements=LEVELS)))
    elif way == "free":
        found = torch.from_numpy(draw(hnp.arrays(np.float64, shape, elements=FREE)))
    elif way == "logits":
        logits = torch.from_numpy(draw(hnp.arrays(np.float64, shape, elements=LOGITS)))
        found = torch.sigmoid(logits.float())
    elif way == "constant":
        found = torch.full(shape, draw(LEVELS | FREE), dtype=torch.float64)
    elif way in ("mask", "inverse"):
        found = torch.from_numpy(tampered ^ (way == "inverse")).double()
    else:
        generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        shift = draw(st.sampled_from([0.0, 0.5, 2.0, 20.0]))
        logits = generator.normal(0, 1.5, shape) + shift * (tampered - 0.5)
        found = torch.sigmoid(torch.from_numpy(logits))
        levels = draw(st.sampled_from([0, 1, 4, 255, 65535]))
        found = (found * levels).round() / levels if levels else found
        if way == "overshoot":  # interpolation in single precision rounds
            return (found.float() * 2 - 0.5).clip(-5e-7, 1 + 5e-7)
    return found.to(draw(st.sampled_from(DTYPES)))


@st.composite
def masks(draw, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Draw which pixels are tampered: some, none, all, one, or all but one."""
    way = draw(st.sampled_from(("some",) * 5 + ("rectangle", "none", "all", "one", "all but one")))
    height, width = shape
    if way == "some" and height * width <= 64:
        return draw(hnp.arrays(np.bool_, shape))
    found = np.zeros(shape, bool)
    if way == "some":
        generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        found = generator.random(shape) < draw(st.sampled_from([0.02, 0.3, 0.9]))
    elif way in ("one", "all but one"):
        found[draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))] = True
    elif way == "rectangle":
        top, left = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
        found[top:, left:] = True
    return ~found if way in ("all", "all but one") else found


@st.composite
def valid_masks(draw, shape: tuple[int, int]) -> NDArray[np.bool_] | None:
    """Draw what is no padding: everything, the upper left part as the harness pads, or any set."""
    way = draw(st.sampled_from(("everything",) * 4 + ("corner", "corner", "any", "nothing")))
    if way == "everything":
        return None
    if way == "any" and shape[0] * shape[1] <= 64:
        return draw(hnp.arrays(np.bool_, shape))
    found = np.zeros(shape, bool)
    if way != "nothing":
        found[: draw(st.integers(1, shape[0])), : draw(st.integers(1, shape[1]))] = True
    return found


@st.composite
def shapes(draw, largest: int = LARGEST_SIDE) -> tuple[int, int]:
    """Draw a height and a width: one pixel, a few, or many."""
    side = draw(st.sampled_from((1, 8, 8, 8, largest, largest)))
    return draw(st.integers(1, side)), draw(st.integers(1, side))


@st.composite
def images(draw, shape: tuple[int, int] | None = None, padded: bool | None = None) -> Image:
    """Draw one map with its mask; `padded`: whether it has a valid mask, None for either."""
    shape = shape or draw(shapes())
    tampered = draw(masks(shape))
    found = draw(values(shape, tampered))
    valid = None if padded is False else draw(valid_masks(shape))
    if padded and valid is None:
        valid = np.ones(shape, bool)
    if valid is not None and draw(st.booleans()):
        found = torch.where(torch.from_numpy(valid), found, torch.nan)
    return Image(found, tampered, valid)


THRESHOLDS = st.just(0.5) | st.sampled_from([0.0, 1 / 256, 0.3, 0.9, 1.0]) | FREE


@dataclass(frozen=True)
class ImageSet:
    """Images of one size, and two ways of going through them.

    Attributes:
        images: At least one; all padded or none, all of one float type.
        order: Their places in the second way.
        cuts: Images of each batch, for either way.
        labels: 1 or 0 for each; 0 only where nothing valid is tampered.
        threshold: Pixels and images above it are predicted tampered.
    """

    images: list[Image]
    order: list[int]
    cuts: tuple[list[int], list[int]]
    labels: list[int]
    threshold: float


@st.composite
def image_sets(draw) -> ImageSet:
    """Draw a set of one to six images."""
    shape = draw(shapes(12))
    padded, count = draw(st.booleans()), draw(st.integers(1, 6))
    kind = draw(st.sampled_from(DTYPES))
    found = []
    for _ in range(count):
        one = draw(images(shape, padded))
        # Padding without a photograph in it is no image, and a model gives numbers everywhere.
        valid = one.valid if one.valid is None or one.valid.any() else np.ones(shape, bool)
        found.append(Image(one.values.nan_to_num(0.7).to(kind), one.tampered, valid))
    tampered = [int((one.tampered & one.inside).any()) for one in found]
    # A tampered region that the model's size made vanish: labelled tampered, mask empty.
    labels = [draw(st.sampled_from([present, 1])) for present in tampered]
    order = draw(st.permutations(range(count)))
    cuts = draw(_cuts(count)), draw(_cuts(count))
    return ImageSet(found, list(order), cuts, labels, draw(THRESHOLDS))


@st.composite
def _cuts(draw, count: int) -> list[int]:
    sizes: list[int] = []
    while sum(sizes) < count:
        sizes.append(draw(st.integers(1, count - sum(sizes))))
    return sizes


@dataclass(frozen=True)
class Scored:
    """Image-level scores with labels, of (N,) each, and a threshold."""

    labels: NDArray[np.int64]
    scores: NDArray[np.floating]
    threshold: float


@st.composite
def scored(draw) -> Scored:
    """Draw the scores of a set: probabilities, ties, or logits as a model of one's own gives."""
    elements = draw(
        st.sampled_from(
            [LEVELS, FREE, LEVELS, FREE, LOGITS, st.floats(-1e30, 1e30), st.just(draw(LEVELS))]
        )
    )
    count = draw(st.integers(0, 4) | st.integers(2, 40))
    kind = draw(st.sampled_from([np.float64, np.float32, np.float16]))
    with np.errstate(over="ignore"):
        found = np.array(draw(st.lists(elements, min_size=count, max_size=count)), float)
        found = np.nan_to_num(found.astype(kind))
    one_class = draw(st.sampled_from([False] * 7 + [True]))
    labels = np.full(count, draw(st.integers(0, 1)))
    if not one_class:
        labels = draw(hnp.arrays(np.int64, count, elements=st.integers(0, 1)))
    return Scored(labels.astype(np.int64), found, draw(THRESHOLDS))


@dataclass(frozen=True)
class Runs:
    """Figures of seeds on sets, NaN where there is none, shape (seeds, sets)."""

    figures: NDArray[np.float64]


@st.composite
def runs(draw) -> Runs:
    """Draw what a row of a table is made from."""
    shape = draw(st.tuples(st.integers(1, 5), st.integers(1, 4)))
    elements = st.just(np.nan) | FREE if draw(st.booleans()) else FREE | st.just(draw(FREE))
    return Runs(draw(hnp.arrays(np.float64, shape, elements=elements)))
