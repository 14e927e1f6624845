"""`benco init`: IMDLBenCo's own command, unchanged."""

import sys

from sparsevit_plugin.errors import UserError
from sparsevit_plugin.upstream import import_upstream


def run(argv: list[str]) -> int:
    """Hand the command to IMDLBenCo, which copies its scripts into the working folder.

    Args:
        argv: The words after `init`; IMDLBenCo reads them.

    Returns:
        IMDLBenCo's exit code.

    Raises:
        UserError: When it asks whether to overwrite a file and there is nobody to answer.
    """
    upstream_main = import_upstream("IMDLBenCo.cli").main
    before = sys.argv
    sys.argv = ["benco", "init", *argv]
    try:
        upstream_main()
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except EOFError as error:
        raise UserError(
            "benco init asks before it overwrites a file: run it in a terminal or an empty folder"
        ) from error
    finally:
        sys.argv = before
    return 0
