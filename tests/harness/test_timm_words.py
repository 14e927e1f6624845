"""`timm:NAME` in the place of a model's name: configurations, weights, checkpoints, commands."""

import csv
import io
import json
from itertools import pairwise

import pytest
import safetensors.torch
import timm
import torch

from sparsevit_plugin import hub
from sparsevit_plugin.cards import load_model_card
from sparsevit_plugin.cli.main import main
from sparsevit_plugin.errors import UserError, suggest
from sparsevit_plugin.harness import weight_files
from sparsevit_plugin.harness.config import resolve
from sparsevit_plugin.harness.pipeline import build_model
from sparsevit_plugin.harness.schedule import WarmupCosine, make_optimizer
from sparsevit_plugin.harness.train import train
from sparsevit_plugin.hub import remote
from sparsevit_plugin.model.sparsevit import SparseViT_tiny
from sparsevit_plugin.model.weights import read_checkpoint
from sparsevit_plugin.protocol.keys import training_content
from sparsevit_plugin.registration import resolve_model
from sparsevit_plugin.zoo.timm_localiser import TimmLocaliser

WORD = "timm:test_vit"
SMALL = ["--model", WORD, "--image-size", "32", "--width", "8"]


@pytest.fixture(autouse=True)
def no_hub(monkeypatch):
    """Answer for the Hub: it cannot be reached, unless a test says otherwise."""

    def refuse(name, file):
        raise UserError(f"{file} of {name}: not fetched from Hugging Face: no network")

    monkeypatch.setattr(remote, "fetch_file", refuse)
    weight_files._fetched.cache_clear()
    weight_files._fetched_or_warned.cache_clear()
    yield
    weight_files._fetched.cache_clear()
    weight_files._fetched_or_warned.cache_clear()


def test_a_word_is_a_card_and_its_model():
    card, registered = resolve_model("timm:convnext_base.dinov3_lvd1689m")
    assert (card.name, card.model) == ("timm:convnext_base.dinov3_lvd1689m", "TimmLocaliser")
    assert registered.constructor is TimmLocaliser
    first = card.weights[0]
    assert first.hub == "timm/convnext_base.dinov3_lvd1689m/model.safetensors"
    assert first.name == "convnext_base.dinov3_lvd1689m.safetensors"
    assert not first.needed
    assert "dinov3-license" in card.notes
    assert resolve_model("SparseViT")[0].name == "SparseViT"
    assert resolve_model("TimmLocaliser") == (None, registered)


@pytest.mark.parametrize(
    ("word", "wanted"),
    [
        (
            "timm:resnt18",
            r'has no "resnt18"\. Did you mean "resnet18", "resnet18d" or "skresnet18"',
        ),
        ("timm:resnet18.a1_in2k", r'no weights "a1_in2k" of resnet18\. Did you mean "a1_in1k", "a'),
        ("timm:", r'timm \S+ has no ""\. '),
        ("timm:local-dir:/tmp", r'has no "local-dir:/tmp"'),
    ],
)
def test_what_timm_does_not_have_is_answered_with_the_nearest(word, wanted):
    with pytest.raises(UserError, match=wanted):
        load_model_card(word)


def test_suggestions_are_joined_as_a_sentence():
    assert suggest("resnet", ["resnet1"]) == ' Did you mean "resnet1"?'
    assert suggest("aaaa", ["aaab", "aabb", "zzzz"], 3) == ' Did you mean "aaab" or "aabb"?'
    assert suggest("x", [], 3) == ""


@pytest.mark.parametrize(
    "words",
    [
        ["test", "--model", "timm:resnt18", "--test-data-path", "x"],
        ["train", "--model", "timm:resnt18", "--data-path", "x"],
        ["complexity", "--models", "timm:resnt18"],
        ["models", "--probe", "timm:resnt18"],
        ["protocol", "run", "demo", "--models", "timm:resnt18", "--dry-run"],
    ],
)
def test_every_command_refuses_a_wrong_word_in_one_line(words, capsys):
    assert main(words) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("benco: error: timm ")
    assert '"resnet18"' in error
    assert "\n" not in error


# --- weights -------------------------------------------------------------------------------------


def weights_file(path):
    torch.manual_seed(3)
    state = timm.create_model("test_vit").state_dict()
    safetensors.torch.save_file(state, path)
    return state


def started_from(*flags):
    cfg = resolve("train", [*SMALL, "--data-path", "x", *flags])
    return cfg.model_arguments.get("pretrained_path")


def test_weights_come_from_the_weights_root_by_their_name(tmp_path):
    file = tmp_path / "deep" / "test_vit.r160_in1k.safetensors"
    file.parent.mkdir()
    state = weights_file(file)
    cfg = resolve(
        "train", [*SMALL, "--data-path", "x", "--weights", "card", "--weights-root", str(tmp_path)]
    )
    model = build_model(cfg)
    own = model.backbone.model.state_dict()
    assert torch.equal(own["blocks.0.attn.qkv.weight"], state["blocks.0.attn.qkv.weight"])
    assert cfg.model_arguments["pretrained_path"] == str(file)


def test_offline_a_card_starts_from_random_weights_and_says_so(caplog):
    assert started_from("--weights", "card") is None
    assert f"{WORD} starts from random weights: no --weights-root, and model" in caplog.text


def test_weights_that_are_asked_for_from_the_hub_must_be_there():
    with pytest.raises(UserError, match=r"model\.safetensors of timm/test_vit\.r160_in1k: not f"):
        started_from("--weights", "hub")
    with pytest.raises(UserError, match="--weights hub: the card of SparseViT names no file of"):
        resolve("train", ["--model", "SparseViT", "--data-path", "x", "--weights", "hub"])


@pytest.mark.parametrize("how", ["card", "hub"])
def test_weights_are_fetched_from_the_hub(how, tmp_path, monkeypatch):
    asked = []

    def fetch(name, file):
        asked.append((name, file))
        return tmp_path / "model.safetensors"

    monkeypatch.setattr(remote, "fetch_file", fetch)
    assert started_from("--weights", how) == str(tmp_path / "model.safetensors")
    assert started_from("--weights", "named") is None
    assert asked == [("timm/test_vit.r160_in1k", "model.safetensors")]


# --- layer-wise rates ----------------------------------------------------------------------------


def test_rates_fall_by_the_layer_and_follow_the_schedule():
    model = TimmLocaliser("test_vit", width=8)
    optimizer = make_optimizer(model, name="adamw", lr=1.0, weight_decay=0.1, layer_decay=0.5)
    WarmupCosine(lr=0.5, min_lr=0, warmup_epochs=0, epochs=4).apply(optimizer, 0.0)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    whole = model.backbone.model
    steps = [whole.patch_embed.proj.weight, *(b.attn.qkv.weight for b in whole.blocks)]
    found = [rates[id(p)] for p in [*steps, model.head.classifier.weight]]
    assert found[-1] == 0.5
    assert found == sorted(set(found))
    ratios = [below / above for below, above in pairwise(found[:-1])]
    assert ratios == pytest.approx([0.5] * len(ratios))


def test_sparsevits_layers_are_known_too():
    model = SparseViT_tiny()
    optimizer = make_optimizer(model, name="adamw", lr=1.0, weight_decay=0.1, layer_decay=0.9)
    scale = {id(p): g["lr_scale"] for g in optimizer.param_groups for p in g["params"]}
    net = model.encoder_net
    first, last = net.patch_embed1.proj.weight, net.blocks4[-1].mlp.fc1.weight
    assert scale[id(first)] < scale[id(net.blocks2[0].conv1.weight)] < scale[id(last)] < 1
    assert scale[id(model.lmu.conv_last.weight)] == 1


def test_layers_that_are_not_known_are_refused():
    with pytest.raises(UserError, match="--layer-decay: the layers of this TimmLocaliser are not"):
        make_optimizer(
            TimmLocaliser("test_efficientnet", width=8),
            name="adamw",
            lr=1.0,
            weight_decay=0.0,
            layer_decay=0.5,
        )


def test_the_option_names_a_run_only_where_it_is_given():
    plain = resolve("train", [*SMALL, "--data-path", "x"])
    given = resolve("train", [*SMALL, "--data-path", "x", "--layer-decay", "0.75"])
    assert "layer_decay" not in training_content(plain, 1)["options"]
    assert training_content(given, 1)["options"]["layer_decay"] == 0.75
    assert plain.hash() != given.hash()


# --- from training to prediction -----------------------------------------------------------------


def test_a_trained_word_is_found_again_by_test_predict_and_hub(tiny_corpus, tmp_path, capsys):
    words = ["--head", "lff", "--extractor", "sobel", "--freeze", "--layer-decay", "0.8"]
    of_training = [
        "--epochs",
        "1",
        "--warmup-epochs",
        "0",
        "--num-workers",
        "0",
        "--select",
        "last",
    ]
    run = tmp_path / "run"
    cfg = resolve(
        "train",
        [*SMALL, *words, *of_training, "--data-path", str(tiny_corpus), "--output-dir", str(run)],
    )
    trained = train(cfg).bare
    weights = run / "best.safetensors"
    assert read_checkpoint(weights).metadata["model"] == WORD
    record = json.loads((run / "run.json").read_text())
    assert record["config"]["options"]["model"] == WORD

    tested = ["test", "--checkpoint", str(run), "--test-data-path", str(tiny_corpus)]
    assert main([*tested, "--output-dir", str(tmp_path / "tested"), "--num-workers", "0"]) == 0
    table = capsys.readouterr().out
    assert WORD in table
    assert "trained from random weights, without a pretraining file" in table

    photo = next((tiny_corpus / "Tp").iterdir())
    folder = tmp_path / "model"
    assert main(["hub", "save", str(weights), "--out", str(folder)]) == 0
    loaded = hub.load(folder)
    assert type(loaded) is TimmLocaliser
    assert all(torch.equal(v, loaded.state_dict()[k]) for k, v in trained.state_dict().items())
    for source, out in ((weights, "a"), (folder, "b")):
        words = [str(photo), "--checkpoint", str(source), "--out", str(tmp_path / out)]
        assert main(["predict", *words]) == 0
    first, second = (next((tmp_path / out).rglob(f"{photo.stem}*.png")) for out in "ab")
    assert first.name == second.name
    assert first.read_bytes() == second.read_bytes()

    capsys.readouterr()
    attention = ["attention", str(photo), "--at", "1,1", "--checkpoint", str(weights)]
    assert main([*attention, "--out", str(tmp_path / "a.png")]) == 2
    assert f"{WORD} has no sparse blocks" in capsys.readouterr().err


def test_a_word_is_counted_like_a_card(capsys):
    assert main(["complexity", "--models", WORD, "--image-size", "64", "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [(row["model"], row["image_size"]) for row in rows] == [(WORD, "64")]
    assert int(rows[0]["parameters"]) == sum(
        p.numel() for p in TimmLocaliser("test_vit").parameters()
    )
