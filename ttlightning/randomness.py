"""Random numbers that are functions of a key, never of a stream's position.

A generator is made anew from (seed, purpose, epoch, step, ...), so that a run that is resumed in the middle of an
epoch, or split over more devices, draws the numbers that the first run drew.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Bool
from torch import Tensor


def keyed_seed(seed: int, *key: int | str) -> int:
    """A 63-bit seed: the head of the SHA-256 of the key."""
    digest = hashlib.sha256(repr((seed, *key)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def keyed_generator(seed: int, *key: int | str) -> torch.Generator:
    """A CPU generator for one purpose at one place of a run."""
    return torch.Generator().manual_seed(keyed_seed(seed, *key))


@contextmanager
def keyed_global_generator(seed: int, *key: int | str) -> Iterator[None]:
    """Inside, torch's global CPU generator starts at the key; outside, it is as if nothing had been drawn."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(keyed_seed(seed, *key))
        yield


def keep_mask(samples: int, sites: int, drop: float, seed: int, epoch: int, step: int) -> Bool[Tensor, "samples sites"]:
    """True where a patch is kept, with probability 1 - drop, for one global batch of ``samples`` images."""
    return torch.rand(samples, sites, generator=keyed_generator(seed, "patch dropout", epoch, step)) >= drop
