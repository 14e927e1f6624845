"""`benco score`: maps made elsewhere become rows of the same tables."""

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from sparsevit_plugin.errors import UserError, suggest

if TYPE_CHECKING:
    from sparsevit_plugin.harness.external import ScoreReport
    from sparsevit_plugin.harness.registered_sets import Authentic
    from sparsevit_plugin.harness.sources import ImageSet

_AUTHENTIC = ("include", "exclude", "only")
_POOLINGS = ("max", "mean", "top1")  # as harness.external.POOLINGS, whose import is slow

_EPILOG = """\
A map is a PNG of 8 or 16 bits (grey), an npy or an npz file (one array, or one that is called
map or pred); floats lie in 0..1, integers are divided by 255 or 65535. Its path below --pred,
without its suffix, is that of its image in the set. It has the photograph's size or, resized,
its aspect ratio. A map that is missing, left over, unreadable or of another aspect ratio is an
error that lists them, and nothing is stored.

examples:
  benco score --pred maps --set CASIAv1 --data-root /data --name TheirMethod
  benco score --pred maps --set CASIAv1 --data-root /data --name TheirMethod --protocol mvss
  benco score --pred maps --test-data-path Columbia --name TheirMethod --pooling mean
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `benco score`."""
    parser.description = (
        "Score maps that another program made, against the masks of a set, and store a row per "
        "image, as benco test does for a model."
    )
    parser.epilog = _EPILOG
    parser.add_argument("--pred", required=True, metavar="DIR", help="folder of the maps")
    parser.add_argument("--name", required=True, help="what the row is called in tables")
    _add_set_arguments(parser)
    _add_map_arguments(parser)
    _add_place_arguments(parser)


def _add_set_arguments(parser: argparse.ArgumentParser) -> None:
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--set", metavar="NAME", help="a registered set")
    which.add_argument(
        "--test-data-path", metavar="PATH", help="a folder with Tp/ and Gt/, or a JSON list"
    )
    parser.add_argument("--data-root", default="", metavar="DIR", help="folder of registered sets")
    parser.add_argument(
        "--data-paths", default="", metavar="FILE", help="YAML file of set name to path"
    )
    parser.add_argument(
        "--authentic",
        choices=_AUTHENTIC,
        help="whether the set's authentic images are scored (default: include; with --protocol as "
        "it says)",
    )
    parser.add_argument(
        "--pair",
        choices=("name", "position"),
        default="name",
        help="how the set's masks are paired with its images (default: name)",
    )


def _add_map_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--pooling",
        choices=_POOLINGS,
        default="max",
        help="how a map gives the image's score: its largest value (default), its mean, or the "
        "mean of its highest hundredth (top1)",
    )
    parser.add_argument(
        "--invert", action="store_true", help="1 means authentic in these maps: take 1 - map"
    )
    parser.add_argument(
        "--allow-missing",
        action="store_true",
        help="leave images without a map out; the row tells how many",
    )
    parser.add_argument(
        "--allow-stretched",
        action="store_true",
        help="take maps of any aspect ratio as maps of the whole photograph, stretched",
    )
    parser.add_argument(
        "--list", action="store_true", help="print every problem, a line each, not the first only"
    )
    parser.add_argument(
        "--num-workers", type=int, metavar="N", help="threads (default: processors, at most 8)"
    )


def _add_place_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--runs", default="runs", metavar="DIR", help="folder of all runs (default: runs)"
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--protocol",
        metavar="NAME",
        help="store in RUNS/NAME, so that the row stands in benco table NAME",
    )
    where.add_argument(
        "--output-dir", metavar="DIR", help="store there (default: RUNS/scores/NAME)"
    )


def run(args: argparse.Namespace) -> int:
    """Score the maps and say where the rows are.

    Raises:
        UserError: Something that the user gave cannot be used; nothing was stored.
    """
    from sparsevit_plugin.harness.external import MapsDoNotFit, ScoreRequest, score_maps
    from sparsevit_plugin.results.store import Store

    _check(args)
    authentic = _authentic(args)
    source, whole = _read_set(args, authentic)
    folder = _folder(args)
    request = ScoreRequest(
        pred=Path(args.pred),
        name=args.name,
        source=source,
        whole=whole,
        store=Store(folder / "results"),
        pooling=args.pooling,
        invert=args.invert,
        allow_missing=args.allow_missing,
        allow_stretched=args.allow_stretched,
        **({} if args.num_workers is None else {"workers": args.num_workers}),
    )
    try:
        report = score_maps(request)
    except MapsDoNotFit as error:
        if args.list:
            print("\n".join(problem.line() for problem in error.problems))
        raise
    _tell(args, source, folder, report)
    return 0


def _check(args: argparse.Namespace) -> None:
    if not args.name.strip() or not args.name.isprintable():
        raise UserError("--name: give the row a name in one line")
    if args.num_workers is not None and args.num_workers < 1:
        raise UserError(f"--num-workers {args.num_workers}: at least 1 is needed")


def _authentic(args: argparse.Namespace) -> "Authentic":
    """Return which images of the set are scored; a protocol settles that for its sets.

    Raises:
        UserError: The set is not among the protocol's, or the protocol says otherwise.
    """
    given: Authentic | None = args.authentic
    if args.protocol is None:
        return given or "include"
    from sparsevit_plugin.protocol.schema import load_protocol

    if args.set is None:
        raise UserError("--protocol needs --set: a protocol knows its sets by their names")
    protocol = load_protocol(args.protocol)
    uses = {use.set: use.authentic for use in protocol.test.sets}
    if args.set not in uses:
        raise UserError(
            f"protocol {protocol.name} does not test on {args.set}, but on {', '.join(uses)}."
            f"{suggest(args.set, uses)}"
        )
    if given not in (None, uses[args.set]):
        raise UserError(
            f"protocol {protocol.name} tests {args.set} with --authentic {uses[args.set]}, not "
            f"{given}: leave --authentic out, or store the rows elsewhere with --output-dir"
        )
    return uses[args.set]


def _read_set(
    args: argparse.Namespace, authentic: "Authentic"
) -> "tuple[ImageSet, ImageSet | None]":
    """Return the images to score, and the whole set where that is more."""
    if args.set is not None:
        from sparsevit_plugin.harness.registered_sets import DataRoots, read_registered

        roots = DataRoots(args.data_root, args.data_paths)
        chosen = read_registered(args.set, roots, authentic=authentic, pair=args.pair)
        if authentic == "include":
            return chosen, None
        return chosen, read_registered(args.set, roots, authentic="include", pair=args.pair)
    from dataclasses import replace

    from sparsevit_plugin.harness.sources import each_once, read_source

    sources = read_source(args.test_data_path, pair=args.pair)
    if len(sources) != 1:
        raise UserError(
            f"--test-data-path {args.test_data_path}: names {len(sources)} sets "
            f"({', '.join(sources)}), but maps are of one: give the path of that set"
        )
    whole = each_once(next(iter(sources.values())))
    wanted = {"include": (True, False), "exclude": (True,), "only": (False,)}[authentic]
    samples = tuple(s for s in whole.samples if (s.mask is not None) in wanted)
    if not samples:
        raise UserError(f"{args.test_data_path}: --authentic {authentic} leaves no image")
    return replace(whole, samples=samples), whole


def _folder(args: argparse.Namespace) -> Path:
    """Return the run's folder; its rows stand in `results/` below it."""
    from sparsevit_plugin.files import file_name

    if args.output_dir is not None:
        return Path(args.output_dir)
    if args.protocol is None:
        return Path(args.runs) / "scores" / file_name(args.name)
    from sparsevit_plugin.protocol.schema import load_protocol

    return Path(args.runs) / load_protocol(args.protocol).name


def _tell(
    args: argparse.Namespace, source: "ImageSet", folder: Path, report: "ScoreReport"
) -> None:
    facts = report.facts
    forms = ", ".join(f"{count} {form}" for form, count in facts["forms"].items())
    print(f"{args.name} on {source.name}: {report.images} of {len(source)} images scored")
    print(f"maps: {forms}; paired by {facts['paired_by']}")
    resized = f"{facts['native_size']} of native size, {facts['resized_bilinearly']} resized"
    print(f"sizes: {resized} bilinearly, {facts['stretched']} of another aspect ratio")
    for remark in report.remarks:
        print(f"note: {remark}")
    print(f"rows: {report.rows_file}")
    runs = "" if args.runs == "runs" else f" --runs {shlex.quote(args.runs)}"
    shown = f"{args.protocol}{runs}" if args.protocol else shlex.quote(str(folder))
    print(f"table: benco table {shown}")
