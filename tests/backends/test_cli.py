"""`benco test --backend` and `benco export`, from the command line to the files."""

import importlib.util
import json
from pathlib import Path

import onnx
import openvino
import pytest
import torch
from safetensors.torch import save_file

from sparsevit_plugin.backends import export as export_module
from sparsevit_plugin.cli.main import main
from sparsevit_plugin.results.store import load
from tests.backends.conftest import SMALL, images, small_model
from tests.harness.helpers import PlainConvolution, register_plain_convolution

ARGUMENTS = {name: str(value).strip("()") for name, value in SMALL.items()}
SIZE = 65  # divided by no patch and no stride


def run_test(checkpoint: Path, data: Path, out: Path, *more: str) -> int:
    words = ["test", "--model=SparseViT_tiny", f"--checkpoint={checkpoint}"]
    words += [f"--test-data-path={data}", f"--image-size={SIZE}", f"--output-dir={out}"]
    words += ["--num-workers=0", "--device=cpu"]
    words += [f"--{name}={value}" for name, value in ARGUMENTS.items()]
    return main([*words, *more])


def run_predict(checkpoint: Path, photographs: Path, out: Path, *more: str) -> int:
    words = ["predict", str(photographs), "--model=SparseViT_tiny", f"--checkpoint={checkpoint}"]
    words += [f"--out={out}", f"--image-size={SIZE}", "--num-workers=0", "--device=cpu"]
    words += [f"--argument={name}={value}" for name, value in ARGUMENTS.items()]
    return main([*words, *more])


def run_export(checkpoint: Path, form: str, out: Path, *more: str) -> int:
    words = ["export", "--model=SparseViT_tiny", f"--checkpoint={checkpoint}", f"--format={form}"]
    words += [f"--out={out}", f"--image-size={SIZE}"]
    words += [f"--argument={name}={value}" for name, value in ARGUMENTS.items()]
    return main([*words, *more])


@pytest.fixture
def photographs(tmp_path: Path, make_photo) -> Path:
    for seed, size in enumerate([(48, 64), (80, 60), (64, 64)]):
        make_photo(tmp_path / "photographs" / f"{seed}.png", size, seed)
    return tmp_path / "photographs"


def test_a_set_is_tested_by_each_backend_with_rows_of_its_own(
    checkpoint, tiny_set, tmp_path, capsys
):
    out = tmp_path / "out"
    int8 = ["--precision=int8", f"--calibration-data={tiny_set}", "--calibration-images=2"]
    assert run_test(checkpoint, tiny_set, out) == 0
    assert run_test(checkpoint, tiny_set, out, "--backend=openvino") == 0
    assert run_test(checkpoint, tiny_set, out, "--backend=openvino", *int8) == 0
    rows = load(out).rows
    rows = rows[rows["score_at"] == "model"].set_index(["backend", "number_format", "sample_name"])
    by_torch, by_openvino = rows["auc"]["torch"]["32"], rows["auc"]["openvino"]["32"]
    assert len(by_torch) == len(by_openvino) == 4
    assert (by_torch - by_openvino).abs().max() < 1e-3
    quantised = rows["score"]["openvino"]["int8"] - rows["score"]["torch"]["32"]
    assert 0 < quantised.abs().max() < 0.15
    graphs = [path.read_text() for path in Path(f"{checkpoint}.exports").glob("*/model.xml")]
    assert sorted("FakeQuantize" in graph for graph in graphs) == [False, True]
    manifests = {m["number_format"]: m for m in load(out).manifests.values()}
    assert manifests["int8"]["calibration"]["images"] == 2
    assert manifests["int8"]["floats"] in ("32", "bf16")
    capsys.readouterr()
    assert run_test(checkpoint, tiny_set, out, "--backend=openvino", "--precision=fp32") == 0
    printed = capsys.readouterr().out
    assert "in the store already" in printed
    assert "SparseViT_tiny (openvino int8)" in printed
    predicted = tmp_path / "predicted"
    assert run_predict(checkpoint, tiny_set / "Tp", predicted, "--backend=openvino", *int8) == 0
    settings = json.loads((predicted / "settings.json").read_text())["settings"]
    assert (settings["precision"], settings["calibration"]["images"]) == ("int8", 2)
    assert len(list(Path(f"{checkpoint}.exports").glob("*/model.xml"))) == 2  # the test's graphs


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--backend=openvino", "--precision=16-mixed"], "16-mixed needs --backend torch"),
        (["--precision=int8"], "int8 needs --backend openvino"),
        (["--backend=openvino", "--precision=int8"], "needs --calibration-data PATH"),
        (["--backend=openvino", "--no-model-eval"], "--no-model-eval needs --backend torch"),
        (["--backend=openvino", "--device=mps"], "computes on the CPU"),
    ],
)
def test_what_does_not_go_together_is_refused(more, words, checkpoint, tiny_set, capsys):
    out = tiny_set.parent / "out"
    assert run_test(checkpoint, tiny_set, out, *more) == 2
    assert words in capsys.readouterr().err
    assert not (out / "results").exists()


def test_a_missing_extra_is_named(checkpoint, tiny_set, tmp_path, capsys, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "openvino" else find(name)
    )
    assert run_test(checkpoint, tiny_set, tmp_path / "out", "--backend=openvino") == 2
    wanted = '--backend openvino needs the extra: pip install "sparsevit-plugin[openvino]"'
    assert wanted in capsys.readouterr().err


def test_training_has_no_inference_precisions(tiny_set, capsys):
    words = ["train", "--model=SparseViT_tiny", f"--data-path={tiny_set}", "--precision=bf16"]
    assert main(words) == 2
    assert "--precision bf16 is for tests" in capsys.readouterr().err


def answers_of(form: str, file: Path, image: torch.Tensor) -> list[torch.Tensor]:
    """Run an exported file as somebody without this package would."""
    if form == "torch":
        return list(torch.export.load(file).module()(image=image))
    if form == "openvino":
        compiled = openvino.Core().compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        found = compiled({"image": image.numpy()})
        return [torch.from_numpy(found[name]) for name in ("pred_mask", "pred_label")]
    import onnxruntime

    session = onnxruntime.InferenceSession(file)
    return [torch.from_numpy(a) for a in session.run(None, {"image": image.numpy()})]


def note_in(form: str, file: Path) -> str:
    if form == "torch":
        extra = {"sparsevit_plugin.json": ""}
        torch.export.load(file, extra_files=extra)
        return extra["sparsevit_plugin.json"]
    if form == "openvino":
        return openvino.Core().read_model(file).get_rt_info("sparsevit-plugin").astype(str)
    return {p.key: p.value for p in onnx.load(file).metadata_props}["sparsevit-plugin"]


@pytest.mark.parametrize("form", ["onnx", "openvino", "torch"])
def test_an_exported_file_gives_pytorchs_maps_for_any_batch(
    form, checkpoint, photographs, tmp_path, capsys
):
    out = tmp_path / "files" / f"model{export_module.SUFFIXES[form]}"
    assert run_export(checkpoint, form, out, f"--verify={photographs}") == 0
    printed = capsys.readouterr().out
    facts = json.loads(Path(f"{out}.json").read_text())
    assert facts["inputs"]["image"]["shape"] == ["any", 3, SIZE, SIZE]
    assert facts["verified"]["photographs"] == 3
    assert facts["verified"]["largest_difference"] <= facts["verified"]["tolerance"]
    assert f"{facts['verified']['largest_difference']:.2g}" in printed
    takes = f"takes: image any x 3 x {SIZE} x {SIZE} float32"
    assert f"{takes}; gives: pred_mask, pred_label" in printed
    assert json.loads(note_in(form, out)) == facts
    for count in (1, 3):
        image = images(count, SIZE, SIZE, seed=3)
        expected = small_model()(image=image)
        found = answers_of(form, out, image)
        for name, answer in zip(("pred_mask", "pred_label"), found, strict=True):
            assert (answer - expected[name]).abs().max() < 1e-4
    assert not [path for path in out.parent.iterdir() if path.name.startswith(".")]


def test_a_file_that_differs_too_much_is_not_left(photographs, tmp_path, capsys):
    register_plain_convolution()  # its graph is made at once
    torch.manual_seed(0)
    weights = tmp_path / "one.safetensors"
    save_file(PlainConvolution().state_dict(), str(weights))
    out = tmp_path / "files" / "model.xml"
    words = ["export", "--model=PlainConvolution", f"--checkpoint={weights}", f"--out={out}"]
    words += ["--format=openvino", "--fit=resize", f"--image-size={SIZE}"]
    words += [f"--verify={photographs}"]
    assert main([*words, "--tolerance=0"]) == 2
    assert "differs from PyTorch by" in capsys.readouterr().err
    assert list(out.parent.iterdir()) == []
    assert main(words) == 0  # within its own tolerance
    assert f"takes: image any x 3 x {SIZE} x {SIZE} float32; gives: pred_mask\n" in (
        capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("request_words", "words"),
    [
        (["onnx", "model.pt"], "ends in .onnx"),
        (["onnx", "model.onnx", "--precision=int8"], "int8 needs --format openvino"),
        (["openvino", "model.xml", "--precision=bf16"], "bf16 is chosen where they run"),
        (["openvino", "model.xml", "--precision=int8"], "--calibration-data"),
        (["torch", "model.pt2", "--verify=nowhere"], "no such folder of photographs"),
        (["torch", "model.pt2", "--argument=depth"], "write NAME=VALUE"),
        (["torch", "model.pt2", "--tolerance=-1"], "give a finite difference from 0"),
        (["torch", "model.pt2", "--tolerance=inf"], "give a finite difference from 0"),
    ],
)
def test_bad_requests_are_refused_in_a_line(request_words, words, checkpoint, capsys):
    form, name, *more = request_words
    folder = checkpoint.parent / "files"
    assert run_export(checkpoint, form, folder / name, *more) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not folder.exists() or not list(folder.iterdir())
