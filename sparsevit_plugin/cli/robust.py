"""`benco robust`: how models bear perturbed photographs, as curves from a protocol's cells."""

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sparsevit_plugin.cli.parser import listed
from sparsevit_plugin.cli.protocol_run import add_run_arguments
from sparsevit_plugin.cli.stored_options import (
    add_allow_mixed,
    add_bootstrap,
    add_scoring,
    check_bootstrap,
    check_digits,
    results_folder,
    write_folder,
)
from sparsevit_plugin.errors import UserError
from sparsevit_plugin.files import prove_writable
from sparsevit_plugin.results.conventions import (
    EVALUATORS,
    METRICS,
    UNPERTURBED,
)

if TYPE_CHECKING:
    from sparsevit_plugin.protocol.plan import Plan
    from sparsevit_plugin.protocol.schema import Protocol
    from sparsevit_plugin.results.robustness import Curves

_FOLDER: Final = "robustness"

_EXAMPLES = """\
examples:
  benco robust mvss --data-root /data --models SparseViT@best.safetensors,Trufor@trufor.pth
  benco robust mvss --data-root /data --models SparseViT,MVSSNet --ladders upstream,resize,social
  benco robust mvss --metric pixel_f1,pixel_auc --out figures      # from stored rows; nothing runs
  benco robust --test-data-path tests.json --models SparseViT@best.safetensors --ladders jpeg
  benco robust runs/a runs/b --rows SparseViT,MVSSNet
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `benco robust`."""
    parser.description = (
        "With --models: test these models of a protocol under every perturbation, as far as it is "
        "not done, and draw the curves. Without: draw them from the rows that are stored. "
        "docs/robustness.md says what the perturbations are."
    )
    parser.epilog = _EXAMPLES
    parser.add_argument(
        "what",
        nargs="*",
        metavar="PROTOCOL_OR_FOLDER",
        help="a protocol's name or YAML file; to draw only, folders of runs as well",
    )
    parser.add_argument(
        "--test-data-path",
        default="",
        metavar="PATH",
        help="in the place of a protocol: test ready checkpoints on a folder, a JSON file or "
        "set:NAME, as benco test does",
    )
    parser.add_argument(
        "--name",
        default="",
        help="with --test-data-path: results go to RUNS/NAME (default: robust-PATH)",
    )
    parser.add_argument(
        "--ladders",
        default="",
        metavar="NAME[,NAME...]",
        help="ladders of perturbations (upstream, blur, noise, jpeg, resize, double, social, all) "
        "or single ones as double:90-60@1280 (default: the protocol's own perturbations where it "
        "has some, else upstream: IMDLBenCo's blur, noise and jpeg; to draw: all that are stored)",
    )
    _add_curves(parser)
    add_run_arguments(parser)


def _add_curves(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what is drawn")
    group.add_argument(
        "--metric",
        default="pixel_f1",
        metavar="NAME[,NAME...]",
        help=f"some of: {', '.join(METRICS)} (default: pixel_f1)",
    )
    group.add_argument(
        "--rows",
        default="",
        metavar="NAME[,NAME...]",
        help="models to draw, in this order: models, labels or groups (default: those of --models, "
        "else all)",
    )
    group.add_argument(
        "--sets", default="", metavar="NAME[,NAME...]", help="panels, in this order (all)"
    )
    add_scoring(group)
    group.add_argument(
        "--evaluators", choices=EVALUATORS, default="exact", help="whose figures (default: exact)"
    )
    add_bootstrap(group, "bands")
    add_allow_mixed(group)
    group.add_argument(
        "--digits", type=int, default=3, metavar="N", help="in tables, after the point (default: 3)"
    )
    group.add_argument(
        "--out",
        default="",
        metavar="DIR",
        help=f"where curves.csv, curves.tex and the figures go (default: RUNS/PROTOCOL/{_FOLDER})",
    )


def run(args: argparse.Namespace) -> int:
    """Run what is missing where models are named, and write the curves.

    Returns:
        0; 1 when some job failed, of which the curves then know nothing.

    Raises:
        UserError: Something cannot be run or drawn as asked.
    """
    _check(args)
    _check_figures(args)
    if not (args.models or args.test_data_path):
        return _draw(args, _stored_folders(args), _protocol_word(args), listed(args.rows) or [])
    code, folder, plan = _run(args)
    if args.dry_run:
        return code
    if not args.ladders:
        args.ladders = ",".join(plan.protocol.test.perturbations)
    rows = listed(args.rows) or _rows_with_results(plan, folder)
    if not rows:
        raise UserError("no model was tested: see the failures above")
    return _draw(args, [folder], plan.request.protocol, rows) or code


def _check(args: argparse.Namespace) -> None:
    check_digits(args.digits)
    check_bootstrap(args)
    if args.test_data_path and args.what:
        raise UserError("--test-data-path takes the place of a protocol: give one of them")
    if args.test_data_path and not args.models:
        raise UserError("--test-data-path needs --models NAME@CHECKPOINT")
    if args.name and not args.test_data_path:
        raise UserError("--name belongs to --test-data-path: a protocol has its own")
    if not args.what and not args.test_data_path:
        raise UserError("give a protocol, folders of runs, or --test-data-path with --models")
    if args.models and len(args.what) > 1:
        raise UserError(f"{' and '.join(args.what)}: models are run on one protocol")


def _check_figures(args: argparse.Namespace) -> None:
    """Refuse what cannot be drawn before anything is written, or runs for hours."""
    from sparsevit_plugin.results.aggregate import Conventions

    _laddered(args.ladders)
    for name in listed(args.metric) or []:
        Conventions(name, args.authentic, args.score_at, args.evaluators)
    if args.models and args.out and not args.dry_run:
        prove_writable(Path(args.out), "--out")


# --- running -------------------------------------------------------------------------------------


def _run(args: argparse.Namespace) -> "tuple[int, Path, Plan]":
    from sparsevit_plugin.cli.protocol_run import carry_out, request_of
    from sparsevit_plugin.protocol.folder import ProtocolFolder
    from sparsevit_plugin.protocol.plan import make_plan
    from sparsevit_plugin.protocol.schema import load_protocol

    if args.test_data_path:
        args.protocol, args.data_paths = _unnamed_protocol(args)
    else:
        (args.protocol,) = args.what
    protocol = load_protocol(args.protocol)
    request = request_of(args, protocol.seeds)
    request = replace(request, perturbations=tuple(_perturbations_to_run(args, protocol)))
    path = Path(args.runs) / protocol.name
    folder = ProtocolFolder(path)
    plan = make_plan(request, folder)
    return carry_out(args, plan, folder), path, plan


def _perturbations_to_run(args: argparse.Namespace, protocol: "Protocol") -> list[str]:
    """Return what is to be run: the photographs as they are are always part of a curve."""
    own = protocol.test.perturbations
    if args.ladders or own == [UNPERTURBED]:
        return [UNPERTURBED, *_laddered(args.ladders or "upstream")]
    return list(dict.fromkeys([UNPERTURBED, *own]))


def _laddered(text: str) -> list[str]:
    """Return the perturbations that `--ladders` means."""
    from sparsevit_plugin.harness.ladders import LADDER, ladders, upstream_ladders
    from sparsevit_plugin.harness.perturb import expand

    several = {"upstream": upstream_ladders(), "all": list(ladders())}
    texts: list[str] = []
    for word in listed(text) or []:
        if ":" in word or word == UNPERTURBED:
            texts.append(word)
        else:
            texts += [f"{LADDER}{name}" for name in several.get(word, [word])]
    return expand(texts)


def _unnamed_protocol(args: argparse.Namespace) -> tuple[str, str]:
    """Write a protocol of the sets of `--test-data-path`; return its file and that of their paths.

    Raises:
        UserError: The path names no sets, or sets that have no path of their own.
    """
    from sparsevit_plugin.protocol.unnamed import write_unnamed

    settings = dict(text.partition("=")[::2] for text in args.settings)
    card = write_unnamed(
        args.test_data_path,
        Path(args.runs),
        name=args.name,
        data_paths=args.data_paths,
        pair=settings.get("pair", "name"),
    )
    return str(card.protocol), str(card.paths or "")


def _rows_with_results(plan: "Plan", folder: Path) -> list[str]:
    """Return the planned rows that have results, as the ids of their manifests."""
    from sparsevit_plugin.results.store import Store

    stored = {note["manifest"]["manifest_id"] for note in Store(folder / "results").all_notes()}
    return [job.row for job in plan.jobs if job.row in stored]


# --- drawing -------------------------------------------------------------------------------------


def _stored_folders(args: argparse.Namespace) -> list[Path]:
    runs = Path(args.runs)
    return [results_folder(_folder_word(word), runs) for word in args.what]


def _folder_word(word: str) -> str:
    """Return the name of the folder that a protocol's YAML file means; other words as they are."""
    if not _is_protocol_file(word):
        return word
    from sparsevit_plugin.protocol.schema import load_protocol

    return load_protocol(word).name


def _is_protocol_file(word: str) -> bool:
    return Path(word).suffix in (".yaml", ".yml")


def _protocol_word(args: argparse.Namespace) -> str | None:
    """Return the one protocol among the words, which gives the order of the sets."""
    from sparsevit_plugin.results.columns import is_protocol

    names = [word for word in args.what if is_protocol(word) or _is_protocol_file(word)]
    names += [str(card) for card in _unnamed_cards(args)]
    return names[0] if len(set(names)) == 1 else None


def _unnamed_cards(args: argparse.Namespace) -> list[Path]:
    """Return the cards that runs with `--test-data-path` have left in the folders."""
    from sparsevit_plugin.protocol.unnamed import unnamed_card

    cards = [unnamed_card(folder) for folder in _stored_folders(args)]
    return [card for card in cards if card.is_file()]


def _draw(
    args: argparse.Namespace, folders: list[Path], protocol: str | None, rows: list[str]
) -> int:
    from sparsevit_plugin.results.robustness import build_curves
    from sparsevit_plugin.results.robustness_plots import plot_writers
    from sparsevit_plugin.results.robustness_tables import to_latex
    from sparsevit_plugin.results.store import load

    out = Path(args.out) if args.out else folders[0] / _FOLDER
    prove_writable(out, "--out")
    curves = build_curves(
        load(*folders),
        listed(args.metric) or [],
        authentic=args.authentic,
        score_at=args.score_at,
        evaluator=args.evaluators,
        rows=rows or None,
        sets=listed(args.sets) or None,
        perturbations=_laddered(args.ladders) if args.ladders else None,
        protocol=protocol,
        allow_mixed=args.allow_mixed,
        level=args.level,
        samples=args.draws,
    )
    figures = plot_writers(curves)
    texts = {"curves.csv": curves.to_csv(), "curves.tex": to_latex(curves, args.digits)}
    write_folder(out, texts, figures)
    _print(curves, args.digits)
    print(
        f"wrote {out / 'curves.csv'}, {out / 'curves.tex'} and {len(figures)} figures beside them"
    )
    return 0


def _print(curves: "Curves", digits: int) -> None:
    from sparsevit_plugin.results.render import print_grid
    from sparsevit_plugin.results.robustness_tables import grid

    for metric in curves.metrics:
        *first, last = curves.kinds
        for kind in first:
            print_grid(grid(curves, kind, metric, digits), [], sys.stdout, names=2)
        below = [curves.captions[metric], *curves.remarks]
        print_grid(grid(curves, last, metric, digits), below, sys.stdout, names=2)
