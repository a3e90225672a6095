r"""A staircase for n < r: the ends take neighbouring sites in until they have rank r.

With n < r the end cores F (n x r) and L (r x n) have rank n, and Sylvester's inequality leaves (2n - r) n^(k-1) of the
n^k: nothing if r >= 2n. Take m with n^(m-1) < r <= n^m. The first end becomes a matrix of the sites 1 .. 2m-1,

    A[(i_1, i_3, .., i_{2m-1}), (j, b)] = (F[i_1] G_1 G_{i_3} .. G_j G_{i_{2m-1}})[b],        j = 1 .. e,

where the even sites before the last keep their first slice, and that one keeps e slices. The last end becomes B, the
same seen from the right, with f slices. Each of e and f is n^m / r, rounded. With K = k-2m+1 staircase matrices T
between the ends, d = 2k >= 4m - 2,

    rank P >= e f r n^K - (e r - rank A) f n^K - (f r - rank B) e n^K - e f sum_T (r n - rank T) n^(K-1),

about (n / r) n^k where A, B and T have full rank. At m = 1 it is the bound of ``staircase.py``. The argument is in
docs/theorem.md, step 2. For odd d the last site is summed over its index first, which takes it away.

Where a chain's interior cores keep s of their slices, s stands for n but at the end cores: the first has n rows, so A
has n s^(m-1); so has B, and s^m for odd d.
"""

from collections.abc import Sequence
from itertools import product
from typing import Final

from ttlightning.formats.modular import Residues
from ttlightning.rank.finite_field import PrimeField
from ttlightning.rank.staircase import pair_matrix, rank_from_deficits

Kept = tuple[int, int]
"""e and f."""
ENDS_ALONE: Final[tuple[int, Kept]] = (0, (1, 1))


def best_ends(mode_size: int, slices: int, rank: int, sites: int) -> tuple[int, Kept]:
    """m - 1 and (e, f) of the best bound where all matrices have full rank; 0 and (1, 1) stand for ``staircase.py``.

    Args:
        mode_size: n of the end cores.
        slices: s of the interior cores.
        rank: r.
        sites: d.
    """
    rows = (mode_size, slices if sites % 2 else mode_size)
    pairs, between = 0, sites // 2 - 1
    while slices > 1 and slices**pairs * min(rows) < rank:
        pairs, between = pairs + 1, between - 2
    if pairs == 0 or between < 0:
        return ENDS_ALONE
    ends = [slices**pairs * each for each in rows]
    choices = [(min(end // rank, slices), min(-(-end // rank), slices)) for end in ends]

    def left(kept: Kept) -> int:
        missing = [max(0, e * rank - end) for e, end in zip(kept, ends, strict=True)]
        return bound_from_deficits(slices, rank, between, kept, missing, 0)

    best = max(product(*choices), key=left)
    end, full = min(mode_size, rank), [slices * rank] * (sites // 2 - 1)
    alone = rank_from_deficits(slices, rank, sites, full, min(slices, rank**2), end, end)
    return (pairs, best) if left(best) > alone else ENDS_ALONE


def absorbed_end(end: Residues, cores: Sequence[Residues], columns: int, field: PrimeField) -> Residues:
    """A, (n s^(m-1), e r), from F (n, r), the cores (s, r, r) of the sites 2 .. 2m-1 and e = ``columns``."""
    rows, pairs = end, len(cores) // 2
    for pair in range(pairs):
        even, odd = cores[2 * pair : 2 * pair + 2]
        step = pair_matrix(even[: columns if pair == pairs - 1 else 1], odd, field.multiply)
        rows = field.multiply(rows, step.reshape(rows.shape[1], -1)).reshape(len(rows) * len(odd), -1)
    return rows


def bound_from_deficits(slices: int, rank: int, between: int, kept: Kept, of_ends: Sequence[int], of_pairs: int) -> int:
    """The bound from K = ``between``, (e, f) = ``kept``, (e r - rank A, f r - rank B) and sum_T (r s - rank T)."""
    (e, f), points = kept, slices**between
    bound = e * f * rank * points - of_ends[0] * f * points - of_ends[1] * e * points
    if between:
        bound -= e * f * of_pairs * slices ** (between - 1)
    return max(0, bound)
