r"""Exact arithmetic modulo a prime: where a rank is counted instead of estimated.

    rank over F_p of (A mod p)  <=  rank over Q of A          for A over Z[1/2], p an odd prime

because a minor that is not 0 mod p is not 0. A float32 or float64 weight is m 2^e with integers m and e, so it has an
exact image m 2^e mod p, and the rank of the image is a lower bound without any tolerance. Matrices are python-flint's
``nmod_mat``; for the large ones with p < 2^31 a product of two residues fits an int64, and the sums go through float64
matrix products in halves of 16 bits, which are exact below 2^53.
"""

import hashlib
from collections.abc import Sequence
from typing import Any, Final

import flint
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ttlightning.errors import UserError

Residues = NDArray[Any]
"""Numbers 0 <= x < p: Python integers in an object array, or int64 where p < 2^31."""

PRIMES: Final = (2**61 - 1, 2**61 - 31)
SMALL_PRIMES: Final = (2**31 - 1, 2**31 - 19)


def residues(weights: Tensor, prime: int) -> Residues:
    """The exact images of float32 or float64 weights, in an object array of the same shape.

    Raises:
        UserError: where a weight is not finite.
    """
    values = weights.detach().cpu().double().numpy()
    if not np.isfinite(values).all():
        raise UserError("a weight is infinite or not a number: there is no rank to certify")
    fraction, exponent = np.frexp(values)
    mantissa = np.ldexp(fraction, 53).astype(np.int64)
    powers = {int(e): pow(2, int(e) - 53, prime) for e in np.unique(exponent)}
    pairs = zip(mantissa.ravel().tolist(), exponent.ravel().tolist(), strict=True)  # Python's integers do not overflow
    return _shaped([m * powers[e] % prime for m, e in pairs], values.shape)


def hashed(shape: Sequence[int], prime: int, *key: object) -> Residues:
    """Residues that a key determines: SHA-256 of ``key/index``, its first 16 bytes as an integer, mod p."""
    size = int(np.prod(shape))
    label = "/".join(map(str, key))
    digests = (hashlib.sha256(f"{label}/{index}".encode()).digest() for index in range(size))
    return _shaped([int.from_bytes(digest[:16], "big") % prime for digest in digests], shape)


def rank_modulo(matrix: Residues, prime: int) -> int:
    """Rank over F_p of a matrix of residues."""
    rows, columns = matrix.shape
    return int(flint.nmod_mat(rows, columns, matrix.ravel().tolist(), prime).rank())


def pivot_columns(matrix: Residues, prime: int) -> list[int]:
    """The columns that are independent of those before them."""
    rows, columns = matrix.shape
    reduced, rank = flint.nmod_mat(rows, columns, matrix.ravel().tolist(), prime).rref()
    pivots: list[int] = []
    for row in range(rank):
        start = pivots[-1] + 1 if pivots else 0
        pivots.append(next(c for c in range(start, columns) if int(reduced[row, c])))
    return pivots


def multiply(left: Residues, right: Residues, prime: int) -> Residues:
    """Matrix product over F_p, any prime below 2^64."""
    (rows, inner), columns = left.shape, right.shape[1]
    product = flint.nmod_mat(rows, inner, left.ravel().tolist(), prime) * flint.nmod_mat(
        inner, columns, right.ravel().tolist(), prime
    )
    return _shaped([int(x) for x in product.entries()], (rows, columns))


def multiply_small(left: Residues, right: Residues, prime: int) -> Residues:
    """Matrix product over F_p, p < 2^31, of int64 arrays: four float64 products of 16-bit halves, each exact."""
    if prime >= 2**31 or left.shape[1] > 2**20:
        raise ValueError(f"needs p < 2^31 and at most 2^20 columns, got {prime} and {left.shape[1]}")
    (a1, a0), (b1, b0) = (np.divmod(x, 1 << 16) for x in (left, right))
    a1, a0, b1, b0 = (x.astype(np.float64) for x in (a1, a0, b1, b0))
    high = (a1 @ b1).astype(np.int64) % prime
    middle = (a1 @ b0 + a0 @ b1).astype(np.int64) % prime
    low = (a0 @ b0).astype(np.int64) % prime
    return (((high << 16) + middle) % prime * (1 << 16) + low) % prime


def _shaped(values: list[int], shape: Sequence[int]) -> Residues:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array.reshape(tuple(shape))
