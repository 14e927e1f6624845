"""Scoped patches last as long as they are asked to, and no longer."""

import pytest
import timm
import torch
from torch.utils import model_zoo

from sparsevit_plugin.zoo.offline import offline, replaced

PATCHED = [
    (torch, "load"),
    (torch.hub, "load"),
    (torch.hub, "load_state_dict_from_url"),
    (model_zoo, "load_url"),
    (timm, "create_model"),
]


def attributes():
    return [getattr(owner, name) for owner, name in PATCHED]


def test_downloads_answer_with_nothing_and_files_with_what_was_given(capsys):
    before = attributes()
    weights = {"a": torch.ones(1)}
    with offline({"here": weights}):
        assert model_zoo.load_url("https://example.org/a.pth") == {}
        assert torch.hub.load_state_dict_from_url("https://example.org/a.pth") == {}
        assert torch.load("here", map_location="cpu") == weights
        with pytest.raises(FileNotFoundError, match="elsewhere: a constructor asked for"):
            torch.load("elsewhere")
        with pytest.raises(RuntimeError, match="would run code from the network"):
            torch.hub.load("someone/something", "model")
        assert timm.create_model("resnet18", pretrained=True, num_classes=2).num_classes == 2
        print("chatter")
    assert attributes() == before
    assert capsys.readouterr().out == ""


def test_everything_is_put_back_after_an_error():
    before = attributes()
    with pytest.raises(ZeroDivisionError), offline():
        raise ZeroDivisionError
    assert attributes() == before


def test_what_was_replaced_comes_back_when_a_later_name_does_not_exist():
    before = torch.load
    with pytest.raises(AttributeError), replaced({"torch.load": None, "torch.no_such_name": None}):
        pass
    assert torch.load is before


def test_scopes_nest():
    before = torch.load
    with offline({"outer": {}}):
        outer = torch.load
        with offline({"inner": {}}):
            assert torch.load("inner") == {}
        assert torch.load is outer
        assert torch.load("outer") == {}
    assert torch.load is before
