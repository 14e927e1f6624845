"""Which pretraining files a run takes: `--weights` and `--weights-root` against a model's card."""

import functools
import logging
import os
from collections.abc import Mapping
from pathlib import Path

from sparsevit_plugin.cards import ModelCard, WeightFile
from sparsevit_plugin.errors import UserError

HUB = "hub"
_LOG = logging.getLogger(__name__)


def chosen_files(
    verb: str, flags: Mapping[str, object], card: ModelCard | None
) -> dict[str, object]:
    """Return the constructor arguments that `--weights` settles.

    Args:
        verb: A checkpoint that is tested supersedes every pretraining file, so only `train` looks.
        flags: The command line's options.
        card: The model's card.

    Returns:
        Argument to path; to None where the run starts from random weights.

    Raises:
        UserError: A needed file is missing, or the model has no card that names its files; with
            `hub`, one cannot be fetched.
    """
    how = flags.get("weights", "named")
    if verb != "train" or how == "named":
        return {}
    if card is None:
        raise UserError(f"--weights {how}: the model has no card that names its weights files")
    if how == "none":
        return dict.fromkeys(card.weight_arguments)
    if how == HUB:
        return dict(_all_of_the_hub(card))
    return dict(find_files(card, str(flags.get("weights_root", ""))))


def find_files(card: ModelCard, root: str) -> dict[str, str]:
    """Find the files that a card asks for below a folder.

    Args:
        card: The model's card.
        root: The folder; empty for none.

    Returns:
        Argument to path. An argument whose files are all optional and absent is left out; that it
        starts from random weights is a warning where the card says that the Hub has a file.

    Raises:
        UserError: The folder is missing, or holds none of the files that an argument needs.
    """
    if root and not Path(root).is_dir():
        raise UserError(f"--weights-root {root}: no such folder")
    present = _files_by_name(Path(root)) if root else {}
    found: dict[str, str] = {}
    for argument in card.weight_arguments:
        candidates = [weight for weight in card.weights if weight.argument == argument]
        path = next((present[w.name] for w in candidates if w.name in present), None)
        if path is not None:
            found[argument] = str(path)
        elif of_hub := next((weight.hub for weight in candidates if weight.hub), ""):
            where = f"no file below {root}" if root else "no --weights-root"
            fetched = _fetched_or_warned(card.name, of_hub, where)
            found |= {argument: fetched} if fetched else {}
        elif any(weight.needed for weight in candidates):
            raise UserError(_missing(card, candidates, root))
    return found


def _all_of_the_hub(card: ModelCard) -> dict[str, str]:
    """Return the Hub's file of every argument.

    Raises:
        UserError: The card names none, or one cannot be fetched.
    """
    found = {weight.argument: weight.hub for weight in reversed(card.weights) if weight.hub}
    if not found:
        raise UserError(
            f"--weights hub: the card of {card.name} names no file of the Hugging Face Hub; give "
            "one by its own flag, or pass --weights none to start from random weights"
        )
    return {argument: _fetched(file) for argument, file in found.items()}


@functools.cache
def _fetched(file: str) -> str:
    """Return the path of a file of the Hub, OWNER/NAME/FILE: from the cache, or fetched.

    Raises:
        UserError: It cannot be fetched.
    """
    from sparsevit_plugin.hub.remote import fetch_file

    owner, name, path = file.split("/")
    return str(fetch_file(f"{owner}/{name}", path))


@functools.cache
def _fetched_or_warned(model: str, file: str, where: str) -> str:
    """Return the path of a file of the Hub; empty, with a warning, where it cannot be fetched.

    It is asked for once in a process.
    """
    try:
        return _fetched(file)
    except UserError as error:
        _LOG.warning("%s starts from random weights: %s, and %s", model, where, error)
        return ""


def _missing(card: ModelCard, candidates: list[WeightFile], root: str) -> str:
    names = " or ".join(weight.name for weight in candidates)
    where = f"no such file below {root}" if root else "no --weights-root was given"
    return (
        f"{card.name} needs {names}: {where}. Get it from {candidates[0].where}; or pass "
        "--weights none to start from random weights"
    )


def _files_by_name(root: Path) -> dict[str, Path]:
    """Return every file below a folder by its name; of equal names the first in sorted order."""
    found: dict[str, Path] = {}
    for folder, folders, files in os.walk(root):
        folders.sort()
        for name in sorted(files):
            found.setdefault(name, Path(folder) / name)
    return found
