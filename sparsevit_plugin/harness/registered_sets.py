"""Sets by name: where a registered set is on this machine, and its images.

A set with a card is expected below the data root in the card's folder, as `benco data import`
leaves it; a copy made for IMDLBenCo (`Tp/`, `Gt/`) works too. The file `paths.yaml` in the data
root, or the one that `--data-paths` names, says where sets are that stand elsewhere:

    CASIAv2: /nas/forensics/CASIA2.0
    NIST16: lists/nist16.json
    MySet: /home/me/myset

The demo's sets are made where they are not there yet.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from filelock import FileLock

from sparsevit_plugin.cards import DatasetCard, dataset_card_names, load_dataset_card
from sparsevit_plugin.cards.datasets import Authentic
from sparsevit_plugin.cards.reading import read_yaml
from sparsevit_plugin.errors import UserError, suggest
from sparsevit_plugin.harness.sources import (
    IMAGE_EXTENSIONS,
    ImageSet,
    Pair,
    Sample,
    each_once,
    read_source,
    thin_out,
)

PATHS_FILE = "paths.yaml"
LIST_FILE = "list.json"
DEMO_ROOT = "runs"
"""The data root of the demo's sets where none is given, or nothing can be written to it."""

_SAMPLES_NAMED = 8


@dataclass(frozen=True)
class DataRoots:
    """Where sets are on this machine.

    Attributes:
        root: The data root; empty where none is given.
        paths_file: YAML file of set name to path; `paths.yaml` in the root where it is empty.
    """

    root: str = ""
    paths_file: str = ""

    def locate(self, name: str) -> Path:
        """Return the folder or JSON file of a set; a demo set is made if it is not there.

        Args:
            name: A card's name, or one that the paths file gives.

        Raises:
            UserError: The set is unknown or not there; says what is expected where.
        """
        paths = self._paths()
        if name in paths:
            return self._written_path(name, paths[name])
        card = load_dataset_card(name)
        if card is None:
            known = {*dataset_card_names(), *paths}
            raise UserError(
                f'unknown set "{name}".{suggest(name, known)} "benco data list" lists the cards; '
                f"a set without one is given by its path in {PATHS_FILE}"
            )
        if card.made_by == "demo":
            return self._demo_set(card)
        return self._below_root(card)

    def present(self, name: str) -> bool | None:
        """Tell whether a set is there, without making one; None where nothing says where to look.

        Raises:
            UserError: The paths file cannot be used.
        """
        paths = self._paths()
        if name in paths:
            return self._absolute(paths[name]).exists()
        card = load_dataset_card(name)
        if card is None or not self.root:
            return None
        return (Path(self.root) / card.place).exists()

    def _paths_file(self) -> Path | None:
        """Return the paths file, None where there is none."""
        if self.paths_file:
            return Path(self.paths_file)
        file = Path(self.root) / PATHS_FILE
        return file if self.root and file.is_file() else None

    def _paths(self) -> dict[str, str]:
        file = self._paths_file()
        if file is None:
            return {}
        if file.is_file() and not file.read_bytes().strip():
            return {}
        content, _ = read_yaml(file, "a paths file")
        for name, path in content.items():
            if not (isinstance(name, str) and isinstance(path, str) and path):
                raise UserError(f'{file}: {name}: expected "NAME: path", found {path!r}')
        return content

    def _absolute(self, text: str) -> Path:
        """Resolve a path of the paths file: relative ones are relative to the file."""
        file = self._paths_file()
        folder = file.parent if file else Path()
        return folder / Path(text).expanduser()

    def _written_path(self, name: str, text: str) -> Path:
        path = self._absolute(text)
        if not path.exists():
            raise UserError(f"set {name}: {self._paths_file()} says {path}, which does not exist")
        return path

    def _below_root(self, card: DatasetCard) -> Path:
        if not self.root:
            raise UserError(
                f"set {card.name}: no --data-root is given; name the folder that holds "
                f"{card.place}/ and the other sets"
            )
        root = Path(self.root)
        if not root.is_dir():
            raise UserError(f"--data-root {root}: no such folder (the set {card.name} is wanted)")
        folder = root / card.place
        if not folder.exists() and card.made_by:
            raise UserError(f"set {card.name}: {folder} does not exist. Make it: {card.made_by}")
        if not folder.exists():
            raise UserError(
                f"set {card.name}: {folder} does not exist. Get the set ({card.where}) and run: "
                f"benco data import {card.name} SRC --data-root {root} (or give its path in "
                f"{root / PATHS_FILE})"
            )
        return folder

    def _demo_set(self, card: DatasetCard) -> Path:
        """Return the folder of a demo set: `<root>/<corpus>/<set>`, made if it is not there."""
        place = Path(card.place)
        if self.root and (Path(self.root) / place / LIST_FILE).is_file():
            return Path(self.root) / place
        root = Path(self.root or DEMO_ROOT)
        if not _can_be_written(root):
            root = Path(DEMO_ROOT)
        _make_demo_once(Path(os.path.abspath(root / place.parent)))  # noqa: PTH100 (links stay)
        return root / place


def read_registered(
    name: str,
    roots: DataRoots,
    *,
    authentic: Authentic = "include",
    pair: Pair = "name",
    limit: int | None = None,
) -> ImageSet:
    """Read the images of a set.

    Args:
        name: A card's name, or one that the paths file gives.
        roots: Where sets are.
        authentic: Whether images without a mask are used: `include`, `exclude`, or `only` those.
        pair: How masks are paired with images, as `sources.read_source` takes it.
        limit: The most images to use, evenly spread, of both labels where there are both.

    Returns:
        The set, named `name`.

    Raises:
        UserError: The set is unknown, not there, unreadable, or has no usable image.
    """
    path = roots.locate(name)
    found = replace(_read(path, name, pair, authentic), name=name)
    chosen = tuple(sample for sample in found.samples if _is_wanted(sample, authentic))
    if not chosen:
        labels = {"include": "", "exclude": "tampered ", "only": "authentic "}
        raise UserError(
            f"set {name}: 0 usable images: {path} has no {labels[authentic]}image"
            + (f" among its {len(found)}" if len(found) else "")
        )
    chosen_set = replace(found, samples=chosen)
    if limit is None:
        return chosen_set
    thinned = thin_out(chosen_set, limit)
    return thinned if isinstance(thinned, ImageSet) else each_once(thinned)


def _is_wanted(sample: Sample, authentic: Authentic) -> bool:
    if authentic == "include":
        return True
    return (sample.mask is None) == (authentic == "only")


def _read(path: Path, name: str, pair: Pair, authentic: Authentic) -> ImageSet:
    """Read a folder with a list, a plain folder, or a JSON file that holds one set."""
    if path.is_dir() and (path / LIST_FILE).is_file():
        path = path / LIST_FILE
    elif path.is_dir() and (path / "Au").is_dir() and authentic != "exclude":
        return _with_authentic_folder(path, name, pair)
    sources = read_source(path, pair=pair, name=name)
    if len(sources) != 1:
        raise UserError(f"set {name}: {path} names {len(sources)} sets, expected one")
    return each_once(next(iter(sources.values())))


def _with_authentic_folder(folder: Path, name: str, pair: Pair) -> ImageSet:
    """Read a plain folder with its `Au/`, which `read_source` leaves out as IMDLBenCo does."""
    (source,) = read_source(folder, pair=pair, name=name).values()
    tampered = each_once(source)
    files = _image_files(folder / "Au")
    samples = tuple(Sample(file, None, f"Au/{file.name}") for file in files)
    notes = tuple(note for note in tampered.notes if not note.startswith(f"{folder / 'Au'} "))
    return replace(tampered, samples=(*tampered.samples, *samples), notes=notes)


def _image_files(folder: Path) -> Sequence[Path]:
    return sorted(
        file
        for file in folder.iterdir()
        if file.suffix.lower() in IMAGE_EXTENSIONS and not file.name.startswith(".")
    )


def _can_be_written(folder: Path) -> bool:
    """Tell whether a folder can be written or created."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK)


@cache
def _make_demo_once(corpus: Path) -> None:
    """Make the demo's corpus, or see that it is there; once a process, and one process at a time.

    Raises:
        UserError: It cannot be written, or something else is in its place.
    """
    from sparsevit_plugin.harness.corpus import make_demo
    from sparsevit_plugin.harness.progress import Progress

    corpus.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(corpus.with_name(f".{corpus.name}.lock")):
        bars: list[Progress] = []

        def show(done: int, total: int) -> None:
            if not bars:
                bars.append(Progress(total, "demo images"))
                bars[0].__enter__()
            bars[0].advance(done - bars[0].done)

        try:
            make_demo(corpus, progress=show)
        finally:
            for bar in bars:
                bar.__exit__(None, None, None)
