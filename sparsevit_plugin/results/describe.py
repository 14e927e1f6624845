"""The words of a table: row labels, caption, footnotes. No number stands without its terms."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from sparsevit_plugin.errors import UserError, suggest
from sparsevit_plugin.results.aggregate import Conventions, threshold_of
from sparsevit_plugin.results.conventions import (
    EVALUATOR_NAMES,
    EXTERNAL,
    METRICS,
    SCORED_AT,
    UNPERTURBED,
)
from sparsevit_plugin.results.images import Departure
from sparsevit_plugin.results.layout import BETTER, SAME, WORSE
from sparsevit_plugin.results.paired import MIXED, Paired
from sparsevit_plugin.results.published import Published
from sparsevit_plugin.results.rows import TableRow, computed_by
from sparsevit_plugin.results.seeds import AVERAGE, Figures
from sparsevit_plugin.results.store import Cell, Results
from sparsevit_plugin.results.terms import RowFacts

if TYPE_CHECKING:
    from sparsevit_plugin.results.tables import Table

_SHORT = 8
_EXTERNAL_NOTE = (
    "external maps: made elsewhere, only scored here; how the method was trained, chosen and run "
    "is not known here"
)
_FEW = 2
_HASH_DIGITS = 16
_FEW_LEFT_OUT = 0.01  # of all updates
_NO_CHOICE = "none"
_LIBRARIES = ("IMDLBenCo", "torch")

_AUTHENTIC = {
    "tampered": "authentic images are left out",
    "zero": "an authentic image counts 0",
    "one": "an authentic image counts 1 when nothing in it is predicted, else 0",
}
_MOST_NAMED = 4
_EVALUATOR = {
    "exact": "exact evaluators (an undefined figure is left out)",
    "benco": "IMDLBenCo's evaluators",
}


class _Identity(NamedTuple):
    """What tells the rows of a table apart."""

    manifest_id: str
    model: str
    checkpoint: str


def row_labels(results: Results, rows: pd.DataFrame) -> dict[str, str]:
    """Name every manifest that has rows: the model, and what tells it from others of that name.

    Args:
        results: For the manifests.
        rows: Selected rows.

    Returns:
        manifest_id to label, the oldest manifest first.
    """
    present = rows[list(_Identity._fields)].drop_duplicates().astype(str)
    manifests = results.manifests
    order = sorted(
        (_Identity(*map(str, row)) for row in present.to_numpy()),
        key=lambda row: (str(manifests.get(row.manifest_id, {}).get("created", "")), row.model),
    )
    labels: dict[str, str] = {}
    for row in order:
        names = {other: _named(other, manifests) for other in order}
        same_name = [other for other in order if names[other] == names[row]]
        same_file = [other for other in same_name if other.checkpoint == row.checkpoint]
        label = names[row]
        if len(same_file) < len(same_name) and row.checkpoint not in ("", "nan", "None"):
            label += f" {row.checkpoint[:_SHORT]}"
        if len(same_file) > 1:
            label += f" ({row.manifest_id[:_SHORT]})"
        labels[row.manifest_id] = label
    return labels


def _named(row: _Identity, manifests: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the model's name with what computed its maps, where that is not PyTorch."""
    computed = computed_by(manifests.get(row.manifest_id, {}))
    return f"{row.model} ({computed})" if computed else row.model


def choose_models(
    labels: Mapping[str, str], rows: pd.DataFrame, wanted: Sequence[str] | None
) -> dict[str, str]:
    """Return the chosen manifests with their labels, in the wanted order.

    Args:
        labels: Of all manifests, by id.
        rows: Selected rows.
        wanted: Model names (all of its checkpoints), labels or manifest ids; None for all.

    Raises:
        UserError: A wanted model has no rows.
    """
    if wanted is None:
        return dict(labels)
    pairs = rows[["manifest_id", "model"]].drop_duplicates().astype(str)
    model_of = dict(zip(pairs["manifest_id"], pairs["model"], strict=True))
    chosen: dict[str, str] = {}
    for name in wanted:
        found = {k: v for k, v in labels.items() if name in (k, v, model_of[k])}
        if not found:
            known = sorted({*labels.values(), *model_of.values()})
            hint = suggest(name, known)
            raise UserError(f'no rows of model "{name}", only of {", ".join(known)}.{hint}')
        chosen |= found
    return chosen


def refuse_conflicts(cells: Sequence[Cell]) -> None:
    """Refuse two different files for one cell: which is right cannot be known here.

    Raises:
        UserError: Naming both files.
    """
    seen: dict[tuple[str, str, str], Cell] = {}
    for cell in cells:
        other = seen.setdefault(cell.key, cell)
        if other is not cell:
            raise UserError(
                f"{other.path} and {cell.path} hold different rows of one run on one set: give "
                "only one of their folders"
            )


def refuse_mixed(apart: Mapping[str, Sequence[str]], departed: Sequence[Departure]) -> None:
    """Refuse rows that are no comparison.

    Args:
        apart: Row label to the terms in which the row differs from the table.
        departed: Cells about other images than their column.

    Raises:
        UserError: Naming the rows and what differs.
    """
    texts = [f"{label} ({', '.join(words)})" for label, words in apart.items()]
    texts += [
        f"{one.label} ({one.text})" for one in departed if not (one.is_comparable or one.is_skipped)
    ]
    if texts:
        shown = "; ".join(texts[:_MOST_NAMED])
        more = f"; and {len(texts) - _MOST_NAMED} more" if len(texts) > _MOST_NAMED else ""
        raise UserError(
            f"rows of different terms make no table: {shown}{more}, unlike the rest. Choose with "
            "--rows or --sets, or give --allow-mixed, which marks their cells"
        )


def unlike_the_rest(apart: Mapping[str, Sequence[str]]) -> list[str]:
    """Say of each row that `refuse_mixed` would refuse in which terms it differs."""
    return [f"{label}: {', '.join(words)}, unlike the rest." for label, words in apart.items()]


def left_out(
    others: Mapping[tuple[str, str], pd.DataFrame],
    sets: Sequence[str],
    wanted: Sequence[str] | None,
) -> list[str]:
    """Say which models have rows of other evaluators, or of another size of scoring, only.

    Args:
        others: From `aggregate.rows_of_other_terms`.
        sets: The table's columns.
        wanted: The rows that were asked for; None for all.
    """
    found = []
    for (evaluator, score_at), rows in others.items():
        models = sorted({str(name) for name in rows["model"][rows["dataset"].isin(sets)].unique()})
        models = [name for name in models if wanted is None or name in wanted]
        if models:
            found.append(
                f"Left out: {', '.join(models)}, whose rows are of {EVALUATOR_NAMES[evaluator]}, "
                f"{SCORED_AT[score_at]}."
            )
    return found


def caption(
    conventions: Sequence[Conventions],
    rows: pd.DataFrame,
    cells: Sequence[Cell],
    labels: Mapping[str, str],
) -> str:
    """State every convention behind a table's numbers.

    Args:
        conventions: One for each metric; they differ in nothing else.
        rows: Selected rows.
        cells: The cells that they are from.
        labels: Manifest id to row label.
    """
    sentences = [
        measured(conventions, rows),
        *_perturbation(conventions[0]),
        *_selection(cells, labels),
        *_versions(cells),
    ]
    return " ".join(sentences)


def measured(conventions: Sequence[Conventions], rows: pd.DataFrame) -> str:
    """Say in a sentence what the figures are and where they were scored.

    Args:
        conventions: One for each metric; they differ in nothing else.
        rows: Selected rows.
    """
    shared = conventions[0]
    return (
        f"{_figures(conventions, rows)}; {SCORED_AT[shared.score_at]}; "
        f"{_EVALUATOR[shared.evaluator]}."
    )


def _perturbation(conventions: Conventions) -> list[str]:
    if conventions.perturbation == UNPERTURBED:
        return []
    return [f"Photographs perturbed before the test: {conventions.perturbation}."]


def _figures(conventions: Sequence[Conventions], rows: pd.DataFrame) -> str:
    """Say what the figures are; those that are taken alike share the words of how."""
    by_how: dict[str, list[str]] = {}
    for one in conventions:
        by_how.setdefault(_how(one, rows), []).append(_what(one, rows))
    sentences = (f"{' and '.join(names)}{how}" for how, names in by_how.items())
    return ". ".join(f"{words[0].upper()}{words[1:]}" for words in sentences)


def _what(conventions: Conventions, rows: pd.DataFrame) -> str:
    figure = conventions.figure
    threshold = threshold_of(rows) if figure.at_threshold else None
    return figure.title if threshold is None else f"{figure.title} at threshold > {threshold:g}"


def _how(conventions: Conventions, rows: pd.DataFrame) -> str:
    figure = conventions.figure
    if figure.kind == "image":
        return f", over all images; score {_pooling(rows)}"
    if figure.kind == "area":
        return ": mean over authentic images, lower is better"
    if figure.kind == "pooled":
        whose = "tampered" if conventions.authentic == "tampered" else "all"
        return f" over the pixels of {whose} images together"
    if conventions.authentic == "tampered":
        return f": mean over tampered images, each once; {_AUTHENTIC['tampered']}"
    rule = _AUTHENTIC[conventions.authentic]
    if figure.column == "accuracy":
        rule = "authentic images included"
    return f": mean over all images, each once; {rule}"


def _pooling(rows: pd.DataFrame) -> str:
    words = {
        "model": "given by the model",
        "max": "the largest value of the map",
        "topk": "from the mean of the map's highest 1 % of logits",
        "gem": "the generalised mean of the map",
        "linear": "given by a learned layer over the map",
        "mean": "the mean of the map",
        "top1": "the mean of the map's highest 1 % of values",
    }
    names = sorted(str(name) for name in rows["pooling"].dropna().unique())
    return " or ".join(words.get(name, name) for name in names) or "of unknown origin"


def _selection(cells: Sequence[Cell], labels: Mapping[str, str]) -> list[str]:
    """Say how each row's checkpoint was chosen; of many rows, the usual way and the exceptions."""
    how = dict.fromkeys(labels.values(), _NO_CHOICE)
    how |= {
        labels[cell.manifest_id]: str(cell.manifest["selection"])
        for cell in cells
        if "selection" in cell.manifest
    }
    if set(how.values()) <= {_NO_CHOICE}:
        return []
    per = "row" if len(how) == len(labels) else "row and seed"
    usual, often = Counter(how.values()).most_common(1)[0]
    if len(how) > _FEW and often > len(how) / 2 and usual != _NO_CHOICE:
        others = ", ".join(f"{label} {word}" for label, word in how.items() if word != usual)
        words = f"{usual}, but for {others}" if others else usual
    else:
        words = ", ".join(f"{label} {word}" for label, word in how.items() if word != _NO_CHOICE)
    return [f"One checkpoint per {per} for all columns, chosen on: {words}."]


def _versions(cells: Sequence[Cell]) -> list[str]:
    found: dict[str, dict[str, None]] = {}
    for cell in cells:
        code = cell.manifest.get("code_version")
        libraries = cell.manifest.get("libraries") or {}
        versions = {"sparsevit-plugin": code, **{name: libraries.get(name) for name in _LIBRARIES}}
        for name, version in versions.items():
            if version:
                found.setdefault(name, {})[str(version)] = None
    words = ", ".join(f"{name} {' and '.join(versions)}" for name, versions in found.items())
    return [f"Made with {words}."] if words else []


def table_caption(
    table: "Table", rows: pd.DataFrame, cells: Sequence[Cell], facts: RowFacts
) -> str:
    """State every convention behind a table.

    Args:
        table: All but its caption.
        rows: The rows of results behind it.
        cells: The cells that they are from.
        facts: Of its rows.
    """
    labels = {name: row.label for row in table.rows for name in row.manifest_ids}
    sentences = [
        *_protocol(table),
        caption(table.conventions, _of_threshold(rows, table.threshold), cells, labels),
        *facts.sentence(),
        *_joined(table),
        *_average(table),
        *_seeds(table),
        *_ranks(table),
        *_complexity(table),
        *_paired(table),
        *_published(table),
    ]
    return " ".join(sentences)


def _of_threshold(rows: pd.DataFrame, threshold: float | None) -> pd.DataFrame:
    """Return the rows of a table's own threshold; those of others are in marked cells."""
    if threshold is None:
        return rows
    return rows[rows["threshold"].isna() | (rows["threshold"] == threshold)]


def _protocol(table: "Table") -> list[str]:
    if table.protocol is None:
        return []
    return [f"Protocol {table.protocol.name}: {table.protocol.title}."]


def _joined(table: "Table") -> list[str]:
    if table.cells != "joined":
        return []
    return [f"Cells: {' / '.join(METRICS[name].short for name in table.metrics)}."]


def _average(table: "Table") -> list[str]:
    if AVERAGE not in table.roles:
        return []
    return ["Average: mean of the sets' values, each set once."]


def _seeds(table: "Table") -> list[str]:
    several = [row for row in table.rows if len(row.members) > 1]
    if not several:
        return []
    words = "; ".join(f"{row.label} {_seed_list(row)}" for row in several)
    rest = "" if len(several) == len(table.rows) else "; rows without it are one run"
    average = ", the average made for each seed first" if AVERAGE in table.roles else ""
    return [f"Mean ± sample standard deviation over seeds{average} (n seeds: {words}{rest})."]


def _seed_list(row: TableRow) -> str:
    return f"{len(row.members)} ({', '.join(str(member.seed) for member in row.members)})"


def _ranks(table: "Table") -> list[str]:
    if len(table.rows) < 2:  # noqa: PLR2004 - one row is not ranked
        return []
    apart = ""
    if table.incomparable:
        what = "terms or images" if table.apart else "images"
        apart = f"; cells with other {what} are not ranked"
    return [f"Bold: best of a column; underlined: second; equal figures share a rank{apart}."]


def _complexity(table: "Table") -> list[str]:
    if not table.has_complexity:
        return []
    counters, sizes = (
        list(dict.fromkeys(row.complexity[key] for row in table.rows if row.complexity.get(key)))
        for key in ("counter", "image_size")
    )
    where = f"one image of {sizes[0]} x {sizes[0]} pixels" if len(sizes) == 1 else "one image"
    if len(sizes) > 1:
        own = ", ".join(
            f"{row.label} {row.complexity['image_size']}"
            for row in table.rows
            if row.complexity.get("image_size")
        )
        where = f"one image of the model's own input size ({own} pixels a side)"
    return [
        f"Parameters in millions; MACs in billions for {where}, a multiply-add being one MAC, "
        f"counted by {' and '.join(map(str, counters)) or 'an unknown counter'}."
    ]


def _paired(table: "Table") -> list[str]:
    test = table.paired
    if test is None:
        return []
    frame = test.frame
    untested = [name for name in table.metrics if METRICS[name].kind not in ("mean", "area")]
    without = [
        f"no test of {' and '.join(METRICS[name].short for name in untested)}, "
        "a figure of a whole set"
    ] * bool(untested)
    if frame.empty:
        reason = "; ".join(["no row shares every set with it", *without])
        return [f"No paired test against {test.reference}: {reason}."]
    what = "the average" if AVERAGE in table.roles else "the set's figure"
    if len(table.sets) > 1 and AVERAGE not in table.roles:
        what = "the mean of the sets' figures"
    apart = ", each metric for itself" if frame["metric"].nunique() > 1 else ""
    sentences = [
        f"vs {test.reference}: difference of {what}, row - {_reference(test)}, and whether the row "
        f"is better ({BETTER}), worse ({WORSE}) or not significantly different ({SAME}) at level "
        f"{test.alpha:g} by a two-sided paired permutation test: random signs of the differences "
        f"by {_units(frame)}, {test.resamples} resamples (all signs where they are no more), "
        f"generator seed {test.seed}; {_seed_level(frame)}; p-values Holm-corrected over the "
        f"{frame.groupby('metric').size().max()} rows compared{apart}",
        *without,
    ]
    return [f"{'; '.join(sentences)}. {_intersection(frame)}"]


def _reference(test: Paired) -> str:
    of_group = test.frame["reference"].nunique() > 1
    return (
        f"{test.reference} (of the row's own group, where it is there)"
        if of_group
        else (str(test.frame["reference"].iloc[0]))
    )


def _units(frame: pd.DataFrame) -> str:
    units = frame["unit"].unique()
    word = str(units[0]) if len(units) == 1 else MIXED
    low, high = frame["units"].min(), frame["units"].max()
    return f"{word} (n = {low})" if low == high else f"{word} (n = {low} to {high})"


def _seed_level(frame: pd.DataFrame) -> str:
    if (frame[["seeds", "reference_seeds"]] == 1).all(axis=None):
        return "one run a row, so the variation between trainings is not in it"
    words = (
        "seeds as a second level: averaged for each image, and the error of the seeds' means added "
        "from Student's t with Welch's degrees of freedom"
    )
    if (frame[["seeds", "reference_seeds"]] == 1).any(axis=None):
        words += " (of rows with one run it is unknown and not in it)"
    return words


def _intersection(frame: pd.DataFrame) -> str:
    if not frame["left_out"].any():
        return "Every comparison is on all images of both rows."
    words = ", ".join(
        f"{line['row']} {line['images']} of {line['images'] + line['left_out']}"
        for line in frame[frame["left_out"] > 0].drop_duplicates("row").to_dict("records")
    )
    return f"Compared on the intersection, the images that both rows have a figure for ({words})."


def _published(table: "Table") -> list[str]:
    if table.published is None:
        return []
    return [
        f"Published rows ({table.published.title}; {table.published.figure}) were not measured "
        "here: they are not ranked, tested or averaged with the others."
    ]


def usable_block(
    card: Published | None, metrics: Sequence[str], threshold: float | None
) -> tuple[Published | None, list[str]]:
    """Return a published card where it reports what a table shows, else why it is left out."""
    if card is None:
        return None, []
    start = f"Published rows ({card.title}) are left out: they are {card.figure}"
    if card.metric not in metrics:
        return None, [f"{start}, which is not shown here."]
    if None not in (card.threshold, threshold) and card.threshold != threshold:
        return None, [f"{start}, measured rows have the threshold {threshold:g}."]
    return card, []


def missing_seeds(
    rows: Sequence[TableRow], figures: Mapping[str, Figures]
) -> list[tuple[str, str, str]]:
    """Return row, set and text of the cells that not every seed of the row has a figure for."""
    found: dict[tuple[str, str, str], None] = {}
    for metric, one in figures.items():
        for row in rows:
            for name in one.counts.columns:
                seeds = one.count("seeds", row.label, name)
                if 0 < seeds < len(row.members):
                    text = f"{name}: {METRICS[metric].short} of {seeds} of {len(row.members)} seeds"
                    found[row.label, name, text] = None
    return list(found)


def undefined_remarks(figures: Mapping[str, Figures]) -> list[str]:
    """Say how many images were left out because they have no figure, and where."""
    remarks = []
    for metric, one in figures.items():
        left_out = [
            f"{label} on {name} {n}"
            for name in one.undefined.columns
            for label, n in one.undefined[name].items()
            if n
        ]
        what = "their figure" if len(figures) == 1 else f"their {METRICS[metric].title}"
        if left_out:
            words = ", ".join(left_out)
            remarks.append(f"Images left out because {what} is undefined: {words}.")
    return remarks


def row_notes(row: TableRow, rows: Sequence[TableRow], cells: Sequence[Cell]) -> list[str]:
    """Say what a reader must know of a row's weights and data.

    Args:
        row: The row.
        rows: All rows of the table.
        cells: All cells of the table.
    """
    notes = [
        note
        for member in row.members
        for note in (*_computed_notes(member.manifest), *_weights_notes(member.manifest))
    ]
    notes += _devices_notes(row)
    notes += _not_joined(row, rows)
    notes += [
        note for cell in cells if cell.manifest_id in row.manifest_ids for note in _data_notes(cell)
    ]
    return list(dict.fromkeys(notes))


def _devices_notes(row: TableRow) -> list[str]:
    """Say which seeds were computed on what, where that differs."""
    seeds: dict[str, list[str]] = {}
    for member in row.members:
        seeds.setdefault(member.device or "an unknown device", []).append(str(member.seed))
    if len(seeds) == 1:
        return []
    words = [f"{name} ({_seeds_in_words(found)})" for name, found in seeds.items()]
    return [f"computed on {' and '.join(words)}"]


def _seeds_in_words(seeds: Sequence[str]) -> str:
    return f"seed{'s' * (len(seeds) > 1)} {', '.join(seeds)}"


def _computed_notes(manifest: Mapping[str, Any]) -> list[str]:
    """Say how maps were computed that PyTorch did not compute."""
    computed = computed_by(manifest)
    if not computed:
        return []
    words = [f"computed by {computed}"]
    calibration = manifest.get("calibration")
    if calibration:
        sets = ", ".join(calibration["sets"])
        words.append(f"calibrated on {calibration['images']} photographs of {sets}")
        words.append(f"NNCF's preset {calibration.get('preset', 'mixed')}")
        words.append(f"the rest in {manifest['floats']}")
    return [", ".join(words)]


def _weights_notes(manifest: Mapping[str, Any]) -> list[str]:
    if manifest.get("kind") == EXTERNAL:
        return [_EXTERNAL_NOTE]
    notes = []
    pretraining = manifest.get("pretraining")
    random = isinstance(pretraining, str) and "random weights" in pretraining
    if random and manifest.get("checkpoint"):
        notes.append("trained from random weights, without a pretraining file")
    elif random:
        notes.append("random weights, not trained")
    if manifest.get("selection") == "test":
        notes.append("checkpoint chosen on the test sets")
    notes += _left_out_notes(manifest)
    notes += _detection_notes(manifest)
    return notes + _unknowns(manifest)


def _left_out_notes(manifest: Mapping[str, Any]) -> list[str]:
    """Say that a training made fewer updates than others, but for the few that fp16 starts with."""
    updates, left_out = (manifest.get(key) for key in ("updates", "updates_left_out"))
    if not (updates and left_out and left_out > _FEW_LEFT_OUT * updates):
        return []
    of = "" if manifest.get("seed") is None else f"seed {manifest['seed']}: "
    return [f"{of}{left_out} of {updates} updates left out: gradients that were not finite"]


def _detection_notes(manifest: Mapping[str, Any]) -> list[str]:
    """Say how a detector's image score was learnt, or that it was not."""
    if manifest.get("task") != "detection":
        return []
    head = manifest.get("image_head")
    if manifest.get("trained_task") != "detection":
        return [f"image score by {head}, not learnt: the checkpoint is one of localization"]
    weights = manifest.get("detection_loss_weights")
    words = ""
    if isinstance(weights, Mapping) and weights.get("image") is not None:
        words = f", loss weights {weights['image']:g} (image) and {weights.get('mask', 1):g} (mask)"
    return [f"trained for detection: image score by {head}{words}"]


def _unknowns(manifest: Mapping[str, Any]) -> list[str]:
    """Name the file of a ready checkpoint, and say what is not known of it."""
    unknown = [
        words
        for key, words in (
            ("training_data", "what it was trained on"),
            ("selection", "how it was chosen"),
        )
        if manifest.get(key) == "unknown"
    ]
    if not unknown:
        return []
    checkpoint = manifest.get("checkpoint") or {}
    if not checkpoint.get("sha256"):
        verb = "are" if len(unknown) > 1 else "is"
        words = " and ".join(unknown).replace(" it ", " the checkpoint ")
        return [f"{words} {verb} unknown"]
    name = str(checkpoint.get("file") or "checkpoint").replace("\\", "/").rpartition("/")[2]
    known = f"{name} (SHA-256 {str(checkpoint['sha256'])[:_HASH_DIGITS]}...)"
    return [f"ready checkpoint {known}: {' and '.join(unknown)}: unknown"]


def _not_joined(row: TableRow, rows: Sequence[TableRow]) -> list[str]:
    """Say why a run is not joined with others of its series."""
    first = row.members[0]
    of = _seeds_in_words([str(member.seed) for member in row.members])
    kin = [other for other in rows if first.series and other.members[0].series == first.series]
    if len(kin) < 2:  # noqa: PLR2004 (itself alone)
        return []
    runs = [
        (str(member.seed), member.data)
        for other in kin
        for member in other.members
        if member.device == first.device
    ]
    copies = len({data for _, data in runs}) > 1 and len(set(runs)) == len(runs)
    why = " on different copies of the training data" if copies else ""
    return [f"{of}, not joined with its series, in which a seed is there twice{why}"]


def _data_notes(cell: Cell) -> list[str]:
    notes = []
    if skipped := cell.facts.get("skipped"):
        external = cell.manifest.get("kind") == EXTERNAL
        images = f"{'' if external else 'unusable '}image{'s' * (len(skipped) > 1)}"
        verb = "was" if len(skipped) == 1 else "were"
        without = " without a map" if external else ""
        notes.append(f"{cell.dataset}: {len(skipped)} {images}{without} {verb} skipped")
    if cell.facts.get("pairing") == "position":
        notes.append(f"{cell.dataset}: images and masks were paired by position")
    return notes
