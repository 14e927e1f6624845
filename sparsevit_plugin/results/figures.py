"""Pictures of predictions."""

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from sparsevit_plugin.errors import UserError
from sparsevit_plugin.files import atomic_path

_COLUMNS = ("image", "mask", "probability", "predicted (red), mask (green line)")
_DPI = 100
# All in inches.
_TILE = 2.2
_TALLEST = 3.3
_GAP = 0.1
_HEADER = 0.25
_TITLE = 0.32
_LEFT = 0.3
_TINT = np.array([255, 0, 40], np.float64)
_OUTLINE = "#00ff70"


def prediction_grid(
    items: Sequence[Mapping[str, Any]],
    path: str | PathLike[str],
    title: str | None = None,
    threshold: float = 0.5,
) -> None:
    """Draw one row per picture: image, mask, probability, and prediction and mask on the image.

    The last column shows the photograph in grey, so that the tint stands out on any colour. The
    layout depends on the pictures' shapes only: the same predictions give the same file.

    Args:
        items: Each with `image` (H, W, 3) uint8, `mask` (H, W), tampered where not 0, `probability`
            (H, W) in [0, 1], and `title`.
        path: PNG file to write.
        title: Above the grid.
        threshold: Pixels with a greater probability are predicted tampered.

    Raises:
        UserError: There is nothing to draw, or the file cannot be written.
        ValueError: Shapes of one picture differ.
    """
    if not items:
        raise UserError(f"{path}: no picture to draw")
    heights = [_tile_height(np.asarray(item["image"])) for item in items]
    width = _left(len(_COLUMNS))
    height = (_TITLE if title else 0) + _HEADER + sum(heights) + _GAP * len(items)
    figure = Figure(figsize=(width, height), dpi=_DPI)
    FigureCanvasAgg(figure)
    if title:
        _write(figure, width / 2, height - _TITLE / 2, title, fontsize=11)
    top = height - (_TITLE if title else 0)
    for column, words in enumerate(_COLUMNS):
        _write(figure, _left(column) + _TILE / 2, top - _HEADER / 2, words, fontsize=8)
    top -= _HEADER
    for item, tile in zip(items, heights, strict=True):
        middle = top - tile / 2
        _write(figure, _LEFT / 2, middle, str(item["title"]), fontsize=8, rotation=90)
        boxes = [(_left(column), top - tile, _TILE, tile) for column in range(len(_COLUMNS))]
        _draw([_axes(figure, box) for box in boxes], item, threshold)
        top -= tile + _GAP
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})


def _tile_height(image: NDArray[np.uint8]) -> float:
    return min(_TILE * image.shape[0] / image.shape[1], _TALLEST)


def _left(column: int) -> float:
    return _LEFT + column * (_TILE + _GAP)


def _write(figure: Figure, x: float, y: float, words: str, **style: Any) -> None:  # noqa: ANN401
    """Write words centred at a place in inches from the figure's lower left."""
    width, height = figure.get_size_inches()
    figure.text(x / width, y / height, words, ha="center", va="center", **style)


def _axes(figure: Figure, box: tuple[float, float, float, float]) -> Axes:
    """Make bare axes in a box of left, bottom, width and height in inches."""
    width, height = figure.get_size_inches()
    left, bottom, wide, high = box
    axes = figure.add_axes((left / width, bottom / height, wide / width, high / height))
    axes.set_axis_off()
    return axes


def _draw(axes: Sequence[Axes], item: Mapping[str, Any], threshold: float) -> None:
    image = np.asarray(item["image"])
    mask = np.asarray(item["mask"]) > 0
    probability = np.asarray(item["probability"], np.float64)
    if not image.shape[:2] == mask.shape == probability.shape:
        raise ValueError(
            f"{item['title']}: image {image.shape}, mask {mask.shape} and probability "
            f"{probability.shape} differ in size"
        )
    axes[0].imshow(image)
    axes[1].imshow(mask, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes[2].imshow(probability, cmap="gray", vmin=0, vmax=1)
    axes[3].imshow(_tinted(image, probability > threshold))
    if mask.any() and not mask.all():
        axes[3].contour(mask, levels=[0.5], colors=[_OUTLINE], linewidths=1.2)


def _tinted(image: NDArray[np.uint8], predicted: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return the image in grey, the predicted region mixed half and half with red."""
    grey = np.repeat(image.astype(np.float64).mean(-1, keepdims=True), 3, axis=-1)
    grey[predicted] = (grey[predicted] + _TINT) / 2
    return grey.round().astype(np.uint8)
