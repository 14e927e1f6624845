"""Datasets for training and testing, built on IMDLBenCo's dataset classes.

The pipeline of an item (augmentation, binary mask, edge mask, padding or resizing, normalisation)
is IMDLBenCo's own. What is added through its extension points: checked reading, paired sources,
draws that depend on (seed, epoch, index) alone, a broken image that is reported instead of ending
the run, and the fit `grid`, which keeps photographs on their own 8 x 8 JPEG grid.
"""

import contextlib
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import albumentations
import cv2
import numpy as np
import torch
from IMDLBenCo.datasets import BalancedDataset
from IMDLBenCo.datasets.abstract_dataset import AbstractDataset
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch.utils.data import Dataset, default_collate

from sparsevit_plugin.errors import UserError
from sparsevit_plugin.harness.images import BadImage, read_pair
from sparsevit_plugin.harness.jpeg import BLOCK
from sparsevit_plugin.harness.sources import BalancedSet, ImageSet, Sample, Source

Fit: TypeAlias = Literal["resize", "pad", "grid"]
Key: TypeAlias = int | tuple[int, int]
Transform: TypeAlias = Callable[..., dict[str, Any]]
PostFunction: TypeAlias = Callable[[dict[str, Any]], Any]
Reader: TypeAlias = Callable[[Sample], tuple[NDArray[np.uint8], NDArray[np.uint8], tuple[str, ...]]]
"""Gives a sample's photograph, mask and notes, as `images.read_pair` does."""

NOTE_KEY = "input_note"
"""Of an item: what a reader of its result must know of how it was fed; empty for nothing."""

# What reading and OpenCV raise on an image; anything else is a mistake in a transform, to be seen.
_IMAGE_ERRORS = (BadImage, cv2.error, UnidentifiedImageError, Image.DecompressionBombError)


@dataclass(frozen=True)
class BadSample:
    """Stands in the place of an item whose image could not be used.

    Attributes:
        name: The sample's name in its set.
        path: The file at fault.
        reason: What is wrong with it.
    """

    name: str
    path: Path
    reason: str


@dataclass(frozen=True)
class Window:
    """A rectangle of a photograph, in pixels from its upper left corner."""

    top: int
    left: int
    height: int
    width: int

    def cut(self, plane: NDArray) -> NDArray:
        """Return this part of an array of H x W or H x W x C."""
        return plane[self.top : self.top + self.height, self.left : self.left + self.width]


@dataclass(frozen=True)
class Origin:
    """Where an item's pixels come from, for what is to be read from the photograph's own file.

    Attributes:
        path: The photograph's file.
        decoded: The photograph as read, uint8, H x W x 3, with what is noted in `notes` done to it.
        notes: As `images.read_pair` gives them.
        transform: What was done to `decoded` before the window was cut; None for nothing.
        transformed: The photograph after that, of the same size.
        window: The part that the item shows at its upper left corner; what else the item has is
            padding. Its corner lies on the photograph's 8 x 8 grid.
    """

    path: Path
    decoded: NDArray[np.uint8]
    notes: tuple[str, ...]
    transform: Transform | None
    transformed: NDArray[np.uint8]
    window: Window


OriginFunction: TypeAlias = Callable[[dict[str, Any], Origin], None]
"""Adds to an item, in place, what it reads from the photograph's file; needs the fit `grid`."""


def read_sample(sample: Sample) -> tuple[NDArray[np.uint8], NDArray[np.uint8], tuple[str, ...]]:
    """Read a sample from its files."""
    return read_pair(sample.image, sample.mask)


@dataclass(frozen=True)
class _Read:
    """A sample as read from its files: what IMDLBenCo's `_get_image` is asked to hand on."""

    image: NDArray[np.uint8]  # H x W x 3
    mask: NDArray[np.uint8]  # H x W, 0 or 255
    image_path: str
    mask_path: str
    notes: tuple[str, ...]

    @property
    def label(self) -> int:
        """1 if and only if the mask has a tampered pixel."""
        return int(self.mask.any())


class CheckedDataset(AbstractDataset):
    """The images of one set, each once, as IMDLBenCo's ManiDataset and JsonDataset give them.

    Items have IMDLBenCo's keys (image, mask, edge_mask, label, shape, origin_shape, name,
    shape_mask) and `sample_index`, `sample_name` and, where asked for, `native_mask` (uint8, H x
    W, 0 or 1, at the photograph's own size, before any transform). With padding, an image larger
    than the target is first shrunk to fit (IMDLBenCo crops it): `shape` is then the shape that was
    pasted and `origin_shape` the photograph's own.

    On the grid nothing is ever resized. With `random_crop` an item is a crop of the target's size
    whose corner lies on the photograph's 8 x 8 grid, drawn uniformly; a smaller photograph is
    padded at the right and bottom. Else it is the whole photograph, padded to multiples of 8, so
    items differ in size. `shape`, `origin_shape` and `shape_mask` are as with padding, and the
    label is that of the crop.
    """

    post_transform: albumentations.Compose

    def __init__(
        self,
        images: ImageSet,
        *,
        fit: Fit = "resize",
        image_size: tuple[int, int] = (512, 512),
        transform: Transform | None = None,
        edge_width: int | None = None,
        post_function: PostFunction | list[PostFunction] | None = None,
        origin_function: OriginFunction | None = None,
        random_crop: bool = False,
        native_mask: bool = False,
        reader: Reader = read_sample,
    ) -> None:
        self.images = images
        self.reader = reader
        self.fit = fit
        self.transform = transform
        self.origin_function = origin_function
        self.random_crop = random_crop
        self.edge_width = edge_width
        self.native_mask = native_mask
        before_fitting = {
            "resize": transform,
            "pad": ShrinkToFit(image_size, transform),
            "grid": None,  # done before a crop is cut
        }
        super().__init__(
            images,
            is_padding=fit != "resize",
            is_resizing=fit == "resize",
            output_size=image_size,
            common_transforms=before_fitting[fit],
            edge_width=edge_width,
            post_funcs=post_function,
        )
        self.post_transform = _without_crop(self.post_transform)
        if fit == "grid":
            self._check_grid()
            if not random_crop:
                self.post_transform = _padding_to_grid(self.post_transform)
        elif origin_function is not None:
            raise UserError(
                f"--fit {fit} moves pixels off the JPEG grid, and what is read from the "
                "photograph's file cannot follow: use --fit grid"
            )

    def _check_grid(self) -> None:
        if any(side % BLOCK for side in self.output_size):
            raise UserError(
                f"--image-size {self.output_size[0]}: --fit grid takes multiples of {BLOCK} only"
            )
        if self.transform is not None and getattr(self.transform, "moves_pixels", True):
            raise ValueError("a transform that moves pixels leaves the JPEG grid")

    def _init_dataset_path(self, path: ImageSet) -> tuple[list[str], list[str]]:
        self.entry_path = str(path.path)
        images = [str(sample.image) for sample in path.samples]
        masks = ["Negative" if s.mask is None else str(s.mask) for s in path.samples]
        return images, masks

    def _get_image(self, index: _Read) -> tuple[Any, ...]:
        # IMDLBenCo hands on here, untouched, what its __getitem__ was called with: the sample,
        # read already.
        height, width = index.mask.shape
        mask = index.mask[:, :, None]
        if self.common_transforms is not None:
            mask = np.repeat(mask, 3, axis=2)  # as transforms expect; else one channel is enough
        size = (width, height)
        return index.image, mask, index.label, size, size, index.image_path, index.mask_path

    def _read(self, index: int) -> _Read:
        sample = self.images.samples[index]
        image, mask, notes = self.reader(sample)
        if self.edge_width is not None and min(mask.shape) <= self.edge_width:
            raise BadImage(
                sample.image,
                f"is {mask.shape[1]} x {mask.shape[0]} pixels, "
                f"too small for edges {self.edge_width} wide",
            )
        return _Read(image, mask, self.tp_path[index], self.gt_path[index], notes)

    def __getitem__(self, index: int) -> dict[str, Any]:
        read = self._read(index)
        item = self._grid_item(read) if self.fit == "grid" else self._fitted_item(read)
        if self.is_padding:
            item["origin_shape"] = torch.tensor(read.mask.shape)
        if self.native_mask:
            item["native_mask"] = torch.from_numpy((read.mask > 0).astype(np.uint8))
        item["sample_index"] = index
        item["sample_name"] = self.images.samples[index].name
        return item

    def _fitted_item(self, read: _Read) -> dict[str, Any]:
        item: dict[str, Any] = super().__getitem__(read)
        if not getattr(self.transform, "moves_pixels", self.transform is not None):
            # Shrinking may lose a small region from the mask; the photograph is tampered all the
            # same.
            item["label"] = read.label
        return item

    def _grid_item(self, read: _Read) -> dict[str, Any]:
        image = read.image
        if self.transform is not None:
            image = self.transform(image=image, mask=read.mask)["image"]
        window = self._window(*read.mask.shape)
        shown = replace(read, image=window.cut(image), mask=window.cut(read.mask))
        item: dict[str, Any] = super().__getitem__(shown)
        if self.origin_function is not None:
            path = Path(read.image_path)
            origin = Origin(path, read.image, read.notes, self.transform, image, window)
            self.origin_function(item, origin)
        return item

    def _window(self, height: int, width: int) -> Window:
        """Choose the part of a photograph that an item shows."""
        if not self.random_crop:
            return Window(0, 0, height, width)
        rows, columns = self.output_size
        top = BLOCK * random.randint(0, max(0, height - rows) // BLOCK)  # noqa: S311 -- no secret
        left = BLOCK * random.randint(0, max(0, width - columns) // BLOCK)  # noqa: S311
        return Window(top, left, min(rows, height - top), min(columns, width - left))


def _without_crop(pipeline: albumentations.Compose) -> albumentations.Compose:
    """Drop IMDLBenCo's last crop: images fit by now, and it takes the height for the width."""
    kept = [step for step in pipeline.transforms if not isinstance(step, albumentations.Crop)]
    return albumentations.Compose(kept)


def _padding_to_grid(pipeline: albumentations.Compose) -> albumentations.Compose:
    """Pad to multiples of 8 where IMDLBenCo pads to one size, at right and bottom as it does."""
    divisible = albumentations.PadIfNeeded(
        min_height=None,
        min_width=None,
        pad_height_divisor=BLOCK,
        pad_width_divisor=BLOCK,
        position="top_left",
        border_mode=cv2.BORDER_CONSTANT,
        value=0,
        mask_value=0,
    )
    return albumentations.Compose(
        [
            divisible if isinstance(step, albumentations.PadIfNeeded) else step
            for step in pipeline.transforms
        ]
    )


class ShrinkToFit:
    """A transform, followed by shrinking what is larger than the target, keeping its proportions.

    Images are averaged over areas (no aliasing), masks take the nearest pixel, as IMDLBenCo's
    resizing does.
    """

    def __init__(self, size: tuple[int, int], transform: Transform | None) -> None:
        self.size = size
        self.transform = transform

    def __call__(self, image: NDArray, mask: NDArray) -> dict[str, Any]:
        """Transform one image and mask (H x W x 3 each) and return both by name."""
        if self.transform is not None:
            transformed = self.transform(image=image, mask=mask)
            image, mask = transformed["image"], transformed["mask"]
        height, width = image.shape[:2]
        scale = min(self.size[0] / height, self.size[1] / width)
        if scale < 1:
            wanted = (max(1, round(width * scale)), max(1, round(height * scale)))
            image = cv2.resize(image, wanted, interpolation=cv2.INTER_AREA)
            mask = cv2.resize(mask, wanted, interpolation=cv2.INTER_NEAREST)
        return {"image": image, "mask": mask}


class SeededDataset(Dataset):
    """Items by `index` or `(epoch, index)`; all their random draws come from (seed, epoch, index).

    An image that cannot be used gives a `BadSample`.
    """

    def __init__(self, dataset: CheckedDataset, seed: int) -> None:
        self.dataset = dataset
        self.seed = seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: Key) -> dict[str, Any] | BadSample:
        epoch, index = _epoch_and_index(key, len(self))
        with seeded(self.seed, epoch, index):
            return _item_or_bad(self.dataset, index, self.dataset.images.samples[index].name)


class SeededBalancedDataset(BalancedDataset):
    """IMDLBenCo's BalancedDataset over checked sets, with seeded draws.

    Index i belongs to part i // sample_number, from which an image is drawn at random.
    `sample_index` of an item is i, its `sample_name` is `<part>/<name>`.
    """

    def __init__(self, source: BalancedSet, seed: int, **settings: Any) -> None:  # noqa: ANN401
        # IMDLBenCo's constructor only reads these three from a JSON file, without checking it.
        self.sample_number = source.sample_number
        self.settings_list = [[part, CheckedDataset] for part in source.parts]
        self.dataset_list = [
            _Part(self._get_dataset(part, kind, **settings)) for part, kind in self.settings_list
        ]
        self.seed = seed

    def __getitem__(self, key: Key) -> dict[str, Any] | BadSample:
        """Draw an item."""
        epoch, index = _epoch_and_index(key, len(self))
        with seeded(self.seed, epoch, index):
            item = super().__getitem__(index)
        if isinstance(item, dict):
            item["sample_index"] = index
        return item


class _Part:
    """A part of a balanced set: its names are prefixed, its broken images reported."""

    def __init__(self, dataset: CheckedDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __str__(self) -> str:
        return str(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any] | BadSample:
        images = self.dataset.images
        name = f"{images.name}/{images.samples[index].name}"
        item = _item_or_bad(self.dataset, index, name)
        if isinstance(item, dict):
            item["sample_name"] = name
        return item


def build_dataset(
    source: Source,
    *,
    fit: Fit = "resize",
    image_size: int | tuple[int, int] = 512,
    transform: Transform | None = None,
    edge_width: int | None = None,
    post_function: PostFunction | list[PostFunction] | None = None,
    origin_function: OriginFunction | None = None,
    random_crop: bool = False,
    seed: int = 0,
    native_mask: bool = False,
    reader: Reader = read_sample,
) -> SeededDataset | SeededBalancedDataset:
    """Make the dataset of a source.

    Args:
        source: The set.
        fit: "resize" to the model's size, "pad" with zeros at the right and bottom, or "grid",
            which keeps the photograph's own JPEG grid, see `CheckedDataset`.
        image_size: The model's input size, one number or (height, width).
        transform: Augmentation, called as albumentations are; None for none. On the grid it must
            have a false `moves_pixels`.
        edge_width: Width of IMDLBenCo's edge masks in pixels (odd); None for none.
        post_function: IMDLBenCo's callback(s) that change an item in place.
        origin_function: Adds to an item what it reads from the photograph's file; on the grid only.
        random_crop: On the grid, whether items are crops of the model's size, for training, instead
            of whole photographs.
        seed: Seed of every random draw.
        native_mask: Whether items carry the mask at the photograph's own size.
        reader: Reads a sample; from its files by default.

    Returns:
        A dataset that takes `index` or `(epoch, index)`.

    Raises:
        UserError: The size is no multiple of 8 on the grid, or the origin function has no grid.
    """
    size = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    settings: dict[str, Any] = {
        "fit": fit,
        "image_size": size,
        "transform": transform,
        "edge_width": edge_width,
        "post_function": post_function,
        "origin_function": origin_function,
        "random_crop": random_crop,
        "native_mask": native_mask,
        "reader": reader,
    }
    if isinstance(source, BalancedSet):
        return SeededBalancedDataset(source, seed, **settings)
    return SeededDataset(CheckedDataset(source, **settings), seed)


def collate(items: Sequence[dict[str, Any] | BadSample]) -> dict[str, Any]:
    """Join items into a batch.

    Args:
        items: Items and bad samples.

    Returns:
        Tensors stacked, strings and native masks as lists, and under `bad` the list of bad
        samples; only that where no item is good.
    """
    bad = [item for item in items if isinstance(item, BadSample)]
    good = [dict(item) for item in items if not isinstance(item, BadSample)]
    if not good:
        return {"bad": bad}
    # Native masks differ in size: they stay a list.
    native = [item.pop("native_mask") for item in good if "native_mask" in item]
    batch = default_collate(good)
    if native:
        batch["native_mask"] = native
    batch["bad"] = bad
    return batch


@contextlib.contextmanager
def seeded(seed: int, epoch: int, index: int) -> Iterator[None]:
    """Seed the global generators of random, NumPy and torch (CPU), and restore them afterwards.

    Albumentations and IMDLBenCo's transforms draw from the global generators. NumPy's SeedSequence
    mixes the three numbers, so that neighbouring indices give unrelated streams.

    Args:
        seed: The run's seed.
        epoch: The epoch.
        index: The sample's index.

    Yields:
        Nothing.
    """
    words = np.random.SeedSequence((seed, epoch, index)).generate_state(4)
    saved = random.getstate(), np.random.get_state(), torch.default_generator.get_state()
    random.seed(int.from_bytes(words.tobytes(), "little"))
    np.random.seed(words)
    torch.default_generator.manual_seed(int(words[0]) << 32 | int(words[1]))
    try:
        yield
    finally:
        random.setstate(saved[0])
        np.random.set_state(saved[1])
        torch.default_generator.set_state(saved[2])


def _epoch_and_index(key: Key, length: int) -> tuple[int, int]:
    epoch, index = key if isinstance(key, tuple) else (0, key)
    if not 0 <= index < length:
        raise IndexError(f"index {index} of {length}")
    return int(epoch), int(index)


def _item_or_bad(dataset: CheckedDataset, index: int, name: str) -> dict[str, Any] | BadSample:
    try:
        return dataset[index]
    except BadImage as error:
        return BadSample(name, error.path, error.reason)
    except _IMAGE_ERRORS as error:
        reason = f"a transform failed on it: {' '.join(str(error).split())}"
        return BadSample(name, dataset.images.samples[index].image, reason)
