"""Tables of what registered models cost: all of them, one by its modules, SparseViT by its rate."""

import contextlib
import gc
import io
import logging
from collections.abc import Callable, Sequence
from functools import partial

import torch

from sparsevit_plugin.cards import load_model_card
from sparsevit_plugin.complexity.columns import COLUMNS, CostTable, Row, counted_row, failed_row
from sparsevit_plugin.complexity.counting import count
from sparsevit_plugin.complexity.hand import HAND_COUNTER
from sparsevit_plugin.complexity.modules import MODULE_COLUMNS, module_rows
from sparsevit_plugin.complexity.products import TORCH_COUNTER
from sparsevit_plugin.complexity.sparsity import SPARSITY_COLUMNS, block_rows
from sparsevit_plugin.errors import UserError
from sparsevit_plugin.harness.complexity import cached_count, count_config, example_inputs
from sparsevit_plugin.harness.config import Config, resolve
from sparsevit_plugin.harness.pipeline import build_model
from sparsevit_plugin.harness.progress import Progress
from sparsevit_plugin.harness.recorded import fed_words, recorded_model, recorded_words
from sparsevit_plugin.results.rows import TableRow
from sparsevit_plugin.versions import installed_version

SPARSEVIT = "SparseViT"
_LOG = logging.getLogger(__name__)


def complexity_table(
    models: Sequence[str], sides: Sequence[int | None], counter: str, cache: str | None = None
) -> CostTable:
    """Count models one after another.

    A model that cannot be built or called is a row with a reason, and a line on standard error.

    Args:
        models: Names of cards or registered models.
        sides: Sides of the input in pixels; None for what each model's card gives.
        counter: A key of `complexity.counting.COUNTERS`.
        cache: A folder of earlier counts.

    Raises:
        UserError: The folder cannot be written.
    """
    counts = [
        (name, partial(_row, name, side, counter, cache))
        for name in models
        for side in _distinct(own_size(name), sides)
    ]
    return _table(counts, counter)


def config_table(
    rows: Sequence[tuple[str, Config]], counter: str, cache: str | None = None
) -> CostTable:
    """Count the models of configurations, each under a name of its own.

    Args:
        rows: Names and configurations.
        counter: A key of `complexity.counting.COUNTERS`.
        cache: A folder of earlier counts.

    Raises:
        UserError: The folder cannot be written.
    """
    counts = [(label, partial(_counted, label, cfg, counter, cache)) for label, cfg in rows]
    return _table(counts, counter)


def recorded_table(
    rows: Sequence[TableRow],
    sides: Sequence[int | None],
    counter: str,
    cache: str | None = None,
    imports: Sequence[str] = (),
) -> CostTable:
    """Count the models of stored rows, with the arguments that each was tested with.

    Args:
        rows: Of a table; each counts under its label.
        sides: Sides of the input in pixels; None for the one that the row's scores were made at.
        counter: A key of `complexity.counting.COUNTERS`.
        cache: A folder of earlier counts.
        imports: What `--import` was given.

    Raises:
        UserError: The folder cannot be written.
    """
    counts = [
        (row.label, partial(_recorded, row, side, counter, cache, imports))
        for row in rows
        for side in _distinct(row.members[0].manifest.get("image_size"), sides)
    ]
    return _table(counts, counter)


def _table(counts: Sequence[tuple[str, Callable[[], Row]]], counter: str) -> CostTable:
    """Make counts one after another, each under a name for the progress."""
    rows = []
    with Progress(len(counts), "counting") as progress:
        for name, count_one in counts:
            rows.append(count_one())
            gc.collect()  # models are large, and those that failed hang in circles
            progress.advance(note=name)
    return CostTable(rows, COLUMNS, caption(counter))


def _recorded(
    row: TableRow, side: int | None, counter: str, cache: str | None, imports: Sequence[str]
) -> Row:
    """Count a stored row; what a process needs to build its model goes along."""
    manifest = row.members[0].manifest
    of_model = {"registered": recorded_model(manifest), "words": fed_words(manifest)}
    words = [*recorded_words(manifest, side), "--test-data-path", "none"]
    words += [f"--import={name}" for name in imports]
    try:
        cfg = resolve("test", words)
    except UserError as error:
        return _failed(row.label, None, side or manifest.get("image_size"), counter, error)
    return {**_counted(row.label, cfg, counter, cache), **of_model}


def caption(counter: str) -> str:
    """Return what a table of counts is of."""
    versions = ", ".join(f"{name} {installed_version(name)}" for name in ("torch", "IMDLBenCo"))
    return (
        f"Cost of one photograph. Counter: {counter}; {versions}; evaluation mode, batch of one, "
        "single precision; sizes in pixels."
    )


def own_size(name: str) -> int | None:
    """Return the side that a model's card gives, None without a card."""
    card = load_model_card(name)
    return card.image_size if card else None


def _distinct(own: int | None, sides: Sequence[int | None]) -> list[int | None]:
    """Leave out a size that is a row's own where its own is asked for too."""
    return [side for side in sides if side is None or side != own or None not in sides]


def model_config(name: str, side: int | None, flags: Sequence[str] = ()) -> Config:
    """Return the configuration of a model at a size, as a test without a checkpoint has it.

    A model without a card gets images that are resized.

    Raises:
        UserError: The card is wrong, or the size does not fit its arguments.
    """
    size = [] if side is None else ["--image-size", str(side)]
    size += [] if load_model_card(name) else ["--fit", "resize"]
    return resolve("test", ["--model", name, "--test-data-path", "none", *size, *flags])


def _row(name: str, side: int | None, counter: str, cache: str | None) -> Row:
    own = own_size(name)
    try:
        cfg = model_config(name, side)
    except UserError as error:
        return _failed(name, own, side or own, counter, error)
    return _counted(name, cfg, counter, cache)


def _counted(name: str, cfg: Config, counter: str, cache: str | None) -> Row:
    own = own_size(cfg.model)
    try:
        found = cached_count(cfg, cache, counter) if cache else count_config(cfg, counter)
    except UserError as error:
        return _failed(name, own, cfg.image_size, counter, error)
    if found.reason or found.memory_reason:
        size = f"{found.image_size} x {found.image_size}"
        _LOG.warning("%s at %s: %s", name, size, found.reason or found.memory_reason)
    return counted_row(name, own, found)


def _failed(name: str, own: int | None, side: int | None, counter: str, error: UserError) -> Row:
    _LOG.warning("%s: %s", name, error)
    return failed_row(name, own, side, counter, str(error))


def module_table(model: str, side: int | None, depth: int, counter: str) -> CostTable:
    """Count one model by its modules.

    Args:
        model: Name of a card or a registered model.
        side: Side of the input in pixels; None for what the model's card gives.
        depth: How many dots a module's name may have, and one more.
        counter: A key of `complexity.counting.COUNTERS`.

    Raises:
        UserError: The model cannot be built or called, or the counter knows no modules.
    """
    cfg = model_config(model, side)
    with torch.random.fork_rng(devices=[]), contextlib.redirect_stdout(io.StringIO()):
        built = build_model(cfg)
        found = count(built, example_inputs(cfg), counter)
    if found.macs is None:
        raise UserError(f"{model}: {found.reason}")
    if not found.by_module:
        raise UserError(f"--counter {counter} tells nothing of single modules")
    words = f"{model} by its modules, at {cfg.image_size} x {cfg.image_size} pixels."
    return CostTable(
        module_rows(built, found, depth), MODULE_COLUMNS, f"{words} {caption(counter)}", "module"
    )


def sparsity_table(sides: Sequence[int | None]) -> CostTable:
    """Count SparseViT's sparse blocks over the rate, and the whole model dense and as published.

    Args:
        sides: Sides of the square image in pixels, multiples of 32; None for the card's.

    Raises:
        UserError: A side is no multiple of 32.
    """
    rows: list[Row] = []
    for side in (side or own_size(SPARSEVIT) or 0 for side in sides):
        rows += block_rows(side, stage=3, channels=320, heads=5)
        rows += block_rows(side, stage=4, channels=512, heads=8)
        rows += _whole_rows(side)
    words = "MACs of SparseViT's sparse blocks, and of the whole model, over the sparsity rate."
    return CostTable(rows, SPARSITY_COLUMNS, words, "what")


def _whole_rows(side: int) -> list[Row]:
    """Count the model with every rate 1 and with its own, by formula and by PyTorch's counter."""
    dense = _counts(side, ["--s-blocks3", "1,1,1,1", "--s-blocks4", "1,1"])
    published = _counts(side, [])
    return [
        {
            "model": name,
            "image_size": side,
            "block_hand": found[0],
            "block_torch": found[1],
            "block_ratio": dense[0] / found[0],
        }
        for name, found in (("model, every S = 1", dense), ("model, as published", published))
    ]


def _counts(side: int, flags: Sequence[str]) -> tuple[int, int]:
    """Return the MACs of SparseViT by hand and by PyTorch's counter."""
    cfg = model_config(SPARSEVIT, side, flags)
    with torch.random.fork_rng(devices=[]):
        model = build_model(cfg)
        found = [count(model, example_inputs(cfg), name) for name in (HAND_COUNTER, TORCH_COUNTER)]
    if any(one.macs is None for one in found):
        raise UserError("; ".join(filter(None, (one.reason for one in found))))
    by_hand, by_torch = (one.macs or 0 for one in found)
    return by_hand, by_torch
