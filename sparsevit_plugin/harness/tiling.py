"""Maps of large photographs in bounded memory: overlapping tiles whose maps are blended.

What is blended are probabilities, not logits. Every model and every backend gives probabilities;
their weighted mean stays within what the tiles say; and a tile that is sure (a logit of any size)
cannot outvote its neighbour by more than its weight.

A tile sees less around a pixel than the whole photograph shows, the less the nearer the pixel is to
the tile's border. So a tile's weight falls to zero towards a border inside the photograph, as a
raised cosine over the overlap, and stays one along the photograph's own border. The weights of all
tiles sum to one at every pixel.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, product
from typing import Any, Final

import torch
from torch import Tensor, nn

from sparsevit_plugin.errors import UserError
from sparsevit_plugin.harness.config import Config
from sparsevit_plugin.harness.jpeg import BLOCK
from sparsevit_plugin.harness.post_functions import additions

STRIDE: Final = 32
"""Tiles begin at multiples of it, which are on the JPEG grid and on the coarsest token grid of the
models here. Only a last tile, which ends with the photograph, may begin at a multiple of 8."""

_BY_PIXEL: Final = ("image", "mask", "edge_mask", "shape_mask")
_PLANE: Final = 3  # axes from which on a tensor of a batch holds something for every pixel


@dataclass(frozen=True)
class Span:
    """What a tile covers along one axis, in pixels, and its weight at each of them.

    Attributes:
        start: First pixel.
        stop: The pixel after the last.
        weights: float32, shape (stop - start,).
    """

    start: int
    stop: int
    weights: Tensor

    @property
    def length(self) -> int:
        """How many pixels it covers."""
        return self.stop - self.start


@dataclass(frozen=True)
class _Tile:
    rows: Span
    columns: Span

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows.length, self.columns.length

    def cut(self, plane: Tensor) -> Tensor:
        """Return this part of a tensor whose last two axes are height and width."""
        rows, columns = self.rows, self.columns
        return plane[..., rows.start : rows.stop, columns.start : columns.stop]

    def weights(self, like: Tensor) -> Tensor:
        return (self.rows.weights[:, None] * self.columns.weights).to(like.device)


def spans(length: int, side: int, overlap: int) -> list[Span]:
    """Cover an axis with tiles.

    Args:
        length: Pixels of the axis.
        side: Pixels of a tile, a multiple of 32.
        overlap: Pixels that neighbours share at least; at most `side` - 32.

    Returns:
        The tiles in order: one of `length` where that is enough, else tiles of `side`, of which
        the last is up to 7 pixels shorter if `length` is no multiple of 8. At every pixel the
        weights sum to one; where there is but one tile, its weight is exactly one.
    """
    if length <= side:
        return [Span(0, length, torch.ones(length))]
    step = (side - overlap) // STRIDE * STRIDE
    last = math.ceil((length - side) / BLOCK) * BLOCK
    starts = [*range(0, length - side, step), last]
    stops = [min(start + side, length) for start in starts]
    raw = [_ramps(start, stop, length, overlap) for start, stop in zip(starts, stops, strict=True)]
    total = torch.zeros(length, dtype=torch.float64)
    for start, stop, weights in zip(starts, stops, raw, strict=True):
        total[start:stop] += weights
    return [
        Span(start, stop, (weights / total[start:stop]).float())
        for start, stop, weights in zip(starts, stops, raw, strict=True)
    ]


def _ramps(start: int, stop: int, length: int, overlap: int) -> Tensor:
    """Return a tile's weights before they are made to sum to one, float64."""
    weights = torch.ones(stop - start, dtype=torch.float64)
    if overlap:
        ramp = torch.sin(math.pi / 2 * (torch.arange(overlap).double() + 0.5) / overlap) ** 2
        if start > 0:
            weights[:overlap] *= ramp
        if stop < length:
            weights[-overlap:] *= ramp.flip(0)
    return weights


class Tiled(nn.Module):
    """A model that sees a large image tile by tile.

    An image that fits into one tile is handed to the model as it is, and the model's own answer
    comes back. Else the model sees batches of tiles; beside the images and their maps, memory holds
    one such batch.

    Args:
        model: Has the interface of IMDLBenCo's models.
        side: Height and width of a tile in pixels, a multiple of 32.
        overlap: Pixels that neighbouring tiles share at least; None for a quarter of the side.
        batch: Tiles that the model sees at a time, at most.

    Raises:
        UserError: A number is out of range.
    """

    def __init__(
        self, model: nn.Module, side: int, overlap: int | None = None, batch: int = 1
    ) -> None:
        super().__init__()
        self.model = model
        self.side = side
        self.overlap = checked_overlap(side, overlap)
        if batch < 1:
            raise UserError(f"tiles are seen {batch} at a time: at least 1 is needed")
        self.batch = batch

    def forward(self, image: Tensor, **inputs: Any) -> dict[str, Any]:  # noqa: ANN401 (a batch)
        """Localise manipulations.

        Args:
            image: B x 3 x H x W.
            **inputs: What else the model is given. `mask`, `edge_mask` and `shape_mask` (B x 1 x
                H x W) are cut as the image is; what has one entry for each image is repeated for
                its tiles.

        Returns:
            `pred_mask` (B x 1 x H x W probabilities, float32) and `pred_label` (B scores: an
            image's is the highest of its tiles'; None from a model that gives none). What the
            model answered, where one tile is enough.

        Raises:
            UserError: The model is given something else for every pixel, which cannot be cut.
        """
        height, width = image.shape[-2:]
        rows = spans(height, self.side, self.overlap)
        columns = spans(width, self.side, self.overlap)
        if len(rows) * len(columns) == 1:
            whole: dict[str, Any] = self.model(image=image, **inputs)
            return whole
        tiles = [_Tile(row, column) for row, column in product(rows, columns)]
        return self._blend({"image": image, **inputs}, tiles)

    def _blend(self, inputs: dict[str, Any], tiles: Sequence[_Tile]) -> dict[str, Any]:
        image: Tensor = inputs["image"]
        count = len(image)
        blended = image.new_zeros((count, 1, *image.shape[-2:]), dtype=torch.float32)
        scores: list[list[Tensor]] = [[] for _ in range(count)]
        for jobs in self._batches(tiles, count):
            output = self.model(**_cut(inputs, jobs, count))
            label = output.get("pred_label")
            given = label is not None and label.numel() == len(jobs)
            for place, (number, tile) in enumerate(jobs):
                part = output["pred_mask"][place].float()
                tile.cut(blended[number]).add_(part * tile.weights(part))
                if given:
                    scores[number].append(label.reshape(-1)[place])
        labels = [torch.stack(found).amax() for found in scores if len(found) == len(tiles)]
        return {
            "pred_mask": blended.clamp_(0, 1),  # a sum of rounded weights may pass one by 1e-7
            "pred_label": torch.stack(labels) if len(labels) == count else None,
        }

    def _batches(self, tiles: Sequence[_Tile], count: int) -> Iterator[list[tuple[int, _Tile]]]:
        """Group (image, tile) into batches of one shape."""
        by_shape = sorted(tiles, key=lambda tile: tile.shape, reverse=True)
        for _, alike in groupby(by_shape, key=lambda tile: tile.shape):
            jobs = list(product(range(count), list(alike)))
            for first in range(0, len(jobs), self.batch):
                yield jobs[first : first + self.batch]


def _cut(inputs: dict[str, Any], jobs: Sequence[tuple[int, _Tile]], count: int) -> dict[str, Any]:
    """Return what of a batch of `count` images belongs to some tiles."""
    return {name: _part(name, value, jobs, count) for name, value in inputs.items()}


def _part(name: str, value: object, jobs: Sequence[tuple[int, _Tile]], count: int) -> object:
    if isinstance(value, Tensor) and value.ndim >= _PLANE:
        if name not in _BY_PIXEL:
            raise UserError(
                f"the model is given {name} beside the photograph, which cannot be cut into tiles: "
                "leave --tile out"
            )
        return torch.stack([tile.cut(value[number]) for number, tile in jobs])
    if isinstance(value, Tensor) and value.ndim and len(value) == count:
        return torch.stack([value[number] for number, _ in jobs])
    if isinstance(value, (list, tuple)) and len(value) == count:
        return [value[number] for number, _ in jobs]
    return value


def checked_overlap(side: int, overlap: int | None) -> int:
    """Return the overlap of tiles: as given, or a quarter of their side.

    Raises:
        UserError: The side is no multiple of 32, or more than all but 32 pixels overlap.
    """
    if side < STRIDE or side % STRIDE:
        raise UserError(f"--tile {side}: the side of a tile is a multiple of {STRIDE}, such as 512")
    if overlap is None:
        return min(side // 4, side - STRIDE)
    if not 0 <= overlap <= side - STRIDE:
        raise UserError(
            f"--tile-overlap {overlap}: tiles of {side} pixels overlap by 0 to {side - STRIDE}"
        )
    return overlap


def tile_facts(cfg: Config) -> dict[str, int]:
    """Return what a manifest says of tiles: nothing without them."""
    if cfg.tile is None:
        return {}
    return {"tile": cfg.tile, "tile_overlap": checked_overlap(cfg.tile, cfg.tile_overlap)}


def tiled(cfg: Config, model: nn.Module) -> nn.Module:
    """Wrap a model as `--tile` and `--tile-overlap` say; without them it is returned as it is.

    Raises:
        UserError: They are out of range, or the model reads more than a photograph's pixels.
    """
    if cfg.tile is None:
        if cfg.tile_overlap is not None:
            raise UserError("--tile-overlap needs --tile, the side of a tile in pixels")
        return model
    added = additions(cfg)
    function = added.post_function or added.origin_function
    if function is not None:
        raise UserError(
            f"{cfg.model} is given more than a photograph's pixels ({function.__name__}), which "
            "cannot be cut into tiles: leave --tile out"
        )
    return Tiled(model, cfg.tile, cfg.tile_overlap, cfg.test_batch_size)
