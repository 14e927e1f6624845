"""The qualitative figure of papers: a row an image; columns: photograph, mask and each model."""

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from matplotlib.text import Text
from numpy.typing import NDArray

from sparsevit_plugin.explain.canvas import Canvas, check_panel
from sparsevit_plugin.explain.qualitative import Row

# All in inches.
_GAP: Final = 0.04
_HEADER: Final = 0.17
_CAPTION: Final = 0.12
_NAME: Final = 0.14
_TALLEST: Final = 1.4  # of a picture, over its column's width
_FIT_GAP: Final = 0.02

_SMALLEST_NAME: Final = 4.0  # points


def qualitative_figure(
    rows: Sequence[Row],
    labels: Sequence[str],
    *,
    width: float,
    binary: bool = False,
    with_f1: bool = False,
    with_names: bool = False,
) -> Canvas:
    """Lay out photographs, masks and maps.

    The column of masks is left out where no image has one. Pictures fill their column's width
    unless that made them taller than 1.4 of it.

    Args:
        rows: At least one.
        labels: Of the models.
        width: Of the figure in inches.
        binary: Whether maps are drawn as black and white at their threshold.
        with_f1: Whether each map's F1 stands under it.
        with_names: Whether each image's name stands at the left.

    Raises:
        UserError: There are too many columns for the width.
    """
    has_masks = any(row.mask is not None for row in rows)
    headings = ["Image", *(["Mask"] if has_masks else []), *labels]
    left = _NAME if with_names else 0.0
    column = (width - left - (len(headings) - 1) * _GAP) / len(headings)
    check_panel(column, width)
    caption = _CAPTION if with_f1 else 0.0
    heights = [column * min(row.pixels.shape[0] / row.pixels.shape[1], _TALLEST) for row in rows]
    total = _HEADER + sum(heights) + len(rows) * caption + (len(rows) - 1) * _GAP
    canvas = Canvas(width, total)
    for place, heading in enumerate(headings):
        text = canvas.words(left + place * (column + _GAP) + column / 2, _HEADER / 2, heading, 8)
        canvas.squeeze(text, column + _GAP - _FIT_GAP)
    top = _HEADER
    for row, height in zip(rows, heights, strict=True):
        if with_names:
            text = canvas.words(_NAME / 2, top + height / 2, row.candidate.shown, 5.5, rotation=90)
            _squeeze_upright(canvas, text, height)
        for place, pixels in enumerate(_pictures(row, has_masks, binary)):
            at = left + place * (column + _GAP)
            if pixels is None:
                canvas.words(at + column / 2, top + height / 2, "no mask", 6, color="#606060")
                continue
            wide = min(column, height * row.pixels.shape[1] / row.pixels.shape[0])
            canvas.picture(at + (column - wide) / 2, top, wide, height, pixels)
            model = place - 1 - has_masks
            if with_f1 and model >= 0 and row.mask is not None:
                words = _f1_words(row.f1(model))
                canvas.words(at + column / 2, top + height + _CAPTION / 2, words, 6)
        top += height + caption + _GAP
    return canvas


def _pictures(row: Row, has_masks: bool, binary: bool) -> list[NDArray[np.uint8] | None]:
    """Return a row's pictures; None where there is no mask."""
    pictures: list[NDArray[np.uint8] | None] = [row.pixels]
    if has_masks:
        pictures.append(None if row.mask is None else row.mask.astype(np.uint8) * np.uint8(255))
    for values in row.maps:
        shown = values > np.float32(row.threshold) if binary else values
        pictures.append(np.rint(shown.astype(np.float32) * 255).astype(np.uint8))
    return pictures


def _f1_words(value: float) -> str:
    return "F1 undefined" if math.isnan(value) else f"F1 {value:.2f}"


def _squeeze_upright(canvas: Canvas, text: Text, height: float) -> None:
    """Make words that run upwards no longer than so many inches; cut their beginning at last."""
    room = height / _height_of(canvas, text)
    if room >= 1:
        return
    text.set_fontsize(max(_SMALLEST_NAME, room * float(text.get_fontsize())))
    words = text.get_text()
    while len(words) > 1 and _height_of(canvas, text) > height:
        words = words[1:]
        text.set_text(f"\N{HORIZONTAL ELLIPSIS}{words}")


def _height_of(canvas: Canvas, text: Text) -> float:
    extent = text.get_window_extent(canvas.canvas.get_renderer())
    return float(extent.height) / canvas.figure.dpi
