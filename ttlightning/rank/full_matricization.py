r"""The complete odd/even matricization of a tensor train, every entry of it, over F_p.

    P[(i_1, i_3, ...), (i_2, i_4, ...)] = F[i_1] G_2[i_2] ... G_{d-1}[i_{d-1}] L[i_d]

Its rank is the reference for every method that avoids the complete matrix.
"""

from collections.abc import Sequence
from typing import Final

from ttlightning.formats.modular import Residues, chain_scores, odd_even_matrix
from ttlightning.rank.finite_field import PRIMES, PrimeField, hashed, rank_modulo

LARGEST_MATRIX: Final = 2**24
"""Entries of the largest matricization that is computed: 4096 x 4096."""


def full_matricizations(cores: Sequence[Residues], prime: int) -> list[Residues]:
    """P of every class, from the cores (n_k, r_{k-1}, r_k) of a tensor train, r_0 = 1 and r_d = classes; p < 2^31."""
    counts = [len(core) for core in cores]
    return [odd_even_matrix(scores, counts) for scores in chain_scores(cores, PrimeField(prime))]


def random_cores(mode_size: int, rank: int, sites: int, seed: int, prime: int, equal: bool = True) -> list[Residues]:
    """Cores of one class for ``full_matricizations``; ``seed`` determines their entries."""
    first = hashed((mode_size, 1, rank), prime, seed, "literal", 1)
    labels = ["interior"] * (sites - 2) if equal else list(range(2, sites))
    drawn = {label: hashed((mode_size, rank, rank), prime, seed, "literal", label) for label in labels}
    last = hashed((mode_size, rank, 1), prime, seed, "literal", sites)
    return [first, *(drawn[label] for label in labels), last]


def measured_rank(mode_size: int, rank: int, sites: int, seed: int = 0, equal: bool = True) -> int:
    """Rank over F_p, p = 2^31 - 1, of the odd/even matricization of one random tensor train."""
    prime = PRIMES[0]
    (matrix,) = full_matricizations(random_cores(mode_size, rank, sites, seed, prime, equal), prime)
    return rank_modulo(matrix, prime)
