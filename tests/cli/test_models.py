"""`benco models` lists what is registered, and `--probe` builds it without a network."""

import json
import socket
import textwrap
from pathlib import Path

import pytest
import torch

from sparsevit_plugin.cards import card_names
from sparsevit_plugin.cli import probe
from sparsevit_plugin.cli.main import main
from sparsevit_plugin.cli.models import constructor_text
from tests.registry import (
    WriteModel,
    fresh_registry,  # noqa: F401 - a fixture
    write_model,  # noqa: F401 - a fixture
)

pytestmark = pytest.mark.usefixtures("fresh_registry")

NEEDY = """
    import time
    import urllib.request

    from IMDLBenCo.registry import MODELS


    @MODELS.register_module()
    class Downloads:
        def __init__(self):
            urllib.request.urlopen("https://example.org/weights.pth")


    @MODELS.register_module()
    class Slow:
        def __init__(self):
            time.sleep(600)
"""


def listed(capsys, *words: str) -> dict[str, dict]:
    assert main(["models", "--json", *words]) == 0
    return {row["name"]: row for row in json.loads(capsys.readouterr().out)}


def test_every_model_is_listed_with_source_and_constructor(capsys):
    models = listed(capsys)
    from IMDLBenCo.registry import MODELS

    assert set(models) == {*MODELS.module_dict, *card_names()}
    assert models["SparseViT"]["source"].startswith("sparsevit-plugin ")
    assert models["SparseViT"]["image_size"] == 512
    assert models["SparseViT"]["weights"][0]["argument"] == "pretrained_path"
    assert "img_size=512" in models["SparseViT"]["constructor"]
    assert models["SparseViTBackbone"]["localiser"] is False
    assert models["SparseViT"]["localiser"] is True
    assert models["swin"]["localiser"] is True


def test_the_table_has_a_line_a_model(capsys):
    assert main(["models"]) == 0
    captured = capsys.readouterr()
    table, weights = captured.out.split("\nSparseViT can start from ")
    assert weights.startswith("uniformer_base_ls_in1k.pth or uniformer_base_in1k.pth (--pretrained")
    lines = {line.split()[0]: line for line in table.splitlines()}
    assert "512 resize" in lines["SparseViT_small"]
    assert "128 resize" in lines["SparseViT_tiny"]
    assert "no localiser" in lines["SparseViTBackbone"]
    assert captured.err == ""


def test_ones_own_model_is_listed(capsys, write_model: WriteModel):  # noqa: F811
    path = write_model("mine_to_list", "MineToList")
    models = listed(capsys, "--import", str(path))
    assert models["MineToList"]["source"] == str(path)
    assert models["MineToList"]["constructor"] == "width=3"


def test_probe_in_children(capsys, tmp_path: Path, write_model: WriteModel):  # noqa: F811
    path = tmp_path / "needy_models.py"
    path.write_text(textwrap.dedent(NEEDY))
    words = ["models", "--json", "--import", str(path), "--probe"]
    assert main([*words, "SparseViT_tiny", "Downloads", "--jobs", "2"]) == 0
    tiny, downloads = json.loads(capsys.readouterr().out)
    assert tiny["ok"]
    assert tiny["parameters"] == pytest.approx(1.1e6, rel=0.05)
    assert not downloads["ok"]
    assert "the network is blocked" in downloads["reason"]
    assert main([*words, "Slow", "--timeout", "0.5"]) == 0
    (slow,) = json.loads(capsys.readouterr().out)
    assert slow["reason"] == "stopped after 0.5 s"


def test_probe_prints_a_line_a_model_as_text(capsys, monkeypatch):
    results = [
        probe.ProbeResult("SparseViT", True, 50_250_000, 1.25),
        probe.ProbeResult("swin", False, None, 0.5, "no weights"),
    ]
    monkeypatch.setattr("sparsevit_plugin.cli.models.probe", lambda names, **kwargs: iter(results))
    assert main(["models", "--probe", "SparseViT", "swin"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "SparseViT  OK     50.25 M parameters    1.2 s",
        "swin       missing: no weights",
        "1 of 2 can be built here without a network",
    ]


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["--probe", "SparsViT"], 'unknown model "SparsViT". Did you mean "SparseViT"?'),
        (["--timeout", "0"], "--timeout and --jobs must be positive"),
        (["--import", "lost.py"], "--import lost.py: there is no such file"),
    ],
)
def test_bad_words_are_one_line(capsys, words, wanted):
    assert main(["models", *words]) == 2
    captured = capsys.readouterr()
    assert wanted in captured.err
    assert captured.err.count("\n") == 1


class TestBuildAndMeasure:
    def test_counts_parameters(self):
        found = probe.build_and_measure(
            "Layer", torch.nn.Linear, {"in_features": 3, "out_features": 2}
        )
        assert (found.ok, found.parameters, found.reason) == (True, 8, "")

    def test_names_arguments_without_a_value(self):
        found = probe.build_and_measure("Layer", torch.nn.Linear, {"out_features": 2})
        assert (found.ok, found.reason) == (False, "needs a value for in_features")

    def test_shortens_the_last_line_of_an_error(self):
        def fails() -> None:
            raise FileNotFoundError("weights.pth\n" + "long " * 100)

        found = probe.build_and_measure("Fails", fails, {})
        assert found.reason.startswith("FileNotFoundError: weights.pth long")
        assert len(found.reason) == 160
        assert "\n" not in found.reason


def test_a_child_that_dies_is_reported(monkeypatch):
    monkeypatch.setattr(probe.sys, "executable", "/bin/false")
    (found,) = probe.probe(["SparseViT"], timeout=10, jobs=1, imports=[])
    assert (found.ok, found.reason) == (False, "ended with code 1")


def test_block_network_refuses_at_once(monkeypatch):
    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, getattr(socket.socket, name), raising=False)
    for name in ("getaddrinfo", "gethostbyname", "create_connection"):
        monkeypatch.setattr(socket, name, getattr(socket, name))
    probe.block_network()
    with socket.socket() as plug, pytest.raises(OSError, match="blocked"):
        plug.connect(("127.0.0.1", 80))
    with pytest.raises(OSError, match="blocked"):
        socket.getaddrinfo("example.org", 443)


def test_constructor_text_leaves_out_what_no_flag_can_set():
    def build(a, b: int = 2, *args, c="x", **kwargs):
        pass

    assert constructor_text(build) == "a, b=2, c='x'"


def test_a_card_of_another_name_is_a_row_of_its_own(capsys):
    assert main(["models", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["timm_resnet50"]["constructor"] == "TimmLocaliser(backbone='resnet50')"
    assert rows["timm_resnet50"]["image_size"] == 512
    assert "image_size" not in rows["TimmLocaliser"]  # it has no card of its own name


def test_files_of_several_arguments_are_named_apart(capsys):
    assert main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (line,) = [text for text in lines if "DCT_djpeg" in text]
    assert line.startswith("Cat_Net can start from hrnetv2")
    assert "(--pretrained-rgb) and DCT_djpeg.pth.tar (--pretrained-dct)" in line
