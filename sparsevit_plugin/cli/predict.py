"""`benco predict`: maps of photographs that have no mask."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparsevit_plugin.cli.checkpoint_options import add_groups, given_options
from sparsevit_plugin.errors import UserError, suggest

if TYPE_CHECKING:
    from sparsevit_plugin.harness.datasets import BadSample
    from sparsevit_plugin.harness.predict import Localiser, Photo, Prediction
    from sparsevit_plugin.harness.prediction_files import PredictionFolder

PASSED_OVER = 1
"""The exit code when a file could not be read."""

_FEW = 20  # so many photographs get a line each
_NAMED = 5  # so many files of other formats are named
_PICTURES = ("map", "mask", "overlay")  # as prediction_files.PICTURES, whose import is slow
_OPTIONS = {
    "model": ("model", "imports", "if_predict_label", "no_model_eval"),
    "how a photograph is fitted": ("fit", "image_size", "tile", "tile_overlap"),
    "device and speed": (
        *("device", "backend", "precision", "matmul", "compile", "num_workers"),
        *("calibration_data", "calibration_images", "data_root", "data_paths"),
    ),
}
"""Options that `benco test` has too, by their heading."""

_EPILOG = """\
How a photograph is fitted to the model, the model's name and its arguments are those that the
checkpoint records; flags override them. Photographs are turned upright by their EXIF orientation.

OUT holds maps/, masks/, overlays/, records/, predictions.csv, predictions.jsonl and settings.json.
Photographs that are finished are not done again. Files that cannot be used are passed over and
listed in passed-over.csv, and the exit code is 1.

examples:
  benco predict holiday/ --checkpoint runs/a/best.safetensors --out maps
  benco predict "scans/**/*.tif" --checkpoint runs/a --out maps --tile 512 --map-bits 16
  benco predict a.jpg b.png --checkpoint runs/a --out maps --fit grid --threshold 0.3
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `benco predict`."""
    parser.description = (
        "Predict where photographs were tampered with: a map, a mask and an overlay of each, and "
        "a table of scores and tampered areas."
    )
    parser.epilog = _EPILOG
    add = parser.add_argument
    add("photographs", nargs="+", metavar="PATH", help="photographs, folders or patterns")
    add(
        "--checkpoint",
        required=True,
        metavar="FILE",
        help="weights, the folder of a run, or OWNER/NAME on Hugging Face",
    )
    add("--out", required=True, metavar="DIR", help="folder of the results")
    add("--threshold", type=float, default=0.5, help="pixels above it are tampered (%(default)s)")
    add(
        "--write",
        default=",".join(_PICTURES),
        metavar="KIND,...",
        help="pictures to write (%(default)s)",
    )
    add("--map-bits", type=int, choices=(8, 16), default=8, help="of the map's PNG (%(default)s)")
    add(
        "--overwrite",
        action="store_true",
        help="do finished photographs again, and replace what else is in DIR under their names",
    )
    add_groups(parser, _OPTIONS)
    parser.add_argument(
        "--batch-size",
        type=int,
        default=1,
        metavar="N",
        help="photographs of one size, or tiles of one, seen at a time (%(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Predict on the photographs that the command line names.

    Returns:
        0, or 1 when a file could not be read.

    Raises:
        UserError: Something that the user gave cannot be used.
    """
    pictures = _pictures(args.write)
    options = given_options(args, _OPTIONS)
    from sparsevit_plugin.harness.option_table import BY_NAME
    from sparsevit_plugin.harness.photo_paths import find_photographs
    from sparsevit_plugin.harness.predict import Localiser
    from sparsevit_plugin.harness.prediction_files import PredictionFolder, Wanted, held

    if options["num_workers"] is None:  # as its help says; from Python there are none
        options["num_workers"] = BY_NAME["num_workers"].default
    out = Path(args.out)
    photos = find_photographs(args.photographs, leave_out=out)
    localiser = Localiser(
        args.checkpoint, threshold=args.threshold, batch_size=args.batch_size, **options
    )
    with held(out):
        folder = PredictionFolder(
            out,
            localiser.settings(),
            Wanted(pictures, args.map_bits),
            facts=localiser.facts(),
            overwrite=args.overwrite,
        )
        code = _predict(localiser, folder, photos)
    _tell_foreign(args.photographs)
    return code


def _pictures(text: str) -> tuple[str, ...]:
    words = [word.strip() for word in text.split(",") if word.strip()]
    for word in words:
        if word not in _PICTURES:
            raise UserError(
                f'--write: "{word}" is not one of {", ".join(_PICTURES)}.{suggest(word, _PICTURES)}'
            )
    return tuple(dict.fromkeys(words))


def _predict(localiser: "Localiser", folder: "PredictionFolder", photos: "list[Photo]") -> int:
    """Predict on what is not finished, write the tables whatever happens, and say what there is."""
    from sparsevit_plugin.harness.datasets import BadSample
    from sparsevit_plugin.harness.prediction_files import why_unusable
    from sparsevit_plugin.harness.progress import Progress

    by_name = {photo.name: photo for photo in photos}
    bad = [BadSample(p.name, p.path, reason) for p in photos if (reason := why_unusable(p))]
    unusable = {one.name for one in bad}
    missing = [p for p in photos if p.name not in unusable and not folder.is_done(p)]
    before = len(photos) - len(bad) - len(missing)
    try:
        with Progress(len(photos), "predict", start=before + len(bad)) as progress:
            for result in localiser.stream(missing):
                if isinstance(result, BadSample):
                    bad.append(result)
                else:
                    bad += _write(folder, by_name[result.name], result)
                progress.advance()
    finally:
        records = folder.finish(photos, bad)
    done = [record for record in records if record["name"] in by_name]
    _tell(folder.folder, done, before, [(b.path, b.reason) for b in bad])
    return PASSED_OVER if bad else 0


def _write(
    folder: "PredictionFolder", photo: "Photo", prediction: "Prediction"
) -> "list[BadSample]":
    """Write a prediction; return the photograph where its file has changed since it was read."""
    from sparsevit_plugin.harness.datasets import BadSample
    from sparsevit_plugin.harness.images import BadImage

    try:
        folder.write(photo, prediction)
    except BadImage as error:
        return [BadSample(photo.name, error.path, error.reason)]
    return []


def _tell_foreign(words: Sequence[str]) -> None:
    """Name photographs of formats that are not read: a phone's, a camera's raw ones."""
    from sparsevit_plugin.harness.photo_paths import foreign_photographs

    found = foreign_photographs(words)
    if found:
        named = ", ".join(_on_one_line(path.name) for path in found[:_NAMED])
        more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
        print(f"not taken, of other formats: {named}{more}; convert them, or name a file to try it")


def _on_one_line(name: str) -> str:
    """Return a file's name with what would break a line or a terminal escaped."""
    return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in name)


def _tell(out: Path, done: list[dict[str, Any]], before: int, bad: list[tuple[Path, str]]) -> None:
    from rich.cells import cell_len

    if len(done) <= _FEW:
        names = [_on_one_line(record["name"]) for record in done]
        width = max(map(cell_len, names), default=0)
        for name, record in zip(names, done, strict=True):
            area = f"{record['tampered_area']:7.2%} tampered"
            space = " " * (width - cell_len(name))
            print(f"{name}{space}  score {record['score']:.4f}  {area}")
    for path, reason in bad:
        print(f"passed over {_on_one_line(str(path))}: {reason}")
    finished = f", {before} of them finished before" if before else ""
    noun = "photograph" if len(done) == 1 else "photographs"
    print(f"{len(done)} {noun}{finished}; {len(bad)} passed over")
    print(f"table: {out / 'predictions.csv'}")
