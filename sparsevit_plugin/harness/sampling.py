"""The order in which training samples are visited.

The order depends on (seed, epoch) and the length of the set only. N processes with batch B
therefore visit the samples in the order in which one process with batch N x B does, and a resumed
run continues exactly where the killed one stood.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import Sampler

from sparsevit_plugin.errors import UserError

Key = tuple[int, int]
"""(epoch, index): what a dataset needs to draw a sample's random numbers."""


def derive_seed(*parts: int) -> int:
    """Return a 63-bit seed that depends on every one of `parts` (non-negative integers)."""
    # Their number goes in first: a SeedSequence ignores zeros at the end.
    state = np.random.SeedSequence((len(parts), *parts)).generate_state(1, dtype=np.uint64)[0]
    return int(state >> np.uint64(1))


class GlobalBatchSampler(Sampler[list[Key]]):
    """Batches of (epoch, index) keys for one process out of `world_size`.

    Every epoch is one permutation, cut into global batches of `batch_size * world_size` samples;
    process r takes the r-th part of each. An incomplete last global batch is left out, as
    upstream's loaders do. Set `epoch` and `start` (global batches to skip) before each iteration.

    Args:
        length: Number of samples in the set.
        batch_size: Samples per process and batch.
        seed: Seed of the run.
        rank: Number of this process.
        world_size: Number of processes.

    Raises:
        UserError: If the set is smaller than one global batch.
    """

    def __init__(
        self, length: int, batch_size: int, *, seed: int, rank: int = 0, world_size: int = 1
    ) -> None:
        self.length = length
        self.batch_size = batch_size
        self.global_batch = batch_size * world_size
        self.seed = seed
        self.rank = rank
        self.epoch = 0
        self.start = 0
        if self.steps_per_epoch == 0:
            raise UserError(
                f"the training set has {length} images, fewer than one batch of "
                f"{self.global_batch} ({batch_size} x {world_size} process(es)): lower --batch-size"
            )

    @property
    def steps_per_epoch(self) -> int:
        """Number of global batches in a whole epoch."""
        return self.length // self.global_batch

    def __len__(self) -> int:
        return self.steps_per_epoch - self.start

    def __iter__(self) -> Iterator[list[Key]]:
        generator = torch.Generator().manual_seed(derive_seed(self.seed, self.epoch))
        order = torch.randperm(self.length, generator=generator).tolist()
        for step in range(self.start, self.steps_per_epoch):
            first = step * self.global_batch + self.rank * self.batch_size
            yield [(self.epoch, index) for index in order[first : first + self.batch_size]]
