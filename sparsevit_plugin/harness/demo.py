"""The demo: the main job, from embedded photographs to a cross-dataset table.

It runs the commands that a user would run, in this process, and prints each with its time.
"""

import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sparsevit_plugin.files import write_text_atomic
from sparsevit_plugin.harness.config import resolve
from sparsevit_plugin.harness.corpus import DemoCorpus, make_demo
from sparsevit_plugin.harness.datasets import BadSample, collate
from sparsevit_plugin.harness.evaluate import model_inputs, native_map
from sparsevit_plugin.harness.images import read_pair
from sparsevit_plugin.harness.pipeline import Source, make_dataset, samples_of
from sparsevit_plugin.harness.testing import evaluate_checkpoints
from sparsevit_plugin.harness.train import Trainer, train
from sparsevit_plugin.results.figures import prediction_grid
from sparsevit_plugin.results.store import load
from sparsevit_plugin.results.tables import difference_table

MODEL = "SparseViT_tiny"
BASELINES = ("AllTampered", "RandomScores")
PICTURES_PER_SET = 2


@dataclass
class Stages:
    """Prints what runs and how long it took."""

    taken: dict[str, float]

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time one stage."""
        print(f"\n== {name}", flush=True)
        began = time.monotonic()
        yield
        self.taken[name] = time.monotonic() - began
        print(f"== {name}: {self.taken[name]:.0f} s", flush=True)


def run_demo(out: Path, *, seed: int, workers: int, scale: float = 1.0) -> None:
    """Make the corpus, train, test beside trivial baselines, and show what came out.

    Args:
        out: Folder for everything; a finished or killed demo in it is continued.
        seed: Seed of the corpus and of the training.
        workers: Processes that make and load pictures.
        scale: Factor of the number of pictures; below 1 for a quick look that learns little.
    """
    stages = Stages({})
    with stages.stage("corpus"):
        corpus = make_demo(out / "corpus", seed=seed, workers=workers, scale=scale)
    with stages.stage("training"):
        trainer = _train(corpus, out, seed, workers)
    with stages.stage("testing the trivial baselines"):
        for name in BASELINES:
            _test_baseline(name, corpus, out, seed)
    with stages.stage("tables and pictures"):
        _show(trainer, out)
    print(
        f"\ntimes: {', '.join(f'{name} {seconds:.0f} s' for name, seconds in stages.taken.items())}"
    )
    print(f"total: {sum(stages.taken.values()):.0f} s")


def _train(corpus: DemoCorpus, out: Path, seed: int, workers: int) -> Trainer:
    # On a CPU the model keeps all cores busy: loader processes would only get in its way.
    loaders = workers if torch.cuda.is_available() else 0
    arguments = [
        *("--model", MODEL, "--recipe", "sparsevit-demo", "--seed", str(seed)),
        *("--data-path", str(corpus.train), "--test-data-path", str(corpus.tests_file)),
        *(
            "--output-dir",
            str(out / "runs" / MODEL),
            "--num-workers",
            str(loaders),
            "--resume",
            "auto",
        ),
    ]
    print(f"benco train {shlex.join(arguments)}", flush=True)
    return train(resolve("train", arguments))


def _test_baseline(name: str, corpus: DemoCorpus, out: Path, seed: int) -> None:
    arguments = [
        *("--model", name, "--image-size", "128", "--fit", "resize", "--test-batch-size", "32"),
        *("--num-workers", "0"),
        *("--test-data-path", str(corpus.tests_file), "--output-dir", str(out / "runs" / name)),
        *("--seed", str(seed)),
    ]
    print(f"benco test {shlex.join(arguments)}", flush=True)
    evaluate_checkpoints(resolve("test", arguments))


def _show(trainer: Trainer, out: Path) -> None:
    results = load(out / "runs")
    table = results.table(metric="pixel_f1")
    table.print()
    write_text_atomic(out / "table.md", table.to_markdown())
    write_text_atomic(out / "table.csv", table.to_csv())
    differences = difference_table(results, MODEL, list(BASELINES), "pixel_f1")
    differences.print()
    write_text_atomic(out / "differences.md", differences.to_markdown())
    print(_verdict(differences))
    picture = out / "predictions.png"
    prediction_grid(_predictions(trainer), picture, title=f"{MODEL}, held-out photographs")
    for what, path in (
        ("table", out / "table.md"),
        ("differences", out / "differences.md"),
        ("picture", picture),
        ("rows", out / "runs"),
        ("weights", out / "runs" / MODEL / "best.safetensors"),
    ):
        print(f"{what}: {path}")


def _verdict(differences: Any) -> str:  # noqa: ANN401
    """Say in words whether the model beat every baseline on every set."""
    failed = [cell for cell in differences.cells if not cell.low > 0]
    if not failed:
        return (
            f"{MODEL} beats {' and '.join(BASELINES)} on every test set: each 95 % interval of "
            "the difference, bootstrapped over source photographs, lies above 0."
        )
    where = "; ".join(f"{cell.dataset} against {cell.baseline}" for cell in failed)
    return f"NOT shown: the 95 % interval of the difference reaches 0 or below on {where}."


def _predictions(trainer: Trainer) -> list[dict[str, Any]]:
    """Predict a few pictures of each test set: its first tampered ones, of different photographs.

    They are chosen by their order alone, so that the picture shows failures as it shows successes.
    """
    items = []
    for name, source in trainer.data.tests.items():
        for index in _first_tampered(source):
            items.append(predict_item(trainer, source, index, f"{name} {index}"))
    return items


def _first_tampered(source: Source) -> list[int]:
    chosen: dict[str, int] = {}
    for index, sample in enumerate(samples_of(source)):
        photo = sample.photos[0] if sample.photos else sample.name
        if sample.mask is not None:
            chosen.setdefault(photo, index)
    return sorted(chosen.values())[:PICTURES_PER_SET]


def predict_item(trainer: Trainer, source: Source, index: int, title: str) -> dict[str, Any]:
    """Return one picture for `prediction_grid`, at the photograph's own size."""
    dataset = make_dataset(trainer.cfg, source, training=False)
    item = dataset[index]
    if isinstance(item, BadSample):
        raise RuntimeError(f"{item.path}: {item.reason}")
    sample = samples_of(source)[index]
    image, mask, _ = read_pair(sample.image, sample.mask)
    model: nn.Module = trainer.bare.eval()
    batch = collate([item])
    with torch.no_grad(), trainer.fabric.autocast():
        output = model(**model_inputs(batch, trainer.fabric.device))
    probability = output["pred_mask"][0].float().cpu()
    probability = native_map(probability, batch["shape"][0], image.shape[:2])[0]
    return {"image": image, "mask": mask, "probability": probability.numpy(), "title": title}
