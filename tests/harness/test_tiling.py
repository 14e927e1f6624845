"""Tiles: what they cover, how their maps are blended, and what the model gets to see."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sparsevit_plugin.cli.main import main
from sparsevit_plugin.errors import UserError
from sparsevit_plugin.harness.config import resolve
from sparsevit_plugin.harness.tiling import Tiled, spans, tiled
from sparsevit_plugin.model.sparsevit import SparseViT_tiny
from sparsevit_plugin.results.store import load

LENGTHS = st.integers(1, 1500)
SIDES = st.integers(1, 16).map(lambda number: 32 * number)


class Pixelwise(nn.Module):
    """A model whose map is a function of each pixel alone: tiles must not change it."""

    def __init__(self, label: bool = True) -> None:
        super().__init__()
        self.label = label
        self.seen: list[tuple[int, ...]] = []
        self.inputs: list[dict] = []

    def forward(self, image, **inputs):
        self.seen.append(tuple(image.shape))
        self.inputs.append(inputs)
        probability = torch.sigmoid(image.mean(1, keepdim=True))
        return {
            "pred_mask": probability,
            "pred_label": probability.flatten(1).amax(1) if self.label else None,
        }


class Constant(nn.Module):
    """A model that answers each call with the next of some values, everywhere."""

    def __init__(self, values: list[float]) -> None:
        super().__init__()
        self.values = list(values)

    def forward(self, image, **_):
        value = self.values.pop(0)
        return {"pred_mask": torch.full_like(image[:, :1], value), "pred_label": None}


@pytest.fixture
def network() -> SparseViT_tiny:
    """A SparseViT whose every weight counts, in eval mode."""
    torch.manual_seed(0)
    model = SparseViT_tiny().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def picture(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- spans ----------------------------------------------------------------------------------------


@given(LENGTHS, SIDES, st.floats(0, 1))
@settings(deadline=None)
def test_tiles_cover_an_axis_on_the_grid_and_their_weights_sum_to_one(length, side, share):
    overlap = int(share * (side - 32))
    covered = spans(length, side, overlap)
    total, count = torch.zeros(length), torch.zeros(length)
    for span in covered:
        assert len(span.weights) == span.length
        assert (span.weights > 0).all() or overlap == 0
        total[span.start : span.stop] += span.weights
        count[span.start : span.stop] += 1
    torch.testing.assert_close(total, torch.ones(length), rtol=0, atol=1e-6)
    assert (total[count == 1] == 1).all()
    assert covered[-1].stop == length
    assert all(span.start % 32 == 0 for span in covered[:-1])
    assert covered[-1].start % 8 == 0
    assert all(span.length == side for span in covered[:-1])
    assert len(covered) == 1 or side - 8 < covered[-1].length <= side
    for before, after in itertools.pairwise(covered):
        assert before.start < after.start
        assert before.stop - after.start >= overlap


def test_weights_fall_towards_a_border_inside_the_photograph_only():
    first, middle, last = spans(512, 256, 128)
    assert first.weights[0] == 1
    assert last.weights[-1] == 1
    for span in (first, middle, last):
        steps = span.weights.diff().abs()
        assert steps.max() < 2 / 128  # no seam: half a cosine's steepest is pi / 2 over the overlap
    assert middle.weights[0] < 1e-3
    assert middle.weights[-1] < 1e-3


@pytest.mark.parametrize(
    ("side", "overlap", "words"),
    [
        (100, None, "multiple of 32"),
        (0, None, "multiple of 32"),
        (64, 33, "0 to 32"),
        (64, -1, "0 to 32"),
    ],
)
def test_numbers_out_of_range_are_refused(side, overlap, words):
    with pytest.raises(UserError, match=words):
        Tiled(Pixelwise(), side, overlap)


def test_a_batch_of_none_is_refused():
    with pytest.raises(UserError, match="at least 1"):
        Tiled(Pixelwise(), 64, batch=0)


# --- blending -------------------------------------------------------------------------------------


def test_a_map_that_is_a_function_of_the_pixel_is_not_changed():
    image = picture(2, 3, 200, 147)
    model = Pixelwise()
    output = Tiled(model, 64, 16, batch=3)(image=image)
    expected = Pixelwise()(image)
    torch.testing.assert_close(output["pred_mask"], expected["pred_mask"], rtol=0, atol=1e-6)
    assert torch.equal(output["pred_label"], expected["pred_label"])
    assert output["pred_mask"].dtype == torch.float32


def test_two_tiles_that_disagree_are_blended_smoothly_and_within_bounds():
    image = torch.zeros(1, 3, 64, 96)
    row = Tiled(Constant([0.0, 1.0]), 64, 32)(image=image)["pred_mask"][0, 0, 0]
    assert (row[:32] == 0).all()
    assert (row[64:] == 1).all()
    ramp = np.sin(np.pi / 2 * (np.arange(32) + 0.5) / 32) ** 2  # and its mirror image sum to one
    np.testing.assert_allclose(row[32:64], ramp, atol=1e-6)


def test_one_tile_is_the_models_own_answer(network):
    image = picture(2, 3, 100, 128)
    with torch.no_grad():
        whole = network(image=image)
        same = Tiled(network, 128)(image=image)
    assert torch.equal(whole["pred_mask"], same["pred_mask"])
    assert torch.equal(whole["pred_label"], same["pred_label"])


@pytest.mark.parametrize("batch", [2, 3, 7, 100])
def test_the_number_of_tiles_at_a_time_changes_nothing_beyond_rounding(network, batch):
    image = picture(2, 3, 160, 147)
    with torch.no_grad():
        one = Tiled(network, 64, 16, batch=1)(image=image)
        several = Tiled(network, 64, 16, batch=batch)(image=image)
    torch.testing.assert_close(one["pred_mask"], several["pred_mask"], rtol=0, atol=1e-5)
    torch.testing.assert_close(one["pred_label"], several["pred_label"], rtol=0, atol=1e-5)


def test_a_tiled_map_is_near_the_whole_images_away_from_seams(network):
    """What a tile shows inside is what the network says of that tile alone."""
    image = picture(1, 3, 64, 160)
    with torch.no_grad():
        blended = Tiled(network, 64, 16)(image=image)["pred_mask"]
        first = network(image=image[..., :64])["pred_mask"]
    assert torch.equal(blended[..., :32], first[..., :32])


def test_a_model_without_scores_gives_none():
    output = Tiled(Pixelwise(label=False), 64, 16)(image=picture(1, 3, 64, 128))
    assert output["pred_label"] is None


# --- what the model sees --------------------------------------------------------------------------


@pytest.mark.parametrize("side", [256, 1024])
def test_what_the_model_sees_at_a_time_does_not_grow_with_the_image(side):
    model = Pixelwise()
    Tiled(model, 128, 32, batch=4)(image=torch.zeros(2, 3, side, side - 5))
    assert max(shape[0] for shape in model.seen) == 4
    assert max(shape[2] for shape in model.seen) == 128
    assert max(shape[3] for shape in model.seen) == 128


def test_masks_are_cut_and_names_repeated():
    model = Pixelwise()
    image = picture(2, 3, 64, 96)
    mask = image[:, :1] > 0
    Tiled(model, 64, 32, batch=4)(
        image=image,
        mask=mask,
        shape_mask=mask,
        label=torch.tensor([0, 1]),
        name=["a", "b"],
        if_predcit_label=False,
    )
    (seen,) = model.inputs
    assert seen["name"] == ["a", "a", "b", "b"]
    assert seen["label"].tolist() == [0, 0, 1, 1]
    assert seen["if_predcit_label"] is False
    for number, (image_number, left) in enumerate([(0, 0), (0, 32), (1, 0), (1, 32)]):
        expected = mask[image_number, :, :, left : left + 64]
        assert torch.equal(seen["mask"][number], expected)
        assert torch.equal(seen["shape_mask"][number], expected)


def test_an_input_that_cannot_be_cut_is_refused():
    with pytest.raises(UserError, match=r"DCT_coef .* leave --tile out"):
        Tiled(Pixelwise(), 64, 32)(image=torch.zeros(1, 3, 64, 96), DCT_coef=torch.zeros(1, 64, 96))


# --- benco test -----------------------------------------------------------------------------------


def config(*flags: str):
    return resolve("test", ["--model", "SparseViT_tiny", *flags], needs_data=False)


def test_tiles_leave_photographs_their_size_unless_a_fit_is_given():
    assert config("--tile", "64").fit == "grid"
    assert config("--tile", "64").origin["fit"] == "--tile"
    assert config("--tile", "64", "--fit", "pad").fit == "pad"
    assert config().fit != "grid"


def test_a_model_is_wrapped_as_the_flags_say(network):
    wrapped = tiled(config("--tile", "64", "--test-batch-size", "5"), network)
    assert isinstance(wrapped, Tiled)
    assert (wrapped.side, wrapped.overlap, wrapped.batch) == (64, 16, 5)
    assert tiled(config(), network) is network
    with pytest.raises(UserError, match="--tile-overlap needs --tile"):
        tiled(config("--tile-overlap", "8"), network)


def test_a_model_that_reads_more_than_pixels_is_refused(network):
    cfg = resolve("test", ["--model", "Cat_Net", "--tile", "64"], needs_data=False)
    with pytest.raises(UserError, match=r"Cat_Net is given more .* leave --tile out"):
        tiled(cfg, network)


def run_test(data: Path, out: Path, *flags: str):
    words = ["test", "--model", "RandomScores", "--image-size", "64", "--num-workers", "0"]
    words += ["--test-data-path", str(data), "--output-dir", str(out), "--device", "cpu"]
    assert main([*words, *flags]) == 0
    return load(out)


def test_benco_test_scores_tiles_and_its_manifest_says_so(tmp_path, make_set):
    data = make_set(tmp_path / "set", count=2, size=(100, 150))
    results = run_test(data, tmp_path / "out", "--tile", "64", "--tile-overlap", "16")
    (manifest,) = results.manifests.values()
    assert (manifest["tile"], manifest["tile_overlap"], manifest["fit"]) == (64, 16, "grid")
    rows = results.rows
    assert (rows[rows["score_at"] == "image"][["height", "width"]] == [100, 150]).all(axis=None)
    run_test(data, tmp_path / "out", "--tile", "96")
    assert len(load(tmp_path / "out").manifests) == 2
