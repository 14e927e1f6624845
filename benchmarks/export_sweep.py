"""Which models export: `python benchmarks/export_sweep.py [--backends openvino] [--out FILE]`.

Every model that has a card is built at its card's smallest settings, with random weights whose
scales and biases are drawn too, and its map of a synthetic photograph is compared with PyTorch's,
for a batch of two and of one. Printed as a Markdown table: the largest difference, the range of the
map (a map of one value compares nothing), and whether one graph takes any batch; or why there is
no graph, in a line. The exit code is 1 when a map differs by more than the tolerance.
"""

import argparse
import fnmatch
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparsevit_plugin.backends import prepare
from sparsevit_plugin.backends.capture import quiet
from sparsevit_plugin.cards import load_model_card
from sparsevit_plugin.cards.models import card_names
from sparsevit_plugin.errors import UserError
from sparsevit_plugin.files import write_text_atomic
from sparsevit_plugin.harness.complexity import example_inputs
from sparsevit_plugin.harness.config import Config, resolve
from sparsevit_plugin.harness.pipeline import build_model
from sparsevit_plugin.harness.testing import without_pretraining
from sparsevit_plugin.registration import register_all

BATCHES = (2, 1)
HEAD = (
    "| model | side | backend | largest difference | range of the map | batch |",
    "|---|---|---|---|---|---|",
)


@dataclass(frozen=True)
class Exported:
    """What became of a model.

    Attributes:
        difference: The largest of a probability; NaN without a graph.
        spread: Largest less smallest probability of PyTorch's maps.
        batch: "any" or "one", the batches that a graph takes; or why there is none.
    """

    difference: float
    spread: float
    batch: str


def main() -> None:
    """Export all, print the table, and write it."""
    args = parse()
    torch.set_num_threads(args.threads)
    register_all()
    names = chosen(args.models.split(","))
    lines = list(HEAD)
    print("\n".join(lines), flush=True)
    worst = 0.0
    for name in names:
        for backend, side, found in sweep(name, args.backends.split(",")):
            lines.append(row(name, backend, side, found))
            print(lines[-1], flush=True)
            worst = max(worst, found.difference)
    if args.out:
        write_text_atomic(Path(args.out), "\n".join([*lines, ""]))
    sys.exit(int(worst > args.tolerance))


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default="*", help="patterns, separated by commas (%(default)s)")
    parser.add_argument("--backends", default="openvino", help="separated by commas (%(default)s)")
    parser.add_argument("--tolerance", type=float, default=1e-4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", default="", help="file of the table, beside printing it")
    return parser.parse_args()


def chosen(patterns: list[str]) -> list[str]:
    """Return the cards that a pattern matches, in the order of the patterns."""
    return list(dict.fromkeys(n for one in patterns for n in fnmatch.filter(card_names(), one)))


def sweep(name: str, backends: list[str]) -> list[tuple[str, int, Exported]]:
    """Export a model to each backend; a model that cannot be built has one entry."""
    cfg = smallest_config(name)
    try:
        with quiet(), torch.no_grad():
            model = randomised(cfg)
            calls = [example_inputs(cfg, batch=count) for count in BATCHES]
            maps = [model(**call)["pred_mask"].float() for call in calls]
    except UserError as error:
        return [("torch", cfg.image_size, Exported(float("nan"), float("nan"), str(error)))]
    return [(one, cfg.image_size, compare(model, one, calls, maps)) for one in backends]


def smallest_config(name: str) -> Config:
    """Return how a model is tested at its card's smallest settings."""
    card = load_model_card(name)
    smallest = card.smallest if card else None
    given = {"image_size": smallest.image_size, **smallest.arguments} if smallest else {}
    words = [f"--{key}={value}" for key, value in given.items()]
    cfg = resolve("test", ["--model", name, "--device", "cpu", *words], needs_data=False)
    return without_pretraining(cfg)


def randomised(cfg: Config) -> nn.Module:
    """Build a model; scales that start near zero would hide what they scale."""
    torch.manual_seed(0)
    model = build_model(cfg).eval().requires_grad_(False)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def compare(
    model: nn.Module, backend: str, calls: list[dict[str, Any]], maps: list[Tensor]
) -> Exported:
    """Compare a backend's maps with PyTorch's."""
    with tempfile.TemporaryDirectory() as cache:
        predictor = prepare(model, backend=backend, cache=cache)
        try:
            found = [predictor(**call)["pred_mask"] for call in calls]
        except UserError as error:
            return Exported(float("nan"), spread(maps), str(error))
        graphs = len(list(Path(cache).glob("*/entry.json")))
    pairs = zip(found, maps, strict=True)
    largest = max(float((one - other).abs().max()) for one, other in pairs)
    return Exported(largest, spread(maps), "any" if graphs == 1 else "one")


def spread(maps: list[Tensor]) -> float:
    """Return the largest less the smallest value of all maps."""
    return max(float(one.max() - one.min()) for one in maps)


def row(name: str, backend: str, side: int, found: Exported) -> str:
    """Write a line of the table."""
    difference = "" if found.difference != found.difference else f"{found.difference:.1g}"
    reason = found.batch.replace("|", "\\|")
    return f"| {name} | {side} | {backend} | {difference} | {found.spread:.2g} | {reason} |"


if __name__ == "__main__":
    main()
