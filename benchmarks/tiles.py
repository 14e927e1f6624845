"""What tiles change: `python benchmarks/tiles.py [--checkpoint FILE] [--sides 1024,2048]`.

Photographs of two kinds, with their masks, are seen whole and in tiles:

* `composed`: a mosaic of tampered images of 128 x 128 from the demo's test scenes, at the scale
  that the demo trains at;
* `enlarged`: one such image of 256 x 256, enlarged.

Printed for each kind and side: the largest and the mean difference of the two maps; F1 at 0.5 both
ways, as a mean over the photographs; the time of tiles as a multiple of the whole photograph's
(passes take turns, the median of the ratios); and the memory that a pass adds in a process of its
own. Without a checkpoint the weights are random, with every scale and bias drawn, and F1 says
nothing.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sparsevit_plugin.backends import prepare
from sparsevit_plugin.harness.config import resolve
from sparsevit_plugin.harness.corpus_sets import DEMO_TEST_SCENES
from sparsevit_plugin.harness.metrics import pixel_statistics
from sparsevit_plugin.harness.photos import embedded_photographs
from sparsevit_plugin.harness.pipeline import build_model, load_checkpoint
from sparsevit_plugin.harness.synthesis import Job, Maker, SetSpec
from sparsevit_plugin.harness.testing import recorded_settings, without_pretraining
from sparsevit_plugin.harness.tiling import Tiled
from sparsevit_plugin.zoo.adapter import IMAGE_MEAN, IMAGE_STD

KINDS = {"composed": 128, "enlarged": 256}
"""The side of the demo image behind each kind of photograph."""

_WARM_UP = 64  # side of a first pass, which loads what every pass needs
_KIB_IN_MIB = 1024  # ru_maxrss counts KiB on Linux


def main() -> None:
    """Compare, or be the child that is asked for its memory."""
    args = parse()
    torch.set_num_threads(args.threads)
    model = build(args)
    tiles = Tiled(model, args.tile, args.overlap, args.batch)
    if args.child:
        print(added_memory(model if args.child == "whole" else tiles, int(args.sides)))
        return
    weights = Path(args.checkpoint).name or "random weights"
    print(
        f"{args.model} ({weights}), {args.threads} threads; tiles of {args.tile}, overlap "
        f"{tiles.overlap}, {args.batch} at a time"
    )
    for side in map(int, args.sides.split(",")):
        whole_mib, tiles_mib = (ask_child(how, side) for how in ("whole", "tiles"))
        print(
            f"{side} x {side}: a pass adds {whole_mib:.0f} MiB whole, {tiles_mib:.0f} MiB in "
            f"tiles: {tiles_mib / whole_mib:.2f} times"
        )
        for kind in KINDS:
            photographs = [photograph(kind, side, number) for number in range(args.photographs)]
            print(f"  {kind}: {compare(model, tiles, photographs)}")


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="SparseViT_tiny")
    parser.add_argument("--checkpoint", default="")
    parser.add_argument("--sides", default="1024,2048")
    parser.add_argument("--tile", type=int, default=512)
    parser.add_argument("--overlap", type=int)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--photographs", type=int, default=4, help="of each kind and side")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--child", choices=("whole", "tiles"), help=argparse.SUPPRESS)
    return parser.parse_args()


def build(args: argparse.Namespace) -> nn.Module:
    """Return the model as benco test computes it on the CPU."""
    words = ["--model", args.model, "--device", "cpu", "--fit", "grid"]
    words += ["--checkpoint", args.checkpoint] if args.checkpoint else []
    cfg = resolve("test", words, recorded=recorded_settings, needs_data=False)
    model = build_model(without_pretraining(cfg))
    if args.checkpoint:
        load_checkpoint(model, Path(args.checkpoint))
    else:
        torch.manual_seed(0)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 1:  # scales, among them those that start near zero
                    parameter.add_(0.3 * torch.randn_like(parameter))
    return prepare(model.eval())


def photograph(kind: str, side: int, number: int) -> tuple[Tensor, NDArray[np.bool_]]:
    """Return a photograph, 1 x 3 x side x side and normalised, and its mask."""
    part = KINDS[kind]
    spec = SetSpec("tiles", "test", DEMO_TEST_SCENES, 1, sizes=((part, part),))
    maker = Maker(embedded_photographs(), [spec], seed=number)
    if kind == "enlarged":
        sample = maker.sample(Job("tiles", True, number))
        pixels = cv2.resize(sample.image, (side, side), interpolation=cv2.INTER_CUBIC)
        mask = cv2.resize(sample.mask, (side, side), interpolation=cv2.INTER_NEAREST) > 0
    else:
        count = -(-side // part)
        samples = [maker.sample(Job("tiles", True, place)) for place in range(count * count)]
        masks = [sample.mask for sample in samples if sample.mask is not None]  # all have one
        pixels = mosaic([sample.image for sample in samples], count)[:side, :side]
        mask = mosaic(masks, count)[:side, :side] > 0
    image = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None].float() / 255
    mean, deviation = (torch.tensor(values).view(1, 3, 1, 1) for values in (IMAGE_MEAN, IMAGE_STD))
    return (image - mean) / deviation, mask


def mosaic(parts: list[NDArray[np.uint8]], count: int) -> NDArray[np.uint8]:
    """Lay out count x count pictures of one size."""
    rows = [np.hstack(parts[first : first + count]) for first in range(0, count * count, count)]
    return np.vstack(rows)


def compare(
    whole: nn.Module, tiles: nn.Module, photographs: list[tuple[Tensor, NDArray[np.bool_]]]
) -> str:
    """See photographs both ways in turns, and say how the maps, F1 and times differ."""
    largest, mean, ratios = [], [], []
    f1: dict[str, list[float]] = {"whole": [], "tiles": []}
    for image, mask in photographs:
        first, seconds = timed(whole, image)
        second, tiled_seconds = timed(tiles, image)
        ratios.append(tiled_seconds / seconds)
        difference = np.abs(first - second)
        largest.append(float(difference.max()))
        mean.append(float(difference.mean()))
        f1["whole"].append(pixel_statistics(first, mask).f1)
        f1["tiles"].append(pixel_statistics(second, mask).f1)
    scores = {how: statistics.fmean(values) for how, values in f1.items()}
    return (
        f"map differs by {max(largest):.3f} at most, {statistics.fmean(mean):.4f} on average; F1 "
        f"{scores['whole']:.3f} whole, {scores['tiles']:.3f} in tiles; "
        f"{statistics.median(ratios):.2f} times the time"
    )


@torch.no_grad()
def timed(model: nn.Module, image: Tensor) -> tuple[NDArray[np.float32], float]:
    """Return a map, H x W, and the seconds that it took."""
    start = time.perf_counter()
    values = model(image=image)["pred_mask"][0, 0].numpy()
    return values, time.perf_counter() - start


@torch.no_grad()
def added_memory(model: nn.Module, side: int) -> float:
    """Return by how many MiB a pass over a photograph raises this process's peak."""
    image = torch.rand(1, 3, side, side)
    model(image=image[..., :_WARM_UP, :_WARM_UP])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    model(image=image)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / _KIB_IN_MIB


def ask_child(how: str, side: int) -> float:
    """Run this script, with its own arguments, in a process that does one pass."""
    words = [sys.executable, __file__, *sys.argv[1:], "--child", how, "--sides", str(side)]
    answer = subprocess.run(words, check=True, capture_output=True, text=True)
    return float(answer.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
