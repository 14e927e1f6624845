"""The order of samples: complete, seeded, and the same in any number of processes."""

from itertools import chain

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsevit_plugin.errors import UserError
from sparsevit_plugin.harness.sampling import GlobalBatchSampler, derive_seed


def whole_epoch(length, batch, epoch=0, seed=1, start=0):
    sampler = GlobalBatchSampler(length, batch, seed=seed)
    sampler.epoch, sampler.start = epoch, start
    return list(sampler)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    length=st.integers(1, 60),
    batch=st.integers(1, 5),
    world=st.integers(1, 4),
    epoch=st.integers(0, 3),
)
def test_processes_together_visit_what_one_process_with_a_larger_batch_does(
    length, batch, world, epoch
):
    if length < batch * world:
        with pytest.raises(UserError, match="lower --batch-size"):
            GlobalBatchSampler(length, batch, seed=1, world_size=world)
        return
    alone = whole_epoch(length, batch * world, epoch)
    parts = []
    for rank in range(world):
        sampler = GlobalBatchSampler(length, batch, seed=1, rank=rank, world_size=world)
        sampler.epoch = epoch
        parts.append(list(sampler))
    together = [list(chain(*batches)) for batches in zip(*parts, strict=True)]
    assert together == alone
    indices = [index for keys in alone for _, index in keys]
    assert len(indices) == len(set(indices)) == length // (batch * world) * batch * world
    assert all(epoch == key_epoch for keys in alone for key_epoch, _ in keys)


def test_an_interrupted_epoch_continues_with_the_batches_that_are_left():
    assert whole_epoch(30, 4, epoch=2)[3:] == whole_epoch(30, 4, epoch=2, start=3)


def test_epochs_and_seeds_differ():
    orders = {
        tuple(index for keys in whole_epoch(40, 4, epoch, seed) for _, index in keys)
        for epoch in (0, 1)
        for seed in (0, 1)
    }
    assert len(orders) == 4


def test_derived_seeds_depend_on_every_part_and_on_their_order():
    seeds = {derive_seed(*parts) for parts in [(0,), (1,), (0, 1), (1, 0), (0, 1, 0), (0, 0, 1)]}
    assert len(seeds) == 6
    assert all(0 <= seed < 2**63 for seed in seeds)
