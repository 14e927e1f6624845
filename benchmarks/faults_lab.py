"""The tiny corpus, model and protocol that `faults.py` works on, and the commands it strikes."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from faults_child import start

TRAIN = "train"
TESTS = ("splicing", "copy-move", "removal", "resaved")
SCALE = 0.02  # of the demo's number of images

_CARD = "name: {name}\ntitle: {name}\nwhere: here\nlicence: MIT\nlayout: unverified\nfolder: {at}\n"
_OPTIONS = {
    "image_size": 32,
    "fit": "resize",
    "batch_size": 16,
    "test_batch_size": 4,
    "accum_iter": 1,
    "epochs": 2,
    "warmup_epochs": 0.5,
    "lr": 1e-3,
    "num_workers": 0,
    "save_every": "1",
    "matmul": "mkl",  # measured anew in every process otherwise, so that weights may differ
}
_PROTOCOL = """\
name: faults
title: A tiny protocol
train:
  sets: [{set: faults_train, authentic: include}]
  select: last
test:
  sets: [{set: faults_splicing, authentic: include}, {set: faults_removal, authentic: include}]
"""
_SPY = """\
import os, sys
if "FAULTS" in os.environ and "work" in sys.orig_argv:
    sys.path.insert(0, %r)
    import faults_child
    place, number, count = os.environ["FAULTS"].split(" ", 2)
    (faults_child.count_into(count) if count else faults_child.strike_at(int(place), int(number)))()
"""


@dataclass
class Task:
    """A command to strike.

    Attributes:
        name: What it is called.
        words: After `benco`; the same words start it and go on with it.
        out: The folder of all that it writes.
        before: Files that are in `out` before it begins, by name.
        worker: Whether not its own process is struck, but the one that it starts.
    """

    name: str
    words: Sequence[str]
    out: Path
    before: dict[str, str] = field(default_factory=dict)
    worker: bool = False


@dataclass
class Lab:
    """Where things are.

    Attributes:
        folder: Everything is below it.
        tasks: What can be struck, by name.
    """

    folder: Path
    tasks: dict[str, Task] = field(default_factory=dict)

    @property
    def corpus(self) -> Path:
        """The corpus, a folder for each set."""
        return self.folder / "data"

    @property
    def base(self) -> Path:
        """A finished run: weights and rows."""
        return self.folder / "base"

    def spy_on_worker(self, *, place: int = 0, number: int = 0, count: Path | None = None) -> None:
        """Make the workers that this process will start strike themselves, or count."""
        os.environ["FAULTS"] = f"{place} {int(number)} {count or ''}"
        paths = [str(self.folder / "spy"), os.environ.get("PYTHONPATH", "")]
        os.environ["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)


def make_lab(folder: Path) -> Lab:
    """Import what commands import, make the corpus, and train and test a model on it."""
    folder.mkdir(parents=True, exist_ok=True)
    folder = folder.resolve()
    registry = folder / "registry"
    os.environ["SPARSEVIT_REGISTRY"] = str(registry)
    _import_everything()
    from sparsevit_plugin.harness.corpus import make_demo

    lab = Lab(folder)
    make_demo(lab.corpus, seed=0, scale=SCALE)
    for part in ("datasets", "protocols"):
        (registry / part).mkdir(parents=True, exist_ok=True)
    for name in (TRAIN, *TESTS):
        card = _CARD.format(name=f"faults_{name}", at=name)
        (registry / "datasets" / f"faults_{name}.yaml").write_text(card)
    (registry / "protocols" / "faults.yaml").write_text(_PROTOCOL)
    options = "".join(f"  {name}: {value!r}\n" for name, value in _OPTIONS.items())
    (folder / "faults.yaml").write_text(f"name: faults\noptions:\n{options}")
    (folder / "spy").mkdir(exist_ok=True)
    (folder / "spy" / "sitecustomize.py").write_text(_SPY % str(Path(__file__).parent))
    lab.tasks = {task.name: task for task in _tasks(lab)}
    if not (lab.base / "best.safetensors").exists():
        words = train_words(lab, lab.base)
        ended = start(words, folder / "base.log").wait()
        if ended.code:
            raise RuntimeError(f"the laboratory cannot train: {ended.text[-2000:]}")
    return lab


def _import_everything() -> None:
    import tensorboard.compat  # noqa: F401 - what commands import late
    import torch.utils.tensorboard  # noqa: F401

    import sparsevit_plugin.cli.predict
    import sparsevit_plugin.cli.protocol_run
    import sparsevit_plugin.cli.report
    import sparsevit_plugin.cli.table
    import sparsevit_plugin.cli.test
    import sparsevit_plugin.cli.train
    import sparsevit_plugin.harness.predict
    import sparsevit_plugin.harness.prediction_files
    import sparsevit_plugin.harness.train
    import sparsevit_plugin.protocol.runner
    import sparsevit_plugin.report.collect
    import sparsevit_plugin.report.render
    import sparsevit_plugin.results.tables  # noqa: F401


def train_words(lab: Lab, out: Path, *more: str) -> list[str]:
    """Return the words of a training with tests, which goes on where it was left."""
    return [
        *("train", "--model", "SparseViT_tiny", "--recipe", str(lab.folder / "faults.yaml")),
        *("--data-path", str(lab.corpus / TRAIN / "list.json"), "--device", "cpu"),
        *("--test-data-path", str(lab.corpus / "tests.json"), "--output-dir", str(out)),
        *("--select", "val", "--val-fraction", "0.3", "--resume", "auto", *more),
    ]


def test_words(lab: Lab, out: Path, *more: str) -> list[str]:
    """Return the words of a test of the laboratory's model."""
    return [
        *("test", "--checkpoint", str(lab.base / "best.safetensors"), "--device", "cpu"),
        *("--model", "SparseViT_tiny", "--matmul", "mkl", "--num-workers", "0"),
        *("--test-batch-size", "4", "--output-dir", str(out)),
        *("--test-data-path", str(lab.corpus / "tests.json"), *more),
    ]


def protocol_words(lab: Lab, runs: Path, *more: str) -> list[str]:
    """Return the words of a protocol run: two seeds, each trained and tested on two sets."""
    return [
        *("protocol", "run", "faults", "--models", "SparseViT_tiny", "--seeds", "0"),
        *("--recipe", str(lab.folder / "faults.yaml"), "--weights", "none", "--device", "cpu"),
        *("--data-root", str(lab.corpus), "--runs", str(runs), *more),
        *(word for name in ("image_size", "fit") for word in ("--set", f"{name}={_OPTIONS[name]}")),
    ]


def predict_words(lab: Lab, out: Path) -> list[str]:
    """Return the words of predicting the photographs of a test set."""
    return [
        *("predict", str(lab.corpus / "splicing" / "Tp"), "--device", "cpu", "--matmul", "mkl"),
        *("--checkpoint", str(lab.base / "best.safetensors"), "--out", str(out)),
        *("--num-workers", "0"),
    ]


def _tasks(lab: Lab) -> list[Task]:
    work = lab.folder / "work"
    place = {name: work / name for name in ("train", "test", "predict", "table", "report")}
    old = "an older table\n"
    table = ["table", str(lab.base), "--metric", "pixel_f1,pixel_auc", "--format", "markdown"]
    report = ["report", str(lab.base), "--images", "1", "--device", "cpu"]
    return [
        Task("train", train_words(lab, place["train"]), place["train"]),
        Task("test", test_words(lab, place["test"]), place["test"]),
        Task("predict", predict_words(lab, place["predict"]), place["predict"]),
        Task(
            "table",
            [*table, "--out", str(place["table"] / "table.md")],
            place["table"],
            before={"table.md": old},
        ),
        Task("report", [*report, "--out", str(place["report"] / "r.html")], place["report"]),
        Task("runner", protocol_words(lab, work / "runner"), work / "runner"),
        Task("worker", protocol_words(lab, work / "worker"), work / "worker", worker=True),
    ]


if __name__ == "__main__":
    sys.exit(__doc__)
