"""From a checkpoint of a run to a model folder."""

import contextlib
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from sparsevit_plugin.errors import UserError
from sparsevit_plugin.files import atomic_path, prove_writable, write_text_atomic
from sparsevit_plugin.harness.config import Config
from sparsevit_plugin.harness.pipeline import (
    build_model,
    describe_for_testing,
    load_checkpoint,
)
from sparsevit_plugin.harness.predict import configure
from sparsevit_plugin.harness.testing import checkpoint_file, without_pretraining
from sparsevit_plugin.hub.card import card_text
from sparsevit_plugin.hub.config import CARD, FILES, WEIGHTS, HubConfig, from_metadata
from sparsevit_plugin.hub.facts import Facts, facts_of_checkpoint
from sparsevit_plugin.model.weights import read_checkpoint, save_safetensors

_LOCK: Final = ".lock"
_LICENCE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]*")


def save_checkpoint(
    checkpoint: str | Path,
    out: str | Path,
    *,
    results: Sequence[str | Path] = (),
    licence: str | None = None,
    name: str = "",
    overwrite: bool = False,
    **options: object,
) -> Facts:
    """Write a checkpoint as a model folder: `config.json`, `model.safetensors`, `README.md`.

    A checkpoint of `benco train` is copied byte by byte, so that its SHA-256, by which results know
    it, stays.

    Args:
        checkpoint: A weights file, or the output folder of a run.
        out: The folder.
        results: Folders with stored results, beside the run's own: rows of this checkpoint go into
            the model card.
        licence: SPDX identifier of the licence of the weights; None leaves that open.
        name: The model's name in the card.
        overwrite: Whether a model that the folder holds is replaced.
        **options: Options of `benco test` that say what the checkpoint does not (`model`, `fit`,
            `image_size`), and arguments of the model's constructor.

    Returns:
        What the card was written from.

    Raises:
        UserError: The checkpoint or a folder cannot be used, the folder holds a model already, or
            the licence is no identifier.
    """
    out = Path(out)
    _check_licence(licence)
    path = checkpoint_file(str(checkpoint))
    cfg = without_pretraining(configure(path, options))
    model = build_model(cfg)
    load_checkpoint(model, path)
    source = read_checkpoint(path)
    config = from_metadata(describe_for_testing(cfg))
    header = {key: value for key, value in source.metadata.items() if isinstance(value, str)}
    count = sum(parameter.numel() for parameter in model.parameters())
    facts = facts_of_checkpoint(
        path, config, count, header, results=[Path(one) for one in results], name=name
    )
    text = card_text(facts, licence)
    with _held(out):
        _refuse_others(out, path, overwrite)
        same_names = source.state.keys() == model.state_dict().keys()
        if path.suffix == ".safetensors" and same_names and _says(header, config, cfg):
            _copy(path, out / WEIGHTS)
        else:
            save_safetensors(model, out / WEIGHTS, {**header, **config.to_metadata()})
        config.write(out)
        write_text_atomic(out / CARD, text)
    return facts


def _check_licence(licence: str | None) -> None:
    """Refuse what the Hub would refuse, when the card is long written."""
    if licence is not None and not _LICENCE.fullmatch(licence):
        raise UserError(f'--license "{licence}": give an identifier, as apache-2.0 or cc-by-nc-4.0')


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Keep a folder from another process that writes a model there."""
    prove_writable(folder, "--out")
    try:
        with FileLock(folder / _LOCK, timeout=0):
            yield
    except Timeout:
        raise UserError(f"--out {folder}: another process writes there: wait for it") from None


def _refuse_others(out: Path, source: Path, overwrite: bool) -> None:
    if source.resolve() == (out / WEIGHTS).resolve():
        raise UserError(f"--out {out}: is the folder of the checkpoint itself: give another one")
    present = [name for name in FILES if (out / name).exists()]
    if present and not overwrite:
        raise UserError(
            f"--out {out}: holds {', '.join(present)} already: give another folder, or --overwrite"
        )


def _says(header: Mapping[str, str], config: HubConfig, cfg: Config) -> bool:
    """Say whether a file's header means this configuration; what it leaves open has its default."""
    recorded = from_metadata(header)
    left_open = config.arguments.keys() - recorded.arguments.keys()
    return (
        (recorded.model, recorded.options) == (config.model, config.options)
        and left_open <= cfg.constructor_defaults.keys()
        and {**config.arguments, **recorded.arguments} == config.arguments
    )


def _copy(source: Path, target: Path) -> None:
    with atomic_path(target) as temporary:
        try:
            shutil.copyfile(source, temporary)
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
            raise UserError(f"cannot copy {source} to {target}: {reason}") from error
