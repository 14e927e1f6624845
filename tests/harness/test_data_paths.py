"""What a data path names."""

import pytest

from sparsevit_plugin.errors import UserError
from sparsevit_plugin.harness.config import resolve
from sparsevit_plugin.harness.data_paths import read_data_path


@pytest.fixture
def cfg(tmp_path):
    words = ["--model", "AllTampered", "--test-data-path", str(tmp_path), "--fit", "resize"]
    return resolve("test", words)


@pytest.mark.parametrize("name", ["set", "protocol"])
def test_a_folder_may_have_the_name_of_a_kind(cfg, make_set, tmp_path, monkeypatch, name):
    make_set(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    (source,) = read_data_path(cfg, name, "test").values()
    assert len(source.samples) > 0


def test_a_kind_without_names_is_refused(cfg):
    with pytest.raises(UserError, match="name the sets after the colon"):
        read_data_path(cfg, "set:", "test")
