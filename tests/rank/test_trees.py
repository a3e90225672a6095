"""The theorem of docs/partitions.md: the rank of trees, and no matricization above the odd/even one."""

from itertools import combinations

import numpy as np
import pytest
import torch
from kinds import FORMATS, TREES

from ttlightning import CanonicalPolyadic, SharedHierarchicalTucker, UserError
from ttlightning.formats.modular import odd_even_matrix
from ttlightning.rank import witnesses
from ttlightning.rank.finite_field import PRIMES, PrimeField, rank_modulo
from ttlightning.rank.unfolding import matricization

SIZES = [(1, 1, 4), (2, 3, 2), (3, 2, 2), (2, 3, 4), (3, 2, 4), (4, 4, 4), (1, 3, 8), (2, 2, 8), (2, 3, 8), (3, 2, 8)]
"""n, r, d"""


def entries(format, prime):
    """Every entry of the one class tensor modulo a prime, the last site fastest."""
    vectors = [np.eye(format.mode_size, dtype=np.int64)] * format.sites
    (scores,) = format.exact_scores(vectors, PrimeField(prime))
    return scores


def random_integers(kind, mode_size, rank, sites):
    generator = torch.Generator().manual_seed(7)
    format = kind(sites, mode_size, 1, rank).double().requires_grad_(False)
    for parameter in format.parameters():
        parameter.copy_(torch.randint(-(10**6), 10**6, parameter.shape, generator=generator))
    return format


@pytest.mark.parametrize(("mode_size", "rank", "sites"), SIZES)
def test_the_tree_witness_is_the_identity(mode_size, rank, sites):
    """W = [i_1 = i_2] [i_3 = i_4] .. for indices up to q, and 0 beyond: the odd/even matricization is an identity."""
    q = min(mode_size, rank)
    for shared in (True, False):
        format = witnesses.tree_as_format(witnesses.tree(mode_size, rank, sites), sites, shared)
        assert isinstance(format, SharedHierarchicalTucker) is shared
        expected = np.eye(q ** (sites // 2)).reshape([q] * sites)
        expected = np.pad(expected, [(0, mode_size - q)] * sites).reshape(mode_size ** (sites // 2), -1)
        assert np.array_equal(matricization(format)[0].detach().numpy(), expected)


@pytest.mark.parametrize(("mode_size", "rank", "sites"), SIZES)
@pytest.mark.parametrize("kind", TREES)
def test_the_rank_of_trees(kind, mode_size, rank, sites):
    """Over two fields: the witness and random nodes have min(n, r)^(d/2)."""
    expected = min(mode_size, rank) ** (sites // 2)
    shared = kind is SharedHierarchicalTucker
    witness = witnesses.tree_as_format(witnesses.tree(mode_size, rank, sites), sites, shared)
    for prime in PRIMES:
        for format in (witness, random_integers(kind, mode_size, rank, sites)):
            assert format.generic_rank() == expected
            assert rank_modulo(odd_even_matrix(entries(format, prime), [mode_size] * sites), prime) == expected


EVERY = [
    (kind, sites, n, r)
    for kind in FORMATS
    for sites in ((2, 4, 8) if kind in TREES else (2, 3, 4, 5, 8))
    for n, r in ((2, 3), (3, 2), (4, 2))
    if n**sites <= 3**8
]


@pytest.mark.parametrize(("kind", "sites", "mode_size", "rank"), EVERY)
def test_no_matricization_has_a_larger_rank(kind, sites, mode_size, rank):
    """Every set of up to d/2 sites, or a few of them at d = 8; CP has min(r, n^s) for every set of s sites."""
    format = random_integers(kind, mode_size, rank, sites)
    table = entries(format, PRIMES[0]).reshape([mode_size] * sites)
    for size in range(1, sites // 2 + 1):
        for rows in list(combinations(range(sites), size))[:: 1 if sites < 8 else 9]:
            order = [*rows, *(site for site in range(sites) if site not in rows)]
            rank_of_rows = rank_modulo(table.transpose(order).reshape(mode_size**size, -1), PRIMES[0])
            assert rank_of_rows <= format.generic_rank(), rows
            if kind is CanonicalPolyadic:
                assert rank_of_rows == min(rank, mode_size**size), rows


@pytest.mark.parametrize("sites", [0, 1, 3, 6])
def test_a_tree_needs_a_power_of_two(sites):
    with pytest.raises(UserError, match=f"got {sites}"):
        witnesses.tree(2, 2, sites)
