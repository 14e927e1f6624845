"""The part of `benco complexity` that draws: scores against cost, or cost against the side."""

import argparse
import math
import re
import sys
from collections.abc import Mapping, Sequence, Set
from typing import TYPE_CHECKING, Any

from sparsevit_plugin.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from sparsevit_plugin.complexity.columns import CostTable
    from sparsevit_plugin.results.cost_plots import Curve, Point
    from sparsevit_plugin.results.published import Published

_AVERAGE = "average"
_LATENCY = "inference_seconds:1"


def add_plot_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare `--plot` and what goes with it."""
    parser.add_argument(
        "--plot",
        metavar="FILE.pdf|FILE.png|FILE.svg",
        help="draw too: with --with-protocol or --published scores against MACs and parameters, "
        "else the cost of each model against its sides (several by --image-size)",
    )
    parser.add_argument(
        "--published",
        metavar="NAME",
        help="with --plot: the scores of a published card, as mvss, marked apart, at the costs "
        "counted here of the models of the same names",
    )


def check_plot_arguments(args: argparse.Namespace) -> None:
    """Refuse a plot that cannot be made, before anything is counted.

    Raises:
        UserError: The file's ending, the card or the combination is wrong, or a file is there that
            is no figure of this program.
    """
    if args.published and not args.plot:
        raise UserError("--published is of --plot: add --plot FILE.pdf")
    if args.plot:
        from sparsevit_plugin.results.cost_plots import refuse_other_file

        refuse_other_file("--plot", args.plot)
    if args.published:
        _published(args.published)


def draw(costs: "CostTable", args: argparse.Namespace, score: str = "") -> None:
    """Write the plot where `--plot` asks for one.

    Args:
        costs: Rows of counts, with measured times and with scores where there are any.
        args: Of the command line.
        score: The name of the column whose score is drawn; empty for none.

    Raises:
        UserError: There is nothing to draw, or the file cannot be written.
    """
    if not args.plot:
        return
    from sparsevit_plugin.results.cost_plots import write_figure

    write_figure(_figure(costs, args, score), args.plot)
    print(f"wrote {args.plot}")


def _figure(costs: "CostTable", args: argparse.Namespace, score: str) -> "Figure":
    from sparsevit_plugin.results.cost_plots import score_plot, side_plot

    if not score and not args.published:
        return side_plot(curves(costs))
    card = _published(args.published) if args.published else None
    points = measured_points(costs, score) if score else []
    if score:
        _tell_left_out(costs, score, {point.label for point in points})
    if card is not None:
        points += published_points(costs, card)
    return score_plot(points, _axis(score, card))


def _axis(score: str, card: "Published | None") -> str:
    """Say what the scores are."""
    from sparsevit_plugin.results.conventions import METRICS

    metric, _, column = score.partition(":")
    if score:
        return f"{METRICS[metric].title}, {column}"
    return f"{card.figure}, {_AVERAGE}" if card is not None else ""


def curves(costs: "CostTable") -> list["Curve"]:
    """Return each model's MACs, and its time of one image where it was measured, over sides."""
    from sparsevit_plugin.results.cost_plots import Curve

    names = dict.fromkeys(str(row["model"]) for row in costs.rows)
    return [
        Curve(name, _over_sides(costs, name, "macs"), _over_sides(costs, name, _LATENCY))
        for name in names
    ]


def _over_sides(costs: "CostTable", model: str, column: str) -> dict[int, float]:
    return {
        row["image_size"]: row[column]
        for row in costs.rows
        if row["model"] == model and row.get(column) is not None
    }


def measured_points(costs: "CostTable", score: str) -> list["Point"]:
    """Return a point for every row that has the score; of a model at several sizes the scored one.

    Args:
        costs: Rows of `complexity.scores.with_scores`.
        score: Name of a column of scores.
    """
    return [
        _point(row, str(row["model"]), row[score])
        for row in costs.rows
        if row.get(score) is not None and row.get("scored_at") in (None, row.get("image_size"))
    ]


def _tell_left_out(costs: "CostTable", score: str, drawn: Set[str]) -> None:
    """Name the rows that have the score and no point, because they were counted at other sizes."""
    counted = [row for row in costs.rows if row.get("image_size") is not None]
    scored = [str(row["model"]) for row in counted if row.get(score) is not None]
    missing = [name for name in dict.fromkeys(scored) if name not in drawn]
    if missing:
        print(
            f"not drawn, not counted at the size of their scores: {', '.join(missing)}",
            file=sys.stderr,
        )


def published_points(costs: "CostTable", card: "Published") -> list["Point"]:
    """Return a point for every method of a published card that is counted here under its name.

    Names are compared without regard to case, hyphens and the like: TruFor is Trufor. The score is
    the average as its source gives it, never computed.
    """
    counted = {_key(str(row["model"])): row for row in reversed(costs.rows)}
    return [
        _point(counted[_key(one.method)], one.method, card.value(one, None), "published")
        for one in card.rows
        if _key(one.method) in counted
    ]


def _point(row: Mapping[str, Any], label: str, score: float, kind: str = "measured") -> "Point":
    from sparsevit_plugin.results.cost_plots import Point

    macs, parameters = (
        math.nan if row.get(name) is None else float(row[name]) for name in ("macs", "parameters")
    )
    return Point(label, score, macs, parameters, kind)


def score_column(names: Sequence[str], metric: str) -> str:
    """Return the column to draw: the average of a metric, or its only set.

    Args:
        names: Of the table's columns.
        metric: A key of `conventions.METRICS`.

    Raises:
        UserError: There are several sets and no average.
    """
    found = [name for name in names if name.startswith(f"{metric}:")]
    average = f"{metric}:{_AVERAGE}"
    if average in found:
        return average
    if len(found) != 1:
        raise UserError(f"--plot needs one score of a model: {metric} has {len(found)} columns")
    return found[0]


def _key(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _published(name: str) -> "Published":
    from sparsevit_plugin.results.published import load_published

    return load_published(name)
