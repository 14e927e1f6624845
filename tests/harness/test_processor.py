"""What a process does with its processor."""

import subprocess
import sys

import pytest
import torch

from sparsevit_plugin.backends.from_config import fabric_for
from sparsevit_plugin.harness import processor
from sparsevit_plugin.harness.config import resolve
from sparsevit_plugin.harness.devices import make_fabric
from sparsevit_plugin.harness.manifest import run_facts
from sparsevit_plugin.model.kernels import Kernels, attend, current_kernels


def test_a_fabric_for_the_cpu_sets_up_the_kernels(monkeypatch):
    asked = []

    def choose(*words):
        asked.append(words)
        return Kernels("onednn", 16, 64)

    monkeypatch.setattr(processor, "choose_kernels", choose)
    make_fabric("cpu", "bf16-mixed", matmul="onednn", purpose="training")
    make_fabric("cpu", "32", matmul="onednn", purpose="training")
    assert asked == [("onednn", "training", "bf16"), ("onednn", "training", "fp32")]
    assert current_kernels() == Kernels("onednn", 16, 64)


def test_every_fabric_leaves_out_cudnn_attention(monkeypatch):
    """It is set wherever the device is, so that a CPU can tell."""
    before = torch.backends.cuda.cudnn_sdp_enabled()
    monkeypatch.setattr(processor, "choose_kernels", lambda *_: Kernels())
    try:
        torch.backends.cuda.enable_cudnn_sdp(True)
        make_fabric("cpu", "32")
        assert not torch.backends.cuda.cudnn_sdp_enabled()
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("tokens", [16, 64, 192, 256])
def test_gradients_of_attention_are_finite_far_below_zero(tokens):
    """Scores of -120 each: what cuDNN's backward pass makes NaN of at 64 and 192 tokens."""
    make_fabric("cuda", "bf16-mixed")
    parts = torch.randn(3, 4, 3, tokens, 32, device="cuda", dtype=torch.bfloat16) * 0.1
    parts[0, ..., 0], parts[1, ..., 0] = 1.0, -120 * 32**0.5
    parts.requires_grad_()
    attend(*parts, None).sum().backward()
    assert torch.isfinite(parts.grad).all()


@pytest.mark.parametrize(
    ("purpose", "flags", "asked"),
    [
        ("inference", [], ("mkl", "inference", "fp32")),
        ("training", [], ("mkl", "training", "fp32")),
        ("inference", ["--precision", "bf16-mixed"], ("mkl", "inference", "bf16")),
        # Computed by oneDNN whatever was asked for, and so it stands in the manifest.
        ("inference", ["--precision", "bf16"], ("onednn", "inference", "bf16")),
        ("inference", ["--compile"], ("onednn", "inference", "fp32")),
        ("inference", ["--backend", "openvino"], ("mkl", "inference", "fp32")),
        (
            "inference",
            ["--backend", "openvino", "--precision", "int8"],
            ("mkl", "inference", "fp32"),
        ),
    ],
)
def test_a_tests_fabric_obeys_matmul(monkeypatch, purpose, flags, asked):
    found = []
    monkeypatch.setattr(
        processor, "choose_kernels", lambda *words: found.append(words) or Kernels()
    )
    words = ["--model", "SparseViT_tiny", "--device", "cpu", "--matmul", "mkl", *flags]
    cfg = resolve("test", [*words, "--test-data-path", "none"])
    fabric_for(cfg, purpose)
    assert found == [asked]


def test_kernels_are_told_of_pytorch_alone():
    device = torch.device("cpu")
    assert run_facts(device, "32", 1)["kernels"] == current_kernels().to_dict()
    assert "kernels" not in run_facts(device, "32", 1, "openvino")
    assert "kernels" not in run_facts(torch.device("meta"), "32", 1)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mallopt is glibc's")
def test_freed_memory_is_kept():
    """In a process of its own: it cannot be undone."""
    code = (
        "import resource, torch\n"
        "from sparsevit_plugin.harness.processor import keep_freed_memory\n"
        "done = keep_freed_memory()\n"
        "for _ in range(3): torch.zeros(2_000_000)\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "for _ in range(20): torch.zeros(2_000_000)\n"
        "print(int(done), resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    done, faults = map(int, ran.stdout.split())
    if not done:
        pytest.skip("not glibc")
    # 8 MB are 1953 pages; given back and taken again 20 times they would be 39,000 faults.
    assert faults < 2000


@pytest.mark.parametrize("name", ["MALLOC_TRIM_THRESHOLD_", "LD_PRELOAD"])
def test_a_users_own_allocator_is_left_alone(monkeypatch, name):
    monkeypatch.setenv(name, "1")
    assert not processor.keep_freed_memory()
