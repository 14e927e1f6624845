"""`benco figure`: images, masks and each model's map, laid out for a paper."""

import argparse
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from sparsevit_plugin.cli.checkpoint_options import add_groups, given_options
from sparsevit_plugin.cli.subject_options import beside, check_figures, write_table
from sparsevit_plugin.errors import UserError

if TYPE_CHECKING:
    from sparsevit_plugin.explain.qualitative import Candidate, Choice, MapSource, Row
    from sparsevit_plugin.harness.registered_sets import Authentic
    from sparsevit_plugin.harness.sources import ImageSet

_OPTIONS = {
    "models": ("imports",),
    "device and speed": ("device", "precision", "matmul"),
}
_COUNT = 6
_NAMED = 20  # so many images that were passed over get a line each

_EPILOG = """\
A model is NAME@PATH or LABEL=NAME@PATH: PATH is a weights file, the folder of a run, or a folder of
maps as benco score reads them (or as benco predict writes them). NAME is the registered model, or
whatever the column is to be called where the checkpoint says which model it is of.

--choose disagreement takes the images with the largest mean, over pairs of models and over pixels,
of the absolute difference of their maps at the photograph's own size; it does not look at masks.
FILE.candidates.json keeps the values, so that an interrupted choice goes on. FILE.csv holds what
stands in the figure.

examples:
  benco figure --models SparseViT@runs/a,Trufor@runs/b,Theirs@maps --set CASIAv1 \\
      --data-root /data --choose disagreement --count 6 --out figure.pdf
  benco figure --models SparseViT@runs/a --test-data-path tests.json \\
      --images splicing:3 removal:Tp/000007.jpg --f1 --out figure.pdf --out figure.png
  benco figure --models A=SparseViT@a.safetensors,B=SparseViT@b.safetensors \\
      --images one.jpg two.jpg --masks one.png two.png --binary --width column --out figure.pdf
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `benco figure`."""
    parser.description = (
        "Lay out photographs, masks and the maps of models as a figure for a paper."
    )
    parser.epilog = _EPILOG
    parser.add_argument(
        "--models", required=True, metavar="NAME@PATH,...", help="a column each, in this order"
    )
    parser.add_argument(
        "--out",
        required=True,
        action="append",
        metavar="FILE",
        help="the figure: .pdf, .png or .svg; may be repeated",
    )
    _add_image_arguments(parser)
    _add_look_arguments(parser)
    add_groups(parser, _OPTIONS)


def _add_image_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("images")
    add = group.add_argument
    add(
        "--images",
        nargs="+",
        metavar="IMAGE",
        help="paths of photographs, or names or numbers (from 0) in the set, SET:NAME of several",
    )
    add(
        "--masks",
        nargs="+",
        metavar="FILE",
        help="masks of photographs given by path, in their order; none for one without",
    )
    add(
        "--choose",
        metavar="HOW",
        help="instead of --images: disagreement, first or random:SEED",
    )
    add("--count", type=int, metavar="N", help=f"images that --choose takes ({_COUNT})")
    add("--set", metavar="NAME,...", help="registered sets, below --data-root")
    add("--test-data-path", metavar="PATH", help="a folder with Tp/ and Gt/, or a JSON list")
    add("--data-root", default="", metavar="DIR", help="folder of registered sets")
    add("--data-paths", default="", metavar="FILE", help="YAML file of set name to path")
    add(
        "--authentic",
        choices=("include", "exclude", "only"),
        default="exclude",
        help="whether --choose takes authentic images (%(default)s)",
    )
    add(
        "--allow-stretched",
        action="store_true",
        help="take maps of any aspect ratio as maps of the whole photograph, stretched",
    )


def _add_look_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("look")
    add = group.add_argument
    add(
        "--width",
        default="page",
        metavar="WIDTH",
        help="column (3.35 inches), page (6.9 inches) or inches (%(default)s)",
    )
    add("--binary", action="store_true", help="draw maps in black and white at --threshold")
    add("--threshold", type=float, default=0.5, help="pixels above it are tampered (%(default)s)")
    add("--f1", action="store_true", help="write each map's F1 at --threshold under it")
    add("--names", action="store_true", help="write each image's name beside it")


def run(args: argparse.Namespace) -> int:
    """Choose the images, draw them, and write the figure and its numbers.

    Returns:
        0, or 1 when images were passed over in choosing.

    Raises:
        UserError: Something that the user gave cannot be used.
    """
    width = _check(args)
    from sparsevit_plugin.explain.draw_qualitative import qualitative_figure
    from sparsevit_plugin.explain.qualitative import make_rows, of_set, open_models, read_models

    words = read_models(args.models)
    sets = _sets(args)
    candidates = _candidates(args, sets)
    options = {**given_options(args, _OPTIONS), "threshold": args.threshold}
    # Maps are paired with whole sets: a few names alone would fit those of another set as well.
    whole = [*(one for source in _sets(args, whole=True) for one in of_set(source))]
    whole += [one for one in candidates if not one.source]
    sources = open_models(words, whole, allow_stretched=args.allow_stretched, **options)
    choice = _choose(args, candidates, sources, sets)
    rows = make_rows(choice.images, sources, args.threshold)
    labels = [source.label for source in sources]
    figure = qualitative_figure(
        rows,
        labels,
        width=width,
        binary=args.binary,
        with_f1=args.f1,
        with_names=args.names,
    )
    for out in args.out:
        figure.write(out)
    table = beside(args.out[0], ".csv")
    columns = ("row", "set", "image", "disagreement", "model", "threshold", "f1", "predicted_area")
    write_table(table, columns, _lines(rows, labels))
    _tell(rows, labels, choice)
    print(f"wrote {', '.join(args.out)} and {table}")
    return 1 if choice.bad else 0


def _check(args: argparse.Namespace) -> float:
    """Refuse what does not go together before anything is read; return the width in inches."""
    from sparsevit_plugin.explain.canvas import figure_width
    from sparsevit_plugin.explain.qualitative import chooser

    check_figures(args.out, ".csv")
    if bool(args.images) == bool(args.choose):
        raise UserError("say which images: either --images, or --choose with a set")
    if args.choose:
        chooser(args.choose)
        if not (args.set or args.test_data_path):
            raise UserError("--choose needs images to choose from: --set or --test-data-path")
        if args.masks:
            raise UserError("--masks are of photographs given by path: --choose has its set's own")
    if args.count is not None and (args.count < 1 or not args.choose):
        raise UserError("--count is a number above 0, and goes with --choose")
    if args.set and args.test_data_path:
        raise UserError("--set and --test-data-path: give one of them")
    if not 0 <= args.threshold <= 1:
        raise UserError(f"--threshold {args.threshold}: a probability from 0 to 1 is needed")
    return figure_width(args.width)


def _sets(args: argparse.Namespace, *, whole: bool = False) -> "list[ImageSet]":
    """Read the sets that images are taken from; what --choose may not take only if asked for."""
    from sparsevit_plugin.harness.sources import each_once, read_source

    authentic: Authentic = args.authentic if args.choose and not whole else "include"
    if args.set:
        from sparsevit_plugin.harness.registered_sets import DataRoots, read_registered

        roots = DataRoots(args.data_root, args.data_paths)
        names = [name.strip() for name in args.set.split(",") if name.strip()]
        if not names:
            raise UserError("--set: name at least one")
        return [read_registered(name, roots, authentic=authentic) for name in names]
    if not args.test_data_path:
        return []
    wanted = {"include": (True, False), "exclude": (True,), "only": (False,)}[authentic]
    found = []
    for source in read_source(args.test_data_path).values():
        images = each_once(source)
        samples = tuple(one for one in images.samples if (one.mask is not None) in wanted)
        if samples:
            found.append(replace(images, samples=samples))
    if not found:
        raise UserError(f"{args.test_data_path}: --authentic {authentic} leaves no image")
    return found


def _candidates(args: argparse.Namespace, sets: "list[ImageSet]") -> "list[Candidate]":
    from sparsevit_plugin.explain.qualitative import of_set, pick

    if args.choose:
        return [candidate for source in sets for candidate in of_set(source)]
    picked = pick(args.images, sets)
    doubled = [one.name for place, one in enumerate(picked) if one in picked[:place]]
    if doubled:
        raise UserError(f"--images: {doubled[0]} is named twice")
    return _with_masks(picked, args.masks or [])


def _with_masks(picked: "list[Candidate]", masks: Sequence[str]) -> "list[Candidate]":
    """Give photographs that were named by path their masks."""
    from sparsevit_plugin.harness.sources import Sample

    files = [one for one in picked if one.sample is None]
    if not masks:
        return picked
    if len(masks) != len(files):
        raise UserError(
            f"--masks: {len(masks)} of {len(files)} photographs that are given by path; write none "
            "for one without a mask"
        )
    given = {
        one.name: one
        if mask == "none"
        else replace(one, sample=Sample(one.path, Path(mask), one.path.name))
        for one, mask in zip(files, masks, strict=True)
    }
    return [given.get(one.name, one) for one in picked]


def _choose(
    args: argparse.Namespace,
    candidates: "list[Candidate]",
    sources: "list[MapSource]",
    sets: "list[ImageSet]",
) -> "Choice":
    from sparsevit_plugin.explain.qualitative import Choice, choose_by_disagreement, chooser

    if not args.choose:
        return Choice(candidates)
    count = _COUNT if args.count is None else args.count
    choose = chooser(args.choose)
    if choose is not None:
        return choose(candidates, count)
    kept = beside(args.out[0], ".candidates.json")
    return choose_by_disagreement(candidates, sources, count, kept, sets)


def _lines(rows: "list[Row]", labels: Sequence[str]) -> Iterator[dict[str, object]]:
    for number, row in enumerate(rows, start=1):
        for model, label in enumerate(labels):
            yield {
                "row": number,
                "set": row.candidate.source,
                "image": row.candidate.name.removeprefix(f"{row.candidate.source}/"),
                "disagreement": row.disagreement,
                "model": label,
                "threshold": row.threshold,
                "f1": row.f1(model),
                "predicted_area": float((row.maps[model] > row.threshold).mean()),
            }


def _tell(rows: "list[Row]", labels: Sequence[str], choice: "Choice") -> None:
    for bad in choice.bad[:_NAMED]:
        print(f"passed over {bad.path}: {bad.reason}")
    if len(choice.bad) > _NAMED:
        print(f"passed over {len(choice.bad) - _NAMED} more")
    for row in rows:
        words = [f"{label} {_f1_words(row.f1(model))}" for model, label in enumerate(labels)]
        scores = f"  F1: {', '.join(words)}" if row.mask is not None else ""
        value = f"  disagreement {row.disagreement:.4f}" if len(labels) > 1 else ""
        print(f"{row.candidate.name}{value}{scores}")


def _f1_words(value: float) -> str:
    return "undefined" if math.isnan(value) else f"{value:.3f}"
