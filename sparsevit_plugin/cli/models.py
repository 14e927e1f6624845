"""`benco models`: every registered model, where it comes from, and whether it can be built here."""

import argparse
import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from inspect import Parameter, isclass, signature
from typing import Any

from sparsevit_plugin.cards import ModelCard, card_names, load_model_card
from sparsevit_plugin.cli.probe import ProbeResult, probe
from sparsevit_plugin.errors import UserError
from sparsevit_plugin.registration import Registered, import_user, register_all, resolve_model

_SECONDS = 180.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `benco models`."""
    parser.add_argument(
        "--probe",
        nargs="*",
        metavar="NAME",
        help="build these models (all, without a name), each in a process of its own without a "
        "network, and say what is missing",
    )
    parser.add_argument(
        "--timeout", type=float, default=_SECONDS, help="seconds for a probe (default: %(default)g)"
    )
    parser.add_argument(
        "--jobs",
        type=int,
        default=max(1, min(4, (os.cpu_count() or 1) // 2)),
        help="probes at a time (default: half the processors, at most 4)",
    )
    parser.add_argument(
        "--import",
        dest="imports",
        action="append",
        default=[],
        metavar="FILE.py|MODULE",
        help="run the registrations of your own code first; may be repeated",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON list")


def run(args: argparse.Namespace) -> int:
    """List or probe models.

    Raises:
        UserError: For a name that is not registered, or an import that fails.
    """
    if args.timeout <= 0 or args.jobs < 1:
        raise UserError("--timeout and --jobs must be positive")
    register_all()
    import_user(args.imports)
    if args.probe is not None:
        return _probe(args)
    registered = register_all()
    rows = [describe(model) for model in registered.values()]
    rows += [row for name in card_names() if (row := _row_of_card(name, registered)) is not None]
    print(json.dumps(rows, indent=2) if args.json else _table(rows))
    return 0


def describe(model: Registered) -> dict[str, Any]:
    """Return what is known of a model: what the registry knows, and what its card says."""
    facts: dict[str, Any] = {
        "name": model.name,
        "source": model.source,
        "constructor": constructor_text(model.constructor),
        "localiser": is_localiser(model.constructor),
    }
    card = _card(model.name)
    return facts if card is None else facts | _facts_of_card(card)


def _row_of_card(name: str, registered: Mapping[str, Registered]) -> dict[str, Any] | None:
    """Describe a card that builds a model of another name; None for all others."""
    card = None if name in registered else _card(name)
    if card is None or card.model not in registered:
        return None
    given = ", ".join(f"{argument}={value!r}" for argument, value in card.arguments.items())
    row = describe(registered[card.model])
    return row | {"name": name, "constructor": f"{card.model}({given})"} | _facts_of_card(card)


def _facts_of_card(card: ModelCard) -> dict[str, Any]:
    return {
        "title": card.title,
        "image_size": card.image_size,
        "fit": card.fit,
        "weights": [weight.model_dump() for weight in card.weights],
        "recipe": card.recipe,
    }


def constructor_text(constructor: Callable[..., Any]) -> str:
    """Return a constructor's named arguments and their defaults, without types."""
    words = []
    for name, parameter in signature(constructor).parameters.items():
        if parameter.kind in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD):
            continue
        default = "" if parameter.default is Parameter.empty else f"={parameter.default!r}"
        words.append(f"{name}{default}")
    return ", ".join(words)


def is_localiser(constructor: Callable[..., Any]) -> bool | None:
    """Return whether a model's `forward` takes the items of IMDLBenCo's data sets, by keyword.

    Returns:
        None where it cannot be told without building the model: the constructor is a function.
    """
    forward = getattr(constructor, "forward", None)
    if not isclass(constructor) or forward is None:
        return None
    parameters = signature(forward).parameters.values()
    return any(p.name == "image" or p.kind is Parameter.VAR_KEYWORD for p in parameters)


def _card(name: str) -> ModelCard | None:
    """Return a model's card; a wrong one is a warning here, for the list must not depend on it."""
    try:
        return load_model_card(name)
    except UserError as error:
        print(f"benco: warning: {error}", file=sys.stderr)
        return None


def _probe(args: argparse.Namespace) -> int:
    names = args.probe or list(register_all())
    for name in names:
        resolve_model(name)
    results = probe(names, timeout=args.timeout, jobs=args.jobs, imports=args.imports)
    if args.json:
        print(json.dumps([asdict(result) for result in results], indent=2))
        return 0
    width = max(len(name) for name in names)
    built = 0
    for result in results:
        built += result.ok
        print(f"{result.name:{width}}  {_outcome(result)}", flush=True)
    print(f"{built} of {len(names)} can be built here without a network")
    return 0


def _outcome(result: ProbeResult) -> str:
    if not result.ok:
        return f"missing: {result.reason}"
    millions = (result.parameters or 0) / 1e6
    return f"OK  {millions:8.2f} M parameters  {result.seconds:5.1f} s"


def _table(rows: list[dict[str, Any]]) -> str:
    """Return the list as aligned columns; on a terminal, lines end at its edge."""
    cells = [("NAME", "SOURCE", "INPUT", "CONSTRUCTOR")]
    for row in rows:
        size = f"{row['image_size']} {row['fit']}" if "image_size" in row else "-"
        if row["localiser"] is False:
            size = "no localiser"
        cells.append((row["name"], row["source"], size, row["constructor"] or "no arguments"))
    widths = [max(len(line[column]) for line in cells) for column in range(3)]
    edge = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    lines = []
    for *start, last in cells:
        columns = [f"{text:{width}}" for text, width in zip(start, widths, strict=True)]
        lines.append("  ".join([*columns, last])[:edge])
    backbones = "timm:NAME is any backbone of timm's that gives feature maps (docs/backbones.md)"
    return "\n".join([*lines, *_weight_lines(rows), backbones])


def _weight_lines(rows: list[dict[str, Any]]) -> list[str]:
    """Say which files models can start from; those that take the same ones share a line."""
    models: dict[str, list[str]] = {}
    for row in rows:
        if row.get("weights"):
            models.setdefault(_weight_text(row), []).append(row["name"])
    return [f"{', '.join(names)} can start from {text}" for text, names in models.items()]


def _weight_text(row: dict[str, Any]) -> str:
    """Name the files that each argument takes: one of them."""
    files: dict[str, list[str]] = {}
    for weight in row["weights"]:
        files.setdefault(weight["argument"], []).append(weight["name"])
    parts = [
        f"{' or '.join(names)} (--{argument.replace('_', '-')})"
        for argument, names in files.items()
    ]
    return " and ".join(parts)
