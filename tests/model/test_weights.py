"""Weights files: what loads, what is refused, and what the report says."""

import argparse
import contextlib
import json
import os
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sparsevit_plugin.errors import UserError
from sparsevit_plugin.model.sparsevit import SparseViT, SparseViT_tiny
from sparsevit_plugin.model.weights import (
    guess_model,
    load_into,
    load_uniformer,
    read_checkpoint,
    save_safetensors,
)


@pytest.fixture
def tiny():
    return SparseViT_tiny()


def same(model, state, keys=None):
    own = model.state_dict()
    return all(torch.equal(own[key], state[key]) for key in keys or own)


def marked(state):
    """Copy a state dict, setting every tensor to a value that no initialisation draws."""
    return {key: torch.full_like(value, 3) for key, value in state.items()}


def uniformer_state(tiny, prefix="", gamma=True):
    """Make weights with UniFormer's names and the tiny variant's widths."""
    state = {}
    for key, value in marked(tiny.encoder_net.state_dict()).items():
        own = ".mlp.dwconv." in key or key.startswith(("norm3.", "norm4."))
        if not own and (gamma or ".gamma_" not in key):
            state[prefix + key] = value
    for stage, blocks, width in ((3, 4, 96), (4, 2, 128)):
        for block in range(blocks):
            state[f"{prefix}blocks{stage}.{block}.pos_embed.weight"] = torch.ones(width, 1, 3, 3)
            state[f"{prefix}blocks{stage}.{block}.pos_embed.bias"] = torch.ones(width)
    norm = nn.BatchNorm2d(128).state_dict()
    return (
        state
        | {f"{prefix}norm.{key}": value for key, value in norm.items()}
        | {
            "head.weight": torch.ones(1000, 128),
            "head.bias": torch.ones(1000),
        }
    )


@pytest.mark.slow
def test_checkpoint_written_by_upstream_loads_whole(make_upstream, tmp_path):
    """The file holds an argparse.Namespace, the optimiser, and 58 tensors that nothing uses."""
    from IMDLBenCo.training_scripts.utils.misc import NativeScalerWithGradNormCount, save_model

    upstream = make_upstream()
    optimiser = torch.optim.AdamW(upstream.parameters(), lr=1e-4)
    args = argparse.Namespace(output_dir=str(tmp_path), model="SparseViT", lr=1e-4, device="cpu")
    save_model(args, 12, upstream, upstream, optimiser, NativeScalerWithGradNormCount())
    path = tmp_path / "checkpoint-12.pth"
    assert read_checkpoint(path).metadata == {"epoch": 12, "args": vars(args)}

    model = SparseViT()
    report = load_into(model, path)
    assert (report.missing, report.unexpected, report.skipped) == ((), (), ())
    assert len(report.dropped) == 58
    assert same(model, upstream.state_dict())

    back = tmp_path / "ours.safetensors"
    save_safetensors(model, back)
    report = load_into(upstream, back)
    assert len(report.missing) == 58
    assert report.unexpected == ()


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"model": state},
        lambda state: {"state_dict": state, "epoch": 3},
    ],
)
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "backbone."])
def test_layouts_and_prefixes(tiny, tmp_path, wrap, prefix):
    state = marked(tiny.state_dict())
    path = tmp_path / "weights.pth"
    torch.save(wrap({prefix + key: value for key, value in state.items()}), path)
    report = load_into(tiny, path)
    assert set(report.loaded) == set(state)
    assert same(tiny, state)


def test_safetensors_keep_weights_and_metadata(tiny, tmp_path):
    path = tmp_path / "a" / "weights.safetensors"
    save_safetensors(tiny, path, {"epoch": "7"})
    checkpoint = read_checkpoint(path)
    assert checkpoint.metadata["epoch"] == "7"
    assert same(tiny, checkpoint.state)
    assert [file.name for file in path.parent.iterdir()] == ["weights.safetensors"]


def test_equal_weights_are_equal_files(tiny, tmp_path):
    """The library's order of the metadata differs from process to process."""
    path = tmp_path / "weights.safetensors"
    metadata = {f"key {number}": "é\n" for number in range(40)}
    save_safetensors(tiny, path, metadata)
    content = path.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert list(header["__metadata__"]) == sorted({**metadata, "format": "pt"})
    assert read_checkpoint(path).metadata == {**metadata, "format": "pt"}
    assert same(tiny, read_checkpoint(path).state)


def test_tied_and_strided_tensors_are_saved(tmp_path):
    weight = torch.arange(6.0).reshape(2, 3)
    path = tmp_path / "tied.safetensors"
    save_safetensors({"a": weight, "b": weight, "c": weight.T}, path)
    state = read_checkpoint(path).state
    assert torch.equal(state["b"], weight)
    assert torch.equal(state["c"], weight.T)


def test_any_module_can_be_loaded(tmp_path):
    source, target = nn.Linear(3, 2), nn.Linear(3, 2)
    save_safetensors(source, tmp_path / "linear.safetensors")
    load_into(target, tmp_path / "linear.safetensors")
    assert same(target, source.state_dict())


def test_a_model_with_a_backbone_of_its_own_keeps_the_prefix(tmp_path):
    model = nn.ModuleDict({"backbone": nn.Linear(3, 2)})
    torch.save(marked(model.state_dict()), tmp_path / "weights.pt")
    assert len(load_into(model, tmp_path / "weights.pt").loaded) == 2


class Malicious:
    def __init__(self, victim):
        self.victim = victim

    def __reduce__(self):
        return os.mkdir, (str(self.victim),)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_that_would_run_code_is_refused(tiny, tmp_path, legacy):
    path, victim = tmp_path / "bad.pth", tmp_path / "was-here"
    content = {"model": tiny.state_dict(), "args": Malicious(victim)}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(UserError, match=r"would run code \((posix|nt)\.mkdir\)"):
        load_into(tiny, path)
    assert not victim.exists()


def test_a_bare_pickle_that_would_run_code_is_refused(tiny, tmp_path):
    path, victim = tmp_path / "bad.pth", tmp_path / "was-here"
    path.write_bytes(pickle.dumps(Malicious(victim)))
    with pytest.raises(UserError):
        load_into(tiny, path)
    assert not victim.exists()


def damage(path, how):
    content = path.read_bytes()
    damaged = {
        "truncated": content[: len(content) // 2],
        "text": b"I am not a checkpoint.\n" * 20,
        "empty": b"",
        "html": b"<!DOCTYPE html><html>404</html>",
    }
    path.write_bytes(damaged[how])


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
@pytest.mark.parametrize("how", ["truncated", "text", "empty", "html"])
def test_what_is_no_checkpoint_is_refused_in_one_line(tiny, tmp_path, name, how):
    path = tmp_path / name
    if path.suffix == ".pth":
        torch.save({"model": tiny.state_dict()}, path)
    else:
        save_safetensors(tiny, path)
    damage(path, how)
    with pytest.raises(UserError) as caught:
        load_into(tiny, path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    assert len(message) < 300


@settings(max_examples=60, deadline=None, derandomize=True)
@given(legacy=st.booleans(), length=st.integers(0, 2600), flip=st.integers(0, 2600))
def test_damaged_pickles_are_refused_or_loaded_but_never_crash(
    tmp_path_factory, legacy, length, flip
):
    """Any cut and any changed byte: the restricted loader raises all kinds of errors."""
    path = tmp_path_factory.mktemp("damaged") / "weights.pth"
    model = nn.Linear(3, 2)
    torch.save(model.state_dict(), path, _use_new_zipfile_serialization=not legacy)
    content = bytearray(path.read_bytes())
    content[flip % len(content)] ^= 0x55
    path.write_bytes(content[: max(1, length)])
    with contextlib.suppress(UserError):
        load_into(model, path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds a list, not the weights of a model"),
        ({"model": {}}, "holds no tensors by name"),
        ({"epoch": 3}, "holds no tensors by name"),
    ],
)
def test_files_without_weights(tiny, tmp_path, content, message):
    torch.save(content, tmp_path / "odd.pth")
    with pytest.raises(UserError, match=message):
        load_into(tiny, tmp_path / "odd.pth")


@pytest.mark.parametrize("where", ["none.pth", ""])
def test_missing_files_and_folders(tiny, tmp_path, where):
    with pytest.raises(UserError, match="no such weights file"):
        load_into(tiny, tmp_path / where)


@pytest.mark.parametrize(
    ("name", "arguments"), [("ObjectFormer", {}), ("PSCC_Net", {"pretrain_path": ""})]
)
def test_weights_of_another_model_are_named(tiny, tmp_path, registry, name, arguments):
    with torch.device("meta"):
        keys = registry.get(name)(**arguments).state_dict()
    torch.save({key: torch.zeros(1) for key in keys}, tmp_path / "other.pth")
    with pytest.raises(UserError, match=f"not one tensor fits .*looks like weights of {name}"):
        load_into(tiny, tmp_path / "other.pth")


def test_weights_of_nothing_known(tiny, tmp_path):
    torch.save({"stem.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"its first tensor is stem\.weight"):
        load_into(tiny, tmp_path / "other.pth")
    assert guess_model(["stem.weight"]) is None


def test_another_configuration_is_refused_and_changes_nothing(tiny, tmp_path):
    deeper = SparseViT_tiny(depth=(1, 2, 8, 2))
    save_safetensors(deeper, tmp_path / "deeper.safetensors")
    before = {key: value.clone() for key, value in tiny.state_dict().items()}
    with pytest.raises(UserError, match="the same model in another configuration") as caught:
        load_into(tiny, tmp_path / "deeper.safetensors")
    assert "unexpected (first: encoder_net.blocks3.4." in str(caught.value)
    assert same(tiny, before)


def test_loose_loading_reports_what_did_not_fit(tiny, tmp_path):
    state = marked(tiny.state_dict())
    state["lmu.norm.weight"] = torch.zeros(5)
    del state["lmu.norm.bias"]
    state["extra"] = torch.zeros(1)
    torch.save(state, tmp_path / "loose.pth")
    report = load_into(tiny, tmp_path / "loose.pth", strict=False)
    assert report.skipped == ("lmu.norm.weight",)
    assert report.missing == ("lmu.norm.bias",)
    assert report.unexpected == ("extra",)
    assert same(tiny, state, report.loaded)


@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_uniformer_weights_are_kept(tiny, tmp_path, prefix):
    path = tmp_path / "uniformer.pth"
    torch.save({"model": uniformer_state(tiny, prefix)}, path)
    model = SparseViT_tiny(pretrained_path=str(path))
    report = model.load_report
    own = model.encoder_net.state_dict()
    assert all((own[key] == 3).all() for key in report.loaded)
    assert set(report.loaded) | set(report.missing) == set(own)
    assert all(
        ".mlp.dwconv." in key or key.startswith(("norm3", "norm4")) for key in report.missing
    )
    assert {key.split(".")[0] for key in report.dropped} == {"head", "norm", "blocks3", "blocks4"}
    assert report.unexpected == report.skipped == report.reinitialised == report.notes == ()


def test_uniformer_the_upstream_way(tiny, tmp_path):
    path = tmp_path / "uniformer.pth"
    torch.save({"model": uniformer_state(tiny)}, path)
    report = load_uniformer(tiny.encoder_net, path, keep="upstream")
    linear_or_norm = {
        f"{name}.{kind}"
        for name, module in tiny.encoder_net.named_modules()
        if isinstance(module, nn.Linear | nn.LayerNorm)
        for kind in ("weight", "bias")
    }
    state = uniformer_state(tiny)
    assert set(report.reinitialised) == linear_or_norm & state.keys()
    own = tiny.encoder_net.state_dict()
    assert all((own[key] == 3).all() for key in report.loaded)
    assert not any((own[key] == 3).any() for key in report.reinitialised)
    assert "drawn afresh" in report.summary()
    counts = report.to_dict()["counts"]
    assert counts["loaded"] + counts["reinitialised"] + counts["missing"] == len(own)


def test_uniformer_without_layer_scale_is_said(tiny, tmp_path):
    path = tmp_path / "uniformer.pth"
    torch.save({"model": uniformer_state(tiny, gamma=False)}, path)
    report = SparseViT_tiny(pretrained_path=str(path)).load_report
    assert "no layer-scale tensors (12 expected)" in report.summary()
    assert sum("gamma" in key for key in report.missing) == 12


@pytest.mark.parametrize("kind", ["SparseViT", "other"])
def test_what_is_no_uniformer(tiny, tmp_path, kind):
    path = tmp_path / "weights.safetensors"
    save_safetensors(tiny if kind == "SparseViT" else nn.Linear(2, 2), path)
    with pytest.raises(UserError, match="no UniFormer weights that fit") as caught:
        SparseViT_tiny(pretrained_path=str(path))
    assert ("--checkpoint" in str(caught.value)) == (kind == "SparseViT")


def test_no_pretraining_no_report(tiny):
    assert tiny.load_report is None
