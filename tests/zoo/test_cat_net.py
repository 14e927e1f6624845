"""CAT-Net: equal to upstream's at equal weights, fed with the photograph's own coefficients."""

from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from PIL import Image
from safetensors.torch import load_file
from skimage import data
from torch import Tensor, nn

from sparsevit_plugin.cards import load_model_card
from sparsevit_plugin.cli.main import main
from sparsevit_plugin.errors import UserError
from sparsevit_plugin.harness import datasets, sources
from sparsevit_plugin.harness.evaluate import model_inputs
from sparsevit_plugin.harness.post_functions import (
    NOTE_RESAVED,
    jpeg_coefficients,
    resaved_tensor_coefficients,
)
from sparsevit_plugin.model.weights import load_into
from sparsevit_plugin.registration import get_model_class
from sparsevit_plugin.results.store import load
from sparsevit_plugin.zoo.cat_net import _PUBLISHED, Cat_Net, one_hot

UPSTREAMS_YAML = Path(str(files("IMDLBenCo"))) / "statics/model_zoo/configs/CAT_full.yaml"


@pytest.fixture(scope="module")
def small_yaml(tmp_path_factory) -> Path:
    """A network of the published form with few and narrow layers."""
    content = yaml.safe_load(UPSTREAMS_YAML.read_text())
    for stage in content["MODEL"]["EXTRA"].values():
        if isinstance(stage, dict):
            stage["NUM_MODULES"] = 1
            stage["NUM_BLOCKS"] = [1] * len(stage["NUM_BLOCKS"])
            stage["NUM_CHANNELS"] = [channels // 12 for channels in stage["NUM_CHANNELS"]]
    path = tmp_path_factory.mktemp("cat_net") / "small.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Three photographs of different sizes: JPEGs of quality 60 and 90, and a PNG."""
    folder = tmp_path / "real"
    (folder / "Tp").mkdir(parents=True)
    (folder / "Gt").mkdir()
    pictures = {
        "a.jpg": (data.astronaut()[:45, 100:175], {"quality": 60}),
        "b.jpg": (data.chelsea()[:64, :40], {"quality": 90}),
        "c.png": (data.coffee()[:26, :50], {}),
    }
    for name, (pixels, settings) in pictures.items():
        Image.fromarray(pixels).save(folder / "Tp" / name, **settings)
        mask = np.zeros(pixels.shape[:2], np.uint8)
        mask[10:20, 5:30] = 255
        Image.fromarray(mask).save(folder / "Gt" / f"{name[0]}.png")
    return folder


def built(small_yaml: Path, **arguments) -> Cat_Net:
    torch.manual_seed(0)
    model = Cat_Net(cfg_file=str(small_yaml), **arguments)
    # Upstream's initialisation is so small that every map is 0.5.
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.kaiming_normal_(parameter)
    return model


def batch_of(folder: Path, way: str, count: int = 2) -> dict:
    (source,) = sources.read_source(folder).values()
    settings = {
        "file": {"fit": "grid", "origin_function": jpeg_coefficients, "random_crop": True},
        "upstream": {"fit": "resize", "post_function": resaved_tensor_coefficients},
    }
    items = datasets.build_dataset(source, image_size=64, **settings[way])
    return model_inputs(datasets.collate([items[i] for i in range(count)]), torch.device("cpu"))


def upstreams(monkeypatch: pytest.MonkeyPatch, cfg_file: Path) -> nn.Module:
    from IMDLBenCo.model_zoo.cat_net.cat_net import Cat_Net as Upstreams

    monkeypatch.setattr(Tensor, "cuda", lambda tensor: tensor)
    monkeypatch.setattr(nn.Module, "cuda", lambda module: module)
    return Upstreams(str(cfg_file))


# --- against IMDLBenCo's --------------------------------------------------------------------------


def test_the_published_network_is_upstreams(monkeypatch):
    content = yaml.safe_load(UPSTREAMS_YAML.read_text())["MODEL"]["EXTRA"]
    content["STAGE1"]["NUM_BRANCHES"] = content["STAGE1"].pop("NUM_RANCHES")  # its misprint
    assert _PUBLISHED["MODEL"]["EXTRA"] == content
    theirs = upstreams(monkeypatch, UPSTREAMS_YAML).state_dict()
    ours = Cat_Net().state_dict()
    assert list(ours) == list(theirs)
    assert all(ours[name].shape == theirs[name].shape for name in ours)
    torch.testing.assert_close(ours["loss.criterion.weight"], theirs["loss.criterion.weight"])


def test_upstreams_way_gives_upstreams_loss_and_map(photographs, small_yaml, monkeypatch):
    ours = built(small_yaml, coefficients="upstream")
    theirs = upstreams(monkeypatch, small_yaml)
    theirs.load_state_dict(ours.state_dict())
    batch = batch_of(photographs, "upstream")
    for training in (True, False):
        ours.train(training)
        theirs.train(training)
        found, expected = ours(**batch), theirs(**batch)
        torch.testing.assert_close(found["backward_loss"], expected["backward_loss"])
        torch.testing.assert_close(found["pred_mask"], expected["pred_mask"].clamp(0, 1))
    assert found["pred_label"] is None


def test_volumes_are_those_of_the_published_rule():
    coefficients = torch.arange(-1030, 1030, dtype=torch.int16).reshape(1, 20, 103)
    volume = one_hot(coefficients)
    assert volume.shape == (1, 21, 20, 103)
    for level in range(20):
        expected = (coefficients == level) | (coefficients == -level)
        assert torch.equal(volume[:, level], expected.float())
    assert torch.equal(volume[:, 20], ((coefficients >= 20) | (coefficients <= -20)).float())


# --- the photograph's own coefficients ------------------------------------------------------------


@pytest.mark.parametrize("way", ["file", "upstream"])
def test_steps_lower_the_loss_and_reach_both_streams(photographs, small_yaml, way):
    model = built(small_yaml, coefficients=way)
    batch = batch_of(photographs, way)
    first = model(**batch)
    first["backward_loss"].backward()
    parts = ("model.conv1.weight", "model.dc_layer0_dil.0.weight", "model.last_layer.3.weight")
    assert all(model.get_parameter(name).grad.any() for name in parts)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(10):
        optimizer.zero_grad()
        model(**batch)["backward_loss"].backward()
        optimizer.step()
    assert model(**batch)["backward_loss"] < 0.8 * first["backward_loss"]
    assert first["pred_mask"].shape == (2, 1, 64, 64)
    assert first["pred_mask"].min() >= 0
    assert first["pred_mask"].max() <= 1


def test_pixels_are_normalised_as_cat_nets_and_padding_is_neutral(photographs, small_yaml):
    model = built(small_yaml)
    batch = batch_of(photographs, "file", 3)
    pixels = model._pixels(batch["image"], batch["shape_mask"])
    photograph = np.array(Image.open(photographs / "Tp" / "c.png"), float)
    expected = torch.tensor((photograph.transpose(2, 0, 1) - 127.5) / 127.5).float()
    torch.testing.assert_close(pixels[2, :, :26, :50], expected)
    assert not pixels[2, :, 26:].any()


def test_what_padding_holds_changes_nothing(photographs, small_yaml):
    model = built(small_yaml)
    batch = batch_of(photographs, "file", 3)
    before = model(**batch)
    outside = batch["shape_mask"] == 0
    assert outside.any()
    changed = {
        **batch,
        "mask": batch["mask"].masked_fill(outside, 1),
        "image": batch["image"].masked_fill(outside, 7.0),
    }
    after = model(**changed)
    assert torch.equal(before["backward_loss"], after["backward_loss"])
    assert torch.equal(before["pred_mask"], after["pred_mask"])


def test_the_loss_is_the_weighted_cross_entropy_of_real_pixels(photographs, small_yaml):
    model = built(small_yaml)
    batch = batch_of(photographs, "file", 3)
    features = torch.cat(
        [model._pixels(batch["image"], batch["shape_mask"]), one_hot(batch["DCT_coef"])], 1
    )
    logits = model.model(features, batch["qtables"][:, None])
    logits = F.interpolate(logits, size=(64, 64), mode="bilinear")
    real = batch["shape_mask"][:, 0] == 1
    target = batch["mask"][:, 0].long()[real]
    scores = logits.permute(0, 2, 3, 1)[real].log_softmax(1)
    weights = torch.tensor([0.5, 2.5])[target]
    expected = -(weights * scores[torch.arange(len(target)), target]).sum() / weights.sum()
    torch.testing.assert_close(model(**batch)["backward_loss"], expected)


def test_the_coefficients_and_the_table_matter(photographs, small_yaml):
    model = built(small_yaml)
    batch = batch_of(photographs, "file")
    before = model(**batch)["pred_mask"]
    for key in ("DCT_coef", "qtables"):
        after = model(**{**batch, key: batch[key].flip(0)})["pred_mask"]
        assert (after - before).abs().max() > 1e-3


def test_sides_that_are_multiples_of_eight_will_do(small_yaml):
    model = built(small_yaml).eval()
    for height, width in ((8, 8), (24, 40), (72, 16)):
        inputs = {
            "image": torch.zeros(1, 3, height, width),
            "DCT_coef": torch.zeros(1, height, width),
            "qtables": torch.ones(1, 8, 8),
        }
        output = model(**inputs)
        assert output["pred_mask"].shape == (1, 1, height, width)
        assert output["backward_loss"] is None


def test_mistakes_are_named(small_yaml, tmp_path):
    with pytest.raises(UserError, match="DCT_coef and qtables"):
        built(small_yaml)(image=torch.zeros(1, 3, 8, 8))
    with pytest.raises(UserError, match="coefficients: unknown value"):
        Cat_Net(coefficients="photograph")
    for text, reason in (("MODEL: {}", "lacks"), ("[", "cannot be read")):
        (tmp_path / "bad.yaml").write_text(text)
        with pytest.raises(UserError, match=reason):
            Cat_Net(cfg_file=str(tmp_path / "bad.yaml"))
    with pytest.raises(UserError, match="cannot be read"):
        Cat_Net(cfg_file=str(tmp_path / "none.yaml"))


# --- weights files --------------------------------------------------------------------------------


def test_pretraining_files_fill_their_streams(small_yaml, tmp_path):
    state = built(small_yaml).model.state_dict()
    streams = ("conv", "bn", "layer1.", "transition", "stage")
    rgb = {
        name: value
        for name, value in state.items()
        if name.startswith(streams) and not name.startswith(("stage5.", "transition4."))
    }
    dct = {name: value for name, value in state.items() if name.startswith("dc_")}
    torch.save({**rgb, "classifier.weight": torch.zeros(3)}, tmp_path / "hrnet.pth")
    torch.save(
        {"epoch": 3, "state_dict": {**dct, "last_layer.0.bias": torch.ones(2)}},
        tmp_path / "DCT_djpeg.pth.tar",
    )
    model = Cat_Net(
        pretrained_rgb=str(tmp_path / "hrnet.pth"),
        pretrained_dct=str(tmp_path / "DCT_djpeg.pth.tar"),
        cfg_file=str(small_yaml),
    )
    loaded = model.model.state_dict()
    for name, value in state.items():
        if name in rgb or name in dct:
            assert torch.equal(loaded[name], value)
        elif name.endswith("weight") and value.ndim > 1:
            assert not torch.equal(loaded[name], value)
    report = model.load_report.to_dict()
    assert report["pretrained_rgb"]["counts"]["loaded"] == len(rgb)
    assert report["pretrained_dct"]["counts"]["loaded"] == len(dct)


def test_wrong_pretraining_files_are_refused(small_yaml, tmp_path):
    torch.save({"head.weight": torch.zeros(3)}, tmp_path / "other.pth")
    state = built(small_yaml).model.state_dict()
    torch.save({"conv1.weight": state["conv1.weight"]}, tmp_path / "partly.pth")
    for argument in ("pretrained_rgb", "pretrained_dct"):
        for name in ("other.pth", "partly.pth", "none.pth"):
            with pytest.raises(UserError, match=name):
                Cat_Net(cfg_file=str(small_yaml), **{argument: str(tmp_path / name)})


def test_the_authors_checkpoint_loads(small_yaml, tmp_path):
    trained = built(small_yaml)
    torch.save(
        {"epoch": 9, "best_p_mIoU": 0.5, "state_dict": trained.model.state_dict()},
        tmp_path / "CAT_full_v2.pth.tar",
    )
    model = Cat_Net(cfg_file=str(small_yaml))
    load_into(model, tmp_path / "CAT_full_v2.pth.tar")
    expected = trained.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())


# --- through the commands -------------------------------------------------------------------------


def run(small_yaml: Path, *words: str) -> int:
    common = ("--model", "Cat_Net", "--cfg-file", str(small_yaml), "--device", "cpu")
    return main([words[0], *common, "--image-size", "32", "--num-workers", "0", *words[1:]])


@pytest.mark.parametrize("way", ["file", "upstream"])
def test_it_trains_and_tests_through_the_commands(photographs, small_yaml, tmp_path, capsys, way):
    out, tested = tmp_path / "out", tmp_path / "tested"
    flags = ("--weights", "none", "--coefficients", way, "--select", "last", "--epochs", "1")
    data_flags = ("--data-path", str(photographs), "--test-data-path", str(photographs))
    batch = ("--batch-size", "3", "--accum-iter", "1", "--output-dir", str(out))
    assert run(small_yaml, "train", *flags, *data_flags, *batch) == 0
    said = capsys.readouterr().out
    on_grid = way == "file"
    assert ("left out, because they break the JPEG grid: RandomScale, " in said) == on_grid
    assert (f"real: 1 of 3 photographs: {NOTE_RESAVED}" in said) == on_grid
    assert "model.dc_layer0_dil.0.weight" in load_file(out / "best.safetensors")
    # What the checkpoint was trained with is recorded: --coefficients need not be said again.
    checkpoint = ("--checkpoint", str(out / "best.safetensors"), "--output-dir", str(tested))
    assert run(small_yaml, "test", "--test-data-path", str(photographs), *checkpoint) == 0
    results = load(tested)
    at_model = results.rows[results.rows["score_at"] == "model"]
    sizes = sorted(zip(at_model["height"], at_model["width"], strict=True))
    assert sizes == ([(32, 56), (48, 80), (64, 40)] if on_grid else [(32, 32)] * 3)
    (cell,) = results.cells
    assert cell.facts["input_notes"] == ({NOTE_RESAVED: 1} if on_grid else {})
    if on_grid:
        trained = load(out).rows
        assert trained["f1"].equals(results.rows["f1"])


def test_the_files_coefficients_need_the_grid(photographs, small_yaml, tmp_path, capsys):
    words = ("--data-path", str(photographs), "--output-dir", str(tmp_path / "out"))
    assert run(small_yaml, "train", *words, "--fit", "resize", "--weights", "none") == 2
    assert "pass --fit grid or --coefficients upstream" in capsys.readouterr().err


def test_the_card_names_both_ways():
    card = load_model_card("Cat_Net")
    assert card is not None
    assert get_model_class("Cat_Net") is Cat_Net
    assert (card.input_for({}).fit, card.input_for({}).post_function) == (
        *("grid", "jpeg_coefficients"),
    )
    (choice,) = card.mended
    theirs = card.input_for({choice.argument: choice.upstream})
    assert (theirs.fit, theirs.post_function) == ("resize", "cat_net_post_func")
