"""Words of every figure lie within it, and on no other words, at a column's and a page's width."""

from itertools import combinations

import numpy as np
import pytest

from sparsevit_plugin.explain.attention import attention_at
from sparsevit_plugin.explain.canvas import Canvas
from sparsevit_plugin.explain.draw_attention import attention_figure
from sparsevit_plugin.explain.draw_features import cam_figure, feature_figure
from sparsevit_plugin.explain.draw_fusion import fusion_figure
from sparsevit_plugin.explain.draw_qualitative import qualitative_figure
from sparsevit_plugin.explain.features import feature_maps
from sparsevit_plugin.explain.fusion import fusion_taps
from sparsevit_plugin.explain.gradcam import Cam
from sparsevit_plugin.explain.qualitative import Candidate, Row
from sparsevit_plugin.explain.subject import Subject
from tests.conftest import photo_array

COLUMN, PAGE = 3.35, 6.9
ROUNDING = 2.0  # pixels of 1/300 inch


def check_words(canvas: Canvas) -> None:
    canvas.figure.draw_without_rendering()
    renderer = canvas.canvas.get_renderer()
    texts = [text for text in canvas.figure.texts if text.get_text()]
    for axes in canvas.figure.axes:
        if axes.axison:
            left, right = axes.get_xlim()
            texts += [
                text for text in axes.get_xticklabels() if left <= text.get_position()[0] <= right
            ]
            texts += axes.get_yticklabels()
    boxes = {text: text.get_window_extent(renderer) for text in texts if text.get_text()}
    wide, high = canvas.figure.get_size_inches() * canvas.figure.dpi
    for text, box in boxes.items():
        assert box.x0 >= -ROUNDING, text
        assert box.y0 >= -ROUNDING, text
        assert box.x1 <= wide + ROUNDING, text
        assert box.y1 <= high + ROUNDING, text
    for (one, a), (other, b) in combinations(boxes.items(), 2):
        across = min(a.x1, b.x1) - max(a.x0, b.x0)
        along = min(a.y1, b.y1) - max(a.y0, b.y0)
        assert min(across, along) <= ROUNDING, (one, other)


@pytest.mark.parametrize(
    ("width", "pairs", "size"),
    [(COLUMN, 1, (30, 90)), (COLUMN, 2, (90, 60)), (PAGE, 3, (60, 60)), (PAGE, 2, (90, 20))],
)
@pytest.mark.parametrize("fit", ["resize", "pad"])
def test_attention(checkpoint, width, pairs, size, fit):
    subject = Subject(checkpoint, device="cpu", fit=fit)
    fed = subject.feed(photo_array(*size, 0))
    sparse, dense = (attention_at(subject, fed, 9, 9, dense=kind) for kind in (False, True))
    check_words(attention_figure(fed, (9, 9), sparse, dense, width=width, pairs=pairs))


@pytest.mark.parametrize("width", [COLUMN, PAGE])
@pytest.mark.parametrize("size", [(60, 90), (90, 40)])
def test_fusion_features_and_cams(subject, width, size):
    fed = subject.feed(photo_array(*size, 0))
    check_words(fusion_figure(fusion_taps(subject), width))
    check_words(fusion_figure(fusion_taps(subject, [fed, fed]), width))
    channels = 2 if width == COLUMN else 6
    check_words(feature_figure(fed, feature_maps(subject, fed), channels, width=width))
    values = np.zeros(size, np.float32)
    cams = [Cam(f"layer.{n}.with.a.long.name", f"layer.{n}.with.a.long.name", values) for n in "ab"]
    check_words(cam_figure(fed, values, cams, "the pixels above 0.5", width=width))


@pytest.mark.parametrize("width", [COLUMN, PAGE])
def test_qualitative(width):
    rows = []
    for number, size in enumerate([(30, 60), (90, 30), (50, 50)]):
        values = np.full(size, 0.6, np.float32)
        mask = values > 1 if number == 1 else values > 0
        name = f"set/Tp/a-name-that-is-rather-long-{number}.jpg"
        rows.append(
            Row(
                Candidate(name, None, None, "set"),
                photo_array(*size, 0),
                None if number == 2 else mask,
                (values * 0, values, values),
                0.5,
                0.1,
            )
        )
    labels = ["SparseViT", "A model of a long name", "$x^{a_$"]  # no formula
    check_words(
        qualitative_figure(rows, labels, width=width, with_f1=True, with_names=True, binary=True)
    )
