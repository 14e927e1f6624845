"""Figures that are laid out in inches: pictures in boxes, words beside them."""

from os import PathLike
from typing import Any, Final

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from numpy.typing import NDArray

from sparsevit_plugin.errors import UserError
from sparsevit_plugin.results.cost_plots import COLUMN_WIDTH, PAGE_WIDTH, write_figure
from sparsevit_plugin.results.fonts import families

DPI: Final = 300
"""Of pictures within a figure, and of a PNG."""

WIDTHS: Final = {"column": COLUMN_WIDTH, "page": PAGE_WIDTH}
_WIDEST: Final = 60.0  # inches
_SMALLEST_TYPE: Final = 3.0
_NARROWEST: Final = 0.2


class Canvas:
    """A figure on which places are given in inches from its upper left corner.

    Args:
        width: In inches.
        height: In inches.
    """

    def __init__(self, width: float, height: float) -> None:
        self.width, self.height = width, height
        self.figure = Figure(figsize=(width, height), dpi=DPI)
        self.canvas = FigureCanvasAgg(self.figure)

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        """Make axes in a box."""
        bottom = self.height - top - height
        return self.figure.add_axes(
            (left / self.width, bottom / self.height, width / self.width, height / self.height)
        )

    def picture(
        self, left: float, top: float, width: float, height: float, pixels: NDArray[np.uint8]
    ) -> Axes:
        """Draw a picture (H x W, grey, or H x W x 3) that fills a box; coordinates are its pixels.

        It is shrunk to `DPI` first where it has more.
        """
        axes = self.axes(left, top, width, height)
        rows, columns = pixels.shape[:2]
        shrunk = at_most(pixels, (round(height * DPI), round(width * DPI)))
        axes.imshow(
            shrunk,
            cmap="gray",
            vmin=0,
            vmax=255,
            aspect="auto",
            interpolation="nearest",
            extent=(0, columns, rows, 0),
        )
        axes.set_xticks([])
        axes.set_yticks([])
        for spine in axes.spines.values():
            spine.set_linewidth(0.3)
            spine.set_color("#808080")
        return axes

    def words(
        self,
        x: float,
        y: float,
        text: str,
        size: float = 7,
        **style: Any,  # noqa: ANN401
    ) -> Text:
        """Write words at a place; centred on it unless `ha` and `va` say otherwise.

        A dollar is a dollar, as in files' names, unless `parse_math` is given.
        """
        placed = {"ha": "center", "va": "center", "fontsize": size, "parse_math": False, **style}
        placed["fontfamily"] = families(text)  # now, as widths are measured before it is drawn
        return self.figure.text(x / self.width, 1 - y / self.height, text, **placed)

    def width_of(self, text: Text) -> float:
        """Return how wide words are, in inches."""
        extent = text.get_window_extent(self.canvas.get_renderer())
        return float(extent.width) / self.figure.dpi

    def wrapped(self, text: str, size: float, width: float) -> list[str]:
        """Break words into lines that are not wider than so many inches."""
        lines: list[str] = []
        for word in text.split():
            longer = f"{lines[-1]} {word}" if lines else word
            probe = self.words(0, 0, longer, size)
            fits = self.width_of(probe) <= width
            probe.remove()
            if lines and fits:
                lines[-1] = longer
            else:
                lines.append(word)
        return lines

    def squeeze(self, text: Text, width: float) -> None:
        """Make type smaller until it is not wider than so many inches."""
        size = float(text.get_fontsize())
        while self.width_of(text) > width and size > _SMALLEST_TYPE:
            size = max(_SMALLEST_TYPE, size - 0.25)
            text.set_fontsize(size)

    def write(self, path: str | PathLike[str]) -> None:
        """Write the figure by the ending of its name.

        Raises:
            UserError: The name has another ending, or the file cannot be written.
        """
        write_figure(self.figure, path, dpi=DPI)


def at_most(pixels: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Shrink a picture to a size (height, width), averaged over areas; never enlarge it."""
    rows, columns = pixels.shape[:2]
    wanted = (max(1, min(columns, size[1])), max(1, min(rows, size[0])))
    if wanted == (columns, rows):
        return pixels
    return cv2.resize(pixels, wanted, interpolation=cv2.INTER_AREA).astype(np.uint8)


def grey(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the brightness of an RGB picture, H x W, 0 to 255."""
    return cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2GRAY).astype(np.float32)


def check_panel(panel: float, width: float) -> None:
    """Refuse panels that are too small to show anything.

    Args:
        panel: Width of one, in inches.
        width: Of the figure.

    Raises:
        UserError: They are.
    """
    if panel < _NARROWEST:
        raise UserError(f"--width {width:g} inches: too narrow for what stands side by side")


def figure_width(text: str, option: str = "--width") -> float:
    """Return a width in inches: "column", "page" or a number.

    Raises:
        UserError: It is none of these, or no width of a figure.
    """
    if text in WIDTHS:
        return WIDTHS[text]
    try:
        width = float(text)
    except ValueError:
        width = float("nan")
    if not 1 <= width <= _WIDEST:
        raise UserError(f"{option} {text}: give column, page or inches from 1 to {_WIDEST:g}")
    return width
