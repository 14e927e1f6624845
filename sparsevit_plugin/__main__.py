"""`python -m sparsevit_plugin`: the `benco` command, whoever owns the script of that name."""

import sys

from sparsevit_plugin.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
