r"""A staircase for n < r: the ends take neighbouring sites in until they have rank r.

With n < r the end cores F (n x r) and L (r x n) have rank n, and Sylvester's inequality leaves (2n - r) n^(k-1) of the
n^k: nothing if r >= 2n. Take m with n^(m-1) < r <= n^m. The first end becomes a matrix of the sites 1 .. 2m-1,

    A[(i_1, i_3, .., i_{2m-1}), (j, b)] = (F[i_1] G_1 G_{i_3} .. G_j G_{i_{2m-1}})[b],        j = 1 .. e,

where the even sites before the last keep their first slice, and that one keeps e slices. The last end becomes B, the
same seen from the right, with f slices. Each of e and f is n^m / r, rounded. With K = k-2m+1 staircase matrices T
between the ends, d = 2k >= 4m - 2,

    rank P >= e f r n^K - (e r - rank A) f n^K - (f r - rank B) e n^K - e f sum_T (r n - rank T) n^(K-1),

about (n / r) n^k where A, B and T have full rank. At m = 1 it is the bound of ``staircase.py``. The argument is in
docs/theorem.md, step 2.
"""

from collections.abc import Sequence
from itertools import product

from ttlightning.errors import UserError
from ttlightning.formats.modular import Residues
from ttlightning.rank.finite_field import PRIMES, PrimeField, rank_modulo
from ttlightning.rank.staircase import pair_matrix


def absorbed_bound(cores: Sequence[Residues], prime: int = PRIMES[0]) -> int:
    """A lower bound on the rank of the odd/even matricization of one tensor train with an even number of sites.

    Args:
        cores: (n, r_{k-1}, r_k) for each site modulo ``prime``, r_0 = r_d = 1 and all other r_k = r.
        prime: the ranks are counted modulo it.

    Raises:
        UserError: if the number of sites is odd or below 4m - 2, or if n = 1 < r.
    """
    first, last = cores[0][:, 0, :], cores[-1][:, :, 0]
    (n, r), sites, field = first.shape, len(cores), PrimeField(prime)
    taken = absorbed_pairs(n, r)
    between = sites // 2 - 1 - 2 * taken
    if sites % 2 or between < 0:
        least = 4 * taken + 2
        raise UserError(
            f"at mode size {n} and rank {r} the number of sites must be even and {least} or more, got {sites}"
        )
    kept = kept_slices(n, r)
    mirrored = [core.transpose(0, 2, 1) for core in cores[::-1]]
    of_ends = [
        e * r - rank_modulo(absorbed_end(end, chain[1 : 2 * taken + 1], e, field), prime)
        for end, chain, e in ((first, cores, kept[0]), (last, mirrored, kept[1]))
    ]
    known: dict[tuple[int, int], int] = {}  # equal cores have one T
    of_pairs = 0
    for site in range(2 * taken + 1, 2 * (taken + between) + 1, 2):
        both = cores[site], cores[site + 1]
        key = id(both[0]), id(both[1])
        if key not in known:
            known[key] = r * n - rank_modulo(pair_matrix(*both, field.multiply), prime)
        of_pairs += known[key]
    return bound_from_deficits(n, r, between, kept, of_ends, of_pairs)


def absorbed_end(end: Residues, cores: Sequence[Residues], columns: int, field: PrimeField) -> Residues:
    """A, (n^m, e r), from F (n, r), the cores (n, r, r) of the sites 2 .. 2m-1 and e = ``columns``; F if m = 1."""
    rows, pairs = end, len(cores) // 2
    for pair in range(pairs):
        even, odd = cores[2 * pair : 2 * pair + 2]
        step = pair_matrix(even[: columns if pair == pairs - 1 else 1], odd, field.multiply)
        rows = field.multiply(rows, step.reshape(rows.shape[1], -1)).reshape(len(rows) * len(odd), -1)
    return rows


def absorbed_pairs(mode_size: int, rank: int) -> int:
    """m - 1, the pairs of sites that an end takes in: the least m with n^m >= r; ``UserError`` if n = 1 < r."""
    if mode_size == 1 < rank:
        raise UserError(f"ends of mode size 1 have rank 1, never {rank}")
    pairs = 0
    while mode_size ** (pairs + 1) < rank:
        pairs += 1
    return pairs


def kept_slices(mode_size: int, rank: int) -> tuple[int, int]:
    """e and f, n^m / r rounded down or up, whichever leaves more where A and B have full rank; 1 and 1 at m = 1."""
    pairs = absorbed_pairs(mode_size, rank)
    if pairs == 0:
        return 1, 1
    rows = mode_size ** (pairs + 1)
    down, up = rows // rank, -(-rows // rank)

    def left(kept: tuple[int, int]) -> int:
        return bound_from_deficits(mode_size, rank, 0, kept, [max(0, e * rank - rows) for e in kept], 0)

    return max(product((down, up), repeat=2), key=left)


def bound_from_deficits(
    mode_size: int, rank: int, between: int, kept: tuple[int, int], of_ends: Sequence[int], of_pairs: int
) -> int:
    """The bound from K = ``between``, (e, f) = ``kept``, (e r - rank A, f r - rank B) and sum_T (r n - rank T)."""
    (e, f), points = kept, mode_size**between
    bound = e * f * rank * points - of_ends[0] * f * points - of_ends[1] * e * points
    if between:
        bound -= e * f * of_pairs * mode_size ** (between - 1)
    return max(0, bound)
