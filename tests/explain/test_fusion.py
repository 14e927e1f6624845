"""The fusion's gammas, and the share that each tap has in the fused map."""

import math

import numpy as np
import pytest
import torch

from sparsevit_plugin.errors import UserError
from sparsevit_plugin.explain.fusion import Tap, contributions, fusion_taps, variance_shares
from sparsevit_plugin.explain.subject import Place, Subject
from tests.conftest import photo_array
from tests.explain.helpers import save_model


def test_shares_of_known_parts():
    torch.manual_seed(0)
    x = torch.randn(5, 6, 7)
    offset = 100 * torch.randn(5, 1, 1)  # a channel's mean is no variance
    np.testing.assert_allclose(variance_shares([x, 2 * x + offset]), [1 / 3, 2 / 3], atol=1e-6)
    np.testing.assert_allclose(variance_shares([x, -x / 2]), [2, -1], atol=1e-6)
    np.testing.assert_allclose(variance_shares([x, torch.zeros_like(x)]), [1, 0], atol=1e-9)
    assert all(math.isnan(share) for share in variance_shares([torch.ones(5, 6, 7)] * 2))


def test_shares_are_covariances_with_the_fused_map():
    parts = [torch.randn(4, 5, 6) for _ in range(3)]
    fused = sum(parts).flatten(1).numpy()
    expected = [
        sum(np.cov(part.flatten(1).numpy()[c], fused[c])[0, 1] for c in range(4))
        / sum(np.var(fused[c], ddof=1) for c in range(4))
        for part in parts
    ]
    np.testing.assert_allclose(variance_shares(parts), expected, rtol=1e-5)
    assert sum(variance_shares(parts)) == pytest.approx(1)


@pytest.mark.parametrize("options", [{}, {"fit": "grid"}], ids=["resize", "grid"])
def test_parts_sum_to_the_fused_map(checkpoint, options):
    subject = Subject(checkpoint, device="cpu", **options)
    fed = subject.feed(photo_array(72, 104, 2))
    fused = []
    hook = subject.head().norm.register_forward_pre_hook(lambda _, given: fused.append(given[0]))
    parts = contributions(subject, fed)
    hook.remove()
    rows, columns = parts[0].shape[1:]
    assert (rows, columns) == ((5, 7) if options else (4, 4))
    expected = fused[0][0, :rows, :columns].permute(2, 0, 1)
    torch.testing.assert_close(sum(parts), expected, atol=1e-5, rtol=1e-5)


def test_taps_carry_the_parameters_and_a_scale_of_zero_has_no_share(checkpoint):
    subject = Subject(checkpoint, device="cpu")
    head = subject.head()
    with torch.no_grad():
        head.gamma3.zero_()
    photographs = [subject.feed(photo_array(60, 60, seed)) for seed in range(3)]
    taps = fusion_taps(subject, photographs)
    assert [tap.place.short for tap in taps] == ["3.1", "3.2", "3.3", "3.4", "4.1", "4.2"]
    for number, tap in enumerate(taps, start=1):
        gamma = getattr(head, f"gamma{number}").detach().numpy()
        np.testing.assert_array_equal(tap.gamma, gamma)
        assert tap.mean_magnitude == pytest.approx(np.abs(gamma).mean(), rel=1e-5)
        assert tap.shares.shape == (3,)
    assert taps[2].shares.tolist() == [0, 0, 0]
    np.testing.assert_allclose(np.sum([tap.shares for tap in taps], axis=0), 1, atol=1e-9)


def test_undefined_shares_are_left_out_of_the_mean():
    tap = Tap(Place(3, 1, 8), np.ones(4, np.float32), np.array([0.25, math.nan, 0.75]))
    assert tap.mean_share == 0.5
    assert tap.share_deviation == pytest.approx(np.std([0.25, 0.75], ddof=1))
    alone = Tap(tap.place, tap.gamma, np.array([0.25]))
    assert math.isnan(alone.share_deviation)
    assert math.isnan(Tap(tap.place, tap.gamma).mean_share)


@pytest.mark.parametrize("head", ["sum", "concat", "last"])
def test_a_head_without_scales_says_so(tmp_path, head):
    path = save_model(tmp_path / "other.safetensors", "SparseViT_tiny", f"--head={head}")
    with pytest.raises(UserError, match=f"its head is {head}, which has no gamma"):
        fusion_taps(Subject(path, device="cpu"))
