"""One way of computing SparseViT, in a process of its own; started by `benchmarks/model.py`.

It is built by a question {"do": "make", ...} and run once as a warm-up; {"do": "run"} runs it and
returns the seconds; {"do": "facts"} returns memory and the difference to IMDLBenCo's model.
"""

import contextlib
import io
import itertools
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from model import INFERENCE
from timm.data.constants import IMAGENET_DEFAULT_MEAN as IMAGENET_MEAN
from timm.data.constants import IMAGENET_DEFAULT_STD as IMAGENET_STD
from torch import Tensor, nn

from sparsevit_plugin.backends import prepare
from sparsevit_plugin.backends.from_config import calibration_of
from sparsevit_plugin.harness.child_process import serve
from sparsevit_plugin.harness.config import resolve
from sparsevit_plugin.harness.photos import embedded_photographs
from sparsevit_plugin.harness.processor import set_up_processor
from sparsevit_plugin.model.packed import PackedPointwise, can_pack
from sparsevit_plugin.model.register import register
from sparsevit_plugin.model.weights import load_into, save_safetensors

SIDE = 512
UPSTREAM = "SparseViT_upstream"


def main() -> None:
    """Answer the parent."""
    worker = Worker()
    serve(lambda question: getattr(worker, question.pop("do"))(**question))


class Worker:
    """Holds the path that was asked for."""

    def make(
        self, *, path: str, training: bool, weights: str, cache: str, batch: int, calibration: str
    ) -> dict[str, Any]:
        """Build a path and run it once."""
        self.is_upstream = path.startswith("upstream")
        if not self.is_upstream:
            number_format = "bf16" if "bf16" in path.split() else "fp32"
            set_up_processor("auto", "training" if training else "inference", number_format)
        self.before = _resident()
        model = build(UPSTREAM if self.is_upstream else "SparseViT", Path(weights))
        image, mask = example(batch)
        self.expected = Path(cache) / f"{'gradients' if training else 'map'}-{batch}.pt"
        if training:
            self.call = step_of(model, image, mask, path)
            self.result = lambda: gradients(model)
        else:
            predict = predictor(model, path, cache, calibration)
            self.call = lambda: predict(image=image, mask=mask, label=torch.zeros(batch))
            self.result = lambda: {"map": self.call()["pred_mask"]}
        self.call()
        return {}

    def run(self) -> dict[str, float]:
        """Time one run."""
        start = time.perf_counter()
        self.call()
        return {"seconds": time.perf_counter() - start}

    def facts(self) -> dict[str, Any]:
        """Return memory in MiB, before anything else is computed, and the difference."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        found = {name: value.float() for name, value in self.result().items()}
        difference = None
        if not self.expected.exists():  # the reference is asked first
            torch.save(found, self.expected)
        else:
            difference = compare(found, torch.load(self.expected, weights_only=True))
        return {"peak": peak - self.before, "process": peak, "difference": difference}

    def profile(self) -> dict[str, dict[str, float]]:
        """Return the milliseconds of one run by operation."""
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiled:
            self.call()
        return {
            "milliseconds": {
                event.key: event.self_cpu_time_total / 1000 for event in profiled.key_averages()
            }
        }

    def products(self) -> dict[str, Any]:
        """Return the best GFLOP/s of a matrix product, by number format and library."""
        found = {
            f"{kind} {name}": rate
            for kind, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16))
            for name, rate in product_rates(dtype).items()
        }
        best = {
            kind: max(rate for name, rate in found.items() if name.startswith(kind))
            for kind in ("fp32", "bf16")
        }
        said = ", ".join(f"{name} {rate:.0f}" for name, rate in found.items())
        return {**best, "said": f"{said} GFLOP/s"}


def build(name: str, weights: Path) -> nn.Module:
    """Build a registered model with the weights of the file, which the first process writes."""
    register()
    from IMDLBenCo.registry import MODELS

    torch.manual_seed(0)
    with contextlib.redirect_stdout(io.StringIO()):
        model: nn.Module = MODELS.get(name)()
    if not weights.exists():
        draw_scales(model)
        save_safetensors(model, weights)
    load_into(model, weights)
    return model.eval()


def draw_scales(model: nn.Module) -> None:
    """Draw layer scales, fusion scales and the statistics of BatchNorm at random."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if "gamma" in name:
                tensor.uniform_(0.05, 0.25, generator=generator)
            elif "running_mean" in name:
                tensor.normal_(0, 0.1, generator=generator)
            elif "running_var" in name:
                tensor.uniform_(0.5, 1.5, generator=generator)


def example(batch: int) -> tuple[Tensor, Tensor]:
    """Return normalised photographs, B x 3 x 512 x 512, and masks of a rectangle."""
    pictures = []
    for photograph in itertools.islice(itertools.cycle(embedded_photographs()), batch):
        pixels = cv2.resize(photograph.array, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        normal = (pixels / np.float32(255) - IMAGENET_MEAN) / IMAGENET_STD
        pictures.append(torch.from_numpy(normal.astype(np.float32)).permute(2, 0, 1))
    mask = torch.zeros(batch, 1, SIDE, SIDE)
    mask[..., 100:220, 150:330] = 1
    return torch.stack(pictures), mask


def predictor(model: nn.Module, path: str, cache: str, calibration: str) -> Callable[..., Any]:
    """Return what computes a path of inference."""
    if path == "upstream":
        return torch.no_grad()(model)
    backend, precision = INFERENCE[path]
    return prepare(
        model,
        backend=backend,
        precision=precision,
        cache=cache,
        calibration=_calibration(calibration) if precision == "int8" else None,
        compiled="compiled" in path,
    )


def _calibration(path: str) -> Any:  # noqa: ANN401 - as the backend makes it
    words = ["--model", "SparseViT", "--test-data-path", path, "--calibration-data", path]
    words += ["--backend", "openvino", "--precision", "int8", "--image-size", str(SIDE)]
    return calibration_of(resolve("test", [*words, "--if-resizing"]))


def step_of(model: nn.Module, image: Tensor, mask: Tensor, path: str) -> Callable[[], None]:
    """Return a training step but for the optimiser's: forward, loss and backward."""
    model.train()
    if "checkpointed" in path:
        model.checkpoint_activations()
    scope = torch.autocast("cpu", torch.bfloat16) if "bf16" in path else contextlib.nullcontext()
    label = torch.ones(len(image))

    def step() -> None:
        torch.manual_seed(0)  # the same blocks are left out by stochastic depth
        model.zero_grad(set_to_none=True)
        with scope:
            loss = model(image=image, mask=mask, label=label)["backward_loss"]
        loss.backward()

    return step


def gradients(model: nn.Module) -> dict[str, Tensor]:
    """Return the gradients of the last step, by the names of the parameters."""
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def compare(found: dict[str, Tensor], expected: dict[str, Tensor]) -> tuple[float, float]:
    """Return the largest and the mean difference.

    Of a map as they are; of gradients each as a share of its tensor's largest.
    """
    differences = []
    for name, value in expected.items():
        scale = 1.0 if name == "map" else max(float(value.abs().max()), 1e-12)
        differences.append(((found[name] - value).abs() / scale).flatten())
    joined = torch.cat(differences)
    return float(joined.max()), float(joined.mean())


def product_rates(dtype: torch.dtype) -> dict[str, float]:
    """Return the best GFLOP/s of each library over the linear layers of the two largest stages."""
    best: dict[str, float] = {}
    for rows, inputs, outputs in ((1024, 320, 1280), (1024, 1280, 320), (2048, 2048, 2048)):
        grid = torch.randn(1, rows, 1, inputs).to(dtype)
        weight, bias = torch.randn(outputs, inputs).to(dtype), torch.randn(outputs).to(dtype)
        runs: dict[str, Callable[[], Any]] = {
            "linear": lambda g=grid, w=weight, b=bias: F.linear(g, w, b),
            "1 x 1 convolution": lambda g=grid, w=weight, b=bias: F.conv2d(
                g.permute(0, 3, 1, 2), w[:, :, None, None], b
            ),
        }
        if can_pack(dtype):
            runs["packed linear"] = PackedPointwise(weight, bias)
            runs["packed linear"] = lambda g=grid, run=runs["packed linear"]: run(g)
        for name, seconds in _least_seconds(runs).items():
            rate = 2 * rows * inputs * outputs / seconds / 1e9
            best[name] = max(best.get(name, 0.0), rate)
    return best


def _least_seconds(runs: dict[str, Callable[[], Any]], repeats: int = 15) -> dict[str, float]:
    least = dict.fromkeys(runs, float("inf"))
    with torch.no_grad():
        for _ in range(repeats):
            for name, run in runs.items():
                start = time.perf_counter()
                run()
                least[name] = min(least[name], time.perf_counter() - start)
    return least


def _resident() -> float:
    """Return this process's resident memory now, in MiB."""
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * resource.getpagesize() / 2**20


if __name__ == "__main__":
    main()
