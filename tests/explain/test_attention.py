"""Attention weights: those that the model computed with, and what is drawn of them."""

import numpy as np
import pytest
import torch

from sparsevit_plugin.errors import UserError
from sparsevit_plugin.explain.attention import (
    attention_at,
    attention_from,
    evaluated_densely,
)
from sparsevit_plugin.explain.draw_attention import attention_figure
from sparsevit_plugin.explain.subject import Subject, sparse_blocks
from sparsevit_plugin.model.attention import Spacing, SparseAttention
from tests.conftest import photo_array

GRIDS = [
    (Spacing(4), (8, 8)),
    (Spacing(2), (7, 5)),
    (Spacing(3), (8, 4)),
    (Spacing(8), (5, 6)),
    (Spacing(1), (3, 7)),
    (Spacing(4, "group", 16), (9, 11)),
]


@pytest.mark.parametrize(("spacing", "size"), GRIDS)
def test_weights_times_values_are_the_modules_output(spacing, size):
    torch.manual_seed(0)
    module = SparseAttention(24, 3, spacing).eval()
    torch.nn.init.normal_(module.qkv.weight, std=0.7)  # far from even attention
    height, width = size
    grid = torch.randn(1, height, width, 24)
    with torch.no_grad():
        values = module.embed(grid)[0].unflatten(-1, (3, 3, 8))[:, :, 2]  # H x W x heads x d
        mixed = torch.empty(1, height, width, 24)
        for row in range(height):
            for column in range(width):
                stride, weights = attention_from(module, grid, (row, column))
                sums = weights.sum((1, 2))
                torch.testing.assert_close(sums, torch.ones(3), atol=1e-6, rtol=0)
                same_row = torch.arange(height) % stride.height == row % stride.height
                same_column = torch.arange(width) % stride.width == column % stride.width
                outside = ~(same_row[:, None] & same_column[None])
                assert not weights[:, outside].any()
                assert (weights[:, ~outside] > 0).all()
                mixed[0, row, column] = torch.einsum("hrc,rchd->hd", weights, values).flatten()
        torch.testing.assert_close(module.proj(mixed), module(grid), atol=1e-5, rtol=0)
        assert weights.max() > 1.5 / (~outside).sum() or (~outside).sum() == 1


@pytest.mark.parametrize(
    "options",
    [{}, {"fit": "grid"}, {"fit": "pad", "image_size": 96}, {"image_size": 90}],
    ids=["resize", "grid", "pad", "odd"],
)
@pytest.mark.parametrize("dense", [False, True], ids=["sparse", "dense"])
def test_weights_are_those_of_the_models_own_pass(checkpoint, monkeypatch, options, dense):
    """What the model computed at the token, in its own forward pass, follows from the weights."""
    passes = []
    mix = SparseAttention.mix

    def recording(self, qkv):
        result = mix(self, qkv)
        passes.append((self, qkv, result))
        return result

    monkeypatch.setattr(SparseAttention, "mix", recording)
    subject = Subject(checkpoint, device="cpu", **options)
    fed = subject.feed(photo_array(75, 109, 3))
    found = attention_at(subject, fed, 77, 31, dense=dense)
    assert len(found) == len(passes) == 6
    row, column = fed.place(77, 31)
    for one, (module, qkv, result) in zip(found, passes, strict=True):
        side = {3: 16, 4: 32}[one.place.stage]
        assert one.token == (row // side, column // side)
        heads, height, width = one.weights.shape
        assert qkv.shape[1:3] == (height, width)
        np.testing.assert_allclose(one.weights.sum((1, 2)), 1, atol=1e-5)
        value = qkv[0].unflatten(-1, (3, heads, -1))[:, :, 2]
        mixed = torch.einsum("hrc,rchd->hd", torch.from_numpy(one.weights), value).flatten()
        expected = result[0][one.token]
        torch.testing.assert_close(module.proj(mixed), expected, atol=1e-5, rtol=1e-5)
        assert (one.weights > 0).any(0).sum() <= one.attended.sum()
        assert not one.weights[:, ~one.attended].any()
        if dense:
            assert one.attended.all()
            assert one.stride == (1, 1)


def test_a_block_without_sparsity_is_the_same_densely_but_for_what_comes_before(subject):
    fed = subject.feed(photo_array(60, 60, 1))
    sparse = attention_at(subject, fed, 10, 10)
    dense = attention_at(subject, fed, 10, 10, dense=True)
    assert [one.place for one in sparse] == [one.place for one in dense]
    assert dense[0].place.rate == 8  # the name that it was trained under
    # The 4 x 4 grid of stage 3 at 64 x 64: a stride never exceeds the side.
    assert [tuple(one.stride) for one in sparse] == [(4, 4), (4, 4), (2, 2), (1, 1), (2, 2), (1, 1)]
    assert not np.allclose(sparse[-1].weights, dense[-1].weights, atol=1e-3)


def test_looking_densely_leaves_the_model_as_it_was(subject):
    backbone = subject.backbone("attention is drawn")
    before = [block.attn.spacing for block in sparse_blocks(backbone).values()]
    fed = subject.feed(photo_array(60, 60, 1))
    expected, _ = subject.probability(fed)
    with evaluated_densely(backbone):
        changed, _ = subject.probability(fed)
    assert not np.allclose(changed, expected, atol=1e-4)

    def fail() -> None:
        with evaluated_densely(backbone):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert [block.attn.spacing for block in sparse_blocks(backbone).values()] == before
    np.testing.assert_array_equal(subject.probability(fed)[0], expected)
    assert not any(block._forward_pre_hooks for block in sparse_blocks(backbone).values())


def test_heads_their_mean_and_effective_tokens(subject):
    one = attention_at(subject, subject.feed(photo_array(60, 60, 1)), 10, 10)[3]
    heads = [one.of_head(number) for number in range(1, len(one.weights) + 1)]
    np.testing.assert_allclose(one.of_head(None), np.mean(heads, axis=0), rtol=1e-6)
    assert not np.allclose(heads[0], heads[1])
    weights = one.of_head(2)
    assert 1 <= one.effective_tokens(2) <= weights.size
    assert one.effective_tokens(2) == pytest.approx(np.exp(-(weights * np.log(weights)).sum()))
    for head in (0, len(heads) + 1):
        with pytest.raises(UserError, match="has the heads 1 to 3"):
            one.of_head(head)


def test_tokens_that_are_not_attended_to_are_visibly_masked(checkpoint):
    """In the drawn panel: grey and nearly white outside the group, coloured inside."""
    subject = Subject(checkpoint, device="cpu", image_size=128)
    fed = subject.feed(photo_array(128, 128, 5))
    sparse, dense = (attention_at(subject, fed, 40, 100, dense=kind) for kind in (False, True))
    figure = attention_figure(fed, (40, 100), sparse[1:2], dense[1:2], width=6.9)
    # The photograph, the scale of colours, and two panels.
    panels = [axes for axes in figure.figure.axes if axes.patches]
    assert len(panels) == 2
    trained, full = (np.asarray(axes.images[0].get_array()) for axes in panels)
    one = sparse[1]
    assert (one.token, tuple(one.stride)) == ((6, 2), (4, 4))
    scale = trained.shape[0] / 8
    for row in range(8):
        for column in range(8):
            pixel = trained[int((row + 0.5) * scale), int((column + 0.5) * scale)].astype(int)
            if row % 4 == 2 and column % 4 == 2:
                assert np.ptp(pixel) > 25, "a token of the group has a colour"
            else:
                assert np.ptp(pixel) == 0, "a token outside is grey"
                assert pixel.min() > 200, "and nearly white"
    assert (np.ptp(full.astype(int), axis=-1) > 0).all()
    (frame, _) = panels[0].patches
    assert frame.get_xy() == (2 * scale, 6 * scale)
    assert frame.get_width() == frame.get_height() == scale
