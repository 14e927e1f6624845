"""Speed and memory of the harness: `python benchmarks/harness.py WHAT [options]`.

WHAT is one of

* `metrics`: the exact figures of one map against scikit-learn's, at several sizes;
* `test`, `train`: images per second of `benco test` and `benco train` against IMDLBenCo's own
  scripts, end to end, with the same model, images, batch size and loader processes;
* `loaders`: `benco test` or `benco train` with different numbers of loader processes and threads;
* `startup`: which packages the imports of `benco test` spend their time in;
* `memory`: memory of `benco test` over 10,000 small images.

Ratios are medians of runs that take turns; run on an idle machine. The photographs are the
embedded ones, each with a rectangle copied within it.
"""

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

CHILD = Path(__file__).with_name("harness_child.py")
TORCH = ("torch", "torchgen", "torchvision", "triton", "sympy", "mpmath", "functorch", "cuda")
"""Packages that importing torch and torchvision brings."""


def main() -> None:
    """Run one of the benchmarks."""
    args = parse()
    print(machine())
    {
        "metrics": compare_metrics,
        "test": compare_loops,
        "train": compare_loops,
        "loaders": compare_loaders,
        "startup": show_startup,
        "memory": show_memory,
    }[args.what](args)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "what", choices=("metrics", "test", "train", "loaders", "startup", "memory")
    )
    parser.add_argument("--model", default="SparseViT_tiny", help="on both sides (SparseViT_tiny)")
    parser.add_argument("--image-size", type=int, default=128, help="of the model (128)")
    parser.add_argument("--side", type=int, default=768, help="longer side of photographs (768)")
    parser.add_argument("--images", type=int, default=64, help="images of a run (64)")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--workers", type=int, default=1, help="loader processes (1)")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of the model")
    parser.add_argument("--verb", choices=("test", "train"), default="test", help="of loaders")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each kind (3)")
    parser.add_argument(
        "--figures",
        choices=("same", "script"),
        default="same",
        help="what IMDLBenCo computes: F1, IoU, AUC and accuracy, or F1 alone as its script (same)",
    )
    return parser.parse_args()


def machine() -> str:
    """Describe what the figures were measured on."""
    import torch

    from sparsevit_plugin.machine import processor_name

    return (
        f"machine: {processor_name()}, {os.cpu_count()} cores; python {platform.python_version()}, "
        f"torch {torch.__version__}, numpy {np.__version__}"
    )


# --- figures of one map --------------------------------------------------------------------------


def compare_metrics(args: argparse.Namespace) -> None:
    """Time all figures of one map, and compare them with scikit-learn's."""
    from sparsevit_plugin.harness.metrics import pixel_statistics

    print(
        "ours: F1, best F1, its threshold, precision, recall, IoU, accuracy, AUC, histograms; "
        "scikit-learn: f1_score, jaccard_score, roc_auc_score, and best F1 by "
        "precision_recall_curve"
    )
    for side in dict.fromkeys((args.image_size, 512, args.side)):
        probability, mask = example_map(side)
        exact = pixel_statistics(probability, mask)
        truth = sklearn_figures(probability, mask)
        apart = max(abs(getattr(exact, name) - value) for name, value in truth.items())
        calls: list[Callable[[], object]] = [
            lambda p=probability, m=mask: pixel_statistics(p, m),  # type: ignore[misc]
            lambda p=probability, m=mask: sklearn_figures(p, m),  # type: ignore[misc]
            lambda p=probability, m=mask: f1_and_auc(p, m),  # type: ignore[misc]
        ]
        ours, theirs, two = (1e3 * seconds for seconds in medians(calls, args.rounds))
        print(
            f"{side} x {side}: ours {ours:.1f} ms; scikit-learn {theirs:.0f} ms "
            f"({theirs / ours:.1f} times), its F1 and AUC alone {two:.0f} ms "
            f"({two / ours:.1f} times); largest difference {apart:.1e}"
        )


def example_map(side: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a smooth map of many levels, as a model gives it, and a mask of a tenth of it."""
    generator = np.random.default_rng(side)
    coarse = generator.normal(-1, 2, (side // 8, side // 8)).astype(np.float32)
    mask = np.zeros((side, side), np.bool_)
    mask[side // 5 : side // 2, side // 3 : 2 * side // 3] = True
    logits = cv2.resize(coarse, (side, side), interpolation=cv2.INTER_LINEAR) + 2 * mask
    return (1 / (1 + np.exp(-logits))).astype(np.float32), mask


def sklearn_figures(probability: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    """Return scikit-learn's figures, by the names that ours have."""
    from sklearn.metrics import f1_score, jaccard_score, precision_recall_curve, roc_auc_score

    scores, truth = probability.ravel(), mask.ravel()
    precision, recall, _ = precision_recall_curve(truth, scores)
    total = np.where(precision + recall > 0, precision + recall, 1)
    return {
        "f1": float(f1_score(truth, scores > 0.5)),
        "iou": float(jaccard_score(truth, scores > 0.5)),
        "auc": float(roc_auc_score(truth, scores)),
        "best_f1": float((2 * precision * recall / total).max()),
    }


def f1_and_auc(probability: np.ndarray, mask: np.ndarray) -> tuple[float, float]:
    """Return F1 and AUC alone."""
    from sklearn.metrics import f1_score, roc_auc_score

    scores, truth = probability.ravel(), mask.ravel()
    return float(f1_score(truth, scores > 0.5)), float(roc_auc_score(truth, scores))


def medians(calls: Iterable[Callable[[], object]], rounds: int) -> list[float]:
    """Time calls that take turns; return each one's median in seconds."""
    calls = list(calls)
    seconds: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds + 1):
        for call, taken in zip(calls, seconds, strict=True):
            start = time.perf_counter()
            call()
            taken.append(time.perf_counter() - start)
    return [statistics.median(taken[1:]) for taken in seconds]  # the first warms up


# --- whole commands ------------------------------------------------------------------------------


def write_photographs(folder: Path, count: int, side: int) -> Path:
    """Write a set of tampered photographs, the embedded ones turned and mirrored.

    Args:
        folder: Gets `Tp` and `Gt`.
        count: How many.
        side: Their longer side in pixels.
    """
    from sparsevit_plugin.harness.photos import embedded_photographs

    photographs = embedded_photographs()
    generator = np.random.default_rng(0)
    for name in ("Tp", "Gt"):
        (folder / name).mkdir(parents=True)
    for number in range(count):
        pixels = photographs[number % len(photographs)].array
        scale = side / max(pixels.shape[:2])
        pixels = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        pixels = np.ascontiguousarray(np.rot90(pixels, number // len(photographs) % 4))
        height, width = pixels.shape[:2]
        rows, columns = height // 3, width // 3
        top, left = generator.integers(0, height - rows), generator.integers(0, width - columns)
        mask = np.zeros((height, width), np.uint8)
        mask[top : top + rows, left : left + columns] = 255
        copied = pixels[:rows, :columns].copy()
        pixels[top : top + rows, left : left + columns] = copied
        name = f"{number:05d}"
        quality = [cv2.IMWRITE_JPEG_QUALITY, 90]
        cv2.imwrite(str(folder / "Tp" / f"{name}.jpg"), pixels[:, :, ::-1], quality)
        cv2.imwrite(str(folder / "Gt" / f"{name}.png"), mask)
    return folder


def prepare(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Write what the runs need; return what they have in common."""
    import torch

    from sparsevit_plugin.registration import get_model_class

    data = write_photographs(folder / "set", args.images, args.side)
    few = write_photographs(folder / "few", args.batch_size, args.side)
    (folder / "sets.json").write_text(json.dumps({"set": str(data)}))
    checkpoint = folder / "checkpoints" / "checkpoint-0.pth"
    checkpoint.parent.mkdir()
    torch.manual_seed(0)
    torch.save({"model": get_model_class(args.model)().state_dict()}, checkpoint)
    return {
        **{name: getattr(args, name) for name in ("model", "image_size", "batch_size", "workers")},
        "figures": args.figures,
        "data": str(data),
        "few": str(few),
        "data_json": str(folder / "sets.json"),
        "checkpoint": str(checkpoint),
        "checkpoints": str(checkpoint.parent),
    }


def run_child(plan: dict[str, Any], folder: Path, threads: int) -> dict[str, float]:
    """Run one side once, in a process of its own."""
    out = tempfile.mkdtemp(dir=folder)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, str(CHILD), json.dumps({**plan, "out": out})]
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if answer.returncode:
        raise SystemExit(f"{answer.stderr}\n{plan}: ended with {answer.returncode}")
    measured: dict[str, float] = json.loads(answer.stdout.splitlines()[-1])
    return measured


def median_of(runs: list[dict[str, float]]) -> dict[str, float]:
    """Return the median of each figure."""
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def compare_loops(args: argparse.Namespace) -> None:
    """Compare `benco test` or `benco train` with IMDLBenCo's script."""
    runs: dict[str, list[dict[str, float]]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as name:
        plan = {**prepare(args, Path(name)), "verb": args.what}
        for _ in range(args.rounds):
            for side in ("ours", "upstream"):
                runs[side].append(run_child({**plan, "side": side}, Path(name), args.threads))
    print(
        f"{args.what}: {args.images} photographs of {args.side} pixels, {args.model} at "
        f"{args.image_size}, batch {args.batch_size}, {args.workers} loader process(es), "
        f"{args.threads} thread(s), medians of {args.rounds}"
    )
    ours, upstream = median_of(runs["ours"]), median_of(runs["upstream"])
    for side, found in (("ours", ours), ("IMDLBenCo", upstream)):
        print(f"{side:10s} {describe(found, args.images)}")
    for what in ("loop", "total"):
        print(f"ratio of the {what}: {upstream[what] / ours[what]:.2f} times IMDLBenCo's speed")


def describe(found: dict[str, float], images: int) -> str:
    """Say what a run took: images per second, and milliseconds an image by stage."""
    per_image = {
        name: 1e3 * found[name] / images
        for name in ("decode", "transform", "waiting", "model", "metrics", "writing")
    }
    in_loop = sum(per_image[name] for name in ("waiting", "model", "metrics"))
    stages = ", ".join(f"{name} {value:.1f}" for name, value in per_image.items())
    return (
        f"{images / found['loop']:.2f} images/s in the loop, {images / found['total']:.2f} end to "
        f"end without the imports ({found['imports']:.1f} s); ms an image: {stages}; metrics are "
        f"{100 * found['metrics'] / found['loop']:.1f} % of the loop, "
        f"{1e3 * found['loop'] / images - in_loop:.1f} ms are left"
    )


def compare_loaders(args: argparse.Namespace) -> None:
    """Run `benco test` or `benco train` with different numbers of loader processes and threads."""
    cores = os.cpu_count() or 1
    splits = [(0, cores), (1, cores), (1, max(1, cores - 1)), (cores, cores), (cores, 1), (0, 1)]
    runs: dict[tuple[int, int], list[dict[str, float]]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as name:
        plan = {**prepare(args, Path(name)), "side": "ours"}
        for _ in range(args.rounds):
            for split in dict.fromkeys(splits):
                given = {**plan, "verb": args.verb, "workers": split[0]}
                runs[split].append(run_child(given, Path(name), split[1]))
    for (workers, threads), found in runs.items():
        print(
            f"{args.verb}: {workers} loader process(es), {threads} thread(s): "
            f"{describe(median_of(found), args.images)}"
        )


# --- imports and memory --------------------------------------------------------------------------


def show_startup(args: argparse.Namespace) -> None:
    """Say which packages the imports of `benco test` spend their time in."""
    code = "import sparsevit_plugin.cli.test, sparsevit_plugin.harness.testing\n"
    code += "from sparsevit_plugin.registration import register_all\nregister_all()"
    shares: dict[str, list[float]] = defaultdict(list)
    for _ in range(args.rounds):
        for package, seconds in imported_seconds(code).items():
            shares[package].append(seconds)
    found = {package: statistics.median(times) for package, times in shares.items()}
    total = sum(found.values())
    of_torch = sum(found.get(package, 0.0) for package in TORCH)
    print(f"imports of benco test: {total:.2f} s (with the profiler's own cost)")
    print(f"torch, torchvision and what they import: {100 * of_torch / total:.0f} %")
    for package, seconds in sorted(found.items(), key=lambda item: -item[1])[:12]:
        print(f"  {package}: {seconds:.2f} s, {100 * seconds / total:.0f} %")


def imported_seconds(code: str) -> dict[str, float]:
    """Return the seconds that each top-level package's own modules take to import."""
    command = [sys.executable, "-X", "importtime", "-c", code]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = defaultdict(float)
    for line in answer.stderr.splitlines():
        match = re.fullmatch(r"import time:\s+(\d+) \|\s+\d+ \|\s+([\w.]+)", line)
        if match:
            found[match.group(2).split(".")[0]] += int(match.group(1)) / 1e6
    return found


def show_memory(args: argparse.Namespace) -> None:
    """Watch the memory of `benco test` over many small images."""
    images = 10_000 if args.images == 64 else args.images
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        originals = write_photographs(folder / "originals", 17, 64)
        data = folder / "set"
        for part, suffix in (("Tp", "jpg"), ("Gt", "png")):
            (data / part).mkdir(parents=True)
            for number in range(images):
                source = originals / part / f"{number % 17:05d}.{suffix}"
                (data / part / f"{number:06d}.{suffix}").hardlink_to(source)
        watch_memory(data, folder / "out", images)


def watch_memory(data: Path, out: Path, images: int) -> None:
    """Test a model without weights on a set in this process, and print the memory on the way."""
    from sparsevit_plugin.cli.main import main as benco
    from sparsevit_plugin.harness.progress import Progress

    marks = sorted({images // 100, images // 10, images // 2, images})
    advance = Progress.advance
    seen: dict[int, float] = {}

    def watched(progress: Progress, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        advance(progress, *args, **kwargs)
        if len(seen) < len(marks) and progress.done >= marks[len(seen)]:
            seen[progress.done] = resident_mib()

    Progress.advance = watched  # type: ignore[method-assign, assignment]
    words = ["--model", "AllTampered", "--image-size", "64", "--fit", "resize", "--device", "cpu"]
    words += ["--test-data-path", str(data), "--output-dir", str(out), "--num-workers", "0"]
    code = benco(["test", *words, "--test-batch-size", "16"])
    if code:
        raise SystemExit(code)
    for done, resident in seen.items():
        print(f"after {done} images: {resident:.0f} MiB resident")
    print(f"after the rows are written and the table is made: {resident_mib():.0f} MiB resident")


def resident_mib() -> float:
    """Return the memory of this process that is resident, in MiB (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


if __name__ == "__main__":
    main()
