"""The `benco` command: finds the verb, imports its module, and turns bad input into one line.

Nothing here imports torch or IMDLBenCo, so that `benco --help` answers at once.
"""

import contextlib
import importlib
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sparsevit_plugin import pixel_limit
from sparsevit_plugin.cli.parser import SuggestingParser
from sparsevit_plugin.confinement import FLAG, confined_to, take_flag
from sparsevit_plugin.errors import UserError, suggest
from sparsevit_plugin.failures import PEER_GONE, in_words, is_peer_gone
from sparsevit_plugin.group_end import end_safely
from sparsevit_plugin.upstream import silence_known_warnings
from sparsevit_plugin.versions import installed_version

FAILED = 1
USER_ERROR = 2
INTERRUPTED = 130  # what a shell reports for SIGINT
BROKEN_PIPE = 141  # what a shell reports for SIGPIPE
_TOO_MANY_DIGITS = "for integer string conversion"  # Python's words; it reads some thousands


@dataclass(frozen=True)
class Verb:
    """One word of the command line.

    Attributes:
        summary: One line for the list of verbs.
        module: Module below `sparsevit_plugin.cli`. It offers `run(argv) -> int` where it has a
            parser of its own, else `add_arguments(parser)` and `run(args) -> int`.
        own_parser: Whether the module reads the argument list itself.
        parts: The second words of a verb that has them.
    """

    summary: str
    module: str = ""
    own_parser: bool = False
    parts: "dict[str, Verb] | None" = None


VERBS = {
    "train": Verb("train a registered model", "train", own_parser=True),
    "test": Verb(
        "test a checkpoint on image sets and store a row per image", "test", own_parser=True
    ),
    "predict": Verb("predict where photographs were tampered with", "predict"),
    "app": Verb("serve a page that shows where a photograph was tampered with", "app"),
    "attention": Verb("draw what a token attends to in each sparse block", "attention"),
    "figure": Verb("lay out images, masks and models' maps for a paper", "figure"),
    "explain": Verb(
        "draw what is inside a model: fusion scales, feature maps, Grad-CAM",
        parts={
            "lff": Verb("draw the scales of the Learnable Feature Fusion", "explain_lff"),
            "features": Verb("draw the feature maps of each stage and tap", "explain_features"),
            "gradcam": Verb("draw which places of a layer speak for the answer", "explain_gradcam"),
        },
    ),
    "protocol": Verb(
        "run every model on every set of a protocol; its state",
        parts={
            "list": Verb("list the protocols", "protocol_list"),
            "show": Verb("show what a protocol or a recipe says, and its sources", "protocol_show"),
            "diff": Verb("show how two protocols, or two recipes, differ", "protocol_diff"),
            "run": Verb("train and test what is missing", "protocol_run"),
            "status": Verb("show how far the runs of a protocol are", "protocol_status"),
            "work": Verb("what run starts for every row; not for people", "protocol_work"),
        },
    ),
    "robust": Verb("test models on perturbed photographs and draw the curves", "robust"),
    "score": Verb("score maps that another program made, as rows of the same tables", "score"),
    "table": Verb("make tables from stored results", "table"),
    "detection": Verb("show how well image scores detect; their reliability", "detection"),
    "thresholds": Verb("draw pixel F1 against thresholds; say what is calibration", "thresholds"),
    "report": Verb("write runs or a protocol as one HTML page", "report"),
    "complexity": Verb(
        "count parameters, MACs, FLOPs and activation memory of models", "complexity"
    ),
    "data": Verb(
        "make, import, check and compare image sets",
        parts={
            "check": Verb("check the images and masks of a data path", "data_check"),
            "make": Verb("make a manipulation corpus from a folder of photographs", "data_make"),
            "list": Verb("list the data set cards, or show one", "data_list"),
            "import": Verb("bring a distributed set into the shared format", "data_import"),
            "leak": Verb("find photographs that two sets share", "data_leak"),
        },
    ),
    "models": Verb("list the registered models, or probe whether each can be built", "models"),
    "env": Verb(
        "show versions and devices; --fix makes this environment's benco the plugin's", "env"
    ),
    "export": Verb(
        "write a checkpoint as a file for OpenVINO, ONNX Runtime or torch.export", "export"
    ),
    "convert": Verb("convert a checkpoint of IMDLBenCo's to safetensors, and back", "convert"),
    "hub": Verb(
        "save a checkpoint as a Hugging Face model folder, and push it",
        parts={
            "save": Verb("write config.json, weights and model card of a checkpoint", "hub_save"),
            "push": Verb("push a model folder to the Hugging Face Hub", "hub_push"),
        },
    ),
    "init": Verb("IMDLBenCo's own: copy its scripts into this folder", "init", own_parser=True),
    "demo": Verb(
        "train and test a small SparseViT on photographs that are installed already", "demo"
    ),
}

_EXAMPLES = """\
examples:
  benco demo --out runs/demo
  benco train --model SparseViT --data-path CASIA2.0 --test-data-path tests.json --output-dir runs/a
  benco test --model SparseViT --checkpoint runs/a/best.safetensors --test-data-path tests.json
  benco predict photographs/ --checkpoint runs/a/best.safetensors --out maps
  benco attention photograph.jpg --at 120,80 --checkpoint runs/a --out attention.pdf
  benco figure --models A@runs/a,B@runs/b --test-data-path t.json --choose first --out fig.pdf
  benco protocol run mvss --data-root /data --weights-root /weights --models SparseViT,MVSSNet
  benco table mvss --metric pixel_f1,pixel_auc --format latex --out table.tex
  benco table runs/a runs/b --metric pixel_f1
  benco robust mvss --data-root /data --models SparseViT@best.safetensors,Trufor@trufor.pth
  benco score --pred maps --set CASIAv1 --data-root /data --name TheirMethod
  benco data check CASIA2.0
  benco models --probe SparseViT
  benco complexity --models SparseViT,Trufor --image-size 512

"benco VERB --help" lists a verb's options.
"sparsevit" and "python -m sparsevit_plugin" are the same command.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: The words after the command's name; those of this process by default.

    Returns:
        The exit code: 0, what the verb answers, 1 when memory is used up, 2 for bad input, 75 when
        another process of the job has ended, 130 when interrupted. One of several processes does
        not return: it ends here.
    """
    return end_safely(lambda: _answer(argv))


def _answer(argv: Sequence[str] | None) -> int:
    """Run one command; return its exit code."""
    try:
        words, folder = take_flag(sys.argv[1:] if argv is None else argv)
        words, pixels = _take_pixels(words)
        with confined_to(folder), pixel_limit.limited_to(pixels), _clean_output():
            code = _dispatch(words)
        sys.stdout.flush()
    except UserError as error:
        print(f"benco: error: {error}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print("benco: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader has gone: point stdout elsewhere, so that the last flush is silent.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except ValueError as error:
        if _TOO_MANY_DIGITS not in str(error):
            raise
        print("benco: error: a number has more digits than can be read", file=sys.stderr)
        return USER_ERROR
    except (MemoryError, OSError, RuntimeError) as error:
        said = in_words(error)
        if said is None:
            raise
        print(f"benco: error: {said}", file=sys.stderr)
        return PEER_GONE if is_peer_gone(error) else FAILED
    return code


def _take_pixels(words: list[str]) -> tuple[list[str], str | None]:
    """Take `--max-pixels N` out of a command line; behind `app` it is that verb's own."""
    end = len(words)
    with contextlib.suppress(ValueError):
        place = words.index("app")
        if place == 0 or words[0].startswith(pixel_limit.FLAG):
            end = place
    before, pixels = take_flag(words[:end], pixel_limit.FLAG, "a number of pixels")
    return [*before, *words[end:]], pixels


def version_text() -> str:
    """Return the installed versions of the plugin and of IMDLBenCo, a line each."""
    names = {"sparsevit-plugin": "sparsevit-plugin", "imdlbenco": "IMDLBenCo"}
    return "\n".join(f"{shown} {installed_version(name)}" for name, shown in names.items())


@contextlib.contextmanager
def _clean_output() -> Iterator[None]:
    """Show the package's log as the command's own lines, and hide IMDLBenCo's known warnings."""
    log, fonts = logging.getLogger("sparsevit_plugin"), logging.getLogger("matplotlib.font_manager")
    level, handler = fonts.level, logging.StreamHandler()
    handler.setFormatter(_LevelFormatter())
    log.addHandler(handler)
    # Of a font without the weight that was asked for, it says once more for every size.
    fonts.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            silence_known_warnings()
            # Pillow says this of pictures above --max-pixels; they are refused in one line.
            warnings.filterwarnings("ignore", r"Image size \(\d+ pixels\) exceeds", RuntimeWarning)
            # Matplotlib's, for each letter; `results.fonts` says it of all of them.
            warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from", UserWarning)
            yield
    finally:
        log.removeHandler(handler)
        fonts.setLevel(level)


class _LevelFormatter(logging.Formatter):
    """`benco: warning: ...`, like the error lines."""

    def format(self, record: logging.LogRecord) -> str:
        return f"benco: {record.levelname.lower()}: {record.getMessage()}"


def _dispatch(words: list[str]) -> int:
    parser = _top_parser()
    # IMDLBenCo's command takes --config before the verb; it reads nothing from it.
    if words[:1] == ["--config"]:
        words = words[2:]
    first = words[0] if words else "--help"
    if not first.startswith("-"):
        return _run_verb("benco", VERBS, words)
    options = parser.parse_args(words or ["--help"])
    if options.version:
        print(version_text())
    return 0


def _top_parser() -> SuggestingParser:
    parser = SuggestingParser(
        prog="benco",
        usage="benco [-h] [-v] VERB ...",
        description="Train, test and compare image manipulation localization models.\n\n"
        + _verb_list(VERBS),
        epilog=_EXAMPLES,
    )
    parser.add_argument("-v", "--version", action="store_true", help="show versions and exit")
    parser.add_argument(
        FLAG,
        metavar="DIR",
        help="with any verb: refuse images, masks and lists outside DIR, links followed",
    )
    parser.add_argument(
        pixel_limit.FLAG,
        metavar="N",
        help=f"with any verb: refuse images, masks and maps of more pixels ({pixel_limit.DEFAULT})",
    )
    return parser


def _run_verb(command: str, verbs: dict[str, Verb], words: list[str]) -> int:
    """Run the verb that `words` begins with."""
    name, rest = words[0], words[1:]
    if name not in verbs:
        known = ", ".join(verbs)
        raise UserError(f'unknown verb "{command} {name}".{suggest(name, verbs)} Verbs: {known}.')
    verb = verbs[name]
    command = f"{command} {name}"
    if verb.parts is not None:
        return _run_part(command, verb.summary, verb.parts, rest)
    module = importlib.import_module(f"sparsevit_plugin.cli.{verb.module}")
    if verb.own_parser:
        return int(module.run(rest))
    parser = SuggestingParser(prog=command, description=_sentence(verb.summary))
    module.add_arguments(parser)
    return int(module.run(parser.parse_args(rest)))


def _run_part(command: str, summary: str, parts: dict[str, Verb], words: list[str]) -> int:
    """Run the second word of a verb that has parts, or show which there are."""
    if words and not words[0].startswith("-"):
        return _run_verb(command, parts, words)
    parser = SuggestingParser(
        prog=command,
        usage=f"{command} [-h] VERB ...",
        description=f"{_sentence(summary)}\n\n{_verb_list(parts)}",
    )
    parser.parse_args(words or ["--help"])
    return 0


def _verb_list(verbs: dict[str, Verb]) -> str:
    lines = []
    for name, verb in verbs.items():
        second = f" {{{','.join(verb.parts)}}}" if verb.parts else ""
        lines.append(f"  {name + second:20} {verb.summary}")
    return "verbs:\n" + "\n".join(lines)


def _sentence(summary: str) -> str:
    return f"{summary[0].upper()}{summary[1:]}."
