"""`from_pretrained`, `save_pretrained` and `push_to_hub` of the SparseViT models.

They are huggingface_hub's, with these differences: files are written whole or not at all, weights
that do not fit are refused, nothing but safetensors is read, the model card says what is known, and
failures of the network are one line. The constructor is left as it is: IMDLBenCo's and the
plugin's own command lines read its signature.
"""

# IMDLBenCo evaluates annotations of constructors in the module of a model; none is here.

from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import ModelCard, PyTorchModelHubMixin
from torch import nn

from sparsevit_plugin.hub.config import (
    SECTION,
    WEIGHTS,
    HubConfig,
    from_dict,
    read_config,
    refuse_strange,
)
from sparsevit_plugin.hub.remote import hub_errors, weights_of
from sparsevit_plugin.model.weights import load_into, save_safetensors

Model = TypeVar("Model", bound="HubModel")

SUPERSEDED = ("pretrained_path",)
"""Arguments that name files which the stored weights supersede."""


class HubModel(PyTorchModelHubMixin):
    """What a model inherits beside `nn.Module` to follow Hugging Face's conventions.

    The model has an attribute `img_size`, the side of its training images in pixels.
    """

    @classmethod
    def from_pretrained(
        cls: type[Model],
        pretrained_model_name_or_path: str | Path,
        *,
        force_download: bool = False,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        revision: str | None = None,
        strict: bool = True,
        map_location: str = "cpu",
        **model_kwargs: Any,  # noqa: ANN401
    ) -> Model:
        """Build the model that a folder or repository holds, and load its weights.

        Args:
            pretrained_model_name_or_path: A model folder, the folder or a weights file of a run, or
                a repository of the Hugging Face Hub.
            force_download: Whether to fetch again what is in the cache.
            token: For private repositories; None for that of `hf auth login`.
            cache_dir: Where repositories are kept; None for Hugging Face's own cache.
            local_files_only: Whether to take a repository from the cache alone.
            revision: Of a repository: branch, tag or commit.
            strict: Whether every tensor of the file and of the model must find its counterpart.
            map_location: The device that the model is put on.
            **model_kwargs: Arguments of the constructor, in place of those that are stored.

        Returns:
            The model, in evaluation mode.

        Raises:
            UserError: There is no such model, or its weights do not fit this class.
        """
        weights = weights_of(
            str(pretrained_model_name_or_path),
            force_download=force_download,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            revision=revision,
        )
        config = read_config(weights)
        refuse_strange(config, cls, str(pretrained_model_name_or_path))
        model = cls(**{**config.arguments, **model_kwargs})
        load_into(model, weights, strict=strict)
        model._hub_mixin_config = {**_arguments(model), SECTION: config.to_dict()[SECTION]}
        return model.to(map_location).eval()

    def push_to_hub(self, repo_id: str, **how: Any) -> str:  # noqa: ANN401 (of huggingface_hub)
        """Push the model to the Hugging Face Hub.

        Args:
            repo_id: The repository, OWNER/NAME; made where it is missing.
            **how: As `huggingface_hub.PyTorchModelHubMixin.push_to_hub` takes them.

        Returns:
            The commit's address.

        Raises:
            UserError: The Hub refuses or cannot be reached.
        """
        with hub_errors(f"{repo_id}: not pushed to Hugging Face"):
            return str(super().push_to_hub(repo_id, **how))

    def generate_model_card(self, *_: object, **more: Any) -> ModelCard:  # noqa: ANN401
        """Return the model card: the model as it is; of its training nothing is known here.

        Args:
            **more: `licence`, an SPDX identifier for the weights.
        """
        from sparsevit_plugin.hub.card import card_text
        from sparsevit_plugin.hub.facts import Facts

        facts = Facts(type(self).__name__, _config(self), _parameters(self))
        return ModelCard(card_text(facts, licence=more.get("licence")))

    def _save_pretrained(self, save_directory: Path) -> None:
        """Write weights and configuration, each whole or not at all."""
        config = _config(self)
        save_safetensors(self, save_directory / WEIGHTS, config.to_metadata())
        config.write(save_directory)


def _arguments(model: HubModel) -> dict[str, Any]:
    """Return the constructor's arguments, without those that name superseded files."""
    stored = dict(model._hub_mixin_config or {})
    superseded = {name: None for name in SUPERSEDED if name in stored}
    return {name: value for name, value in {**stored, **superseded}.items() if name != SECTION}


def _config(model: HubModel) -> HubConfig:
    """Return what `config.json` says of a model; how it is fed follows its card where unknown."""
    from sparsevit_plugin.cards import load_model_card

    loaded = from_dict(model._hub_mixin_config or {}, Path())
    name = loaded.model or type(model).__name__
    card = load_model_card(name)
    options = {
        "image_size": model.img_size,
        "fit": card.fit if card else "resize",
        "edge_mask_width": card.edge_mask_width if card else None,
        **loaded.options,
    }
    return HubConfig(_arguments(model), name, options)


def _parameters(model: HubModel) -> int:
    assert isinstance(model, nn.Module)  # noqa: S101 (what inherits from this)
    return sum(parameter.numel() for parameter in model.parameters())
