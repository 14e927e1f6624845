"""Which backends there are, which precisions each of them has, and what they need installed.

Nothing heavy is imported here: command lines are checked against it.
"""

import importlib.util
from typing import Final, NamedTuple

from sparsevit_plugin.errors import UserError, suggest

TORCH: Final = "torch"
OPENVINO: Final = "openvino"
ONNXRUNTIME: Final = "onnxruntime"

PRECISIONS: Final[dict[str, tuple[str, ...]]] = {
    TORCH: ("32", "bf16", "16-mixed", "bf16-mixed"),
    OPENVINO: ("32", "bf16", "int8"),
    ONNXRUNTIME: ("32",),
}
"""The precisions of each backend.

`32` is single precision throughout. `bf16` is inference in bfloat16. `16-mixed` and `bf16-mixed`
are PyTorch's autocast. `int8` is quantised after training, on photographs that it is calibrated on.
"""

BACKENDS: Final = tuple(PRECISIONS)
INT8: Final = "int8"
INT8_PRESET: Final = "performance"
"""NNCF's: weights and activations symmetric about zero.

With its other one, "mixed", whose activations are not, SparseViT lost 0.006 to 0.012 of mean pixel
F1 by three checkpoints, and with this one less than 0.001 (benchmarks/README.md).
"""

SPELLINGS: Final = {"fp32": "32"}
"""Other words for a precision."""

_NEEDED: Final = {
    TORCH: (),
    OPENVINO: ("openvino", "nncf"),
    ONNXRUNTIME: ("onnx", "onnxscript", "onnxruntime"),
}


class Choice(NamedTuple):
    """A backend and a precision that it has."""

    backend: str
    precision: str


def settle(backend: str, precision: str = "auto", device: str = "cpu") -> Choice:
    """Return what a backend and a precision come to.

    Args:
        backend: One of `BACKENDS`.
        precision: One of the backend's, another word for one, or `auto`: PyTorch's fp16 autocast on
            a GPU, as IMDLBenCo trains, and single precision elsewhere.
        device: The kind of device, as PyTorch names it: `cpu`, `cuda`, `cuda:0`, `mps`.

    Raises:
        UserError: There is no such backend, it has no such precision, or it cannot use the device.
    """
    if backend not in PRECISIONS:
        names = ", ".join(BACKENDS)
        raise UserError(f'--backend "{backend}" is not one of {names}.{suggest(backend, BACKENDS)}')
    kind = device.partition(":")[0]
    if backend != TORCH and kind not in ("cpu", "auto"):
        raise UserError(f"--backend {backend} computes on the CPU: give --device cpu, not {device}")
    if precision == "auto":
        return Choice(backend, "16-mixed" if kind == "cuda" else "32")
    found = SPELLINGS.get(precision, precision)
    if found not in PRECISIONS[backend]:
        having = [name for name, own in PRECISIONS.items() if found in own]
        hint = f"; {found} needs --backend {' or '.join(having)}" if having else ""
        own = ", ".join(PRECISIONS[backend])
        raise UserError(f"--backend {backend} has the precisions {own}, not {precision}{hint}")
    return Choice(backend, found)


def require(backend: str, why: str = "") -> None:
    """Check that what a backend needs is installed.

    Args:
        backend: One of `BACKENDS`.
        why: The words of the command line that ask for it; `--backend NAME` by default.

    Raises:
        UserError: It is not; the message names the extra to install.
    """
    if any(importlib.util.find_spec(name) is None for name in _NEEDED[backend]):
        asked = why or f"--backend {backend}"
        raise UserError(f'{asked} needs the extra: pip install "sparsevit-plugin[{backend}]"')
