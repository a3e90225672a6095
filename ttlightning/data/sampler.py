r"""Samples of each batch on each device.

Training: the permutation of an epoch is a function of (seed, epoch). Global batch t is its t-th run of ``batch_size``
entries; device w of W takes the w-th of W equal slices. The last batch of an epoch may be shorter, and its slices may
differ by one sample. The loss divides by the global size, so the averaged gradient is that of the global batch.

Evaluation: the samples in their order, cut into W disjoint runs, without padding or repetition.

V microbatches: every W that divides V cuts the same V slices, so the terms of a sum and their order do not depend on W.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import torch
from jaxtyping import Float, Int, Real
from torch import Tensor

from ttlightning.data.pixels import scaled
from ttlightning.data.rows import Rows
from ttlightning.randomness import keyed_generator


class Batch(NamedTuple):
    """One device's slice of a global batch."""

    pixels: Real[Tensor, "batch sites patch_dim"]
    """uint8 pixels, or coordinates of points."""
    labels: Int[Tensor, " batch"]
    start: int
    """Position of the slice in the global batch."""
    global_size: int
    """Samples in the global batch, all devices together."""
    epoch: int = 0
    step: int = 0
    """Epoch of a training batch, and its number in the epoch: keys of its random numbers."""
    dtype: torch.dtype = torch.float32
    """Type of ``patches``."""
    lengths: Int[Tensor, " batch"] | None = None
    """Sites of each sequence; None: all have all sites of ``pixels``."""

    @property
    def patches(self) -> Float[Tensor, "batch sites patch_dim"]:
        """Pixels in [0, 1], or coordinates; scaled on the device, which receives bytes."""
        return scaled(self.pixels, self.dtype)

    def slice_of(self, shard: "Shard") -> "Batch":
        """The slice of the global batch for ``shard``, which must lie inside this one."""
        start, end = shard.bounds(self.global_size)
        mine = slice(start - self.start, end - self.start)
        batch = self._replace(pixels=self.pixels[mine], labels=self.labels[mine], start=start)
        return without_tail(batch, None if self.lengths is None else self.lengths[mine])


def without_tail(batch: Batch, lengths: Int[Tensor, " batch"] | None) -> Batch:
    """The batch of these lengths, without the sites that none of its sequences has."""
    if lengths is None:
        return batch
    longest = int(lengths.max()) if len(lengths) else 2
    return batch._replace(pixels=batch.pixels[:, :longest], lengths=lengths)


class Shard(NamedTuple):
    """Device ``rank`` of ``world`` devices."""

    rank: int = 0
    world: int = 1

    def bounds(self, size: int) -> tuple[int, int]:
        """Start and end of this device's slice of ``size`` samples; slices differ by one sample at most."""
        return size * self.rank // self.world, size * (self.rank + 1) // self.world

    def cut(self, pieces: int) -> "list[Shard]":
        """This device's share of ``pieces`` shards; ``pieces`` is a multiple of the devices."""
        own = pieces // self.world
        return [Shard(piece, pieces) for piece in range(own * self.rank, own * (self.rank + 1))]


def permutation(samples: int, seed: int, epoch: int) -> Int[Tensor, " samples"]:
    """Order of the training samples in an epoch."""
    return torch.randperm(samples, generator=keyed_generator(seed, "permutation", epoch))


def validation_split(
    samples: int, held_out: int, seed: int
) -> tuple[Int[Tensor, " train"], Int[Tensor, " validation"]]:
    """Disjoint, sorted indices of training and validation samples: a function of the seed alone."""
    order = torch.randperm(samples, generator=keyed_generator(seed, "validation split"))
    return order[held_out:].sort().values, order[:held_out].sort().values


class TrainingBatches:
    """The batches of an epoch; every pass calls ``epoch`` at its start. With ``same``, all epochs are epoch 0.

    The state is (epoch, batches given out). After ``load_state_dict``, the pass through that epoch begins there.
    """

    def __init__(
        self,
        inputs: Real[Tensor, "samples ..."] | Rows,
        labels: Int[Tensor, " samples"],
        batch_size: int,
        seed: int,
        epoch: Callable[[], int],
        shard: Shard,
        same: bool = False,
        dtype: torch.dtype = torch.float32,
        lengths: Int[Tensor, " samples"] | None = None,
    ) -> None:
        self.inputs, self.labels, self.batch_size = inputs, labels, batch_size
        self.seed, self.epoch, self.shard, self.same, self.dtype = seed, epoch, shard, same, dtype
        self.lengths = lengths
        self._place, self._resumed = (0, 0), (0, 0)

    def __len__(self) -> int:
        return -(-len(self.labels) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        epoch = self.epoch()
        done = self._resumed[1] % len(self) if self._resumed[0] == epoch else 0
        self._resumed = (0, 0)
        order = permutation(len(self.labels), self.seed, 0 if self.same else epoch)
        for given, indices in enumerate(order.split(self.batch_size)[done:], start=done + 1):
            start, end = self.shard.bounds(len(indices))
            mine = indices[start:end]
            self._place = epoch, given
            pixels = self.take(mine, start, len(indices), epoch, given - 1)
            yield without_tail(
                Batch(pixels, self.labels[mine], start, len(indices), epoch, given - 1, self.dtype),
                None if self.lengths is None else self.lengths[mine],
            )

    def set_epoch(self, epoch: int) -> None:
        """The epoch of the next pass, in a loop without a trainer."""
        self.epoch = lambda: epoch

    def take(
        self, indices: Int[Tensor, " batch"], start: int, global_size: int, epoch: int, step: int
    ) -> Real[Tensor, "batch sites patch_dim"]:
        """Patches of these samples, the part of the global batch from ``start`` on."""
        return self.inputs[indices]

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self._place[0], "given": self._place[1]}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self._resumed = state["epoch"], state["given"]


class Calls:
    """The batches of an epoch in lists of ``size``, for several optimizer steps in one call."""

    def __init__(self, batches: TrainingBatches, size: int) -> None:
        self.batches, self.size, self.set_epoch = batches, size, batches.set_epoch
        self.state_dict, self.load_state_dict = batches.state_dict, batches.load_state_dict

    def __len__(self) -> int:
        return -(-len(self.batches) // self.size)

    def __iter__(self) -> Iterator[list[Batch]]:
        batches = iter(self.batches)
        while run := list(islice(batches, self.size)):
            yield run


class EvaluationBatches:
    """This device's shards of a data set, in order, each sample once; no batch crosses the end of a shard."""

    def __init__(
        self,
        patches: Real[Tensor, "samples sites patch_dim"] | Rows,
        labels: Int[Tensor, " samples"],
        batch_size: int,
        shards: Sequence[Shard],
        dtype: torch.dtype = torch.float32,
        lengths: Int[Tensor, " samples"] | None = None,
    ) -> None:
        self.patches, self.labels, self.dtype, self.lengths = patches, labels, dtype, lengths
        bounds = [shard.bounds(len(labels)) for shard in shards]
        self.cuts = [(at, min(at + batch_size, end)) for start, end in bounds for at in range(start, end, batch_size)]

    def __len__(self) -> int:
        return len(self.cuts)

    def __iter__(self) -> Iterator[Batch]:
        for start, end in self.cuts:
            yield without_tail(
                Batch(self.patches[start:end], self.labels[start:end], 0, end - start, dtype=self.dtype),
                None if self.lengths is None else self.lengths[start:end],
            )
