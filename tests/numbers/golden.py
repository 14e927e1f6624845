"""Golden results: a small checkpoint, images, and the maps and rows that they must give.

    python -m tests.numbers.golden          # how far this machine's maps are from the golden ones
    python -m tests.numbers.golden --make   # make all anew, when results are meant to change

In `golden/`: `model.safetensors`, a narrow SparseViT with every scale drawn, so that each path of
the network shows in its map; `images/`, tampered and authentic ones as PNG, which all decoders read
alike; `maps/FIT/`, the maps at the images' own size as 16-bit PNG; `rows-FIT.csv`, what
`benco test` stores of them.

Processors, threads and libraries round differently, so a map may differ from the golden one by a
tolerance. From it follows by how much each figure of a row may differ: a figure lies between those
of the golden map with the tolerance taken from the tampered pixels and added to the authentic ones,
and the other way round, because AUC, best F1 and all figures at a threshold only grow with the
former and fall with the latter.
"""

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file

from sparsevit_plugin.cli.main import main as benco
from sparsevit_plugin.harness.config import resolve
from sparsevit_plugin.harness.metrics import pixel_statistics
from sparsevit_plugin.harness.pipeline import build_model, describe_for_testing
from sparsevit_plugin.harness.predict import Localiser
from sparsevit_plugin.results.store import load
from tests.conftest import mask_array, photo_array

FOLDER = Path(__file__).parent / "golden"
SIDE = 96
FITS = ("pad", "resize")
SIZES = ((96, 96), (64, 96), (90, 52), (80, 80), (48, 70))
AUTHENTIC = 3
"""The first so many images are tampered, the others authentic."""

ARGUMENTS = {
    "depth": "1,1,2,2",
    "embed_dim": "8,16,24,32",
    "head_dim": "8",
    "s_blocks3": "2,1",
    "s_blocks4": "2,1",
    "lff_dim": "16",
    "mlp_ratio": "2",
}
SPREAD = 1.5
"""Standard deviation of the logits: maps neither flat nor saturated."""

TOLERANCES = {"32": 1e-4, "bf16": 5e-2}
"""Largest difference of a probability, by the format that the network is computed in."""

OF_RESIZING = 4e-2
"""The same where the image was stretched before: what a change of every sample by up to one level
of 255 makes (3.2e-2 at most in 25 draws), for OpenCV's code for processors may differ by one."""

FIGURES = (
    *("tp", "fp", "fn", "tn", "f1", "precision", "recall", "iou", "accuracy", "auc", "best_f1"),
    "predicted_area",
)
FACTS = ("height", "width", "pixels", "tampered_pixels", "label", "threshold", "pooling")
_FULL = 65535
_WRITTEN = 1e-8  # figures are written with nine digits


# --- what is expected -----------------------------------------------------------------------------


def tolerance(fit: str, precision: str = "32") -> float:
    """Return the largest difference of a probability that is allowed."""
    return max(TOLERANCES[precision], OF_RESIZING if fit == "resize" else 0.0)


def names() -> list[str]:
    """Return the images' names: paths below `images`, without suffix."""
    return [f"{'Tp' if i < AUTHENTIC else 'Au'}/{i}" for i in range(len(SIZES))]


def golden_map(name: str, fit: str) -> NDArray[np.float64]:
    """Read a map, H x W."""
    stored = cv2.imread(str(FOLDER / "maps" / fit / f"{name}.png"), cv2.IMREAD_UNCHANGED)
    assert stored.dtype == np.uint16
    return stored / _FULL


def golden_rows(fit: str) -> pd.DataFrame:
    """Read the rows, indexed by image and size of scoring."""
    return pd.read_csv(FOLDER / f"rows-{fit}.csv", index_col=["sample_name", "score_at"])


def golden_mask(name: str) -> NDArray[np.bool_]:
    """Read where an image was tampered with, H x W."""
    path = FOLDER / "images" / name.replace("Tp/", "Gt/")
    if name.startswith("Au/"):
        return np.zeros(golden_map(name, "pad").shape, bool)
    return np.asarray(Image.open(f"{path}.png")) > 0


def bounds(name: str, fit: str, allowed: float) -> dict[str, tuple[float, float]]:
    """Return between which values each figure of an image's row lies; NaN where it has none."""
    golden, mask = golden_map(name, fit), golden_mask(name)
    better = np.where(mask, allowed, -allowed)
    ends = [pixel_statistics((golden + s * better).clip(0, 1), mask) for s in (-1, 1)]
    found = {}
    for figure in FIGURES:
        low, high = sorted(float(getattr(one, figure)) for one in ends)
        found[figure] = (low, high)
    area = [float(np.mean(golden > 0.5 + s * allowed)) for s in (1, -1)]
    return {**found, "predicted_area": (area[0], area[1])}


# --- what is there --------------------------------------------------------------------------------


def copied(folder: Path) -> Path:
    """Copy the checkpoint: what backends export is kept beside it."""
    return Path(shutil.copy(FOLDER / "model.safetensors", folder))


def predicted_maps(fit: str, checkpoint: Path | None = None, **options: object) -> dict:
    """Predict on the images; returns name to map, H x W, at their own size."""
    checkpoint = checkpoint or FOLDER / "model.safetensors"
    localiser = Localiser(
        checkpoint, device="cpu", fit=fit, image_size=SIDE, batch_size=2, **options
    )
    paths = [FOLDER / "images" / f"{name}.png" for name in names()]
    found = localiser([str(path) for path in paths])
    return {name: one.map for name, one in zip(names(), found, strict=True)}


def rows_of_test(fit: str, out: Path, *more: str) -> pd.DataFrame:
    """Run `benco test` on the images; returns its rows, indexed as the golden ones."""
    words = ["test", "--checkpoint", str(FOLDER / "model.safetensors")]
    words += ["--model", "SparseViT_tiny", "--test-data-path", str(FOLDER / "images" / "list.json")]
    words += ["--fit", fit, "--image-size", str(SIDE), "--device", "cpu", "--num-workers", "0"]
    assert benco([*words, "--output-dir", str(out), *more]) == 0
    rows = load(out).rows
    kept = rows[["sample_name", "score_at", *FACTS, "score", *FIGURES]]
    plain = kept.astype({"sample_name": str, "score_at": str, "pooling": str})
    return plain.set_index(["sample_name", "score_at"]).sort_index()


def largest(maps: dict, fit: str) -> float:
    """Return how far maps are from the golden ones at most."""
    return max(float(np.abs(maps[name] - golden_map(name, fit)).max()) for name in names())


def outside(rows: pd.DataFrame, fit: str, allowed: float) -> list[str]:
    """Name the figures of rows that no map within the tolerance has; empty where all is well."""
    problems = []
    golden = golden_rows(fit)
    for (name, score_at), row in rows.iterrows():
        if fit == "resize" and score_at == "model":
            continue  # the golden maps are of the images' own size
        wanted, where = golden.loc[(name, score_at)], f"{name} at {score_at}"
        problems += [f"{where}: {fact}" for fact in FACTS if row[fact] != wanted[fact]]
        if not abs(row["score"] - wanted["score"]) <= allowed:
            problems.append(f"{where}: score {row['score']} for {wanted['score']}")
        for figure, ends in bounds(name.rpartition(".")[0], fit, allowed).items():
            low, high, value = *ends, float(row[figure])
            if np.isnan(low) and np.isnan(value):
                continue
            if not low - _WRITTEN <= value <= high + _WRITTEN:
                problems.append(f"{where}: {figure} {value} not in [{low}, {high}]")
    return problems


# --- making it ------------------------------------------------------------------------------------


def make() -> None:
    """Make the images, the checkpoint, its maps and its rows."""
    _make_images()
    _make_checkpoint()
    for fit in FITS:
        for name, values in predicted_maps(fit).items():
            path = FOLDER / "maps" / fit / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            levels = np.rint(values.astype(np.float64) * _FULL).astype(np.uint16)
            path.write_bytes(cv2.imencode(".png", levels)[1].tobytes())
        with tempfile.TemporaryDirectory() as folder:
            rows_of_test(fit, Path(folder)).to_csv(FOLDER / f"rows-{fit}.csv", float_format="%.9g")


def _make_images() -> None:
    records = []
    for number, (name, size) in enumerate(zip(names(), SIZES, strict=True)):
        path = FOLDER / "images" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        photograph = Image.fromarray(photo_array(*size, number)).quantize(64).convert("RGB")
        mask = f"Gt/{number}.png" if number < AUTHENTIC else "Negative"
        if number < AUTHENTIC:
            (FOLDER / "images" / "Gt").mkdir(exist_ok=True)
            drawn = mask_array(*size, number)
            Image.fromarray(drawn).save(FOLDER / "images" / mask)
        photograph.save(path)
        records.append([f"{name}.png", mask])
    (FOLDER / "images" / "list.json").write_text(json.dumps(records, indent=1) + "\n")


def _make_checkpoint() -> None:
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in ARGUMENTS.items()]
    words = ["--model", "SparseViT_tiny", "--image-size", str(SIDE), "--fit", "pad", *flags]
    cfg = resolve("test", words, needs_data=False)
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    for name, values in model.state_dict().items():
        if "gamma" in name or "running_var" in name:
            values.uniform_(0.5, 1.5)
        elif name.endswith("bias") or "running_mean" in name:
            values.normal_(0, 0.2)
    path = FOLDER / "model.safetensors"
    last = model.lmu.conv_last
    for _ in range(2):  # rounding aside the second changes nothing
        save_file(model.state_dict(), str(path), metadata=describe_for_testing(cfg))
        maps = predicted_maps("pad", path).values()
        logits = torch.cat([torch.logit(torch.from_numpy(one)).flatten() for one in maps])
        scale = SPREAD / float(logits.std())
        with torch.no_grad():
            last.bias.add_(-float(logits.mean())).mul_(scale)
            last.weight.mul_(scale)
    save_file(model.state_dict(), str(path), metadata=describe_for_testing(cfg))


def main(words: Sequence[str] | None = None) -> int:
    """Make the golden results, or compare this machine's with them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--make", action="store_true", help="make everything anew")
    if parser.parse_args(words).make:
        make()
        size = sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file())
        print(f"{FOLDER}: {size // 1024} KiB")
    bad = 0
    choices = [("torch", "32"), ("torch", "bf16"), ("openvino", "32"), ("openvino", "bf16")]
    with tempfile.TemporaryDirectory() as folder:  # exports are kept beside the checkpoint
        checkpoint = copied(Path(folder))
        for fit in FITS:
            for backend, precision in [*choices, ("onnxruntime", "32")]:
                maps = predicted_maps(fit, checkpoint, backend=backend, precision=precision)
                apart, allowed = largest(maps, fit), tolerance(fit, precision)
                bad += apart > allowed
                print(f"{fit:8}{backend:12}{precision:6}{apart:10.1e} of {allowed:.0e}")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
