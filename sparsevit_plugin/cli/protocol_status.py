"""`benco protocol status`: how far the runs of a protocol are."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparsevit_plugin.protocol.folder import ProtocolFolder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `benco protocol status`."""
    parser.add_argument("protocol", metavar="PROTOCOL", help="name of a protocol, or a YAML file")
    parser.add_argument("--runs", default="runs", metavar="DIR", help="folder of all runs (runs)")
    parser.add_argument("--json", action="store_true", help="print one JSON list")


def run(args: argparse.Namespace) -> int:
    """Print the state of every row that was asked for.

    Raises:
        UserError: Nothing was run of this protocol here.
    """
    from sparsevit_plugin.protocol.folder import ProtocolFolder
    from sparsevit_plugin.protocol.schema import load_protocol
    from sparsevit_plugin.protocol.status import job_states
    from sparsevit_plugin.results.render import print_grid

    folder = ProtocolFolder(Path(args.runs) / load_protocol(args.protocol).name)
    states = job_states(folder)
    if args.json:
        print(json.dumps(states, indent=2))
        return 0
    print_grid(_grid(states), _notes(states, folder))
    return 0


def _grid(states: list[dict[str, Any]]) -> list[list[str]]:
    rows = [["model", "seed", "training", "sets tested"]]
    for state in states:
        tests = f"{state['tested']} of {state['tests']}"
        label = f"{state['label']} ({state['group']})" if state["group"] else state["label"]
        rows.append([label, str(state["seed"]), state["training"], tests])
    return rows


def _notes(states: list[dict[str, Any]], folder: "ProtocolFolder") -> list[str]:
    finished = sum(state["finished"] for state in states)
    notes = [f"{finished} of {len(states)} rows are finished; rows below {folder.path / 'results'}"]
    for state in states:
        if state["failure"]:
            failure = state["failure"]
            notes.append(f"failed: {state['label']}, seed {state['seed']}: {failure['reason']}")
            notes.append(f"        log {failure['log']}")
    return notes
