"""`benco explain features`: what each stage and tap makes of a photograph."""

import argparse

from sparsevit_plugin.cli.subject_options import (
    add_subject_arguments,
    beside,
    check_out,
    open_subject,
    write_arrays,
)
from sparsevit_plugin.errors import UserError

_MOST = 16

_EPILOG = """\
A row each: the last block of stages 1 and 2, every tap of stages 3 and 4, the fused map and the
logits. The first panel is the root mean square over channels; the others are the channels whose
values vary most over the map. Every panel has its own scale. An npz file of the figure's name holds
all channels of all rows.

examples:
  benco explain features photograph.jpg --checkpoint runs/a --out features.png
  benco explain features photograph.jpg --checkpoint runs/a --out features.pdf --channels 4
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `benco explain features`."""
    parser.description = "Draw feature maps of each stage and tap of SparseViT for a photograph."
    parser.epilog = _EPILOG
    parser.add_argument("photograph", metavar="IMAGE", help="the photograph")
    parser.add_argument(
        "--channels", type=int, default=6, metavar="N", help="channels a row (%(default)s)"
    )
    add_subject_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Draw the figure and write its numbers.

    Raises:
        UserError: Something that the user gave cannot be used.
    """
    if not 0 <= args.channels <= _MOST:
        raise UserError(f"--channels {args.channels}: give a number from 0 to {_MOST}")
    width = check_out(args, ".npz")
    from sparsevit_plugin.explain.draw_features import feature_figure
    from sparsevit_plugin.explain.features import feature_maps

    subject = open_subject(args)
    fed = subject.feed(args.photograph)
    maps = feature_maps(subject, fed)
    numbers = beside(args.out, ".npz")
    feature_figure(fed, maps, args.channels, width=width).write(args.out)
    write_arrays(numbers, {one.name: one.values for one in maps})
    print(f"wrote {args.out} and {numbers}")
    return 0
