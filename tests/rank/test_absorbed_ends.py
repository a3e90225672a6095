"""The bound for n < r of docs/theorem.md, step 2, against complete matricizations."""

import numpy as np
import pytest

from ttlightning import UserError
from ttlightning.rank.absorbed_ends import absorbed_bound, absorbed_end, absorbed_pairs, kept_slices
from ttlightning.rank.finite_field import PRIMES, PrimeField, rank_modulo
from ttlightning.rank.full_matricization import full_matricizations, random_cores
from ttlightning.rank.staircase import pair_matrix, pairs, rank_from_deficits

P = PRIMES[0]
CASES = [(2, 3, 6), (2, 4, 8), (3, 4, 6), (3, 5, 6), (3, 7, 6), (4, 6, 6), (2, 5, 10), (2, 8, 10), (2, 9, 14)]
"""n < r, d"""


def spoil(cores, how):
    cores = [core.copy() for core in cores]
    if how == "a slice zero":
        for core in cores[1:-1]:
            core[0] = 0
    elif how == "two slices equal":
        for core in cores[1:-1]:
            core[0] = core[-1]
    elif how == "first of rank one":
        cores[0][:] = cores[0][:1]
    elif how == "last zero":
        cores[-1][:] = 0
    elif how == "one site nilpotent":
        cores[len(cores) // 2][:] = 0
        cores[len(cores) // 2][:, 0, -1] = 1
    elif how == "a state unused":
        for core in cores[1:-1]:
            core[:, -1], core[:, :, -1] = 0, 0
    return cores


@pytest.mark.parametrize("how", ["random", "a slice zero", "two slices equal", "first of rank one", "last zero",
                                 "one site nilpotent", "a state unused"])  # fmt: skip
@pytest.mark.parametrize("equal", [True, False])
@pytest.mark.parametrize(("mode_size", "rank", "sites"), [case for case in CASES if case[2] <= 10])
def test_the_bound_never_exceeds_the_rank(mode_size, rank, sites, equal, how):
    cores = spoil(random_cores(mode_size, rank, sites, 3, P, equal), how)
    (matrix,) = full_matricizations(cores, P)
    assert absorbed_bound(cores) <= rank_modulo(matrix, P)


@pytest.mark.parametrize("equal", [True, False])
@pytest.mark.parametrize(("mode_size", "rank", "sites"), CASES)
def test_the_bound_of_random_cores(mode_size, rank, sites, equal):
    """A and B have full rank: what the formula leaves then, which is at least what the ends alone leave."""
    (n, r), k = (mode_size, rank), sites // 2
    m, (e, f) = absorbed_pairs(n, r) + 1, kept_slices(n, r)
    between = n ** (k - 2 * m + 1)
    expected = (e * f * r - max(0, e * r - n**m) * f - max(0, f * r - n**m) * e) * between
    found = absorbed_bound(random_cores(n, r, sites, 0, P, equal))
    assert found == expected
    assert found >= (2 * n - r) * n ** (k - 1)
    assert found * 3 >= n**k * n // r  # rounding costs less than this


@pytest.mark.parametrize(("mode_size", "rank", "sites"), [(3, 3, 6), (4, 2, 8), (3, 2, 4), (2, 2, 2)])
def test_without_absorbed_sites_it_is_the_staircase(mode_size, rank, sites):
    cores = random_cores(mode_size, rank, sites, 5, P, equal=False)
    field = PrimeField(P)
    of_pairs = [rank_modulo(pair_matrix(cores[a - 1], cores[b - 1], field.multiply), P) for a, b in pairs(sites)]
    first, last = rank_modulo(cores[0][:, 0], P), rank_modulo(cores[-1][:, :, 0], P)
    assert absorbed_bound(cores) == rank_from_deficits(mode_size, rank, sites, of_pairs, None, first, last)


def test_the_matrix_of_an_end():
    """A[(i_1, i_3, i_5), (j, b)] = (F[i_1] G_1 G_{i_3} G_j G_{i_5})[b], entry by entry."""
    n, r, e, field = 2, 5, 2, PrimeField(P)
    first, *interior = random_cores(n, r, 6, 1, P, equal=False)[:5]
    matrix = absorbed_end(first[:, 0], interior, e, field)
    assert matrix.shape == (n**3, e * r)
    cores = [core.astype(object) for core in interior]
    for i1, i3, i5, j in np.ndindex(n, n, n, e):
        row = first[i1].astype(object) @ cores[0][0] @ cores[1][i3] @ cores[2][j] @ cores[3][i5] % P
        assert np.array_equal(matrix.reshape(n, n, n, e, r)[i1, i3, i5, j], row[0])


def test_sizes_that_have_no_bound():
    with pytest.raises(UserError, match="6 or more, got 4"):
        absorbed_bound(random_cores(2, 3, 4, 0, P))
    with pytest.raises(UserError, match="must be even"):
        absorbed_bound(random_cores(2, 3, 7, 0, P))
    with pytest.raises(UserError, match="never 2"):
        absorbed_bound(random_cores(1, 2, 6, 0, P))
