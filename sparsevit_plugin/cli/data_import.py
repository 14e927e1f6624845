"""`benco data import NAME SRC`: a set as it is distributed, brought into the shared format."""

import argparse
from pathlib import Path

from sparsevit_plugin.cli.progress import shown_progress
from sparsevit_plugin.errors import UserError, suggest

_EPILOG = """\
SRC is the set as its authors give it, unpacked; nothing in it is changed. The photographs are
linked (or copied), never saved again; the masks become PNG of 0 and 255. The set is written whole
or not at all, and an import that was killed goes on where it stopped.

exit code: 0, or 2 when SRC does not hold the set or something in it does not match

examples:
  benco data list
  benco data import CASIAv2 downloads/CASIA2 --data-root /data
  benco data import COVERAGE downloads/COVERAGE --out /data/COVERAGE --allow-mismatched
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's arguments to its parser."""
    parser.description = (
        "Bring a set into the shared format: Tp/, Gt/, Au/, list.json and a manifest that says "
        "where each image comes from and what was left out."
    )
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("name", metavar="NAME", help='the set\'s card ("benco data list" shows them)')
    add("source", metavar="SRC", help="folder of the set as it is distributed, unpacked")
    add("--data-root", metavar="DIR", help="import into DIR/<the card's folder>")
    add("--out", metavar="DIR", help="import into this folder instead")
    add(
        "--link",
        choices=("hard", "symlink", "copy"),
        default="hard",
        help="how photographs come there: hard links where the file system has them, else copies "
        "(default); symbolic links; or copies",
    )
    add(
        "--allow-unmatched",
        action="store_true",
        help="leave out images that match no rule of the card, and list them in the manifest",
    )
    add(
        "--allow-mismatched",
        action="store_true",
        help="leave out images whose mask is missing, unreadable or of another size, and masks "
        "without an image, and list them in the manifest",
    )
    add("--overwrite", action="store_true", help="replace a set that was imported before")
    add("--dry-run", action="store_true", help="read everything, report, and write nothing")


def run(args: argparse.Namespace) -> int:
    """Import a set.

    Args:
        args: The arguments of `add_arguments`.

    Returns:
        The exit code, 0.

    Raises:
        UserError: There is no such card, or the set cannot be imported.
    """
    from sparsevit_plugin.cards import dataset_card_names, load_dataset_card
    from sparsevit_plugin.harness.importer import import_set

    card = load_dataset_card(args.name)
    if card is None:
        names = dataset_card_names()
        raise UserError(f'unknown set "{args.name}".{suggest(args.name, names)} Cards: '
                        f"{', '.join(names)}")  # fmt: skip
    if card.made_by == "demo":
        raise UserError(f"set {card.name}: is made when it is first used and needs no import")
    if bool(args.data_root) == bool(args.out):
        raise UserError("give --data-root DIR (the set goes below it) or --out DIR, one of them")
    target = Path(args.out) if args.out else Path(args.data_root) / card.place
    with shown_progress(f"import {card.name}") as progress:
        report = import_set(
            card,
            Path(args.source),
            target,
            link=args.link,
            allow_unmatched=args.allow_unmatched,
            allow_mismatched=args.allow_mismatched,
            overwrite=args.overwrite,
            dry_run=args.dry_run,
            progress=progress,
        )
    print("\n".join(report.lines()))
    return 0
