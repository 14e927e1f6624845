"""Compares one process with several: `python benchmarks/processes.py`.

Parts, all of them unless `--parts` names some:

    testing   equal maps in 0 (a lone process), 1, 2, 3 and 4 processes over sets of 1 to 9 images
    training  N processes with batch B against one with N x B: items, random draws, weights
    ends      jobs that end while gloo's threads hardly get the processor
    agents    two torchrun agents, as on two machines, training and testing
    deaths    a process that is killed, or fails, in a test or a training

The exit code is 1 when something is not as docs/reliability.md says.
"""

import argparse
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import numpy as np  # noqa: E402 - after the threads are set
import pandas as pd  # noqa: E402
from processes_lab import (  # noqa: E402
    MODELS,
    Ended,
    free_port,
    make_set,
    run,
    starve_gloo,
    torchrun,
    without_mend,
)

SIZES = (1, 2, 3, 5, 7, 9)
WORLDS = (1, 2, 3, 4)
BATCHES = (1, 2, 3)
ACCUMULATED = (1, 2)
TRAINING_IMAGES = 17
EPOCHS = 2
ROWS_TOLERANCE = 1e-9
WEIGHTS_TOLERANCE = 1e-4
"""Of weights after training at a learning rate of 1e-3: a tenth of what one step can move one."""
LATE = 120.0
"""Seconds in which a job must have ended after one of its processes has."""
COMMON = (
    *("--image-size", "32", "--if-resizing", "--device", "cpu", "--num-workers", "0"),
    *("--test-batch-size", "2"),
)


class Lab:
    """A folder with sets, models, and what was found wrong.

    Args:
        folder: Where to work.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self.models = folder / "lab_models.py"
        self.models.write_text(MODELS)
        self.sets = {f"of{size}": make_set(folder / f"of{size}", size) for size in SIZES}
        self.listing = folder / "sets.json"
        self.listing.write_text(json.dumps({name: str(path) for name, path in self.sets.items()}))
        self.training_set = make_set(folder / "training", TRAINING_IMAGES)
        self.wrong: list[str] = []

    def expect(self, holds: bool, what: str) -> None:
        """Note and print what does not hold."""
        if not holds:
            self.wrong.append(what)
            print(f"  WRONG: {what}", flush=True)

    def expect_good(self, ended: Ended, what: str) -> bool:
        """Note a job that failed."""
        self.expect(ended.good, f"{what}: exit codes {ended.codes}\n{ended.text[-3000:]}")
        return ended.good

    def test_words(self, out: Path, *more: str, model: str = "RandomScores") -> list[str]:
        """Return a command that tests on every set."""
        words = ["test", "--model", model, "--import", str(self.models), *COMMON]
        return [*words, "--test-data-path", str(self.listing), "--output-dir", str(out), *more]

    def train_words(self, out: Path, batch: int, accumulated: int, *more: str) -> list[str]:
        """Return a command that trains the model that notes its items."""
        return [
            *("train", "--model", "Recorded", "--import", str(self.models), *COMMON),
            *("--recipe", "none", "--data-path", str(self.training_set), "--drop-path", "0"),
            *("--batch-size", str(batch), "--accum-iter", str(accumulated), "--lr", "1e-3"),
            *("--epochs", str(EPOCHS), "--warmup-epochs", "0", "--select", "last"),
            *("--output-dir", str(out), *more),
        ]


# --- testing -------------------------------------------------------------------------------------


def testing(lab: Lab, args: argparse.Namespace) -> None:
    """Compare the rows of several processes with those of one."""
    worlds = (3,) if args.quick else WORLDS
    alone = lab.folder / "test-0"
    if not lab.expect_good(run(0, lab.test_words(alone), lab.folder / "test-0"), "a lone process"):
        return
    worst, compared = 0.0, 0
    for world in worlds:
        out = lab.folder / f"test-{world}"
        ended = run(world, lab.test_words(out), lab.folder / f"test-{world}")
        if lab.expect_good(ended, f"testing in {world} processes"):
            difference, rows = compare_results(lab, alone, out, f"{world} processes")
            worst, compared = max(worst, difference), compared + rows
    print(
        f"testing: {len(worlds)} jobs of {', '.join(map(str, worlds))} processes, sets of "
        f"{', '.join(map(str, SIZES))} images: {compared} rows equal a lone process's, largest "
        f"difference {worst:g} (allowed {ROWS_TOLERANCE:g})"
    )


def compare_results(lab: Lab, alone: Path, several: Path, what: str) -> tuple[float, int]:
    """Compare rows and histograms; return the largest difference and the number of rows."""
    from sparsevit_plugin.results.store import load

    one, other = load(alone), load(several)
    for name, path in lab.sets.items():
        for score_at in ("model", "image"):
            rows = other.rows
            rows = rows[(rows["dataset"] == name) & (rows["score_at"] == score_at)]
            named = sorted(rows["sample_name"])
            wanted = sorted(f"Tp/{file.name}" for file in (path / "Tp").iterdir())
            lab.expect(named == wanted, f"{what}, {name}: rows of {named}, not {wanted}")
    worst = 0.0
    key = ["dataset", "sample_name", "score_at"]
    for frames in ((one.rows, other.rows), (one.histograms, other.histograms)):
        first, second = (frame.sort_values(key, ignore_index=True) for frame in frames)
        lab.expect(len(first) == len(second), f"{what}: {len(second)} rows, not {len(first)}")
        if len(first) == len(second):
            worst = max(worst, largest_difference(lab, first, second, what))
    lab.expect(worst <= ROWS_TOLERANCE, f"{what}: rows differ by {worst:g}")
    return worst, len(other.rows)


def largest_difference(lab: Lab, first: pd.DataFrame, second: pd.DataFrame, what: str) -> float:
    """Compare two frames of equal order; return the largest difference of their numbers."""
    worst = 0.0
    for column in first.columns:
        a, b = first[column], second[column]
        if pd.api.types.is_numeric_dtype(a) and not pd.api.types.is_bool_dtype(a):
            x, y = a.to_numpy(float, na_value=np.nan), b.to_numpy(float, na_value=np.nan)
            same = np.array_equal(np.isnan(x), np.isnan(y))
            lab.expect(same, f"{what}: {column} is undefined elsewhere")
            if same:
                worst = max(worst, float(np.nan_to_num(np.abs(x - y)).max(initial=0.0)))
        else:
            same = all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))
            lab.expect(same, f"{what}: {column} differs")
    return worst


# --- training ------------------------------------------------------------------------------------


def training(lab: Lab, args: argparse.Namespace) -> None:
    """Compare trainings of several processes with those of one that has the whole batch."""
    grid = [(2, 2, 2), (3, 1, 1)] if args.quick else list(training_grid())
    worst, steps = 0.0, 0
    for world, batch, accumulated in grid:
        what = f"{world} processes x {batch}, {accumulated} accumulated"
        alone = trained(lab, 0, world * batch, accumulated)
        several = trained(lab, world, batch, accumulated)
        if alone is None or several is None:
            continue
        steps += compare_items(lab, several, alone, world, what)
        difference = weight_difference(several, alone)
        lab.expect(difference <= WEIGHTS_TOLERANCE, f"{what}: weights differ by {difference:g}")
        worst = max(worst, difference)
    print(
        f"training: {len(grid)} jobs of 2 to 4 processes: {steps} global batches of the same "
        f"names and pixels in the same order, last weights differ by {worst:.2g} at most "
        f"(allowed {WEIGHTS_TOLERANCE:g})"
    )
    if not args.quick:
        live_statistics(lab)
    skipped(lab)


def live_statistics(lab: Lab) -> None:
    """Show that what is documented as different is: BatchNorm over each process's own images."""
    several, alone = (trained(lab, *of, frozen=False) for of in ((2, 2, 1), (0, 4, 1)))
    if several is None or alone is None:  # said already
        return
    live = weight_difference(several, alone)
    lab.expect(live > WEIGHTS_TOLERANCE, f"BatchNorm apart makes no difference: {live:g}")
    print(f"training: BatchNorm live, 2 processes x 2 against 1 x 4: weights differ by {live:.2g}")


def skipped(lab: Lab) -> None:
    """Train on a set with bad images: the same take their place, and the state names the same."""
    from sparsevit_plugin.harness.checkpoint import load_state

    whole, lab.training_set = lab.training_set, make_set(lab.folder / "with-bad", TRAINING_IMAGES)
    for number in (1, 6, 11):
        (lab.training_set / "Tp" / f"{number:03}.png").write_text("this is text")
    jobs = [trained(lab, *of, more=("--on-bad-image", "skip")) for of in ((0, 4, 2), (2, 2, 2))]
    lab.training_set = whole
    if None in jobs:
        return
    alone, several = (Path(str(job)) for job in jobs)
    compare_items(lab, several, alone, 2, "bad images")
    named = [load_state(folder / "resume.pt").skipped for folder in (alone, several)]
    lab.expect(named[0] == named[1] and bool(named[0]), f"skipped: {named[1]}, not {named[0]}")
    print(f"training: with bad images: the same {len(named[0])} were skipped and substituted")


def training_grid() -> Iterator[tuple[int, int, int]]:
    """Yield processes, batch and accumulated batches, where an epoch has a batch at all."""
    for world, batch, accumulated in itertools.product(WORLDS[1:], BATCHES, ACCUMULATED):
        if world * batch <= TRAINING_IMAGES:
            yield world, batch, accumulated


def trained(
    lab: Lab,
    world: int,
    batch: int,
    accumulated: int,
    *,
    frozen: bool = True,
    more: tuple[str, ...] = (),
) -> Path | None:
    """Train once, and return the folder; None where that failed."""
    name = f"{lab.training_set.name}-{world}x{batch}x{accumulated}{'' if frozen else '-live'}"
    out = lab.folder / name
    if out.exists():
        return out
    told = {"LAB_ITEMS": str(lab.folder / f"{name}-items")}
    if frozen:
        told["LAB_FROZEN"] = "1"
    words = lab.train_words(out, batch, accumulated, *more)
    ended = run(world, words, lab.folder / name, **told)
    return out if lab.expect_good(ended, name) else None


def items(folder: Path, rank: int) -> list[list[list[str]]]:
    """Return what a process was trained on: a list of items for each batch."""
    path = folder.with_name(f"{folder.name}-items-{rank}.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def compare_items(lab: Lab, several: Path, alone: Path, world: int, what: str) -> int:
    """Compare names and pixels, batch by batch; return how many batches there were."""
    wanted = items(alone, 0)
    parts = [items(several, rank) for rank in range(world)]
    lab.expect(
        all(len(part) == len(wanted) for part in parts),
        f"{what}: {[len(part) for part in parts]} batches, not {len(wanted)}",
    )
    together = [list(itertools.chain(*batches)) for batches in zip(*parts, strict=False)]
    lab.expect(together == wanted, f"{what}: other items, or in another order")
    half = len(wanted) // EPOCHS
    first, second = (
        {name: pixels for name, pixels, _ in itertools.chain(*part)}
        for part in (wanted[:half], wanted[half:])
    )
    drawn = [name for name in first.keys() & second.keys() if first[name] != second[name]]
    lab.expect(bool(drawn), f"{what}: no random draw differs between epochs; nothing is compared")
    return len(wanted)


def weight_difference(first: Path, second: Path) -> float:
    """Return the largest difference between the last weights of two trainings."""
    from safetensors.numpy import load_file

    a, b = (load_file(folder / "last.safetensors") for folder in (first, second))
    if a.keys() != b.keys():
        return float("inf")
    return max(float(np.abs(a[k].astype(float) - b[k].astype(float)).max()) for k in a)


# --- ends ----------------------------------------------------------------------------------------


def ends(lab: Lab, args: argparse.Namespace) -> None:
    """Let jobs end while gloo's threads are late; none may fail after its work is done."""
    failed, aborted = 0, 0
    first = without_mend if args.without_mend else starve_gloo
    for number in range(args.times):
        out = lab.folder / "end"
        shutil.rmtree(out, ignore_errors=True)
        words = lab.test_words(out)
        ended = run(2 + number % 3, words, lab.folder / f"end-{number}", first=first)
        failed += not ended.good
        aborted += "terminate called without an active exception" in ended.text
        if not ended.good and not args.without_mend:
            lab.expect(False, f"job {number}: {ended.codes}\n{ended.text[-2000:]}")
    how = "without the mend" if args.without_mend else "with it"
    print(f"ends: {args.times} jobs {how}: {failed} failed, {aborted} of them with all work done")


# --- agents --------------------------------------------------------------------------------------


def agents(lab: Lab, args: argparse.Namespace) -> None:
    """Train and test by two torchrun agents with two processes each, as on two machines."""
    out = lab.folder / "agents-train"
    told = {"LAB_ITEMS": str(lab.folder / "agents-train-items"), "LAB_FROZEN": "1"}
    more = ("--test-data-path", str(lab.listing))
    words = lab.train_words(out, 1, 1, *more)
    ended = torchrun(two_agents(2), words, lab.folder / "agents-train", **told)
    alone = trained(lab, 0, 4, 1)
    if lab.expect_good(ended, "training by two agents") and alone:
        steps = compare_items(lab, out, alone, 4, "two agents")
        difference = weight_difference(out, alone)
        lab.expect(difference <= WEIGHTS_TOLERANCE, f"two agents: weights differ by {difference:g}")
        print(
            f"agents: trained by 2 agents x 2 processes in {ended.seconds:.0f} s: {steps} global "
            f"batches equal one process's, weights differ by {difference:.2g}"
        )
    alone, out = lab.folder / "test-0", lab.folder / "agents-test"
    if not alone.exists():
        run(0, lab.test_words(alone), lab.folder / "test-0")
    ended = torchrun(two_agents(1), lab.test_words(out), lab.folder / "agents-test")
    if lab.expect_good(ended, "testing by two agents"):
        difference, rows = compare_results(lab, alone, out, "two agents")
        print(
            f"agents: tested by 2 agents x 1 process in {ended.seconds:.0f} s: {rows} rows, "
            f"largest difference {difference:g}"
        )


def two_agents(processes: int) -> list[str]:
    """Return the flags of two agents that meet on this machine."""
    port = free_port()
    return [
        f"--nnodes 2 --nproc-per-node {processes} --node-rank {node} --master-addr 127.0.0.1 "
        f"--master-port {port}"
        for node in range(2)
    ]


# --- deaths --------------------------------------------------------------------------------------

_KILLED = "benco: error: process 2 of 2: ended by SIGKILL (out of memory?)"
_FAILED = "benco: error: process 2 of 2 failed first"


def deaths(lab: Lab, args: argparse.Namespace) -> None:
    """Let one process die, or fail: the job must end with its reason, in tests and trainings."""
    test = lab.test_words(lab.folder / "death", model="Struck")
    train = lab.train_words(lab.folder / "death-train", 2, 1, "--overwrite")
    cases = [
        ("killed in a test", test, {"LAB_END": "kill"}, 1, _KILLED),
        ("an error in a test", test, {"LAB_END": "raise"}, 1, _FAILED),
        ("killed in a training", train, {"LAB_END": "kill"}, 1, _KILLED),
        ("an error in a training", train, {"LAB_END": "raise"}, 1, _FAILED),
        ("a bad image in a test", bad_image(lab), {}, 2, "001.png"),
    ]
    for name, words, told, code, line in cases:
        ended = two_here(words, lab.folder / f"death-{name.replace(' ', '-')}", told)
        said = [text for text in ended.text.splitlines() if line in text]
        lab.expect(ended.codes == [code], f"{name}: exit codes {ended.codes}\n{ended.text[-2000:]}")
        lab.expect(bool(said), f"{name}: no line says so\n{ended.text[-2000:]}")
        if told.get("LAB_END") == "raise":
            reason = "ValueError: a mistake of this process" in ended.text
            lab.expect(reason, f"{name}: the error itself is not shown")
        print(f"deaths: {name}: code {ended.codes[0]} after {ended.seconds:.0f} s: {said[:1]}")
    told = {"LAB_END": "kill"}
    ended = torchrun(two_agents(1), test, lab.folder / "death-agents", **told)
    lab.expect(
        None not in ended.codes and 0 not in ended.codes, f"killed on one machine: {ended.codes}"
    )
    print(f"deaths: killed on one of two machines: codes {ended.codes} after {ended.seconds:.0f} s")


def bad_image(lab: Lab) -> list[str]:
    """Return a test of a set whose bad image only the second process reads."""
    broken = make_set(lab.folder / "broken", 4)
    (broken / "Tp" / "001.png").write_text("this is text")
    words = lab.test_words(lab.folder / "death-bad")
    words[words.index(str(lab.listing))] = str(broken)
    return words


def two_here(words: list[str], log: Path, told: dict[str, str]) -> Ended:
    """Run a command with `--devices 2`."""
    began = time.monotonic()
    command = [sys.executable, "-m", "sparsevit_plugin", *words, "--devices", "2"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, **told}
    )
    log.with_suffix(".log").write_text(done.stdout + done.stderr)
    return Ended([done.returncode], done.stdout + done.stderr, time.monotonic() - began)


PARTS = {
    "testing": testing,
    "training": training,
    "ends": ends,
    "agents": agents,
    "deaths": deaths,
}


def main() -> int:
    """Run the parts; return 1 when something is wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", default=",".join(PARTS), help="which, with commas (all)")
    parser.add_argument("--quick", action="store_true", help="a sample of testing and training")
    parser.add_argument("--times", type=int, default=30, help="jobs of the part `ends` (30)")
    parser.add_argument("--without-mend", action="store_true", help="show what `ends` looks for")
    parser.add_argument("--folder", help="where to work (a temporary folder that is removed)")
    args = parser.parse_args()
    folder = Path(args.folder or tempfile.mkdtemp(prefix="processes-"))
    began = time.monotonic()
    lab = Lab(folder)
    for name in args.parts.split(","):
        PARTS[name](lab, args)
    print(f"{len(lab.wrong)} wrong; {time.monotonic() - began:.0f} s")
    if not args.folder:
        shutil.rmtree(folder, ignore_errors=True)
    return 1 if lab.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
