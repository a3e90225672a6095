"""The verifier's own arithmetic modulo p. It shares no code with ``finite_field.py``, which makes the certificates.

Weights become residues by Python's exact fractions. Sums are computed by their definition. Ranks come from a plain
Gaussian elimination, on NumPy's 64-bit integers for p < 2^31 and on Python's integers for larger primes.
"""

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

Rows = list[list[int]]
Slices = list[Rows]


def times(matrix: NDArray[np.int64], points: NDArray[np.int64], p: int) -> NDArray[np.int64]:
    """points x matrix^T mod p, one term of the sums after the other."""
    sums = np.zeros((len(points), len(matrix)), dtype=np.int64)
    for index in range(matrix.shape[1]):
        sums += points[:, index, None] * matrix[None, :, index] % p
    return sums % p


def pair_matrix(even: Slices, odd: Slices, p: int) -> Rows:
    """T[(a, i), (j, c)] = sum over b of even_j[a][b] odd_i[b][c]."""
    r = len(even[0])
    columns = [[[each[b][c] for b in range(r)] for c in range(r)] for each in odd]
    return [
        [sum(map(int.__mul__, even[j][a], columns[i][c])) % p for j in range(len(even)) for c in range(r)]
        for a in range(r)
        for i in range(len(odd))
    ]


def staircase_ranks(
    interior: Sequence[Slices],
    sites: int,
    first: Rows,
    last: Sequence[Rows],
    p: int,
    absorbed: int = 0,
    kept: tuple[int, int] = (1, 1),
) -> dict[str, Any]:
    """Ranks of T_m, H, F and every L_y; equal matrices are counted once.

    With ``absorbed`` pairs of sites in each end, the ranks of A and every B_y in place of F and L_y; no H.
    """
    known: dict[tuple[int, int], int] = {}
    pairs = []
    for m in range(1 + absorbed, sites // 2 - absorbed):
        even, odd = interior[2 * m - 2], interior[2 * m - 1]
        key = id(even), id(odd)
        if key not in known:
            known[key] = rank_modulo(pair_matrix(even, odd, p), p)
        pairs.append(known[key])
    state = None
    if absorbed:
        first = _end(first, interior, absorbed, kept[0], p)
        chain = [_transposed(core) for core in interior[::-1]]
        starts = [_turned(each) for each in last]
        if sites % 2:
            starts = [_summed(chain[0], each, p) for each in starts]
            chain = chain[1:]
        last = [_end(each, chain, absorbed, kept[1], p) for each in starts]
    elif sites % 2:
        core = interior[-1]
        state = rank_modulo([[entry for row in each for entry in row] for each in core], p)  # H transposed
    return {
        "pairs": pairs,
        "state": state,
        "first": rank_modulo(first, p),
        "last": [rank_modulo(each, p) for each in last],
    }


def _end(start: Rows, chain: Sequence[Slices], pairs: int, kept: int, p: int) -> Rows:
    """A[(i_1, i_3, ...), (j, b)]: every row times a slice of the even site, then times one of the odd site.

    Of the even sites the first slice counts, of the last of them the first ``kept``.
    """
    rows = start
    for pair in range(pairs):
        even, odd = chain[2 * pair], chain[2 * pair + 1]
        chosen = even[: kept if pair == pairs - 1 else 1]
        inner = [[_row_times(row, each, p) for each in chosen] for row in rows]
        rows = [[x for row in those for x in _row_times(row, each, p)] for those in inner for each in odd]
    return rows


def _row_times(row: list[int], matrix: Rows, p: int) -> list[int]:
    return [sum(map(int.__mul__, row, column)) % p for column in zip(*matrix, strict=True)]


def _summed(turned: Slices, start: Rows, p: int) -> Rows:
    """The rows of the site before the last: each slice times the sum of the last core over its index."""
    total = [sum(column) % p for column in zip(*start, strict=True)]
    return [_row_times(total, each, p) for each in turned]


def _transposed(core: Slices) -> Slices:
    return [_turned(each) for each in core]


def _turned(matrix: Rows) -> Rows:
    return [list(column) for column in zip(*matrix, strict=True)]


def rank_modulo(matrix: Rows | NDArray[Any], p: int) -> int:
    """Rank over F_p by Gaussian elimination, on 64-bit integers if p < 2^31, else on Python's integers."""
    rest, rank = np.array(matrix, dtype=np.int64 if p < 2**31 else object, ndmin=2), 0
    for column in range(rest.shape[1]):
        candidates = np.flatnonzero(rest[rank:, column])
        if len(candidates) == 0:
            continue
        pivot = rank + int(candidates[0])
        rest[[rank, pivot]] = rest[[pivot, rank]]
        tail = rest[rank, column:] * pow(int(rest[rank, column]), -1, p) % p
        below = rest[rank + 1 :, column:]
        for start in range(0, len(below), 256):  # 256 rows stay in the cache
            piece = below[start : start + 256]
            piece[:] = (piece - piece[:, :1] * tail) % p
        rank += 1
        if rank == len(rest):
            break
    return rank


def is_prime(number: int) -> bool:
    """The test of Miller and Rabin; these bases decide every number below 2^64."""
    if number < 2 or number % 2 == 0:
        return number == 2
    odd, twos = number - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for base in (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37):
        if base % number == 0:
            continue
        power = pow(base, odd, number)
        if power in (1, number - 1):
            continue
        for _ in range(twos - 1):
            power = power * power % number
            if power == number - 1:
                break
        else:
            return False
    return True


def residue(value: float, p: int) -> int:
    numerator, denominator = value.as_integer_ratio()
    return numerator * pow(denominator, -1, p) % p


def matrix(weights: "Tensor", p: int) -> Rows:
    return [[residue(value, p) for value in row] for row in weights.tolist()]


def hashed(rows: int, columns: int, p: int, label: str, start: int = 0) -> Rows:
    def draw(index: int) -> int:
        return int(hashlib.sha256(f"{label}/{index}".encode()).hexdigest()[:32], 16) % p

    return [[draw(start + row * columns + column) for column in range(columns)] for row in range(rows)]


def hashed_core(mode_size: int, rank: int, p: int, label: str) -> Slices:
    return [hashed(rank, rank, p, label, mode * rank * rank) for mode in range(mode_size)]


def sum_modes(vectors: Rows, slices: Slices, p: int) -> Slices:
    """For every feature vector v, the sum of v_i times slice i."""
    rows, columns = len(slices[0]), len(slices[0][0])
    return [
        [
            [sum(v * s[a][b] for v, s in zip(vector, slices, strict=True)) % p for b in range(columns)]
            for a in range(rows)
        ]
        for vector in vectors
    ]
