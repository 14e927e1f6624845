"""From a model folder or a repository to a model with its weights."""

from pathlib import Path
from typing import Any

from torch import nn

from sparsevit_plugin.errors import UserError
from sparsevit_plugin.hub.config import read_config, refuse_strange
from sparsevit_plugin.hub.remote import weights_of


def load(
    path_or_repo_id: str | Path,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    force_download: bool = False,
    token: str | bool | None = None,
    local_files_only: bool = False,
    **arguments: Any,  # noqa: ANN401
) -> nn.Module:
    """Build the registered model that a folder or repository is of, and load its weights.

    Args:
        path_or_repo_id: A model folder, a run's folder, a weights file of a run, or a repository of
            the Hugging Face Hub.
        revision: Of a repository: branch, tag or commit.
        cache_dir: Where repositories are kept; None for Hugging Face's own cache.
        force_download: Whether to fetch again what is in the cache.
        token: For private repositories; None for that of `hf auth login`.
        local_files_only: Whether to take a repository from the cache alone.
        **arguments: Of the constructor, in place of those that are stored.

    Returns:
        The model, on the CPU, in evaluation mode.

    Raises:
        UserError: There is no such model, it says not which it is, or the weights do not fit it.
    """
    from sparsevit_plugin.model.weights import load_into
    from sparsevit_plugin.registration import resolve_model

    how = {
        "revision": revision,
        "cache_dir": cache_dir,
        "force_download": force_download,
        "token": token,
        "local_files_only": local_files_only,
    }
    weights = weights_of(str(path_or_repo_id), **how)
    config = read_config(weights)
    if not config.model:
        raise UserError(
            f"{path_or_repo_id}: does not say which model it is of: build the model, then load "
            f"the weights by sparsevit_plugin.model.weights.load_into(model, {str(weights)!r})"
        )
    kind = resolve_model(config.model)[1].constructor
    refuse_strange(config, kind, str(path_or_repo_id))
    model = kind(**{**config.arguments, **arguments})
    load_into(model, weights)
    return model.eval()
