"""Fonts for names in any script.

Matplotlib draws a box for a letter that its font lacks, and the font that comes with it has no
Chinese. So what it lacks is drawn in a font that is installed on the machine.
"""

import contextlib
import logging
from collections.abc import Iterator
from functools import cache, lru_cache
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
from matplotlib.patheffects import Normal
from matplotlib.text import Text

_LOG = logging.getLogger(__name__)
_REGULAR: Final = 400
_MOST_SHOWN: Final = 12
_TRUETYPE: Final = (1, 0)  # version of the table `maxp`; fonts of PostScript outlines have 0.5


def families(words: str) -> list[str]:
    """Return the font families that together draw words.

    Args:
        words: What is drawn.

    Returns:
        Matplotlib's configured families, and behind them installed ones that have what these lack.
    """
    fonts, _ = _fonts_and_rest(words)
    return [*mpl.rcParams["font.family"], *(font.name for font in fonts)]


def complete_fonts(figure: Figure) -> None:
    """Give every text of a figure the fonts that its letters need; letters without one are said."""
    lacking: frozenset[int] = frozenset()
    for text in figure.findobj(Text):
        assert isinstance(text, Text)  # noqa: S101 (matplotlib's types say Artist)
        fonts, rest = _fonts_and_rest(text.get_text())
        lacking |= rest
        if not fonts:
            continue
        text.set_fontfamily(families(text.get_text()))
        if not all(map(_is_truetype, fonts)):
            # Matplotlib would put PostScript outlines into a PDF as a TrueType font, which some
            # readers refuse. Under a path effect letters are drawn as outlines.
            text.set_path_effects([Normal()])
    if lacking:
        _warn("".join(sorted(map(chr, lacking))))


def _fonts_and_rest(words: str) -> tuple[tuple[FontEntry, ...], frozenset[int]]:
    """Return the installed fonts that words need, and the letters that none has."""
    usual = _usual_letters(tuple(mpl.rcParams["font.family"]))
    lacking = {ord(letter) for letter in words if letter.isprintable() and not letter.isspace()}
    return _chosen(frozenset(lacking - usual), len(fontManager.ttflist))


@lru_cache(maxsize=256)
def _chosen(lacking: frozenset[int], _known: int) -> tuple[tuple[FontEntry, ...], frozenset[int]]:
    """Choose fonts for letters; asked anew when matplotlib knows more fonts."""
    fonts = []
    if lacking:
        _take_new_fonts()
    while lacking and (best := _best(lacking)):
        fonts.append(best)
        lacking -= _letters_of(best)
    return tuple(fonts), lacking


@lru_cache(maxsize=8)
def _usual_letters(names: tuple[str, ...]) -> frozenset[int]:
    files = (str(findfont(FontProperties(family=[name]))) for name in names)
    return frozenset().union(*(_read(file, 0)[0] for file in files))


def _letters_of(font: FontEntry) -> frozenset[int]:
    return _read(str(font.fname), getattr(font, "index", 0))[0]


def _is_truetype(font: FontEntry) -> bool:
    return _read(str(font.fname), getattr(font, "index", 0))[1]


@cache  # of each font of the machine
def _read(file: str, index: int) -> tuple[frozenset[int], bool]:
    """Return the letters of a face in a font's file, and whether its outlines are TrueType's."""
    try:
        face = FT2Font(file, face_index=index) if index else FT2Font(file)
        outlines = face.get_sfnt_table("maxp")
        truetype = outlines is not None and outlines["version"] == _TRUETYPE
        return frozenset(face.get_charmap()), truetype
    except (OSError, RuntimeError):  # listed when matplotlib looked, and gone or damaged since
        return frozenset(), False


def _best(lacking: frozenset[int]) -> FontEntry | None:
    """Return the font that has most of the letters, None where none has any."""
    able = (font for font in _installed() if lacking & _letters_of(font))
    return min(able, key=lambda font: _preference(font, lacking), default=None)


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


def _preference(font: FontEntry, lacking: frozenset[int]) -> tuple[int, bool, bool, bool, int, str]:
    """Rank fonts: most letters, then plain ones, then TrueType; of East Asian ones the Chinese."""
    unlike = any(kind in font.name for kind in ("Serif", "Mono"))
    weight = font.weight if isinstance(font.weight, int) else _REGULAR
    found = len(lacking & _letters_of(font))
    other = not font.name.endswith(" SC")
    return -found, unlike, not _is_truetype(font), other, abs(weight - _REGULAR), font.name


@lru_cache(maxsize=64)  # once, though a figure is written in several formats
def _warn(letters: str) -> None:
    shown = letters[:_MOST_SHOWN] + ("..." if len(letters) > _MOST_SHOWN else "")
    _LOG.warning(
        "no installed font has %s: drawn as boxes; install one that has, such as Noto Sans CJK",
        shown,
    )
