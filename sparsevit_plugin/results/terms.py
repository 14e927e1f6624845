"""What a row's figures hold under: terms that a table's rows must share, and facts of a row alone.

Rows that differ in a term (evaluators, size of scoring, threshold, what the checkpoint was chosen
on) are no comparison: a table refuses them, or marks them where it is asked to. Facts (input size,
recipe, batch, precision, arguments) belong to a row: what most rows share is said once, the rest
is a footnote.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from sparsevit_plugin.results.aggregate import Conventions, Selected
from sparsevit_plugin.results.conventions import EVALUATOR_NAMES, EXTERNAL, SCORED_AT
from sparsevit_plugin.results.rows import TableRow

_COLUMNS = ("evaluator", "score_at", "threshold")
_UNKNOWN = ("", "none", "None", "unknown")
_FITS = {"resize": "resized", "pad": "padded"}


@dataclass(frozen=True)
class Terms:
    """What a row's figures hold under, in the order of importance.

    Attributes:
        evaluator: `exact` or `benco`.
        score_at: `model` or `image`.
        threshold: Of its maps; None where no figure needs one.
        selection: What its checkpoint was chosen on; empty where that is not known or nothing was
            chosen.
    """

    evaluator: str
    score_at: str
    threshold: float | None
    selection: str

    def differences(self, other: "Terms") -> list[str]:
        """Say in what this one differs from another one; what is unknown differs from nothing."""
        found = []
        if self.evaluator != other.evaluator:
            found.append(f"scored by {EVALUATOR_NAMES.get(self.evaluator, self.evaluator)}")
        if self.score_at != other.score_at:
            found.append(SCORED_AT.get(self.score_at, self.score_at))
        if None not in (self.threshold, other.threshold) and self.threshold != other.threshold:
            found.append(f"threshold > {self.threshold:g}")
        if self.selection and other.selection and self.selection != other.selection:
            found.append(f"checkpoint chosen on {self.selection}")
        return found


def _terms_by_manifest(selected: Selected, *, with_threshold: bool) -> dict[str, list[Terms]]:
    """Return the ways in which each manifest's rows were made; the selection is unset."""
    ways = selected.rows[list(_COLUMNS)].assign(manifest=selected.codes.manifest)
    found: dict[str, list[Terms]] = {}
    for evaluator, score_at, threshold, code in ways.drop_duplicates().to_numpy():
        known = float(threshold) if with_threshold and not pd.isna(threshold) else None
        terms = Terms(str(evaluator), str(score_at), known, "")
        found.setdefault(selected.codes.manifests[code], []).append(terms)
    return found


def _selection(row: TableRow) -> str:
    selection = str(row.members[0].manifest.get("selection") or "")
    return "" if selection in _UNKNOWN else selection


def apart(
    selected: Selected, rows: Sequence[TableRow], conventions: Conventions, *, with_threshold: bool
) -> tuple[Terms, dict[str, list[str]]]:
    """Find the rows of a table that do not share its terms.

    Args:
        selected: The rows behind the table.
        rows: The table's rows.
        conventions: What was asked for.
        with_threshold: Whether a figure of the table has a threshold.

    Returns:
        The terms of the table: those asked for, and the threshold and selection of most rows; and
        row label to what is different.
    """
    ways = _terms_by_manifest(selected, with_threshold=with_threshold)
    found = {
        row.label: [
            replace(one, selection=_selection(row))
            for name in row.manifest_ids
            for one in ways.get(name, ())
        ]
        for row in rows
    }
    every = [one for terms in found.values() for one in terms]
    table = Terms(
        conventions.evaluator,
        conventions.score_at,
        usual(one.threshold for one in every),
        usual(one.selection for one in every) or "",
    )
    texts = {
        label: list(dict.fromkeys(text for one in terms for text in one.differences(table)))
        for label, terms in found.items()
    }
    return table, {label: words for label, words in texts.items() if words}


def usual(values: Iterable[Any]) -> Any:  # noqa: ANN401 - of whatever is counted
    """Return the most frequent value, of several the first; None where there is none."""
    counted = Counter(value for value in values if value not in (None, ""))
    return counted.most_common(1)[0][0] if counted else None


@dataclass(frozen=True)
class RowFacts:
    """What belongs to rows: what most of them share, and what others have instead.

    Attributes:
        shared: Name of the fact to its value in most rows.
        departing: Row label to the texts of the facts in which it departs.
    """

    shared: Mapping[str, str]
    departing: Mapping[str, Sequence[str]]

    def sentence(self) -> list[str]:
        """Return the sentence of a caption, or nothing where nothing is known."""
        if not self.shared:
            return []
        words = "; ".join(f"{name} {value}" for name, value in self.shared.items())
        return [f"Rows that no footnote excepts: {words}."]


def row_facts(rows: Sequence[TableRow]) -> RowFacts:
    """Gather the facts of rows, from their manifests."""
    facts = {row.label: facts_of(row.members[0].manifest) for row in rows}
    names = list(dict.fromkeys(name for known in facts.values() for name in known))
    shared = {name: usual(known.get(name) for known in facts.values()) for name in names}
    departing: dict[str, list[str]] = {}
    for label, known in facts.items():
        for name, value in known.items():
            if value != shared[name]:
                departing.setdefault(label, []).append(f"{name} {value}")
    for row in rows:
        if text := arguments_text(row.members[0].manifest):
            departing.setdefault(row.label, []).append(text)
    return RowFacts(shared, departing)


def facts_of(manifest: Mapping[str, Any]) -> dict[str, str]:
    """Return what a manifest says of a row's input and training; what it does not say is absent."""
    if manifest.get("kind") == EXTERNAL:
        return {}
    options = (manifest.get("config") or {}).get("options") or {}
    found = {"input": _input(manifest, options)}
    recipe, batch = manifest.get("recipe"), manifest.get("effective_batch")
    found["recipe"] = str(recipe or "")
    found["effective batch"] = str(batch or "")
    found["precision"] = str(manifest.get("number_format") or manifest.get("precision") or "")
    return {name: value for name, value in found.items() if value}


def _input(manifest: Mapping[str, Any], options: Mapping[str, Any]) -> str:
    side, fit = manifest.get("image_size"), str(manifest.get("fit") or "")
    if not side or not fit:
        return ""
    tiles = f", in tiles of {options['tile']}" if options.get("tile") else ""
    if fit == "grid":
        return f"the photographs' own size, on their JPEG grid{tiles}"
    return f"{side} x {side}, {_FITS.get(fit, fit)}{tiles}"


def arguments_text(manifest: Mapping[str, Any]) -> str:
    """Name the model arguments that were chosen by hand; empty for none.

    Those of a row that a protocol's card names are left out: the card's label stands for them.
    """
    if manifest.get("registered_model") and manifest["registered_model"] != manifest.get("model"):
        return ""
    config = manifest.get("config") or {}
    origins, arguments = config.get("argument_origin") or {}, manifest.get("model_arguments") or {}
    chosen = {
        name: value for name, value in arguments.items() if origins.get(name) in ("flag", "--set")
    }
    words = ", ".join(f"{name} {_short(value)}" for name, value in chosen.items())
    return f"model arguments {words}" if words else ""


def _short(value: Any) -> str:  # noqa: ANN401 - whatever a constructor takes
    return str(value).replace(" ", "") if isinstance(value, list | tuple) else str(value)
