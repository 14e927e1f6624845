"""Grids of feature maps, and of Grad-CAM."""

from collections.abc import Sequence
from typing import Final

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray

from sparsevit_plugin.explain.canvas import DPI, Canvas, at_most, check_panel, grey
from sparsevit_plugin.explain.features import FeatureMap
from sparsevit_plugin.explain.gradcam import Cam
from sparsevit_plugin.explain.subject import Fed

_COLOURS: Final = "viridis"
_HEAT: Final = "inferno"
_PERCENTILES: Final = (1, 99)  # of a channel: its darkest and its brightest colour
_CAM_SHARE: Final = 0.6
# All in inches.
_MARGIN: Final = 0.06
_LABEL: Final = 1.12
_GAP: Final = 0.05
_HEADER: Final = 0.18
_CAPTION: Final = 0.14
_TALLEST: Final = 1.6


def feature_figure(fed: Fed, maps: Sequence[FeatureMap], channels: int, *, width: float) -> Canvas:
    """Draw a row a map: the size of its features, and the channels that vary most.

    Each panel has its own scale, from the first to the ninety-ninth percentile.

    Args:
        fed: The photograph.
        maps: In the order of the network.
        channels: Of each map, at most.
        width: In inches.
    """
    columns = 1 + channels
    panel = (width - 2 * _MARGIN - _LABEL - columns * _GAP) / columns
    check_panel(panel, width)
    height = panel * min(fed.size[0] / fed.size[1], _TALLEST)
    row = height + _CAPTION
    canvas = Canvas(width, 2 * _MARGIN + _HEADER + (len(maps) + 1) * row)
    size = (round(height * DPI), round(panel * DPI))
    left = _MARGIN + _LABEL + _GAP
    for words, middle, room in (
        ("all channels (rms)", left + panel / 2, panel + _GAP),
        ("channels that vary most", left + panel + _GAP + (columns - 1) * (panel + _GAP) / 2, 9),
    ):
        canvas.squeeze(canvas.words(middle, _MARGIN + _HEADER / 2, words, 6.5), room)
    top = _MARGIN + _HEADER
    _label(canvas, top + height / 2, "photograph", f"{fed.size[1]} x {fed.size[0]}")
    canvas.picture(left, top, panel, height, at_most(fed.pixels, size))
    for one in maps:
        top += row
        depth, rows, wide = one.values.shape
        _label(canvas, top + height / 2, one.words, f"{depth} x {rows} x {wide}")
        planes = [("", one.energy())]
        if depth > 1:
            chosen = one.by_variance(channels)
            planes += [(f"channel {number}", one.values[number]) for number in chosen]
        for place, (caption, plane) in enumerate(planes):
            if depth == 1:
                plane, caption = one.values[0], "its one channel"  # noqa: PLW2901
            shown = fed.on_picture(_coloured(plane), one.patch, size)
            at = left + place * (panel + _GAP)
            canvas.picture(at, top, panel, height, shown)
            text = canvas.words(at + panel / 2, top + height + _CAPTION / 2, caption, 5.5)
            canvas.squeeze(text, panel + _GAP)
    return canvas


def _label(canvas: Canvas, y: float, words: str, size: str) -> None:
    canvas.squeeze(canvas.words(_MARGIN, y - 0.055, words, 6.5, ha="left"), _LABEL)
    canvas.words(_MARGIN, y + 0.055, size, 5.5, ha="left", color="#606060")


def _coloured(plane: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return a plane as RGB, scaled between its percentiles; a flat one has the middle colour."""
    low, high = (float(value) for value in np.percentile(plane, _PERCENTILES))
    scaled = (plane - low) / (high - low) if high > low else np.full_like(plane, 0.5)
    colours = mpl.colormaps[_COLOURS](np.clip(scaled, 0, 1))[:, :, :3]
    return np.rint(colours * 255).astype(np.uint8)


def cam_figure(
    fed: Fed,
    probability: NDArray[np.float32],
    cams: Sequence[Cam],
    target: str,
    *,
    width: float,
    columns: int = 3,
) -> Canvas:
    """Draw the photograph, the model's map and the Grad-CAM of each layer.

    Args:
        fed: The photograph.
        probability: The model's map at the photograph's own size.
        cams: One a layer.
        target: What was explained, in words.
        width: In inches.
        columns: Panels in a row.
    """
    columns = min(columns, 2 + len(cams))
    panel = (width - 2 * _MARGIN - (columns - 1) * _GAP) / columns
    check_panel(panel, width)
    height = panel * min(fed.size[0] / fed.size[1], _TALLEST)
    row = height + _CAPTION + _GAP
    rows = -(-(2 + len(cams)) // columns)
    canvas = Canvas(width, 2 * _MARGIN + rows * row + _HEADER)
    size = (round(height * DPI), round(panel * DPI))
    photograph = at_most(fed.pixels, size)
    map_picture = at_most(np.rint(probability * 255).astype(np.uint8), size)
    panels = [("photograph", photograph), ("map (white: tampered)", map_picture)]
    panels += [
        (cam.words + (": none" if cam.is_empty else ""), _heated(photograph, cam)) for cam in cams
    ]
    for number, (words, pixels) in enumerate(panels):
        left = _MARGIN + number % columns * (panel + _GAP)
        top = _MARGIN + number // columns * row
        canvas.picture(left, top, panel, height, pixels)
        text = canvas.words(left + panel / 2, top + height + _CAPTION / 2, words, 6.5)
        canvas.squeeze(text, panel + _GAP)
    note = f"Grad-CAM of {target}; bright: most evidence for it, each layer on its own scale."
    text = canvas.words(width / 2, canvas.height - _MARGIN - _HEADER / 2, note, 6.5)
    canvas.squeeze(text, width - 2 * _MARGIN)
    return canvas


def _heated(photograph: NDArray[np.uint8], cam: Cam) -> NDArray[np.uint8]:
    import cv2

    values = cv2.resize(cam.values, photograph.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    colours = mpl.colormaps[_HEAT](np.clip(values, 0, 1))[:, :, :3] * 255
    mixed = _CAM_SHARE * colours + (1 - _CAM_SHARE) * grey(photograph)[:, :, None]
    return np.rint(mixed).astype(np.uint8)
