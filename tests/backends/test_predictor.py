from pathlib import Path

import openvino
import pytest
import torch
from torch import nn

from sparsevit_plugin.backends import predictor as predictor_module
from sparsevit_plugin.backends import prepare
from sparsevit_plugin.backends.cache import is_whole
from sparsevit_plugin.backends.calibration import Calibration
from sparsevit_plugin.backends.capture import signature_of
from sparsevit_plugin.errors import UserError
from tests.backends.conftest import images, small_model

TOLERANCE = {"torch": 1e-5, "openvino": 1e-5, "onnxruntime": 1e-4}
EXPORTING = ("openvino", "onnxruntime")
ODD = (65, 97)  # divided by no patch and no stride


class Cheap(nn.Module):
    """One convolution: its graph is made at once."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 1, 3, padding=1)
        generator = torch.Generator().manual_seed(seed)
        nn.init.normal_(self.conv.weight, generator=generator)
        nn.init.zeros_(self.conv.bias)

    def forward(self, image):
        return {"pred_mask": torch.sigmoid(self.conv(image))}


def entries(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if is_whole(path))


def largest(one: torch.Tensor, other: torch.Tensor) -> float:
    assert one.shape == other.shape
    return float((one - other).abs().max())


def inside(count: int) -> torch.Tensor:
    """Say where photographs of the odd size are not padding: a corner, and a strip."""
    masks = torch.zeros(count, 1, *ODD)
    masks[0, :, 60:, 90:] = 1
    masks[1:, :, :4, :9] = 1
    return masks


@pytest.mark.parametrize(
    ("backend", "sparsity"),
    [
        *(("torch", "rate"), ("openvino", "rate")),  # ONNX Runtime: with `benco export`
        *(("torch", "group"), ("openvino", "group"), ("onnxruntime", "group")),
    ],
)
def test_maps_and_scores_are_those_of_the_model_for_any_batch(backend, sparsity, exports):
    model = small_model(sparsity)
    predictor = prepare(model, backend=backend, cache=exports)
    for count in (1, 3):
        # Graphs are dear: each sparsity has one, with the padding's mask or without.
        padding = {"shape_mask": inside(count)} if sparsity == "group" else {}
        call = {"image": images(count, *ODD), **padding}
        expected = model(**call)
        found = predictor(**call, mask=torch.zeros(count, 1, *ODD), name=["x"] * count)
        assert found["pred_mask"].dtype == torch.float32
        assert largest(found["pred_mask"], expected["pred_mask"]) < TOLERANCE[backend]
        assert largest(found["pred_label"], expected["pred_label"]) < TOLERANCE[backend]
    assert backend == "torch" or len(predictor._graphs) == 1  # for any batch
    unheeded = model(image=images(3, *ODD))["pred_label"]
    assert (largest(expected["pred_label"], unheeded) > 1e-3) is bool(padding)


@pytest.mark.parametrize("backend", TOLERANCE)
def test_the_model_is_left_as_it_is(backend, exports):
    model = small_model("group").train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    predictor = prepare(model, backend=backend, cache=exports)
    predictor(image=images(3, *ODD), shape_mask=inside(3))
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not predictor.training


@pytest.mark.parametrize("backend", EXPORTING)
def test_a_graph_is_captured_once_and_read_afterwards(backend, tmp_path, monkeypatch):
    image = images(1, 16, 24)
    first = prepare(Cheap(), backend=backend, cache=tmp_path)(image=image)
    (entry,) = entries(tmp_path)
    monkeypatch.setattr(predictor_module, "capture", None)  # whoever captures now fails
    again = prepare(Cheap(), backend=backend, cache=tmp_path)(image=image)
    assert torch.equal(first["pred_mask"], again["pred_mask"])
    monkeypatch.undo()
    next(path for path in entry.iterdir() if path.suffix in (".bin", ".onnx")).write_bytes(b"")
    mended = prepare(Cheap(), backend=backend, cache=tmp_path)(image=image)
    assert torch.equal(first["pred_mask"], mended["pred_mask"])
    assert entries(tmp_path) == [entry]


def test_other_weights_have_files_of_their_own(tmp_path):
    for seed in (0, 1):
        model, image = Cheap(seed).eval(), images(1, 16, 24)
        found = prepare(model, backend="openvino", cache=tmp_path)(image=image)
        assert largest(found["pred_mask"], model(image=image)["pred_mask"]) < 1e-6
    assert len(entries(tmp_path)) == 2


def test_without_a_cache_files_stand_beside_the_checkpoint(checkpoint):
    predictor = prepare(Cheap(), backend="openvino", checkpoint=checkpoint)
    predictor(image=images(1, 16, 24))
    assert len(entries(Path(f"{checkpoint}.exports"))) == 1


def has_bf16_units() -> bool:
    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


@pytest.mark.parametrize("backend", ["torch", "openvino"])
def test_bf16_differs_a_little(backend, exports):
    if backend == "openvino" and not has_bf16_units():
        with pytest.raises(UserError, match="no bfloat16 units"):
            prepare(small_model(), backend=backend, precision="bf16", cache=exports)
        return
    model, image = small_model(), images(2, *ODD)
    found = prepare(model, backend=backend, precision="bf16", cache=exports)(image=image)
    assert found["pred_mask"].dtype == torch.float32
    assert 1e-6 < largest(found["pred_mask"], model(image=image)["pred_mask"]) < 0.05


def calibration(count: int, seed: int = 7) -> Calibration:
    batches = [{"image": images(1, 64, 64, seed + number)} for number in range(count)]
    return Calibration(tuple(batches), {"images": count})


def test_photographs_of_calibration_are_brought_to_the_size_of_the_graph():
    image, inside = images(1, 32, 96), torch.ones(1, 1, 32, 96)
    wanted = signature_of(small_model(), {"image": image, "shape_mask": inside})
    first = calibration(1).batches[0]["image"]
    given = Calibration(({"image": first, "shape_mask": torch.ones(1, 1, 64, 64)},), {})
    (feed,) = given.feeds(wanted)
    assert feed["image"].shape == image.shape
    assert torch.equal(feed["shape_mask"], inside)
    (same,) = calibration(1).feeds(signature_of(small_model(), {"image": images(2, 64, 64)}))
    assert torch.equal(same["image"], first)
    with pytest.raises(ValueError, match="no shape_mask"):
        calibration(1).feeds(wanted)


def test_photographs_of_calibration_are_told_apart():
    assert calibration(2).fingerprint() == calibration(2).fingerprint()
    assert calibration(2).fingerprint() != calibration(2, seed=70).fingerprint()
    assert calibration(2).fingerprint() != calibration(3).fingerprint()


def test_int8_without_photographs_is_refused(tmp_path):
    with pytest.raises(UserError, match="--precision int8 needs --calibration-data"):
        prepare(small_model(), backend="openvino", precision="int8", cache=tmp_path)


def test_a_graph_cannot_be_trained(exports):
    predictor = prepare(small_model(), backend="openvino", cache=exports)
    assert predictor.eval() is predictor
    with pytest.raises(UserError, match="only predicts"):
        predictor.train()
    with pytest.raises(UserError, match="--compile is for --backend torch"):
        prepare(small_model(), backend="openvino", cache=exports, compiled=True)


class Demanding(nn.Module):
    """Reads a second tensor, demands a mask and makes a loss of it, and gives no score."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 1, 3, padding=1)

    def forward(self, image, mask, table, switch=False, *args, **kwargs):
        logits = self.conv(image) + table.float().mean(dim=(1, 2))[:, None, None, None]
        if switch:
            logits = -logits
        loss = nn.functional.binary_cross_entropy_with_logits(logits, mask)
        return {"pred_mask": torch.sigmoid(logits), "pred_label": None, "backward_loss": loss}


@pytest.mark.parametrize("backend", EXPORTING)
def test_inputs_by_name_and_demanded_masks(backend, exports):
    torch.manual_seed(0)
    model = Demanding().eval()
    predictor = prepare(model, backend=backend, cache=exports)
    call = {
        "image": images(2, 20, 30),
        "mask": torch.ones(2, 1, 20, 30),
        "table": torch.tensor([[[1, 2], [3, 4]], [[-5, 1], [0, 1]]]),
        "origin_shape": torch.tensor([[20, 30], [20, 30]]),
        "name": ["a", "b"],
    }
    maps = []
    for switch in (False, True):
        found = predictor(**call, switch=switch)
        expected = model(**call, switch=switch)["pred_mask"]
        assert largest(found["pred_mask"], expected) < 1e-6
        assert found["pred_label"] is None
        maps.append(found["pred_mask"])
    assert largest(maps[0], 1 - maps[1]) < 1e-6


class OneByOne(nn.Module):
    """Takes the batch apart by its number: a graph is of that batch alone."""

    def forward(self, image):
        parts = [image[number : number + 1].mean(1, keepdim=True) for number in range(len(image))]
        return {"pred_mask": torch.sigmoid(torch.cat(parts))}


def test_a_model_of_fixed_batch_gets_a_graph_for_each(exports):
    model = OneByOne().eval()
    predictor = prepare(model, backend="openvino", cache=exports)
    for count in (2, 1, 3):
        image = images(count, 8, 8)
        found = predictor(image=image)["pred_mask"]
        assert largest(found, model(image=image)["pred_mask"]) < 1e-6


class Reading(nn.Module):
    """Decides on values, which no graph can."""

    def forward(self, image):
        return {"pred_mask": image[:, :1] * (2 if image.sum() > 0 else 3)}


@pytest.mark.parametrize("backend", EXPORTING)
def test_a_model_that_does_not_export_says_so_in_a_line(backend, tmp_path):
    predictor = prepare(Reading(), backend=backend, cache=tmp_path)
    with pytest.raises(UserError) as caught:
        predictor(image=images(1, 8, 8))
    message = str(caught.value)
    assert message.startswith(f"Reading: does not export to {backend}: ")
    assert message.endswith("; use --backend torch")
    assert "\n" not in message
    assert entries(tmp_path) == []


class Antialiased(nn.Module):
    """Uses an operation that OpenVINO does not know."""

    def forward(self, image):
        small = nn.functional.interpolate(image, (4, 4), mode="bicubic", antialias=True)
        return {"pred_mask": torch.sigmoid(small[:, :1])}


def test_what_openvino_cannot_convert_is_named(tmp_path):
    predictor = prepare(Antialiased(), backend="openvino", cache=tmp_path)
    with pytest.raises(UserError, match=r"RuntimeError: .*aten\._upsample_bicubic2d_aa"):
        predictor(image=images(1, 8, 8))


def test_graphs_are_kept_in_bounded_number(tmp_path, monkeypatch):
    monkeypatch.setattr(predictor_module, "GRAPHS", 2)
    model = OneByOne().eval()
    predictor = prepare(model, backend="openvino", cache=tmp_path)
    for side in (4, 5, 6, 4):
        image = images(2, side, side)
        found = predictor(image=image)["pred_mask"]
        assert largest(found, model(image=image)["pred_mask"]) < 1e-6
        assert len(predictor._graphs) <= 2


def test_a_fused_model_is_called_alike(exports):
    class Fusing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.factor = 1.0

        def forward(self, image, **kwargs):
            return {"pred_mask": torch.sigmoid(image[:, :1] * self.factor), "pred_label": None}

        def fuse(self):
            self.factor = 2.0
            return self

    model, image = Fusing(), images(1, 4, 4)
    found = prepare(model, backend="torch")(image=image)["pred_mask"]
    assert torch.equal(found, torch.sigmoid(image[:, :1] * 2))
    assert model.factor == 1.0
