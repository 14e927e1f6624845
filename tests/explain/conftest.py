"""Checkpoints that are made once."""

from pathlib import Path

import pytest

from sparsevit_plugin.explain.subject import Subject
from tests.explain.helpers import save_model, save_plain


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Path:
    return save_model(tmp_path_factory.mktemp("explain") / "tiny.safetensors")


@pytest.fixture(scope="session")
def plain_checkpoint(tmp_path_factory) -> Path:
    return save_plain(tmp_path_factory.mktemp("explain") / "plain.safetensors")


@pytest.fixture(scope="session")
def subject(checkpoint) -> Subject:
    return Subject(checkpoint, device="cpu")
