"""The scores of a sampled certificate, once more: what ``exact.py`` computed, by other means and ``recount.py``.

Of every format the scores at all choices of feature vectors, in the order of the sites: the first site's choice is the
slowest. Weights become residues one by one; int64 with a remainder after every product, p < 2^31.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ttlightning.rank.verifier.arithmetic import Rows, matrix, sum_modes, times

if TYPE_CHECKING:
    from torch import Tensor

Numbers = NDArray[np.int64]


def choices(size: int, mode_size: int, sites: int) -> list[int] | None:
    """How many feature vectors each site chooses from, so that odd and even sites have ``size`` choices together.

    Powers of two up to ``mode_size``, shared out over the odd and over the even sites, the last ones first. None where
    that cannot be.
    """
    found = [1] * sites
    for start in (sites, sites - 1):
        places, left = range(start - 1, -1, -2), size
        while left > 1:
            free = [place for place in places if 2 * found[place] <= mode_size]
            if left % 2 or not free:
                return None
            place = min(free, key=found.__getitem__)  # the first of those with the fewest
            found[place], left = 2 * found[place], left // 2
    return found


def chain_scores(weights: dict[str, "Tensor"], vectors: Sequence[Rows], p: int) -> Iterator[Numbers]:
    """Of every class, from the last site to the first: what is to come after site k, for every choice further on."""
    sites = len(vectors)
    first = [matrix(weights["first"], p)]
    interior = [[matrix(each, p) for each in core] for core in weights["interior"]]
    for core in weights["last"].permute(2, 0, 1):
        ahead = np.array(sum_modes(vectors[-1], [[row] for row in matrix(core, p)], p), dtype=np.int64)[:, 0, :]
        for site in range(sites - 2, 0, -1):
            slices = interior[0 if len(interior) == 1 else site - 1]
            step = np.array(sum_modes(vectors[site], slices, p), dtype=np.int64)  # (count, left, right)
            ahead = np.concatenate([times(each, ahead, p) for each in step])
        step = np.array(sum_modes(vectors[0], [[row] for row in first[0]], p), dtype=np.int64)[:, 0, :]
        yield times(step, ahead, p).T


def canonical_scores(weights: dict[str, "Tensor"], vectors: Sequence[Rows], p: int) -> Iterator[Numbers]:
    """Of every class, by the definition: for each unit the product of all sites' inner products; then their sum."""
    inner = [_at(vectors[site], factor, p) for site, factor in enumerate(weights["factors"])]  # (count, rank) each
    mixed = np.array(matrix(weights["weights"], p), dtype=np.int64)
    for y in range(mixed.shape[1]):
        total = np.zeros(1, dtype=np.int64)
        for unit, weight in enumerate(mixed[:, y]):
            line = np.array([weight])
            for each in inner:
                line = np.multiply.outer(line, each[:, unit]).ravel() % p
            total = (total + line) % p
        yield total


def tree_scores(weights: dict[str, "Tensor"], vectors: Sequence[Rows], p: int) -> Iterator[Numbers]:
    """Of every class, a node at a time and of a node an entry at a time, from the leaves to the root."""
    leaves = weights["leaves"]
    tables = [_at(each, leaves[0 if len(leaves) == 1 else site], p) for site, each in enumerate(vectors)]
    for level in range(len(weights) - 2):
        nodes = weights[f"nodes.{level}"]
        joined = []
        for place in range(len(tables) // 2):
            node = nodes[0 if len(nodes) == 1 else place]
            left, right = tables[2 * place : 2 * place + 2]
            entries = [_pairs(left, right, each, p) for each in node.permute(2, 0, 1)]
            joined.append(np.stack([each.ravel() for each in entries], axis=1))
        tables = joined
    left, right = tables
    for each in weights["root"].permute(2, 0, 1):
        yield _pairs(left, right, each, p)


def _at(vectors: Rows, core: "Tensor", p: int) -> Numbers:
    """What a site sees of each of its vectors: (count, modes) times (modes, rank)."""
    return times(np.array(matrix(core.T, p), dtype=np.int64), np.array(vectors, dtype=np.int64), p)


def _pairs(left: Numbers, right: Numbers, core: "Tensor", p: int) -> Numbers:
    """left_i^T core right_j for every i and j."""
    return times(times(np.array(matrix(core, p), dtype=np.int64), right, p), left, p)
