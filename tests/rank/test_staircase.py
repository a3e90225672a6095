"""The staircase against the literal matricization, exactly, and the witnesses of the proof."""

from collections import Counter
from itertools import combinations, product

import flint
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kinds import restore

from ttlightning import EqualCoreTensorTrain, TensorTrain, UserError
from ttlightning.formats.bounds import generic_odd_even_rank
from ttlightning.rank import witnesses
from ttlightning.rank.certificates.staircase import checkpoint_certificate, generic_certificate
from ttlightning.rank.finite_field import PRIMES, PrimeField, hashed, pivot_columns, rank_modulo
from ttlightning.rank.full_matricization import full_matricizations, measured_rank, random_cores
from ttlightning.rank.staircase import pair_matrix, pairs, state_matrix
from ttlightning.rank.unfolding import matricization

P = PRIMES[0]
multiply = PrimeField(P).multiply


def exact_rank(matrix) -> int:
    """Over the rationals."""
    rows, columns = matrix.shape
    return flint.fmpz_mat(rows, columns, [int(x) for x in matrix.ravel()]).rank()


def determinant(matrix) -> int:
    """Modulo P."""
    return int(flint.nmod_mat(*matrix.shape, [int(x) for x in matrix.ravel()], P).det())


def literal(witness, sites):
    """The matricization of a witness, in Python's integers."""
    states = witness.first.astype(object)
    for _ in range(sites - 2):
        states = np.stack([states @ core for core in witness.interior.astype(object)], 1).reshape(-1, states.shape[1])
    entries = (states @ witness.last.astype(object)).reshape([len(witness.first)] * sites)
    order = [*range(0, sites, 2), *range(1, sites, 2)]
    return entries.transpose(order).reshape(len(witness.first) ** ((sites + 1) // 2), -1)


def open_matricization(interior):
    """P° as the product of its staircase factors: rows (a, i_3, i_5, ..), columns (i_2, i_4, .., c)."""
    r = interior[0].shape[1]
    product, rows, columns = np.eye(r, dtype=np.int64), r, 1  # product: (rows, columns, state)
    for even, odd in zip(interior[::2], interior[1::2], strict=True):
        n, n_following = len(even), len(odd)
        step = pair_matrix(even, odd, multiply).reshape(r, n_following, n * r)  # (b, i), (j, c)
        grown = multiply(product.reshape(rows * columns, r), step.reshape(r, n_following * n * r))
        grown = grown.reshape(rows, columns, n_following, n, r).transpose(0, 2, 1, 3, 4)
        rows, columns = rows * n_following, columns * n
        product = grown.reshape(rows, columns, r)
    return product.reshape(rows, columns * r)


@given(st.integers(1, 5), st.integers(1, 3), st.integers(2, 6), st.booleans(), st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_the_measured_rank_is_the_generic_rank(mode_size, rank, sites, equal, seed):
    assert measured_rank(mode_size, rank, sites, seed, equal) == generic_odd_even_rank(mode_size, rank, sites)


@pytest.mark.parametrize(("mode_size", "rank", "sites"), [(3, 2, 4), (4, 2, 6), (2, 3, 6), (5, 3, 4), (3, 2, 8)])
def test_the_open_matricization_is_the_product_of_the_staircase(mode_size, rank, sites):
    """P° entry by entry, and |det P°| as the product of powers of |det T_m|."""
    interior = [hashed((mode_size, rank, rank), P, "case", k) for k in range(sites - 2)]
    states = np.eye(rank, dtype=np.int64)
    for core in interior:
        states = multiply(states, core.transpose(1, 0, 2).reshape(rank, -1)).reshape(-1, rank)
    order = [*range(0, sites, 2), *range(1, sites, 2)]
    whole = states.reshape([rank, *[mode_size] * (sites - 2), rank]).transpose(order)
    whole = whole.reshape(rank * mode_size ** (sites // 2 - 1), -1)
    assert np.array_equal(open_matricization(interior), whole)

    expected = 1
    for even, odd in pairs(sites):
        step = pair_matrix(interior[even - 2], interior[odd - 2], multiply)
        expected = expected * pow(determinant(step), mode_size ** (sites // 2 - 2), P) % P
    assert determinant(whole) in (expected, P - expected)


@pytest.mark.parametrize(("mode_size", "rank", "sites"), [(3, 2, 3), (3, 2, 5), (5, 2, 5), (2, 3, 7)])
def test_an_odd_open_matricization_ends_in_the_state_matrix(mode_size, rank, sites):
    """P° = (P°_2k x 1_r) (1 x H), entry by entry; of rank n^(k-1) rank H where the T_m are invertible."""
    k = sites // 2
    interior = [hashed((mode_size, rank, rank), P, "odd", site) for site in range(sites - 2)]
    states = np.eye(rank, dtype=np.int64)
    for core in interior:
        states = multiply(states, core.transpose(1, 0, 2).reshape(rank, -1)).reshape(-1, rank)
    order = [*range(0, sites - 1, 2), sites - 1, *range(1, sites, 2)]
    whole = states.reshape([rank, *[mode_size] * (sites - 2), rank]).transpose(order)
    whole = whole.reshape(rank**2 * mode_size ** (k - 1), -1)
    even = open_matricization(interior[:-1]) if k > 1 else np.eye(rank, dtype=np.int64)
    h = state_matrix(interior[-1])
    left = np.kron(even, np.eye(rank, dtype=np.int64))
    right = np.kron(np.eye(mode_size ** (k - 1), dtype=np.int64), h)
    assert np.array_equal(multiply(left, right), whole)
    assert rank_modulo(h, P) == min(mode_size, rank**2)
    if mode_size <= rank**2:
        assert rank_modulo(whole, P) == mode_size**k


@pytest.mark.parametrize(("mode_size", "rank"), [(3, 2), (4, 3), (7, 3)])
def test_dependent_slices_are_dependent_rows_of_the_pair_matrix(mode_size, rank):
    """sum_i x_i G_i = 0 makes sum_i x_i T[(a, i), .] = 0 for every a: rank T <= r (n - 1)."""
    core = hashed((mode_size, rank, rank), P, "dependent")
    x = hashed((mode_size,), P, "relation")
    x[-1] = 1
    core[-1] = -sum(int(number) * each.astype(object) for number, each in zip(x[:-1], core[:-1], strict=True)) % P
    step = pair_matrix(core, core, multiply).reshape(rank, mode_size, -1)
    assert not (np.einsum("i,aij->aj", x.astype(object), step.astype(object)) % P).any()
    assert rank_modulo(step.reshape(rank * mode_size, -1), P) == rank * (mode_size - 1)


@pytest.mark.parametrize(("mode_size", "rank"), [(3, 2), (2, 3), (4, 4)])
def test_the_pair_matrix_is_the_flow_matrix_of_the_bridge_graph(mode_size, rank):
    """T = sum_b M_b x N_b with M_b[a, j] = G_j[a, b] and N_b[i, c] = G'_i[b, c]."""
    core, following = (hashed((mode_size, rank, rank), 101, "bridge", which) for which in (0, 1))
    flow = sum(np.kron(core[:, :, b].T, following[:, b, :]) for b in range(rank))
    assert np.array_equal(flow, pair_matrix(core, following))


def chain(kind, sites, mode_size, rank, classes=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    format = kind(sites, mode_size, classes, rank)
    with torch.no_grad():
        for parameter in format.parameters():  # small integers: float64 counts them exactly
            parameter.copy_(torch.randint(-9, 10, parameter.shape, generator=generator))
    return format.double()


def spoil(format, how):
    with torch.no_grad():
        if how == "a slice zero":
            format.interior[:, 0] = 0
        elif how == "two slices equal":
            format.interior[:, 0] = format.interior[:, -1]
        elif how == "first of rank one":
            format.first.copy_(format.first[:1].expand_as(format.first))
        elif how == "one class zero":
            format.last[..., 0] = 0
        elif how == "one site nilpotent" and len(format.interior):
            format.interior[-1] = 0
            format.interior[-1, :, 0, -1] = 1
    return format


CASES = [(4, 3, 2), (5, 3, 2), (6, 3, 2), (4, 2, 3), (6, 2, 2), (4, 6, 2), (5, 4, 3), (3, 5, 2), (2, 3, 2), (7, 2, 2)]


@pytest.mark.parametrize("how", ["random", "a slice zero", "two slices equal", "first of rank one", "one class zero",
                                 "one site nilpotent"])  # fmt: skip
@pytest.mark.parametrize("kind", [TensorTrain, EqualCoreTensorTrain])
@pytest.mark.parametrize(("sites", "mode_size", "rank"), CASES)
def test_the_certified_rank_never_exceeds_the_literal_one(sites, mode_size, rank, kind, how):
    """Degenerate cores too; and it is the literal one where the cores are random and n >= r."""
    format = spoil(chain(kind, sites, mode_size, rank), how)
    state = {name: p.detach() for name, p in format.named_parameters()}
    bounds = checkpoint_certificate(restore(state, sites), "")["cp_rank_at_least"]
    for bound, matrix in zip(bounds, matricization(format), strict=True):
        true = exact_rank(matrix.detach().numpy())
        assert bound <= true
        if how == "random" and mode_size >= rank:
            assert bound == true


def test_float_weights_have_exact_images():
    generator = torch.Generator().manual_seed(0)
    for dtype in (torch.float32, torch.float64):
        weights = torch.randn(50, generator=generator, dtype=dtype) * 2.0 ** torch.randint(-60, 60, (50,)).to(dtype)
        for prime in (P, 2**61 - 1):
            for value, found in zip(weights.tolist(), PrimeField(prime).residues(weights).tolist(), strict=True):
                numerator, denominator = value.as_integer_ratio()
                assert found * denominator % prime == numerator % prime
    with pytest.raises(UserError, match="not a number"):
        PrimeField(P).residues(torch.tensor([1.0, float("nan")]))


@pytest.mark.parametrize("prime", [3, 2**31 - 1, 2**61 - 1])
def test_products_modulo_a_prime(prime):
    a, b = hashed((7, 30), prime, "a"), hashed((30, 5), prime, "b")
    expected = a.astype(object) @ b.astype(object) % prime
    assert np.array_equal(PrimeField(prime).multiply(a, b).astype(object), expected)
    assert pivot_columns(np.array([[0, 1, 1, 0], [0, 2, 2, 1]]), 5) == [1, 3]


@pytest.mark.parametrize(("mode_size", "rank", "sites"), [(3, 3, 4), (2, 4, 6), (5, 3, 6), (4, 2, 4)])
def test_the_published_witness_is_the_identity(mode_size, rank, sites):
    witness, q = witnesses.published(mode_size, rank), min(mode_size, rank - 1)
    kept = witnesses.Witness(witness.first[:q], witness.interior[:q], witness.last[:, :q])
    assert np.array_equal(literal(kept, sites), np.eye(q ** (sites // 2), dtype=int))


@pytest.mark.parametrize(("mode_size", "sites"), [(2, 6), (3, 4), (3, 6), (4, 4)])
def test_the_star_witness_counts_words(mode_size, sites):
    """1 exactly on concatenations of the letter 1 and pairs aa, a > 1; so the rank is n^(d/2)."""
    matrix = literal(witnesses.star(mode_size), sites)
    entries = matrix.reshape([mode_size] * sites).transpose(np.argsort([*range(0, sites, 2), *range(1, sites, 2)]))

    def splits(word):
        if not word:
            return True
        return splits(word[1:]) if word[0] == 0 else len(word) > 1 and word[1] == word[0] and splits(word[2:])

    assert exact_rank(matrix) == mode_size ** (sites // 2)
    agree = [int(entries[word]) == int(splits(word)) for word in np.ndindex(*entries.shape)]
    assert all(agree)


@pytest.mark.parametrize(("mode_size", "sites"), [(2, 8), (3, 4), (3, 6), (4, 6)])
def test_the_star_witness_is_triangular(mode_size, sites):
    """Rows and columns in the order of the summed positions of their letters > 1: unit diagonal, nothing above it."""
    words = list(np.ndindex(*[mode_size] * (sites // 2)))
    weight = np.array([sum(place for place, letter in enumerate(word, 1) if letter > 0) for word in words])
    matrix = literal(witnesses.star(mode_size), sites)
    assert (np.diag(matrix) == 1).all()
    off = matrix - np.eye(len(words), dtype=int)
    assert off.any()
    assert not off[weight[:, None] <= weight[None, :]].any()


@pytest.mark.parametrize(("rank", "sites"), [(2, 3), (2, 4), (2, 5), (3, 3), (3, 4)])
def test_the_pair_witness_is_a_partial_permutation(rank, sites):
    matrix = literal(witnesses.pair(rank), sites)
    assert set(np.unique(matrix).tolist()) <= {0, 1}
    assert matrix.sum(0).max() <= 1
    assert matrix.sum(1).max() <= 1
    assert matrix.sum() == generic_odd_even_rank(rank**2, rank, sites)


@pytest.mark.parametrize("rank", [2, 3])
def test_the_symmetric_witness(rank):
    mode_size = rank * (rank + 1) // 2
    assert exact_rank(literal(witnesses.symmetric(rank), 4)) == generic_odd_even_rank(mode_size, rank, 4)


@pytest.mark.parametrize("rank", [1, 2, 3, 4, 5])
def test_the_graded_witness_is_invertible_and_block_diagonal(rank):
    """det T is not 0 for any 1 <= n <= r^2, and T falls apart into r blocks of size n."""
    for mode_size in range(1, rank**2 + 1):
        witness = witnesses.graded(mode_size, rank)
        interior = witness.interior % P
        step = pair_matrix(interior, interior, lambda a, b: a.astype(object) @ b.astype(object) % P)
        assert rank_modulo(step, P) == rank * mode_size, (mode_size, rank)
        letters = [h for h, _ in witnesses.graded_slices(mode_size, rank)]
        rows = np.array([(a + letters[i]) % rank for a in range(rank) for i in range(mode_size)])
        columns = np.array([(letters[j] + c) % rank for j in range(mode_size) for c in range(rank)])
        assert not step[rows[:, None] != columns[None, :]].any()
        assert all((rows == g).sum() == mode_size and (columns == g).sum() == mode_size for g in range(rank))
        assert rank_modulo(state_matrix(interior), P) == mode_size


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_the_terms_of_the_determinant_of_the_graded_witness(rank):
    """Items 3 to 5 of the proof: which sets S count, that their monomials differ, and that one of them is given."""
    z = hashed((rank, rank), P, "z").astype(object)
    for mode_size in range(1, rank**2 + 1):
        lengths = [sum(h == x for h, _ in witnesses.graded_slices(mode_size, rank)) for x in range(rank)]
        s = mode_size // rank
        for g in range(rank):
            places = [(a, q) for a in range(rank) for q in range(lengths[(g - a) % rank])]
            given = {(a, (a + step) % rank) for a in range(rank) for step in range(1, s + 1)}
            given |= {(a, a) for a in range(rank) if lengths[(g - a) % rank] == s + 1}
            monomials, chosen = set(), []
            for pairs_of_s in combinations(product(range(rank), repeat=2), mode_size):
                middle = [(g - a - c) % rank for a, c in pairs_of_s]
                along = list(zip(pairs_of_s, middle, strict=True))
                left = [[(a == at) * z[b, c] * b**q for (a, c), b in along] for at, q in places]
                right = [[(c == at) * z[a, b] * a**q for at, q in places] for (a, c), b in along]
                term = determinant(np.array(left) % P) * determinant(np.array(right) % P)
                counts = all(
                    sum(pair[side] == x for pair in pairs_of_s) == lengths[(g - x) % rank]
                    for side, x in product((0, 1), range(rank))
                )
                assert bool(term) == counts
                if counts:
                    exponents = Counter([(a, b) for (a, _), b in along] + [(b, c) for (_, c), b in along])
                    monomials.add(frozenset(exponents.items()))
                    chosen.append(set(pairs_of_s))
            assert len(monomials) == len(chosen)
            assert given in chosen


ALL_SIZES = [(1, 2), (2, 1), (2, 3), (2, 4), (3, 2), (3, 4), (4, 2), (5, 2), (6, 2)]


@pytest.mark.parametrize(
    ("mode_size", "rank", "sites"), [(n, r, d) for n, r in ALL_SIZES for d in range(2, 8) if n**d <= 2**14]
)
def test_the_witness_of_the_theorem_with_its_ends(mode_size, rank, sites):
    """n < r: the states beyond n are zero; n > r^2: the features beyond r^2 are. T is singular, P keeps its rank."""
    states = min(mode_size, rank)
    features = min(mode_size, states**2)
    core = witnesses.graded(features, states)
    witness = witnesses.padded(core, mode_size, rank)
    assert np.array_equal(witness.first[: min(features, states)], np.eye(states, rank, dtype=int))
    assert np.array_equal(witness.first, witness.last.T)
    assert exact_rank(literal(witness, sites)) == generic_odd_even_rank(mode_size, rank, sites)
    interior = witness.interior.astype(object) % P
    step = pair_matrix(interior, interior, lambda a, b: a @ b % P)
    full = rank <= mode_size <= rank**2
    assert (rank_modulo(step, P) == rank * mode_size) is full


def test_powers_of_two_can_fail_as_weights_of_the_graded_witness():
    powers = np.array([[2 ** (3 * x + y) for y in range(3)] for x in range(3)], dtype=object)
    interior = witnesses.graded(2, 3, powers).interior
    assert exact_rank(pair_matrix(interior, interior)) == 5


def test_kronecker_products_of_witnesses_are_witnesses():
    product = witnesses.kronecker(witnesses.star(2), witnesses.published(2, 3))
    ranks = [exact_rank(literal(w, 4)) for w in (product, witnesses.star(2), witnesses.published(2, 3))]
    assert ranks[0] == ranks[1] * ranks[2]


def test_witnesses_are_formats():
    """The format's own matricization is that of the integers, also with modes and states of zeros around it."""
    for witness in (witnesses.published(3, 3), witnesses.star(3), witnesses.pair(2)):
        found = matricization(witnesses.as_format(witness, 4))[0].detach().numpy()
        assert np.array_equal(found, literal(witness, 4).astype(float))
        larger = witnesses.padded(witness, len(witness.first) + 1, witness.first.shape[1] + 2)
        assert exact_rank(literal(larger, 4)) == exact_rank(literal(witness, 4))


def test_sizes_that_have_no_witness():
    with pytest.raises(UserError, match="rank 2 or more"):
        witnesses.published(3, 1)
    with pytest.raises(UserError, match="mode_size <= rank"):
        witnesses.graded(5, 2)


@pytest.mark.parametrize("sites", [2, 3, 4, 5, 8, 9])
@pytest.mark.parametrize(("mode_size", "rank"), [(1, 1), (2, 3), (3, 2), (5, 2), (4, 4)])
def test_generic_certificates_reach_the_generic_rank(mode_size, rank, sites):
    certificate = generic_certificate(mode_size, rank, sites)
    assert certificate["cp_rank_at_least"] == [generic_odd_even_rank(mode_size, rank, sites)]


def test_full_matricizations_are_those_of_the_format():
    cores = random_cores(3, 2, 5, 0, 5)
    (found,) = full_matricizations(cores, 5)
    format = TensorTrain(5, 3, 1, 2).double()
    with torch.no_grad():
        format.first.copy_(torch.from_numpy(cores[0][:, 0]))
        format.interior.copy_(torch.from_numpy(np.stack(cores[1:-1])))
        format.last.copy_(torch.from_numpy(cores[-1]))
    assert np.array_equal(found, matricization(format)[0].detach().numpy().round().astype(int) % 5)
