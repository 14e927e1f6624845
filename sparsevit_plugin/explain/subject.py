"""A checkpoint's model, opened to be looked into, and photographs as they are fed to it.

The model is the plain one that was trained, in evaluation mode and in single precision: not the
fused copy that is fast, and no other backend's. Photographs go the way of `benco predict`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from sparsevit_plugin.backends.from_config import fabric_for
from sparsevit_plugin.errors import UserError
from sparsevit_plugin.harness.datasets import BadSample, collate
from sparsevit_plugin.harness.evaluate import maps_and_scores, model_inputs, native_map
from sparsevit_plugin.harness.images import BadImage
from sparsevit_plugin.harness.pipeline import build_model, load_checkpoint, make_dataset
from sparsevit_plugin.harness.predict import Photo, as_photo, configure
from sparsevit_plugin.harness.sources import ImageSet, Sample
from sparsevit_plugin.harness.testing import checkpoint_files, without_pretraining
from sparsevit_plugin.model.backbone import PATCHES, SparseViTBackbone
from sparsevit_plugin.model.blocks import SparseBlock
from sparsevit_plugin.model.head import FusionHead

ATTENTION_STAGES: Final = (3, 4)


@dataclass(frozen=True)
class Fed:
    """A photograph, and what the model is given of it.

    Attributes:
        name: The photograph's name.
        pixels: uint8, H x W x 3, upright, at its own size.
        batch: The item as a batch of one.
        inputs: What the model is called with, on its device; `image` is 1 x 3 x h x w.
        shape: Rows and columns of `image` that the photograph takes: all of them after resizing,
            the upper left part after padding.
    """

    name: str
    pixels: NDArray[np.uint8]
    batch: dict[str, Any]
    inputs: dict[str, Any]
    shape: tuple[int, int]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the photograph."""
        height, width = self.pixels.shape[:2]
        return height, width

    @property
    def fed_size(self) -> tuple[int, int]:
        """Height and width of what the model sees, padding included."""
        height, width = self.inputs["image"].shape[-2:]
        return int(height), int(width)

    def place(self, x: int, y: int) -> tuple[int, int]:
        """Return the row and the column of the model's image that show a photograph's pixel.

        Args:
            x: The pixel's column, from 0 at the left.
            y: Its row, from 0 at the top.

        Raises:
            UserError: The photograph has no such pixel.
        """
        height, width = self.size
        if not (0 <= x < width and 0 <= y < height):
            raise UserError(
                f"--at {x},{y}: {self.name} is {width} x {height} pixels: x goes from 0 to "
                f"{width - 1}, y from 0 to {height - 1}"
            )
        rows, columns = self.shape
        return int((y + 0.5) * rows / height), int((x + 0.5) * columns / width)

    def on_picture(self, cells: NDArray, patch: float, size: tuple[int, int]) -> NDArray:
        """Spread values of tokens over a picture of the photograph, each over its own cell.

        Args:
            cells: rows x columns (x any more) values, one a token.
            patch: Side in pixels of the model's image behind a token.
            size: Height and width of the picture.

        Returns:
            Values of that size; cells that show padding alone are left out.
        """
        steps = []
        for side, fed, count in zip(size, self.shape, cells.shape[:2], strict=True):
            position = (np.arange(side) + 0.5) * fed / side
            steps.append(np.minimum((position // patch).astype(np.intp), count - 1))
        return cells[steps[0][:, None], steps[1][None, :]]


class Subject:
    """A checkpoint's model.

    Args:
        checkpoint: A weights file, or the output folder of a run.
        **options: Of `benco test`, with underscores: `model`, `imports`, `fit`, `image_size`,
            `device`, and arguments of the model's constructor. None stands for what is not given.

    Attributes:
        config: What was resolved from these and from what the checkpoint records.
        model: The model, in evaluation mode.
        device: Where it is.
        checkpoint: `{"file", "sha256", ...}`.

    Raises:
        UserError: There is no such checkpoint, it does not fit the model, or an option is wrong.
    """

    def __init__(self, checkpoint: str | Path, **options: object) -> None:
        files = checkpoint_files(str(checkpoint))
        if len(files) != 1:
            found = f"holds {len(files)} of them" if files else "none is named"
            raise UserError(f"--checkpoint {checkpoint}: {found}: give the path of one file")
        given = {name: value for name, value in options.items() if value is not None}
        self.config = configure(files[0], {"num_workers": 0, "test_batch_size": 1, **given})
        self.device = fabric_for(self.config).device
        self.model = build_model(without_pretraining(self.config))
        self.checkpoint = load_checkpoint(self.model, files[0])
        self.model.to(self.device).eval()

    def feed(self, picture: Any) -> Fed:  # noqa: ANN401 (as `predict.Picture` says)
        """Read a picture and fit it to the model.

        Args:
            picture: A path, a Pillow picture, an array or a tensor, as `predict.Picture` says, or a
                `Photo`.

        Raises:
            UserError: It cannot be read, or is none of these.
        """
        photo = picture if isinstance(picture, Photo) else as_photo(picture)
        pixels, notes = photo.read()
        blank = np.zeros(pixels.shape[:2], np.uint8)
        sample = Sample(photo.path, None, photo.name)
        source = ImageSet("photographs", "JsonDataset", Path(), (sample,), "no masks")
        dataset = make_dataset(
            self.config, source, training=False, reader=lambda _: (pixels, blank, notes)
        )
        item = dataset[0]
        if isinstance(item, BadSample):
            raise BadImage(item.path, item.reason)
        batch = collate([item])
        rows, columns = (int(side) for side in batch["shape"][0])
        inputs = model_inputs(batch, self.device)
        inputs["if_predcit_label"] = self.config.if_predict_label  # as the models spell it
        return Fed(photo.name, pixels, batch, inputs, (rows, columns))

    def probability(self, fed: Fed) -> tuple[NDArray[np.float32], float]:
        """Return the map (float32, H x W, at the photograph's own size) and the score."""
        with torch.no_grad():
            output = maps_and_scores(self.model(**fed.inputs), fed.batch)
        values = native_map(output["pred_mask"][0], fed.shape, fed.size)
        return values[0].numpy(), float(output["pred_label"][0])

    def backbone(self, purpose: str) -> SparseViTBackbone:
        """Return the part of the model that has sparse blocks.

        Args:
            purpose: What it is wanted for, for the error: "attention is drawn".

        Raises:
            UserError: The model has none.
        """
        for module in self.model.modules():
            if isinstance(module, SparseViTBackbone):
                return module
        raise UserError(
            f"{self.config.model} has no sparse blocks: {purpose} of SparseViT alone"
            + (
                "; SparseViT takes the same weights: --model SparseViT"
                if self.config.model == "SparseViT_upstream"
                else '; "benco explain gradcam" looks into any model'
            )
        )

    def head(self) -> FusionHead:
        """Return the model's Learnable Feature Fusion.

        Raises:
            UserError: It has none.
        """
        for module in self.model.modules():
            if isinstance(module, FusionHead):
                if module.fusion == "lff":
                    return module
                raise UserError(
                    f"{self.config.model}: its head is {module.fusion}, which has no gamma: only "
                    "the head lff has one"
                )
        raise UserError(f"{self.config.model} has no Learnable Feature Fusion: SparseViT has one")


@dataclass(frozen=True)
class Place:
    """A block of the backbone, counted from 1 as papers do.

    Attributes:
        stage: 1 to 4.
        block: From 1 within its stage.
        rate: The sparsity rate S; None for a convolution block.
    """

    stage: int
    block: int
    rate: int | None = None

    @property
    def short(self) -> str:
        """Return it as options and files have it: "3.1"."""
        return f"{self.stage}.{self.block}"

    @property
    def words(self) -> str:
        """Return it as a figure has it."""
        rate = f", S = {self.rate}" if self.rate is not None else ""
        return f"stage {self.stage}, block {self.block}{rate}"


def sparse_blocks(backbone: SparseViTBackbone) -> dict[Place, SparseBlock]:
    """Return the attention blocks in the order in which they run."""
    found = {}
    for stage in ATTENTION_STAGES:
        for number, block in enumerate(getattr(backbone, f"blocks{stage}"), start=1):
            found[Place(stage, number, block.attn.spacing.rate)] = block
    return found


def tap_places(backbone: SparseViTBackbone) -> list[Place]:
    """Return the blocks that the head reads, in its order."""
    blocks = list(sparse_blocks(backbone))
    of_stage = {stage: [p for p in blocks if p.stage == stage] for stage in ATTENTION_STAGES}
    if backbone.last_only:
        return [of_stage[4][-1]]
    return [
        *(of_stage[3][position] for position in backbone.taps3),
        *(of_stage[4][position] for position in backbone.taps4),
    ]


def patch_side(stage: int) -> int:
    """Return the side, in pixels of the model's image, of a token of a stage."""
    side = 1
    for patch in PATCHES[:stage]:
        side *= patch
    return side
