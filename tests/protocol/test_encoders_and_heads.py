"""The grid of encoders and heads: every row trains, and rows of one head cost nearly the same."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from sparsevit_plugin.cli.main import main
from sparsevit_plugin.harness.pipeline import build_model
from sparsevit_plugin.model.head import FusionHead, MlpDecoder
from sparsevit_plugin.protocol.request import Request, read_rows, requested_protocol, row_config

NAME = "encoders-and-heads"
ENCODERS = ("SparseViT", "SparseViT S=1", "ConvNeXt", "Swin", "ViT")
MOST_APART = 1.05
"""The dearest encoder with one head costs no more than this many times the cheapest."""


@pytest.fixture(scope="module")
def configs():
    request = Request(NAME, ())
    protocol = requested_protocol(request)
    return {
        row.label: row_config(request, protocol, row, 0) for row in read_rows(request, protocol)
    }


@pytest.fixture(scope="module")
def models(configs):
    return {label: build_model(cfg) for label, cfg in configs.items()}


def macs(model, side):
    # A fused kernel of attention is no product that the counter knows.
    plain = sdpa_kernel(SDPBackend.MATH)
    with torch.no_grad(), plain, FlopCounterMode(display=False) as counter:
        model.eval()(torch.zeros(1, 3, side, side))
    return counter.get_total_flops() / 2


def test_it_is_every_encoder_with_both_heads(models):
    assert list(models) == [
        f"{encoder} + {head}" for encoder in ENCODERS for head in ("LFF", "MLP")
    ]
    for label, model in models.items():
        kind = FusionHead if label.endswith("LFF") else MlpDecoder
        assert sum(isinstance(module, kind) for module in model.modules()) == 1


def test_every_row_has_the_same_steps_and_starts_from_random_weights(configs):
    settled = (
        "epochs",
        "batch_size",
        "accum_iter",
        "lr",
        "optimizer",
        "image_size",
        "augmentation",
    )
    assert len({tuple(getattr(cfg, name) for name in settled) for cfg in configs.values()}) == 1
    arguments = [cfg.model_arguments for cfg in configs.values()]
    assert {(a["dice_weight"], a["lff_init"]) for a in arguments} == {(2.0, 1.0)}
    assert not any(a.get("pretrained_path") for a in arguments)


def test_rows_of_one_head_cost_nearly_the_same(models, configs):
    cost = {label: macs(model, configs[label].image_size) for label, model in models.items()}
    fused = [cost[f"{encoder} + LFF"] for encoder in ENCODERS]
    assert max(fused) < MOST_APART * min(fused)
    # The decoder reads finer maps than LFF, of all encoders but the ViT, which has none.
    decoded = [cost[f"{encoder} + MLP"] for encoder in ENCODERS[:-1]]
    assert max(decoded) < MOST_APART * min(decoded)
    assert fused[-1] < cost["ViT + MLP"] < min(decoded)


def test_every_row_makes_a_step_of_training(models):
    torch.manual_seed(0)
    image, mask = torch.randn(2, 3, 64, 64), torch.zeros(2, 1, 64, 64)
    for model in models.values():
        loss = model.train()(image, mask)["backward_loss"]
        loss.backward()
        assert torch.isfinite(loss)
        assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_its_rows_are_counted_before_they_are_run(capsys):
    words = ["--rows-of", NAME, "--models", "ViT + *", "--format", "csv"]
    assert main(["complexity", *words]) == 0
    assert [line.split(",")[0] for line in capsys.readouterr().out.splitlines()] == [
        "model",
        "ViT + LFF",
        "ViT + MLP",
    ]
    assert main(["complexity", "--rows-of", NAME, "--image-size", "64"]) == 2
    assert "--rows-of counts each row at its own size" in capsys.readouterr().err
