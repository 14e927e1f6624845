"""Read, write and check weights: safetensors, plain and IMDLBenCo checkpoints, UniFormer's.

Nothing here runs code from a file: pickles go through torch's restricted loader, with
`argparse.Namespace` (which IMDLBenCo stores beside the weights) as the only addition to what it
accepts.
"""

import argparse
import json
import pickle
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from sparsevit_plugin.errors import UserError
from sparsevit_plugin.files import atomic_path, parse_json
from sparsevit_plugin.model.blocks import reset_linear_or_norm

ALLOWED_GLOBALS: list[Callable | tuple[Callable, str]] = [argparse.Namespace]
"""What a pickle may name besides torch's own allow-list."""

KEEP = ("all", "upstream")
"""What stays of UniFormer's weights: see `load_uniformer`."""

DEAD_KEYS = re.compile(r"encoder_net\.(blocks[34]\.\d+\.pos_embed|norm[12])\.(weight|bias)")
"""Tensors that IMDLBenCo's SparseViT holds and never uses."""

WRAPPERS = ("module.", "_orig_mod.")
"""Prefixes that DistributedDataParallel and torch.compile put before every key."""

# One tensor-name prefix per model that no other model of the list has, most telling first.
MODEL_MARKS = {
    "SparseViT": ("encoder_net.blocks3.", "lmu."),
    "UniFormer": ("blocks4.0.pos_embed.", "backbone.blocks4.0.pos_embed."),
    "IML_ViT": ("featurePyramid_net.",),
    "Mesorch": ("high_dct.", "low_dct.", "convnext."),
    "MSCDI_Net": ("segformer.",),
    "Trufor": ("model.dncnn.", "dncnn."),
    "MVSSNet": ("erb_db_1.",),
    "Cat_Net": ("model.dc_layer0_dil.", "dc_layer0_dil."),
    "MantraNet": ("IMTFE.",),
    "ObjectFormer": ("encoder_net_r.",),
    "PSCC_Net": ("FENet.", "SegNet.", "ClsNet."),
    "SPAN": ("featex.", "pixel_attention."),
}


@dataclass(frozen=True)
class Checkpoint:
    """What a weights file holds.

    Attributes:
        state: Tensors by name, on the CPU.
        metadata: What stands beside them: a safetensors header, or the epoch and arguments of a
            checkpoint.
    """

    state: dict[str, Tensor]
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class LoadReport:
    """Which tensors of a file went into a model.

    Attributes:
        path: The file.
        loaded: Tensors that the model holds as the file has them.
        missing: Tensors of the model that the file lacks.
        unexpected: Tensors of the file for which the model has no place.
        skipped: Tensors left out because their shapes differ.
        dropped: Tensors of the file that no forward pass uses, left out on purpose.
        reinitialised: Tensors that were loaded and then drawn afresh; none of them is in `loaded`.
        notes: What a reader of the result should know, one sentence each.
    """

    path: str
    loaded: tuple[str, ...]
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    reinitialised: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def counts(self) -> dict[str, int]:
        """Return the number of tensors of each kind."""
        return {
            kind: len(keys)
            for kind, keys in asdict(self).items()
            if isinstance(keys, tuple) and kind != "notes"
        }

    def summary(self) -> str:
        """Return one line: counts that are not zero, then the notes."""
        counts = ", ".join(f"{number} {kind}" for kind, number in self.counts().items() if number)
        return " ".join([f"{self.path}: {counts} tensors.", *self.notes])

    def to_dict(self) -> dict[str, Any]:
        """Return what a run manifest keeps: every key, and the counts."""
        return {"counts": self.counts(), **asdict(self)}


def read_checkpoint(path: str | PathLike[str]) -> Checkpoint:
    """Read the tensors of a weights file onto the CPU, running nothing from it.

    It is of safetensors or of torch.save, and may have any name. A pickled file may be a plain
    state dict, or hold one under `model`, `state_dict` or `network`.
    A prefix that DistributedDataParallel or torch.compile put before every key is removed.

    Raises:
        UserError: There is no such file, it is no checkpoint, it is damaged, or it would run code.
    """
    file = Path(path)
    if not file.is_file():
        raise UserError(f"{file}: no such weights file.")
    safe = is_safetensors(file) or file.suffix == ".safetensors"
    try:
        checkpoint = (read_safetensors if safe else _read_checkpoint)(file)
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror or error}.") from error
    if not checkpoint.state:
        raise UserError(f"{file}: holds no tensors by name, so it is no checkpoint of a model.")
    return Checkpoint(_unwrap(checkpoint.state), checkpoint.metadata)


def recorded_json(metadata: Mapping[str, Any], key: str, where: str = "the weights file") -> Any:  # noqa: ANN401 - any JSON
    """Return what a weights file's header holds as JSON under a name; None where it is not there.

    Args:
        metadata: The header.
        key: The name; `options` and `model_arguments` are JSON objects.
        where: The file, for the error.

    Raises:
        UserError: It is damaged.
    """
    text = metadata.get(key)
    if not text:
        return None
    try:
        value = parse_json(text)
    except (ValueError, TypeError) as error:
        raise UserError(f"{where}: {key} in its header is damaged ({error}).") from error
    if key in ("options", "model_arguments") and not isinstance(value, dict):
        raise UserError(f"{where}: {key} in its header is no JSON object.")
    return value


def load_into(model: nn.Module, path: str | PathLike[str], *, strict: bool = True) -> LoadReport:
    """Load a file's weights into any model.

    Tensors of old SparseViT checkpoints that nothing uses (`DEAD_KEYS`) are left out, and not asked
    for. A model that gives other names than its authors' checkpoints have offers a method
    `from_published`, which takes and returns a state dict.

    Args:
        model: Where to.
        path: A file that `read_checkpoint` reads.
        strict: Whether every tensor of the file and of the model must find its counterpart.

    Raises:
        UserError: The file cannot be read; it belongs to another model; or, with `strict`, to
            another configuration of this one. The model is unchanged then.
    """
    state = _match_prefix(_own_names(read_checkpoint(path).state, model), model)
    report = _compare(model, state, path, dead=DEAD_KEYS)
    if not report.loaded:
        raise UserError(f"{path}: not one tensor fits {_name(model)}; {_origin(state)}.")
    missing = [key for key in report.missing if not DEAD_KEYS.fullmatch(key)]
    if strict and (missing or report.unexpected or report.skipped):
        raise UserError(_mismatch(report, missing, state, model))
    _fill(model, state, report)
    return report


def load_uniformer(backbone: nn.Module, path: str | PathLike[str], keep: str = "all") -> LoadReport:
    """Start a SparseViT backbone from UniFormer's ImageNet weights.

    UniFormer has no convolution in its attention blocks' MLPs and no norm behind stages 3 and 4, so
    those keep their initialisation. Its classifier, its last norm and the position convolutions of
    its attention blocks have no place in SparseViT.

    Args:
        backbone: A `SparseViTBackbone`.
        path: For instance uniformer_base_ls_in1k.pth; a `backbone.` prefix is removed.
        keep: "all" keeps what was loaded. "upstream" then draws every Linear and LayerNorm afresh,
            as IMDLBenCo 0.1.45 and the official repository do, which leaves 6 % of Base's
            parameters pretrained.

    Raises:
        UserError: The file cannot be read or holds no UniFormer weights that fit.
    """
    state = {
        key.removeprefix("backbone."): value for key, value in read_checkpoint(path).state.items()
    }
    dead = re.compile(r"blocks[34]\.\d+\.pos_embed\.(weight|bias)|head\.(weight|bias)|norm\.\w+")
    report = _compare(backbone, state, path, dead=dead)
    if not any(key.startswith("patch_embed1.") for key in report.loaded):
        raise UserError(
            f"{path}: no UniFormer weights that fit this backbone; {_origin(state)}."
            + (" Load it with --checkpoint." if "SparseViT" in _origin(state) else "")
        )
    _fill(backbone, state, report)
    fresh = _reinitialise(backbone) if keep == "upstream" else set()
    return LoadReport(
        path=report.path,
        loaded=tuple(key for key in report.loaded if key not in fresh),
        missing=report.missing,
        unexpected=report.unexpected,
        skipped=report.skipped,
        dropped=report.dropped,
        reinitialised=tuple(key for key in report.loaded if key in fresh),
        notes=tuple(_uniformer_notes(report, fresh)),
    )


def save_safetensors(
    weights: nn.Module | Mapping[str, Tensor],
    path: str | PathLike[str],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write weights as safetensors, whole or not at all.

    Args:
        weights: A model, or its state dict; copied to the CPU.
        path: The file to make or replace.
        metadata: Strings for the file's header.
    """
    state = weights.state_dict() if isinstance(weights, nn.Module) else weights
    # The format refuses tensors that share memory, as tied weights do, hence a copy of each.
    copies = {
        key: torch.empty_like(value, device="cpu", memory_format=torch.contiguous_format).copy_(
            value
        )
        for key, value in state.items()
    }
    with atomic_path(Path(path)) as temporary:
        try:
            safetensors.torch.save_file(copies, temporary, {"format": "pt", **(metadata or {})})
        except safetensors.SafetensorError as error:  # what it makes of a write that failed
            raise UserError(f"cannot write {path} (is the disk full?): {error}") from error
        _sort_header(temporary)


def _sort_header(file: Path) -> None:
    """Bring the header of a safetensors file into one order, within its place.

    The library writes the metadata in an order that differs from process to process, and files of
    equal weights would have different hashes.
    """
    with file.open("rb+") as opened:
        length = int.from_bytes(opened.read(8), "little")
        header = json.loads(opened.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) <= length:  # else the library has escaped less than JSON asks for
            opened.seek(8)
            opened.write(text.ljust(length))


def guess_model(keys: Iterable[str]) -> str | None:
    """Return the name of the model whose tensors these are, or None where they do not tell."""
    names = tuple(keys)
    for model, marks in MODEL_MARKS.items():
        if any(name.startswith(marks) for name in names):
            return model
    return None


def is_safetensors(file: Path) -> bool:
    """Tell by a file's first bytes (a length of eight, then JSON): its name may be any.

    Raises:
        UserError: It cannot be read.
    """
    try:
        with file.open("rb") as opened:
            return opened.read(9)[8:] == b"{"
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror or error}.") from error


def read_safetensors(file: Path) -> Checkpoint:
    """Read a safetensors file onto the CPU, its names as they stand.

    Raises:
        UserError: It is none, or damaged.
    """
    try:
        with safetensors.safe_open(file, framework="pt", device="cpu") as opened:
            names = opened.keys()
            state = {name: opened.get_tensor(name) for name in names}
            return Checkpoint(state, dict(opened.metadata() or {}))
    except safetensors.SafetensorError as error:
        raise UserError(f"{file}: no safetensors file, or a damaged one ({error}).") from error


def read_pickle(file: Path) -> dict[Any, Any]:
    """Read what a file of torch.save holds onto the CPU, running nothing from it.

    Raises:
        UserError: It is none, damaged, would run code, or holds no dict.
    """
    try:
        with torch.serialization.safe_globals(ALLOWED_GLOBALS), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # odd pickle protocols; the error says it
            content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(f"{file}: {_refusal(str(error))}") from error
    except Exception as error:  # damaged bytes make the unpickler raise whatever it stumbles over
        raise UserError(f"{file}: truncated or damaged, or no checkpoint at all.") from error
    if not isinstance(content, dict):
        raise UserError(f"{file}: holds a {type(content).__name__}, not the weights of a model.")
    return content


def _read_checkpoint(file: Path) -> Checkpoint:
    return _from_content(read_pickle(file))


def _refusal(message: str) -> str:
    """Say in a few words why torch's restricted loader would not read a file."""
    found = re.search(r"GLOBAL\s+([\w.]+)", message) or re.search(
        r"type\(s\)?.*?`?([\w.]+\.[\w.]+)`?", message
    )
    if found:
        return f"refused, because loading it would run code ({found[1]})."
    return "not a checkpoint (neither safetensors nor a file of torch.save)."


def _from_content(content: dict[Any, Any]) -> Checkpoint:
    """Find the state dict in what a pickle held."""
    metadata: dict[str, Any] = {}
    for key in ("model", "state_dict", "network"):
        if isinstance(content.get(key), Mapping):
            if "epoch" in content:
                metadata["epoch"] = content["epoch"]
            if isinstance(content.get("args"), argparse.Namespace):
                metadata["args"] = vars(content["args"])
            content = content[key]
            break
    state = {
        key: value
        for key, value in content.items()
        if isinstance(key, str) and isinstance(value, Tensor)
    }
    return Checkpoint(state, metadata)


def _unwrap(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Remove the prefixes of wrappers from keys that all carry them."""
    for prefix in WRAPPERS * len(WRAPPERS):
        if all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def _own_names(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Bring the names of a published checkpoint to the model's, where the model knows how."""
    translate: Callable[[dict[str, Tensor]], Mapping[str, Tensor]] | None
    translate = getattr(model, "from_published", None)
    return state if translate is None else dict(translate(state))


def _match_prefix(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Remove `backbone.` from every key where that is what makes the keys the model's."""
    names = model.state_dict().keys()
    bare = {key.removeprefix("backbone."): value for key, value in state.items()}
    if len(bare.keys() & names) > len(state.keys() & names):
        return bare
    return state


def _compare(
    model: nn.Module, state: Mapping[str, Tensor], path: str | PathLike[str], dead: re.Pattern[str]
) -> LoadReport:
    """Sort the tensors of a file by what will become of them."""
    own = model.state_dict()
    shared = [key for key in own if key in state]
    strange = [key for key in state if key not in own]
    return LoadReport(
        path=str(path),
        loaded=tuple(key for key in shared if own[key].shape == state[key].shape),
        skipped=tuple(key for key in shared if own[key].shape != state[key].shape),
        missing=tuple(key for key in own if key not in state),
        unexpected=tuple(key for key in strange if not dead.fullmatch(key)),
        dropped=tuple(key for key in strange if dead.fullmatch(key)),
    )


def _fill(model: nn.Module, state: Mapping[str, Tensor], report: LoadReport) -> None:
    model.load_state_dict({key: state[key] for key in report.loaded}, strict=False)


def _reinitialise(backbone: nn.Module) -> set[str]:
    """Draw every Linear and LayerNorm afresh; return the names of their tensors."""
    return {
        f"{name}.{tensor}"
        for name, module in backbone.named_modules()
        if reset_linear_or_norm(module)
        for tensor, _ in module.named_parameters(recurse=False)
    }


def _uniformer_notes(report: LoadReport, fresh: set[str]) -> list[str]:
    notes = []
    absent = [key for key in report.missing if ".gamma_" in key]
    if absent:
        notes.append(
            f"The file has no layer-scale tensors ({len(absent)} expected): these weights come "
            "from a UniFormer without layer scale, and the scales keep their initial value."
        )
    if fresh:
        notes.append("Every Linear and LayerNorm was drawn afresh after loading, as upstream does.")
    return notes


def _mismatch(
    report: LoadReport, missing: list[str], state: Mapping[str, Tensor], model: nn.Module
) -> str:
    """Say in one line how a file and a model differ, and whose weights they may be."""
    origin = _origin(state)
    if guess_model(state) == guess_model(model.state_dict()) is not None:
        origin = "it looks like the same model in another configuration"
    parts = [
        f"{len(keys)} {what} (first: {keys[0]})"
        for what, keys in (
            ("missing", missing),
            ("unexpected", report.unexpected),
            ("of another shape", report.skipped),
        )
        if keys
    ]
    return f"{report.path}: does not fit {_name(model)}: tensors {', '.join(parts)}; {origin}."


def _origin(state: Mapping[str, Tensor]) -> str:
    model = guess_model(state)
    return (
        f"it looks like weights of {model}" if model else f"its first tensor is {next(iter(state))}"
    )


def _name(model: nn.Module) -> str:
    return type(model).__name__
