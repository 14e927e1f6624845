"""The model card: what a checkpoint is, from what is known of it, and what is not known."""

import re
from collections.abc import Iterable
from typing import Any, Final

from sparsevit_plugin.cards import ModelCard, load_model_card
from sparsevit_plugin.hub.config import WEIGHTS
from sparsevit_plugin.hub.facts import SHOWN, Facts, Figure, metric_title, short_path

_LIBRARY: Final = "sparsevit-plugin"
_TAGS: Final = (
    "image-forensics",
    "image-manipulation-localization",
    "imdlbenco",
    "model_hub_mixin",
    "pytorch",
    "pytorch_model_hub_mixin",
)
_TASK: Final = "image-segmentation"  # the Hub's word for a map of classes
# The Hub has no word for the IoU of one class: its mean_iou averages over classes.
_HUB_METRICS: Final = {"pixel_f1": "f1", "pixel_auc": "roc_auc"}
_CHOSEN: Final = {
    "val": "chosen by pixel F1 on a hold-out of the training data; no test image had a part in it",
    "last": "the last of a fixed number of epochs; nothing was chosen by a result",
    "test": "**chosen on the test sets**, so the results below are too good",
    "none": "nothing was chosen",
}
_FITS: Final = {
    "resize": "stretched to {0} x {0} pixels; the map is brought back to the photograph's own size",
    "pad": "set into {0} x {0} pixels with a border, shrunk only where they are larger",
    "grid": "taken at their own size, padded to multiples of 8",
}
_SHOWN_OPTIONS: Final = (
    "epochs",
    "batch_size",
    "accum_iter",
    "optimizer",
    "lr",
    "seed",
    "precision",
)


def card_text(facts: Facts, licence: str | None = None) -> str:
    """Write a model card.

    Args:
        facts: What is known.
        licence: SPDX identifier of the licence of the weights; None where none was stated.

    Returns:
        Markdown with the Hub's front matter.
    """
    registered = load_model_card(facts.config.model)
    parts = [
        f"---\n{_front_matter(facts, licence)}\n---",
        *_head(facts, registered),
        _use(facts),
        _input(facts),
        _training(facts),
        _results(facts),
        _limits(facts),
        _licence(licence, registered),
        _versions(facts),
    ]
    if registered is not None and registered.paper:
        parts.append(f"## Citation\n\n{registered.paper}")
    return "\n\n".join(parts) + "\n"


def _front_matter(facts: Facts, licence: str | None) -> str:
    from huggingface_hub import ModelCardData

    results = [result for figure in facts.figures for result in _hub_result(figure)]
    named = {"model_name": facts.name, "eval_results": results} if results else {}
    data = ModelCardData(
        library_name=_LIBRARY,
        license=licence.lower() if licence else None,
        pipeline_tag=_TASK,
        tags=[*_TAGS, *(["demo"] if facts.is_demo else [])],
        **named,
    )
    return str(data.to_yaml()).strip()


def _hub_result(figure: Figure) -> list[Any]:
    from huggingface_hub import EvalResult

    if figure.metric not in _HUB_METRICS:
        return []
    return [
        EvalResult(
            task_type=_TASK,
            task_name="image manipulation localization",
            dataset_type=re.sub(r"[^a-z0-9]+", "-", figure.dataset.lower()).strip("-"),
            dataset_name=figure.dataset,
            metric_type=_HUB_METRICS[figure.metric],
            metric_name=f"{metric_title(figure.metric)}, mean over {figure.images} images",
            metric_value=round(figure.value, 6),
        )
    ]


def _head(facts: Facts, registered: ModelCard | None) -> list[str]:
    title = f": {registered.title}" if registered is not None and registered.title else ""
    words = [
        f"# {facts.name}",
        f"`{facts.config.model}`{title}. It says of every pixel of a photograph how probable it is "
        f"that the pixel was tampered with. {facts.parameters:,} parameters.",
    ]
    if facts.is_demo:
        words.append(
            "> **A demo, not a detector.** These weights were trained in minutes on edits that a "
            "program made in a handful of photographs, to show that the training works. Do not "
            "judge a photograph by them."
        )
    if registered is not None and registered.notes:
        words.append(" ".join(registered.notes.split()))
    return words


def _use(facts: Facts) -> str:
    name = facts.config.model
    own = (
        f"from sparsevit_plugin.model.sparsevit import {name}\n\n"
        f'model = {name}.from_pretrained("FOLDER_OR_REPOSITORY")'
    )
    general = 'from sparsevit_plugin import hub\n\nmodel = hub.load("FOLDER_OR_REPOSITORY")'
    is_own = name in ("SparseViT", "SparseViT_small", "SparseViT_tiny")
    return f"""\
## Use

```
benco predict photographs/ --checkpoint FOLDER_OR_REPOSITORY --out maps
```

```python
import sparsevit_plugin

prediction = sparsevit_plugin.predict("photograph.jpg", checkpoint="FOLDER_OR_REPOSITORY")
prediction.map  # H x W: the probability that a pixel was tampered with
prediction.mask  # H x W: map > 0.5
```

The network alone, to be fed with normalised images:

```python
{own if is_own else general}
```"""


def _input(facts: Facts) -> str:
    options = facts.config.options
    fit = _FITS.get(str(options.get("fit")))
    how = f"Photographs are {fit.format(options.get('image_size'))}." if fit else ""
    return (
        "## Input and output\n\n"
        f"{how} RGB, divided by 255, normalised by ImageNet's mean and standard deviation; "
        "`config.json` has the figures. `pred_mask` is B x 1 x H x W, probabilities from 0 to 1; "
        "`pred_label` is a score a photograph."
    )


def _training(facts: Facts) -> str:
    if not (facts.metadata.get("recipe") or facts.training or facts.manifest):
        return "## Training\n\nNothing is recorded of the training of these weights."
    return "## Training\n\n" + _bullets(
        [
            ("recipe", _recipe(facts)),
            ("training data", _training_data(facts)),
            ("settings", _settings(facts)),
            ("started from", _pretraining(facts)),
            ("epochs done", str(facts.metadata.get("epochs_done") or "")),
            ("checkpoint", _CHOSEN.get(facts.selection, "how it was chosen is not known")),
            ("SHA-256 of the checkpoint", f"`{facts.sha256}`" if facts.sha256 else ""),
        ]
    )


def _recipe(facts: Facts) -> str:
    recipe = facts.recipe
    if not recipe:
        return "none"
    title = f" ({recipe['title']})" if recipe.get("title") else ""
    sources = "; ".join(map(str, recipe.get("sources") or ()))
    return f"`{recipe['name']}`{title}" + (
        f". Sources of its numbers: {sources}" if sources else ""
    )


def _training_data(facts: Facts) -> str:
    path = str(facts.training.get("data_path") or "")
    sets = [f"{name} (files `{mark[:12]}`)" for name, mark in facts.training_sets.items()]
    parts = [f"`{short_path(path)}`" if path else "", ", ".join(sets)]
    return ": ".join(part for part in parts if part) or "not recorded"


def _settings(facts: Facts) -> str:
    given = [(name, facts.training.get(name)) for name in _SHOWN_OPTIONS]
    words = [f"{name} {value}" for name, value in given if value is not None]
    batch = facts.metadata.get("effective_batch")
    return ", ".join([*words, f"images in a step {batch}"] if batch else words)


def _pretraining(facts: Facts) -> str:
    known = facts.pretraining
    if isinstance(known, dict):
        return "; ".join(
            f"{argument}: {one.get('file')} (SHA-256 `{one.get('sha256')}`)"
            for argument, one in known.items()
        )
    return {"none (random weights)": "random weights"}.get(str(known), str(known))


def _results(facts: Facts) -> str:
    if not facts.figures:
        return (
            "## Results\n\nNo stored result of these weights was found: how well they work is not "
            "known."
        )
    labels = list(dict.fromkeys(figure.row for figure in facts.figures))
    tables = [_table(facts, label, heading=len(labels) > 1) for label in labels]
    note = "n: images behind a mean. An image whose figure is undefined is left out of it."
    return "\n\n".join(["## Results", *tables, facts.caption, note, *_sources(facts)])


def _sources(facts: Facts) -> list[str]:
    """Say how few photographs the images of the sets are made from, where that is known."""
    if not facts.photographs:
        return []
    counts = ", ".join(f"{count} ({name})" for name, count in facts.photographs.items())
    return [
        f"Source photographs behind the images of a set: {counts}. Images of one photograph are "
        "not independent of each other."
    ]


def _table(facts: Facts, label: str, *, heading: bool) -> str:
    cells = {(one.dataset, one.metric): one for one in facts.figures if one.row == label}
    metrics = [metric for metric in SHOWN if any(key[1] == metric for key in cells)]
    sets = list(dict.fromkeys(dataset for dataset, _ in cells))
    lines = [
        "| set | " + " | ".join(map(metric_title, metrics)) + " |",
        "|---|" + "---:|" * len(metrics),
        *(
            f"| {name} | " + " | ".join(_cell(cells.get((name, m))) for m in metrics) + " |"
            for name in sets
        ),
    ]
    return "\n".join([f"### {label}\n", *lines] if heading else lines)


def _cell(figure: Figure | None) -> str:
    if figure is None:
        return ""
    undefined = f", {figure.undefined} undefined" if figure.undefined else ""
    return f"{figure.value:.3f} (n = {figure.images}{undefined})"


def _limits(facts: Facts) -> str:
    sets = list(dict.fromkeys(figure.dataset for figure in facts.figures))
    measured = (
        f"What is known of its quality is the table above, on {', '.join(sets)}; on other "
        "photographs, other kinds of edits and after other processing it may be anything."
        if sets
        else "Nothing was measured, so nothing is known of how often it is wrong."
    )
    chosen = (
        ["The checkpoint was chosen on the very sets that it is scored on."]
        if facts.selection == "test"
        else []
    )
    return "## Limits\n\n" + "\n".join(
        f"- {line}"
        for line in (
            "A map is an estimate, no proof: authentic photographs get tampered pixels, and "
            "tampered ones may get none.",
            measured,
            *chosen,
            "Resaving, resizing, screenshots and social networks remove the traces that such a "
            "network looks for.",
        )
    )


def _licence(licence: str | None, registered: ModelCard | None) -> str:
    code = f"The model's code: {registered.licence}. " if registered is not None else ""
    weights = (
        f"The weights: {licence}, as stated by those who saved them."
        if licence
        else "No licence was stated for the weights. The terms of the data sets that they were "
        "trained on may bind them."
    )
    return f"## Licence\n\n{code}{weights}"


def _versions(facts: Facts) -> str:
    libraries = facts.manifest.get("libraries") or {}
    if not libraries:
        return "## Versions\n\nNot recorded."
    made = f"{_LIBRARY} {facts.manifest.get('code_version')}"
    names = ", ".join(f"{name} {version}" for name, version in libraries.items())
    where = facts.manifest.get("device")
    return f"## Versions\n\nTested with {made}, {names}; on {where}. Weights: `{WEIGHTS}`."


def _bullets(lines: Iterable[tuple[str, str]]) -> str:
    return "\n".join(f"- {name}: {text}" for name, text in lines if text)
