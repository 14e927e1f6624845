"""Names in any script are readable in figures, and what cannot be drawn is said once."""

import logging
import warnings

import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.t2CharStringPen import T2CharStringPen
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager
from matplotlib.figure import Figure

from sparsevit_plugin.explain.canvas import Canvas
from sparsevit_plugin.results import fonts
from sparsevit_plugin.results.cost_plots import write_figure

TAMPERED = "篡改"  # what the field calls tampering; matplotlib's font has no Chinese


def make_font(path, name, letters, *, truetype=True):
    """Write a font whose letters are all the same black square."""
    builder = FontBuilder(1000, isTTF=truetype)
    pen = TTGlyphPen(None) if truetype else T2CharStringPen(1000, None)
    corners = [(100, 0), (100, 800), (900, 800), (900, 0)]
    pen.moveTo(corners[0])
    for corner in corners[1:]:
        pen.lineTo(corner)
    pen.closePath()
    glyphs = [".notdef", *(f"u{ord(letter):04X}" for letter in letters)]
    builder.setupGlyphOrder(glyphs)
    builder.setupCharacterMap({ord(letter): f"u{ord(letter):04X}" for letter in letters})
    if truetype:
        builder.setupGlyf(dict.fromkeys(glyphs, pen.glyph()))
    else:
        builder.setupCFF(name, {}, dict.fromkeys(glyphs, pen.getCharString()), {})
    builder.setupHorizontalMetrics(dict.fromkeys(glyphs, (1000, 100)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": name, "styleName": "Regular"})
    builder.setupOS2(sTypoAscender=800, sTypoDescender=-200, usWinAscent=800, usWinDescent=200)
    builder.setupPost()
    builder.save(path)
    return str(path)


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """A machine without any font but matplotlib's own; returns the list of its font files."""
    manager, own = font_manager.fontManager, str(font_manager.cbook._get_data_path())
    listed = [font for font in manager.ttflist if str(font.fname).startswith(own)]
    monkeypatch.setattr(manager, "ttflist", listed)
    files = []
    monkeypatch.setattr(fonts, "findSystemFonts", lambda: files)
    caches = (fonts._take_new_fonts, fonts._warn, fonts._usual_letters, fonts._chosen)
    for cache in caches:
        cache.cache_clear()
    yield files
    for cache in caches:
        cache.cache_clear()


def written_quietly(figure, path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib warns of each letter that its fonts lack
        write_figure(figure, path)
    return path.read_bytes()


@pytest.mark.parametrize("ending", ["png", "pdf", "svg"])
def test_letters_come_from_an_installed_font(machine, tmp_path, ending):
    machine.append(make_font(tmp_path / "one.ttf", "Squares", TAMPERED))
    figure = Figure(figsize=(2, 1))
    figure.text(0.1, 0.5, f"SparseViT {TAMPERED}")
    assert written_quietly(figure, tmp_path / f"figure.{ending}")
    assert figure.texts[0].get_fontfamily()[-1] == "Squares"


def test_a_name_of_two_scripts_takes_two_fonts(machine, tmp_path):
    machine += [
        make_font(tmp_path / "one.ttf", "Chinese", TAMPERED),
        make_font(tmp_path / "two.ttf", "Korean", "위조"),
    ]
    assert set(fonts.families(f"{TAMPERED} 위조")[1:]) == {"Chinese", "Korean"}


def test_the_font_with_most_letters_comes_first_then_the_plain_chinese_one(machine, tmp_path):
    machine += [
        make_font(tmp_path / f"{number}.ttf", name, letters)
        for number, (name, letters) in enumerate(
            [
                ("A half", TAMPERED[:1]),
                ("Serif SC", TAMPERED),
                ("Sans JP", TAMPERED),
                ("Sans SC", TAMPERED),
            ]
        )
    ]
    assert fonts.families(TAMPERED)[1:] == ["Sans SC"]


def test_usual_words_keep_the_usual_font(machine, tmp_path):
    machine.append(make_font(tmp_path / "one.ttf", "Squares", "abc"))
    assert fonts.families("abc é → ±\n") == list(font_manager.mpl.rcParams["font.family"])


def test_letters_without_a_font_are_said_once_and_the_figure_is_written(tmp_path, caplog):
    canvas = Canvas(2, 1)
    with caplog.at_level(logging.WARNING), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        canvas.words(1, 0.5, TAMPERED)
        canvas.write(tmp_path / "figure.png")
    said = [record.getMessage() for record in caplog.records if record.name == fonts.__name__]
    assert len(said) == 1
    assert "篡" in said[0]
    assert "install" in said[0]
    assert (tmp_path / "figure.png").stat().st_size


def test_outlines_of_postscript_are_drawn_and_embedded_as_no_font(machine, tmp_path):
    machine.append(make_font(tmp_path / "one.otf", "Outlines", TAMPERED, truetype=False))
    figure = Figure(figsize=(2, 1))
    figure.text(0.1, 0.7, TAMPERED)
    figure.text(0.1, 0.2, "abc")
    written = written_quietly(figure, tmp_path / "figure.pdf")
    assert b"DejaVuSans" in written
    assert b"Outlines" not in written
    machine.append(make_font(tmp_path / "two.ttf", "Squares", TAMPERED))
    fonts._take_new_fonts.cache_clear()
    fonts._take_new_fonts()
    assert fonts.families(TAMPERED)[-1] == "Squares"  # which stays text


def test_a_damaged_font_is_passed_over(machine, tmp_path):
    (tmp_path / "bad.ttf").write_bytes(b"no font")
    machine += [
        str(tmp_path / "bad.ttf"),
        make_font(tmp_path / "one.ttf", "Squares", TAMPERED),
    ]
    assert fonts.families(TAMPERED)[1:] == ["Squares"]


def test_widths_are_those_of_the_font_that_is_drawn(machine, tmp_path):
    machine.append(make_font(tmp_path / "one.ttf", "Squares", TAMPERED))
    canvas = Canvas(4, 1)
    one, two = (canvas.words(1, 0.5, TAMPERED[:count], 10) for count in (1, 2))
    assert canvas.width_of(two) - canvas.width_of(one) == pytest.approx(10 / 72, rel=0.05)
