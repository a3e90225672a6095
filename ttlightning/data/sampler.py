r"""Which samples make up which batch, on which device.

Training: the permutation of an epoch is a function of (seed, epoch). Global batch t is its t-th run of ``batch_size``
entries; device w of W takes the w-th of W equal slices of it. The last batch of an epoch may be shorter, and its slices
may differ by one sample: the loss divides by the global size, so that the averaged gradient stays that of the batch.

Evaluation: the samples in their order, cut into W disjoint runs, nothing padded and nothing repeated.
"""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import NamedTuple

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from ttlightning.randomness import keyed_generator


class Batch(NamedTuple):
    """One device's slice of a global batch."""

    patches: UInt8[Tensor, "batch sites patch_dim"]
    labels: Int[Tensor, " batch"]
    start: int
    """Position of the slice in the global batch."""
    global_size: int
    """Samples in the global batch, all devices together."""


class Shard(NamedTuple):
    """Device ``rank`` of ``world`` devices."""

    rank: int = 0
    world: int = 1

    def bounds(self, size: int) -> tuple[int, int]:
        """Start and end of this device's slice of ``size`` samples; slices differ by one sample at most."""
        return size * self.rank // self.world, size * (self.rank + 1) // self.world


def permutation(samples: int, seed: int, epoch: int) -> Int[Tensor, " samples"]:
    """The order in which an epoch visits the training samples."""
    return torch.randperm(samples, generator=keyed_generator(seed, "permutation", epoch))


def validation_split(
    samples: int, held_out: int, seed: int
) -> tuple[Int[Tensor, " train"], Int[Tensor, " validation"]]:
    """Disjoint, sorted indices of training and validation samples: a function of the seed alone."""
    order = torch.randperm(samples, generator=keyed_generator(seed, "validation split"))
    return order[held_out:].sort().values, order[:held_out].sort().values


class TrainingBatches:
    """The batches of one epoch after the other; ``epoch`` is asked for at the start of each pass."""

    def __init__(
        self,
        patches: UInt8[Tensor, "samples sites patch_dim"],
        labels: Int[Tensor, " samples"],
        batch_size: int,
        seed: int,
        epoch: Callable[[], int],
        shard: Shard,
    ) -> None:
        self.patches, self.labels, self.batch_size = patches, labels, batch_size
        self.seed, self.epoch, self.shard = seed, epoch, shard

    def __len__(self) -> int:
        return -(-len(self.labels) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        order = permutation(len(self.labels), self.seed, self.epoch())
        for indices in order.split(self.batch_size):
            start, end = self.shard.bounds(len(indices))
            mine = indices[start:end]
            yield Batch(self.patches[mine], self.labels[mine], start, len(indices))


class Calls:
    """The batches of an epoch in runs of ``size``, for a trainer that makes several steps in one call."""

    def __init__(self, batches: TrainingBatches, size: int) -> None:
        self.batches, self.size = batches, size

    def __len__(self) -> int:
        return -(-len(self.batches) // self.size)

    def __iter__(self) -> Iterator[list[Batch]]:
        batches = iter(self.batches)
        while run := list(islice(batches, self.size)):
            yield run


class EvaluationBatches:
    """This device's share of a data set, in order, each sample once."""

    def __init__(
        self,
        patches: UInt8[Tensor, "samples sites patch_dim"],
        labels: Int[Tensor, " samples"],
        batch_size: int,
        shard: Shard,
    ) -> None:
        start, end = shard.bounds(len(labels))
        self.patches, self.labels = patches[start:end], labels[start:end]
        self.batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self.labels) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        for patches, labels in zip(
            self.patches.split(self.batch_size), self.labels.split(self.batch_size), strict=True
        ):
            yield Batch(patches, labels, 0, len(labels))
