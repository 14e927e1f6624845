"""The arguments of a model's constructor, read from its signature.

Upstream turns annotations into argparse types, which makes `bool("False")` true, lists into texts
and `Optional[str]` an error. Here a value is parsed by what the argument holds by default, and by
its annotation where there is no default.
"""

import inspect
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import yaml

from sparsevit_plugin.cards.reading import parse_yaml
from sparsevit_plugin.errors import UserError
from sparsevit_plugin.harness import options

_LISTS: Final[tuple[type, ...]] = (list, tuple)
_SIMPLE: Final[tuple[type, ...]] = (bool, int, float, str, list, tuple)
_NONE_WORDS: Final = ("none", "null")


@dataclass(frozen=True)
class Argument:
    """One argument of a constructor.

    Attributes:
        name: Its name.
        kind: bool, int, float, str, list or tuple; None when a flag cannot carry such a value.
        default: Its default; `inspect.Parameter.empty` when it has none.
        optional: Whether None is a value.
    """

    name: str
    kind: type | None
    default: Any
    optional: bool

    @property
    def required(self) -> bool:
        """Whether the constructor cannot be called without it."""
        return self.default is inspect.Parameter.empty


def read_arguments(constructor: Callable[..., Any]) -> dict[str, Argument]:
    """Return the arguments of a class or function that builds a model, in order."""
    parameters = inspect.signature(constructor).parameters.values()
    catch_all = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    hints = _hints(constructor)
    return {
        parameter.name: _argument(parameter, hints.get(parameter.name, parameter.annotation))
        for parameter in parameters
        if parameter.kind not in catch_all
    }


def _hints(constructor: Callable[..., Any]) -> dict[str, Any]:
    """Return annotations as types, also where postponed evaluation made them text."""
    function = constructor.__init__ if inspect.isclass(constructor) else constructor
    try:
        return typing.get_type_hints(function)
    except (NameError, TypeError, AttributeError):  # an annotation that names something unknown
        return {}


def _argument(parameter: inspect.Parameter, annotation: Any) -> Argument:  # noqa: ANN401 -- any annotation
    kind, optional = _kind_of_annotation(annotation)
    default = parameter.default
    if default is None:
        optional = True
        kind = kind or str
    elif default is inspect.Parameter.empty:
        kind = str if annotation is inspect.Parameter.empty else kind
    elif type(default) in _SIMPLE:
        # `mlp_ratio: float = 4` may be 3.5; any other annotation yields to the default's own type.
        kind = float if kind is float and type(default) is int else type(default)
    else:
        kind = None
    return Argument(parameter.name, kind, default, optional)


def _kind_of_annotation(annotation: Any) -> tuple[type | None, bool]:  # noqa: ANN401 -- any annotation
    """Return the simple type that an annotation stands for, if any, and whether None is allowed."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        inner = [item for item in typing.get_args(annotation) if item is not type(None)]
        optional = len(inner) < len(typing.get_args(annotation))
        return (_kind_of_annotation(inner[0])[0] if len(inner) == 1 else None), optional
    plain = typing.get_origin(annotation) or annotation
    return (plain if plain in _SIMPLE else None), False


def parse_words(argument: Argument, words: list[str], where: str) -> object:
    """Convert the words that followed a flag; none at all means `true` for a boolean.

    Raises:
        UserError: Too few or too many words, or a value of the wrong type.
    """
    if not words:
        if argument.kind is bool:
            return True
        raise UserError(f"{where} needs a value")
    if argument.kind in _LISTS:
        return to_kind(argument, _read_list(words, where), where)
    if len(words) > 1:
        raise UserError(f'{where}: unexpected "{words[1]}" after its value')
    return to_kind(argument, words[0], where)


def _read_list(words: list[str], where: str) -> object:
    """Read `[8,4,2,1]`, `8,4,2,1` or `8 4 2 1`."""
    text = " ".join(words) if len(words) == 1 or "," in "".join(words) else ",".join(words)
    text = text.strip()
    if text.lower() in _NONE_WORDS:
        return None
    if text.startswith("(") and text.endswith(")"):
        text = text[1:-1]
    try:
        return parse_yaml(text if text.startswith("[") else f"[{text}]")[0]
    except yaml.YAMLError:
        raise UserError(f'{where}: expected a list such as [8,4,2,1], got "{text}"') from None


def to_kind(argument: Argument, value: object, where: str) -> object:
    """Bring a value from a flag, a recipe or a card to what the constructor takes.

    Raises:
        UserError: Wrong type; `where` is named.
    """
    named_none = isinstance(value, str) and value.lower() in _NONE_WORDS
    if argument.optional and (value is None or named_none):
        return None
    if value is None:
        raise UserError(f"{where}: none is not a value that {argument.name} takes")
    if argument.kind is None:
        raise UserError(
            f"{where}: {argument.name} takes a Python object, which neither flags nor YAML can give"
        )
    if argument.kind in _LISTS:
        return _to_list(argument, value, where)
    if argument.kind is bool:
        return options.to_bool(value, where)
    if argument.kind is int:
        return options.to_int(value, where)
    if argument.kind is float:
        return options.to_float(value, where)
    if not isinstance(value, str):
        raise UserError(f"{where}: expected text, got {value!r}")
    return value


def _to_list(argument: Argument, value: object, where: str) -> object:
    if not isinstance(value, (list, tuple)):
        raise UserError(f"{where}: expected a list such as [8,4,2,1], got {value!r}")
    if _all_numbers(argument.default) and not _all_numbers(value):
        raise UserError(f"{where}: expected a list of numbers, got {list(value)!r}")
    return tuple(value) if argument.kind is tuple else list(value)


def _all_numbers(items: object) -> bool:
    return isinstance(items, (list, tuple)) and all(
        isinstance(item, (int, float)) and not isinstance(item, bool) for item in items
    )
