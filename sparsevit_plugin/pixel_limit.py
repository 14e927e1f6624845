"""`--max-pixels N`: how large a picture may be that is read.

A file of a few kilobytes can claim a picture that fills the memory. Every photograph, mask and
map is therefore refused from its header, before it is decoded, when it has more pixels than a
limit. By default that is where Pillow raises an error; `benco --max-pixels N VERB ...` sets
another, for sets with larger photographs, or for a machine with less memory.

The limit is kept in the environment, so that data loading processes and the jobs of a protocol keep
to it as well.
"""

import contextlib
import os
from collections.abc import Iterator
from typing import Final

from sparsevit_plugin.errors import UserError

VARIABLE: Final = "SPARSEVIT_MAX_PIXELS"
FLAG: Final = "--max-pixels"

DEFAULT: Final = 178_956_970
"""The most pixels without the flag: 13377 x 13377. Twice Pillow's `MAX_IMAGE_PIXELS`, from where on
Pillow raises an error; as colour of 8 bits these are 512 MiB."""


def pixel_limit() -> int:
    """Return the most pixels that a picture may have.

    Raises:
        UserError: The variable in the environment holds something else.
    """
    text = os.environ.get(VARIABLE)
    return DEFAULT if text is None else _number(text, VARIABLE)


def is_limited() -> bool:
    """Say whether another limit than the default is set."""
    return VARIABLE in os.environ


@contextlib.contextmanager
def limited_to(pixels: str | int | None) -> Iterator[None]:
    """Set the limit, here and in processes that start meanwhile; None: leave it as it is.

    Raises:
        UserError: It is no number above 0.
    """
    if pixels is None:
        yield
        return
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = str(_number(str(pixels), FLAG))
    try:
        yield
    finally:
        os.environ.pop(VARIABLE)
        if before is not None:
            os.environ[VARIABLE] = before


def _number(text: str, where: str) -> int:
    digits = text.replace("_", "")
    if not (digits.isascii() and digits.isdecimal() and len(digits) < 20 and int(digits)):  # noqa: PLR2004
        raise UserError(f"{where} {text}: give a number of pixels above 0, as 400000000")
    return int(digits)
