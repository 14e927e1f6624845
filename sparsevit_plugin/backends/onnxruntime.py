"""The `onnxruntime` backend: graphs in ONNX, for any batch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import torch
from torch import Tensor
from torch.export import ExportedProgram

from sparsevit_plugin.backends.capture import OUTPUTS, Signature, quiet
from sparsevit_plugin.errors import UserError

FILE: Final = "model.onnx"


def build(program: ExportedProgram, signature: Signature, folder: Path) -> None:
    """Write a graph as `model.onnx`.

    Args:
        program: The captured graph.
        signature: What it was captured for.
        folder: Where to write.
    """
    count = len(program.graph_signature.user_outputs)
    with quiet():
        made = torch.onnx.export(
            program,
            input_names=[one.name for one in signature.inputs],
            output_names=list(OUTPUTS[:count]),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
        if made is None:
            raise RuntimeError("torch.onnx.export gave no program")
        made.save(folder / FILE, external_data=False)


def annotate(folder: Path, name: str, text: str) -> None:
    """Write a note into the file of `build`."""
    import onnx

    graph = onnx.load(folder / FILE)
    onnx.helper.set_model_props(graph, {name: text})
    onnx.save(graph, folder / FILE)


class OnnxGraph:
    """A graph in an inference session.

    Args:
        folder: Holds the file of `build`.
    """

    def __init__(self, folder: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(
                folder / FILE, options, providers=["CPUExecutionProvider"]
            )
        except RuntimeError as error:
            raise UserError(f"{folder / FILE} cannot be read: remove {folder}") from error
        self._outputs = [output.name for output in self._session.get_outputs()]
        self._inputs = {given.name for given in self._session.get_inputs()}

    def __call__(self, inputs: Mapping[str, Tensor]) -> list[Tensor]:
        """Compute the outputs of a batch."""
        arrays = {n: value.numpy() for n, value in inputs.items() if n in self._inputs}
        return [torch.from_numpy(array) for array in self._session.run(self._outputs, arrays)]
