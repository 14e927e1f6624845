"""`benco data make`: a manipulation corpus from a folder of photographs."""

import argparse
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from sparsevit_plugin.cli.progress import shown_progress
from sparsevit_plugin.errors import UserError

if TYPE_CHECKING:
    from sparsevit_plugin.harness.corpus import CorpusSummary
    from sparsevit_plugin.harness.images import BadImage

#: Fewer test photographs than this say little about others.
FEW_SCENES = 5

_EPILOG = """\
makes OUT/train and the test sets OUT/splicing, OUT/copy-move, OUT/removal (an edit each) and
OUT/resaved (every edit, by another camera, shrunk and saved again). No photograph is in training
and in testing, donors of spliced parts included.

examples:
  benco data make --photos holiday --out corpus
  benco train --data-path corpus/train/list.json --test-data-path corpus/tests.json ...
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's arguments to its parser."""
    parser.description = (
        "Make a manipulation corpus from a folder of photographs: splicing, copy-move and removal, "
        "with masks, authentic images and a manifest of every operation."
    )
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("--photos", required=True, metavar="DIR", help="photographs, subfolders included")
    add("--out", required=True, metavar="DIR", help="folder of the corpus; must be free")
    add(
        "--count",
        type=int,
        default=2000,
        metavar="N",
        help="tampered training images (%(default)s)",
    )
    add("--test-count", type=int, metavar="N", help="tampered images of each test set (count / 10)")
    add(
        "--sizes",
        default="256x256,320x240,240x320",
        metavar="WxH,...",
        help="image sizes, each as often (256x256,320x240,240x320)",
    )
    add("--test-share", type=float, default=0.3, help="part of the photographs tested on (0.3)")
    add("--seed", type=int, default=0, help="seed of every draw (0)")
    add("--workers", type=int, metavar="N", help="processes (one for each core)")
    add(
        "--scenes",
        choices=("file", "folder"),
        default="file",
        help="what is kept together when the photographs are split: each file by itself (default), "
        "or all files of a folder, for bursts and repeated views; copies of a file always are",
    )
    add(
        "--on-bad-image",
        choices=("stop", "skip"),
        default="stop",
        help="a photograph that cannot be read or is too small: stop (default) or skip and list it",
    )
    add("--force", action="store_true", help="replace a corpus that was made with other arguments")


def run(args: argparse.Namespace) -> int:
    """Make a corpus.

    Args:
        args: The arguments of `add_arguments`.

    Returns:
        The exit code, 0.

    Raises:
        UserError: If the arguments, the photographs or the output folder cannot be used.
    """
    from sparsevit_plugin.harness.corpus import make_corpus
    from sparsevit_plugin.harness.corpus_sets import folder_sets, smallest_photograph
    from sparsevit_plugin.harness.photos import read_folder

    photos, out = Path(args.photos), Path(args.out)
    sizes = parse_sizes(args.sizes)
    _check_arguments(args, photos, out)
    photographs, skipped = read_folder(
        photos,
        scenes=args.scenes,
        on_bad_image=args.on_bad_image,
        smallest=smallest_photograph(sizes),
    )
    sets = folder_sets(
        photographs,
        count=args.count,
        seed=args.seed,
        sizes=sizes,
        test_count=args.test_count,
        test_share=args.test_share,
    )
    with shown_progress("images") as progress:
        summary = make_corpus(
            photographs,
            out,
            seed=args.seed,
            sets=sets,
            workers=args.workers or os.cpu_count() or 1,
            force=args.force,
            progress=progress,
        )
    _print_summary(summary, skipped)
    return 0


def parse_sizes(text: str) -> list[tuple[int, int]]:
    """Read image sizes.

    Args:
        text: Such as `256x256,320x240`: width x height.

    Returns:
        (width, height) of each.

    Raises:
        UserError: If the text is something else.
    """
    sizes = []
    for word in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,5})x(\d{1,5})\s*", word)
        if match is None:
            raise UserError(f'--sizes {text}: "{word}" is no size; write 256x256,320x240')
        sizes.append((int(match[1]), int(match[2])))
    return sizes


def _check_arguments(args: argparse.Namespace, photos: Path, out: Path) -> None:
    for name, smallest in (("count", 1), ("test_count", 1), ("workers", 1), ("seed", 0)):
        value = getattr(args, name)
        if value is not None and value < smallest:
            flag = name.replace("_", "-")
            raise UserError(f"--{flag} {value}: must be {smallest} or more")
    if not 0 < args.test_share < 1:
        raise UserError(f"--test-share {args.test_share}: must be between 0 and 1")
    if out.resolve().is_relative_to(photos.resolve()):
        # Its images would be taken for photographs the next time.
        raise UserError(
            f"--out {out}: is inside the folder of photographs {photos}; choose another"
        )


def _print_summary(summary: "CorpusSummary", skipped: "list[BadImage]") -> None:
    for bad in skipped:
        print(f"skipped {bad}")
    for name, part in summary.sets.items():
        print(
            f"{name}: {part.tampered} tampered (mean mask {part.mean_area:.0%}) and "
            f"{part.authentic} authentic images from {part.scenes} photographs"
        )
    tested = min(part.scenes for part in summary.sets.values() if part.split == "test")
    if tested < FEW_SCENES:
        print(f"note: only {tested} test photographs; differences between models will be uncertain")
    made = "found as it was made before" if summary.reused else f"made in {summary.seconds:.0f} s"
    print(f"{summary.path}: {made}; train on {summary.path}/train/list.json, "
          f"test on {summary.path}/tests.json")  # fmt: skip
