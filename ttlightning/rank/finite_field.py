r"""Exact arithmetic modulo a prime, in which ranks are counted instead of estimated.

    rank over F_p of (A mod p)  <=  rank over Q of A          for A over Z[1/2], p an odd prime

because a minor that is not 0 mod p is not 0. A floating-point weight is m 2^e with integers m and e, so it has an exact
image mod p, and the rank of the image is a lower bound without any tolerance. Ranks are computed by python-flint
(``nmod_mat``). For p < 2^31 residues are int64, and a product of matrices is four float64 products of 16-bit halves,
exact below 2^53. For larger primes residues are Python integers, and python-flint multiplies too.
"""

import hashlib
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import flint
import numpy as np

from ttlightning.formats.modular import Residues
from ttlightning.rank.limits import SMALL_PRIME, refuse, unfit

if TYPE_CHECKING:
    from torch import Tensor

PRIMES: Final = (2**31 - 1, 2**31 - 19)
"""One prime misses a rank about once in 10^6 tries, both together less than once in 10^12; none invents one."""


@dataclass(frozen=True)
class PrimeField:
    """F_p as the ``Field`` that a format takes as an argument, for any prime below 2^64."""

    prime: int

    def residues(self, weights: "Tensor") -> Residues:
        """The exact images of weights of any type in ``limits.WEIGHT_TYPES``.

        Raises:
            UserError: if they are of another type, or not finite.
        """
        refuse(unfit({"": weights}))
        values, number = weights.detach().cpu().double().numpy(), _number(self.prime)
        fraction, exponent = np.frexp(values)
        mantissa = np.ldexp(fraction, 53).astype(np.int64).astype(number)
        distinct, which = np.unique(exponent, return_inverse=True)
        powers: Residues = np.array([pow(2, int(e) - 53, self.prime) for e in distinct], dtype=number)
        return mantissa % self.prime * powers[which.reshape(values.shape)] % self.prime

    def multiply(self, left: Residues, right: Residues) -> Residues:
        """Matrix product (rows, inner) x (inner, columns)."""
        p = self.prime
        if p >= SMALL_PRIME or left.shape[1] > 2**20:
            product = _flint(left, p) * _flint(right, p)
            return _shaped([int(x) for x in product.entries()], (len(left), right.shape[1]), p)
        (a1, a0), (b1, b0) = (np.divmod(x.astype(np.int64, copy=False), 1 << 16) for x in (left, right))
        a1, a0, b1, b0 = (x.astype(np.float64) for x in (a1, a0, b1, b0))
        high = (a1 @ b1).astype(np.int64) % p
        middle = (a1 @ b0 + a0 @ b1).astype(np.int64) % p
        low = (a0 @ b0).astype(np.int64) % p
        return (((high << 16) + middle) % p * (1 << 16) + low) % p


def hashed(shape: Sequence[int], prime: int, *key: object) -> Residues:
    """Residues that a key determines: the first 16 bytes of the SHA-256 of ``key/index`` as an integer, mod p."""
    size = int(np.prod(shape))
    label = "/".join(map(str, key))
    digests = (hashlib.sha256(f"{label}/{index}".encode()).digest() for index in range(size))
    return _shaped([int.from_bytes(digest[:16], "big") % prime for digest in digests], shape, prime)


def rank_modulo(matrix: Residues, prime: int) -> int:
    """Rank over F_p of a matrix of residues."""
    return int(_flint(matrix, prime).rank())


def ranks_modulo(matrices: Sequence[Residues], prime: int, workers: int = 1) -> list[int]:
    """Ranks of several matrices, in up to ``workers`` processes."""
    workers = min(workers, len(matrices))
    if workers < 2:
        return [rank_modulo(matrix, prime) for matrix in matrices]
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        return list(pool.map(rank_modulo, matrices, [prime] * len(matrices)))


def pivot_columns(matrix: Residues, prime: int) -> list[int]:
    """The columns that are linearly independent of the columns to their left."""
    columns = matrix.shape[1]
    reduced, rank = _flint(matrix, prime).rref()
    pivots: list[int] = []
    for row in range(rank):
        start = pivots[-1] + 1 if pivots else 0
        pivots.append(next(c for c in range(start, columns) if int(reduced[row, c])))
    return pivots


def _flint(matrix: Residues, prime: int) -> flint.nmod_mat:
    rows, columns = matrix.shape
    if matrix.size < 2**20:
        return flint.nmod_mat(rows, columns, matrix.ravel().tolist(), prime)
    copy = flint.nmod_mat(rows, columns, prime)
    for i, row in enumerate(matrix):  # a list of all entries would be five times the matrix
        for j, entry in enumerate(row.tolist()):
            copy[i, j] = entry
    return copy


def _shaped(values: list[int], shape: Sequence[int], prime: int) -> Residues:
    return np.array(values, dtype=_number(prime)).reshape(tuple(shape))


def _number(prime: int) -> type:
    """The type of residues: a product of two must not overflow."""
    return np.int64 if prime < SMALL_PRIME else object
