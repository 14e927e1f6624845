"""`benco hub save`: a checkpoint as a model folder of Hugging Face."""

import argparse
from pathlib import Path

from sparsevit_plugin.cli.checkpoint_options import add_groups, given_options

_OPTIONS = {"model": ("model", "imports", "image_size", "fit")}
"""Options that `benco test` has too, by their heading."""

_EPILOG = """\
DIR gets config.json (the constructor's arguments), model.safetensors and README.md, a model card
that is written from the run: recipe, training data, how the checkpoint was chosen, and the means of
stored result rows of this very checkpoint. Read it before you publish it.

examples:
  benco hub save runs/a --out hub/sparsevit-casia --results runs/b --license apache-2.0
  benco predict photographs/ --checkpoint hub/sparsevit-casia --out maps
  benco hub push hub/sparsevit-casia someone/sparsevit-casia
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `benco hub save`."""
    parser.epilog = _EPILOG
    add = parser.add_argument
    add("checkpoint", metavar="CHECKPOINT", help="weights, or the folder of a run")
    add("--out", required=True, metavar="DIR", help="the model folder")
    add(
        "--results",
        action="append",
        default=[],
        metavar="DIR",
        help="stored results, beside those of the run's own folder; may be repeated",
    )
    add("--license", metavar="ID", help="licence of the weights, as apache-2.0 (none: left open)")
    add("--name", default="", help="the model's name in the card (that of its tests)")
    add("--overwrite", action="store_true", help="replace the model that DIR holds")
    add_groups(parser, _OPTIONS)


def run(args: argparse.Namespace) -> int:
    """Write the folder, and say what the card lacks.

    Raises:
        UserError: Something that the user gave cannot be used.
    """
    options = given_options(args, _OPTIONS)
    from sparsevit_plugin.hub.saving import save_checkpoint

    facts = save_checkpoint(
        args.checkpoint,
        args.out,
        results=args.results,
        licence=args.license,
        name=args.name,
        overwrite=args.overwrite,
        **options,
    )
    print(f"{args.out}: {facts.name} ({facts.config.model}), {facts.parameters:,} parameters")
    sets = list(dict.fromkeys(figure.dataset for figure in facts.figures))
    if sets:
        print(f"results in the card: {', '.join(sets)}")
    else:
        print("no stored results of this checkpoint were found: --results DIR names their folder")
    if args.license is None:
        print("no licence is stated for the weights: --license ID states one")
    print(f"model card: {Path(args.out) / 'README.md'}")
    return 0
