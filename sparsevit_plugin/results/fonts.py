"""Fonts for names in any script.

Matplotlib draws a box for a letter that its font lacks, and the font that comes with it has no
Chinese. So what it lacks is drawn in a font that is installed on the machine.
"""

import contextlib
import logging
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Final

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.font_manager import (
    FontEntry,
    FontProperties,
    findfont,
    findSystemFonts,
    fontManager,
)
from matplotlib.ft2font import FT2Font
from matplotlib.text import Text

_LOG = logging.getLogger(__name__)
_REGULAR: Final = 400
_MOST_SHOWN: Final = 12


def families(words: str) -> list[str]:
    """Return the font families that together draw words.

    Args:
        words: What is drawn.

    Returns:
        Matplotlib's configured families, and behind them installed ones that have what these lack.
    """
    return _families_and_rest(words)[0]


def complete_fonts(figure: Figure) -> None:
    """Give every text of a figure the fonts that its letters need; letters without one are said."""
    lacking: set[int] = set()
    for text in figure.findobj(Text):
        assert isinstance(text, Text)  # noqa: S101 (matplotlib's types say Artist)
        found, rest = _families_and_rest(text.get_text())
        lacking |= rest
        if len(found) > len(mpl.rcParams["font.family"]):
            text.set_fontfamily(found)
    if lacking:
        _warn("".join(sorted(map(chr, lacking))))


def _families_and_rest(words: str) -> tuple[list[str], set[int]]:
    """Return the families that draw words, and the letters that none has."""
    chosen = list(mpl.rcParams["font.family"])
    lacking = _letters(words) - _usual_letters(tuple(chosen))
    while lacking and (best := _best(lacking)):
        chosen.append(best.name)
        lacking -= _letters_of(str(best.fname))
    return chosen, lacking


def _letters(words: str) -> set[int]:
    return {ord(letter) for letter in words if letter.isprintable() and not letter.isspace()}


@lru_cache(maxsize=8)
def _usual_letters(names: tuple[str, ...]) -> frozenset[int]:
    files = (str(findfont(FontProperties(family=[name]))) for name in names)
    return frozenset().union(*map(_letters_of, files))


@lru_cache(maxsize=1024)
def _letters_of(file: str) -> frozenset[int]:
    try:
        return frozenset(FT2Font(file).get_charmap())
    except (OSError, RuntimeError):  # listed when matplotlib looked, and gone or damaged since
        return frozenset()


def _best(lacking: set[int]) -> FontEntry | None:
    """Return the font that has most of the letters, None where none has any."""
    for look in (lambda: None, _take_new_fonts):
        look()
        best = min(_installed(), key=lambda font: _preference(font, lacking), default=None)
        if best is not None and lacking & _letters_of(str(best.fname)):
            return best
    return None


@lru_cache(maxsize=1)  # once in a process
def _take_new_fonts() -> None:
    """Take fonts that were installed after matplotlib kept its list, which it does not renew."""
    known = {str(font.fname) for font in fontManager.ttflist}
    for file in findSystemFonts():
        if file not in known:
            with contextlib.suppress(OSError, RuntimeError, ValueError):  # damaged
                fontManager.addfont(file)


def _installed() -> Iterator[FontEntry]:
    """Return upright fonts of the machine; matplotlib's own hold symbols under letters' codes."""
    own = Path(mpl.get_data_path())
    for font in fontManager.ttflist:
        if font.style == "normal" and not Path(font.fname).is_relative_to(own):
            yield font


def _preference(font: FontEntry, lacking: set[int]) -> tuple[int, bool, bool, int, str]:
    """Rank fonts: most letters first, then plain ones; of East Asian variants the Chinese one."""
    unlike = any(kind in font.name for kind in ("Serif", "Mono"))
    weight = font.weight if isinstance(font.weight, int) else _REGULAR
    found = len(lacking & _letters_of(str(font.fname)))
    return -found, unlike, not font.name.endswith(" SC"), abs(weight - _REGULAR), font.name


@lru_cache(maxsize=64)  # once, though a figure is written in several formats
def _warn(letters: str) -> None:
    shown = letters[:_MOST_SHOWN] + ("..." if len(letters) > _MOST_SHOWN else "")
    _LOG.warning(
        "no installed font has %s: drawn as boxes; install one that has, such as Noto Sans CJK",
        shown,
    )
