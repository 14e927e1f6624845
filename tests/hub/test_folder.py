"""Model folders: written, read again by every door, and refused with one line."""

import copy
import inspect
import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard, PyTorchModelHubMixin
from IMDLBenCo.registry import MODELS
from safetensors import safe_open
from safetensors.torch import save_file

from sparsevit_plugin import hub
from sparsevit_plugin.cli.main import main
from sparsevit_plugin.errors import UserError
from sparsevit_plugin.harness.arguments import read_arguments
from sparsevit_plugin.harness.predict import Localiser, predict
from sparsevit_plugin.model.sparsevit import SparseViT, SparseViT_small, SparseViT_tiny
from sparsevit_plugin.registration import get_model_class
from sparsevit_plugin.results.store import load as load_results
from tests.conftest import photo_array
from tests.harness.helpers import (
    register_plain_convolution,
    run_train,
    same_weights,
    save_tiny,
    weights,
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("weights") / "best.safetensors")


@pytest.fixture(scope="module")
def folder(checkpoint, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("hub") / "model"
    hub.save_checkpoint(checkpoint, out, licence="apache-2.0", device="cpu")
    return out


def tiny() -> SparseViT_tiny:
    torch.manual_seed(1)
    model = SparseViT_tiny(layer_scale_init=0.1, lff_init=1.0, img_size=64).eval()
    assert isinstance(model, SparseViT_tiny)
    return model


def same_maps(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    image = torch.randn(1, 3, 48, 64, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        return torch.equal(one(image)["pred_mask"], other(image)["pred_mask"])


def test_a_saved_checkpoint_predicts_what_the_run_did(checkpoint, folder):
    assert (folder / "model.safetensors").read_bytes() == checkpoint.read_bytes()
    picture = photo_array(40, 56, 3)
    wanted = predict(picture, checkpoint, device="cpu")
    found = predict(picture, folder, device="cpu")
    assert (found.map == wanted.map).all()
    assert found.score == wanted.score
    assert Localiser(folder, device="cpu").settings()["image_size"] == 64


def test_config_holds_every_argument_of_the_constructor(folder):
    config = json.loads((folder / "config.json").read_text())
    section = config.pop("sparsevit_plugin")
    assert set(config) == set(inspect.signature(SparseViT_tiny).parameters)
    assert config["depth"] == [1, 2, 4, 2]
    assert config["pretrained_path"] is None
    assert section["model"] == "SparseViT_tiny"
    assert section["options"] == {"image_size": 64, "fit": "resize", "edge_mask_width": None}


def test_weights_have_the_registered_models_names(folder):
    with safe_open(folder / "model.safetensors", framework="pt") as opened:
        assert set(opened.keys()) == set(get_model_class("SparseViT_tiny")().state_dict())


def test_from_pretrained_builds_the_stored_model(checkpoint, folder):
    ways = [
        SparseViT_tiny.from_pretrained(folder),
        SparseViT.from_pretrained(str(folder)),
        SparseViT_tiny.from_pretrained(checkpoint),
        hub.load(folder),
    ]
    assert [type(model).__name__ for model in ways] == [
        *("SparseViT_tiny", "SparseViT", "SparseViT_tiny", "SparseViT_tiny")
    ]
    assert not any(model.training for model in ways)
    assert all(same_maps(ways[0], model) for model in ways[1:])
    other = SparseViT_tiny.from_pretrained(folder, image_pooling="mean")
    assert other.image_pooling == "mean"


def test_a_model_saved_from_python_comes_back(tmp_path):
    model = tiny()
    model.save_pretrained(tmp_path / "own")
    again = SparseViT_tiny.from_pretrained(tmp_path / "own")
    assert same_maps(model, again)
    assert again.img_size == 64
    again.save_pretrained(tmp_path / "again")
    assert same_weights(tmp_path / "own/model.safetensors", tmp_path / "again/model.safetensors")
    configs = [(tmp_path / name / "config.json").read_text() for name in ("own", "again")]
    assert configs[0] == configs[1]
    card = ModelCard.load(tmp_path / "own/README.md")
    assert card.data.library_name == "sparsevit-plugin"
    assert "Nothing is recorded of the training" in card.text
    found = predict(photo_array(40, 56, 3), tmp_path / "own", device="cpu")
    assert found.map.shape == (40, 56)


def test_pretraining_files_are_not_stored(tmp_path):
    model = tiny()
    model._hub_mixin_config["pretrained_path"] = "/data/uniformer.pth"
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["pretrained_path"] is None


@pytest.mark.parametrize("model", [SparseViT, SparseViT_small, SparseViT_tiny])
def test_the_mixin_leaves_the_constructor_as_it_is(model):
    assert issubclass(model, PyTorchModelHubMixin)
    names = list(inspect.signature(model).parameters)
    assert names[:2] == ["depth", "embed_dim"]
    assert "args" not in names
    assert "kwargs" not in names
    found = read_arguments(model)
    assert found["depth"].kind is tuple
    assert found["img_size"].kind is int
    assert list(found) == names


def test_damaged_and_foreign_folders_are_refused(folder, tmp_path):
    with pytest.raises(UserError, match=r"holds neither best.safetensors nor model.safetensors"):
        SparseViT_tiny.from_pretrained(tmp_path)
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    (broken / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config.json is damaged"):
        SparseViT_tiny.from_pretrained(broken)
    config = json.loads((folder / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps({**config, "colour": 1}))
    for load in (SparseViT_tiny.from_pretrained, hub.load):
        with pytest.raises(UserError, match=r"no argument colour: config\.json was changed"):
            load(broken)
    other = {**config, "colour": 1, "sparsevit_plugin": {"model": "Trufor"}}
    (broken / "config.json").write_text(json.dumps(other))
    with pytest.raises(UserError, match=r"no argument colour; it is Trufor: load it by"):
        SparseViT_tiny.from_pretrained(broken)
    (broken / "config.json").write_text(json.dumps({**config, "sparsevit_plugin": "x"}))
    with pytest.raises(UserError, match=r'"sparsevit_plugin" must hold a JSON object'):
        hub.load(broken)
    newer = {**config, "sparsevit_plugin": {"format": 2}}
    (broken / "config.json").write_text(json.dumps(newer))
    with pytest.raises(UserError, match="newer version"):
        SparseViT_tiny.from_pretrained(broken)
    (broken / "config.json").write_text(json.dumps({**config, "lff_dim": 32}))
    with pytest.raises(UserError, match="does not fit SparseViT_tiny"):
        SparseViT_tiny.from_pretrained(broken)
    (broken / "config.json").unlink()
    save_file({"a": torch.zeros(1)}, broken / "model.safetensors")
    with pytest.raises(UserError, match="does not say which model it is of"):
        hub.load(broken)


def test_the_command_refuses_to_replace_a_model(checkpoint, tmp_path, capsys):
    words = ["hub", "save", str(checkpoint), "--out", str(tmp_path / "m"), "--name", "Mine"]
    assert main(words) == 0
    assert "Mine (SparseViT_tiny)" in capsys.readouterr().out
    assert main(words) == 2
    assert "holds config.json, model.safetensors, README.md already" in capsys.readouterr().err
    assert main([*words, "--overwrite"]) == 0
    assert main(["hub", "save", str(tmp_path / "m"), "--out", str(tmp_path / "m")]) == 2
    assert "is the folder of the checkpoint itself" in capsys.readouterr().err


def test_a_licence_that_is_no_identifier_is_refused(checkpoint, tmp_path, capsys):
    out = tmp_path / "m"
    words = ["hub", "save", str(checkpoint), "--out", str(out), "--license", "ask me first"]
    assert main(words) == 2
    assert '--license "ask me first": give an identifier' in capsys.readouterr().err
    assert not out.exists()


def test_the_card_says_what_the_run_says(tiny_set, tmp_path, capsys):
    run = tmp_path / "run"
    assert run_train(tiny_set, run, "--test-data-path", str(tiny_set), "--seed", "5") == 0
    tests = tmp_path / "tests"
    shared = ["--checkpoint", str(run / "last.safetensors"), "--device", "cpu"]
    words = [
        "test",
        "--model",
        "SparseViT_tiny",
        *shared,
        "--num-workers",
        "0",
        "--test-data-path",
        str(tiny_set),
    ]
    assert main([*words, "--output-dir", str(tests)]) == 0
    out = tmp_path / "hub"
    words = ["hub", "save", str(run / "last.safetensors"), "--out", str(out)]
    assert main([*words, "--results", str(tests), "--license", "cc-by-4.0"]) == 0
    text = (out / "README.md").read_text()
    card = ModelCard(text)
    assert card.data.license == "cc-by-4.0"
    f1 = [one for one in card.data.eval_results if one.metric_type == "f1"]
    assert f1[0].dataset_name == tiny_set.name
    value = load_results(tests).table("pixel_f1").values.iloc[0, 0]
    assert f1[0].metric_value == pytest.approx(value, abs=1e-6)
    assert f"{value:.3f} (n = 4)" in text
    assert "seed 5" in text
    assert "the last of a fixed number of epochs" in text
    assert "random weights" in text
    assert str(tmp_path) not in text
    assert "A demo, not a detector" not in text


def test_demo_weights_are_called_a_demo(checkpoint, tmp_path):
    with safe_open(checkpoint, framework="pt") as opened:
        metadata = {**opened.metadata(), "recipe": "sparsevit-demo"}
        state = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    save_file(state, tmp_path / "demo.safetensors", metadata=metadata)
    facts = hub.save_checkpoint(tmp_path / "demo.safetensors", tmp_path / "out", device="cpu")
    assert facts.is_demo
    text = (tmp_path / "out/README.md").read_text()
    assert "A demo, not a detector" in text
    assert "No licence was stated" in text


def test_any_registered_model_is_saved_and_loaded(tmp_path):
    register_plain_convolution()
    model = MODELS.get("PlainConvolution")(spoil=0.0).eval()
    save_file(model.state_dict(), tmp_path / "plain.safetensors")
    words = {"model": "PlainConvolution", "image_size": 32, "fit": "pad", "device": "cpu"}
    facts = hub.save_checkpoint(tmp_path / "plain.safetensors", tmp_path / "out", **words)
    assert facts.config.options["fit"] == "pad"
    assert same_maps(hub.load(tmp_path / "out"), model)
    assert Localiser(tmp_path / "out", device="cpu").settings()["fit"] == "pad"
    with pytest.raises(UserError, match="has no argument overflow, spoil; it is PlainConvolution"):
        SparseViT_tiny.from_pretrained(tmp_path / "out")


def test_copies_and_pickles_of_a_model_are_whole(folder):
    model = SparseViT_tiny.from_pretrained(folder)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert same_maps(model, other)
        assert other._hub_mixin_config == model._hub_mixin_config


def test_training_starts_from_a_model_folder(folder, tiny_set, tmp_path):
    arguments = ["--layer-scale-init", "0.1", "--lr", "0"]
    assert run_train(tiny_set, tmp_path, "--checkpoint", str(folder), *arguments) == 0
    start, end = weights(folder / "model.safetensors"), weights(tmp_path / "last.safetensors")
    learnt = [name for name in start if "running_" not in name and "num_batches" not in name]
    assert start.keys() == end.keys()
    assert all(torch.equal(start[name], end[name]) for name in learnt)
