"""Which of timm's families make a localiser: `python benchmarks/timm_families.py --out FILE.csv`.

Of every module of timm's that registers models the smallest is built with random weights, and makes
one training step and one prediction, with SegFormer's decoder and with SparseViT's head. The images
are 64 x 64, or where these fail of the model's own size. What fails there too is a reason.

A killed run goes on with what its file holds. `--check FILE.csv` compares with an earlier result
and ends with 1 where a family does worse: for `make test-long`. Nothing is downloaded.
"""

import argparse
import csv
import io
import re
import sys
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import timm
import torch

from sparsevit_plugin.errors import UserError
from sparsevit_plugin.files import write_text_atomic
from sparsevit_plugin.zoo.timm_localiser import LFF, TimmLocaliser

SIDE = 64
WIDTH = 8
EXTRACTOR = "srm"
WORKS = "yes"
BIG = re.compile(r"large|huge|giant|gigantic|xxl|so\d+m|_[gGhHlL]_|enormous|1b|7b")
"""Models that cannot be the smallest of a family that has others."""

_OUTCOMES = ("mlp", "lff", "extractor")


@dataclass
class Outcome:
    """What became of a family.

    Attributes:
        family: timm's module.
        model: Its smallest model.
        parameters: Of the localiser with the decoder.
        side: Of the images that it took; 0 where it took none.
        mlp: "yes", or why there is no localiser with SegFormer's decoder.
        lff: The same with SparseViT's head.
        extractor: The same with SRM features in front.
        layers: Layers that timm knows of it, for layer-wise rates; 0 where it knows none.
    """

    family: str
    model: str
    parameters: int = 0
    side: int = 0
    mlp: str = ""
    lff: str = ""
    extractor: str = ""
    layers: int = 0


def main() -> None:
    """Try all, write the table, and compare it with an earlier one."""
    args = parse()
    torch.set_num_threads(args.threads)
    families = args.families.split(",") if args.families else timm.models.list_modules()
    found = read_csv(Path(args.out)) if args.out and Path(args.out).exists() else []
    known = {one.family for one in found}
    for number, family in enumerate(families, start=1):
        start = time.monotonic()
        names = timm.list_models(module=family)
        if not names or family in known:
            continue
        outcome = try_family(family, smallest(names))
        found = sorted([*found, outcome], key=lambda one: one.family)
        seconds = time.monotonic() - start
        print(f"[{number}/{len(families)}] {line_of(outcome)}  {seconds:.0f} s", flush=True)
        if args.out:
            write_text_atomic(args.out, to_csv(found))
    works = sum(one.mlp == WORKS for one in found)
    fuses = sum(one.lff == WORKS for one in found)
    print(f"timm {timm.__version__}: {works} of {len(found)} families with mlp, {fuses} with lff")
    worse = regressions(found, Path(args.check)) if args.check else []
    for line in worse:
        print(f"worse than in {args.check}: {line}")
    sys.exit(1 if worse else 0)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--families", default="", help="some of timm's modules, with commas")
    parser.add_argument("--out", default="", help="CSV file to be written; it is gone on with")
    parser.add_argument("--check", default="", help="earlier CSV file to compare with")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def smallest(names: list[str]) -> str:
    """Return the model of the fewest parameters; big ones by name are not built for that."""
    small = [name for name in names if not BIG.search(name)] or names
    return min(small, key=parameters_of)


def parameters_of(name: str) -> int:
    """Return a model's number of parameters, without memory for them where that can be done."""
    for device in ("meta", "cpu"):
        try:
            with torch.device(device):
                model = timm.create_model(name)
            return sum(p.numel() for p in model.parameters())
        except Exception:
            continue
    return sys.maxsize


def try_family(family: str, name: str) -> Outcome:
    """Try the model with the decoder, and with SparseViT's head behind an extractor.

    Where these two fail together each is tried alone: a build is most of the time.
    """
    outcome = Outcome(family, name)
    outcome.mlp = try_model(outcome)
    both = try_model(outcome, head=LFF, extractor=EXTRACTOR)
    if both == WORKS:
        outcome.lff = outcome.extractor = WORKS
    else:
        outcome.lff = try_model(outcome, head=LFF)
        outcome.extractor = try_model(outcome, extractor=EXTRACTOR)
    return outcome


def try_model(outcome: Outcome, **arguments: str) -> str:
    """Make a training step and a prediction; return "yes" or the reason why not."""
    reason = ""
    sides = dict.fromkeys((outcome.side or SIDE, own_side(outcome.model)))
    for side in sides:
        try:
            torch.manual_seed(0)
            model = TimmLocaliser(outcome.model, width=WIDTH, img_size=side, **arguments)
            step(model, side)
        except Exception as error:  # what a family cannot do comes as anything
            reason = one_line(error)
            if isinstance(error, UserError) and "images only" not in reason:
                break  # it is not the size
            continue
        outcome.side = side
        if not arguments:
            outcome.parameters = sum(p.numel() for p in model.parameters())
            outcome.layers = len(set(model._layer_of.values()))
        return WORKS
    return reason


def own_side(name: str) -> int:
    """Return the side of the images that a model was made for."""
    settings = timm.get_pretrained_cfg(name)
    return int(settings.input_size[-1]) if settings is not None else 224


def one_line(error: Exception) -> str:
    """Return a reason in one line."""
    text = str(error).splitlines()[0] if str(error) else "no message"
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"


def step(model: TimmLocaliser, side: int) -> None:
    """Train on two images and predict one.

    Raises:
        RuntimeError: A gradient or a map is not finite, or the map has another size.
    """
    image, mask = torch.randn(2, 3, side, side), torch.zeros(2, 1, side, side)
    model.train()(image, mask)["backward_loss"].backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    with torch.no_grad():
        scores = model.eval()(image[:1])["pred_mask"]
    if not all(torch.isfinite(one).all() for one in [scores, *gradients]):
        raise RuntimeError("gradients or the map are not finite")
    if scores.shape != (1, 1, side, side):
        raise RuntimeError(f"the map is {tuple(scores.shape)}")


def line_of(outcome: Outcome) -> str:
    """Return an outcome for the terminal."""
    words = ", ".join(f"{name} {getattr(outcome, name)}" for name in _OUTCOMES)
    millions = outcome.parameters / 1e6
    return f"{outcome.family}: {outcome.model} ({millions:.2f} M, {outcome.side} px): {words}"


def to_csv(found: list[Outcome]) -> str:
    """Return the table."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [one.name for one in fields(Outcome)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(one) for one in found)
    return text.getvalue()


def read_csv(path: Path) -> list[Outcome]:
    """Return what an earlier run has written."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    numbers = ("parameters", "side", "layers")
    return [Outcome(**{k: int(v) if k in numbers else v for k, v in row.items()}) for row in rows]


def regressions(found: list[Outcome], earlier: Path) -> list[str]:
    """Return what worked in an earlier table and does not now."""
    before = {one.family: one for one in read_csv(earlier)}
    return [
        f"{one.family} ({one.model}), {name}: {getattr(one, name)}"
        for one in found
        for name in _OUTCOMES
        if getattr(one, name) != WORKS and getattr(before.get(one.family), name, "") == WORKS
    ]


if __name__ == "__main__":
    main()
