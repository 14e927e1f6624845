"""Arguments of constructors: what upstream's parser gets wrong is read right."""

from functools import partial
from typing import List, Optional  # noqa: UP035 -- models in the wild are annotated so

import pytest

from sparsevit_plugin.errors import UserError
from sparsevit_plugin.harness.arguments import parse_words, read_arguments, to_kind

NORM = partial(int, base=2)


class Model:
    def __init__(  # noqa: PLR0917 -- as many kinds as models have
        self,
        required: int,
        path,
        depth=[5, 8],  # noqa: B006 -- as upstream's models do
        scales: List[int] = (4.0, 2.0),  # noqa: UP006
        ratio: float = 4,
        bias=True,
        weights=None,
        maybe: Optional[str] = "a",  # noqa: UP045
        size: int | None = None,
        word="None",
        norm=NORM,
        *args,
        **kwargs,
    ): ...


TAKES = read_arguments(Model)


def test_arguments_are_read_in_order_without_catch_alls():
    assert list(TAKES)[:3] == ["required", "path", "depth"]
    assert "args" not in TAKES
    assert "kwargs" not in TAKES
    assert [name for name, argument in TAKES.items() if argument.required] == ["required", "path"]


def test_functions_and_postponed_annotations_are_read():
    source = "from __future__ import annotations\ndef build(depth: int, path: str | None): ..."
    namespace: dict = {}
    exec(source, namespace)
    takes = read_arguments(namespace["build"])
    assert (takes["depth"].kind, takes["path"].kind, takes["path"].optional) == (int, str, True)


@pytest.mark.parametrize(
    ("name", "words", "value"),
    [
        ("required", ["3"], 3),
        ("path", ["none"], "none"),
        ("depth", ["[8,4,2,1]"], [8, 4, 2, 1]),
        ("depth", ["8,4,2,1"], [8, 4, 2, 1]),
        ("depth", ["8", "4"], [8, 4]),
        ("depth", ["[8,", "4]"], [8, 4]),
        ("depth", ["7"], [7]),
        ("scales", ["(4, 2, 1, 0.5)"], (4, 2, 1, 0.5)),
        ("ratio", ["3.5"], 3.5),
        ("bias", ["False"], False),
        ("bias", ["0"], False),
        ("bias", ["yes"], True),
        ("bias", [], True),
        ("weights", ["w.pth"], "w.pth"),
        ("weights", ["None"], None),
        ("weights", [""], ""),
        ("maybe", ["null"], None),
        ("size", ["512"], 512),
        ("size", ["none"], None),
        ("word", ["None"], "None"),
    ],
)
def test_words(name, words, value):
    result = parse_words(TAKES[name], words, f"--{name}")
    assert result == value
    assert type(result) is type(value)


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("required", [], "--required needs a value"),
        ("required", ["3", "4"], 'unexpected "4"'),
        ("required", ["x"], "expected a whole number"),
        ("depth", ["[a,b]"], "expected a list of numbers"),
        ("depth", ["{1: 2"], "expected a list such as"),
        ("bias", ["perhaps"], "expected true or false"),
        ("ratio", ["none"], "expected a number"),
        ("norm", ["LayerNorm"], "takes a Python object"),
    ],
)
def test_wrong_words(name, words, message):
    with pytest.raises(UserError, match=r"^--") as error:
        parse_words(TAKES[name], words, f"--{name}")
    assert message in str(error.value)


def test_values_from_yaml_are_checked_too():
    assert to_kind(TAKES["scales"], [1, 2], "f") == (1, 2)
    assert to_kind(TAKES["weights"], None, "f") is None
    for name, value in [("bias", [1]), ("depth", 3), ("path", 3), ("required", True)]:
        with pytest.raises(UserError, match=r"^r\.yaml: m"):
            to_kind(TAKES[name], value, "r.yaml: m")
    with pytest.raises(UserError, match="none is not a value that required takes"):
        to_kind(TAKES["required"], None, "f")
