"""Small models and runs for the tests of training and evaluation."""

import json
import os
import stat
import sys
from pathlib import Path

import pytest
import torch
from IMDLBenCo.registry import MODELS
from safetensors.torch import save_file
from torch import nn

from sparsevit_plugin.cli.main import main
from sparsevit_plugin.harness.config import resolve
from sparsevit_plugin.harness.pipeline import build_model, describe_for_testing

TINY = (
    *("--model", "SparseViT_tiny", "--image-size", "32", "--if-resizing", "--device", "cpu"),
    *("--num-workers", "0", "--test-batch-size", "3"),
)


class PlainConvolution(nn.Module):
    """One convolution without BatchNorm or dropout: sums of gradients can be checked exactly.

    Args:
        spoil: Whether the loss is no number.
        overflow: In how many batches, from the first, the gradients alone are infinite.
    """

    def __init__(self, spoil: float = 0.0, overflow: int = 0) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 1, 3, padding=1)
        self.spoil = spoil
        self.overflow = overflow

    def forward(self, image, mask=None, *args, **kwargs):
        logits = self.convolution(image)
        if self.training and self.overflow:
            self.overflow -= 1
            logits.register_hook(lambda gradient: gradient * float("inf"))
        loss = None
        if mask is not None:
            loss = nn.functional.binary_cross_entropy_with_logits(logits, mask.float())
            loss = loss * (float("nan") if self.spoil else 1.0)
        probability = torch.sigmoid(logits)
        return {
            "backward_loss": loss,
            "pred_mask": probability,
            "pred_label": None,
            "visual_loss": {} if loss is None else {"predict_loss": loss},
            "visual_image": {},
        }


def register_plain_convolution() -> None:
    MODELS.register_module(module=PlainConvolution, force=True)


def run_train(data: Path, out: Path, *flags: str) -> int:
    """Train SparseViT_tiny for two epochs of three batches (on a set of twelve or so)."""
    return main(
        [
            *(
                "train",
                *TINY,
                "--recipe",
                "none",
                "--data-path",
                str(data),
                "--output-dir",
                str(out),
            ),
            *("--batch-size", "4", "--accum-iter", "1", "--epochs", "2", "--lr", "1e-3"),
            *("--warmup-epochs", "0.5", "--select", "last", *flags),
        ]
    )


def weights(path: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(path)


def same_weights(a: Path, b: Path) -> bool:
    first, second = weights(a), weights(b)
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def points(out: Path) -> list[dict]:
    lines = (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def save_tiny(path: Path) -> Path:
    """Save a SparseViT_tiny whose every weight counts, recorded as trained at 64 x 64."""
    words = ["--model", "SparseViT_tiny", "--image-size", "64", "--fit", "resize"]
    cfg = resolve("test", words, needs_data=False)
    model = build_model(cfg)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    save_file(model.state_dict(), path, metadata=describe_for_testing(cfg))
    return path


def run_instead(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Let `launch_processes` start a shell script in the place of Python."""
    program = folder / "python"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setitem(os.environ, "OMP_NUM_THREADS", "1")
