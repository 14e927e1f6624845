"""What `processes.py` works with: made sets, a model that notes its items, and processes.

Importing torch takes longer than what is tested here. So the processes of a job are forked from
one that has it imported; each gets the environment that torchrun gives and runs the command whole.
Jobs of the real torchrun are started by `torchrun`.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (40, 56)
PATIENCE = 600.0
"""Seconds after which a job counts as hanging. Much, because the machine may be busy."""

MODELS = '''
"""Models of the laboratory; what they do is in the environment, so that all ranks are told."""
import hashlib
import json
import os
import signal
from pathlib import Path

import torch
from IMDLBenCo.registry import MODELS
from sparsevit_plugin.harness.baselines import RandomScores
from sparsevit_plugin.model.sparsevit import SparseViT_tiny

RANK = int(os.environ.get("RANK", "0"))


def digest(tensor):
    return hashlib.sha256(tensor.detach().cpu().contiguous().numpy().tobytes()).hexdigest()[:16]


def strike():
    """End this process as the environment says, if it is the one that is meant."""
    how, rank = os.environ.get("LAB_END", ""), int(os.environ.get("LAB_END_RANK", "1"))
    if how and rank == RANK:
        if how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        raise ValueError("a mistake of this process")


class Recorded(SparseViT_tiny):
    """Notes the names and the pixels that it is trained on; its BatchNorm can be frozen."""

    def train(self, mode=True):
        super().train(mode)
        if os.environ.get("LAB_FROZEN"):
            for module in self.modules():
                if isinstance(module, torch.nn.BatchNorm2d):
                    module.eval()
        return self

    def forward(self, image, mask=None, *args, **kwargs):
        if self.training:
            strike()
            if os.environ.get("LAB_ITEMS"):
                pixels = zip(image, mask)
                items = [
                    [Path(name).name, digest(one), digest(truth)]
                    for name, (one, truth) in zip(kwargs["name"], pixels)
                ]
                with open(f"{os.environ['LAB_ITEMS']}-{RANK}.jsonl", "a") as file:
                    file.write(json.dumps(items) + "\\n")
        return super().forward(image, mask, *args, **kwargs)


class Struck(RandomScores):
    """Ends in the middle of a test."""

    def forward(self, image, *args, **kwargs):
        strike()
        return super().forward(image, *args, **kwargs)


for model in (Recorded, Struck):
    MODELS.register_module(module=model, force=True)
'''


def make_set(folder: Path, count: int) -> Path:
    """Make a set of so many photographs of noise; the third one is authentic."""
    for part in ("Tp", "Gt"):
        (folder / part).mkdir(parents=True)
    for number in range(count):
        draw = np.random.default_rng((count, number))
        Image.fromarray(draw.integers(0, 255, (*SIZE, 3), dtype=np.uint8)).save(
            folder / "Tp" / f"{number:03}.png"
        )
        mask = np.zeros(SIZE, np.uint8)
        if number != 2:
            mask[4 : 12 + number % 5, 6 : 20 + number] = 255
        Image.fromarray(mask).save(folder / "Gt" / f"{number:03}.png")
    return folder


@dataclass
class Ended:
    """How a job ended.

    Attributes:
        codes: Exit codes of its processes, negative for signals; None for one that hung.
        text: What they printed.
        seconds: How long it took.
    """

    codes: list[int | None]
    text: str
    seconds: float

    @property
    def good(self) -> bool:
        """Whether every process ended well."""
        return all(code == 0 for code in self.codes)


def run(
    world: int,
    words: Sequence[str],
    log: Path,
    *,
    first: Callable[[], None] | None = None,
    **environment: str,
) -> Ended:
    """Run a command in `world` forked processes; 0 stands for a lone one without a group.

    Args:
        world: Number of processes.
        words: The words behind `benco`.
        log: Where their output goes, one file each.
        first: Called in each before the command.
        **environment: More of the environment.
    """
    import_what_commands_import()

    began = time.monotonic()
    port = str(free_port())
    files = [log.with_suffix(f".{rank}.log") for rank in range(max(world, 1))]
    children = []
    for rank, file in enumerate(files):
        of_rank = torchrun_environment(rank, world, port) if world else {}
        child = os.fork()
        if not child:
            _be_rank(words, file, {**environment, **of_rank}, first)
        children.append(child)
    codes = _wait(children)
    text = "\n".join(file.read_text(errors="replace") for file in files)
    return Ended(codes, text, time.monotonic() - began)


def import_what_commands_import() -> None:
    """Import it here once, not in every process that is forked."""
    import sparsevit_plugin.cli.main
    import sparsevit_plugin.harness.testing
    import sparsevit_plugin.harness.train  # noqa: F401


def torchrun_environment(rank: int, world: int, port: str) -> dict[str, str]:
    """Return what torchrun tells a process of one machine."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world),
        "LOCAL_WORLD_SIZE": str(world),
        "GROUP_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "TORCHELASTIC_RUN_ID": "lab",
    }


def _be_rank(
    words: Sequence[str], file: Path, environment: dict[str, str], first: Callable[[], None] | None
) -> None:
    """Run the command in this process and end it as a command's process ends."""
    from sparsevit_plugin.cli.main import main

    with file.open("wb") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    os.environ.update(environment)
    if first:
        first()
    sys.exit(main(list(words)))


def _wait(children: list[int]) -> list[int | None]:
    """Wait for all; when one fails, or all take too long, end the others, as torchrun does."""
    codes: dict[int, int | None] = {}
    began = time.monotonic()
    while len(codes) < len(children):
        child, status = os.waitpid(-1, os.WNOHANG)
        if child:
            codes[child] = os.waitstatus_to_exitcode(status)
        late = time.monotonic() - began > PATIENCE
        if late or (child and codes[child]):
            for other in set(children) - codes.keys():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(other, signal.SIGKILL)
                os.waitpid(other, 0)
                codes[other] = None
        if not child:
            time.sleep(0.01)
    return [codes[child] for child in children]


def torchrun(flags: Sequence[str], words: Sequence[str], log: Path, **environment: str) -> Ended:
    """Run a command by the real torchrun, once for each item of `flags` at the same time.

    Args:
        flags: The agents' own flags, in one text each.
        words: The words behind `benco`.
        log: Where their output goes.
        **environment: More of the environment.
    """
    began = time.monotonic()
    agents = []
    files = [log.with_suffix(f".agent{number}.log") for number in range(len(flags))]
    for file, text in zip(files, flags, strict=True):
        command = [sys.executable, "-m", "torch.distributed.run", *text.split()]
        with file.open("wb") as output:
            agents.append(
                subprocess.Popen(
                    [*command, "-m", "sparsevit_plugin", *words],
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, **environment},
                )
            )
    codes: list[int | None] = []
    for agent in agents:
        try:
            codes.append(agent.wait(PATIENCE - (time.monotonic() - began)))
        except subprocess.TimeoutExpired:
            agent.kill()
            codes.append(None)
    text = "\n".join(file.read_text(errors="replace") for file in files)
    return Ended(codes, text, time.monotonic() - began)


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return int(place.getsockname()[1])


def starve_gloo() -> None:
    """Give gloo's threads the processor only when nobody else wants it.

    They then let go of the last collective's tensors late, which a busy machine does now and then.
    """
    import torch.distributed as dist

    start = dist.init_process_group

    def patched(*args: object, **named: object) -> None:
        before = set(Path("/proc/self/task").iterdir())
        start(*args, **named)  # type: ignore[arg-type]
        for thread in set(Path("/proc/self/task").iterdir()) - before:
            os.sched_setscheduler(int(thread.name), os.SCHED_IDLE, os.sched_param(0))

    dist.init_process_group = patched


def without_mend() -> None:
    """Let processes end by the interpreter's teardown, as before it was mended."""
    from sparsevit_plugin import group_end

    group_end.in_group = lambda: False
    starve_gloo()
