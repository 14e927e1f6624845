"""`benco protocol list` and `benco protocol show`: which protocols there are and what they say."""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sparsevit_plugin.harness.recipes import Recipe
    from sparsevit_plugin.protocol.schema import Protocol, RowSpec, SetUse, Training
    from sparsevit_plugin.protocol.values import Card

_AUTHENTIC = {"exclude": "tampered only", "include": "with authentic", "only": "authentic only"}
_SELECT = {
    "val": "a seeded hold-out of the training data",
    "last": "nothing: the last epoch is the result",
    "test": "the test sets (upstream's way)",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare nothing: the list has no options."""


def run(args: argparse.Namespace) -> int:
    """Print every protocol and every recipe with its title."""
    from sparsevit_plugin.harness.recipes import NO_RECIPE, load_recipe, shipped_recipes
    from sparsevit_plugin.protocol.schema import load_protocol, protocol_names

    protocols = {name: load_protocol(name).title for name in protocol_names()}
    recipes = {name: load_recipe(name).title for name in shipped_recipes() if name != NO_RECIPE}
    width = max(len(name) for name in (*protocols, *recipes))
    for title, found in (("protocols", protocols), ("recipes", recipes)):
        print(title)
        for name, words in found.items():
            print(f"  {name:{width}}  {words}")
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
    return "\n".join([*lines, *_words(protocol)])


def describe_recipe(recipe: "Recipe") -> str:
    """Return what a recipe says, as text."""
    from sparsevit_plugin.protocol.values import values_of

    values = values_of(recipe)
    width = max((len(f"{name} {value.text}") for name, value in values.items()), default=0) + 1
    lines = [f"{recipe.name}: {recipe.title}", ""]
    lines += [
        f"  {f'{name} {value.text}':{width}} ({value.source})" for name, value in values.items()
    ]
    return "\n".join([*lines, *_words(recipe)])


def _words(card: "Card") -> list[str]:
    """Return notes, sources, and what is not known or not sourced."""
    from sparsevit_plugin.cards.provenance import UNSOURCED
    from sparsevit_plugin.protocol.values import values_of

    lines = ["", card.notes] if card.notes else []
    lines += ["", "sources", *(f"  {source}" for source in card.sources)]
    for source, names in card.found_in.items():
        lines.append(f"  {source}: {', '.join(names)}")
    lines += [f"  not known: {text}" for text in card.unknown]
    unsourced = [name for name, value in values_of(card).items() if value.source == UNSOURCED]
    return lines + ([f"  {UNSOURCED}: {', '.join(unsourced)}"] if unsourced else [])


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
