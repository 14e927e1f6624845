"""The picture of what a token attends to, as trained and densely, over the photograph."""

from collections.abc import Sequence
from typing import Final

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from sparsevit_plugin.explain.attention import BlockAttention
from sparsevit_plugin.explain.canvas import DPI, Canvas, at_most, check_panel, grey
from sparsevit_plugin.explain.subject import Fed, patch_side

DENSE_LABEL: Final = "the same weights evaluated densely"

_COLOURS: Final = "viridis"
_COLOUR_SHARE: Final = 0.72  # the rest is the photograph's brightness
_FADED: Final = 0.16  # contrast that is left of the photograph where nothing is attended to
_ANCHOR: Final = "#ff1744"
# All in inches.
_MARGIN: Final = 0.06
_GAP: Final = 0.05
_BETWEEN: Final = 0.16
_TITLE: Final = 0.17
_CAPTION: Final = 0.15
_ROW_GAP: Final = 0.06
_READABLE: Final = 2.2  # of a pair
_TALLEST: Final = 1.6  # of a panel, over its width
_HEADER_ROOM: Final = 0.05
_STEP: Final = 0.135  # between lines of the explanation
_SCALE: Final = 0.2
_SCALE_WORDS: Final = 1.05  # beside the scale of the colours

_TYPE: Final = 6.5  # points


def attention_figure(
    fed: Fed,
    at: tuple[int, int],
    sparse: Sequence[BlockAttention],
    dense: Sequence[BlockAttention],
    *,
    width: float,
    head: int | None = None,
    pairs: int | None = None,
) -> Canvas:
    """Draw, block by block, what a token attends to as trained and densely.

    A panel's colours go from zero to the largest weight that it shows. Tokens outside the token's
    group are faded to white; those of padding are not drawn, and the caption tells their weight.

    Args:
        fed: The photograph.
        at: x and y of the pixel that was asked about.
        sparse: The blocks as trained.
        dense: The same blocks, evaluated densely.
        width: Of the figure in inches.
        head: From 1; None for the mean over heads.
        pairs: Blocks in a row; None for as many as can be read.

    Raises:
        UserError: A block has no such head.
    """
    pairs = min(pairs or max(1, int(width / _READABLE)), len(sparse))
    panel = (width - 2 * _MARGIN - (pairs - 1) * _BETWEEN - pairs * _GAP) / (2 * pairs)
    check_panel(panel, width)
    height = panel * min(fed.size[0] / fed.size[1], _TALLEST)
    # Where tokens are of padding alone, a second line says how much weight they have.
    padded = any(_drawn(fed, one, one.weights[0]).size < one.weights[0].size for one in sparse)
    lines = 2 if padded else 1
    row = _TITLE + height + lines * _CAPTION + _ROW_GAP
    rows = -(-len(sparse) // pairs)
    beside = _MARGIN + panel + _GAP + _BETWEEN  # where the words begin
    told = _explanation(width - beside - _MARGIN, head)
    header = max(height + _CAPTION, len(told) * _STEP + _SCALE) + _HEADER_ROOM
    canvas = Canvas(width, 2 * _MARGIN + header + rows * row)
    photograph = at_most(fed.pixels, (round(height * DPI), round(panel * DPI)))
    _photograph(canvas, fed, photograph, at, (panel, height))
    _words(canvas, beside, told)
    for number, (trained, full) in enumerate(zip(sparse, dense, strict=True)):
        left = _MARGIN + (number % pairs) * (2 * panel + _GAP + _BETWEEN)
        top = _MARGIN + header + (number // pairs) * row
        title = canvas.words(left + panel + _GAP / 2, top + _TITLE / 2, trained.place.words, 7)
        canvas.squeeze(title, 2 * panel)
        for one, shift in ((trained, 0.0), (full, panel + _GAP)):
            weights = one.of_head(head)
            pixels = _panel(photograph, fed, one, weights)
            box = (left + shift, top + _TITLE, panel, height)
            axes = canvas.picture(*box, pixels)
            _outline(axes, fed, one, pixels.shape[:2])
            kind = "dense" if one is full else "sparse"
            below = top + _TITLE + height + _CAPTION / 2
            for line, words in enumerate(_captions(fed, one, weights, kind)[:lines]):
                place = (box[0] + panel / 2, below + 0.7 * line * _CAPTION)
                canvas.squeeze(canvas.words(*place, words, 6), panel - 0.02)
    return canvas


def _captions(
    fed: Fed, one: BlockAttention, weights: NDArray[np.float32], kind: str
) -> tuple[str, str]:
    """Return the line under a panel, and one on what lies outside the photograph."""
    count = int(one.attended.sum())
    drawn = _drawn(fed, one, weights)
    elsewhere = max(0.0, 1 - float(drawn.sum()))
    return (
        f"{kind}: {count} token{'s' * (count > 1)}, max {drawn.max():.2g}",
        f"{elsewhere:.0%} of the weight on padding",
    )


def _drawn(fed: Fed, one: BlockAttention, weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the weights of the tokens that show some of the photograph."""
    patch = patch_side(one.place.stage)
    rows, columns = (-(-side // patch) for side in fed.shape)
    return weights[:rows, :columns]


def _panel(
    photograph: NDArray[np.uint8], fed: Fed, one: BlockAttention, weights: NDArray[np.float32]
) -> NDArray[np.uint8]:
    """Colour a photograph by weights, and fade what is not attended to."""
    size = (photograph.shape[0], photograph.shape[1])
    patch = patch_side(one.place.stage)
    largest = float(_drawn(fed, one, weights).max()) or 1.0
    share = fed.on_picture(weights / largest, patch, size)
    inside = fed.on_picture(one.attended, patch, size)[:, :, None]
    brightness = grey(photograph)[:, :, None]
    colours = mpl.colormaps[_COLOURS](share)[:, :, :3] * 255
    lit = _COLOUR_SHARE * colours + (1 - _COLOUR_SHARE) * brightness
    faded = 255 - _FADED * (255 - brightness)
    return np.rint(np.where(inside, lit, faded)).astype(np.uint8)


def _outline(axes: Axes, fed: Fed, one: BlockAttention, size: tuple[int, ...]) -> None:
    """Frame the cell of the token that attends, in the picture's pixels."""
    patch = patch_side(one.place.stage)
    spans = []
    for cell, side, shown in zip(one.token, size[:2], fed.shape, strict=True):
        ends = (cell * patch * side / shown, min((cell + 1) * patch, shown) * side / shown)
        spans.append(ends)
    (top, bottom), (left, right) = spans
    for colour, line in (("white", 1.8), (_ANCHOR, 0.9)):
        axes.add_patch(
            Rectangle(
                (left, top),
                right - left,
                bottom - top,
                fill=False,
                edgecolor=colour,
                linewidth=line,
            )
        )


def _photograph(
    canvas: Canvas,
    fed: Fed,
    photograph: NDArray[np.uint8],
    at: tuple[int, int],
    panel: tuple[float, float],
) -> None:
    """Show the photograph with the pixel that was asked about."""
    width, height = panel
    axes = canvas.picture(_MARGIN, _MARGIN, width, height, photograph)
    scale = photograph.shape[1] / fed.size[1], photograph.shape[0] / fed.size[0]
    x, y = ((value + 0.5) * factor for value, factor in zip(at, scale, strict=True))
    axes.plot(x, y, "+", color="white", markersize=9, markeredgewidth=2.4)
    axes.plot(x, y, "+", color=_ANCHOR, markersize=8, markeredgewidth=1.2)
    axes.set_xlim(0, photograph.shape[1])
    axes.set_ylim(photograph.shape[0], 0)
    caption = canvas.words(
        _MARGIN + width / 2, _MARGIN + height + _CAPTION / 2, f"x = {at[0]}, y = {at[1]}", 6
    )
    canvas.squeeze(caption, width + _GAP)


def _explanation(width: float, head: int | None) -> list[str]:
    """Return how to read the figure, in lines that are not wider than so many inches."""
    which = "the mean over heads" if head is None else f"head {head}"
    sentences = [
        f"What the framed token attends to: softmax weights, {which}.",
        "Left of each pair: sparse, as trained. Tokens outside its group are faded to white.",
        f"Right: {DENSE_LABEL} (S = 1 in every block), not a dense-trained model.",
    ]
    ruler = Canvas(1, 1)
    return [line for text in sentences for line in ruler.wrapped(text, _TYPE, width)]


def _words(canvas: Canvas, left: float, lines: Sequence[str]) -> None:
    """Say how to read the rest, and draw the scale of the colours."""
    for number, line in enumerate(lines):
        canvas.words(left, _MARGIN + (number + 0.6) * _STEP, line, _TYPE, ha="left")
    top = _MARGIN + len(lines) * _STEP + _SCALE / 2
    bar = max(0.2, min(1.0, canvas.width - left - _MARGIN - _SCALE_WORDS))
    axes = canvas.axes(left + 0.12, top - 0.045, bar, 0.09)
    axes.imshow(np.linspace(0, 1, 256)[None], cmap=_COLOURS, aspect="auto")
    axes.set_axis_off()
    canvas.words(left + 0.06, top, "0", 6)
    canvas.words(left + bar + 0.17, top, "the panel's largest", 6, ha="left")
