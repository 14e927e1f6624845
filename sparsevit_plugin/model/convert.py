"""Checkpoints of IMDLBenCo and of SparseViT's repository as safetensors, and back.

    >>> from sparsevit_plugin.model.convert import convert
    >>> print(convert("checkpoint-68.pth", "sparsevit.safetensors").summary())  # doctest: +SKIP

A checkpoint of theirs holds a state dict under `model` beside the epoch, the command line and the
optimiser. Every tensor is kept bit by bit under its own name, those that nothing uses included;
epoch and command line go into the header of the safetensors file. The optimiser is left out. On the
way back all of it is put where upstream's scripts look for it.
"""

import argparse
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from sparsevit_plugin.errors import UserError, suggest
from sparsevit_plugin.files import atomic_path, sha256_file
from sparsevit_plugin.model.weights import (
    DEAD_KEYS,
    guess_model,
    is_safetensors,
    read_pickle,
    read_safetensors,
    recorded_json,
    save_safetensors,
)

ORIGIN: Final = "converted_from"
"""Name in the header of what a converted file was."""

OWN_HEADER: Final = "sparsevit_plugin"
"""Name in a .pth of the header that a safetensors file of this package had."""

_WRAPPERS = ("model", "state_dict", "network")
_KEPT = ("epoch", "args")
_LEFT_OUT = ("optimizer", "scaler", "loss_scaler", "lr_scheduler")
_PICKLES = (".pth", ".pt", ".ckpt", ".bin", ".tar")
_SAFE = ".safetensors"
_EXAMPLES = 5


@dataclass(frozen=True)
class Conversion:
    """What was written.

    Attributes:
        source: What was read.
        target: What was written.
        model: The registered model whose weights these are.
        tensors: How many.
        values: Numbers in them.
        notes: What a user should know, one sentence each.
    """

    source: Path
    target: Path
    model: str
    tensors: int
    values: int
    notes: tuple[str, ...] = ()

    def summary(self) -> str:
        """Return one line: the files, the counts, then the notes."""
        counts = f"{self.tensors} tensors, {self.values:,} values of {self.model}"
        return " ".join([f"{self.source} -> {self.target}: {counts}.", *self.notes])


def convert(
    source: str | PathLike[str],
    target: str | PathLike[str],
    *,
    model: str = "",
    overwrite: bool = False,
) -> Conversion:
    """Write a checkpoint in the other format; the target's suffix says which.

    Args:
        source: A file of torch.save (.pth, .pt), or of safetensors. The contents tell which.
        target: The file to make: .safetensors, or .pth or .pt.
        model: The registered model that it is of, where the file does not say.
        overwrite: Whether an existing target is replaced.

    Raises:
        UserError: The file cannot be read, is in the wanted format already, holds what has no
            place in it, or does not say which model it is of; or the target is there already.
    """
    read, written = Path(source), Path(target)
    if written.suffix not in (_SAFE, *_PICKLES[:2]):
        raise UserError(f"--out {written}: its name must end in {_SAFE}, .pth or .pt")
    if written.exists() and not overwrite:
        raise UserError(f"{written}: is there already; --overwrite replaces it")
    if not read.is_file():
        raise UserError(f"{read}: no such weights file.")
    safe = is_safetensors(read)
    if safe == (written.suffix == _SAFE):
        name = "safetensors" if safe else "a file of torch.save"
        wanted = "--out FILE.pth" if safe else f"--out FILE{_SAFE}"
        raise UserError(f"{read}: is {name} already; {wanted} converts it")
    return (_to_pickle if safe else _to_safetensors)(read, written, model)


# --- to safetensors ------------------------------------------------------------------------------


def _to_safetensors(source: Path, target: Path, model: str) -> Conversion:
    content = read_pickle(source)
    wrapper, state, beside = _parts(content, source)
    notes = []
    dropped = [name for name in _LEFT_OUT if name in beside]
    if dropped:
        notes.append(f"Left out, as only a resumed training needs it: {', '.join(dropped)}.")
    arguments, lost = _as_json(beside.get("args"))
    if lost:
        notes.append(f"Arguments that JSON cannot hold are left out: {', '.join(lost)}.")
    own = beside.get(OWN_HEADER)
    if own is not None:
        header, state = _own_header(own, state, source)
    else:
        header = {
            "model": _model_of(state, arguments, model, source),
            ORIGIN: json.dumps(
                {
                    "file": source.name,
                    "sha256": sha256_file(source),
                    "wrapper": wrapper,
                    **({"epoch": beside["epoch"]} if "epoch" in beside else {}),
                    **({"args": arguments} if "args" in beside else {}),
                },
                sort_keys=True,
            ),
        }
    save_safetensors(state, target, header)
    return _conversion(source, target, header["model"], state, notes)


def _parts(content: Mapping[Any, Any], file: Path) -> tuple[str, dict[str, Tensor], dict[str, Any]]:
    """Return the name of the state dict, its tensors, and what stands beside it.

    Raises:
        UserError: There is something that nobody knows a place for.
    """
    wrapper = next((name for name in _WRAPPERS if isinstance(content.get(name), Mapping)), "")
    state = dict(content[wrapper]) if wrapper else dict(content)
    beside = {name: value for name, value in content.items() if name != wrapper} if wrapper else {}
    strange = [str(name) for name in beside if name not in (*_KEPT, *_LEFT_OUT, OWN_HEADER)]
    if strange:
        raise UserError(
            f"{file}: holds {_some(strange)} beside its weights, which no checkpoint of IMDLBenCo "
            "or of SparseViT's repository does: not converted"
        )
    wrong = [str(name) for name, value in state.items() if not _is_tensor(name, value)]
    if wrong or not state:
        what = f"{_some(wrong)} among its weights is no tensor" if wrong else "it holds no tensors"
        raise UserError(f"{file}: {what}: no state dict of a model, not converted")
    epoch = beside.get("epoch", 0)
    if not isinstance(epoch, int):
        raise UserError(f"{file}: its epoch is {epoch!r}, not a number: not converted")
    return wrapper, state, beside


def _is_tensor(name: object, value: object) -> bool:
    if not (isinstance(name, str) and isinstance(value, Tensor)):
        return False
    return value.layout == torch.strided and not (value.is_quantized or value.is_complex())


def _as_json(args: object) -> tuple[dict[str, Any], list[str]]:
    """Return a command line's arguments as JSON gives them back, and the names of the others."""
    if args is None:
        return {}, []
    values = vars(args) if isinstance(args, argparse.Namespace) else args
    if not isinstance(values, Mapping):
        return {}, ["args"]
    kept = {str(name): value for name, value in values.items() if _is_plain(value)}
    return kept, [str(name) for name in values if str(name) not in kept]


def _is_plain(value: object) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, list):
        return all(_is_plain(one) for one in value)
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(one) for key, one in value.items())
    return value is None or isinstance(value, str | bool | int)


def _model_of(
    state: Mapping[str, Tensor], arguments: Mapping[str, Any], given: str, file: Path
) -> str:
    """Return a checkpoint's registered model: as told, as its command line says, as it looks.

    Raises:
        UserError: Nothing tells, or there is no such model.
    """
    from sparsevit_plugin.registration import register_all

    names = [given] if given else [str(arguments.get("model") or ""), _looks_like(state)]
    known = register_all()
    found = next((name for name in names if name in known), None)
    if found is not None:
        return found
    if given:
        raise UserError(f'--model: unknown model "{given}".{suggest(given, known)}')
    raise UserError(
        f"{file}: does not say which model it is of (its first tensor is {next(iter(state))}): "
        'pass --model NAME; "benco models" lists them'
    )


def _looks_like(state: Mapping[str, Tensor]) -> str:
    # What DistributedDataParallel put before the names says nothing.
    return guess_model(name.removeprefix("module.") for name in state) or ""


def _own_header(
    own: object, state: dict[str, Tensor], file: Path
) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Undo `_as_upstream`: return the header of a file of this package, and its own tensors."""
    header = own.get("header") if isinstance(own, Mapping) else None
    added = own.get("added") if isinstance(own, Mapping) else None
    texts = isinstance(header, dict) and all(isinstance(text, str) for text in header.values())
    if not (texts and isinstance(added, list) and "model" in header):  # type: ignore[operator]
        raise UserError(f"{file}: its {OWN_HEADER} is damaged: not converted")
    return dict(header), {name: value for name, value in state.items() if name not in added}  # type: ignore[arg-type]


# --- back ----------------------------------------------------------------------------------------


def _to_pickle(source: Path, target: Path, model: str) -> Conversion:
    checkpoint = read_safetensors(source)
    header = {name: str(text) for name, text in checkpoint.metadata.items()}
    if model and model != header.get("model"):
        raise UserError(f'--model {model}: {source} is of "{header.get("model", "")}"')
    origin = recorded_json(header, ORIGIN, str(source))
    if origin is None:
        content, notes = _as_upstream(checkpoint.state, header, source)
    else:
        content, notes = _as_it_was(checkpoint.state, origin, source), []
    with atomic_path(target) as temporary:
        try:
            torch.save(content, temporary)
        except RuntimeError as error:  # what PyTorch makes of a write that failed
            reason = str(error).splitlines()[0]
            raise UserError(f"cannot write {target} (is the disk full?): {reason}") from error
    return _conversion(source, target, header.get("model", ""), checkpoint.state, notes)


def _as_it_was(state: dict[str, Tensor], origin: object, file: Path) -> dict[str, Any]:
    """Return what torch.save is given for a file that was converted from a checkpoint of theirs.

    Raises:
        UserError: What its header says of that is damaged.
    """
    wrapper = origin.get("wrapper") if isinstance(origin, dict) else None
    args = origin.get("args", {}) if isinstance(origin, dict) else None
    if wrapper not in ("", *_WRAPPERS) or not isinstance(args, dict):
        raise UserError(f"{file}: {ORIGIN} in its header is damaged: not converted")
    if not wrapper:
        return dict(state)
    beside: dict[str, Any] = {}
    if "epoch" in origin:  # type: ignore[operator]
        beside["epoch"] = origin["epoch"]  # type: ignore[index]
    if "args" in origin:  # type: ignore[operator]
        beside["args"] = argparse.Namespace(**args)
    return {str(wrapper): state, **beside}


def _as_upstream(
    state: dict[str, Tensor], header: dict[str, str], file: Path
) -> tuple[dict[str, Any], list[str]]:
    """Return what upstream's scripts load for a SparseViT that was trained here.

    Raises:
        UserError: It is another model, or one that upstream's class cannot build.
    """
    if header.get("model") != "SparseViT":
        raise UserError(
            f'{file}: is of "{header.get("model", "")}" and was made by no benco convert: only '
            "SparseViT has the names that IMDLBenCo gives its tensors"
        )
    arguments = recorded_json(header, "model_arguments", str(file)) or {}
    _refuse_other_function(arguments, file)
    theirs = _upstream_tensors()
    added = {
        name: torch.zeros_like(value)
        for name, value in theirs.items()
        if name not in state and DEAD_KEYS.fullmatch(name)
    }
    whole = {**state, **added}
    differing = [
        name
        for name in {**theirs, **whole}
        if name not in whole or name not in theirs or whole[name].shape != theirs[name].shape
    ]
    if differing:
        raise UserError(
            f"{file}: IMDLBenCo's SparseViT has no such tensors, or others: {_some(differing)}: "
            "not converted"
        )
    epochs = header.get("epochs_done", "")
    content = {
        "model": {name: whole[name] for name in theirs},
        **({"epoch": int(epochs) - 1} if epochs.isdecimal() else {}),
        "args": argparse.Namespace(model="SparseViT"),
        OWN_HEADER: {"header": header, "added": sorted(added)},
    }
    return content, [
        f"{len(added)} tensors that IMDLBenCo's class holds and never uses were added as zeros."
    ]


def _refuse_other_function(arguments: Mapping[str, Any], file: Path) -> None:
    """Refuse constructor arguments that change what equal tensors compute; upstream has none."""
    fixed: dict[str, Callable[[Any], bool]] = {
        "s_blocks3": lambda value: list(value) == [8, 4, 2, 1],
        "s_blocks4": lambda value: list(value) == [2, 1],
        "head": lambda value: value == "lff",
        "extractor": lambda value: value == "none",
        "taps3": lambda value: not value,
        "taps4": lambda value: not value,
    }
    for name, holds in fixed.items():
        if name in arguments and not holds(arguments[name]):
            raise UserError(
                f"{file}: was built with {name} {arguments[name]}, which IMDLBenCo's SparseViT "
                "does not have: not converted"
            )


def _upstream_tensors() -> dict[str, Tensor]:
    """Return the tensors of IMDLBenCo's own SparseViT, without values."""
    import contextlib
    import io

    from sparsevit_plugin.registration import get_model_class

    build = get_model_class("SparseViT_upstream")
    with contextlib.redirect_stdout(io.StringIO()):  # it prints a line per block
        model = build()
    return dict(model.state_dict())


def _conversion(
    source: Path, target: Path, model: str, state: Mapping[str, Tensor], notes: list[str]
) -> Conversion:
    values = sum(value.numel() for value in state.values())
    return Conversion(source, target, model, len(state), values, tuple(notes))


def _some(names: list[str]) -> str:
    more = ", ..." if len(names) > _EXAMPLES else ""
    return ", ".join(f'"{name}"' for name in names[:_EXAMPLES]) + more
