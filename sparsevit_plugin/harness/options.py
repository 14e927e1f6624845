"""The command lines of `benco train` and `benco test`: one parser and one help text.

A flag is written with hyphens or underscores, as `--flag value` or `--flag=value`; a boolean stands
alone (`--compile`), takes a word (`--compile=false`) or is negated (`--no-compile`). Flags that are
not in the table (`option_table`) are kept for the model's constructor (see `config`).

Only the standard library is imported here, so that `--help` answers at once.
"""

import argparse
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from sparsevit_plugin.errors import UserError, suggest
from sparsevit_plugin.harness.option_table import IGNORED, OPTIONS, Option

_TRUE = frozenset({"true", "1", "yes", "on"})
_FALSE = frozenset({"false", "0", "no", "off"})
_NONE = frozenset({"none", "null"})
_FLAG = re.compile(r"--[A-Za-z]")


@dataclass(frozen=True)
class _Spelling:
    """What one written flag does: which option it belongs to and the value it carries, if any."""

    option: Option
    fixed: bool = False
    value: object = None
    from_upstream: bool = False


def _negation(option: Option) -> str | None:
    if option.kind != "bool" or option.name.startswith("no_"):
        return None
    return f"no_{option.name}"


def _spellings() -> dict[str, _Spelling]:
    """Return every written form of every option, with underscores."""
    table: dict[str, _Spelling] = {}
    for option in (*OPTIONS, *IGNORED):
        switches = dict(option.switches)
        for form in {option.spelling or option.name, *option.upstream} - switches.keys():
            table[form] = _Spelling(option, from_upstream=form in option.upstream)
        negation = _negation(option)
        if negation:
            switches[negation] = False
        for form, value in switches.items():
            table[form] = _Spelling(option, True, value, from_upstream=form in option.upstream)
    return table


_SPELLINGS: Final = _spellings()


@dataclass
class Flags:
    """What a command line said.

    Attributes:
        values: Converted values of the options that were given, by option name.
        other: Flags that are not options: name with underscores, and its words as written.
        ignored: Flags that were accepted and have no meaning here, with the reason.
        help: Whether help was asked for.
    """

    values: dict[str, object] = field(default_factory=dict)
    other: dict[str, list[str]] = field(default_factory=dict)
    ignored: list[tuple[str, str]] = field(default_factory=list)
    help: bool = False


def written(name: str) -> str:
    """Return a flag as the help shows it: `test_data_path` gives `--test-data-path`."""
    return "--" + name.replace("_", "-")


def flag_names(verb: str) -> list[str]:
    """Return every flag that means something in `verb`, as the help shows it, for suggestions."""
    return [written(form) for form, entry in _SPELLINGS.items() if verb in entry.option.verbs]


def parse(verb: str, argv: Sequence[str]) -> Flags:
    """Read a command line against the table.

    Args:
        verb: `train` or `test`.
        argv: The words after the verb.

    Returns:
        The options given, the flags left for the model's constructor, and the ignored ones.

    Raises:
        UserError: A value is missing, of the wrong type or not allowed, a word belongs to no flag,
            two flags contradict each other, or one of the plugin's own flags belongs to the other
            verb.
    """
    flags = Flags()
    switched: dict[str, str] = {}
    words = list(argv)
    while words:
        word = words.pop(0)
        if word in ("-h", "--help"):
            flags.help = True
        elif not _FLAG.match(word):
            raise UserError(f"unexpected {word!r}: every value follows a flag, as in --model NAME")
        else:
            _read_flag(verb, word, words, flags, switched)
    return flags


def _read_flag(
    verb: str, word: str, words: list[str], flags: Flags, switched: dict[str, str]
) -> None:
    """Read one flag and the words that belong to it into `flags`."""
    written_name, equals, attached = word[2:].partition("=")
    name = written_name.replace("-", "_")
    entry = _SPELLINGS.get(name)
    if entry is None:
        flags.other[name] = [attached] if equals else _take_values(words)
        return
    flag = written(name)
    if entry.fixed:
        if equals:
            raise UserError(f"{flag} takes no value; leave out ={attached}")
        value = entry.value
    else:
        value = _read_value(entry.option, flag, attached if equals else None, words)
    if entry.option.ignored:
        flags.ignored.append((flag, entry.option.ignored))
    elif verb not in entry.option.verbs:
        _refuse_or_ignore(verb, flag, entry, flags)
    else:
        _store(entry, flag, value, flags, switched)


def _take_values(words: list[str]) -> list[str]:
    values = []
    while words and not _FLAG.match(words[0]):
        values.append(words.pop(0))
    return values


def _read_value(option: Option, flag: str, attached: str | None, words: list[str]) -> object:
    """Take and convert the value of one flag that is in the table."""
    if option.kind == "bool" and attached is None:
        if words and words[0].lower() in _TRUE | _FALSE:
            return convert(option, words.pop(0), flag)
        return True
    if attached is None:
        if not words or _FLAG.match(words[0]):
            raise UserError(f"{flag} needs a value")
        attached = words.pop(0)
    return attached if option.ignored else convert(option, attached, flag)


def _refuse_or_ignore(verb: str, flag: str, entry: _Spelling, flags: Flags) -> None:
    other = entry.option.verbs[0]
    if not entry.from_upstream:
        raise UserError(f'{flag} belongs to "benco {other}", not to "benco {verb}"')
    flags.ignored.append((flag, f"it has a meaning in {other} only"))


def _store(
    entry: _Spelling, flag: str, value: object, flags: Flags, switched: dict[str, str]
) -> None:
    """Keep a value; refuse a switch that contradicts what another flag said."""
    name = entry.option.name
    before = flags.values.get(name)
    if entry.option.kind == "strings":
        flags.values[name] = (*(before if isinstance(before, tuple) else ()), value)
        return
    earlier = switched.get(name)
    if earlier and earlier != flag and before != value and entry.option.switches:
        raise UserError(f"{earlier} and {flag} contradict each other; give one of them")
    flags.values[name] = value
    switched[name] = flag


def convert(option: Option, value: object, where: str) -> object:
    """Bring a value from a command line or a YAML file to an option's type.

    Args:
        option: The option.
        value: Text from a command line, or what a YAML file holds.
        where: What to name in an error: the flag, or the file and key.

    Returns:
        The value; `None` only where the option allows it. One item for the kind `strings`.

    Raises:
        UserError: Wrong type, not one of the choices, or below the minimum.
    """
    if option.optional and (value is None or _is_word(value, _NONE)):
        return None
    result = _to_kind(option.kind, value, where)
    if option.choices and result not in option.choices:
        raise UserError(
            f'{where}: "{result}" is not one of {", ".join(option.choices)}.'
            f"{suggest(str(result), option.choices)}"
        )
    if option.pattern and not re.fullmatch(option.pattern, str(result)):
        raise UserError(f'{where}: "{result}" is not {option.expects}')
    if isinstance(result, (int, float)):
        _check_range(option, result, where)
    return result


def _check_range(option: Option, number: float, where: str) -> None:
    if option.minimum is not None and number < option.minimum:
        raise UserError(f"{where}: {number} is below the least allowed, {option.minimum:g}")
    if option.maximum is not None and number > option.maximum:
        raise UserError(f"{where}: {number} is above the greatest allowed, {option.maximum:g}")


def _is_word(value: object, words: Iterable[str]) -> bool:
    return isinstance(value, str) and value.lower() in words


def _to_kind(kind: str, value: object, where: str) -> object:
    if kind == "bool":
        return to_bool(value, where)
    if kind == "int":
        return to_int(value, where)
    if kind == "float":
        return to_float(value, where)
    if isinstance(value, str):
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    raise UserError(f"{where}: expected text, got {value!r}")


def to_bool(value: object, where: str) -> bool:
    """Return a boolean from true/false, yes/no, on/off, 1/0; `where` is named in the error."""
    if isinstance(value, bool):
        return value
    if _is_word(value, _TRUE):
        return True
    if _is_word(value, _FALSE):
        return False
    raise UserError(f"{where}: expected true or false, got {value!r}")


def to_int(value: object, where: str) -> int:
    """Return a whole number of 64 bits; `where` is named in the error."""
    number = value
    if isinstance(value, str) and re.fullmatch(r"\s*[+-]?\d{1,19}\s*", value):
        number = int(value)
    if not isinstance(number, int) or isinstance(number, bool):
        raise UserError(f"{where}: expected a whole number, got {value!r}")
    if abs(number) >= 2**63:
        raise UserError(f"{where}: the number is too large")
    return number


def to_float(value: object, where: str) -> float:
    """Return a finite number; `where` is named in the error."""
    try:
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise ValueError(value)
        number = float(value)
    except OverflowError:
        raise UserError(f"{where}: the number is too large") from None
    except ValueError:
        raise UserError(f"{where}: expected a number, got {value!r}") from None
    if number - number != 0:
        raise UserError(f"{where}: expected a finite number, got {value!r}")
    return number


_EXAMPLES: Final = {
    "train": """\
examples:
  benco train --model SparseViT --data-path CASIA2.0 --test-data-path tests.json \\
      --output-dir runs/a
  benco train --model SparseViT --recipe sparsevit-repo --data-path sets.json --print-config
  torchrun --nproc_per_node 4 -m sparsevit_plugin train --model SparseViT ...
""",
    "test": """\
examples:
  benco test --model SparseViT --checkpoint runs/a/best.safetensors --test-data-path tests.json
  benco test --model MyModel --import mymodel.py --checkpoint my.pth --fit resize \\
      --test-data-path set/
""",
}
_EPILOG: Final = """\
Arguments of the model's constructor are flags too, such as --sparsity group,
--s-blocks3 "[8,4,2,1]" or --qkv-bias false; `benco models` shows them.
Flags are written with hyphens or underscores. Precedence: flag, then recipe, then
the model's card, then upstream's default; --print-config shows where each value
comes from.
"""


def _epilog(verb: str) -> str:
    ignored = "Accepted for upstream's run scripts, and ignored:\n"
    ignored += ", ".join(written(option.name) for option in IGNORED)
    return f"{_EPILOG}{ignored}.\n\n{_EXAMPLES[verb]}"


def add_to_parser(group: "argparse._ArgumentGroup", option: Option) -> None:
    """Declare an option, with its help, in a parser of argparse's; what is not given is None."""
    text = option.help
    if (
        option.default is not None
        and option.default is not False
        and option.default not in ("", ())
    ):
        text += f" (default: {show(option.default)})"
    text = text.replace("%", "%%")
    if option.kind == "bool":
        action = argparse.BooleanOptionalAction if option.default else "store_true"
        group.add_argument("--" + option.flag, action=action, default=None, help=text)
        return
    repeated = "append" if option.kind == "strings" else "store"
    metavar = "{" + ",".join(option.choices) + "}" if option.choices else _METAVAR[option.kind]
    group.add_argument("--" + option.flag, action=repeated, metavar=metavar, help=text)


_METAVAR: Final = {"str": "TEXT", "int": "N", "float": "NUMBER", "strings": "FILE|MODULE"}


def show(value: object) -> str:
    """Return a value as one would write it after a flag or in a YAML file."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    if isinstance(value, (tuple, list)):
        return "[" + ", ".join(show(item) for item in value) + "]"
    return str(value) if value != "" else '""'


def help_text(verb: str) -> str:
    """Return the help of `benco train` or `benco test`, every flag in its hyphen form."""
    about = {
        "train": "Train a registered model and test it on one or more sets.",
        "test": "Test a trained model on one or more sets and store one row per image.",
    }[verb]
    parser = argparse.ArgumentParser(
        prog=f"benco {verb}",
        usage=f"benco {verb} --model NAME [--flag value ...]",
        description=about,
        epilog=_epilog(verb),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for title in dict.fromkeys(option.group for option in OPTIONS):
        members = [o for o in OPTIONS if o.group == title and verb in o.verbs]
        if members:
            group = parser.add_argument_group(title)
            for option in members:
                add_to_parser(group, option)
    return parser.format_help()
