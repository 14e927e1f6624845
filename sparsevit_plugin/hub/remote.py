"""The Hugging Face Hub: which words mean a repository, fetching one, pushing one.

Only `config.json`, `model.safetensors` and `README.md` are fetched, so nothing of a repository is
run. Every failure of the Hub or of the network becomes one line.
"""

import contextlib
import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from sparsevit_plugin.errors import UserError
from sparsevit_plugin.hub.config import CARD, CONFIG, FILES, WEIGHTS

_SCHEME: Final = "hf://"
_NAME: Final = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,95}"
_REPOSITORY: Final = re.compile(rf"({_NAME}/{_NAME})(?:@([\w./-]+))?")
_FILE_SUFFIXES: Final = frozenset({".bin", ".pt", ".pth", ".safetensors"})
_LIBRARIES: Final = frozenset(
    {"hf_xet", "httpcore", "httpcore2", "httpx", "httpx2", "huggingface_hub", "requests"}
)
"""What raises when the Hub or the network fails; the Hub's library has used several."""


def repository_of(word: str) -> tuple[str, str | None] | None:
    """Return the repository and the revision that a word means; None where it means a path.

    `hf://owner/name` always means a repository. `owner/name` does where there is no such path, nor
    a folder `owner`, and it does not end like a weights file. `@REVISION` may follow.

    Raises:
        UserError: What follows `hf://` is no repository.
    """
    named = word.startswith(_SCHEME)
    match = _REPOSITORY.fullmatch(word.removeprefix(_SCHEME))
    if named and not match:
        raise UserError(f"{word}: write hf://OWNER/NAME or hf://OWNER/NAME@REVISION")
    if match is None:
        return None
    path = Path(word)
    if not named and (
        path.exists() or Path(path.parts[0]).exists() or path.suffix.lower() in _FILE_SUFFIXES
    ):
        return None
    return match[1], match[2]


def weights_of(word: str, **how: Any) -> Path:  # noqa: ANN401 (of huggingface_hub)
    """Return the weights file of a model folder, a run's folder, a file, or a repository.

    Args:
        word: A path, or a repository as `repository_of` says.
        **how: For a repository: `revision`, `cache_dir`, `force_download`, `token`,
            `local_files_only`.

    Raises:
        UserError: There is no such thing, or it cannot be fetched.
    """
    from sparsevit_plugin.harness.testing import checkpoint_file

    repository = repository_of(word)
    if repository is not None:
        name, revision = repository
        return fetch(name, **{**how, "revision": how.get("revision") or revision}) / WEIGHTS
    return checkpoint_file(word)


@functools.cache
def fetched_weights(name: str, revision: str | None) -> Path:
    """Return the weights file of a repository; asks the Hub once in a process.

    Raises:
        UserError: It cannot be fetched.
    """
    return fetch(name, revision=revision) / WEIGHTS


def fetch(name: str, **how: Any) -> Path:  # noqa: ANN401 (of huggingface_hub)
    """Fetch a model's files into Hugging Face's cache, or find them there.

    Args:
        name: The repository.
        **how: As for `weights_of`.

    Returns:
        The folder.

    Raises:
        UserError: It cannot be fetched, or holds no `model.safetensors`.
    """
    import huggingface_hub

    with hub_errors(f"{name}: no such file or folder here, and not fetched from Hugging Face"):
        folder = Path(huggingface_hub.snapshot_download(name, allow_patterns=list(FILES), **how))
    if not (folder / WEIGHTS).is_file():
        raise UserError(
            f"{name}: the repository holds no {WEIGHTS}, so it is no model of this kind"
        )
    return folder


def fetch_file(name: str, file: str) -> Path:
    """Fetch one file of a repository into Hugging Face's cache, or find it there.

    What is in the cache is taken without asking the Hub.

    Raises:
        UserError: It is not there and cannot be fetched.
    """
    import huggingface_hub

    kept = huggingface_hub.try_to_load_from_cache(name, file)
    if isinstance(kept, str):
        return Path(kept)
    with hub_errors(f"{file} of {name}: not fetched from Hugging Face"):
        # Asked once first: a download tries for half a minute where there is no network.
        huggingface_hub.get_hf_file_metadata(huggingface_hub.hf_hub_url(name, file))
        return Path(huggingface_hub.hf_hub_download(name, file))


def push(
    folder: str | Path,
    name: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    message: str = "Model of sparsevit-plugin",
    token: str | None = None,
) -> str:
    """Push a model folder to the Hub; the repository is made where it is missing.

    Args:
        folder: What `benco hub save` or `save_pretrained` wrote.
        name: The repository, OWNER/NAME.
        private: Whether a repository that is made is private; None for the owner's default.
        revision: The branch; None for the main one.
        message: Of the commit.
        token: None for that of `hf auth login`.

    Returns:
        The commit's address.

    Raises:
        UserError: The folder is no model folder, or the Hub refuses.
    """
    import huggingface_hub

    folder = Path(folder)
    missing = [file for file in (CONFIG, WEIGHTS, CARD) if not (folder / file).is_file()]
    if missing:
        raise UserError(
            f"{folder}: no model folder, it has no {', '.join(missing)}: make one by benco hub save"
        )
    if not _REPOSITORY.fullmatch(name) or "@" in name:
        raise UserError(f'"{name}" is no repository: write OWNER/NAME')
    with hub_errors(f"{name}: not pushed to Hugging Face"):
        api = huggingface_hub.HfApi(token=token)
        made = api.create_repo(name, private=private, exist_ok=True).repo_id
        commit = api.upload_folder(
            repo_id=made,
            folder_path=str(folder),
            allow_patterns=list(FILES),
            commit_message=message,
            revision=revision,
        )
    return str(commit)


@contextlib.contextmanager
def hub_errors(what: str) -> Iterator[None]:
    """Turn what the Hub, its library or the network raises into one line that begins with `what`.

    Raises:
        UserError: In place of such an error.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        library = type(error).__module__.partition(".")[0]
        if not isinstance(error, (OSError, ValueError)) and library not in _LIBRARIES:
            raise
        raise UserError(f"{what}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """Say in one line what went wrong, and what to do about it."""
    from huggingface_hub import errors

    if isinstance(error, errors.LocalTokenNotFoundError) or _status(error) in (401, 403):
        # The Hub answers so to those who may not see a repository, and where there is none.
        return "there is no such repository, or you may not use it (hf auth login logs in)"
    if isinstance(error, errors.RevisionNotFoundError):
        return "the repository has no such revision"
    if isinstance(error, errors.OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set and it is not in the cache"
    if isinstance(error, errors.LocalEntryNotFoundError):
        return "the Hub cannot be reached and it is not in the cache"
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__


def _status(error: Exception) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)
