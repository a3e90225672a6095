r"""The odd/even matricization itself, every entry of it, over F_p: the check on everything that avoids it.

P[(i_1, i_3, ...), (i_2, i_4, ...)] = F[i_1] G_2[i_2] ... G_{d-1}[i_{d-1}] L[i_d]
"""

from collections.abc import Sequence
from typing import Final

import numpy as np

from ttlightning.rank.finite_field import PRIMES, Residues, hashed, multiply, rank_modulo

LARGEST_MATRIX: Final = 2**24
"""Entries of the largest matricization that is written out: 4096 x 4096."""


def literal_shape(mode_size: int, sites: int) -> tuple[int, int]:
    """Rows and columns of the odd/even matricization."""
    return mode_size ** ((sites + 1) // 2), mode_size ** (sites // 2)


def literal_matricizations(cores: Sequence[Residues], prime: int) -> list[Residues]:
    """P of every class, from the cores (n_k, r_{k-1}, r_k) of a tensor train, r_0 = 1 and r_d = classes; p < 2^31."""
    shape, half = [len(core) for core in cores], len(cores) // 2
    classes = cores[-1].shape[2]
    entries = np.empty((classes, int(np.prod(shape))), dtype=np.int32)
    states, done = grow(cores[0][:, 0, :], cores[1:half], prime), 0
    for part in np.array_split(states, max(1, len(states) // 64)):  # the later states are many: a piece at a time
        found = grow(part, cores[half:], prime)
        entries[:, done : done + len(found)] = found.T
        done += len(found)
    order = [*range(0, len(cores), 2), *range(1, len(cores), 2)]
    rows = int(np.prod(shape[::2]))
    return [each.reshape(shape).transpose(order).reshape(rows, -1) for each in entries]


def grow(states: Residues, cores: Sequence[Residues], prime: int) -> Residues:
    """Carry the states (points, left) through some sites: (points * their modes, right)."""
    for core in cores:
        mode_size, left, right = core.shape
        joint = multiply(states, core.transpose(1, 0, 2).reshape(left, mode_size * right), prime)
        states = joint.reshape(-1, right)
    return states


def random_cores(mode_size: int, rank: int, sites: int, seed: int, prime: int, equal: bool = True) -> list[Residues]:
    """Cores with entries that a seed determines, of one class, for ``literal_matricizations``."""
    first = hashed((mode_size, 1, rank), prime, seed, "literal", 1)
    labels = ["interior"] * (sites - 2) if equal else list(range(2, sites))
    drawn = {label: hashed((mode_size, rank, rank), prime, seed, "literal", label) for label in labels}
    last = hashed((mode_size, rank, 1), prime, seed, "literal", sites)
    return [first, *(drawn[label] for label in labels), last]


def measured_rank(mode_size: int, rank: int, sites: int, seed: int = 0, equal: bool = True) -> int:
    """Rank over F_p, p = 2^31 - 1, of the odd/even matricization of one random tensor train."""
    prime = PRIMES[0]
    (matrix,) = literal_matricizations(random_cores(mode_size, rank, sites, seed, prime, equal), prime)
    return rank_modulo(matrix, prime)
