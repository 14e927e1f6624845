"""`benco data leak A B`: photographs that a training and a test set share."""

import argparse
import io
import json
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from sparsevit_plugin.cli.progress import shown_progress
from sparsevit_plugin.errors import UserError

if TYPE_CHECKING:
    from sparsevit_plugin.harness.leak import LeakReport
    from sparsevit_plugin.harness.protocol_leaks import ProtocolLeaks
    from sparsevit_plugin.harness.registered_sets import DataRoots
    from sparsevit_plugin.harness.sources import ImageSet

LEAKS_FOUND = 1
_FORMATS = ("terminal", "markdown", "csv")
_BITS = 256  # harness.leak.HASH_BITS, which would import numpy here

_EPILOG = """\
The hash is pHash with 256 bits (library imagehash). Found are copies that were saved again,
resized, brightened, cropped by a per cent or two, and most in which a small part was edited. Not
found are mirrored or turned copies and larger crops. Different photographs differ in about half of
the bits: a larger threshold finds more, and in the end pairs by chance.

With --protocol, every training set of a protocol is compared with every one of its test sets, and
the result is a matrix; sets that are not there are left out and named.

exit code: 0 when the sets share nothing, 1 when they do, 2 when one cannot be read (with
--protocol: when no training or no test set can)

examples:
  benco data leak set:CASIAv2 set:CASIAv1 --data-root /data
  benco data leak train.json test.json --threshold 40 --json > leaks.json
  benco data leak --protocol mvss --data-root /data --format markdown --out leaks.md
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's arguments to its parser."""
    parser.description = (
        "List photographs that two sets share: identical files, near-duplicates by a perceptual "
        "hash, and images that their manifests trace to the same photograph."
    )
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add(
        "first",
        nargs="?",
        metavar="A",
        help="training set: folder, JSON file, or set:NAME[:tampered]",
    )
    add("second", nargs="?", metavar="B", help="test set, likewise")
    add(
        "--protocol", metavar="NAME", help="instead of A and B: all sets of a protocol, or its file"
    )
    add("--format", choices=_FORMATS, default="terminal", help="of the matrix (%(default)s)")
    add("--out", metavar="FILE", help="write the matrix there instead of printing it")
    add(
        "--threshold",
        type=int,
        default=64,
        metavar="N",
        help="most bits, of 256, in which near-duplicates differ (%(default)s)",
    )
    add("--show", type=int, default=50, metavar="N", help="pairs that are printed (%(default)s)")
    add("--json", action="store_true", help="print everything as JSON")
    add("--no-cache", action="store_true", help="neither use nor write remembered hashes")
    add("--data-root", default="", metavar="DIR", help="folder of registered sets")
    add("--data-paths", default="", metavar="FILE", help="YAML file of set name to path")


def run(args: argparse.Namespace) -> int:
    """Compare two sets, or all of a protocol.

    Args:
        args: The arguments of `add_arguments`.

    Returns:
        0 where they share nothing, else 1.

    Raises:
        UserError: A set cannot be read, or an argument is out of range.
    """
    from sparsevit_plugin.harness.leak import find_leaks, hashes_file
    from sparsevit_plugin.harness.registered_sets import DataRoots

    if not 0 <= args.threshold < _BITS // 2:
        raise UserError(
            f"--threshold {args.threshold}: must be 0 or more, and less than {_BITS // 2}"
        )
    roots = DataRoots(args.data_root, args.data_paths)
    if args.protocol:
        return _run_protocol(args, roots)
    if args.first is None or args.second is None:
        raise UserError("give two sets, A and B, or --protocol NAME")
    if args.out or args.format != _FORMATS[0]:
        raise UserError("--format and --out are of the matrix: give --protocol NAME")
    first, second = _read(args.first, roots), _read(args.second, roots)
    with shown_progress("hashing") as progress:
        report = find_leaks(
            first,
            second,
            threshold=args.threshold,
            cache=None if args.no_cache else hashes_file(),
            progress=progress,
        )
    if args.json:
        print(json.dumps(asdict(report), indent=1, ensure_ascii=False))
    else:
        print("\n".join(_lines(report, args.show)))
    return LEAKS_FOUND if report.pairs else 0


def _run_protocol(args: argparse.Namespace, roots: "DataRoots") -> int:
    """Print or write the matrix of a protocol."""
    from sparsevit_plugin.files import write_text_atomic
    from sparsevit_plugin.harness.leak import hashes_file
    from sparsevit_plugin.harness.protocol_leaks import protocol_leaks
    from sparsevit_plugin.protocol.schema import load_protocol

    if args.first is not None or args.json:
        raise UserError("--protocol NAME takes neither A nor B nor --json: see --format")
    protocol = load_protocol(args.protocol)
    with shown_progress("hashing") as progress:
        leaks = protocol_leaks(
            protocol,
            roots,
            threshold=args.threshold,
            cache=None if args.no_cache else hashes_file(),
            progress=progress,
        )
    text = _matrix(leaks, args.format)
    if args.out is None:
        print(text, end="")
    else:
        write_text_atomic(args.out, text)
        print(f"wrote {args.out}")
    return LEAKS_FOUND if leaks.has_leaks else 0


def _matrix(leaks: "ProtocolLeaks", form: str) -> str:
    from sparsevit_plugin.results.render import layout_to_markdown, print_layout

    if form == "csv":
        return str(leaks.frame().to_csv(index=False, lineterminator="\n"))
    if form == "markdown":
        return layout_to_markdown(leaks.layout())
    text = io.StringIO()
    print_layout(leaks.layout(), text)
    return text.getvalue()


def _read(word: str, roots: "DataRoots") -> "ImageSet":
    """Read what a word names as one set."""
    from sparsevit_plugin.harness.registered_sets import Authentic, read_registered
    from sparsevit_plugin.harness.sources import ImageSet, each_once, read_source

    if word.startswith("set:"):
        _, name, label = (*word.split(":", 2), "")[:3]
        labels: dict[str, Authentic] = {
            "": "include",
            "tampered": "exclude",
            "authentic": "only",
        }
        if label not in labels:
            raise UserError(f"{word}: after a set's name comes :tampered, :authentic or nothing")
        return read_registered(name, roots, authentic=labels[label])
    sets = [each_once(source) for source in read_source(word).values()]
    if len(sets) == 1:
        return sets[0]
    samples = tuple(
        replace(sample, name=f"{part.name}/{sample.name}")
        for part in sets
        for sample in part.samples
    )
    return ImageSet(word, "several sets", sets[0].path, samples, sets[0].pairing)


def _lines(report: "LeakReport", show: int) -> list[str]:
    """Return the report as text."""
    lines = [
        f"{report.first} ({report.first_images} images) and {report.second} "
        f"({report.second_images} images): {len(report.pairs)} pairs, in which "
        f"{report.touched()} images of {report.second} take part",
        f"  hash: {report.method}; near-duplicates differ in at most {report.threshold} bits",
    ]
    for pair in report.pairs[:show]:
        bits = "" if pair.distance is None else f"{pair.distance} bits"
        lines.append(f"  {pair.kind}  {bits or pair.photo}  {pair.first}  {pair.second}")
    if len(report.pairs) > show:
        lines.append(f"  ... and {len(report.pairs) - show} more (--show N, or --json for all)")
    for kind in ("identical", "near-duplicate", "photograph"):
        if touched := report.touched(kind):
            lines.append(f"  {kind}: {touched} images of {report.second}")
    lines += [f"  not compared: {line}" for line in report.unreadable]
    if report.flat:
        lines.append(f"  not compared: {len(report.flat)} images without texture")
    return lines
