"""The Hub: which words mean a repository, what is fetched and pushed, and failures in one line."""

from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub import errors
from PIL import Image

from sparsevit_plugin import hub
from sparsevit_plugin.cli.main import main
from sparsevit_plugin.errors import UserError
from sparsevit_plugin.hub import remote
from sparsevit_plugin.model.sparsevit import SparseViT_tiny
from tests.conftest import photo_array
from tests.harness.helpers import save_tiny


@pytest.fixture(autouse=True)
def nothing_remembered():
    remote.fetched_weights.cache_clear()
    yield
    remote.fetched_weights.cache_clear()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    base = tmp_path_factory.mktemp("hub")
    hub.save_checkpoint(save_tiny(base / "tiny.safetensors"), base / "model", device="cpu")
    return base / "model"


class FakeApi:
    """What is asked of the Hub, noted down."""

    calls: list = []  # noqa: RUF012
    failure: Exception | None = None

    def __init__(self, token=None) -> None:
        self.token = token

    def create_repo(self, repo_id, private=None, exist_ok=False):
        if self.failure:
            raise self.failure
        self.calls.append(("create", repo_id, private, exist_ok))
        return huggingface_hub.RepoUrl(f"https://huggingface.co/{repo_id}")

    def upload_folder(self, *, repo_id, folder_path, **how):
        files = sorted(path.name for path in Path(folder_path).iterdir())
        self.calls.append(("upload", repo_id, files, how))
        return f"https://huggingface.co/{repo_id}/commit/1"


@pytest.fixture
def api(monkeypatch):
    monkeypatch.setattr(FakeApi, "calls", [])
    monkeypatch.setattr(huggingface_hub, "HfApi", FakeApi)
    monkeypatch.setattr("huggingface_hub.hub_mixin.HfApi", FakeApi)
    return FakeApi


@pytest.mark.parametrize(
    ("word", "wanted"),
    [
        ("someone/model", ("someone/model", None)),
        ("someone/model@v1.0", ("someone/model", "v1.0")),
        ("hf://someone/model", ("someone/model", None)),
        ("hf://tests/model@main", ("tests/model", "main")),
        *((word, None) for word in ("runs", "/runs/a", "./a/b", "a/b/c", "a/b.safetensors", "")),
    ],
)
def test_which_words_mean_a_repository(word, wanted, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert remote.repository_of(word) == wanted


def test_a_path_comes_first(tmp_path, monkeypatch):
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    assert remote.repository_of("runs/a") is None
    with pytest.raises(UserError, match="no such file or folder"):
        SparseViT_tiny.from_pretrained("runs/a")
    with pytest.raises(UserError, match="write hf://OWNER/NAME"):
        remote.repository_of("hf://runs")


def test_a_repository_is_fetched_once_and_predicts(folder, tmp_path, monkeypatch):
    asked = []

    def fetch(name, *, allow_patterns, **how):
        asked.append((name, allow_patterns, how))
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    photo = save_photo(tmp_path)
    words = ["predict", str(photo), "--checkpoint", "someone/tiny@v1", "--out", str(tmp_path / "o")]
    assert main([*words, "--device", "cpu", "--num-workers", "0"]) == 0
    files = ["config.json", "model.safetensors", "README.md"]
    assert asked == [("someone/tiny", files, {"revision": "v1"})]
    model = SparseViT_tiny.from_pretrained("someone/tiny", revision="main", local_files_only=True)
    assert not model.training
    assert asked[-1][2]["revision"] == "main"
    assert asked[-1][2]["local_files_only"] is True


def save_photo(folder: Path) -> Path:
    Image.fromarray(photo_array(32, 48, 0)).save(folder / "a.png")
    return folder / "a.png"


def refusal(kind, status):
    response = SimpleNamespace(headers={}, request=None, status_code=status)
    return kind("refused\nby the Hub", response=response)


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        (errors.HTTPError("no route to host"), "HTTPError: no route to host"),
        (errors.LocalEntryNotFoundError("x"), "the Hub cannot be reached and it is not in the"),
        (errors.OfflineModeIsEnabled("x"), "HF_HUB_OFFLINE is set"),
        (refusal(errors.RepositoryNotFoundError, 401), "there is no such repository, or you may"),
        (refusal(errors.RevisionNotFoundError, 404), "the repository has no such revision"),
        (refusal(errors.HfHubHTTPError, 500), "HfHubHTTPError: refused"),
    ],
)
def test_failures_are_one_line(failure, words, monkeypatch, capsys, tmp_path):
    def fetch(*_, **__):
        raise failure

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    shared = ["--checkpoint", "someone/tiny", "--out", str(tmp_path / "out")]
    assert main(["predict", str(save_photo(tmp_path)), *shared]) == 2
    text = capsys.readouterr().err
    assert text.startswith("benco: error: someone/tiny: no such file or folder here, and not")
    assert words in text
    assert text.count("\n") == 1


def test_without_a_network_the_answer_is_quick_and_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="someone/tiny: no such file or folder here"):
        hub.load("someone/tiny", cache_dir=tmp_path)


def test_a_mistake_of_this_program_is_no_failure_of_the_hub():
    with pytest.raises(ZeroDivisionError), remote.hub_errors("x"):
        1 / 0  # noqa: B018


def test_push_sends_the_three_files(folder, api, capsys):
    assert main(["hub", "push", str(folder), "someone/tiny", "--private"]) == 0
    create, upload = api.calls
    assert create == ("create", "someone/tiny", True, True)
    assert upload[1] == "someone/tiny"
    assert upload[3]["allow_patterns"] == ["config.json", "model.safetensors", "README.md"]
    assert capsys.readouterr().out.strip().endswith("/commit/1")


def test_push_from_python_sends_what_save_pretrained_writes(folder, api):
    model = SparseViT_tiny.from_pretrained(folder)
    assert model.push_to_hub("someone/tiny").endswith("/commit/1")
    assert api.calls[1][2] == ["README.md", "config.json", "model.safetensors"]


def test_push_refuses_with_one_line(folder, api, tmp_path, monkeypatch, capsys):
    assert main(["hub", "push", str(tmp_path), "someone/tiny"]) == 2
    assert "no model folder" in capsys.readouterr().err
    assert main(["hub", "push", str(folder), "tiny"]) == 2
    assert '"tiny" is no repository' in capsys.readouterr().err
    monkeypatch.setattr(api, "failure", ConnectionError("down"))
    assert main(["hub", "push", str(folder), "someone/tiny"]) == 2
    assert (
        "someone/tiny: not pushed to Hugging Face: ConnectionError: down" in capsys.readouterr().err
    )
    with pytest.raises(UserError, match="not pushed"):
        SparseViT_tiny.from_pretrained(folder).push_to_hub("someone/tiny")
