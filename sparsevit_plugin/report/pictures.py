"""The best and the worst images of each set, with their masks and maps.

Which images these are is in the stored rows. Photographs and masks are read from where the test
found them, and maps are made again from the checkpoint, whose SHA-256 must be that of the rows.
What cannot be had is said instead.
"""

import base64
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from sparsevit_plugin.errors import UserError, suggest
from sparsevit_plugin.files import sha256_file
from sparsevit_plugin.results.aggregate import Conventions, image_values, select_rows
from sparsevit_plugin.results.conventions import UNPERTURBED
from sparsevit_plugin.results.rows import Member, TableRow
from sparsevit_plugin.results.store import Cell, Results

if TYPE_CHECKING:
    from sparsevit_plugin.harness.predict import Localiser, Prediction
    from sparsevit_plugin.harness.sources import Sample

SIDES: Final = (360, 280, 220, 160)
"""Longest sides of embedded pictures, in pixels; the first at which all fit into the budget."""

BUDGET: Final = 8 * 2**20
"""Bytes that all pictures of a page may have together, before they are written as text."""

MOST_MODELS: Final = 3
"""So many models are drawn where none is named."""

_QUALITY: Final = 82
_LEAST_SHOWN: Final = 0.0005  # of a share in per cent with one digit
_TELLING: Final = 0.01  # a difference of F1 that a reader should know of

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Choice:
    """An image that is to be shown.

    Attributes:
        name: Its path below the set's root.
        kind: `best`, `worst`, or `authentic` for one that is called tampered where it is not.
        f1: Its pixel F1 as stored; NaN for an authentic image.
        area: The share of it that is called tampered, as stored.
        own_f1: Its pixel F1 at the photograph's own size, as stored; NaN where that is not known.
    """

    name: str
    kind: str
    f1: float
    area: float
    own_f1: float = math.nan


@dataclass(frozen=True)
class Picture:
    """A picture inside the page.

    Attributes:
        address: A `data:` address.
        width: In pixels.
        height: In pixels.
        alt: What it shows, in words.
        caption: Below it.
        size: Of the file, in bytes.
    """

    address: str
    width: int
    height: int
    alt: str
    caption: str
    size: int


@dataclass(frozen=True)
class Example:
    """An image with everything that is shown of it.

    Attributes:
        choice: Which it is.
        pictures: Photograph, mask, map, overlay; empty where something is missing.
        note: What is missing, or what a reader must know; may be empty.
    """

    choice: Choice
    pictures: tuple[Picture, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Gallery:
    """The examples of one model on one set.

    Attributes:
        dataset: The set.
        label: The table's row.
        seed: Of the run whose maps are shown; None where the row has one run only.
        examples: The best first, then the worst, then authentic ones.
        note: Why there is no example; empty where there are some.
    """

    dataset: str
    label: str
    seed: Any
    examples: tuple[Example, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Pictures:
    """All galleries of a page.

    Attributes:
        galleries: By set, then model.
        notes: Which models are not drawn, and why.
        side: The longest side of the pictures; 0 where there is none.
        size: Bytes of all of them.
    """

    galleries: tuple[Gallery, ...] = ()
    notes: tuple[str, ...] = ()
    side: int = 0
    size: int = 0


@dataclass(frozen=True)
class Wish:
    """Which pictures are wanted.

    Attributes:
        count: Best and worst images of each set and model, so many of each.
        models: Rows of the table by label or model; empty for the first `MOST_MODELS` that can be
            drawn.
        data_root: Where sets are that are not where the test found them; None for nowhere else.
        device: As of `benco predict`.
        imports: Modules that register models.
    """

    count: int = 3
    models: tuple[str, ...] = ()
    data_root: Path | None = None
    device: str = "auto"
    imports: tuple[str, ...] = ()


@dataclass
class _Shown:
    """Arrays of an example at the largest side, from which pictures are made.

    `pixels` is uint8, H x W x 3; `mask` bool, H x W; `map` float32, H x W, or None.
    """

    pixels: NDArray[np.uint8]
    mask: NDArray[np.bool_]
    map: NDArray[np.float32]
    threshold: float
    area: float
    f1: float


@dataclass(frozen=True)
class _Model:
    """A row that is drawn: the run of it whose weights are there, and these."""

    row: TableRow
    member: Member
    weights: Path


@dataclass
class _Draft:
    """A gallery in the making."""

    model: _Model
    cell: Cell
    gallery: Gallery
    choices: list[Choice]
    shown: dict[str, _Shown] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)


# --- which images --------------------------------------------------------------------------------


def choose(rows: pd.DataFrame, count: int, conventions: Conventions) -> list[Choice]:
    """Return the best and worst tampered images, and the authentic ones that are most called so.

    Args:
        rows: Of one run on one set, with the columns of `select_rows`, `sample_name` and
            `predicted_area`; images of equal F1 come in the order of their names.
        count: So many best and so many worst, fewer where the set has fewer; no image is both.
        conventions: The rows'.
    """
    one = replace(conventions, metric="pixel_f1", authentic="tampered")
    tampered, f1 = image_values(rows, one)
    names, areas = rows["sample_name"].to_numpy(), rows["predicted_area"].to_numpy(np.float64)
    order = sorted(
        (place for place in np.flatnonzero(tampered & np.isfinite(f1))),
        key=lambda place: (f1[place], names[place]),
    )
    best_count = min(count, (len(order) + 1) // 2)
    best = order[::-1][:best_count]
    worst = order[: min(count, len(order) - best_count)]
    false = sorted(
        (place for place in np.flatnonzero(~tampered) if areas[place] > 0),
        key=lambda place: (-areas[place], names[place]),
    )
    kinds = (("best", best), ("worst", worst), ("authentic", false[: math.ceil(count / 3)]))
    return [
        Choice(str(names[place]), kind, float(f1[place]), float(areas[place]))
        for kind, places in kinds
        for place in places
    ]


def collect(
    results: Results,
    rows: Sequence[TableRow],
    sets: Sequence[str],
    conventions: Conventions,
    wish: Wish,
    *,
    folders: Sequence[Path],
    progress: Progress | None = None,
) -> Pictures:
    """Gather the pictures of a report.

    Args:
        results: The stored rows.
        rows: The table's rows.
        sets: Its sets.
        conventions: Its conventions.
        wish: Which pictures.
        folders: Where weights may be, beside where the manifests say.
        progress: Called with the maps that are made and those that are to be made.
    """
    chosen, notes = _models(rows, wish, results.cells, folders)
    drafts = [
        _draft(results, model, cell, conventions, wish.count)
        for dataset in sets
        for model in chosen
        for cell in _cells_of(results, model.member, dataset)
    ]
    total = sum(len(draft.choices) for draft in drafts)
    done = 0
    for model in chosen:
        localiser: Localiser | str | None = None
        for draft in drafts:
            if draft.model is not model or not draft.choices:
                continue
            if localiser is None:
                localiser = _localiser(model.member.manifest, model.weights, wish)
            _show(draft, localiser, wish)
            done += len(draft.choices)
            if progress is not None:
                progress(done, total)
    return _encode(drafts, notes)


def _cells_of(results: Results, member: Member, dataset: str) -> list[Cell]:
    """Return the cell of a run on a set as it is; none where it was not tested on it."""
    key = (member.manifest_id, dataset, UNPERTURBED)
    return [cell for cell in results.cells if cell.key == key][:1]


def _models(
    rows: Sequence[TableRow], wish: Wish, cells: Sequence[Cell], folders: Sequence[Path]
) -> tuple[list[_Model], list[str]]:
    """Return the rows to draw, and why others are left out.

    Raises:
        UserError: A wanted model is not among the rows.
    """
    for name in wish.models:
        known = [word for row in rows for word in (row.label, row.model)]
        if name not in known:
            raise UserError(f'--images-of: no model "{name}" in the table.{suggest(name, known)}')
    found: list[_Model] = []
    left_out: dict[str, list[str]] = {}
    for row in rows:
        if wish.models and not {row.label, row.model} & set(wish.models):
            continue
        if not wish.models and len(found) == MOST_MODELS:
            member, weights, why = None, None, "--images-of draws them"
        else:
            member, weights, why = _weights_of(row, cells, folders)
        if member is None or weights is None:
            left_out.setdefault(why, []).append(row.label)
        else:
            found.append(_Model(row, member, weights))
    notes = [f"{', '.join(labels)}: {why}" for why, labels in left_out.items()]
    return found, notes


def _weights_of(
    row: TableRow, cells: Sequence[Cell], folders: Sequence[Path]
) -> tuple[Member | None, Path | None, str]:
    """Return the first run of a row whose weights are there, or why there is none."""
    if row.is_external:
        return None, None, "maps made elsewhere cannot be made again"
    if not any((member.manifest.get("checkpoint") or {}).get("sha256") for member in row.members):
        return None, None, "no trained weights"
    for member in row.members:
        own = [cell for cell in cells if cell.manifest_id == member.manifest_id]
        path = find_weights(member.manifest, own, folders)
        if path is not None:
            return member, path, ""
    name = str((row.members[0].manifest.get("checkpoint") or {}).get("file"))
    return None, None, f"the weights ({name}, by their SHA-256) are not there any more"


def find_weights(
    manifest: Mapping[str, Any], cells: Sequence[Cell], folders: Sequence[Path]
) -> Path | None:
    """Return the file of a manifest's weights: the one with its SHA-256; None where there is none.

    Sought are the run's own folder, the trainings of a protocol's, the path that the test was
    given, and files of that name below some folders.
    """
    checkpoint = manifest.get("checkpoint") or {}
    name, wanted = Path(str(checkpoint.get("file") or "")).name, checkpoint.get("sha256")
    if not name or not wanted:
        return None
    options = _mapping(_mapping(manifest.get("config")).get("options"))
    given = [str(options[key]) for key in ("checkpoint", "output_dir") if options.get(key)]
    runs = list(dict.fromkeys(cell.path.parent.parent.parent for cell in cells))
    tried: set[Path] = set()

    def candidates() -> Iterable[Path]:
        for run in runs:
            yield run / name
            yield from sorted(run.glob(f"train/*/{name}"))
        for text in given:
            for path in found_at(text, runs):
                yield path if path.is_file() else path / name
        for folder in folders:
            yield from sorted(folder.rglob(name))

    for path in candidates():
        if not path.is_file() or path.resolve() in tried:
            continue
        tried.add(path.resolve())
        if sha256_file(path) == wanted:
            return path
    return None


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def found_at(text: str, runs: Sequence[Path], root: Path | None = None) -> list[Path]:
    """Return where a path of a manifest is now.

    A relative path was below the folder that the command ran in: this one, or one above the run. A
    path that has moved is sought below `root`, by as much of its end as is there.

    Args:
        text: The path as it was given to the command.
        runs: Folders of the run.
        root: Where else to look.

    Returns:
        The existing paths, the likeliest first.
    """
    path = Path(text)
    places = [path]
    if not path.is_absolute():
        places += [above / path for run in runs for above in (run, *run.resolve().parents)]
    if root is not None:
        parts = [part for part in path.parts if part not in (path.anchor, "..", ".")]
        places += [root.joinpath(*parts[start:]) for start in range(len(parts))]
        places.append(root)
    return [place for place in dict.fromkeys(places) if _exists(place)]


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return False


def _draft(
    results: Results, model: _Model, cell: Cell, conventions: Conventions, count: int
) -> _Draft:
    """Choose the images of a run on a set."""
    one = replace(conventions, metric="pixel_f1", authentic="tampered", perturbation=UNPERTURBED)
    of_cell = [
        results.rows[column] == value
        for column, value in zip(("manifest_id", "dataset", "perturbation"), cell.key, strict=True)
    ]
    stored = results.rows[of_cell[0] & of_cell[1] & of_cell[2]].reset_index(drop=True)
    own = select_rows(stored, one, ["authentic_fp_area"], names=True)
    at_own_size = stored[(stored["score_at"] == "image") & (stored["evaluator"] == "exact")]
    own_f1 = dict(zip(at_own_size["sample_name"], at_own_size["f1"], strict=True))
    choices = [
        replace(choice, own_f1=float(own_f1.get(choice.name, math.nan)))
        for choice in choose(own, count, one)
    ]
    seed = model.member.seed if len(model.row.members) > 1 else None
    note = "" if choices else "no image of this set has a figure to choose by"
    return _Draft(model, cell, Gallery(cell.dataset, model.row.label, seed, note=note), choices)


# --- what they show ------------------------------------------------------------------------------


def _localiser(manifest: Mapping[str, Any], weights: Path, wish: Wish) -> "Localiser | str":
    """Load a checkpoint as the test did; return why where that cannot be done."""
    from sparsevit_plugin.harness.predict import Localiser
    from sparsevit_plugin.harness.recorded import recorded_arguments, recorded_model

    options = _mapping(_mapping(manifest.get("config")).get("options"))
    given: dict[str, Any] = {
        "model": recorded_model(manifest),
        "imports": list(wish.imports) or None,
        "device": wish.device,
        "if_predict_label": options.get("if_predict_label") or None,
        "no_model_eval": None if manifest.get("model_eval", True) else True,
    }
    for name in ("fit", "image_size", "tile", "tile_overlap"):
        given[name] = manifest.get(name)
    given |= recorded_arguments(manifest)
    try:
        return Localiser(weights, threshold=float(manifest.get("threshold", 0.5)), **given)
    except UserError as error:
        return str(error)


def _show(draft: _Draft, localiser: "Localiser | str", wish: Wish) -> None:
    """Fill a draft with what its images show, or with why they cannot be shown."""
    if isinstance(localiser, str):
        _say_of_all(draft, f"its map cannot be made again: {localiser}")
        return
    samples = _samples(draft.cell, {c.name for c in draft.choices}, wish.data_root)
    if isinstance(samples, str):
        _say_of_all(draft, samples)
        return
    for choice in draft.choices:
        sample = samples.get(choice.name)
        if sample is None:
            draft.notes[choice.name] = "the set has no image of this name any more"
            continue
        try:
            draft.shown[choice.name], note = _shown(sample, choice, localiser)
        except UserError as error:
            note = str(error)
        if note:
            draft.notes[choice.name] = note


def _say_of_all(draft: _Draft, note: str) -> None:
    draft.notes = {choice.name: note for choice in draft.choices}


def _samples(cell: Cell, names: set[str], root: Path | None) -> "dict[str, Sample] | str":
    """Find images of a cell's set by their names; return why where the set cannot be read."""
    from sparsevit_plugin.harness.sources import each_once, read_source

    text = str(cell.facts.get("path") or "")
    if not text:
        return "where the set's files are is not recorded"
    run = cell.path.parent.parent.parent
    problem = f"{text} is not there any more: --data-root DIR says where the set is now"
    for path in found_at(text, [run], root):
        for pair in ("name", "position"):
            try:
                sources = read_source(path, pair=pair)
            except UserError as error:
                problem = f"the set cannot be read: {error}"
                continue
            source = sources.get(cell.dataset)
            if source is None and len(sources) == 1:
                (source,) = sources.values()
            if source is None:
                continue
            found = {s.name: s for s in each_once(source).samples if s.name in names}
            found |= _authentic_below(path, names - set(found))
            if found:
                return found
    return problem


def _authentic_below(folder: Path, names: set[str]) -> "dict[str, Sample]":
    """Find images of a plain folder's `Au/`, which `read_source` leaves out."""
    from sparsevit_plugin.harness.sources import Sample

    files = {name: folder / name for name in names if name.startswith("Au/") and folder.is_dir()}
    inside = folder.resolve()
    return {
        name: Sample(file, None, name)
        for name, file in files.items()
        if file.is_file() and file.resolve().is_relative_to(inside)
    }


def _shown(sample: "Sample", choice: Choice, localiser: "Localiser") -> tuple[_Shown, str]:
    """Read an image and its mask, and make its map.

    Raises:
        UserError: It cannot be read, or there is no map of it.
    """
    from sparsevit_plugin.harness.datasets import BadSample, read_sample
    from sparsevit_plugin.harness.post_functions import additions
    from sparsevit_plugin.harness.predict import Photo

    pixels, mask, _ = read_sample(sample)
    needs_file = bool(additions(localiser.config).origin_function)
    photo = Photo(sample.name, sample.image, None if needs_file else pixels)
    (prediction,) = localiser.stream([photo])
    if isinstance(prediction, BadSample):
        raise UserError(f"{prediction.path}: {prediction.reason}")
    if prediction.map.shape != mask.shape:
        raise UserError(f"{sample.image}: its map does not have the mask's size")
    tampered = mask > 0
    f1 = _f1(prediction, tampered)
    note = ""
    if math.isfinite(choice.own_f1) and abs(choice.own_f1 - f1) > _TELLING:
        note = (
            f"the map that is drawn has F1 {f1:.3f} at the photograph's own size, the stored row "
            f"{choice.own_f1:.3f}: files, weights or program differ from the test's"
        )
    scale = min(1.0, SIDES[0] / max(mask.shape))
    size = (max(1, round(mask.shape[1] * scale)), max(1, round(mask.shape[0] * scale)))
    small = Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS)
    values = Image.fromarray(prediction.map).resize(size, Image.Resampling.BOX)
    return _Shown(
        pixels=np.asarray(small),
        mask=np.asarray(Image.fromarray(tampered).resize(size, Image.Resampling.NEAREST)),
        map=np.clip(np.asarray(values, np.float32), 0, 1),
        threshold=prediction.threshold,
        area=float(tampered.mean()),
        f1=f1,
    ), note


def _f1(prediction: "Prediction", tampered: NDArray[np.bool_]) -> float:
    predicted = prediction.mask
    both = int((predicted & tampered).sum())
    total = int(predicted.sum()) + int(tampered.sum())
    return 2 * both / total if total and tampered.any() else math.nan


# --- pictures of them ----------------------------------------------------------------------------


def _encode(drafts: Sequence[_Draft], notes: Sequence[str]) -> Pictures:
    """Make the pictures at the largest side at which all fit into the budget.

    Raises:
        UserError: They do not fit at the smallest.
    """
    for side in SIDES:
        galleries = tuple(_gallery(draft, side) for draft in drafts)
        pictures = [p for g in galleries for e in g.examples for p in e.pictures]
        size = sum(picture.size for picture in pictures)
        if size <= BUDGET:
            return Pictures(galleries, tuple(notes), side if pictures else 0, size)
    raise UserError(
        f"the pictures take {size / 2**20:.1f} MiB even at {SIDES[-1]} pixels, more than the "
        f"{BUDGET / 2**20:.0f} MiB of a page: give a smaller --images, or fewer --images-of"
    )


def _gallery(draft: _Draft, side: int) -> Gallery:
    examples = []
    for choice in draft.choices:
        shown = draft.shown.get(choice.name)
        pictures = () if shown is None else _pictures(shown, choice, draft.gallery.label, side)
        examples.append(Example(choice, pictures, draft.notes.get(choice.name, "")))
    return replace(draft.gallery, examples=tuple(examples))


def _pictures(shown: _Shown, choice: Choice, label: str, side: int) -> tuple[Picture, ...]:
    from sparsevit_plugin.harness.predict import Prediction
    from sparsevit_plugin.harness.prediction_files import overlay

    shown = _shrunk(shown, side)
    prediction = Prediction(choice.name, shown.map, math.nan, shown.threshold)
    called = f"{_share(choice.area)} of it called tampered"
    grey = np.rint(shown.map * 255).astype(np.uint8)
    return (
        _jpeg(shown.pixels, f"Photograph {choice.name}", "photograph"),
        _png(
            shown.mask,
            f"Mask: {_share(shown.area)} of the photograph is tampered"
            if shown.area
            else "Mask: nothing is tampered",
            "mask",
        ),
        _jpeg(grey, f"Map of {label}: white where it is sure of tampering", "map"),
        _jpeg(overlay(shown.pixels, prediction), f"Map over the photograph: {called}", "overlay"),
    )


def _share(area: float) -> str:
    """Return a share of the pixels in per cent; one that is not 0 does not read as 0."""
    return "less than 0.1%" if 0 < area < _LEAST_SHOWN else f"{area:.1%}"


def _shrunk(shown: _Shown, side: int) -> _Shown:
    """Bring an example to a longest side; it is never enlarged."""
    height, width = shown.mask.shape
    scale = side / max(height, width)
    if scale >= 1:
        return shown
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    covered = Image.fromarray(shown.mask.astype(np.float32)).resize(size, Image.Resampling.BOX)
    values = Image.fromarray(shown.map).resize(size, Image.Resampling.BOX)
    return replace(
        shown,
        pixels=np.asarray(Image.fromarray(shown.pixels).resize(size, Image.Resampling.LANCZOS)),
        mask=np.asarray(covered) > 0,  # a small region stays to be seen
        map=np.clip(np.asarray(values, np.float32), 0, 1),
    )


def _jpeg(pixels: NDArray[np.uint8], alt: str, caption: str) -> Picture:
    return _as_picture(Image.fromarray(pixels), "JPEG", alt, caption, quality=_QUALITY)


def _png(mask: NDArray[np.bool_], alt: str, caption: str) -> Picture:
    return _as_picture(Image.fromarray(mask), "PNG", alt, caption, optimize=True)


def _as_picture(
    image: Image.Image,
    kind: str,
    alt: str,
    caption: str,
    **options: Any,  # noqa: ANN401
) -> Picture:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    content = buffer.getvalue()
    address = f"data:image/{kind.lower()};base64,{base64.b64encode(content).decode('ascii')}"
    return Picture(address, *image.size, alt, caption, len(content))
