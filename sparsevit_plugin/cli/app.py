"""`benco app`: a page in the browser that shows where a photograph was tampered with."""

import argparse
import importlib.util
import sys

from sparsevit_plugin.cli.checkpoint_options import add_groups, given_options
from sparsevit_plugin.errors import UserError
from sparsevit_plugin.pixel_limit import DEFAULT, is_limited, limited_to

_OPTIONS = {
    "model": ("model", "imports", "if_predict_label", "no_model_eval"),
    "how a photograph is fitted": ("fit", "image_size", "tile", "tile_overlap"),
    "device and speed": (
        *("device", "backend", "precision", "matmul", "compile"),
        *("calibration_data", "calibration_images", "data_root", "data_paths"),
    ),
}
"""Options that `benco test` has too, by their heading."""

_MOST_PORTS = 65535
_EPILOG = """\
The page is served to this machine alone (127.0.0.1), needs no network, and sends nothing anywhere.
Ctrl-C stops it. It needs the extra: pip install "sparsevit-plugin[app]".

examples:
  benco app --checkpoint runs/a
  benco app --checkpoint runs/a/best.safetensors --tile 512 --backend openvino --port 8000
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `benco app`."""
    parser.description = (
        "Serve a page: drop a photograph, see its map, mask and overlay, move the threshold."
    )
    parser.epilog = _EPILOG
    add = parser.add_argument
    add("--checkpoint", required=True, metavar="FILE", help="weights, or the folder of a run")
    add("--host", default="127.0.0.1", help="where to listen (%(default)s: this machine alone)")
    add("--port", type=int, metavar="N", help="the port (the first free one from 7860)")
    add("--threshold", type=float, default=0.5, help="at the start (%(default)s)")
    add(
        "--max-pixels",
        type=int,
        default=50_000_000,
        metavar="N",
        help="photographs with more are refused (%(default)s)",
    )
    add(
        "--max-bytes",
        type=int,
        default=50_000_000,
        metavar="N",
        help="larger files are refused (%(default)s)",
    )
    add_groups(parser, _OPTIONS)
    add("--batch-size", type=int, default=1, metavar="N", help="tiles seen at a time (%(default)s)")


def run(args: argparse.Namespace) -> int:
    """Serve the page until it is interrupted.

    Raises:
        UserError: Gradio is missing, or something that the user gave cannot be used.
    """
    _check(args)
    options = given_options(args, _OPTIONS)
    from sparsevit_plugin.app.looking import Limits
    from sparsevit_plugin.app.server import free_port, is_loopback, serve
    from sparsevit_plugin.harness.predict import Localiser

    port = free_port(args.host, args.port)
    limits = Limits(args.max_pixels, args.max_bytes)
    localiser = Localiser(
        args.checkpoint, threshold=args.threshold, batch_size=args.batch_size, **options
    )
    if not is_loopback(args.host):
        print(
            f"benco: warning: --host {args.host}: everyone who reaches port {port} of this machine "
            "can send photographs to the model; there is no password and no encryption",
            file=sys.stderr,
        )

    def tell(address: str) -> None:
        print(f"{localiser.config.model} at {address}  (Ctrl-C stops)", flush=True)

    # What the page accepts is to be read, unless the whole command was given a limit of its own.
    most = None if is_limited() else max(args.max_pixels, DEFAULT)
    with limited_to(most):
        serve(localiser, limits, host=args.host, port=port, started=tell)
    return 0


def _check(args: argparse.Namespace) -> None:
    if importlib.util.find_spec("gradio") is None:
        raise UserError('benco app needs the extra: pip install "sparsevit-plugin[app]"')
    if args.port is not None and not 1 <= args.port <= _MOST_PORTS:
        raise UserError(f"--port {args.port}: give 1 to {_MOST_PORTS}")
    for name in ("max_pixels", "max_bytes"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name.replace('_', '-')}: give a number above 0")
