"""`benco convert`: checkpoints of IMDLBenCo as safetensors and back, equal bit by bit."""

import argparse
import json

import pytest
import torch

from sparsevit_plugin.cli.main import main
from sparsevit_plugin.errors import UserError
from sparsevit_plugin.model.convert import convert
from sparsevit_plugin.model.weights import read_checkpoint, read_safetensors, save_safetensors

ARGS = {
    "model": "SparseViT",
    "lr": 2e-4,
    "world_size": 1,
    "if_resizing": True,
    "find": None,
    "betas": [0.9, 0.95],
    "data_path": "D:\\数据 集\\CASIA 2.0",
}


def small_state(seed=0):
    """Tensors of several types, named as SparseViT's; NaN and negative zero among the values."""
    draw = torch.Generator().manual_seed(seed)
    state = {
        "encoder_net.blocks3.0.norm1.weight": torch.randn(6, generator=draw),
        "encoder_net.blocks3.0.pos_embed.weight": torch.randn(6, 1, 3, 3, generator=draw),
        "encoder_net.norm1.num_batches_tracked": torch.tensor(7),
        "lff.half": torch.randn(4, 3, generator=draw).half(),
        "lff.bf16": torch.randn(4, 3, generator=draw).bfloat16(),
        "lff.strange": torch.tensor([float("nan"), float("inf"), -0.0]),
        "lff.turned": torch.randn(5, 4, generator=draw).t(),
        "lff.empty": torch.zeros(0, 3),
    }
    return {**state, "lff.tied": state["lff.half"]}


def write(path, **parts):
    torch.save(parts, path)
    return path


def as_benco(path, **more):
    """A checkpoint as IMDLBenCo's train.py and SparseViT's main_train.py write it."""
    state = small_state()
    parts = {
        "model": state,
        "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": []},
        "epoch": 68,
        "scaler": {},
        "args": argparse.Namespace(**ARGS),
    }
    return write(path, **{**parts, **more})


def bits(tensor):
    """A tensor's bytes: NaN equals NaN, and -0 is no 0."""
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def same(one, other):
    assert set(one) == set(other)
    for name, value in one.items():
        assert (value.dtype, value.shape) == (other[name].dtype, other[name].shape), name
        assert torch.equal(bits(value), bits(other[name])), name


@pytest.mark.parametrize(
    "name", ["checkpoint-68.pth", "论文 模型 📷.pt", "weights", "a.safetensors.bak"]
)
def test_there_and_back_is_equal_bit_by_bit(tmp_path, name):
    source = as_benco(tmp_path / name)
    done = convert(source, tmp_path / "a.safetensors")
    assert (done.model, done.tensors) == ("SparseViT", 9)
    held = read_safetensors(tmp_path / "a.safetensors")
    same(small_state(), held.state)
    origin = json.loads(held.metadata["converted_from"])
    assert (origin["file"], origin["epoch"], origin["args"]) == (name, 68, ARGS)

    convert(tmp_path / "a.safetensors", tmp_path / "back.pth")
    # As IMDLBenCo's test.py does.
    back = torch.load(tmp_path / "back.pth", map_location="cpu", weights_only=False)
    assert set(back) == {"model", "epoch", "args"}
    assert (back["epoch"], vars(back["args"])) == (68, ARGS)
    same(small_state(), back["model"])

    convert(tmp_path / "back.pth", tmp_path / "again.safetensors")
    same(held.state, read_safetensors(tmp_path / "again.safetensors").state)


def test_the_optimiser_is_left_out_and_that_is_said(tmp_path, capsys):
    source = as_benco(tmp_path / "a.pth", optimizer={"state": {0: {"x": torch.ones(100_000)}}})
    assert main(["convert", str(source), "--out", str(tmp_path / "a.safetensors")]) == 0
    said = capsys.readouterr().out
    assert "9 tensors, 120 values of SparseViT." in said
    assert "Left out, as only a resumed training needs it: optimizer, scaler." in said
    assert (tmp_path / "a.safetensors").stat().st_size < source.stat().st_size / 10


@pytest.mark.parametrize("wrapper", ["", "state_dict", "network"])
def test_other_shapes_of_checkpoints_come_back_as_they_were(tmp_path, wrapper):
    state = {f"module.{name}": value for name, value in small_state().items()}
    torch.save({wrapper: state} if wrapper else state, tmp_path / "a.pth")
    assert convert(tmp_path / "a.pth", tmp_path / "a.safetensors").model == "SparseViT"
    convert(tmp_path / "a.safetensors", tmp_path / "b.pth")
    back = torch.load(tmp_path / "b.pth", weights_only=True)
    same(state, back[wrapper] if wrapper else back)
    # The names are kept as they are, and read as a model has them.
    assert "lff.bf16" in read_checkpoint(tmp_path / "a.safetensors").state


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"ema": {"a": torch.ones(1)}}, 'holds "ema" beside its weights'),
        ({"model": {"a": 3, "b": torch.ones(1)}}, '"a" among its weights is no tensor'),
        ({"model": {"a": {"b": torch.ones(1)}}}, '"a" among its weights is no tensor'),
        ({"model": {}}, "it holds no tensors"),
        ({"model": {"a": torch.ones(2).to_sparse()}}, "is no tensor"),
        ({"epoch": "last"}, "its epoch is 'last', not a number"),
        (
            {"model": {"a": torch.ones(1)}, "args": argparse.Namespace()},
            "does not say which model it is of (its first tensor is a): pass --model NAME",
        ),
        ({"sparsevit_plugin": {"header": 1}}, "its sparsevit_plugin is damaged"),
    ],
)
def test_what_is_not_understood_is_refused(tmp_path, capsys, parts, said):
    source = as_benco(tmp_path / "a.pth", **parts)
    assert main(["convert", str(source), "--out", str(tmp_path / "a.safetensors")]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a.pth"]


class Attack:
    def __reduce__(self):
        return (print, ("run",))


@pytest.mark.parametrize(
    "content", [b"", b"no checkpoint", b"\x08\0\0\0\0\0\0\0{damaged", Attack()]
)
def test_a_file_that_is_none_or_would_run_code_is_refused(tmp_path, capsys, content):
    source = tmp_path / "a.pth"
    if isinstance(content, bytes):
        source.write_bytes(content)
    else:
        write(source, model={"a": torch.ones(1)}, extra=content)
    for out in ("b.safetensors", "b.pth"):
        assert main(["convert", str(source), "--out", str(tmp_path / out)]) == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 2
    assert said.out == ""


def test_the_model_can_be_told_and_is_checked(tmp_path):
    source = write(tmp_path / "a.pth", model={"a": torch.ones(1)})
    with pytest.raises(UserError, match=r'unknown model "SparsViT"\. Did you mean'):
        convert(source, tmp_path / "a.safetensors", model="SparsViT")
    assert convert(source, tmp_path / "a.safetensors", model="IML_ViT").model == "IML_ViT"
    assert read_safetensors(tmp_path / "a.safetensors").metadata["model"] == "IML_ViT"
    with pytest.raises(UserError, match='is of "IML_ViT"'):
        convert(tmp_path / "a.safetensors", tmp_path / "b.pth", model="SparseViT")


def test_names_are_checked_before_anything_is_read(tmp_path):
    source = as_benco(tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"must end in \.safetensors, \.pth or \.pt"):
        convert(source, tmp_path / "a.onnx")
    with pytest.raises(UserError, match=r"is a file of torch\.save already"):
        convert(source, tmp_path / "b.pth")
    convert(source, tmp_path / "b.safetensors")
    with pytest.raises(UserError, match="--overwrite replaces it"):
        convert(source, tmp_path / "b.safetensors")
    convert(source, tmp_path / "b.safetensors", overwrite=True)
    with pytest.raises(UserError, match="no such weights file"):
        convert(tmp_path / "absent", tmp_path / "c.pth")


def test_arguments_that_json_cannot_hold_are_named(tmp_path):
    args = argparse.Namespace(
        model="SparseViT", pair=(1, 2), rate=float("nan"), tensor=torch.ones(1)
    )
    done = convert(as_benco(tmp_path / "a.pth", args=args), tmp_path / "a.safetensors")
    assert "Arguments that JSON cannot hold are left out: pair, rate, tensor." in done.notes


def test_a_header_that_is_damaged_is_refused(tmp_path):
    for origin in ("{", "[]", '{"wrapper": "optimizer"}', '{"wrapper": "model", "args": 3}'):
        save_safetensors(small_state(), tmp_path / "a.safetensors", {"converted_from": origin})
        with pytest.raises(UserError, match="damaged"):
            convert(tmp_path / "a.safetensors", tmp_path / "b.pth")


def test_only_what_has_upstreams_names_goes_back(tmp_path):
    ours = {"model": "SparseViT", "model_arguments": '{"s_blocks3": [1, 1, 1, 1]}'}
    save_safetensors(small_state(), tmp_path / "a.safetensors", ours)
    with pytest.raises(UserError, match=r"was built with s_blocks3 \[1, 1, 1, 1\]"):
        convert(tmp_path / "a.safetensors", tmp_path / "b.pth")
    save_safetensors(small_state(), tmp_path / "a.safetensors", {"model": "SparseViT"})
    with pytest.raises(UserError, match="has no such tensors, or others"):
        convert(tmp_path / "a.safetensors", tmp_path / "b.pth")
    save_safetensors(small_state(), tmp_path / "a.safetensors", {"model": "resnet"})
    with pytest.raises(UserError, match='is of "resnet" and was made by no benco convert'):
        convert(tmp_path / "a.safetensors", tmp_path / "b.pth")


def test_a_sparsevit_trained_here_loads_in_upstreams_class(tmp_path, make_upstream, registry):
    torch.manual_seed(1)
    ours = registry.get("SparseViT")(layer_scale_init=0.3).eval()
    header = {"model": "SparseViT", "epochs_done": "3", "recipe": "sparsevit-default"}
    save_safetensors(ours, tmp_path / "best.safetensors", header)
    convert(tmp_path / "best.safetensors", tmp_path / "checkpoint-0.pth")

    loaded = torch.load(tmp_path / "checkpoint-0.pth", map_location="cpu", weights_only=False)
    upstream = make_upstream()
    upstream.load_state_dict(loaded["model"])
    assert loaded["epoch"] == 2
    held = upstream.state_dict()  # that equal tensors give equal maps: test_parity.py
    for name, value in ours.state_dict().items():
        assert torch.equal(held[name], value), name

    convert(tmp_path / "checkpoint-0.pth", tmp_path / "again.safetensors")
    first, second = (tmp_path / name for name in ("best.safetensors", "again.safetensors"))
    assert first.read_bytes() == second.read_bytes()
