"""The exact scores of a sampled certificate, counted again with the arithmetic of the verifier.

Each function gives, class by class, the scores at all choices of feature vectors, in the order of the sites: the first
site's choice is the slowest. Every weight becomes a residue by itself. Products are int64 with a remainder after each,
p < 2^31.
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
    """Number of feature vectors of each site: powers of two whose product is ``size`` over odd and over even sites.

    None is above ``mode_size``; the last sites get theirs first. Returns None if there is no such distribution.
    """
    counts = [1] * sites
    for start in (sites, sites - 1):
        same_parity, left = range(start - 1, -1, -2), size
        while left > 1:
            free = [site for site in same_parity if 2 * counts[site] <= mode_size]
            if left % 2 or not free:
                return None
            site = min(free, key=counts.__getitem__)  # the first site with the fewest
            counts[site], left = 2 * counts[site], left // 2
    return counts


def chain_scores(weights: dict[str, "Tensor"], vectors: Sequence[Rows], p: int) -> Iterator[Numbers]:
    """A tensor train from the last site to the first: the state right of site k, for every choice further right."""
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
    """A sum of units by its definition: the product of all sites' inner products for each unit, then the sum."""
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
    """A tree from the leaves to the root, one entry of one node at a time."""
    leaves = weights["leaves"]
    tables = [_at(each, leaves[0 if len(leaves) == 1 else site], p) for site, each in enumerate(vectors)]
    for level in range(len(weights) - 2):
        nodes = weights[f"nodes.{level}"]
        joined = []
        for position in range(len(tables) // 2):
            node = nodes[0 if len(nodes) == 1 else position]
            left, right = tables[2 * position : 2 * position + 2]
            entries = [_pairs(left, right, each, p) for each in node.permute(2, 0, 1)]
            joined.append(np.stack([each.ravel() for each in entries], axis=1))
        tables = joined
    left, right = tables
    for each in weights["root"].permute(2, 0, 1):
        yield _pairs(left, right, each, p)


def _at(vectors: Rows, core: "Tensor", p: int) -> Numbers:
    """The core of a site at each of its vectors: (count, modes) times (modes, rank)."""
    return times(np.array(matrix(core.T, p), dtype=np.int64), np.array(vectors, dtype=np.int64), p)


def _pairs(left: Numbers, right: Numbers, core: "Tensor", p: int) -> Numbers:
    """left_i^T core right_j for every i and j."""
    return times(times(np.array(matrix(core, p), dtype=np.int64), right, p), left, p)
