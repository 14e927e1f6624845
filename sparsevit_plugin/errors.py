"""Errors that a user can mend.

A `UserError` carries one line: what is wrong, where, and what to do. The command line prints it and
exits with code 2; it is never shown with a traceback.
"""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Bad input. The message is one line that says what is wrong, where, and what to do."""


def suggest(word: str, choices: Iterable[str]) -> str:
    """Return ' Did you mean "x"?' for the choice closest to `word`, or an empty string."""
    names = {name.lower(): name for name in choices}
    close = difflib.get_close_matches(word.lower(), names, n=1, cutoff=0.5)
    return f' Did you mean "{names[close[0]]}"?' if close else ""
