"""An argument parser that helps with misspelt words and takes hyphens and underscores alike."""

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from sparsevit_plugin.errors import UserError, suggest


class SuggestingParser(argparse.ArgumentParser):
    """An `ArgumentParser` whose errors are `UserError`s that name the closest option or choice.

    Options are declared with hyphens; `--score_at` is read as `--score-at`.
    """

    def __init__(
        self,
        *,
        prog: str | None = None,
        usage: str | None = None,
        description: str | None = None,
        epilog: str | None = None,
    ) -> None:
        super().__init__(
            prog=prog,
            usage=usage,
            description=description,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse as argparse does, after spelling every option with hyphens.

        Raises:
            UserError: For an option that does not exist.
        """
        given = sys.argv[1:] if args is None else args
        words = [_hyphenated(word) for word in given]
        known, unknown = super().parse_known_args(words, namespace)
        for word in unknown:
            option = word.split("=")[0]
            if option.startswith("-"):
                hint = suggest(option, self._option_string_actions)
                self.error(f'unknown option "{option}".{hint}')
            self.error(f'unexpected argument "{word}".')
        return known, unknown

    def error(self, message: str) -> NoReturn:
        """Raise `message` as a `UserError` that names the command to ask for help."""
        raise UserError(f'{message.rstrip(".")}{_stop(message)} See "{self.prog} --help".')

    def _check_value(self, action: argparse.Action, value: object) -> None:
        if action.choices is not None and value not in action.choices:
            choices = [str(choice) for choice in action.choices]
            name = "/".join(action.option_strings) or action.metavar or action.dest
            hint = suggest(str(value), choices)
            self.error(f'{name}: "{value}" is not one of {", ".join(choices)}.{hint}')
        super()._check_value(action, value)


def _hyphenated(word: str) -> str:
    """Return `word` with hyphens in its option name; what is not an option is left alone."""
    if not word.startswith("--"):
        return word
    name, equals, value = word.partition("=")
    return name.replace("_", "-") + equals + value


def _stop(message: str) -> str:
    """Return the full stop that `message` lacks when it does not end a question."""
    return "" if message.endswith("?") else "."


def listed(text: str | None) -> list[str] | None:
    """Split the value of an option at its commas; None where it was not given or is empty."""
    return [word.strip() for word in text.split(",") if word.strip()] if text else None
