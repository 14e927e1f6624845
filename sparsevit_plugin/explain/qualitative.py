"""Qualitative figures: which images, and what each model says of them.

Disagreement of M models on an image, at the photograph's own size:

    D = mean over the M (M - 1) / 2 pairs (a, b) of models of the mean over pixels of |a - b|

It lies from 0 (equal maps) to 1, needs no threshold, and knows nothing of the mask, so images that
are chosen by it are not chosen for being right. Large regions weigh more than small ones.
"""

import hashlib
import json
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from sparsevit_plugin.errors import UserError, suggest
from sparsevit_plugin.files import parse_json, write_json_atomic
from sparsevit_plugin.harness.datasets import BadSample
from sparsevit_plugin.harness.evaluate import native_map
from sparsevit_plugin.harness.external import fits
from sparsevit_plugin.harness.images import BadImage, read_pair
from sparsevit_plugin.harness.map_files import read_map
from sparsevit_plugin.harness.map_pairing import find_maps, pair_maps
from sparsevit_plugin.harness.metrics import pixel_statistics
from sparsevit_plugin.harness.predict import Localiser, Photo
from sparsevit_plugin.harness.progress import Progress
from sparsevit_plugin.harness.sources import ImageSet, Sample, fingerprint
from sparsevit_plugin.hub.config import WEIGHTS
from sparsevit_plugin.registration import register_all

Map = NDArray[np.float32]

DISAGREEMENT: Final = "disagreement"
_MOST_PIXELS: Final = 1 << 26
_KEEP_EVERY: Final = 20.0  # seconds between writes of what was computed
_CHECKPOINTS: Final = ("best.safetensors", "last.safetensors", WEIGHTS)


@dataclass(frozen=True)
class Candidate(Photo):
    """An image that may be shown.

    Attributes:
        source: The set that it is of; empty for a file that was named.
        sample: The image and its mask; None for a file without a mask, which is turned upright.
    """

    source: str = ""
    sample: Sample | None = None

    @property
    def shown(self) -> str:
        """What it is called in a figure: its set and name, or its file's name."""
        return self.name if self.source else self.path.name

    def read(self) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
        """Return the pixels as `benco test` reads them, and notes on what was converted."""
        if self.sample is None:
            return super().read()
        pixels, _, notes = read_pair(self.sample.image, self.sample.mask)
        return pixels, notes

    def mask(self) -> NDArray[np.bool_] | None:
        """Return the mask, bool, H x W; None where it is unknown. Of an authentic image: empty."""
        if self.sample is None:
            return None
        _, mask, _ = read_pair(self.sample.image, self.sample.mask)
        return mask > 0


def of_set(source: ImageSet) -> list[Candidate]:
    """Return the images of a set."""
    return [
        Candidate(f"{source.name}/{sample.name}", sample.image, None, source.name, sample)
        for sample in source.samples
    ]


# --- models --------------------------------------------------------------------------------------


class MapSource(Protocol):
    """What gives maps of images.

    Attributes:
        label: Its column's heading.
    """

    label: str

    def maps(self, candidates: Sequence[Candidate]) -> Iterator[Map | BadSample]:
        """Yield the map of each image, in order, at the photograph's own size."""
        ...

    def identity(self) -> Any:  # noqa: ANN401 - any JSON
        """Return what its maps depend on."""
        ...


class CheckpointMaps:
    """Maps of a checkpoint, made when they are asked for.

    Args:
        label: Heading.
        checkpoint: The weights.
        **options: As `Localiser` takes them.
    """

    def __init__(self, label: str, checkpoint: Path, **options: Any) -> None:  # noqa: ANN401
        self.label = label
        self.localiser = Localiser(checkpoint, **options)

    def maps(self, candidates: Sequence[Candidate]) -> Iterator[Map | BadSample]:
        """Yield the map of each image."""
        for candidate in candidates:
            for result in self.localiser.stream([candidate]):
                yield result if isinstance(result, BadSample) else result.map

    def identity(self) -> Any:  # noqa: ANN401
        """Return what its maps depend on."""
        settings = self.localiser.settings()
        return {name: value for name, value in settings.items() if name != "threshold"}


class FolderMaps:
    """Maps of another program, from a folder, paired with images as `benco score` does.

    Args:
        label: Heading.
        folder: The maps.
        candidates: All images of the sets that images are taken from, and those that were named by
            path: pairing looks at all names at once. Of several sets, the maps of each are in a
            folder of the set's name, unless no name is in two sets.
        allow_stretched: Whether a map of another aspect ratio is taken as one of the whole image.

    Raises:
        UserError: The folder holds no maps, none is of any of the images, or one could be of images
            of two sets.
    """

    def __init__(
        self,
        label: str,
        folder: Path,
        candidates: Sequence[Candidate],
        *,
        allow_stretched: bool = False,
    ) -> None:
        self.label = label
        self.folder = folder
        self.allow_stretched = allow_stretched
        self.files: dict[str, Path] = {}
        sources = list(dict.fromkeys(candidate.source for candidate in candidates))
        owners: dict[Path, str] = {}
        for source in sources:
            of_source = [one for one in candidates if one.source == source]
            samples = [Sample(one.path, None, _name_in_set(one)) for one in of_source]
            names = {_name_in_set(one): one.name for one in of_source}
            for sample, file in pair_maps(samples, self._maps_of(source, sources)).pairs:
                name = names[sample.name]
                if file in owners:
                    raise UserError(
                        f"--models {label}: {file} could be of {owners[file]} and of {name}: put "
                        f"the maps of each set in a folder of its name, as {folder / source}"
                    )
                owners[file] = name
                self.files[name] = file
        if not self.files:
            raise UserError(
                f"--models {label}: {folder} holds no map of {candidates[0].name} or the other "
                "images"
            )

    def _maps_of(self, source: str, sources: Sequence[str]) -> dict[str, Path]:
        """Return the maps that may be of a set's images."""
        own = self.folder / source if len(sources) > 1 and source else self.folder
        try:
            return find_maps(own if own.is_dir() else self.folder).maps
        except UserError as error:
            raise UserError(str(error).replace("--pred ", f"--models {self.label}@", 1)) from None

    def maps(self, candidates: Sequence[Candidate]) -> Iterator[Map | BadSample]:
        """Yield the map of each image; one without a map is a `BadSample`."""
        for candidate in candidates:
            try:
                yield self._map(candidate)
            except BadImage as error:
                yield BadSample(candidate.name, error.path, error.reason)

    def _map(self, candidate: Candidate) -> Map:
        pixels, _ = candidate.read()
        size = (pixels.shape[0], pixels.shape[1])
        file = self.files.get(candidate.name)
        if file is None:
            raise BadImage(self.folder, f"holds no map of {candidate.name}")
        values = read_map(file, max(_MOST_PIXELS, size[0] * size[1])).values.astype(np.float32)
        if not (self.allow_stretched or fits((values.shape[0], values.shape[1]), size)):
            raise BadImage(
                file,
                f"is {values.shape[1]} x {values.shape[0]}, its photograph {size[1]} x {size[0]} "
                "pixels; a map of the whole photograph, stretched, is taken with --allow-stretched",
            )
        return native_map(torch.from_numpy(values)[None], values.shape, size)[0].numpy()

    def identity(self) -> Any:  # noqa: ANN401
        """Return what its maps depend on."""
        digest = hashlib.sha256()
        for name, file in sorted(self.files.items()):
            state = file.stat()
            digest.update(f"{name}\0{state.st_size}\0{state.st_mtime_ns}\0".encode())
        return {"maps": digest.hexdigest(), "allow_stretched": self.allow_stretched}


def _name_in_set(candidate: Candidate) -> str:
    return candidate.sample.name if candidate.sample else candidate.path.name


@dataclass(frozen=True)
class ModelWord:
    """A word of `--models`: [LABEL=]NAME@PATH.

    Attributes:
        label: The column's heading.
        name: The registered model, or what the maps are called.
        path: A weights file, the folder of a run, a model folder, or a folder of maps.
    """

    label: str
    name: str
    path: Path

    @property
    def maps_folder(self) -> Path | None:
        """The folder of maps that it means; None where it is a checkpoint.

        Of what `benco predict` wrote, that is its folder `maps`.
        """
        if not self.path.is_dir():
            return None
        if any((self.path / name).is_file() for name in _CHECKPOINTS):
            return None
        if any(self.path.glob("checkpoint-*.pth")):
            return None
        if (self.path / "maps").is_dir() and (self.path / "settings.json").is_file():
            return self.path / "maps"
        return self.path


def read_models(text: str) -> list[ModelWord]:
    """Read `--models`.

    Raises:
        UserError: A word is no NAME@PATH, its path is missing, or two labels are equal.
    """
    words = []
    for word in (part.strip() for part in text.split(",") if part.strip()):
        name, at, path = word.partition("@")
        label, equals, model = name.partition("=")
        model = model if equals else label
        if not (at and path and label.strip() and model.strip()):
            raise UserError(f"--models {word}: write NAME@PATH, or LABEL=NAME@PATH")
        if not Path(path).exists():
            raise UserError(f"--models {word}: {path}: no such file or folder")
        words.append(ModelWord(label.strip(), model.strip(), Path(path)))
    if not words:
        raise UserError("--models: name at least one, as SparseViT@runs/a")
    labels = [word.label for word in words]
    for label in labels:
        if labels.count(label) > 1:
            raise UserError(
                f"--models: two columns are called {label}: tell them apart, as "
                f"{label} A={label}@PATH"
            )
    return words


def open_models(
    words: Sequence[ModelWord],
    candidates: Sequence[Candidate],
    *,
    allow_stretched: bool = False,
    **options: object,
) -> list[MapSource]:
    """Open what `--models` names.

    Args:
        words: As `read_models` gives them.
        candidates: As `FolderMaps` takes them.
        allow_stretched: For maps of other programs.
        **options: Of `Localiser`, for checkpoints.

    Raises:
        UserError: One cannot be opened.
    """
    return [_open(word, candidates, allow_stretched, options) for word in words]


def _open(
    word: ModelWord,
    candidates: Sequence[Candidate],
    allow_stretched: bool,
    options: dict[str, object],
) -> MapSource:
    if word.maps_folder is not None:
        return FolderMaps(word.label, word.maps_folder, candidates, allow_stretched=allow_stretched)
    from IMDLBenCo.registry import MODELS

    register_all()
    # A name that is none of a model is a heading: the checkpoint says then which model it is of.
    model = {"model": word.name} if MODELS.has(word.name) else {}
    return CheckpointMaps(word.label, word.path, **{**options, **model})


# --- choosing ------------------------------------------------------------------------------------


def disagreement(maps: Sequence[Map]) -> float:
    """Return how much maps of one image differ, as this module defines it.

    Raises:
        ValueError: There are fewer than two, or their sizes differ.
    """
    pairs = list(combinations(maps, 2))
    if not pairs:
        raise ValueError("a single map agrees with itself: give two")
    if len({one.shape for one in maps}) > 1:
        raise ValueError(f"maps of {[one.shape for one in maps]} are not of one image")
    return float(np.mean([np.abs(a - b).mean(dtype=np.float64) for a, b in pairs]))


@dataclass
class Choice:
    """Images that were chosen.

    Attributes:
        images: In the order in which they are shown.
        values: The disagreement of every image that has one, by its name.
        bad: Images that could not be used.
    """

    images: list[Candidate]
    values: dict[str, float] = field(default_factory=dict)
    bad: list[BadSample] = field(default_factory=list)


def choose_by_disagreement(
    candidates: Sequence[Candidate],
    sources: Sequence[MapSource],
    count: int,
    kept: Path,
    sets: Sequence[ImageSet],
) -> Choice:
    """Choose the images on which models disagree most, most first; ties in the order of the sets.

    Args:
        candidates: The images to choose from.
        sources: At least two.
        count: How many to choose, at most.
        kept: JSON file of the values; written as they are computed, so that an interrupted choice
            goes on. It is begun anew when a model or a set has changed.
        sets: The candidates' sets, for that.

    Raises:
        UserError: There are fewer than two models, or no image has a map of every one.
    """
    if len(sources) < 2:  # noqa: PLR2004
        raise UserError("--choose disagreement compares models: name at least two with --models")
    key = {
        "models": [[source.label, source.identity()] for source in sources],
        "sets": [[source.name, fingerprint(source)] for source in sets],
    }
    choice = Choice([], _kept_values(kept, key))
    names = {one.name for one in candidates}
    choice.values = {name: value for name, value in choice.values.items() if name in names}
    missing = [one for one in candidates if one.name not in choice.values]
    start = len(candidates) - len(missing)
    written = time.monotonic()
    try:
        with Progress(len(candidates), "compare models", start=start) as progress:
            for one in missing:
                found = maps_of(one, sources)
                if isinstance(found, BadSample):
                    choice.bad.append(found)
                else:
                    choice.values[one.name] = disagreement(found)
                if time.monotonic() - written > _KEEP_EVERY:
                    _keep(kept, key, choice.values)
                    written = time.monotonic()
                progress.advance()
    finally:
        _keep(kept, key, choice.values)
    ranked = [one for one in candidates if one.name in choice.values]
    if not ranked:
        reason = f" ({choice.bad[0].path}: {choice.bad[0].reason})" if choice.bad else ""
        raise UserError(f"no image has a map of every model{reason}")
    ranked.sort(key=lambda one: -choice.values[one.name])
    choice.images = ranked[:count]
    return choice


def maps_of(candidate: Candidate, sources: Sequence[MapSource]) -> list[Map] | BadSample:
    """Return each model's map of an image, or what is wrong with it."""
    maps = []
    for source in sources:
        (found,) = source.maps([candidate])
        if isinstance(found, BadSample):
            return found
        maps.append(found)
    return maps


def _kept_values(kept: Path, key: dict[str, Any]) -> dict[str, float]:
    """Return what was computed before by the same models on the same sets."""
    try:
        content = parse_json(kept.read_text(encoding="utf-8"))
        values = content["disagreement"]
        same = content["made_from"] == json.loads(json.dumps(key))
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return {str(name): float(value) for name, value in values.items()} if same else {}


def _keep(kept: Path, key: dict[str, Any], values: dict[str, float]) -> None:
    ranked = dict(sorted(values.items(), key=lambda item: -item[1]))
    write_json_atomic(kept, {"disagreement": ranked, "made_from": key})


def choose_first(candidates: Sequence[Candidate], count: int) -> Choice:
    """Choose the first images."""
    return Choice(list(candidates[:count]))


def choose_at_random(candidates: Sequence[Candidate], count: int, seed: int) -> Choice:
    """Choose images at random, each equally likely, in the order of their sets."""
    places = random.Random(seed).sample(range(len(candidates)), min(count, len(candidates)))  # noqa: S311
    return Choice([candidates[place] for place in sorted(places)])


def chooser(text: str) -> Callable[[Sequence[Candidate], int], Choice] | None:
    """Read `--choose`; None stands for the disagreement of models.

    Raises:
        UserError: It is something else.
    """
    kind, colon, rest = text.partition(":")
    if text == DISAGREEMENT:
        return None
    if text == "first":
        return choose_first
    if kind == "random" and (not colon or rest.isdecimal()):
        seed = int(rest or 0)
        return lambda candidates, count: choose_at_random(candidates, count, seed)
    raise UserError(
        f"--choose {text}: is not disagreement, first or random:SEED."
        f"{suggest(kind, (DISAGREEMENT, 'first', 'random'))}"
    )


def pick(words: Sequence[str], sets: Sequence[ImageSet]) -> list[Candidate]:
    """Find images by what the user calls them.

    A word is the image's name in its set, or its number (from 0, as `sample_index` in rows), after
    the set's name and a colon where there are several sets; else the path of a photograph.

    Raises:
        UserError: A word names no image.
    """
    by_set = {source.name: of_set(source) for source in sets}
    return [_pick(word, by_set) for word in words]


def _pick(word: str, by_set: dict[str, list[Candidate]]) -> Candidate:
    name, colon, rest = word.partition(":")
    if colon and name in by_set:
        return _in_set(word, rest, by_set[name])
    if Path(word).is_file() and not word.isdecimal():
        return Candidate(word, Path(word))
    if len(by_set) == 1:
        return _in_set(word, word, next(iter(by_set.values())))
    if by_set:
        raise UserError(
            f"--images {word}: say of which set, as {next(iter(by_set))}:{word} (sets: "
            f"{', '.join(by_set)})"
        )
    raise UserError(
        f"--images {word}: no such file; for an image of a set add --set or --test-data-path"
    )


def _in_set(word: str, place: str, candidates: list[Candidate]) -> Candidate:
    if place.isdecimal():
        if int(place) >= len(candidates):
            raise UserError(
                f"--images {word}: {candidates[0].source} has the images 0 to {len(candidates) - 1}"
            )
        return candidates[int(place)]
    names = {_name_in_set(one): one for one in candidates}
    stems = {Path(name).with_suffix("").as_posix(): one for name, one in names.items()}
    found = names.get(place) or (stems.get(place) if len(stems) == len(names) else None)
    if found is None:
        raise UserError(
            f"--images {word}: no such image in {candidates[0].source}.{suggest(place, names)}"
        )
    return found


# --- what is shown -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """An image of the figure.

    Attributes:
        candidate: The image.
        pixels: uint8, H x W x 3.
        mask: Bool, H x W; None where it is unknown.
        maps: One a model, float32, H x W.
        threshold: Pixels above it are called tampered.
        disagreement: NaN where one model alone is shown.
    """

    candidate: Candidate
    pixels: NDArray[np.uint8]
    mask: NDArray[np.bool_] | None
    maps: tuple[Map, ...]
    threshold: float
    disagreement: float

    def f1(self, model: int) -> float:
        """Return the F1 of a map at the threshold, at the photograph's own size.

        NaN where nothing is tampered and nothing is predicted, or there is no mask.
        """
        if self.mask is None:
            return float("nan")
        return pixel_statistics(self.maps[model], self.mask, threshold=self.threshold).f1


def make_rows(
    images: Sequence[Candidate], sources: Sequence[MapSource], threshold: float
) -> list[Row]:
    """Compute the rows of the figure.

    Raises:
        BadImage: An image or a map cannot be used.
    """
    rows = []
    with Progress(len(images), "figure") as progress:
        for one in images:
            found = maps_of(one, sources)
            if isinstance(found, BadSample):
                raise BadImage(found.path, found.reason)
            pixels, _ = one.read()
            value = disagreement(found) if len(found) > 1 else float("nan")
            rows.append(Row(one, pixels, one.mask(), tuple(found), threshold, value))
            progress.advance()
    return rows
