"""Run the notebooks in `docs/notebooks/` and save them with their outputs.

After `benco demo --out runs/demo`, and the tests under JPEG that the notebook shows:
`python docs/site/notebooks.py runs/demo/runs`.
"""

import os
import sys
import tempfile
from pathlib import Path

import nbformat
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"


def execute(path: Path, runs: Path, seconds: int = 300) -> nbformat.NotebookNode:
    """Run a notebook from its first cell to its last.

    Args:
        path: Of the notebook; not changed.
        runs: Folder of the runs that it reads.
        seconds: Time for one cell.

    Returns:
        The notebook with its new outputs, without what libraries said on standard error.

    Raises:
        nbclient.exceptions.CellExecutionError: A cell failed.
    """
    os.environ["BENCO_RUNS"] = str(runs.resolve())
    notebook = nbformat.read(path, as_version=4)
    # Sockets in files of a folder of our own: other users of the machine cannot listen.
    with tempfile.TemporaryDirectory() as folder:
        manager = AsyncKernelManager(
            kernel_name="python3", transport="ipc", ip=str(Path(folder) / "kernel")
        )
        NotebookClient(notebook, km=manager, timeout=seconds, record_timing=False).execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    return notebook


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    for found in sorted(FOLDER.glob("*.ipynb")):
        nbformat.write(execute(found, folder), found)
        print(f"wrote {found}")
