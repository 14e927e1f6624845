"""One way of computing SparseViT on a GPU, in a process of its own; started by `gpu.py`."""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from gpu import EXACT
from model_child import UPSTREAM, build, compare, example, gradients
from torch import Tensor, nn

from sparsevit_plugin.backends import prepare
from sparsevit_plugin.harness.child_process import serve
from sparsevit_plugin.harness.processor import leave_out_cudnn_attention

PRECISIONS = {"fp32": "32", "fp16": "16-mixed", "bf16": "bf16"}
AUTOCAST = {"fp16": torch.float16, "bf16": torch.bfloat16}
LOSS_SCALE = 1024.0
"""Keeps fp16's small gradients from vanishing; the differences are taken after dividing by it."""


def main() -> None:
    """Answer the parent."""
    worker = Worker()
    serve(lambda question: getattr(worker, question.pop("do"))(**question))


class Worker:
    """Holds the path that was asked for."""

    def make(
        self,
        *,
        what: str,
        batch: int,
        path: str,
        device: str,
        name: str,
        weights: str,
        folder: str,
    ) -> dict[str, Any]:
        """Build a path and run it a few times."""
        self.device, self.path = torch.device(device), path
        leave_out_cudnn_attention()  # as every command of benco does
        # Both models count in what PyTorch gives by default; single precision is exact.
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        own = UPSTREAM if path.startswith("upstream") else name
        model = build(own, Path(weights)).to(self.device)
        image, mask = (part.to(self.device) for part in example(batch))
        self.expected = Path(folder) / f"{what}-{batch}.pt"
        if what == "training":
            self.call: Callable[[], Any] = step_of(model, image, mask, path)
            self.result = lambda: unscaled_gradients(model, path)
        else:
            predict = predictor(model, path, self.device)
            label = torch.zeros(batch, device=self.device)
            self.call = lambda: predict(image=image, mask=mask, label=label)
            self.result = lambda: {"map": self.call()["pred_mask"]}
        for _ in range(3):
            self.call()
        self._wait()
        self._empty()
        return {}

    def run(self, *, seconds: float) -> dict[str, float]:
        """Time calls for about so long; return the milliseconds of one."""
        self.call()
        self._wait()
        start, calls = time.perf_counter(), 0
        while not calls or time.perf_counter() - start < seconds:
            self.call()
            self._wait()
            calls += 1
        taken = 1000 * (time.perf_counter() - start) / calls
        self._empty()
        return {"milliseconds": taken}

    def facts(self) -> dict[str, Any]:
        """Return the peak memory in MiB and the difference to the model in single precision."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        self.call()
        self._wait()
        peak = torch.cuda.max_memory_allocated() / 2**20 if self.device.type == "cuda" else 0.0
        found = {name: value.float().cpu() for name, value in self.result().items()}
        difference = None
        if self.path == EXACT:
            torch.save(found, self.expected)
        elif self.expected.exists():
            difference = compare(found, torch.load(self.expected, weights_only=True))
        self._empty()
        return {"peak": peak, "difference": difference}

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def _empty(self) -> None:
        """Give back what other processes may need."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def scope_of(path: str, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Return the autocast of a path."""
    dtype = next((found for name, found in AUTOCAST.items() if name in path), None)
    return torch.autocast(device.type, dtype) if dtype else contextlib.nullcontext()


def predictor(model: nn.Module, path: str, device: torch.device) -> Callable[..., Any]:
    """Return what computes a path of inference."""
    if not path.startswith("upstream"):
        precision = PRECISIONS[path.split(maxsplit=1)[0]]
        compiled = "compiled" in path
        return prepare(model, precision=precision, device=device, compiled=compiled)

    @torch.no_grad()
    def call(**batch: Tensor) -> Any:  # noqa: ANN401 - as the model returns it
        with scope_of(path, device):
            return model(**batch)

    return call


def step_of(model: nn.Module, image: Tensor, mask: Tensor, path: str) -> Callable[[], None]:
    """Return a training step but for the optimiser's: forward, loss and backward."""
    model.train()
    call = torch.compile(model) if "compiled" in path else model
    label = torch.ones(len(image), device=image.device)
    scale = loss_scale(path)

    def step() -> None:
        torch.manual_seed(0)  # the same blocks are left out by stochastic depth
        model.zero_grad(set_to_none=True)
        with scope_of(path, image.device):
            loss = call(image=image, mask=mask, label=label)["backward_loss"]
        (loss * scale).backward()

    return step


def loss_scale(path: str) -> float:
    """Return what a path's loss is multiplied by."""
    return LOSS_SCALE if "fp16" in path else 1.0


def unscaled_gradients(model: nn.Module, path: str) -> dict[str, Tensor]:
    """Return the gradients of the last step, without the scale of the loss."""
    return {name: value / loss_scale(path) for name, value in gradients(model).items()}


if __name__ == "__main__":
    main()
