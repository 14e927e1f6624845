"""`timm:NAME` and `timm:NAME.TAG` in the place of a model card: any backbone of timm's.

The word makes a card as a file would, so that whatever takes a card's name takes it.

    >>> timm_card("timm:resnet18").arguments
    {'backbone': 'resnet18'}
"""

import functools
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from sparsevit_plugin.errors import UserError, suggest

if TYPE_CHECKING:
    from sparsevit_plugin.cards.models import ModelCard, WeightFile

PREFIX: Final = "timm:"
_LOCALISER: Final = "TimmLocaliser"
_ARGUMENT: Final = "pretrained_path"
_HUB_FILE: Final = "model.safetensors"
_NEAREST: Final = 3


def is_timm_word(name: str) -> bool:
    """Say whether a model's name means a backbone of timm's."""
    return name.startswith(PREFIX)


@functools.cache
def timm_card(word: str) -> "ModelCard":
    """Return the card that a word stands for.

    Raises:
        UserError: timm has no such model, or no such pretraining; names the closest.
    """
    from sparsevit_plugin.cards.models import ModelCard, Smallest

    name = word.removeprefix(PREFIX)
    check_backbone(name)
    weights = _weights(name)
    licence = _settings(name).get("license") or "not stated"
    started = f"Its weights' licence: {licence}." if weights else "timm has no weights for it."
    return ModelCard(
        name=word,
        model=_LOCALISER,
        title=f"{name} of timm with a plain head",
        source="sparsevit_plugin.zoo.timm_localiser; the backbone is timm's",
        licence="Apache-2.0",
        arguments={"backbone": name},
        image_size=512,
        fit="resize",
        weights=weights,
        recipe="benco-backbone",
        smallest=Smallest(image_size=64, arguments={"width": 16}),
        notes=f"Not a published model: a plain baseline, made from its name alone. {started}",
    )


def check_backbone(name: str) -> None:
    """Refuse a name, or a tag behind it, that timm does not have.

    Raises:
        UserError: Names the closest three.
    """
    import timm

    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture) or ":" in name:
        known = timm.list_models()
        raise UserError(
            f'timm {timm.__version__} has no "{name}".{suggest(architecture, known, _NEAREST)} '
            f'Its {len(known)} names: python -c "import timm; print(*timm.list_models())"'
        )
    tags = _tags(architecture) if tag else [tag]
    if tag not in tags:
        raise UserError(
            f'timm {timm.__version__} knows no weights "{tag}" of {architecture}.'
            f"{suggest(tag, tags, _NEAREST)} It knows: {', '.join(tags) or 'none'}"
        )


def _tags(architecture: str) -> list[str]:
    """Return the pretrainings that timm knows of a model."""
    import timm

    names: Iterable[str] = timm.list_models(f"{architecture}*", pretrained=True)
    return [name.partition(".")[2] for name in names if name.startswith(f"{architecture}.")]


def _settings(name: str) -> Mapping[str, Any]:
    """Return what timm knows of a model's weights; of the ones it takes first without a tag."""
    import timm

    settings = timm.get_pretrained_cfg(name)
    found: dict[str, Any] = settings.to_dict() if settings is not None else {}
    return found


def _weights(name: str) -> "list[WeightFile]":
    """Return the files that a backbone may start from: timm's on the Hub, and the authors' own."""
    settings = _settings(name)
    files = []
    repository, tag = settings.get("hf_hub_id"), settings.get("tag")
    if repository and not settings.get("custom_load"):
        file = settings.get("hf_hub_filename") or _HUB_FILE
        named = f"{name.partition('.')[0]}.{tag}{file[file.rindex('.') :]}" if tag else file
        where = f"{file} of https://huggingface.co/{repository}, under this name"
        files.append(_file(named, where, hub=f"{repository}/{file}"))
    if settings.get("url") and not settings.get("custom_load"):
        files.append(_file(settings["url"].rpartition("/")[2], settings["url"]))
    return files


def _file(name: str, where: str, hub: str = "") -> "WeightFile":
    from sparsevit_plugin.cards.models import WeightFile

    return WeightFile(argument=_ARGUMENT, name=name, where=where, hub=hub, needed=False)
