"""LaTeX: it compiles where a TeX is installed, and its structure holds everywhere."""

import re
import shutil
import subprocess

import numpy as np
import pytest

from sparsevit_plugin.results.latex import escape, to_latex
from sparsevit_plugin.results.layout import Block, LaidCell, LaidColumn, LaidRow, Layout, Part
from tests.results.helpers import in_memory, manifest, scored

ODD = 'A_b & 100% #1 {x} $y$ ~^\\ <z> | "q" é ± ▲ ▼ ·'
TEX = [name for name in ("pdflatex", "tectonic") if shutil.which(name)]


def two(values):
    return [{**row, "auc": value} for row, value in zip(scored(values), values, strict=True)]


def odd_table(**more):
    """Seeds, groups, published rows, a test, missing cells and names of every kind."""
    generator = np.random.default_rng(0)
    cells = []
    counted = {"parameters": 5e7, "macs": 4e10, "counter": "c_d", "image_size": 512}
    for model, group, seeds in ((ODD, "", 1), ("SparseViT", "", 3), ("B", "recipe a_b & c", 2)):
        for seed in range(seeds):
            extra = {"seed": seed, "series": model, "group": group, "complexity": counted}
            one = manifest(model, f"{model}{seed}", **extra)
            sets = ("CASIAv1", "NIST16") if model != "B" else ("CASIAv1",)
            cells += [(one, name, two(generator.random(5))) for name in sets]
    return in_memory(*cells).table(
        ["pixel_f1", "pixel_auc"], protocol="mvss", published=True, paired="auto", **more
    )


def rows_of(text):
    """Lines of the tabular as lists of cells, spans repeated."""
    body = text.partition(r"\begin{tabular}")[2].partition(r"\end{tabular}")[0]
    for line in body.splitlines():
        if line.endswith(r"\\"):
            cells = re.split(r"(?<!\\)&", line.removesuffix(r"\\"))
            spans = [re.match(r"\s*\\multicolumn\{(\d+)\}", cell) for cell in cells]
            yield sum(int(span[1]) if span else 1 for span in spans)


def check_structure(text):
    opened = re.findall(r"\\(begin|end)\{(\w+)\}", text)
    stack = []
    for what, name in opened:
        if what == "begin":
            stack.append(name)
        else:
            assert stack.pop() == name
    assert not stack
    plain = re.sub(r"\\.", "", text)  # without commands' first letters and escaped characters
    assert plain.count("{") == plain.count("}")
    assert plain.count("$") % 2 == 0
    width = re.search(r"\\begin\{tabular\}\{(\w+)\}", text)[1]
    assert set(rows_of(text)) == {len(width)}
    for command in ("toprule", "midrule", "bottomrule"):
        assert f"\\{command}\n" in text


@pytest.mark.parametrize("more", [{}, {"cells": "joined"}, {"sets": ["CASIAv1"]}])
def test_structure(more):
    text = odd_table(**more).to_latex()
    check_structure(text)
    assert "&" not in text.partition(r"\begin{tabular}")[0].replace(r"\&", "")
    assert r"\label{tab:mvss}" in text
    assert r"\emph{published, not measured here: as reported by RelayFormer}" in text


def test_heads_are_shared_and_ruled():
    cells = [(manifest("A"), name, two([0.5, 0.6])) for name in ("x", "y")]
    lines = in_memory(*cells).table(["pixel_f1", "pixel_auc"]).to_latex().splitlines()
    top = lines.index(r"\toprule")
    assert lines[top + 1].startswith(r" & \multicolumn{2}{c}{x ($n=2$)} & \multicolumn{2}{c}{y")
    assert lines[top + 2] == r"\cmidrule(lr){2-3}\cmidrule(lr){4-5}\cmidrule(lr){6-7}"
    assert lines[top + 3] == r"model & F1 & AUC & F1 & AUC & F1 & AUC \\"
    single = in_memory((manifest("A"), "casia", scored([0.5]))).table().to_latex()
    assert "cmidrule" not in single
    assert r"model & casia ($n=1$) \\" in single


def test_cells():
    parts = (Part("0.646 ± 0.012", "best"), Part("0.5", "second"), Part("-"))
    layout = Layout(
        (LaidColumn("x", "", "set"), LaidColumn("y", "", "paired")),
        (
            Block(
                "",
                "measured",
                (
                    LaidRow("A", (1, 2), (LaidCell(parts, "7", (3,)), LaidCell((Part("-"),)))),
                    LaidRow("B", (), (LaidCell((Part("-0.5"),)), LaidCell((Part("▼ -0.1"),)))),
                ),
            ),
        ),
        "A caption: 100 % of a_b.",
        ("first", "second"),
        ("A remark.",),
    )
    text = to_latex(layout, "a b_c")
    assert (
        r"A\textsuperscript{1,2} & \textbf{0.646 $\pm$ 0.012} / \underline{0.5} / -- (n=7)"
        r"\textsuperscript{3} & -- \\"
    ) in text
    assert r"B & $-$0.5 & $\bigtriangledown$ $-$0.1 \\" in text
    assert r"\caption{A caption: 100 \% of a\_b.}" in text
    assert r"\textsuperscript{2} second\par" in text
    assert r"\label{tab:a-b-c}" in text


def test_everything_is_escaped():
    assert [escape(text) for text in ("[A] b", "*a", "a [b]*")] == ["{}[A] b", "{}*a", "a [b]*"]
    assert escape("a_b & 1% #2 $3 {x}") == r"a\_b \& 1\% \#2 \$3 \{x\}"
    assert escape("\\ ~ ^ < > |") == (
        r"\textbackslash{} \textasciitilde{} \textasciicircum{} \textless{} \textgreater{} "
        r"\textbar{}"
    )
    assert escape("two\nlines") == "two lines"


@pytest.mark.skipif(not TEX, reason="no TeX is installed; the structure is tested all the same")
def test_it_compiles(tmp_path):
    text = odd_table().to_latex(standalone=True)
    check_structure(text)
    (tmp_path / "table.tex").write_text(text, encoding="utf-8")
    flags = ["-interaction=nonstopmode", "-halt-on-error"] if TEX[0] == "pdflatex" else []
    done = subprocess.run(
        [TEX[0], *flags, "table.tex"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in done.stdout
    assert (tmp_path / "table.pdf").stat().st_size > 1000
