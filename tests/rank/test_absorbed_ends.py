"""The bound for n < r of docs/theorem.md, step 2, in certificates, against complete matricizations."""

import numpy as np
import pytest
import torch

from ttlightning import EqualCoreTensorTrain, TensorTrain
from ttlightning.rank.absorbed_ends import absorbed_end, best_ends, bound_from_deficits
from ttlightning.rank.certificates.staircase import checkpoint_certificate
from ttlightning.rank.finite_field import PRIMES, PrimeField, rank_modulo
from ttlightning.rank.full_matricization import full_matricizations, random_cores
from ttlightning.rank.limits import LARGEST_PAIR
from ttlightning.rank.verifier.verification import verify

P = PRIMES[0]
CASES = [(2, 3, 6), (2, 4, 8), (3, 4, 6), (3, 5, 6), (3, 7, 6), (4, 6, 6), (2, 5, 10), (2, 8, 10), (2, 9, 14),
         (2, 3, 7), (3, 5, 7), (2, 4, 9), (2, 8, 11)]  # fmt: skip
"""n < r, d"""
NOTHING_GAINED = [(2, 3), (3, 4)]
"""The ends alone leave as much."""


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


def certified(cores, equal=False):
    """The certificate of the chain with these residues as weights, which float64 holds exactly; it is verified."""
    (n, _, r), sites = cores[0].shape, len(cores)
    format = (EqualCoreTensorTrain if equal else TensorTrain)(sites, n, 1, r).double().requires_grad_(False)
    format.first[:] = torch.from_numpy(cores[0][:, 0])
    format.interior[:] = torch.from_numpy(np.stack(cores[1 : 2 if equal else -1]))
    format.last[:] = torch.from_numpy(cores[-1])
    certificate = checkpoint_certificate(format, "ab", [P])
    verify(certificate, dict(format.named_parameters()), "ab", sites)
    return certificate


@pytest.mark.parametrize("how", ["random", "a slice zero", "two slices equal", "first of rank one", "last zero",
                                 "one site nilpotent", "a state unused"])  # fmt: skip
@pytest.mark.parametrize("equal", [True, False])
@pytest.mark.parametrize(("mode_size", "rank", "sites"), [case for case in CASES if case[2] <= 10])
def test_the_bound_never_exceeds_the_rank(mode_size, rank, sites, equal, how):
    cores = spoil(random_cores(mode_size, rank, sites, 3, P, equal), how)
    (matrix,) = full_matricizations(cores, P)
    certificate = certified(cores)
    assert certificate["cp_rank_at_least"][0] <= rank_modulo(matrix, P)
    if how == "random":
        assert certificate["absorbed"] > 0 or (mode_size, rank) in NOTHING_GAINED


@pytest.mark.parametrize("equal", [True, False])
@pytest.mark.parametrize(("mode_size", "rank", "sites"), CASES)
def test_the_bound_of_random_cores(mode_size, rank, sites, equal):
    """A and B have full rank: what the formula leaves then, which is more than what the ends alone leave."""
    (n, r), k = (mode_size, rank), sites // 2
    certificate = certified(random_cores(n, r, sites, 0, P, equal), equal)
    absorbed, (e, f) = certificate["absorbed"], certificate["kept"]
    rows = n ** (absorbed + 1)
    assert n**absorbed < r <= rows or ((n, r) in NOTHING_GAINED and absorbed == 0)
    between = n ** (k - 1 - 2 * absorbed)
    (found,) = certificate["cp_rank_at_least"]
    assert found == (e * f * r - max(0, e * r - rows) * f - max(0, f * r - rows) * e) * between
    assert found > (2 * n - r) * n ** (k - 1) - ((n, r) in NOTHING_GAINED)
    assert found * 3 >= n**k * n // r  # rounding costs less than this


def test_many_features_and_more_states():
    """n = 17, r = 32, d = 16: 3.7e9, where the ends alone leave 8.2e8."""
    absorbed, kept = best_ends(17, 17, 32, 16)
    missing = [max(0, e * 32 - 17**2) for e in kept]
    assert bound_from_deficits(17, 32, 5, kept, missing, 0) == 3_693_048_057
    assert absorbed == 1


@pytest.mark.parametrize(
    ("mode_size", "slices", "rank", "sites"),
    [
        *((n, n, r, d) for n, r in ((3, 3), (9, 3), (1, 1), (1, 5)) for d in (2, 3, 6, 7)),
        *((2, 2, 3, d) for d in (2, 3, 4, 5)),  # too few sites
        (3, 1, 4, 12),  # one slice left
        (17, 16, 17, 33),  # nothing is missing: the last site does not count, for odd d
    ],
)
def test_sizes_at_which_the_ends_stay_alone(mode_size, slices, rank, sites):
    assert best_ends(mode_size, slices, rank, sites) == (0, (1, 1))


@pytest.mark.parametrize("sites", [16, 17, 49])
@pytest.mark.parametrize("rank", [18, 32, 100, 200])
def test_ends_are_within_the_limits(rank, sites):
    """What T allows, the ends allow."""
    absorbed, kept = best_ends(17, 17, rank, sites)
    assert 17**absorbed * 17 <= LARGEST_PAIR
    assert max(kept) * rank <= 2 * LARGEST_PAIR
    assert all(1 <= each <= 17 for each in kept)


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
