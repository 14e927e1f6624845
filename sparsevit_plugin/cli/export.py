"""`benco export`: a checkpoint as a file for ONNX Runtime, OpenVINO or torch.export."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparsevit_plugin.cli.checkpoint_options import add_groups, given_options
from sparsevit_plugin.errors import UserError

if TYPE_CHECKING:
    from sparsevit_plugin.harness.photos import Photograph

_FORMATS = ("onnx", "openvino", "torch")  # as backends.export.SUFFIXES, whose import is slow
_OPTIONS = {
    "model": ("model", "imports", "image_size", "fit"),
    "precision": (
        *("precision", "calibration_data", "calibration_images", "data_root", "data_paths"),
    ),
}
"""Options that `benco test` has too, by their heading."""

_EPILOG = """\
The file takes any batch of RGB images of --image-size, normalised as OUT.json says, and gives
pred_mask and, of a model that scores images, pred_label. A model that allows only one image at a
time gives a file that takes one; the last line printed says what it takes.

It is compared with PyTorch on photographs before it is put in its place: those inside scikit-image
and scikit-learn, or the folder of --verify. Where it differs by more than the tolerance (1e-5 of
a probability; onnx 1e-4; int8 0.1), no file is left and the exit code is 2.

examples:
  benco export --checkpoint runs/a/best.safetensors --format onnx --out sparsevit.onnx
  benco export --checkpoint runs/a --format openvino --out sparsevit.xml --image-size 1024
  benco export --checkpoint runs/a --format openvino --out small.xml --precision int8 \\
      --calibration-data CASIA2.0
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `benco export`."""
    parser.description = (
        "Write a checkpoint as a file that other programs run, and verify it against PyTorch on "
        "photographs."
    )
    parser.epilog = _EPILOG
    add = parser.add_argument
    add("--checkpoint", required=True, metavar="FILE", help="weights, or the folder of a run")
    add("--format", required=True, choices=_FORMATS, help="torch is torch.export")
    add("--out", required=True, metavar="FILE", help="ends in .onnx, .xml or .pt2")
    add("--verify", metavar="DIR", help="folder of photographs to verify on")
    add("--tolerance", type=float, metavar="D", help="largest difference of a map that is allowed")
    add_groups(parser, _OPTIONS)


def run(args: argparse.Namespace) -> int:
    """Export, and say how the file was verified and what it takes.

    Raises:
        UserError: Something that the user gave cannot be used, or the file is not right.
    """
    from sparsevit_plugin.backends.export import ExportRequest, check_request, export
    from sparsevit_plugin.harness.pipeline import build_model, load_checkpoint
    from sparsevit_plugin.harness.predict import configure
    from sparsevit_plugin.harness.testing import checkpoint_file, without_pretraining

    out = Path(args.out)
    check_request(args.format, out, args.precision or "auto")
    if args.tolerance is not None and not 0 <= args.tolerance < float("inf"):
        raise UserError(f"--tolerance {args.tolerance}: give a finite difference from 0")
    photographs = _photographs(args.verify)
    path = checkpoint_file(args.checkpoint)
    cfg = without_pretraining(
        configure(path, {"backend": _backend(args), **given_options(args, _OPTIONS)})
    )
    model = build_model(cfg)
    checkpoint = load_checkpoint(model, path)
    request = ExportRequest(cfg, checkpoint, args.format, out, photographs, args.tolerance)
    _tell(out, export(model, request))
    return 0


def _backend(args: argparse.Namespace) -> str:
    """Return the backend whose precisions the format has."""
    return "openvino" if args.format == "openvino" else "torch"


def _photographs(folder: str | None) -> "list[Photograph]":
    from sparsevit_plugin.harness.photos import embedded_photographs, read_folder

    return embedded_photographs() if folder is None else read_folder(Path(folder))[0]


def _tell(out: Path, facts: dict[str, Any]) -> None:
    verified = facts["verified"]
    print(f"{out}: {facts['model']} for {facts['format']}, precision {facts['precision']}")
    print(
        f"verified against PyTorch on {verified['photographs']} photographs: largest difference "
        f"{verified['largest_difference']:.2g}, allowed {verified['tolerance']:.2g}"
    )
    print(f"facts: {out}.json")
    takes = "; ".join(
        f"{name} {' x '.join(map(str, one['shape']))} {one['dtype']}"
        for name, one in facts["inputs"].items()
    )
    print(f"takes: {takes}; gives: {', '.join(facts['outputs'])}")
