"""Manipulation corpora made from photographs, in the style of tampCOCO.

A corpus is a folder:

    OUT/corpus.json             the arguments, their fingerprint, which scenes are in which split
    OUT/tests.json              {test set: "<set>/list.json"}
    OUT/<set>/list.json         [["Tp/...", "Gt/..."], ..., ["Au/...", "Negative"], ...]
    OUT/<set>/manifest.json     per image: scenes, photographs, every operation with its parameters
    OUT/<set>/{Tp,Gt,Au}/       tampered images, their masks, authentic images

Every image is drawn from (seed, set, kind, index), so the number of processes does not matter. The
same arguments give the same bytes under the same library versions, which `corpus.json` records.
"""

import hashlib
import json
import multiprocessing
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from sparsevit_plugin.errors import UserError
from sparsevit_plugin.files import parse_json
from sparsevit_plugin.harness import manipulations as edits
from sparsevit_plugin.harness.corpus_sets import demo_sets
from sparsevit_plugin.harness.photos import Photograph, embedded_photographs
from sparsevit_plugin.harness.synthesis import Job, Maker, SetSpec

Progress = Callable[[int, int], None]

SCHEMA_VERSION = 1
KIND = "sparsevit-corpus"
INDEX_KIND = "sparsevit-corpus-index"

#: Raised whenever the same arguments give other images, so that an older corpus is not reused.
GENERATOR = 1

#: Images that one process makes before it reports.
_CHUNK = 50

_SMALLEST_SIDE = 32
_LIBRARIES = ("numpy", "opencv-python-headless", "scikit-image", "pillow")


@dataclass(frozen=True)
class SetSummary:
    """What a set holds.

    Attributes:
        split: `train` or `test`.
        path: Its list of pairs.
        tampered: Number of tampered images.
        authentic: Number of authentic images.
        mean_area: Mean tampered part of the tampered images.
        scenes: Number of scenes.
    """

    split: str
    path: Path
    tampered: int
    authentic: int
    mean_area: float
    scenes: int


@dataclass(frozen=True)
class CorpusSummary:
    """A corpus on disk.

    Attributes:
        path: Its folder.
        sets: Its sets by name.
        reused: Whether it was there already.
        seconds: How long making it took.
    """

    path: Path
    sets: dict[str, SetSummary]
    reused: bool
    seconds: float


@dataclass(frozen=True)
class DemoCorpus:
    """The demo's corpus.

    Attributes:
        train: List of the training set.
        tests: List of each test set by name.
        tests_file: The JSON file that names the test sets.
        summary: What it holds.
    """

    train: Path
    tests: dict[str, Path]
    tests_file: Path
    summary: CorpusSummary


def make_corpus(
    photographs: Sequence[Photograph],
    out: Path,
    *,
    seed: int,
    sets: Sequence[SetSpec],
    workers: int = 1,
    force: bool = False,
    progress: Progress | None = None,
) -> CorpusSummary:
    """Make a corpus, or find that it is there already.

    The folder is built beside its place and moved there when it is whole.

    Args:
        photographs: What there is to draw from.
        out: Folder of the corpus.
        seed: Seed of every draw, 0 or more.
        sets: The sets.
        workers: Number of processes; with more than one the calling script needs the usual
            `if __name__ == "__main__"` guard, because the processes are spawned.
        force: Whether to replace a corpus that was made with other arguments.
        progress: Called with (images made, images in all).

    Returns:
        What the corpus holds.

    Raises:
        UserError: If the sets share a scene between the splits, have too few scenes or photographs
            that are too small, or if `out` holds something else or cannot be written.
    """
    began = time.monotonic()
    _check_sets(photographs, sets)
    if seed < 0:
        raise UserError(f"--seed {seed}: a seed is 0 or more")
    arguments = _arguments(photographs, sets, seed)
    replaced = _existing(out, arguments["fingerprint"], force=force)
    if isinstance(replaced, CorpusSummary):
        return replaced
    with _built_beside(out) as partial:
        _write_sets(Maker(photographs, sets, seed), partial, workers, progress)
        _write_json(partial / "corpus.json", arguments)
        tests = {spec.name: f"{spec.name}/list.json" for spec in sets if spec.split == "test"}
        _write_json(partial / "tests.json", tests)
    return _summary(out, reused=False, seconds=time.monotonic() - began)


def make_demo(
    out: Path,
    *,
    seed: int = 0,
    workers: int = 1,
    scale: float = 1.0,
    force: bool = False,
    progress: Progress | None = None,
) -> DemoCorpus:
    """Make the demo's corpus from the photographs inside scikit-image and scikit-learn.

    Args:
        out: Folder of the corpus.
        seed: Seed of every draw.
        workers: Number of processes.
        scale: Factor of the number of images.
        force: Whether to replace a corpus that was made with other arguments.
        progress: Called with (images made, images in all).

    Returns:
        Where its sets are.

    Raises:
        UserError: See `make_corpus` and `embedded_photographs`.
    """
    summary = make_corpus(
        embedded_photographs(),
        out,
        seed=seed,
        sets=demo_sets(scale),
        workers=workers,
        force=force,
        progress=progress,
    )
    tests = {name: part.path for name, part in summary.sets.items() if part.split == "test"}
    return DemoCorpus(summary.sets["train"].path, tests, out / "tests.json", summary)


def _check_sets(photographs: Sequence[Photograph], sets: Sequence[SetSpec]) -> None:
    by_scene: dict[str, list[Photograph]] = {}
    for photograph in photographs:
        by_scene.setdefault(photograph.scene, []).append(photograph)
    for spec in sets:
        _check_set(spec, by_scene)
    train = {scene for spec in sets if spec.split == "train" for scene in spec.scenes}
    test = {scene for spec in sets if spec.split == "test" for scene in spec.scenes}
    if train & test:
        raise UserError(f"scenes in both splits: {', '.join(sorted(train & test))}")


def _check_set(spec: SetSpec, by_scene: dict[str, list[Photograph]]) -> None:
    missing = [scene for scene in spec.scenes if scene not in by_scene]
    if missing:
        raise UserError(f"set {spec.name}: no photograph of {', '.join(missing)}")
    if len(spec.scenes) < 1 + ("splicing" in spec.manipulations):
        raise UserError(f"set {spec.name}: too few scenes ({len(spec.scenes)}); splicing needs two")
    if min(min(size) for size in spec.sizes) < _SMALLEST_SIDE:
        raise UserError(f"set {spec.name}: images need at least {_SMALLEST_SIDE} pixels a side")
    width, height = spec.smallest_photograph
    for scene in spec.scenes:
        for photograph in by_scene[scene]:
            if photograph.width < width or photograph.height < height:
                raise UserError(
                    f"set {spec.name}: {photograph.name} is {photograph.width} x "
                    f"{photograph.height}, its sizes need {width} x {height}"
                )


def _arguments(
    photographs: Sequence[Photograph], sets: Sequence[SetSpec], seed: int
) -> dict[str, Any]:
    used = {scene: spec.split for spec in sets for scene in spec.scenes}
    listed = {
        photograph.name: {
            "scene": photograph.scene,
            "split": used[photograph.scene],
            "sha256": photograph.sha256,
            "source": photograph.source,
            "licence": photograph.licence,
        }
        for photograph in sorted(photographs, key=lambda one: one.name)
        if photograph.scene in used
    }
    arguments: dict[str, Any] = {
        "generator": GENERATOR,
        "seed": seed,
        "edge_rule": edits.EDGE_RULE,
        "sets": [asdict(spec) for spec in sets],
        "photographs": listed,
    }
    text = json.dumps(arguments, sort_keys=True)
    return {
        "schema": SCHEMA_VERSION,
        "kind": INDEX_KIND,
        "fingerprint": hashlib.sha256(text.encode()).hexdigest(),
        "versions": {name: version(name) for name in _LIBRARIES},
        **arguments,
    }


def _existing(out: Path, fingerprint: str, *, force: bool) -> CorpusSummary | None:
    """Look at what is in the place of the corpus.

    Returns:
        The corpus if it is the same one, None if the place is free or may be taken.

    Raises:
        UserError: If it may not.
    """
    if not out.exists():
        return None
    if not out.is_dir():
        raise UserError(f"{out}: is a file; choose another folder for the corpus")
    if not any(out.iterdir()):
        return None
    try:
        index = parse_json((out / "corpus.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        index = {}
    if not isinstance(index, dict) or index.get("kind") != INDEX_KIND:
        # Never deleted, not even under --force: nobody knows what it is.
        raise UserError(f"{out}: not empty and not a corpus; choose another folder")
    if force:
        return None if index.get("fingerprint") != fingerprint else _whole(out, force=True)
    if index.get("fingerprint") != fingerprint:
        raise UserError(
            f"{out}: holds a corpus made with other arguments or photographs; "
            "choose another folder, or --force to replace it"
        )
    return _whole(out, force=False)


def _whole(out: Path, *, force: bool) -> CorpusSummary | None:
    """Return the summary of a corpus if none of its files is missing or damaged."""
    try:
        missing = [
            name
            for manifest in out.glob("*/manifest.json")
            for name in parse_json(manifest.read_text(encoding="utf-8"))["images"]
            if not (manifest.parent / name).is_file()
        ]
        if not missing:
            return _summary(out, reused=True, seconds=0.0)
        what = f"{len(missing)} of its images are missing"
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        what = f"what it says of its sets cannot be read ({type(error).__name__}: {error})"
    if force:
        return None
    raise UserError(f"{out}: {what}; --force makes it again")


def _summary(out: Path, *, reused: bool, seconds: float) -> CorpusSummary:
    index = parse_json((out / "corpus.json").read_text(encoding="utf-8"))
    sets = {}
    for spec in index["sets"]:
        folder = out / spec["name"]
        images = parse_json((folder / "manifest.json").read_text(encoding="utf-8"))["images"]
        areas = [image["mask_area"] for image in images.values() if image["manipulation"]]
        sets[spec["name"]] = SetSummary(
            split=spec["split"],
            path=folder / "list.json",
            tampered=len(areas),
            authentic=len(images) - len(areas),
            mean_area=float(np.mean(areas)) if areas else 0.0,
            scenes=len(spec["scenes"]),
        )
    return CorpusSummary(out, sets, reused, seconds)


@contextmanager
def _built_beside(out: Path) -> Iterator[Path]:
    """Give a folder beside `out` that takes its place when all went well."""
    partial = out.parent / f".{out.name}.partial-{os.getpid()}"
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        yield partial
        if out.exists():
            old = out.parent / f".{out.name}.old-{os.getpid()}"
            out.rename(old)
            partial.rename(out)
            shutil.rmtree(old)
        else:
            partial.rename(out)
    except OSError as error:
        raise UserError(f"{out}: cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write_sets(maker: Maker, root: Path, workers: int, progress: Progress | None) -> None:
    """Write every image of every set, then each set's list and manifest."""
    jobs = []
    for spec in maker.sets.values():
        for folder in ("Tp", "Gt", "Au"):
            (root / spec.name / folder).mkdir(parents=True)
        jobs += [Job(spec.name, True, index) for index in range(spec.count)]
        jobs += [Job(spec.name, False, index) for index in range(spec.authentic)]
    images: dict[str, dict[str, Any]] = {name: {} for name in maker.sets}
    done = 0
    if progress:
        progress(done, len(jobs))
    for records in _in_order(_Writer(maker, root), jobs, workers):
        for job, name, record in records:
            images[job.set_name][name] = record
        done += len(records)
        if progress:
            progress(done, len(jobs))
    for spec in maker.sets.values():
        _write_set_lists(root / spec.name, spec, maker.seed, images[spec.name])


def _write_set_lists(
    folder: Path, spec: SetSpec, seed: int, images: dict[str, dict[str, Any]]
) -> None:
    pairs = [[name, record.get("mask", "Negative")] for name, record in images.items()]
    _write_json(folder / "list.json", pairs)
    manifest = {
        "schema": SCHEMA_VERSION,
        "kind": KIND,
        "name": spec.name,
        "split": spec.split,
        "seed": seed,
        "edge_rule": edits.EDGE_RULE,
        "images": {},
    }
    # One line an image: it can be searched with grep, and is a fifth of the indented size.
    lines = (f"{json.dumps(name)}: {json.dumps(record)}" for name, record in images.items())
    text = json.dumps(manifest, indent=1).replace(
        '"images": {}', '"images": {\n' + ",\n".join(lines) + "\n}"
    )
    (folder / "manifest.json").write_text(text + "\n", encoding="utf-8")


_Record = tuple[Job, str, dict[str, Any]]


class _Writer:
    """Makes images and writes them; a copy of it goes to each process."""

    def __init__(self, maker: Maker, root: Path) -> None:
        self._maker = maker
        self._root = root

    def write(self, jobs: Sequence[Job]) -> list[_Record]:
        """Write the images of some jobs; return each with its name and its manifest entry."""
        return [self._write_one(job) for job in jobs]

    def _write_one(self, job: Job) -> _Record:
        sample = self._maker.sample(job)
        folder = self._root / job.set_name
        suffix = "png" if sample.jpeg is None else "jpg"
        name = f"{'Tp' if job.tampered else 'Au'}/{job.index:06d}.{suffix}"
        record = sample.record
        (folder / name).write_bytes(edits.encode(sample.image, sample.jpeg))
        if sample.mask is not None:
            mask = f"Gt/{job.index:06d}.png"
            (folder / mask).write_bytes(edits.encode(sample.mask, None))
            record = {"mask": mask, **record}
        return job, name, record


def _in_order(writer: _Writer, jobs: Sequence[Job], workers: int) -> Iterator[list[_Record]]:
    """Run the jobs in chunks, in this process or in several, and yield the results in order."""
    chunks = [jobs[start : start + _CHUNK] for start in range(0, len(jobs), _CHUNK)]
    workers = min(workers, len(chunks))
    if workers <= 1:
        with _single_threaded_opencv():
            yield from map(writer.write, chunks)
        return
    # Spawned, not forked: the caller may have threads (torch has); a fork would copy their locks.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=_start_process, initargs=(writer,))
    try:
        yield from pool.map(_write_in_process, chunks)
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _single_threaded_opencv() -> Iterator[None]:
    """Keep OpenCV to one thread: for pictures this small its threads mostly wait for each other."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)


_process_writer: list[_Writer] = []


def _start_process(writer: _Writer) -> None:
    cv2.setNumThreads(1)  # there is a process for each core already
    _process_writer.append(writer)


def _write_in_process(jobs: Sequence[Job]) -> list[_Record]:
    return _process_writer[0].write(jobs)


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
