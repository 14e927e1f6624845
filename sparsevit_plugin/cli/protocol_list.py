"""`benco protocol list` and `benco protocol show`: which protocols there are and what they say."""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sparsevit_plugin.protocol.schema import Protocol, RowSpec, SetUse, Training

_AUTHENTIC = {"exclude": "tampered only", "include": "with authentic", "only": "authentic only"}
_SELECT = {
    "val": "a seeded hold-out of the training data",
    "last": "nothing: the last epoch is the result",
    "test": "the test sets (upstream's way)",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare nothing: the list has no options."""


def run(args: argparse.Namespace) -> int:
    """Print every protocol with its title."""
    from sparsevit_plugin.protocol.schema import load_protocol, protocol_names

    names = protocol_names()
    width = max(len(name) for name in names)
    for name in names:
        print(f"{name:{width}}  {load_protocol(name).title}")
    return 0


def describe(protocol: "Protocol") -> str:
    """Return what a protocol says, as text."""
    test = protocol.test
    lines = [f"{protocol.name}: {protocol.title}", "", *_training_lines(protocol.train)]
    lines += ["test", *_set_lines(test.sets)]
    if test.perturbations != ["none"]:
        lines.append(f"  each under: {', '.join(test.perturbations)}")
    if protocol.options:
        lines.append(f"options of every model: {protocol.options}")
    if protocol.recipe:
        lines.append(f"recipe of every model: {protocol.recipe}")
    if protocol.rows:
        seeds = ", ".join(map(str, protocol.seeds))
        lines += [f"rows (seeds {seeds})", *map(_row_line, protocol.rows)]
    lines.append(f"published rows: {protocol.published or 'none known'}")
    if protocol.notes:
        lines += ["", protocol.notes]
    return "\n".join([*lines, "", "sources", *(f"  {source}" for source in protocol.sources)])


def _training_lines(train: "Training | None") -> list[str]:
    if train is None:
        return ["trains nothing: ready checkpoints are tested"]
    lines = ["train", *_set_lines(train.sets)]
    if train.draw:
        lines.append(f"  {train.draw} images are drawn at random from each set per epoch")
    lines.append(f"  checkpoint chosen on {_SELECT[train.select]}")
    if train.select == "val":
        lines.append(f"  held out: {train.val_fraction:.0%} of each set's source photographs")
    return lines


def _row_line(row: "RowSpec") -> str:
    changed = {**row.arguments, **row.options}
    parts = [row.model, *(f"{name} = {value}" for name, value in changed.items())]
    return f"  {row.label}: {', '.join(parts)}{f'; {row.notes}' if row.notes else ''}"


def _set_lines(uses: "list[SetUse]") -> list[str]:
    width = max(len(use.set) for use in uses)
    return [
        f"  {use.set:{width}}  {_AUTHENTIC[use.authentic]}{f'; {use.notes}' if use.notes else ''}"
        for use in uses
    ]
