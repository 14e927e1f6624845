"""The model that a manifest tells of, as the words of a command that builds it again."""

from collections.abc import Mapping
from typing import Any

from sparsevit_plugin.cards import ModelCard, load_model_card
from sparsevit_plugin.errors import UserError
from sparsevit_plugin.harness.options import show, written


def recorded_model(manifest: Mapping[str, Any]) -> str:
    """Return the registered name of a manifest's model; a row may have a name of its own."""
    return str(manifest.get("registered_model") or manifest.get("model") or "")


def recorded_arguments(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return the constructor arguments of a manifest's model without its files of weights.

    Such a file is what the card calls one, and any text under a name with "path". Mappings, which
    no word of a command gives, are left out too.
    """
    arguments = manifest.get("model_arguments")
    if not isinstance(arguments, Mapping):
        return {}
    try:
        card = load_model_card(recorded_model(manifest))
    except UserError:
        card = None
    return {
        str(name): value
        for name, value in arguments.items()
        if _is_plain(value) and not _is_file(str(name), value, card)
    }


def _is_file(name: str, value: object, card: ModelCard | None) -> bool:
    is_known = card is not None and name in card.weight_arguments
    return is_known or ("path" in name and isinstance(value, str))


def _is_plain(value: object) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, str | int | float)


def recorded_words(manifest: Mapping[str, Any], side: int | None = None) -> list[str]:
    """Return the words of a `benco test` command whose model is a manifest's, without its weights.

    Args:
        manifest: Of stored rows.
        side: Of the input, pixels; None for the one that the rows were made at.
    """
    side = side or manifest.get("image_size")
    size = ["--image-size", str(side)] if side else []
    return ["--model", recorded_model(manifest), *size, *fed_words(manifest)]


def fed_words(manifest: Mapping[str, Any]) -> list[str]:
    """Return those of the words that are neither the model's name nor the size of its input."""
    fit = ["--fit", str(manifest["fit"])] if manifest.get("fit") else []
    arguments = recorded_arguments(manifest)
    return [*fit, *(f"{written(name)}={show(value)}" for name, value in arguments.items())]
