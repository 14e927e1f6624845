"""`config.json` of a model folder: the constructor's arguments, and what `benco` needs beside them.

The arguments stand at the top, as `huggingface_hub.PyTorchModelHubMixin` has them. One more key,
`sparsevit_plugin`, says which registered model they are of and how photographs are fed to it.
"""

import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from sparsevit_plugin.errors import UserError
from sparsevit_plugin.files import parse_json, write_json_atomic

CONFIG: Final = "config.json"
WEIGHTS: Final = "model.safetensors"
CARD: Final = "README.md"
FILES: Final = (CONFIG, WEIGHTS, CARD)
"""What a model folder holds."""

SECTION: Final = "sparsevit_plugin"
_FORMAT: Final = 1


@dataclass(frozen=True)
class HubConfig:
    """What `config.json` says.

    Attributes:
        arguments: Of the constructor.
        model: The registered model; empty where the file was written by another program.
        options: How photographs are fed to it: `image_size`, `fit`, `edge_mask_width`.
    """

    arguments: dict[str, Any]
    model: str = ""
    options: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the file's content."""
        from sparsevit_plugin.zoo.adapter import IMAGE_MEAN, IMAGE_STD

        section = {
            "format": _FORMAT,
            "model": self.model,
            "options": self.options,
            "normalisation": {"mean": list(IMAGE_MEAN), "std": list(IMAGE_STD)},
        }
        return {**self.arguments, SECTION: section}

    def to_metadata(self) -> dict[str, str]:
        """Return the same as the header of a weights file has it."""
        return {
            "model": self.model,
            "model_arguments": json.dumps(self.arguments),
            "options": json.dumps(self.options),
        }

    def write(self, folder: Path) -> None:
        """Write `config.json`.

        Raises:
            UserError: It cannot be written, or an argument has no form in JSON.
        """
        try:
            write_json_atomic(folder / CONFIG, self.to_dict())
        except (TypeError, ValueError) as error:
            raise UserError(f"{folder / CONFIG}: an argument cannot be stored: {error}") from error


def from_dict(content: Mapping[str, Any], path: Path) -> HubConfig:
    """Return what the content of a `config.json` says.

    Raises:
        UserError: It was written by a newer version, or its section is none.
    """
    section = content.get(SECTION) or {}
    if not isinstance(section, dict):
        raise UserError(f'{path}: "{SECTION}" must hold a JSON object')
    options, written = section.get("options") or {}, section.get("format", _FORMAT)
    if not (isinstance(options, dict) and isinstance(written, int)):
        raise UserError(f'{path}: "{SECTION}" is damaged: fetch or save the model again')
    if written > _FORMAT:
        raise UserError(f"{path} was written by a newer version: upgrade sparsevit-plugin")
    return HubConfig(
        arguments={name: value for name, value in content.items() if name != SECTION},
        model=str(section.get("model") or ""),
        options=dict(options),
    )


def from_metadata(metadata: Mapping[str, Any]) -> HubConfig:
    """Return what the header of a weights file says.

    Raises:
        UserError: It is damaged.
    """
    from sparsevit_plugin.model.weights import recorded_json

    return HubConfig(
        arguments=recorded_json(metadata, "model_arguments") or {},
        model=str(metadata.get("model") or ""),
        options=recorded_json(metadata, "options") or {},
    )


def refuse_strange(config: HubConfig, model: Callable[..., Any], word: str) -> None:
    """Refuse stored arguments that a model's constructor does not have.

    Args:
        config: What was stored.
        model: The model's class, or what builds it.
        word: What the user named.

    Raises:
        UserError: There are some.
    """
    taken = inspect.signature(model).parameters
    if any(one.kind is inspect.Parameter.VAR_KEYWORD for one in taken.values()):
        return
    strange = sorted(config.arguments.keys() - taken.keys())
    if not strange:
        return
    name = str(getattr(model, "__name__", config.model))
    other = config.model not in ("", name)
    raise UserError(
        f"{word}: {name} has no argument {', '.join(strange)}"
        + (
            f"; it is {config.model}: load it by sparsevit_plugin.hub.load"
            if other
            else f": {CONFIG} was changed, or is of another version of sparsevit-plugin"
        )
    )


def read_config(weights: Path) -> HubConfig:
    """Read `config.json` beside a weights file; without one, the file's own header.

    Raises:
        UserError: One of them is damaged.
    """
    path = weights.with_name(CONFIG)
    if weights.name != WEIGHTS or not path.is_file():
        from sparsevit_plugin.model.weights import read_checkpoint

        return from_metadata(read_checkpoint(weights).metadata)
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}): fetch or save the model again") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is no configuration: it must hold a JSON object")
    return from_dict(content, path)
