"""`benco explain gradcam`: which places of a layer speak for the model's answer."""

import argparse
from typing import TYPE_CHECKING

from sparsevit_plugin.cli.subject_options import (
    add_subject_arguments,
    beside,
    check_out,
    open_subject,
    write_arrays,
)
from sparsevit_plugin.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from sparsevit_plugin.explain.subject import Fed

_TARGETS = ("predicted", "whole", "mask")

_EPILOG = """\
What is explained is the sum of the map's logits over a region: the pixels that the model calls
tampered (--of predicted), those of a mask (--mask FILE) or all (--of whole). Works with every
registered model; of models other than SparseViT name the layers. An npz file of the figure's name
holds the values.

examples:
  benco explain gradcam photograph.jpg --checkpoint runs/a --out cam.png
  benco explain gradcam photograph.jpg --checkpoint runs/a --out cam.png --mask mask.png
  benco explain gradcam photograph.jpg --checkpoint runs/trufor --out cam.png --layers head.conv
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `benco explain gradcam`."""
    parser.description = "Draw the Grad-CAM of a model's layers for a photograph."
    parser.epilog = _EPILOG
    add = parser.add_argument
    add("photograph", metavar="IMAGE", help="the photograph")
    add(
        "--layers",
        metavar="NAME,...",
        help="modules of the model, by their names (default: the last block of each stage)",
    )
    add(
        "--of",
        choices=_TARGETS,
        help="the region that is explained (default: mask where one is given, else predicted)",
    )
    add("--mask", metavar="FILE", help="a mask of the photograph's size, for --of mask")
    add("--threshold", type=float, default=0.5, help="of --of predicted (%(default)s)")
    add_subject_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Draw the figure and write its numbers.

    Raises:
        UserError: Something that the user gave cannot be used.
    """
    kind = _kind(args)
    width = check_out(args, ".npz")
    from sparsevit_plugin.explain.draw_features import cam_figure
    from sparsevit_plugin.explain.gradcam import default_layers, grad_cams, layer_names

    subject = open_subject(args)
    fed = subject.feed(args.photograph)
    layers = layer_names(args.layers) if args.layers else default_layers(subject)
    probability, _ = subject.probability(fed)
    region, words = _region(args, kind, fed, probability)
    cams = grad_cams(subject, fed, region, layers)
    numbers = beside(args.out, ".npz")
    cam_figure(fed, probability, cams, words, width=width).write(args.out)
    write_arrays(numbers, {"map": probability, **{cam.layer: cam.values for cam in cams}})
    for cam in cams:
        if cam.is_empty:
            print(f"{cam.layer}: nothing in it speaks for the answer")
    print(f"wrote {args.out} and {numbers}")
    return 0


def _kind(args: argparse.Namespace) -> str:
    kind = args.of or ("mask" if args.mask else "predicted")
    if (kind == "mask") != bool(args.mask):
        raise UserError("--of mask and --mask FILE go together")
    if not 0 <= args.threshold <= 1:
        raise UserError(f"--threshold {args.threshold}: a probability from 0 to 1 is needed")
    return str(kind)


def _region(
    args: argparse.Namespace, kind: str, fed: "Fed", probability: "NDArray[np.float32]"
) -> "tuple[NDArray[np.bool_], str]":
    """Return the pixels whose logits are summed, and what they are in words.

    Raises:
        UserError: There are none, or the mask is of another size.
    """
    import numpy as np

    if kind == "whole":
        return np.ones(fed.size, np.bool_), "the whole map"
    if kind == "predicted":
        region = probability > np.float32(args.threshold)
        if not region.any():
            raise UserError(
                f"{fed.name}: no pixel is above --threshold {args.threshold:g} (the highest is "
                f"{probability.max():.3f}): lower it, or explain the whole map by --of whole"
            )
        return region, f"the pixels above {args.threshold:g}"
    from sparsevit_plugin.harness.images import read_mask

    region = read_mask(args.mask) > 0
    if region.shape != fed.size:
        raise UserError(
            f"--mask {args.mask}: is {region.shape[1]} x {region.shape[0]} pixels, the photograph "
            f"{fed.size[1]} x {fed.size[0]}"
        )
    if not region.any():
        raise UserError(f"--mask {args.mask}: calls no pixel tampered")
    return region, "the mask's pixels"
