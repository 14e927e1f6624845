"""Errors that a user can mend.

A `UserError` carries one line: what is wrong, where, and what to do. The command line prints it and
exits with code 2; it is never shown with a traceback.
"""

import difflib
from collections.abc import Iterable

_LONGEST = 4000
_LEAST_ALIKE = 0.5  # of a name that is suggested alone
_LEAST_ALIKE_OF_MANY = 0.2


class UserError(Exception):
    """Bad input. The message is one line that says what is wrong, where, and what to do.

    It often quotes what strangers wrote, so control characters are shown as escapes, and the middle
    of what has no end is left out.
    """

    def __str__(self) -> str:
        return one_line(super().__str__())


def one_line(text: str) -> str:
    """Return a text as one line that no terminal takes for commands, of 4000 characters at most."""
    if len(text) > _LONGEST:
        text = f"{text[: _LONGEST // 2]} ... {text[-_LONGEST // 3 :]}"
    if text.isprintable():
        return text
    return "".join(
        sign if sign.isprintable() or sign == " " else sign.encode("unicode_escape").decode()
        for sign in text
    )


def suggest(word: str, choices: Iterable[str], most: int = 1) -> str:
    """Return ' Did you mean "x"?' for the choices closest to `word`, or an empty string.

    Args:
        word: What was written.
        choices: What could have been.
        most: How many are named.
    """
    names = {name.lower(): name for name in choices}
    least = _LEAST_ALIKE if most == 1 else _LEAST_ALIKE_OF_MANY
    close = difflib.get_close_matches(word.lower(), names, n=most, cutoff=least)
    *others, last = [f'"{names[one]}"' for one in close] or [""]
    if not last:
        return ""
    return f" Did you mean {', '.join(others) + ' or ' if others else ''}{last}?"
