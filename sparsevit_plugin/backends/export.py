"""Exported files for use elsewhere: written, verified against PyTorch on photographs, or refused.

A file takes any batch of images of one size. Where its answers differ from PyTorch's by more than
the tolerance, no file is left.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.utils.data import Dataset

from sparsevit_plugin.backends import onnxruntime, openvino
from sparsevit_plugin.backends.calibration import Calibration
from sparsevit_plugin.backends.capture import (
    OUTPUTS,
    MapModel,
    Signature,
    capture,
    first_line,
    quiet,
    signature_of,
)
from sparsevit_plugin.backends.choices import INT8, ONNXRUNTIME, OPENVINO, require
from sparsevit_plugin.backends.from_config import calibration_of
from sparsevit_plugin.errors import UserError
from sparsevit_plugin.files import temporary_folder, write_json_atomic
from sparsevit_plugin.harness.config import Config
from sparsevit_plugin.harness.datasets import collate
from sparsevit_plugin.harness.evaluate import model_inputs, refuse_bad
from sparsevit_plugin.harness.photos import Photograph
from sparsevit_plugin.harness.pipeline import make_dataset
from sparsevit_plugin.harness.sources import ImageSet, Sample
from sparsevit_plugin.versions import DISTRIBUTION, installed_version
from sparsevit_plugin.zoo.adapter import IMAGE_MEAN, IMAGE_STD

ONNX: Final = "onnx"
TORCH_EXPORT: Final = "torch"

SUFFIXES: Final = {ONNX: ".onnx", OPENVINO: ".xml", TORCH_EXPORT: ".pt2"}
"""The formats, and how a file of each ends."""

TOLERANCES: Final = {ONNX: 1e-4, OPENVINO: 1e-5, TORCH_EXPORT: 1e-5, INT8: 0.1}
"""The largest difference of a map that is allowed, by format; of any int8 file its own."""

_NEEDS: Final = {ONNX: ONNXRUNTIME, OPENVINO: OPENVINO, TORCH_EXPORT: "torch"}
_TORCH_FILE: Final = "model.pt2"
_FACTS: Final = "sparsevit_plugin.json"
_LIBRARIES: Final = ("torch", "openvino", "nncf", "onnx", "onnxruntime", DISTRIBUTION)

Graph = Callable[[Mapping[str, Tensor]], Sequence[Tensor]]


@dataclass(frozen=True)
class ExportRequest:
    """What to export.

    Attributes:
        cfg: Of a test: how the model was built and how photographs are brought to it.
        checkpoint: `file` and `sha256` of the weights, for the record.
        format: One of `SUFFIXES`.
        out: The file to write.
        photographs: What it is verified on.
        tolerance: The largest difference allowed; None for that of `TOLERANCES`.
    """

    cfg: Config
    checkpoint: Mapping[str, Any]
    format: str
    out: Path
    photographs: Sequence[Photograph]
    tolerance: float | None = None

    @property
    def quantised(self) -> bool:
        """Whether the file holds int8."""
        return self.cfg.precision == INT8

    def allowed(self) -> float:
        """Return the largest difference allowed."""
        if self.tolerance is not None:
            return self.tolerance
        return TOLERANCES[INT8 if self.quantised else self.format]


def check_request(form: str, out: Path, precision: str) -> None:
    """Refuse what cannot be exported before anything is computed.

    Raises:
        UserError: The file's name does not fit its format, the format has no such precision, or an
            extra is not installed.
    """
    suffix = SUFFIXES[form]
    if out.suffix != suffix:
        raise UserError(f"--out {out}: a file of --format {form} ends in {suffix}")
    if precision not in ("auto", "32", INT8):
        raise UserError(
            f"--precision {precision}: files are made in 32 or int8; bf16 is chosen where they run"
        )
    if precision == INT8 and form != OPENVINO:
        raise UserError("--precision int8 needs --format openvino")
    require(_NEEDS[form], f"--format {form}")


def export(model: nn.Module, request: ExportRequest) -> dict[str, Any]:
    """Export a model, verify the file, and put it in its place.

    Beside the file stands `<out>.json`: what it is, what it takes, and what was verified.

    Args:
        model: With its weights, on the CPU.
        request: What to export.

    Returns:
        What `<out>.json` says.

    Raises:
        UserError: The model does not export, a photograph cannot be used, the file differs from
            PyTorch by more than the tolerance, or it cannot be written. No file is left then.
    """
    model = model.eval().requires_grad_(False)
    calls = verification_calls(request.cfg, request.photographs)
    signature = signature_of(model, calls[0])
    fitting = [call for call in calls if signature_of(model, call) == signature]
    calibration = calibration_of(request.cfg) if request.quantised else None
    with temporary_folder(request.out) as folder:
        signature, program = _captured(model, request, signature)
        _write(program, signature, folder, request, calibration)
        graph = _load(folder, request)
        difference = largest_difference(model, graph, signature, fitting)
        count = len(program.graph_signature.user_outputs)
        facts = {
            **_facts(request, signature, OUTPUTS[:count]),
            "calibration": dict(calibration.facts) if calibration else None,
            "verified": {
                "against": "PyTorch, single precision, on the CPU",
                "photographs": len(fitting),
                "largest_difference": difference,
                "tolerance": request.allowed(),
            },
        }
        if not difference <= request.allowed():  # a NaN is no agreement either
            raise UserError(
                f"{request.out}: differs from PyTorch by {difference:.2g} on {len(fitting)} "
                f"photographs, more than {request.allowed():.2g}; no file was written "
                "(--tolerance allows more)"
            )
        _annotate(program, folder, request, facts)
        _place(folder, request.out)
    write_json_atomic(_sidecar(request.out), facts)
    return facts


def verification_calls(cfg: Config, photographs: Sequence[Photograph]) -> list[dict[str, Any]]:
    """Bring photographs to the model as a test does, each as a batch of one.

    Raises:
        UserError: One cannot be used.
    """
    samples = tuple(Sample(photograph.path, None, photograph.name) for photograph in photographs)
    source = ImageSet("verification", "JsonDataset", Path(), samples, pairing="no masks")
    dataset = make_dataset(replace(cfg, perturbation="none"), source, training=False)
    return [_call(dataset, index) for index in range(len(samples))]


def _call(dataset: Dataset, index: int) -> dict[str, Any]:
    batch = collate([dataset[index]])
    refuse_bad(batch["bad"], skip=False)
    return model_inputs(batch, torch.device("cpu"))


def largest_difference(
    model: nn.Module, graph: Graph, signature: Signature, calls: Sequence[Mapping[str, Any]]
) -> float:
    """Return the largest difference of any output from PyTorch's, one by one and two by two.

    Args:
        model: In evaluation mode.
        graph: What was exported.
        signature: What it takes.
        calls: Batches of one.
    """
    reference = MapModel(model, dict(signature.constants)).eval()
    names = [one.name for one in signature.inputs]
    single = [{name: call[name] for name in names} for call in calls]
    pairs = [
        {name: torch.cat([one[name], other[name]]) for name in one}
        for one, other in zip(single[::2], single[1::2], strict=False)
    ]
    differences = []
    for inputs in [*single, *(pairs if signature.batch is None else [])]:
        with torch.no_grad():
            expected = reference(**inputs)
        for wanted, found in zip(expected, graph(inputs), strict=True):
            differences.append(float((wanted - found).abs().max()))
    return float(np.max(differences))  # of numbers with a NaN among them NaN


def _captured(
    model: nn.Module, request: ExportRequest, signature: Signature
) -> tuple[Signature, ExportedProgram]:
    """Capture the graph for any batch, or, of a model that allows no other, for one photograph."""
    try:
        return signature, capture(model, signature)
    except Exception as error:
        one = replace(signature, batch=1)
        try:
            return one, capture(model, one)
        except Exception:
            raise _refusal(request, error) from error


def _write(
    program: ExportedProgram,
    signature: Signature,
    folder: Path,
    request: ExportRequest,
    calibration: Calibration | None,
) -> None:
    try:
        if request.format == ONNX:
            onnxruntime.build(program, signature, folder)
        elif request.format == OPENVINO:
            precision = INT8 if request.quantised else "32"
            openvino.build(program, signature, folder, precision, calibration)
        else:
            _save_program(program, folder, {})
    except UserError:
        raise
    except Exception as error:
        raise _refusal(request, error) from error


def _refusal(request: ExportRequest, error: Exception) -> UserError:
    return UserError(
        f"{request.cfg.model}: does not export to {request.format}: {first_line(error)}"
    )


def _load(folder: Path, request: ExportRequest) -> Graph:
    """Read back what was written: what is verified is the file."""
    if request.format == ONNX:
        return onnxruntime.OnnxGraph(folder)
    if request.format == OPENVINO:
        return openvino.OpenVinoGraph(folder, "32")
    module = torch.export.load(folder / _TORCH_FILE).module()
    return lambda inputs: module(**inputs)


def _save_program(program: ExportedProgram, folder: Path, facts: Mapping[str, str]) -> None:
    with quiet():
        torch.export.save(program, folder / _TORCH_FILE, extra_files=dict(facts))


def _facts(request: ExportRequest, signature: Signature, outputs: Sequence[str]) -> dict[str, Any]:
    """Say what a file is, what it takes and what it gives."""
    plain = request.cfg.to_dict()
    batch: str | int = "any" if signature.batch is None else signature.batch
    return {
        "model": request.cfg.model,
        "model_arguments": {**plain["constructor_defaults"], **plain["model_arguments"]},
        "checkpoint": {key: request.checkpoint[key] for key in ("file", "sha256")},
        "format": request.format,
        "precision": INT8 if request.quantised else "32",
        "inputs": {
            one.name: {"shape": [batch, *one.shape], "dtype": one.dtype} for one in signature.inputs
        },
        "outputs": list(outputs),
        "image": {"colours": "RGB", "range": [0, 1], "mean": IMAGE_MEAN, "std": IMAGE_STD},
        "fit": request.cfg.fit,
        "versions": {name: installed_version(name) for name in _LIBRARIES},
    }


def _annotate(
    program: ExportedProgram, folder: Path, request: ExportRequest, facts: Mapping[str, Any]
) -> None:
    """Put the facts into the file itself as well."""
    text = json.dumps(facts)
    if request.format == TORCH_EXPORT:
        _save_program(program, folder, {_FACTS: text})
    elif request.format == ONNX:
        onnxruntime.annotate(folder, DISTRIBUTION, text)
    else:
        openvino.annotate(folder, DISTRIBUTION, text)


def _place(folder: Path, out: Path) -> None:
    """Move the finished files to their names: what is read first goes last."""
    for path in sorted(folder.iterdir(), key=lambda file: file.suffix == out.suffix):
        os.replace(path, out.with_suffix(path.suffix))  # noqa: PTH105 - as in files


def _sidecar(out: Path) -> Path:
    return out.with_name(f"{out.name}.json")
