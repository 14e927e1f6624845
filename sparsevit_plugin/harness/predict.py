"""Maps of photographs without a mask: what a checkpoint says of a file, a picture or an array.

A photograph goes the same way to the model as in `benco test`: the same reading, fitting,
normalisation and return to its own size, so that a map is the very one that is scored there. The
one difference: a photograph with an EXIF orientation is turned upright, which `benco test` does
only where its mask asks for it.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import DataLoader

from sparsevit_plugin.backends.from_config import (
    backend_facts,
    choice_of,
    fabric_for,
    predictor_for,
)
from sparsevit_plugin.errors import UserError
from sparsevit_plugin.harness.config import Config, resolve
from sparsevit_plugin.harness.datasets import BadSample, collate
from sparsevit_plugin.harness.evaluate import maps_and_scores, model_inputs, native_map
from sparsevit_plugin.harness.images import (
    BadImage,
    as_rgb,
    decode_upright,
    decoder_errors_named,
    to_rgb,
    upright_size,
)
from sparsevit_plugin.harness.jpeg import padded_to_grid
from sparsevit_plugin.harness.manifest import run_facts
from sparsevit_plugin.harness.option_table import BY_NAME
from sparsevit_plugin.harness.options import show, written
from sparsevit_plugin.harness.pipeline import build_model, load_checkpoint, make_dataset
from sparsevit_plugin.harness.post_functions import additions
from sparsevit_plugin.harness.sources import ImageSet, Sample
from sparsevit_plugin.harness.testing import (
    checkpoint_file,
    recorded_settings,
    without_pretraining,
)
from sparsevit_plugin.harness.tiling import tile_facts, tiled
from sparsevit_plugin.model.weights import read_checkpoint

THRESHOLD: Final = 0.5

Picture: TypeAlias = str | Path | Image.Image | NDArray[Any] | Tensor
"""A file, a Pillow picture, an array (H x W, or H x W x 1, 3 or 4) or a tensor (H x W, or 1, 3 or
4 x H x W). Arrays and tensors hold uint8, uint16 (of 65535) or floats from 0 to 1."""

_PLANE, _COLOUR, _BATCH = 2, 3, 4  # axes
_CHANNELS: Final = (1, 3, 4)


@dataclass(frozen=True)
class Prediction:
    """What a model says of one photograph.

    Attributes:
        name: The photograph's name.
        map: float32, H x W, at the photograph's own size: the probability that a pixel was
            tampered with.
        score: The probability that the photograph was tampered with: the model's own, or the
            largest of the map at the model's size.
        threshold: Pixels above it are called tampered.
        seconds: What the model took: the time of its batch, by photograph.
    """

    name: str
    map: NDArray[np.float32]
    score: float
    threshold: float = THRESHOLD
    seconds: float = float("nan")

    @property
    def mask(self) -> NDArray[np.bool_]:
        """Bool, H x W: where the map is above the threshold."""
        return self.map > np.float32(self.threshold)

    @property
    def tampered_area(self) -> float:
        """The share of the pixels that are called tampered, 0 to 1."""
        return float(self.mask.mean())


@dataclass(frozen=True)
class Photo:
    """A photograph to predict on.

    Attributes:
        name: Unique among those of a call.
        path: Its file; of a picture in memory its name.
        pixels: uint8, H x W x 3; None to read the file.
    """

    name: str
    path: Path
    pixels: NDArray[np.uint8] | None = None

    def read(self) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
        """Return the upright pixels and notes on what was converted.

        Raises:
            BadImage: The file cannot be read.
        """
        if self.pixels is not None:
            return self.pixels, ()
        photograph = decode_upright(self.path)
        return photograph.pixels, photograph.notes

    def size(self) -> tuple[int, int]:
        """Return height and width; of a file see `upright_size`.

        Raises:
            BadImage: The file cannot be read.
        """
        if self.pixels is not None:
            height, width = self.pixels.shape[:2]
            return height, width
        return upright_size(self.path)


class Localiser:
    """A checkpoint that was loaded once and predicts on many photographs.

        >>> localiser = Localiser("runs/a/best.safetensors")
        >>> prediction = localiser("photograph.jpg")
        >>> prediction.score, prediction.map.shape

    How photographs are fitted to the model, and the model's name and arguments, are those that the
    checkpoint records; options override them.

    Args:
        checkpoint: A weights file, the output folder of a run, a model folder, or a repository of
            the Hugging Face Hub.
        threshold: Pixels above it are called tampered, 0 to 1.
        batch_size: Photographs that the model sees at a time, or tiles of one.
        **options: Options of `benco test` with underscores (`model`, `fit`, `image_size`, `tile`,
            `tile_overlap`, `device`, `backend`, `precision`, `num_workers` ...) and arguments of
            the model's constructor. None stands for an option that is not given; without
            `num_workers` photographs are read in this process.

    Attributes:
        config: Everything that was resolved from these.
        threshold: As given.
        model: The model that is called, on its device.
        checkpoint: `{"file", "sha256", ...}`.

    Raises:
        UserError: There is no such checkpoint, it does not fit the model, or an option is wrong.
    """

    def __init__(
        self,
        checkpoint: str | Path,
        *,
        threshold: float = THRESHOLD,
        batch_size: int = 1,
        **options: object,
    ) -> None:
        if not 0 <= threshold <= 1:
            raise UserError(f"--threshold {threshold}: a probability from 0 to 1 is needed")
        if batch_size < 1:
            raise UserError(f"--batch-size {batch_size}: give a number above 0")
        path = checkpoint_file(str(checkpoint))
        given = {name: value for name, value in options.items() if value is not None}
        defaults = {"num_workers": 0, "test_batch_size": batch_size}
        self.config = configure(path, {**defaults, **given})
        self.threshold = threshold
        self._fabric = fabric_for(self.config)
        cfg = without_pretraining(self.config)
        model = build_model(cfg)
        self.checkpoint = load_checkpoint(model, path)
        model.train(cfg.no_model_eval)
        self.model = tiled(cfg, predictor_for(cfg, model, path, self._fabric.device))

    def __call__(self, picture: Picture | Sequence[Picture]) -> Prediction | list[Prediction]:
        """Predict on a picture, or on a list of them (or a tensor or array of four axes).

        Raises:
            UserError: A picture cannot be read, or is none.
        """
        pictures, single = _as_list(picture)
        photos = [as_photo(one, number) for number, one in enumerate(pictures)]
        found: dict[str, Prediction] = {}
        for result in self.stream(list({photo.name: photo for photo in photos}.values())):
            if isinstance(result, BadSample):
                raise BadImage(result.path, result.reason)
            found[result.name] = result
        predictions = [found[photo.name] for photo in photos]
        return predictions[0] if single else predictions

    def stream(self, photos: Sequence[Photo]) -> Iterator[Prediction | BadSample]:
        """Predict on photographs as they come; damaged files take the place of a prediction.

        Args:
            photos: Photographs with unique names.

        Yields:
            A prediction for each; photographs of one size come together, so not in the order given.

        Raises:
            UserError: The model's answer is no map.
        """
        if not photos:
            return
        in_memory = any(photo.pixels is not None for photo in photos)
        if in_memory and additions(self.config).origin_function:
            raise UserError(f"{self.config.model} reads the photograph's own file: give its path")
        reader = _Reader(photos)
        samples = tuple(Sample(photo.path, None, photo.name) for photo in photos)
        source = ImageSet("photographs", "JsonDataset", Path(), samples, "no masks")
        dataset = make_dataset(self.config, source, training=False, reader=reader)
        loader = DataLoader(
            dataset,
            batch_sampler=_batches(photos, self.config),
            num_workers=self.config.num_workers,
            collate_fn=collate,
        )
        for batch in loader:
            yield from batch["bad"]
            if "image" in batch:
                yield from self._predict(batch)

    def settings(self) -> dict[str, Any]:
        """Return what makes the predictions beside the photographs, as JSON can hold it."""
        cfg = self.config
        backend, precision = choice_of(cfg)
        return {
            "model": cfg.model,
            "model_arguments": cfg.to_dict()["model_arguments"],
            "checkpoint_sha256": self.checkpoint["sha256"],
            "fit": cfg.fit,
            "image_size": cfg.image_size,
            **tile_facts(cfg),
            "model_eval": not cfg.no_model_eval,
            "if_predict_label": cfg.if_predict_label,
            "backend": backend,
            "precision": precision,
            **backend_facts(cfg),
            "threshold": self.threshold,
        }

    def facts(self) -> dict[str, Any]:
        """Return what ran, where: versions, device, command, and the checkpoint's file."""
        cfg = self.config
        facts = run_facts(self._fabric.device, cfg.precision, 1, cfg.backend)
        return {**facts, "checkpoint": self.checkpoint["file"]}

    def _predict(self, batch: dict[str, Any]) -> Iterator[Prediction]:
        inputs = model_inputs(batch, self._fabric.device)
        began = time.perf_counter()
        with torch.no_grad(), self._fabric.autocast():
            output = self.model(**inputs, if_predcit_label=self.config.if_predict_label)
        output = maps_and_scores(output, batch)  # on the CPU: the model is done
        seconds = (time.perf_counter() - began) / len(batch["image"])
        for place, name in enumerate(batch["sample_name"]):
            size = batch["native_mask"][place].shape
            scaled = native_map(output["pred_mask"][place], batch["shape"][place], size)
            values = scaled[0].numpy()
            score = float(output["pred_label"][place])
            _check(values, score, name)
            yield Prediction(name, values, score, self.threshold, seconds)


def predict(
    picture: Picture | Sequence[Picture],
    checkpoint: str | Path,
    **options: Any,  # noqa: ANN401
) -> Prediction | list[Prediction]:
    """Predict on a picture, or on a list of them, with a checkpoint that is loaded for this call.

    To predict more than once, keep a `Localiser`.

    Args:
        picture: As `Picture` says.
        checkpoint: As for `Localiser`.
        **options: As for `Localiser`.

    Raises:
        UserError: The checkpoint, an option or a picture cannot be used.
    """
    return Localiser(checkpoint, **options)(picture)


def configure(checkpoint: Path, options: Mapping[str, object]) -> Config:
    """Resolve options, and what a checkpoint records, into a configuration without data.

    Args:
        checkpoint: The weights file.
        options: As `Localiser` takes them; None and empty text stand for what is not given.

    Raises:
        UserError: An option is wrong, or nothing says which model it is.
    """
    recorded = _recorded(checkpoint)
    model = options.get("model") or recorded["options"].get("model")
    if model != recorded["options"].get("model"):
        # Weights may fit another model too, as upstream's; the arguments are of this one.
        recorded["model_arguments"] = {}
    if not model:
        raise UserError(
            f"{checkpoint}: does not say which model it is of: give --model NAME; "
            '"benco models" lists the names'
        )
    given = {"checkpoint": str(checkpoint), "evaluators": "exact", **options}
    words = [word for name, value in given.items() for word in _words(name, value)]
    return resolve("test", words, recorded=lambda _: recorded, needs_data=False)


def _recorded(checkpoint: Path) -> dict[str, dict[str, Any]]:
    """Return what a checkpoint says of its model and how it was fed, its model's name included."""
    recorded = {"options": {}, "model_arguments": {}, **recorded_settings(str(checkpoint))}
    model = read_checkpoint(checkpoint).metadata.get("model")
    if isinstance(model, str):
        recorded["options"] = {"model": model, **recorded["options"]}
    return recorded


def _words(name: str, value: object) -> list[str]:
    """Return an option as a command line has it."""
    if value is None or value == "":
        return []
    option = BY_NAME.get(name)
    flag = written(option.flag if option else name)
    values = value if option and option.kind == "strings" else [value]
    return [f"{flag}={show(one)}" for one in values]  # type: ignore[attr-defined]


class _Reader:
    """Reads photographs upright, with a mask that calls nothing tampered."""

    def __init__(self, photos: Sequence[Photo]) -> None:
        self.photos = {photo.name: photo for photo in photos}

    def __call__(
        self, sample: Sample
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8], tuple[str, ...]]:
        pixels, notes = self.photos[sample.name].read()
        return pixels, np.zeros(pixels.shape[:2], np.uint8), notes


def _batches(photos: Sequence[Photo], cfg: Config) -> list[list[int]]:
    """Group photographs that the model can see at once: those of one size on the grid."""
    # Of a tiled photograph, a batch of tiles is seen at a time.
    size = 1 if cfg.tile is not None else cfg.test_batch_size
    sizes_matter = cfg.fit == "grid" and size > 1
    groups: dict[tuple[int, int], list[int]] = {}
    for index, photo in enumerate(photos):
        groups.setdefault(_padded_size(photo) if sizes_matter else (0, 0), []).append(index)
    return [
        group[first : first + size]
        for group in groups.values()
        for first in range(0, len(group), size)
    ]


def _padded_size(photo: Photo) -> tuple[int, int]:
    try:
        height, width = photo.size()
    except BadImage:  # it is reported when it is read
        return 0, 0
    return padded_to_grid(height), padded_to_grid(width)


def _check(values: NDArray[np.float32], score: float, name: str) -> None:
    if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
        raise UserError(
            f"the model's pred_mask of {name} is no map: it must hold finite probabilities, so a "
            "model that gives logits needs a sigmoid"
        )
    if not np.isfinite(score):
        raise UserError(f"the model's pred_label of {name} is {score}, which is no score")


# --- pictures in memory --------------------------------------------------------------------------


def _as_list(picture: Picture | Sequence[Picture]) -> tuple[list[Picture], bool]:
    """Return the pictures of a list or a batch, or the single one, and whether it is one."""
    if isinstance(picture, (list, tuple)):
        return list(picture), False
    if isinstance(picture, (np.ndarray, Tensor)) and picture.ndim == _BATCH:
        return list(picture), False
    return [cast(Picture, picture)], True


def as_photo(picture: Picture, number: int = 0) -> Photo:
    """Take a picture of any kind.

    Args:
        picture: As `Picture` says. A Pillow picture is turned upright by its EXIF orientation.
        number: Names a picture that has no file.

    Raises:
        UserError: It is none of these.
    """
    if isinstance(picture, (str, Path)):
        return Photo(str(picture), Path(picture))
    name = f"picture {number}"
    if isinstance(picture, Image.Image):
        pixels = _pixels_of_picture(picture, name)
    elif isinstance(picture, Tensor):
        held = picture.detach().cpu()
        # NumPy has no bfloat16, of which float32 holds every value.
        values = (held.float() if held.dtype == torch.bfloat16 else held).numpy()
        channels_last = values.transpose(1, 2, 0) if values.ndim == _COLOUR else values
        pixels = as_pixels(channels_last, name)
    elif isinstance(picture, np.ndarray):
        pixels = as_pixels(picture, name)
    else:
        raise UserError(
            f"{name}: a {type(picture).__name__} is no picture: give a path, a Pillow picture, an "
            "array of H x W x 3 or a tensor of 3 x H x W"
        )
    return Photo(name, Path(name), pixels)


def _pixels_of_picture(picture: Image.Image, name: str) -> NDArray[np.uint8]:
    with decoder_errors_named(Path(name)):  # it may be a file that nobody has decoded yet
        upright = ImageOps.exif_transpose(picture)
        if upright.mode in ("I", "F") or upright.mode.startswith("I;16"):
            return to_rgb(name, np.asarray(upright))
        return np.array(as_rgb(upright))


def as_pixels(values: NDArray[Any], name: str = "picture") -> NDArray[np.uint8]:
    """Bring an array to 8-bit RGB by the rules for files: alpha is dropped, grey repeated.

    Args:
        values: H x W, or H x W x 1, 3 or 4; uint8, uint16 (divided by 257) or floats from 0 to 1.
        name: Named in the error.

    Returns:
        uint8, H x W x 3.

    Raises:
        UserError: It is of another shape or type, or its floats lie elsewhere.
    """
    plane = values[:, :, None] if values.ndim == _PLANE else values
    if plane.ndim != _COLOUR or plane.shape[2] not in _CHANNELS or 0 in plane.shape:
        raise UserError(
            f"{name}: its shape is {values.shape}; an array is H x W x 3 (or 1, or 4), a tensor "
            "3 x H x W"
        )
    colour = np.repeat(plane, 3, axis=2) if plane.shape[2] == 1 else plane[:, :, :3]
    if colour.dtype == np.uint8:
        return np.ascontiguousarray(colour)
    if colour.dtype == np.uint16:
        return np.rint(colour / 257).astype(np.uint8)
    if colour.dtype.kind != "f":
        raise UserError(
            f"{name}: holds {colour.dtype}; uint8, uint16 or floats from 0 to 1 are taken"
        )
    if not (np.isfinite(colour).all() and colour.min() >= 0 and colour.max() <= 1):
        raise UserError(f"{name}: its floats do not lie from 0 to 1; give it before normalisation")
    return np.rint(colour.astype(np.float64) * 255).astype(np.uint8)
