"""The picture of predictions: what it shows, and that it is the same every time."""

import numpy as np
import pytest
from PIL import Image

from sparsevit_plugin.errors import UserError
from sparsevit_plugin.results.figures import prediction_grid


def item(size=(40, 60), predicted=True):
    mask = np.zeros(size, np.uint8)
    mask[10:30, 20:40] = 255
    probability = np.where(mask > 0, 0.9, 0.1) if predicted else np.zeros(size)
    image = np.full((*size, 3), 200, np.uint8)
    return {"image": image, "mask": mask, "probability": probability, "title": "one"}


def red_pixels(path):
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    return int(((pixels[..., 0] - pixels[..., 1]) > 60).sum())


def test_the_predicted_region_is_tinted(tmp_path):
    prediction_grid([item()], tmp_path / "a.png")
    prediction_grid([item(predicted=False)], tmp_path / "b.png")
    tile = 220 * 220 * 40 // 60
    assert red_pixels(tmp_path / "a.png") == pytest.approx(tile * (20 * 20) / (40 * 60), rel=0.1)
    assert red_pixels(tmp_path / "b.png") == 0


def test_the_same_predictions_give_the_same_file(tmp_path):
    items = [item(), item((60, 40)), item((100, 20))]
    for name in ("a.png", "b.png"):
        prediction_grid(items, tmp_path / name, title="held-out photographs")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize("filled", [0, 255])
def test_masks_of_one_class_have_no_outline(tmp_path, filled):
    prediction_grid([{**item(), "mask": np.full((40, 60), filled)}], tmp_path / "a.png")
    assert Image.open(tmp_path / "a.png").width > 900


def test_bad_items_are_refused(tmp_path):
    with pytest.raises(UserError, match="no picture"):
        prediction_grid([], tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"one: .* differ in size"):
        prediction_grid([{**item(), "mask": np.zeros((2, 2))}], tmp_path / "a.png")
    assert not list(tmp_path.iterdir())
