"""A model on a backend, called as the model itself."""

import copy
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from sparsevit_plugin.backends import onnxruntime, openvino
from sparsevit_plugin.backends.cache import ExportCache, default_folder
from sparsevit_plugin.backends.calibration import Calibration
from sparsevit_plugin.backends.capture import (
    Signature,
    capture,
    chosen_inputs,
    first_line,
    signature_of,
)
from sparsevit_plugin.backends.choices import INT8, ONNXRUNTIME, OPENVINO, TORCH, require, settle
from sparsevit_plugin.backends.fingerprint import model_fingerprint
from sparsevit_plugin.backends.torch import prepare_torch
from sparsevit_plugin.errors import UserError
from sparsevit_plugin.versions import DISTRIBUTION, installed_version

EXPORT_VERSION: Final = 4
"""Raised when the same model would be exported differently: cached files are then made again."""

GRAPHS: Final = 8
"""Graphs (one per size of image) that a predictor keeps loaded."""

_VERSIONS: Final = {
    OPENVINO: ("openvino", "nncf"),
    ONNXRUNTIME: ("onnx", "onnxscript"),
}

Graph = Callable[[Mapping[str, Tensor]], list[Tensor]]


def prepare(
    model: nn.Module,
    *,
    backend: str = TORCH,
    precision: str = "auto",
    device: str | torch.device = "cpu",
    checkpoint: str | PathLike[str] | None = None,
    cache: str | PathLike[str] | None = None,
    calibration: Calibration | None = None,
    compiled: bool = False,
) -> nn.Module:
    """Return a model for inference on a backend.

    Args:
        model: The model with its weights; it is left as it is.
        backend: `torch`, `openvino` or `onnxruntime`.
        precision: One of the backend's (`choices.PRECISIONS`), or `auto`.
        device: Where PyTorch computes; the other backends compute on the CPU.
        checkpoint: The file that the weights are from. Exported files are kept beside it, in
            `<checkpoint>.exports`.
        cache: Folder for exported files instead.
        calibration: What int8 is calibrated on.
        compiled: Whether PyTorch compiles the model (`torch.compile`).

    Returns:
        A module that is called as the model (`image=..., mask=..., shape_mask=..., ...`) and
        returns `pred_mask`, probabilities (B, 1, H, W) in single precision, and `pred_label` (B,),
        None where the model gives none. There is no loss. A graph is made at the first image of
        each size.

    Raises:
        UserError: The combination does not exist, or an extra is not installed.
    """
    choice = settle(backend, precision, str(device))
    if choice.backend == TORCH:
        return prepare_torch(model, choice.precision, torch.device(device), compiled=compiled)
    if compiled:
        raise UserError(f"--compile is for --backend torch; {choice.backend} compiles by itself")
    require(choice.backend)
    if choice.precision == INT8 and calibration is None:
        raise UserError("--precision int8 needs --calibration-data PATH: training photographs")
    folder = Path(cache) if cache is not None else default_folder(checkpoint)
    return ExportedPredictor(
        model, choice.backend, choice.precision, ExportCache(folder), calibration
    )


class ExportedPredictor(nn.Module):
    """A model whose graphs another library computes, one graph per size of image.

    Args:
        model: The model with its weights; a copy is kept to capture graphs from.
        backend: `openvino` or `onnxruntime`.
        precision: One of the backend's.
        cache: Where exported files are kept.
        calibration: For int8.

    Raises:
        UserError: This processor lacks what the precision needs.
    """

    def __init__(
        self,
        model: nn.Module,
        backend: str,
        precision: str,
        cache: ExportCache,
        calibration: Calibration | None = None,
    ) -> None:
        super().__init__()
        # Not what `fuse()` returns: the libraries fold by themselves.
        source = copy.deepcopy(model).cpu().eval().requires_grad_(False)
        # Not a submodule: it has no part in the predictor's mode, device and parameters.
        self._source = (source,)
        self.backend = backend
        self.precision = precision
        self.rest = openvino.rest_precision(precision) if backend == OPENVINO else precision
        self.cache = cache
        self.calibration = calibration
        self._fingerprint = model_fingerprint(source)
        self._graphs: OrderedDict[Signature, Graph] = OrderedDict()
        self._any_batch = True
        super().train(False)

    def train(self, mode: bool = True) -> "ExportedPredictor":
        """Refuse the training mode: a graph has none.

        Raises:
            UserError: It is asked for.
        """
        if mode:
            raise UserError(f"--backend {self.backend} only predicts: training needs torch")
        return self

    @torch.no_grad()
    def forward(self, image: Tensor, **batch: Any) -> dict[str, Any]:  # noqa: ANN401
        """Predict.

        Args:
            image: Normalised photographs, shape (B, 3, H, W), on the CPU.
            **batch: What else the model reads.

        Returns:
            As `prepare` says.

        Raises:
            UserError: The model does not export to the backend.
        """
        call = {"image": image, **batch}
        inputs = chosen_inputs(self._source[0], call)
        given = {name: value.detach().contiguous() for name, value in inputs.items()}
        outputs = self._graph(signature_of(self._source[0], call), len(image))(given)
        return {"pred_mask": outputs[0], "pred_label": outputs[1] if outputs[1:] else None}

    def _graph(self, signature: Signature, count: int) -> Graph:
        if not self._any_batch:
            signature = replace(signature, batch=count)
        if signature not in self._graphs:
            try:
                self._graphs[signature] = self._load(signature)
            except UserError:
                raise
            except Exception as error:
                if not self._any_batch:
                    raise self._refusal(error) from error
                return self._graph_of_one_batch(signature, count, error)
            while len(self._graphs) > GRAPHS:
                self._graphs.popitem(last=False)
        self._graphs.move_to_end(signature)
        return self._graphs[signature]

    def _graph_of_one_batch(self, signature: Signature, count: int, error: Exception) -> Graph:
        """Make a graph for the batch at hand of a model that exports for no other."""
        self._any_batch = False
        try:
            return self._graph(signature, count)
        except UserError:
            # What any batch was refused for says more than what this one was.
            raise self._refusal(error) from error

    def _refusal(self, error: Exception) -> UserError:
        reason = f"does not export to {self.backend}: {first_line(error)}"
        return UserError(f"{type(self._source[0]).__name__}: {reason}; use --backend torch")

    def _load(self, signature: Signature) -> Graph:
        folder = self.cache.entry(
            self._content(signature), lambda target: self._build(signature, target)
        )
        if self.backend == OPENVINO:
            return openvino.OpenVinoGraph(folder, self.precision)
        return onnxruntime.OnnxGraph(folder)

    def _build(self, signature: Signature, folder: Path) -> None:
        program = capture(self._source[0], signature)
        if self.backend == OPENVINO:
            openvino.build(program, signature, folder, self.precision, self.calibration)
        else:
            onnxruntime.build(program, signature, folder)

    def _content(self, signature: Signature) -> dict[str, Any]:
        """Return all that a graph's files depend on, as JSON can hold it."""
        versions = ("torch", DISTRIBUTION, *_VERSIONS[self.backend])
        quantised = self.precision == INT8
        return {
            "export_version": EXPORT_VERSION,
            "backend": self.backend,
            # bf16 is a matter of compiling: its file is that of 32.
            "precision": INT8 if quantised else "32",
            "calibration": self.calibration.fingerprint() if self.calibration else None,
            "model": self._fingerprint,
            "signature": signature.to_dict(),
            "versions": {name: installed_version(name) for name in versions},
        }
