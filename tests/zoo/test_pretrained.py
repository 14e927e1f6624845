"""Pretraining files are read safely, put where they belong, and refused where they do not fit."""

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sparsevit_plugin.errors import UserError
from sparsevit_plugin.harness.config import resolve
from sparsevit_plugin.harness.pipeline import pretraining_facts
from sparsevit_plugin.zoo.mesorch import Mesorch
from sparsevit_plugin.zoo.pretrained import load_pretrained
from sparsevit_plugin.zoo.trufor import Trufor

from .published import build, card_of, smallest


def marked(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Values that no initialisation gives, of the same shapes."""
    return {
        key: torch.full_like(value, 0.0123) if value.is_floating_point() else value
        for key, value in state.items()
    }


def is_marked(tensor: torch.Tensor) -> bool:
    return bool((tensor == torch.tensor(0.0123)).all())


def write(path: Path, state: dict[str, torch.Tensor], wrap: str = "") -> str:
    torch.save({wrap: state} if wrap else state, path)
    return str(path)


def without(state: dict[str, torch.Tensor], pattern: str) -> dict[str, torch.Tensor]:
    return {key: value for key, value in state.items() if not re.fullmatch(pattern, key)}


def photo_convolution(state: dict[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    """The first convolution as it is pretrained: for three channels, with a bias."""
    width = state[name][:, :3].contiguous()
    return {**state, name: width, name.replace("weight", "bias"): torch.zeros(len(width))}


def resnet50(model):
    return {**without(model.model.state_dict(), ".*num_batches_tracked")}


def mit_b2(model):
    return without(model.model.backbone.state_dict(), "extra_.*|FRMs.*|FFMs.*")


def hrnet(model):
    state = {f"model.{key}": value for key, value in model.FENet.state_dict().items()}
    return {**state, "classifier.weight": torch.zeros(1000, 2048)}


def mae(model):
    state = without(model.encoder_net.state_dict(), ".*rel_pos.*")
    return {**state, "cls_token": torch.zeros(1, 1, 96), "norm.weight": torch.zeros(96)}


def convnext(model):
    return photo_convolution(model.convnext.state_dict(), "stem.0.weight")


def mit_b3(model):
    state = photo_convolution(model.segformer.state_dict(), "patch_embed1.proj.weight")
    return {**state, "head.weight": torch.zeros(1000, 512)}


def glca_mit(model):
    return without(model.segformer.segformer.state_dict(), ".*fusion.*")


def processed_vit(model):
    pair = model.encoder_decoders[0].decoder.state_dict()
    state = {f"blocks.0.{key}": value for key, value in pair.items()}
    state |= {f"blocks.11.{key}": value for key, value in pair.items()}
    state |= {
        f"patch_embed.proj.{key}": v for key, v in model.encoder_net_r[0].state_dict().items()
    }
    return {**state, "pos_embed": model.pos_encoding.data, "cls_token": torch.zeros(1, 1, 768)}


# (model, argument, what the file holds, key it is under, what must and must not be loaded)
FILES = [
    ("MVSSNet", "resnet50_path", resnet50, "", r"(noise_extractor\.)?model\.(?!.*num_batches).*"),
    ("Trufor", "mit_b2_pretrain_weights", mit_b2, "", r"model\.backbone\.(?!FRMs|FFMs).*"),
    (
        "Trufor",
        "np_pretrain_weights",
        lambda m: m.model.dncnn.state_dict(),
        "network",
        r"model\.dncnn\.(?!.*num_batches).*",
    ),
    ("SPAN", "weight_path", lambda m: m.featex.state_dict(), "", r"featex\..*"),
    ("PSCC_Net", "pretrain_path", hrnet, "", r"FENet\.(?!.*num_batches).*"),
    ("IML_ViT", "vit_pretrain_path", mae, "model", r"encoder_net\.(?!.*rel_pos).*"),
    ("Mesorch", "conv_pretrain_path", convnext, "", r"convnext\.(?!stem\.0).*"),
    ("Mesorch", "seg_pretrain_path", mit_b3, "", r"segformer\.(?!patch_embed1\.proj).*"),
    (
        "MSCDI_Net",
        "backbone_weights_path",
        glca_mit,
        "",
        r"segformer\.segformer\.(?!.*fusion).*",
    ),
    (
        "ObjectFormer",
        "init_weight_path",
        processed_vit,
        "",
        r"encoder_decoders\.(?!.*object_prototypes).*|encoder_net_[rq]\..*|pos_encoding",
    ),
]


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file[0]}-{file[1]}")
def test_a_file_goes_where_it_belongs_and_is_counted(tmp_path, file):
    name, argument, of, wrap, expected = file
    path = write(tmp_path / "weights.pth", marked(of(build(name))), wrap)
    model = build(name, **{argument: path})
    got = {
        key
        for key, value in model.state_dict().items()
        if value.is_floating_point() and is_marked(value)
    }
    wanted = {key for key in model.state_dict() if re.fullmatch(expected, key)}
    assert wanted
    assert got == wanted
    report = model.load_report.to_dict()[argument]
    assert report["path"] == path
    assert report["counts"]["loaded"] > 0
    assert report["counts"]["skipped"] == 0


@pytest.mark.parametrize(
    ("argument", "of", "name"),
    [
        ("conv_pretrain_path", convnext, "convnext.stem.0.weight"),
        ("seg_pretrain_path", mit_b3, "segformer.patch_embed1.proj.weight"),
    ],
)
def test_mesorchs_first_convolutions_get_the_photographs_channels(tmp_path, argument, of, name):
    fresh = build("Mesorch")
    path = write(tmp_path / "weights.pth", marked(of(fresh)))
    weight = build("Mesorch", **{argument: path}).state_dict()[name]
    assert is_marked(weight[:, :3])
    assert not is_marked(weight[:, 3:])
    assert weight[:, 3:].std() > 0


def test_upstreams_trufor_leaves_the_noise_branch_random(tmp_path):
    path = write(tmp_path / "mit_b2.pth", marked(mit_b2(build("Trufor"))))
    encoder = build("Trufor", mit_b2_pretrain_weights=path, pretrain_branches="upstream").model
    state = encoder.backbone.state_dict()
    assert is_marked(state["block1.0.attn.q.weight"])
    assert not is_marked(state["extra_block1.0.attn.q.weight"])


def test_phase_3_starts_from_what_phase_2_left(tmp_path):
    before = build("Trufor").state_dict()
    path = str(tmp_path / "phase2.safetensors")
    save_file(marked(before), path)
    model = Trufor(phase=3, det_resume_ckpt=path)
    assert all(is_marked(p) for p in model.parameters())
    assert model.load_report.to_dict()["det_resume_ckpt"]["counts"]["loaded"] == len(before)


HEAVY = ("MVSSNet",)


@pytest.mark.parametrize(
    ("name", "argument", "of"),
    [(name, argument, of) for name, argument, of, _, _ in FILES if name not in HEAVY],
)
def test_a_file_that_does_not_fit_is_one_line_that_names_it(tmp_path, name, argument, of):
    state = of(build(name))
    shapes = {key: torch.zeros(*value.shape, 2) for key, value in state.items()}
    path = write(tmp_path / "shapes.pth", shapes)
    with pytest.raises(
        UserError, match=rf"^{path}: does not fit \w+: .*of another shape"
    ) as caught:
        build(name, **{argument: path})
    assert "\n" not in str(caught.value)


class Code:
    """Would run if it were unpickled."""

    def __reduce__(self):
        return (exec, ("raise SystemExit('run')",))


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        ({"some.weight": torch.zeros(2)}, "none of its tensors has a place there"),
        ({"init_conv.weight": torch.zeros(4, 3, 5, 5)}, r"\d+ tensors missing \(first: Bayar"),
        ({"weights": Code()}, "would run code"),
        ([1, 2], "holds a list"),
        (None, "no such weights file"),
        (b"junk", "not a checkpoint|damaged"),
    ],
)
def test_what_is_wrong_with_a_file(tmp_path, content, wanted):
    path = tmp_path / "wrong.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(UserError, match=rf"^{path}: .*({wanted})"):
        build("SPAN", weight_path=str(path))


def test_a_part_stays_as_it_was_when_a_file_is_refused(tmp_path):
    part = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    before = {key: value.clone() for key, value in part.state_dict().items()}
    path = write(tmp_path / "half.pth", {"0.weight": torch.zeros(2, 2), "0.bias": torch.zeros(2)})
    with pytest.raises(UserError, match=r"2 tensors missing \(first: 1\.weight\)"):
        load_pretrained(part, path)
    assert all(torch.equal(value, before[key]) for key, value in part.state_dict().items())
    assert load_pretrained(part, path, least=0.5).missing == ("1.weight", "1.bias")
    assert load_pretrained(part, path, may_lack=r"1\..*").loaded == ("0.weight", "0.bias")


def test_an_hrnet_of_another_depth_is_taken_and_counted(tmp_path):
    state = hrnet(build("PSCC_Net"))
    path = write(tmp_path / "hrnet.pth", without(state, r"model\.stage4\.0\.fuse.*"))
    report = build("PSCC_Net", pretrain_path=path).load_report.parts["pretrain_path"]
    assert report.missing
    assert all(name.startswith("stage4.0.fuse") for name in report.missing)
    assert report.dropped == ("classifier.weight",)
    path = write(tmp_path / "stem.pth", {"conv1.weight": state["model.conv1.weight"]})
    with pytest.raises(UserError, match="tensors missing"):
        build("PSCC_Net", pretrain_path=path)


def test_manifests_say_which_file_was_used(tmp_path):
    path = write(tmp_path / "IMTFEv4.pt", build("SPAN").featex.state_dict())
    flags = ["--model", "SPAN", "--data-path", "x", "--weights", "card"]
    cfg = resolve("train", [*flags, "--weights-root", str(tmp_path)])
    assert cfg.model_arguments["weight_path"] == path
    facts = pretraining_facts(cfg, cfg.model_class(**cfg.model_arguments))
    assert facts["pretraining"]["weight_path"]["file"] == "IMTFEv4.pt"
    assert facts["pretraining_report"]["weight_path"]["counts"]["missing"] == 0


def test_every_argument_of_every_card_takes_none():
    for name in ("SPAN", "PSCC_Net", "IML_ViT", "ObjectFormer"):
        arguments = dict.fromkeys(card_of(name).weight_arguments)
        assert arguments
        build(name, **arguments)
    assert smallest("SPAN")[0] == 32


def test_upstreams_switch_that_downloads_asks_for_the_file():
    with pytest.raises(UserError, match="name the file instead, with --conv-pretrain-path"):
        Mesorch(conv_pretrain=True)
