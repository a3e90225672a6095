r"""The staircase: the rank of a complete odd/even matricization from a few matrices of size r n.

With the interior cores G^(k) of the sites k = 2 .. d-1, and states a, c,

    T_m[(a, i), (j, c)] = (G^(2m)_j G^(2m+1)_i)[a, c]              m = 1 .. k-1,   d = 2k or 2k + 1.

Let P° be the odd/even matricization of the interior cores alone: its first and its last index is a state. Neighbouring
pairs of sites share only the state b_m. So P° is a product of k - 1 factors, each a T_m that acts on a state and one
pair of indices, and as the identity on the other n^(k-2):

    d = 2k:      |det P°| = prod_m |det T_m|^(n^(k-2)),     P° of size r n^(k-1)
    d = 2k + 1:  P° = (P°_2k (x) 1_r) (1 (x) H),            H[(b, c), i] = G^(2k)_i[b, c]

so P° has full rank if and only if every T_m (and H) has. Otherwise Sylvester's inequality gives a lower bound, see
``rank_from_deficits``. The proof is in docs/theorem.md.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[Any]


def pair_matrix(core: Matrix, following: Matrix, multiply: Callable[[Matrix, Matrix], Matrix] = np.matmul) -> Matrix:
    """T[(a, i), (j, c)] = (core_j following_i)[a, c] from two cores (n, r, r) and (n', r, r): a matrix (r n', n r).

    ``multiply`` is the matrix product of the numbers in use: floats, integers, or residues.
    """
    (n, r, _), n_following = core.shape, len(following)
    product = multiply(core.reshape(n * r, r), following.transpose(1, 0, 2).reshape(r, n_following * r))
    return product.reshape(n, r, n_following, r).transpose(1, 2, 0, 3).reshape(r * n_following, n * r)


def state_matrix(core: Matrix) -> Matrix:
    """H[(b, c), i] = core_i[b, c] from a core (n, r, r): a matrix (r^2, n)."""
    return core.reshape(len(core), -1).T


def pairs(sites: int) -> list[tuple[int, int]]:
    """The sites (2m, 2m + 1) of T_m, counted from 1, for m = 1 .. k-1."""
    return [(2 * m, 2 * m + 1) for m in range(1, sites // 2)]


def rank_from_deficits(
    mode_size: int, rank: int, sites: int, pair_ranks: Sequence[int], state_rank: int | None, first: int, last: int
) -> int:
    r"""A lower bound on the rank of the odd/even matricization from the ranks of T_m, H, F and L (Sylvester).

    d = 2k:      r n^(k-1) - sum_m (r n - rank T_m) n^(k-2) - (r - rank F) n^(k-1) - (r - rank L) n^(k-1)
    d = 2k + 1:  n^(k-1) rank H - r sum_m (r n - rank T_m) n^(k-2) - (r^2 - rank F rank L) n^(k-1)

    Args:
        mode_size: n, the slices of the interior cores that take part.
        rank: r.
        sites: d.
        pair_ranks: rank T_m for m = 1 .. k-1.
        state_rank: rank H, for odd d.
        first, last: ranks of the end cores F (n x r) and L_y (r x n).
    """
    k = sites // 2
    points = mode_size ** (k - 1)
    missing = sum(rank * mode_size - pair for pair in pair_ranks) * mode_size ** (k - 2) if k > 1 else 0
    if sites % 2:
        assert state_rank is not None
        bound = points * state_rank - rank * missing - (rank**2 - first * last) * points
    else:
        bound = points * rank - missing - (2 * rank - first - last) * points
    return max(0, bound)
