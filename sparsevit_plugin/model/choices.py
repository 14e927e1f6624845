"""Checks of named options that several parts of the model share."""

from collections.abc import Iterable

from sparsevit_plugin.errors import UserError, suggest

LIBRARIES = ("mkl", "onednn")
"""What multiplies matrices on a CPU."""

MATMULS = ("auto", *LIBRARIES)
"""The same, or what a measurement finds faster."""

EXTRACTORS = ("none", "sobel", "srm", "bayar", "fft", "dct")
"""Hand-crafted features that may be put in front of the network; see `zoo.extractors`."""


def check_choice(option: str, value: str, choices: Iterable[str]) -> None:
    """Raise `UserError` with the valid names unless `value` is one of `choices`."""
    names = tuple(choices)
    if value not in names:
        raise UserError(
            f'{option}: unknown value "{value}".{suggest(str(value), names)} '
            f"Choose one of: {', '.join(names)}."
        )
