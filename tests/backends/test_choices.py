import importlib.util

import pytest

from sparsevit_plugin.backends import choices
from sparsevit_plugin.backends.choices import Choice, require, settle
from sparsevit_plugin.errors import UserError


def test_automatic_precision_is_upstreams_on_a_gpu_and_single_elsewhere():
    assert settle("torch", "auto", "cuda:1") == Choice("torch", "16-mixed")
    assert settle("torch", "auto", "cpu") == Choice("torch", "32")
    assert settle("openvino", "auto", "auto") == Choice("openvino", "32")


def test_single_precision_has_two_spellings():
    assert settle("onnxruntime", "fp32") == Choice("onnxruntime", "32")


@pytest.mark.parametrize(
    ("backend", "precision", "words"),
    [
        ("opnvino", "32", 'Did you mean "openvino"?'),
        ("torch", "int8", "int8 needs --backend openvino"),
        ("openvino", "16-mixed", "has the precisions 32, bf16, int8, not 16-mixed"),
        ("onnxruntime", "bf16", "bf16 needs --backend torch or openvino"),
        ("onnxruntime", "half", "has the precisions 32, not half"),
    ],
)
def test_what_does_not_exist_is_refused_in_a_line(backend, precision, words):
    with pytest.raises(UserError, match="--backend") as caught:
        settle(backend, precision)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_backends_compute_on_the_cpu():
    with pytest.raises(UserError, match="--backend openvino computes on the CPU"):
        settle("openvino", "32", "cuda")


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_a_missing_extra_is_named(monkeypatch, backend):
    missing = choices._NEEDED[backend][-1]
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == missing else find(name)
    )
    with pytest.raises(UserError) as caught:
        require(backend)
    wanted = f'--backend {backend} needs the extra: pip install "sparsevit-plugin[{backend}]"'
    assert str(caught.value) == wanted


def test_torch_needs_no_extra():
    require("torch")
