"""Real pretraining files for IMDLBenCo's models: read without running code, checked, put in place.

IMDLBenCo loads most of them with `strict=False`, which takes any file whatever. Here a file must
give every tensor of the part that it is meant for, but for those that the part is known to add.

    >>> load_pretrained(model.encoder_net, path, may_lack=r".*rel_pos_[hw]")  # doctest: +SKIP
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from sparsevit_plugin.errors import UserError
from sparsevit_plugin.model.weights import LoadReport, guess_model, read_checkpoint

# Counters that files from before PyTorch 0.4.1 do not have, and that BatchNorm sets itself.
_COUNTER = re.compile(r".*num_batches_tracked")


@dataclass
class PretrainingReport:
    """What each pretraining file of a model gave it.

    Attributes:
        parts: Report by constructor argument.
    """

    parts: dict[str, LoadReport] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return what a run manifest keeps: counts and file per argument."""
        return {
            argument: {"path": report.path, "counts": report.counts()}
            for argument, report in self.parts.items()
        }


def same_name(key: str) -> Iterable[str]:
    """Map a file's tensor to the part's tensor of the same name."""
    return (key,)


def load_pretrained(
    part: nn.Module,
    path: str,
    *,
    convert: Callable[[dict[str, Tensor], nn.Module], dict[str, Tensor]] | None = None,
    rename: Callable[[str], Iterable[str]] = same_name,
    adapt: Callable[[str, Tensor, Tensor], Tensor] | None = None,
    may_lack: str = "",
    least: float = 1.0,
) -> LoadReport:
    """Put a file's tensors into a part of a model.

    Tensors of the file for which the part has no place are left out and counted: classifiers,
    deeper stages and the like.

    Args:
        part: Where to.
        path: What `read_checkpoint` reads: safetensors, or a pickle with tensors only.
        convert: Called first, with the file's state dict and the part, for formats whose names
            depend on each other; one of timm's `checkpoint_filter_fn`, say.
        rename: Names in the part for a name in the file; none drops it, several copy it.
        adapt: Called with (name, tensor of the part, tensor of the file) where shapes differ;
            returns the tensor to load, or the file's own where it cannot help.
        may_lack: Pattern for whole names in the part that the file need not have.
        least: Share of the part's other tensors that the file must have.

    Returns:
        What was loaded, missing and left out; names are the part's, of the left out the file's.

    Raises:
        UserError: The file cannot be read, lacks tensors, or has one of another shape; the part is
            unchanged then.
    """
    own = part.state_dict()
    found: dict[str, Tensor] = {}
    strange: list[str] = []
    state = read_checkpoint(path).state
    for key, value in (state if convert is None else convert(state, part)).items():
        names = [name for name in rename(key) if name in own]
        for name in names:
            fits = adapt is None or own[name].shape == value.shape
            found[name] = value if fits or adapt is None else adapt(name, own[name], value)
        if not names:
            strange.append(key)
    optional = re.compile(may_lack)
    missing = [name for name in own if name not in found and not _COUNTER.fullmatch(name)]
    wanted = [name for name in missing if not optional.fullmatch(name)]
    shapes = [name for name, value in found.items() if value.shape != own[name].shape]
    needed = len(wanted) + len(found)
    if shapes or len(wanted) > (1 - least) * needed or not found:
        raise UserError(
            f"{path}: does not fit {type(part).__name__}: {_why(found, wanted, shapes)}"
        )
    part.load_state_dict(found, strict=False)
    return LoadReport(
        path=path, loaded=tuple(found), missing=tuple(missing), dropped=tuple(strange)
    )


def _why(found: dict[str, Tensor], wanted: list[str], shapes: list[str]) -> str:
    """Say what does not fit: the first name of each kind and their number."""
    if not found:
        return "none of its tensors has a place there"
    parts = [
        f"{len(names)} tensors {what} (first: {names[0]})"
        for what, names in (("missing", wanted), ("of another shape", shapes))
        if names
    ]
    model = guess_model(found)
    return ", ".join(parts) + (f"; it looks like weights of {model}" if model else "")
