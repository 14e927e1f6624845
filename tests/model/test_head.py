"""The fusion heads, against the paper's formula written out."""

import pytest
import torch
from torch.nn import functional as F

from sparsevit_plugin.model.backbone import grid_size
from sparsevit_plugin.model.head import FusionHead, MlpDecoder, enlarge
from sparsevit_plugin.model.sparsevit import SparseViT_tiny


def taps(widths3, widths4, height, width):
    rows, columns = -(-height // 2), -(-width // 2)
    return (
        [torch.randn(2, height, width, channels) for channels in widths3],
        [torch.randn(2, rows, columns, channels) for channels in widths4],
    )


def written_out(head, taps3, taps4, size):
    """Learnable Feature Fusion: project, enlarge, scale, sum, normalise, project."""
    total = 0
    for number, tap in enumerate([*taps3, *taps4], start=1):
        maps = tap.permute(0, 3, 1, 2)
        if hasattr(head, f"conv_layer{number}"):
            maps = getattr(head, f"conv_layer{number}")(maps)
        if number > len(taps3):
            maps = F.interpolate(maps, size=size, mode="bilinear", align_corners=False)
        scale = getattr(head, f"gamma{number}", torch.ones(maps.shape[1]))
        total = total + scale[:, None, None] * maps
    normalised = head.norm(total.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    return head.conv_last(normalised)


@pytest.mark.parametrize("fusion", ["lff", "sum"])
@pytest.mark.parametrize(
    ("widths3", "widths4"),
    [((6, 6, 6, 6), (8, 8)), ((6,), (8,)), ((8, 8), (10, 10, 10)), ((), (8,)), ((6, 8), ())],
)
def test_sum_of_taps(fusion, widths3, widths4):
    torch.manual_seed(0)
    head = FusionHead(widths3, widths4, dim=8, fusion=fusion)
    for name, tensor in head.named_parameters():
        if name.startswith("gamma"):
            torch.nn.init.normal_(tensor)
    taps3, taps4 = taps(widths3, widths4, 6, 10)
    actual = head(taps3, taps4, (6, 10))
    torch.testing.assert_close(
        actual, written_out(head, taps3, taps4, (6, 10)), rtol=1e-4, atol=1e-5
    )


def test_published_head_projects_only_the_narrow_taps():
    head = FusionHead([320] * 4, [512] * 2)
    names = {name.split(".")[0] for name, _ in head.named_parameters()}
    projections = {name for name in names if name.startswith("conv_layer")}
    assert projections == {f"conv_layer{number}" for number in (1, 2, 3, 4)}
    assert {name for name in names if name.startswith("gamma")} == {
        f"gamma{number}" for number in range(1, 7)
    }


def test_concat_is_a_convolution_of_all_taps_side_by_side():
    torch.manual_seed(0)
    head = FusionHead((6, 6), (8,), dim=8, fusion="concat")
    assert head.conv_fuse.weight.shape == (8, 20, 1, 1)
    assert not any("gamma" in name or "conv_layer" in name for name in head.state_dict())
    taps3, taps4 = taps((6, 6), (8,), 5, 7)
    assert head(taps3, taps4, (5, 7)).shape == (2, 1, 5, 7)


def test_enlarged_odd_grids_keep_their_scale():
    """A grid padded to an even side is enlarged by two and cropped, not squeezed."""
    ramp = torch.arange(4.0).expand(1, 1, 3, 4)
    assert enlarge(ramp, (5, 7)).shape == (1, 1, 5, 7)
    torch.testing.assert_close(enlarge(ramp, (5, 7))[0, 0, 0, 1:6].diff(), torch.full((4,), 0.5))


def test_sparsevits_decoder_reads_the_last_map_of_every_stage():
    torch.manual_seed(0)
    model = SparseViT_tiny(head="mlp", lff_dim=24).eval()
    assert type(model.lmu) is MlpDecoder
    assert [layer.in_channels for layer in model.lmu.projections] == [32, 64, 96, 128]
    image = torch.randn(1, 3, 70, 131)
    with torch.no_grad():
        maps = model.encoder_net.stage_maps(image)
        taps3, taps4 = model.encoder_net(image)
        small = model.lmu(maps)
        logits = model.logits(image)
    sizes = [grid_size(70, 131, stage) for stage in (1, 2, 3, 4)]
    assert [tuple(one.shape[-2:]) for one in maps] == sizes
    assert torch.equal(maps[2], taps3[-1].permute(0, 3, 1, 2))
    assert torch.equal(maps[3], taps4[-1].permute(0, 3, 1, 2))
    assert small.shape == (1, 1, *sizes[0])
    enlarged = F.interpolate(small, scale_factor=4, mode="bilinear", align_corners=False)
    assert torch.equal(logits, enlarged[..., :70, :131])


def test_the_decoder_is_segformers_written_out():
    torch.manual_seed(0)
    decoder = MlpDecoder((3, 5), dim=4).eval()
    fine, coarse = torch.randn(2, 3, 8, 6), torch.randn(2, 5, 4, 3)
    large = F.interpolate(coarse, size=(8, 6), mode="bilinear", align_corners=False)
    # Projection is linear and interpolation keeps constants: their order does not matter.
    both = [layer(x) for layer, x in zip(decoder.projections, (fine, large), strict=True)]
    norm = decoder.fuse[1]
    fused = F.conv2d(torch.cat(both, 1), decoder.fuse[0].weight)
    fused = torch.relu(fused / (1 + norm.eps) ** 0.5)  # statistics of a fresh norm: 0 and 1
    wanted = decoder.classifier(fused)
    torch.testing.assert_close(decoder((fine, coarse)), wanted, rtol=1e-5, atol=1e-6)
