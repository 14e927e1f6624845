"""Logs of a training run: TensorBoard with upstream's tags, and one JSON line a point."""

import contextlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch.utils.tensorboard import SummaryWriter

from sparsevit_plugin.errors import UserError
from sparsevit_plugin.files import parse_json, write_text_atomic

LOG_NAME = "metrics.jsonl"
IMAGES_SHOWN = 8


class TrainingLog:
    """Writes on the main process only; elsewhere every call does nothing.

    A resumed run first drops what a killed one wrote beyond its last saved step, so no point
    stands twice.

    Args:
        folder: Where `metrics.jsonl` goes.
        tensorboard: Where TensorBoard's files go.
        fabric: The launched Fabric.
        position: Global batches done before this start.
        epoch: Epochs done before it, their judgement included.
    """

    def __init__(
        self, folder: Path, tensorboard: Path, fabric: Fabric, position: int, epoch: int
    ) -> None:
        self._writer: SummaryWriter | None = None
        self._path = folder / LOG_NAME
        self._events = tensorboard
        self._excepthook = threading.excepthook
        if fabric.is_global_zero:
            self._drop_after(position, epoch)
            threading.excepthook = self._note_failed_thread
            with self._writing():
                self._writer = SummaryWriter(log_dir=str(tensorboard))

    def _drop_after(self, position: int, epoch: int) -> None:
        if not self._path.exists():
            return
        lines = self._path.read_text(encoding="utf-8").splitlines()
        kept = [line for line in lines if _is_before(line, position, epoch)]
        write_text_atomic(self._path, "".join(f"{line}\n" for line in kept))

    def _append(self, point: dict[str, Any]) -> None:
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(point) + "\n")
        except OSError as error:
            raise UserError(f"cannot write {self._path}: {error.strerror or error}") from error

    def losses(
        self, losses: dict[str, float], lr: float, epoch: int, step: int, steps_per_epoch: int
    ) -> None:
        """Log the losses of one step; TensorBoard's axis is upstream's: 1000 times the epoch."""
        if self._writer is None:
            return
        axis = int((epoch + step / steps_per_epoch) * 1000)
        with self._writing():
            self._writer.add_scalar("lr", lr, axis)
            for name, value in losses.items():
                self._writer.add_scalar(f"train_loss/{name}", value, axis)
        position = epoch * steps_per_epoch + step
        self._append({"position": position, "epoch": epoch, "step": step, "lr": lr, **losses})

    def scores(
        self, select: str, value: float, epoch: int, position: int, figure: str = "pixel_f1"
    ) -> None:
        """Log the value that checkpoints are selected by, and what it is."""
        if self._writer is None:
            return
        with self._writing():
            self._writer.add_scalar("Average", value, epoch)
        self._append({"position": position, "epoch": epoch, "select": select, figure: value})

    def images(self, tag: str, batch: dict[str, Any], output: dict[str, Any], epoch: int) -> None:
        """Show the last batch of an epoch, as upstream does."""
        if self._writer is not None:
            with self._writing():
                self._add_images(self._writer, tag, batch, output, epoch)

    @staticmethod
    def _add_images(
        writer: SummaryWriter,
        tag: str,
        batch: dict[str, Any],
        output: dict[str, Any],
        epoch: int,
    ) -> None:
        from IMDLBenCo.datasets import denormalize

        shown = slice(0, IMAGES_SHOWN)
        writer.add_images(f"{tag}/image", denormalize(batch["image"][shown]).clamp(0, 1), epoch)
        writer.add_images(f"{tag}/gt_mask", batch["mask"][shown].float(), epoch)
        predicted = output["pred_mask"][shown].detach().float().cpu()
        writer.add_images(f"{tag}/predict", predicted, epoch)
        writer.add_images(f"{tag}/predict_thresh_0.5", (predicted > 0.5).float(), epoch)  # noqa: PLR2004
        for name, value in (output.get("visual_image") or {}).items():
            if isinstance(value, torch.Tensor):
                writer.add_images(f"{tag}/{name}", value[shown].detach().float().cpu(), epoch)

    def close(self) -> None:
        """Flush and close TensorBoard's file."""
        if self._writer is not None:
            try:
                with self._writing():
                    self._writer.close()
            finally:
                threading.excepthook = self._excepthook

    def _note_failed_thread(self, args: threading.ExceptHookArgs) -> None:
        """Pass TensorBoard's writer by: what ended it is raised again by the next call."""
        if type(args.thread).__module__.partition(".")[0] != "tensorboard":
            self._excepthook(args)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Name the folder of TensorBoard's files where one cannot be written, as on a full disk."""
        try:
            yield
        except OSError as error:
            raise UserError(f"cannot write {self._events}: {error.strerror or error}") from error


def _is_before(line: str, position: int, epoch: int) -> bool:
    """Say whether a logged line is of a step, or of an epoch's judgement, that is done.

    All steps of an epoch may be done, and its judgement not. A line torn by a kill is of nothing.
    """
    try:
        point = parse_json(line)
        done = point["epoch"] < epoch if "select" in point else point["position"] < position
    except (ValueError, KeyError, TypeError):
        return False
    return bool(done)
