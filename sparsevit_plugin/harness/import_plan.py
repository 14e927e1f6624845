"""What is what in a distributed set: a card's import rules applied to the files of a folder.

Only names are looked at here, and the tables that rules name; no image is opened.
"""

import bisect
import csv
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal

from sparsevit_plugin.cards.datasets import (
    DatasetCard,
    ImportRules,
    MaskRule,
    Rule,
    Table,
    compile_pattern,
    template_fields,
)
from sparsevit_plugin.errors import UserError
from sparsevit_plugin.harness.sources import IMAGE_EXTENSIONS

SYSTEM_FILES = "hidden and system files"
_SYSTEM_NAMES = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx"})
_ANY_FOLDER = "**/"
_DEEPEST_HINT = 4
_SHOWN = 3


@dataclass(frozen=True)
class Item:
    """An image of the set.

    Attributes:
        image: Its path below the imported folder, as all paths here.
        label: `tampered` or `authentic`.
        masks: Its mask files; empty for an authentic image.
        mask_rule: How they are read.
        photos: Names of its source photographs, the base first; empty where unknown.
    """

    image: str
    label: Literal["tampered", "authentic"]
    masks: tuple[str, ...] = ()
    mask_rule: MaskRule = "default"
    photos: tuple[str, ...] = ()


@dataclass
class Plan:
    """What each file of a folder is.

    Attributes:
        items: The images of the set, sorted by path.
        clutter: Files that are known not to belong to the set, by what they are.
        others: Files that are no images.
        unmatched: Image files that no rule knows.
        without_mask: Tampered images whose mask is not there.
        several_masks: Tampered images for which several files could be the mask.
        without_image: Masks that belong to no image.
    """

    items: list[Item] = field(default_factory=list)
    clutter: dict[str, list[str]] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)
    unmatched: list[str] = field(default_factory=list)
    without_mask: list[str] = field(default_factory=list)
    several_masks: list[str] = field(default_factory=list)
    without_image: list[str] = field(default_factory=list)


def plan_import(card: DatasetCard, folder: Path) -> Plan:
    """Apply a card's rules to the files of a folder.

    Args:
        card: The set's card.
        folder: The set as it is distributed, unpacked.

    Returns:
        What each file is.

    Raises:
        UserError: The card has no import rules, the folder is not there or holds no image of the
            set (the line names the folder that was probably meant), or a table cannot be used.
    """
    rules = card.importing
    if rules is None:
        raise UserError(f"set {card.name}: its card has no import rules. {card.notes}".rstrip())
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder (the distribution of {card.name}, unpacked)")
    paths = sorted(walk(folder))
    plan = _Planner(rules, folder, paths).plan()
    if not plan.items and not plan.without_mask and not plan.several_masks:
        raise UserError(_nothing_found(card.name, rules, folder, paths))
    return plan


def walk(folder: Path) -> Iterator[str]:
    """Yield the posix paths of all files below a folder; links to folders are followed.

    Raises:
        UserError: A folder cannot be listed, or a file's name is not valid UTF-8.
    """
    seen: set[tuple[int, int]] = set()

    def stop(error: OSError) -> None:
        raise UserError(f"{error.filename}: cannot be listed ({error.strerror})")

    for place, folders, files in os.walk(folder, followlinks=True, onerror=stop):
        status = os.stat(place)  # noqa: PTH116 (os.walk's strings; a set may have a million files)
        if (status.st_dev, status.st_ino) in seen:  # a link that leads back up
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        start = os.path.relpath(place, folder).replace(os.sep, "/")
        for name in files:
            path = name if start == "." else f"{start}/{name}"
            if not path.isprintable() and any("\ud800" <= letter <= "\udfff" for letter in path):
                raise UserError(f"{place}: the file name {name!a} is not valid UTF-8; rename it")
            yield path


class _Planner:
    """Sorts the files of one folder."""

    def __init__(self, rules: ImportRules, folder: Path, paths: list[str]) -> None:
        self._index = _Index(paths)
        self._paths = paths
        self._rules = [_CompiledRule(rule, folder, self._index) for rule in rules.rules]
        self._masks = [compile_pattern(text) for text in rules.mask_files]
        self._clutter = [(compile_pattern(one.files), one.what) for one in rules.clutter]
        self._plan = Plan()
        self._mask_files: list[str] = []

    def plan(self) -> Plan:
        """Say what each file is."""
        for path in self._paths:
            self._sort(path)
        plan = self._plan
        used = {mask for item in plan.items for mask in item.masks}
        plan.unmatched = [path for path in plan.unmatched if path not in used]
        plan.clutter = {
            what: kept
            for what, files in plan.clutter.items()
            if (kept := [path for path in files if path not in used])
        }
        for path in self._mask_files:
            if path not in used and not self._is_clutter(path):
                plan.without_image.append(path)
        return plan

    def _sort(self, path: str) -> None:
        if _is_system_file(path):
            self._plan.clutter.setdefault(SYSTEM_FILES, []).append(path)
            return
        if any(pattern.fullmatch(path) for pattern in self._masks):
            self._mask_files.append(path)
            return
        for rule in self._rules:
            groups = rule.match(path)
            if groups is not None:
                self._add(path, rule, groups)
                return
        if self._is_clutter(path):
            return
        is_image = PurePosixPath(path).suffix.lower() in IMAGE_EXTENSIONS
        (self._plan.unmatched if is_image else self._plan.others).append(path)

    def _is_clutter(self, path: str) -> bool:
        """Count a file as clutter if it is."""
        for pattern, what in self._clutter:
            if pattern.fullmatch(path):
                self._plan.clutter.setdefault(what, []).append(path)
                return True
        return False

    def _add(self, path: str, compiled: "_CompiledRule", groups: Mapping[str, str]) -> None:
        rule = compiled.rule
        masks = next(filter(None, (self._index.find(one, groups) for one in rule.masks)), [])
        if rule.label == "tampered" and not masks:
            if not self._is_clutter(path):
                self._plan.without_mask.append(path)
        elif len(masks) > 1 and rule.several == "refuse":
            self._plan.several_masks.append(path)
        else:
            photos = (_filled_photo(template, groups) for template in rule.photos)
            self._plan.items.append(
                Item(
                    path,
                    rule.label,
                    tuple(masks),
                    rule.mask_rule,
                    tuple(dict.fromkeys(filter(None, photos))),
                )
            )


def _is_system_file(path: str) -> bool:
    return any(part.startswith(".") or part.lower() in _SYSTEM_NAMES for part in path.split("/"))


def _filled_photo(template: str, groups: Mapping[str, str]) -> str:
    """Fill a template; empty where one of its groups is, so that no photograph is made up."""
    if not all(groups[name] for name in template_fields(template)):
        return ""
    return template.format_map(groups)


class _CompiledRule:
    """A rule, its pattern and its table."""

    def __init__(self, rule: Rule, folder: Path, index: "_Index") -> None:
        self.rule = rule
        self._pattern = compile_pattern(rule.image)
        self._rows: dict[str, dict[str, str]] | None = None
        if rule.table is not None:
            # A folder that lacks the table may be the wrong one: then no image matches either.
            files = index.find(rule.table.file, {})
            self._rows = _read_table(folder / files[0], rule) if files else {}

    def match(self, path: str) -> Mapping[str, str] | None:
        """Return the groups of an image's path, with its row's columns; None for no match."""
        match = self._pattern.fullmatch(path)
        if match is None:
            return None
        groups = {name: value or "" for name, value in match.groupdict().items()}
        if self._rows is None or self.rule.table is None:
            return groups
        value = self.rule.table.value
        row = self._rows.get((value.format_map(groups) if value else path).casefold())
        return None if row is None else {**row, **groups}


def _read_table(file: Path, rule: Rule) -> dict[str, dict[str, str]]:
    """Return the rows that the rule is for by the image they name, the first row of each."""
    table = rule.table
    assert table is not None  # noqa: S101 (for the type checker; the caller asks)
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines, delimiter=table.separator)
            columns = reader.fieldnames or []
            _check_columns(file, rule, table, columns)
            rows: dict[str, dict[str, str]] = {}
            for row in reader:
                if all(row[name] == value for name, value in table.where.items()):
                    kept = {name: value or "" for name, value in row.items() if name}
                    rows.setdefault((row[table.column] or "").casefold(), kept)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{file}: cannot be read as a table: {error}") from error
    return rows


def _check_columns(file: Path, rule: Rule, table: Table, columns: Iterable[str]) -> None:
    groups = compile_pattern(rule.image).groupindex
    used = {name for text in (*rule.masks, *rule.photos) for name in template_fields(text)}
    for name in (table.column, *table.where, *sorted(used - set(groups))):
        if name not in columns:
            raise UserError(f'{file}: has no column "{name}"; it has {", ".join(columns)}')


class _Index:
    """Finds files by templates, at once even among a million."""

    def __init__(self, paths: list[str]) -> None:
        self._exact = frozenset(paths)
        self._folded: dict[str, list[str]] = defaultdict(list)
        self._names: dict[str, list[str]] = defaultdict(list)
        self._folders: dict[str, list[tuple[str, str]]] = defaultdict(list)
        for path in paths:
            folded = path.casefold()
            folder, _, name = folded.rpartition("/")
            self._folded[folded].append(path)
            self._names[name].append(path)
            self._folders[folder].append((name, path))
        for entries in self._folders.values():
            entries.sort()

    def find(self, template: str, groups: Mapping[str, str]) -> list[str]:
        """Return the files that a filled template names.

        The exact spelling comes first; else upper and lower case count alike.
        """
        if template.startswith(_ANY_FOLDER):
            wanted = template.removeprefix(_ANY_FOLDER).format_map(groups).casefold()
            found = self._names.get(wanted.rpartition("/")[2], [])
            return [path for path in found if f"/{path.casefold()}".endswith(f"/{wanted}")]
        # Filled piece by piece: a `*` in a group's value stands for itself.
        pieces = [piece.format_map(groups) for piece in template.split("*")]
        if len(pieces) > 1:
            return self._matching([piece.casefold() for piece in pieces])
        if pieces[0] in self._exact:
            return pieces
        return self._folded.get(pieces[0].casefold(), [])

    def _matching(self, pieces: list[str]) -> list[str]:
        folder, _, pieces[0] = pieces[0].rpartition("/")
        entries = self._folders.get(folder, [])
        pattern = re.compile("[^/]*".join(re.escape(piece) for piece in pieces))
        found = []
        for name, path in entries[bisect.bisect_left(entries, (pieces[0], "")) :]:
            if not name.startswith(pieces[0]):
                break
            if pattern.fullmatch(name):
                found.append(path)
        return found


# --- the wrong folder -----------------------------------------------------------------------------


def _nothing_found(name: str, rules: ImportRules, folder: Path, paths: list[str]) -> str:
    """Say what was expected, what is there, and which folder was probably meant."""
    patterns = [compile_pattern(rule.image) for rule in rules.rules]

    def is_image(path: str) -> bool:
        return any(pattern.fullmatch(path) for pattern in patterns)

    meant = _folder_below(folder, paths, is_image) or _folder_above(folder, paths, is_image)
    hint = f" Perhaps {meant} was meant." if meant else ""
    top = sorted({path.split("/")[0] + ("/" if "/" in path else "") for path in paths})
    found = ", ".join(top[:_SHOWN]) + (", ..." if len(top) > _SHOWN else "")
    return (
        f"{folder}: no image of {name} is where its card expects one (such as "
        f"{', '.join(rules.example)}); found {found or 'nothing'}.{hint}"
    )


def _folder_below(folder: Path, paths: list[str], is_image: Callable[[str], bool]) -> Path | None:
    """Return the folder below whose files would match, the one with the most of them."""
    for depth in range(1, _DEEPEST_HINT + 1):
        votes: Counter[str] = Counter()
        for path in paths:
            parts = path.split("/")
            if len(parts) > depth and is_image("/".join(parts[depth:])):
                votes["/".join(parts[:depth])] += 1
        if votes:
            return folder / votes.most_common(1)[0][0]
    return None


def _folder_above(folder: Path, paths: list[str], is_image: Callable[[str], bool]) -> Path | None:
    """Return the folder above from which the files would match."""
    absolute = folder.resolve()
    for depth in range(1, min(_DEEPEST_HINT, len(absolute.parts) - 1) + 1):
        prefix = "/".join(absolute.parts[-depth:])
        if any(is_image(f"{prefix}/{path}") for path in paths):
            return absolute.parents[depth - 1]
    return None
