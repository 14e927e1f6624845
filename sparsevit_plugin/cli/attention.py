"""`benco attention`: what the token at a pixel attends to."""

import argparse
import json
from typing import TYPE_CHECKING, Any

from sparsevit_plugin.cli.subject_options import (
    add_subject_arguments,
    beside,
    check_out,
    open_subject,
    whole_pair,
    write_arrays,
)
from sparsevit_plugin.errors import UserError

if TYPE_CHECKING:
    from sparsevit_plugin.explain.attention import BlockAttention
    from sparsevit_plugin.explain.subject import Fed, Subject

_EPILOG = """\
Each sparse block of stages 3 and 4 is a pair of panels: what the token attends to as the model was
trained, with the tokens outside its group faded to white, and beside it the same weights evaluated
densely (S = 1 in every block; not a dense-trained model). The numbers, of every head, go to an npz
file of the figure's name.

examples:
  benco attention photograph.jpg --at 120,80 --checkpoint runs/a --out attention.pdf
  benco attention photograph.jpg --at 120,80 --checkpoint runs/a --out a.png --blocks 3.1,4.7
  benco attention photograph.jpg --at 120,80 --checkpoint runs/a --out head2.png --head 2
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `benco attention`."""
    parser.description = (
        "Draw what the token at a pixel attends to in each sparse block of SparseViT, over the\n"
        "photograph, as trained and densely."
    )
    parser.epilog = _EPILOG
    add = parser.add_argument
    add("photograph", metavar="IMAGE", help="the photograph; turned upright by its EXIF data")
    add("--at", required=True, metavar="X,Y", help="a pixel of it, from 0,0 at the upper left")
    add(
        "--blocks",
        metavar="STAGE.BLOCK,...",
        help="blocks to draw, counted from 1, as 3.1,3.20,4.7 (default: all)",
    )
    add("--head", type=int, metavar="N", help="one head, from 1 (default: the mean over heads)")
    add("--pairs", type=int, metavar="N", help="blocks in a row (3 on a page, 1 in a column)")
    add_subject_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Draw the figure, write its numbers and print them in short.

    Raises:
        UserError: Something that the user gave cannot be used.
    """
    x, y = whole_pair(args.at, "--at")
    if args.pairs is not None and args.pairs < 1:
        raise UserError(f"--pairs {args.pairs}: at least 1 is needed")
    width = check_out(args, ".npz")
    from sparsevit_plugin.explain.attention import attention_at
    from sparsevit_plugin.explain.draw_attention import attention_figure

    subject = open_subject(args)
    subject.backbone("attention is drawn")
    fed = subject.feed(args.photograph)
    sparse, dense = (attention_at(subject, fed, x, y, dense=kind) for kind in (False, True))
    sparse, dense = (_chosen(found, args.blocks) for found in (sparse, dense))
    figure = attention_figure(
        fed, (x, y), sparse, dense, width=width, head=args.head, pairs=args.pairs
    )
    numbers = beside(args.out, ".npz")
    figure.write(args.out)
    write_arrays(numbers, _arrays(subject, fed, (x, y), sparse, dense))
    _tell(sparse, dense, args.head)
    print(f"wrote {args.out} and {numbers}")
    return 0


def _chosen(found: "list[BlockAttention]", blocks: str | None) -> "list[BlockAttention]":
    if blocks is None:
        return found
    known = {one.place.short: one for one in found}
    words = [word.strip() for word in blocks.split(",") if word.strip()]
    for word in words:
        if word not in known:
            raise UserError(
                f"--blocks {word}: no such sparse block: there are 3.1 to "
                f"{[name for name in known if name.startswith('3.')][-1]} and 4.1 to "
                f"{list(known)[-1]}"
            )
    if not words:
        raise UserError("--blocks: name at least one, as 3.1")
    return [known[word] for word in dict.fromkeys(words)]


def _arrays(
    subject: "Subject",
    fed: "Fed",
    at: tuple[int, int],
    sparse: "list[BlockAttention]",
    dense: "list[BlockAttention]",
) -> dict[str, Any]:
    """Return what the npz file holds: heads x rows x columns of every block, and what it is."""
    import numpy as np

    arrays: dict[str, Any] = {}
    for kind, found in (("sparse", sparse), ("dense", dense)):
        for one in found:
            arrays[f"stage{one.place.stage}_block{one.place.block}_{kind}"] = one.weights
    about = {
        "photograph": fed.name,
        "x": at[0],
        "y": at[1],
        "model": subject.config.model,
        "checkpoint_sha256": subject.checkpoint["sha256"],
        "fit": subject.config.fit,
        "image_size": subject.config.image_size,
        "blocks": [
            {"stage": one.place.stage, "block": one.place.block, "rate": one.place.rate}
            | {"stride": list(one.stride), "token": list(one.token)}
            for one in sparse
        ],
    }
    return {**arrays, "about": np.array(json.dumps(about))}


def _tell(sparse: "list[BlockAttention]", dense: "list[BlockAttention]", head: int | None) -> None:
    print("block   S  stride  tokens  largest  effective | densely: tokens  largest  effective")
    for trained, full in zip(sparse, dense, strict=True):
        stride = f"{trained.stride.height}x{trained.stride.width}"
        print(
            f"{trained.place.short:5} {trained.place.rate:3}  {stride:>6}  "
            f"{_figures(trained, head)} |          {_figures(full, head)}"
        )


def _figures(one: "BlockAttention", head: int | None) -> str:
    return (
        f"{int(one.attended.sum()):6}  {one.of_head(head).max():7.3f}  "
        f"{one.effective_tokens(head):9.1f}"
    )
