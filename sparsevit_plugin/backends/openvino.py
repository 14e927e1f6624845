"""The `openvino` backend: graphs that OpenVINO compiles for the CPU, one per shape."""

import functools
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor
from torch.export import ExportedProgram

from sparsevit_plugin.backends.capture import Signature, quiet
from sparsevit_plugin.backends.choices import INT8, INT8_PRESET, OPENVINO, require
from sparsevit_plugin.errors import UserError

if TYPE_CHECKING:
    import openvino as ov

    from sparsevit_plugin.backends.calibration import Calibration

FILE: Final = "model.xml"
COMPILED: Final = 8
"""Compiled shapes that a graph keeps; the one that was not used for the longest time goes."""

_BF16: Final = "BF16"


@functools.cache
def core() -> "ov.Core":
    """Return this process's one core, which is not given up before its end.

    On processors with AMX the CPU plugin gives the thread that loads it a larger stack for signals.
    It frees that stack when it goes, which Python lets happen in any thread, and only the thread
    that loaded it would get its former one back: the other would die of its next signal.
    """
    import openvino as ov

    return ov.Core()


def rest_precision(precision: str) -> str:
    """Return the number format of what is computed in floats: `32` or `bf16`.

    The layers that int8 leaves in floats are in bfloat16 where the processor has units for it.

    Raises:
        UserError: bfloat16 was asked for by name and the processor has no units for it: OpenVINO
            would compute in single precision without a word.
    """
    if precision == "32":
        return "32"
    has_units = _BF16 in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if precision == "bf16" and not has_units:
        raise UserError(
            "--backend openvino --precision bf16: this processor has no bfloat16 units; use "
            "--precision 32"
        )
    return "bf16" if has_units else "32"


def build(
    program: ExportedProgram,
    signature: Signature,
    folder: Path,
    precision: str,
    calibration: "Calibration | None" = None,
) -> None:
    """Write a graph as OpenVINO's files, `model.xml` and `model.bin`.

    Args:
        program: The captured graph.
        signature: What it was captured for.
        folder: Where to write.
        precision: One of the backend's. Only int8 changes the file: bf16 is a matter of compiling.
        calibration: For int8.
    """
    import openvino as ov

    graph = _converted(program)
    _name(graph, signature)
    if precision == INT8:
        if calibration is None:
            raise UserError("--precision int8 needs --calibration-data PATH: training photographs")
        graph = quantise(graph, calibration.feeds(signature))
    ov.save_model(graph, folder / FILE, compress_to_fp16=False)


def _converted(program: ExportedProgram) -> "ov.Model":
    import openvino as ov

    try:
        with quiet():
            return ov.convert_model(program)
    except ov.frontend.OpConversionFailure as error:
        # It begins with a place in OpenVINO's source; what is missing stands in a list below.
        lines = [line.strip() for line in str(error).splitlines()]
        missing = [line.removeprefix("-- ") for line in lines if line.startswith("-- ")]
        raise RuntimeError("; ".join(missing) or str(error)) from error


def _name(graph: "ov.Model", signature: Signature) -> None:
    """Fix shapes but the batch, and give inputs and outputs their names."""
    shapes = {}
    for one in signature.inputs:
        port = graph.input(one.name)
        shapes[port] = [signature.batch or -1, *one.shape]
    graph.reshape(shapes)
    for port, name in zip(graph.outputs, ("pred_mask", "pred_label"), strict=False):
        port.get_tensor().set_names({name})


def quantise(graph: "ov.Model", feeds: Sequence[Mapping[str, Tensor]]) -> "ov.Model":
    """Quantise a graph to int8 after training, by NNCF: SmoothQuant, then min-max and bias.

    Args:
        graph: In single precision.
        feeds: The inputs of calibration, one photograph each.
    """
    require(OPENVINO, "--precision int8")
    arrays = [{name: value.numpy() for name, value in feed.items()} for feed in feeds]
    with quiet():
        import nncf  # it speaks, too

        return nncf.quantize(
            graph,
            nncf.Dataset(arrays),
            model_type=nncf.ModelType.TRANSFORMER,
            preset=nncf.QuantizationPreset(INT8_PRESET),
            subset_size=len(arrays),
        )


def annotate(folder: Path, name: str, text: str) -> None:
    """Write a note into the files of `build`."""
    import openvino as ov

    graph = core().read_model(folder / FILE)
    graph.set_rt_info(text, name)
    again = folder / f"annotated{FILE}"
    ov.save_model(graph, again, compress_to_fp16=False)
    del graph  # it still reads the old weights
    again.with_suffix(".bin").replace((folder / FILE).with_suffix(".bin"))
    again.replace(folder / FILE)


class OpenVinoGraph:
    """A graph that is compiled for every batch that it meets.

    Static shapes are what OpenVINO plans memory and kernels for; the compiled ones are kept in
    bounded number.

    Args:
        folder: Holds the files of `build`.
        precision: One of the backend's.
    """

    def __init__(self, folder: Path, precision: str) -> None:
        try:
            self._graph = core().read_model(folder / FILE)
        except RuntimeError as error:
            raise UserError(f"{folder / FILE} cannot be read: remove {folder}") from error
        hint = {"32": "f32", "bf16": "bf16"}[rest_precision(precision)]
        self._settings = {
            "PERFORMANCE_HINT": "LATENCY",
            # Without it OpenVINO computes in bf16 wherever the processor can.
            "INFERENCE_PRECISION_HINT": hint,
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        }
        self._compiled: OrderedDict[int, Any] = OrderedDict()

    def __call__(self, inputs: Mapping[str, Tensor]) -> list[Tensor]:
        """Compute the outputs of a batch."""
        count = len(next(iter(inputs.values())))
        request = self._request(count)
        result = request.infer({name: value.numpy() for name, value in inputs.items()})
        return [torch.from_numpy(result[port].copy()) for port in request.model_outputs]

    def _request(self, count: int) -> Any:  # noqa: ANN401 - OpenVINO has no type to name here
        if count in self._compiled:
            self._compiled.move_to_end(count)
            return self._compiled[count]
        graph = self._graph.clone()
        shapes = {}
        for port in graph.inputs:
            sides = [side.get_length() for side in list(port.partial_shape)[1:]]
            shapes[port] = [count, *sides]
        graph.reshape(shapes)
        compiled = core().compile_model(graph, "CPU", self._settings)
        self._compiled[count] = compiled.create_infer_request()
        while len(self._compiled) > COMPILED:
            self._compiled.popitem(last=False)
        return self._compiled[count]
