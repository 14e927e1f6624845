"""The picture of the fusion scales: gamma of every tap and channel, and what each tap weighs."""

from collections.abc import Sequence
from typing import Final

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes

from sparsevit_plugin.explain.canvas import Canvas, check_panel
from sparsevit_plugin.explain.fusion import Tap

_BAR: Final = "#0072B2"
_SECOND_BAR: Final = "#D55E00"
_STYLE: Final = {"font.size": 7, "axes.linewidth": 0.6}
# All in inches.
_ROW: Final = 0.24
_TOP: Final = 0.26
_BOTTOM: Final = 0.46
_LEFT: Final = 1.25
_RIGHT: Final = 0.12
_GAP: Final = 0.12
_BARS: Final = 1.1


def fusion_figure(taps: Sequence[Tap], width: float) -> Canvas:
    """Draw gamma as a strip a tap, the mean of its size, and the share of variance where known.

    Args:
        taps: In the head's order.
        width: In inches.
    """
    with_shares = any(tap.known_shares.size for tap in taps)
    bars = min(_BARS, 0.2 * width)
    panels = 2 if with_shares else 1
    height = len(taps) * _ROW
    canvas = Canvas(width, _TOP + height + _BOTTOM)
    strip = width - _LEFT - _RIGHT - panels * (bars + _GAP)
    check_panel(strip, width)
    with mpl.rc_context(_STYLE):
        _strip(canvas, taps, strip, height)
        left = _LEFT + strip + _GAP
        sizes = [tap.mean_magnitude for tap in taps]
        axes = canvas.axes(left, _TOP, bars, height)
        _bars(axes, sizes, [0.0] * len(taps), _BAR)
        canvas.words(left + bars / 2, _TOP / 2, r"mean |$\gamma$|", 7, parse_math=True)
        if with_shares:
            shares = [tap.mean_share for tap in taps]
            spread = [tap.share_deviation for tap in taps]
            left += bars + _GAP
            axes = canvas.axes(left, _TOP, bars, height)
            _bars(axes, shares, spread, _SECOND_BAR)
            count = max(tap.known_shares.size for tap in taps)
            noun = "image" if count == 1 else "images"
            title = canvas.words(left + bars / 2, _TOP / 2, "share of variance", 7)
            canvas.squeeze(title, bars + _GAP)
            note = f"{count} {noun}" + (", line: st. dev." if count > 1 else "")
            canvas.squeeze(
                canvas.words(left + bars / 2, _TOP + height + 0.37, note, 6), bars + _GAP
            )
    return canvas


def _strip(canvas: Canvas, taps: Sequence[Tap], width: float, height: float) -> None:
    axes = canvas.axes(_LEFT, _TOP, width, height)
    values = np.stack([tap.gamma for tap in taps])
    most = float(np.abs(values).max()) or 1.0
    axes.imshow(
        values, cmap="RdBu_r", vmin=-most, vmax=most, aspect="auto", interpolation="nearest"
    )
    axes.set_yticks(range(len(taps)), [tap.place.words for tap in taps])
    axes.set_yticks(np.arange(len(taps) - 1) + 0.5, minor=True)
    axes.grid(axis="y", which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="both", length=0)
    axes.tick_params(axis="x", length=2, labelsize=6)
    for label in axes.get_yticklabels():
        label.set_fontsize(7)
    canvas.words(_LEFT + width / 2, _TOP / 2, r"$\gamma$ of each channel", 7, parse_math=True)
    canvas.words(_LEFT + width / 2, _TOP + height + 0.22, "channel", 6)
    _scale(canvas, _LEFT + width / 2, _TOP + height + 0.36, most)


def _scale(canvas: Canvas, middle: float, top: float, most: float) -> None:
    """Draw the scale of the colours around a place."""
    width = 0.9
    axes = canvas.axes(middle - width / 2, top - 0.035, width, 0.07)
    axes.imshow(np.linspace(-1, 1, 256)[None], cmap="RdBu_r", aspect="auto")
    axes.set_axis_off()
    canvas.words(middle - width / 2 - 0.05, top, f"\N{MINUS SIGN}{most:.2g}", 6, ha="right")
    canvas.words(middle + width / 2 + 0.05, top, f"{most:.2g}", 6, ha="left")


def _bars(axes: Axes, values: Sequence[float], spread: Sequence[float], colour: str) -> None:
    places = np.arange(len(values))
    axes.barh(places, values, height=0.7, color=colour)
    known = [(v, place, s) for v, place, s in zip(values, places, spread, strict=True) if s > 0]
    for value, place, deviation in known:
        axes.plot([value - deviation, value + deviation], [place, place], color="black", lw=0.8)
    axes.set_ylim(len(values) - 0.5, -0.5)
    axes.set_yticks([])
    axes.axvline(0, color="black", linewidth=0.6)
    axes.locator_params(axis="x", nbins=3)
    axes.tick_params(axis="x", length=2, labelsize=6)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
