"""What computes a model's maps: PyTorch, OpenVINO or ONNX Runtime, behind one interface.

    from sparsevit_plugin.backends import prepare

    predictor = prepare(model, backend="openvino", precision="bf16", checkpoint=path)
    predictor(image=image)["pred_mask"]

`prepare` is imported when it is first asked for: the names of backends are read without torch.
"""

from typing import TYPE_CHECKING

from sparsevit_plugin.backends.choices import BACKENDS, Choice, settle

if TYPE_CHECKING:
    from sparsevit_plugin.backends.predictor import prepare

__all__ = ["BACKENDS", "Choice", "prepare", "settle"]


def __getattr__(name: str) -> object:
    if name != "prepare":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from sparsevit_plugin.backends.predictor import prepare

    return prepare
