r"""The odd/even matricization itself, every entry of it, over F_p: the check on everything that avoids it.

P[(i_1, i_3, ...), (i_2, i_4, ...)] = F[i_1] G_2[i_2] ... G_{d-1}[i_{d-1}] L[i_d]
"""

from collections.abc import Sequence
from typing import Final

import numpy as np

from ttlightning.rank.modular import SMALL_PRIMES, Residues, hashed, multiply_small, rank_modulo

LARGEST_MATRIX: Final = 2**24
"""Entries of the largest matricization that is written out: 4096 x 4096."""


def literal_shape(modes: int, sites: int) -> tuple[int, int]:
    """Rows and columns of the odd/even matricization."""
    return modes ** ((sites + 1) // 2), modes ** (sites // 2)


def literal_matricization(cores: Sequence[Residues], prime: int) -> Residues:
    """P of a tensor train from its cores (n_k, r_{k-1}, r_k), r_0 = r_d = 1, int64 residues, p < 2^31."""
    states = cores[0][:, 0, :]
    half = len(cores) // 2
    states = grow(states, cores[1:half], prime)
    parts = np.array_split(states, max(1, len(states) // 64))  # the later states are many: a piece at a time
    entries = np.concatenate([grow(part, cores[half:], prime) for part in parts])
    shape = [len(core) for core in cores]
    order = [*range(0, len(cores), 2), *range(1, len(cores), 2)]
    rows = int(np.prod(shape[::2]))
    return entries.reshape(shape).transpose(order).reshape(rows, -1)


def grow(states: Residues, cores: Sequence[Residues], prime: int) -> Residues:
    """Carry the states (points, left) through some sites: (points * their modes, right)."""
    for core in cores:
        modes, left, right = core.shape
        joint = multiply_small(states, core.transpose(1, 0, 2).reshape(left, modes * right), prime)
        states = joint.reshape(-1, right)
    return states


def random_cores(modes: int, rank: int, sites: int, seed: int, prime: int, equal: bool = True) -> list[Residues]:
    """Cores with entries that a seed determines, for ``literal_matricization``."""
    first = hashed((modes, 1, rank), prime, seed, "literal", 1)
    labels = ["interior"] * (sites - 2) if equal else list(range(2, sites))
    drawn = {label: hashed((modes, rank, rank), prime, seed, "literal", label) for label in labels}
    last = hashed((modes, rank, 1), prime, seed, "literal", sites)
    return [core.astype(np.int64) for core in (first, *(drawn[label] for label in labels), last)]


def measured_rank(modes: int, rank: int, sites: int, seed: int = 0, equal: bool = True) -> int:
    """Rank over F_p, p = 2^31 - 1, of the odd/even matricization of one random tensor train."""
    prime = SMALL_PRIMES[0]
    return rank_modulo(literal_matricization(random_cores(modes, rank, sites, seed, prime, equal), prime), prime)
