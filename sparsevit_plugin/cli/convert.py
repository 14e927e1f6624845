"""`benco convert`: a checkpoint of IMDLBenCo's as safetensors, and back."""

import argparse

_EPILOG = """\
To safetensors: every tensor is kept bit by bit, the epoch and the command line go into the header,
the optimiser is left out. Back: all that is where upstream's scripts look for it. The file may have
any name; nothing of it is run.

examples:
  benco convert checkpoint-68.pth --out sparsevit.safetensors
  benco convert sparsevit.safetensors --out checkpoint-0.pth
  benco convert runs/a/best.safetensors --out checkpoint-0.pth
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `benco convert`."""
    parser.epilog = _EPILOG
    add = parser.add_argument
    add("checkpoint", metavar="CHECKPOINT", help="a weights file, or the folder of a run")
    add("--out", required=True, metavar="FILE", help="what to make: .safetensors, .pth or .pt")
    add("--model", default="", metavar="NAME", help="the model, where the file does not say")
    add(
        "--import",
        dest="imports",
        action="append",
        default=[],
        metavar="FILE",
        help="a Python file or module that registers the model; may be repeated",
    )
    add("--overwrite", action="store_true", help="replace FILE where it is there")


def run(args: argparse.Namespace) -> int:
    """Write the other file, and say what it holds.

    Raises:
        UserError: The checkpoint cannot be converted.
    """
    from sparsevit_plugin.harness.testing import checkpoint_file
    from sparsevit_plugin.model.convert import convert
    from sparsevit_plugin.registration import import_user

    import_user(args.imports)
    source = checkpoint_file(args.checkpoint)
    print(convert(source, args.out, model=args.model, overwrite=args.overwrite).summary())
    return 0
