"""`benco explain lff`: is each scale used?"""

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING

from sparsevit_plugin.cli.subject_options import (
    add_subject_arguments,
    beside,
    check_out,
    open_subject,
    write_table,
)

if TYPE_CHECKING:
    from sparsevit_plugin.explain.fusion import Tap
    from sparsevit_plugin.explain.subject import Fed, Subject
    from sparsevit_plugin.harness.predict import Photo

_EPILOG = """\
With photographs the figure also shows each tap's share of the fused map's variance: the mean over
them, and their standard deviation. NAME.csv holds the gamma of every tap and channel, NAME-taps.csv
a line a tap.

examples:
  benco explain lff --checkpoint runs/a --out lff.pdf
  benco explain lff photographs/ --checkpoint runs/a --out lff.pdf
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `benco explain lff`."""
    parser.description = (
        "Draw gamma, the learnt scale of the Learnable Feature Fusion, of every tap and channel."
    )
    parser.epilog = _EPILOG
    parser.add_argument(
        "photographs", nargs="*", metavar="PATH", help="photographs, folders or patterns"
    )
    add_subject_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Draw the figure, write its tables and print the one of the taps.

    Raises:
        UserError: Something that the user gave cannot be used.
    """
    width = check_out(args, ".csv", "-taps.csv")
    from sparsevit_plugin.explain.draw_fusion import fusion_figure
    from sparsevit_plugin.explain.fusion import fusion_taps
    from sparsevit_plugin.harness.photo_paths import find_photographs

    photos = find_photographs(args.photographs) if args.photographs else []
    subject = open_subject(args)
    taps = fusion_taps(subject, _fed(subject, photos))
    channels, summary = beside(args.out, ".csv"), beside(args.out, "-taps.csv")
    fusion_figure(taps, width).write(args.out)
    write_table(channels, ("tap", "stage", "block", "rate", "channel", "gamma"), _gammas(taps))
    columns = ("tap", "stage", "block", "rate", "channels", "mean_abs_gamma", "largest_abs_gamma")
    shares = ("variance_share", "variance_share_deviation", "images")
    write_table(summary, (*columns, *shares), _summary(taps))
    _tell(taps)
    print(f"wrote {args.out}, {channels} and {summary}")
    return 0


def _fed(subject: "Subject", photos: "list[Photo]") -> "Iterator[Fed]":
    """Feed photographs one at a time, and show how far it is."""
    from sparsevit_plugin.harness.progress import Progress

    if not photos:
        return
    with Progress(len(photos), "lff") as progress:
        for photo in photos:
            yield subject.feed(photo)
            progress.advance()


def _gammas(taps: "list[Tap]") -> Iterator[dict[str, object]]:
    for number, tap in enumerate(taps, start=1):
        for channel, gamma in enumerate(tap.gamma.tolist()):
            yield {**_place(number, tap), "channel": channel, "gamma": gamma}


def _summary(taps: "list[Tap]") -> Iterator[dict[str, object]]:
    for number, tap in enumerate(taps, start=1):
        yield {
            **_place(number, tap),
            "channels": len(tap.gamma),
            "mean_abs_gamma": tap.mean_magnitude,
            "largest_abs_gamma": float(abs(tap.gamma).max()),
            "variance_share": tap.mean_share,
            "variance_share_deviation": tap.share_deviation,
            "images": int(tap.known_shares.size),
        }


def _place(number: int, tap: "Tap") -> dict[str, object]:
    place = tap.place
    return {"tap": number, "stage": place.stage, "block": place.block, "rate": place.rate}


def _tell(taps: "list[Tap]") -> None:
    with_shares = any(tap.known_shares.size for tap in taps)
    print("tap  block   S  mean |gamma|" + ("  share of variance" if with_shares else ""))
    for number, tap in enumerate(taps, start=1):
        line = f"{number:3}  {tap.place.short:5} {tap.place.rate:3}  {tap.mean_magnitude:12.3g}"
        if with_shares:
            line += f"  {tap.mean_share:8.3f}"
            if tap.known_shares.size > 1:
                line += f" (st. dev. {tap.share_deviation:.3f})"
        print(line)
