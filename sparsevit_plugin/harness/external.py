"""Maps made elsewhere become rows, by the same evaluators as a model's own maps.

A folder of maps is paired with a set's images, every map is read and scored at its own size and at
the photograph's, and the rows are stored whole or not at all: whatever is missing, left over,
unreadable or of another aspect ratio is listed first, and then nothing is stored.

The manifest says `external maps`. Its checkpoint is a hash over the maps. Sets that are scored
under one name and by one convention share a manifest, which makes them one row of a table; changed
maps of a set that is stored already begin another.
"""

import contextlib
import hashlib
import os
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray

from sparsevit_plugin.errors import UserError
from sparsevit_plugin.files import sha256_file
from sparsevit_plugin.harness.evaluate import native_map
from sparsevit_plugin.harness.evaluators import evaluate_batch, exact_evaluators
from sparsevit_plugin.harness.images import BadImage, read_pair
from sparsevit_plugin.harness.manifest import run_facts
from sparsevit_plugin.harness.map_files import StoredMap, read_map
from sparsevit_plugin.harness.map_pairing import (
    EXTRA,
    MISSING,
    UNREADABLE,
    MapFolder,
    MapPairing,
    Problem,
    find_maps,
    pair_maps,
)
from sparsevit_plugin.harness.progress import Progress
from sparsevit_plugin.harness.sources import ImageSet, Sample, fingerprints
from sparsevit_plugin.results.store import Store, new_manifest_id

KIND: Final = "external maps"
"""The manifest's `kind`."""

WRONG_ASPECT: Final = "wrong aspect ratio"
_LIKELY_BINARY: Final = "unscaled"

ASPECT_TOLERANCE: Final = 1.0
"""How many pixels a map's height (or width) may be off what its width (height) asks for: as much
as rounding a scaled side can make."""

_MOST_PIXELS: Final = 1 << 26
_THRESHOLD: Final = 0.5
_NAMED: Final = 3
_TOP_SHARE: Final = 100


def _top_mean(values: NDArray[np.floating]) -> float:
    count = -(-values.size // _TOP_SHARE)
    return float(np.partition(values, values.size - count, axis=None)[-count:].mean())


POOLINGS: Final[dict[str, Callable[[NDArray[np.floating]], float]]] = {
    "max": lambda values: float(values.max()),
    "mean": lambda values: float(values.mean()),
    "top1": _top_mean,
}
"""How a map gives an image-level score: its largest value, its mean, or the mean of the highest
hundredth of its pixels (at least one). All at the map's own size."""


@dataclass(frozen=True)
class ScoreRequest:
    """What to score.

    Attributes:
        pred: Folder of the maps.
        name: The row's name in tables.
        source: The set, with the images to score.
        whole: The same set with the images that are not to be scored, so that their maps are not
            taken for strangers; `source` where there are none.
        store: Where the rows go.
        pooling: One of `POOLINGS`.
        invert: Whether 1 means authentic in these maps.
        allow_missing: Whether images without a map are left out instead of being an error.
        allow_stretched: Whether a map of another aspect ratio than its photograph's is taken as
            one of the whole photograph, stretched.
        workers: Threads that read and score; memory is bounded by as many images.
    """

    pred: Path
    name: str
    source: ImageSet
    store: Store
    whole: ImageSet | None = None
    pooling: str = "max"
    invert: bool = False
    allow_missing: bool = False
    allow_stretched: bool = False
    workers: int = field(default_factory=lambda: min(8, os.cpu_count() or 1))


@dataclass(frozen=True)
class ScoreReport:
    """What scoring did.

    Attributes:
        rows_file: Where the rows are.
        images: How many images were scored.
        facts: Of the maps, as the manifest has them: folder, pairing rule, forms and sizes.
        remarks: What a user should know, in lines.
    """

    rows_file: Path
    images: int
    facts: dict[str, Any]
    remarks: tuple[str, ...] = ()


class MapsDoNotFit(UserError):  # noqa: N818 (named for what it is about, as `BadImage`)
    """Maps that cannot be scored as a whole.

    Attributes:
        problems: All of them.
    """

    def __init__(self, message: str, problems: Sequence[Problem]) -> None:
        super().__init__(message)
        self.problems = tuple(problems)


def score_maps(request: ScoreRequest) -> ScoreReport:
    """Score a folder of maps against a set and store the rows.

    Args:
        request: What to score, and where to.

    Returns:
        Where the rows are, and what was done.

    Raises:
        MapsDoNotFit: A map is missing, left over, unreadable or of another aspect ratio; nothing
            was stored.
        UserError: The folder is missing or holds no maps, or the store cannot be written.
    """
    found = find_maps(request.pred)
    pairing, left_out = _pair(request, found)
    problems = [*found.problems, *_pairing_problems(request, found, pairing)]
    scored = _score_all(request, pairing, problems)
    if problems:
        raise MapsDoNotFit(_message(request, found, pairing, problems), problems)
    return _store(request, found, pairing, left_out, scored)


# --- pairing -------------------------------------------------------------------------------------


def _pair(request: ScoreRequest, found: MapFolder) -> tuple[MapPairing, int]:
    """Pair the maps, and count those of images that are not to be scored."""
    wanted = pair_maps(request.source.samples, found.maps)
    if not wanted.extra or request.whole is None:
        return wanted, 0
    pairing = pair_maps(request.whole.samples, found.maps)
    if len(pairing.extra) >= len(wanted.extra):
        return wanted, 0
    names = {sample.name for sample in request.source.samples}
    pairs = tuple(pair for pair in pairing.pairs if pair[0].name in names)
    missing = tuple(sample for sample in pairing.missing if sample.name in names)
    kept = replace(pairing, pairs=pairs, missing=missing)
    return kept, len(pairing.pairs) - len(pairs)


def _pairing_problems(
    request: ScoreRequest, found: MapFolder, pairing: MapPairing
) -> list[Problem]:
    missing = () if request.allow_missing else pairing.missing
    extra = (found.maps[stem].relative_to(found.path).as_posix() for stem in pairing.extra)
    return [
        *(Problem(MISSING, sample.name, "has no map") for sample in missing),
        *(Problem(EXTRA, name, "is of no image of the set") for name in extra),
    ]


def _message(
    request: ScoreRequest, found: MapFolder, pairing: MapPairing, problems: Sequence[Problem]
) -> str:
    """Say in one line how many maps are wrong in which way, the first of each, and what to do."""
    words = []
    for kind, count in Counter(problem.kind for problem in problems).items():
        first = [problem for problem in problems if problem.kind == kind][:_NAMED]
        names = ", ".join(p.name + _reason(p) for p in first) + (", ..." if count > _NAMED else "")
        words.append(f"{count} {kind} ({names})")
    total = len(request.source)
    advice = [_authentic_hint(request, pairing), pairing.hint, _stretched_hint(problems)]
    told = "".join(f"; {text}" for text in advice if text)
    return (
        f"{request.pred} does not fit {request.source.name}: {', '.join(words)}, of "
        f"{len(found.maps)} maps and {total} images{told}; nothing was stored, --list prints all"
    )


def _reason(problem: Problem) -> str:
    return "" if problem.kind in (MISSING, EXTRA) else f": {problem.reason}"


def _authentic_hint(request: ScoreRequest, pairing: MapPairing) -> str:
    """Say so when maps were made for one of the two kinds of images only."""
    if request.allow_missing or not pairing.missing:
        return ""
    authentic = [sample for sample in request.source.samples if sample.mask is None]
    without = {sample.name for sample in pairing.missing}
    if not authentic or without != {sample.name for sample in authentic}:
        return ""
    return (
        f"all {len(authentic)} authentic images of the set lack a map and no other image does: "
        "pass --authentic exclude to score the tampered ones alone"
    )


def _stretched_hint(problems: Sequence[Problem]) -> str:
    if not any(problem.kind == WRONG_ASPECT for problem in problems):
        return ""
    return "maps of photographs that were stretched to a square are taken with --allow-stretched"


# --- scoring -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Scored:
    """One image's rows and histograms, and how its map was stored."""

    rows: list[dict[str, Any]]
    histograms: list[dict[str, Any]]
    form: str
    digest: str
    resized: bool
    stretched: bool
    top: float | None  # largest sample on an integer scale


def _score_all(
    request: ScoreRequest, pairing: MapPairing, problems: list[Problem]
) -> list[_Scored]:
    """Read and score every pair; once something is wrong, only look for what else is."""
    spoilt = threading.Event()
    if problems:
        spoilt.set()
    places = {sample.name: place for place, sample in enumerate(request.source.samples)}

    def work(pair: tuple[Sample, Path]) -> _Scored | Problem | None:
        found = _score_pair(request, places[pair[0].name], *pair, only_look=spoilt.is_set())
        if isinstance(found, Problem):
            spoilt.set()
        return found

    scored = []
    label = f"score {request.name} on {request.source.name}"
    with Progress(len(pairing.pairs), label) as progress, warnings.catch_warnings():
        # Pillow's doubts about large images, NumPy's about old headers: both are bounded here.
        warnings.simplefilter("ignore")
        for found in _in_threads(work, pairing.pairs, request.workers):
            if isinstance(found, Problem):
                problems.append(found)
            elif found is not None:
                scored.append(found)
            progress.advance()
    if not problems:
        problems += _unscaled(request, scored)
    return scored


def _in_threads(
    work: Callable[[tuple[Sample, Path]], Any],
    pairs: Sequence[tuple[Sample, Path]],
    workers: int,
) -> Iterator[Any]:
    """Yield the results in order; an error or an interrupt does not wait for the rest."""
    pool = ThreadPoolExecutor(max(1, workers))
    try:
        yield from pool.map(work, pairs)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _score_pair(
    request: ScoreRequest, place: int, sample: Sample, path: Path, *, only_look: bool
) -> _Scored | Problem | None:
    """Score one map; a `Problem` where that cannot be, None where it was only looked at."""
    try:
        photograph, mask, _ = read_pair(sample.image, sample.mask)
    except BadImage as error:
        return Problem("unusable image", sample.name, error.reason)
    size = (mask.shape[0], mask.shape[1])
    del photograph
    name = path.relative_to(request.pred).as_posix()
    try:
        stored = read_map(path, max(_MOST_PIXELS, mask.size))
        digest = sha256_file(path)
    except BadImage as error:
        return Problem(UNREADABLE, name, error.reason)
    except UserError as error:
        return Problem(UNREADABLE, name, str(error))
    height, width = stored.values.shape
    stretched = not fits((height, width), size)
    if stretched and not request.allow_stretched:
        reason = f"is {width} x {height}, its photograph {size[1]} x {size[0]} pixels"
        return Problem(WRONG_ASPECT, name, reason)
    if only_look:
        return None
    rows, histograms = _rows(request, place, sample, stored, mask)
    return _Scored(
        rows,
        histograms,
        form=stored.form,
        digest=digest,
        resized=(height, width) != size,
        stretched=stretched,
        top=stored.top if stored.is_integer else None,
    )


def fits(size: tuple[int, int], photograph: tuple[int, int]) -> bool:
    """Say whether a map has its photograph's aspect ratio, within `ASPECT_TOLERANCE`.

    Args:
        size: Height and width of the map.
        photograph: Height and width of the photograph.
    """
    height, width = size
    ratio = photograph[0] / photograph[1]
    return (
        abs(height - width * ratio) <= ASPECT_TOLERANCE
        or abs(width - height / ratio) <= ASPECT_TOLERANCE
    )


def _unscaled(request: ScoreRequest, scored: Sequence[_Scored]) -> list[Problem]:
    """Find integer maps that were never brought to their scale: no sample of any is above 1."""
    tops = [found.top for found in scored if found.top is not None]
    if not tops or max(tops) != 1:
        return []
    reason = (
        f"no sample of its {len(tops)} integer maps is above 1, on a scale of 255 or 65535: save "
        "maps of 0 and 1 as bool or float"
    )
    return [Problem(_LIKELY_BINARY, request.pred.as_posix(), reason)]


def _rows(
    request: ScoreRequest, place: int, sample: Sample, stored: StoredMap, mask: NDArray[np.uint8]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Score a map at its own size (`model`) and at the photograph's (`image`)."""
    values = 1 - stored.values if request.invert else stored.values
    own = torch.from_numpy(values)[None]
    native = native_map(own, values.shape, mask.shape)
    score = POOLINGS[request.pooling](values)
    key = {"sample_index": place, "sample_name": sample.name}
    rows: list[dict[str, Any]] = []
    histograms: list[dict[str, Any]] = []
    same_size = values.shape == mask.shape
    fragment: dict[str, Any] = {}
    for score_at, scored in (("image", native), ("model", own)):
        if not (fragment and same_size):
            fragment = _evaluate(scored, mask, score)
        counts = {name: fragment[f"{name}_histogram"] for name in ("tampered", "authentic")}
        figures = {k: v for k, v in fragment.items() if not k.endswith("_histogram")}
        convention = {"score_at": score_at, "evaluator": "exact", "pooling": request.pooling}
        rows.append({**key, **convention, **figures, "photos": list(sample.photos)})
        histograms.append({**key, "score_at": score_at, **counts})
    return rows, histograms


def _evaluate(scored: torch.Tensor, mask: NDArray[np.uint8], score: float) -> dict[str, Any]:
    """Score a map, shape (1, H, W), against a mask that is brought to its size as IMDLBenCo does.

    IMDLBenCo resizes masks to the nearest pixel. An image is tampered when its own mask says so,
    even where the smaller mask has lost the region.
    """
    height, width = scored.shape[-2:]
    truth = mask
    if mask.shape != (height, width):
        truth = cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST)
    (fragment,) = evaluate_batch(
        exact_evaluators(_THRESHOLD),
        {"pred_mask": scored[None], "pred_label": torch.tensor([score], dtype=torch.float64)},
        {
            "mask": torch.from_numpy((truth > 0).astype(np.float32))[None, None],
            "label": torch.tensor([int(mask.any())]),
        },
    )
    return fragment


# --- storing -------------------------------------------------------------------------------------


def _store(
    request: ScoreRequest,
    found: MapFolder,
    pairing: MapPairing,
    left_out: int,
    scored: Sequence[_Scored],
) -> ScoreReport:
    if not scored:
        raise UserError(f"{request.pred}: none of its maps is of an image of {request.source.name}")
    facts = _map_facts(request, pairing, scored)
    remarks = []
    if left_out:
        remarks.append(f"{left_out} maps of images that are not scored here were left out")
    if found.others:
        remarks.append(f"{found.others} files in {found.path} are neither maps nor pictures")
    # Sets of one name that are scored at the same time must not begin a manifest each.
    with _locked(request.store.folder):
        manifest, begun = _manifest(request, facts, _hash(pairing, scored))
        file = _write(request, pairing, scored, manifest)
    if begun:
        remarks.append(
            f"{request.store.folder} holds other maps of {request.name} on {request.source.name}: "
            "both stay, as two rows; another --name tells them apart"
        )
    return ScoreReport(file, len(scored), facts, tuple(remarks))


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".score.lock")
        lock.acquire()
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror or error}") from error
    try:
        yield
    finally:
        lock.release()


def _write(
    request: ScoreRequest,
    pairing: MapPairing,
    scored: Sequence[_Scored],
    manifest: dict[str, Any],
) -> Path:
    source = request.source
    common = {
        "manifest_id": manifest["manifest_id"],
        "model": request.name,
        "checkpoint": manifest["checkpoint"]["sha256"][:12],
        "dataset": source.name,
        "epoch": None,
    }
    rows = [{**common, **row} for one in scored for row in one.rows]
    histograms = [{**common, **row} for one in scored for row in one.histograms]
    facts = {
        "path": str(source.path),
        **fingerprints(source),
        "images": len(source),
        "pairing": source.pairing,
        "skipped": [{"name": sample.name, "reason": "no map"} for sample in pairing.missing],
        "maps": manifest["maps"],
    }
    return request.store.write(manifest, source.name, rows, histograms, facts)


def _map_facts(
    request: ScoreRequest, pairing: MapPairing, scored: Sequence[_Scored]
) -> dict[str, Any]:
    """Say how the maps were found, stored and brought to size."""
    resized = sum(found.resized for found in scored)
    return {
        "folder": str(request.pred),
        "paired_by": pairing.rule,
        "forms": dict(sorted(Counter(found.form for found in scored).items())),
        "native_size": len(scored) - resized,
        "resized_bilinearly": resized,
        "stretched": sum(found.stretched for found in scored),
        "inverted": request.invert,
        "without_map": len(pairing.missing),
    }


def _hash(pairing: MapPairing, scored: Sequence[_Scored]) -> str:
    """Hash the images' names and the contents of their maps, wherever these are stored."""
    digest = hashlib.sha256()
    for (sample, _), found in zip(pairing.pairs, scored, strict=True):
        digest.update(f"{sample.name}\0{found.digest}\0".encode())
    return digest.hexdigest()


def _manifest(
    request: ScoreRequest, facts: dict[str, Any], maps_hash: str
) -> tuple[dict[str, Any], bool]:
    """Return the manifest, and whether it was begun because of other maps of that name."""
    convention = {
        "kind": KIND,
        "model": request.name,
        "pooling": request.pooling,
        "inverted": request.invert,
        "stretched_allowed": request.allow_stretched,
    }
    earlier = _earlier(request, convention)
    known = _joined(earlier, request.source.name, maps_hash)
    begun_with = known["begun_with"] if known else maps_hash
    identity = {**convention, "begun_with": begun_with}
    manifest = {
        **identity,
        "manifest_id": new_manifest_id(identity),
        "checkpoint": {"file": request.pred.name, "sha256": maps_hash},
        "selection": "unknown",
        "pretraining": "unknown",
        "training_data": "unknown",
        "evaluators": "exact",
        "threshold": _THRESHOLD,
        "maps": facts,
        **run_facts(torch.device("cpu"), "unknown", 1, backend="unknown"),
        # Of the machine that made the maps.
        "device": "unknown",
    }
    return manifest, known is None and bool(earlier)


def _earlier(request: ScoreRequest, convention: dict[str, Any]) -> list[list[dict[str, Any]]]:
    """Return the notes of what the store holds under a convention, by manifest, newest first."""
    manifests: dict[str, list[dict[str, Any]]] = {}
    notes = request.store.all_notes()
    for note in sorted(notes, key=lambda note: str(note.get("written", "")), reverse=True):
        if all(note["manifest"].get(key) == value for key, value in convention.items()):
            manifests.setdefault(note["manifest_id"], []).append(note)
    return list(manifests.values())


def _joined(
    earlier: Sequence[Sequence[dict[str, Any]]], dataset: str, maps_hash: str
) -> dict[str, Any] | None:
    """Return the manifest that maps belong to: one with the same maps, else one without the set."""
    free = None
    for notes in earlier:
        hashes = {
            note["manifest"]["checkpoint"]["sha256"] for note in notes if note["dataset"] == dataset
        }
        if hashes == {maps_hash}:
            return dict(notes[0]["manifest"])
        if not hashes and free is None:
            free = dict(notes[0]["manifest"])
    return free
