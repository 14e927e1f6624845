"""SparseViT for IMDLBenCo.

Importing this package puts SparseViT, and every model that another distribution offers through the
entry-point group `sparsevit_plugin.models`, into `IMDLBenCo.registry.MODELS`. The package's own
command line is the exception: there each verb registers when it needs models, so that
`benco --help` does not import torch.
"""

import itertools
import re
import sys
from pathlib import Path


def _is_own_command_line() -> bool:
    """Return whether this process is `benco`, `sparsevit` or `python -m sparsevit_plugin`."""
    script = re.sub(r"(-script\.pyw?|\.exe)$", "", Path(sys.argv[0]).name) if sys.argv else ""
    if script in ("benco", "sparsevit"):
        return True
    words = sys.orig_argv
    modules = [after for word, after in itertools.pairwise(words) if word == "-m"]
    modules += [word[2:] for word in words[1:] if word.startswith("-m")]
    return any(name.split(".")[0] == __name__ for name in modules)


if not _is_own_command_line():
    from sparsevit_plugin.registration import register_all

    register_all()
