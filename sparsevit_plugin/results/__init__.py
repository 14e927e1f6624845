"""Stored results: one row per image, and the tables, statistics and figures made from them.

`sparsevit_plugin.results.load("runs").table("pixel_f1")` is the whole way from a folder to a table.
"""

from os import PathLike
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sparsevit_plugin.results.store import Results

__all__ = ["load"]


def load(*folders: str | PathLike[str]) -> "Results":
    """Read every result below some folders, see `sparsevit_plugin.results.store.load`.

    Raises:
        UserError: A folder holds no results, or broken ones.
    """
    from sparsevit_plugin.results import store

    return store.load(*folders)
