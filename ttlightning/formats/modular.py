r"""Scores modulo a prime on a grid of features, in exact arithmetic, without torch.

Site s has a few feature vectors v_s1, v_s2, ... over F_p. The grid has one point for every choice of a vector at each
site:

    S_y[j_1, j_2, ..., j_d] = score_y(v_1j_1, v_2j_2, ..., v_dj_d)  mod p

A format computes S_y in ``ScoreTensor.exact_scores``. The arithmetic is an argument, a ``Field``.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

Residues = NDArray[Any]
"""Numbers 0 <= x < p: int64 if p < 2^31, else Python integers in an object array."""

ENTRIES_AT_ONCE: Final = 1 << 20
"""Scores computed at once: 64 bits or more for a score while it is computed, 32 bits afterwards."""


class Field(Protocol):
    """Exact arithmetic modulo a prime p < 2^31. Entrywise, ``a * b % field.prime`` does not overflow."""

    @property
    def prime(self) -> int:
        """p."""

    def residues(self, weights: "Tensor") -> Residues:
        """The exact image mod p of every weight m 2^e, in the same shape; ``UserError`` if one is not finite."""

    def multiply(self, left: Residues, right: Residues) -> Residues:
        """Matrix product (rows, inner) x (inner, columns)."""


def chain_scores(cores: Sequence[Residues], field: Field) -> Residues:
    """Every entry of a tensor train, (classes, n_1 ... n_d) in int32, the last index fastest.

    Args:
        cores: (n_k, r_{k-1}, r_k) with r_0 = 1 and r_d = classes.
        field: F_p, p < 2^31.
    """
    sizes, half = [len(core) for core in cores], len(cores) // 2
    entries = np.empty((cores[-1].shape[2], int(np.prod(sizes))), dtype=np.int32)
    states, done = extend_states(cores[0][:, 0, :], cores[1:half], field), 0
    for piece in np.array_split(states, max(1, len(states) // 64)):  # memory: the right half has many more states
        scores = extend_states(piece, cores[half:], field)
        entries[:, done : done + len(scores)] = scores.T
        done += len(scores)
    return entries


def extend_states(states: Residues, cores: Sequence[Residues], field: Field) -> Residues:
    """Carry the states (points, r_{k-1}) of a chain through the cores (n_k, r_{k-1}, r_k): (points * n_k ..., r_k)."""
    for core in cores:
        mode_size, left, right = core.shape
        states = field.multiply(states, core.transpose(1, 0, 2).reshape(left, mode_size * right)).reshape(-1, right)
    return states


def multiply_in_pieces(left: Residues, right: Residues, field: Field) -> Residues:
    """left x right as int32, ``ENTRIES_AT_ONCE`` entries at a time."""
    entries = np.empty((len(left), right.shape[1]), dtype=np.int32)
    step = max(1, ENTRIES_AT_ONCE // right.shape[1])
    for start in range(0, len(left), step):
        entries[start : start + step] = field.multiply(left[start : start + step], right)
    return entries


def odd_even_matrix(scores: Residues, counts: Sequence[int]) -> Residues:
    """The scores of a grid with ``counts`` vectors at the sites as a matrix: odd sites are rows, even sites columns."""
    sizes, order = _choosing(counts)
    return scores.reshape(sizes).transpose(order).reshape(int(np.prod(counts[0::2])), -1)


def in_order_of_sites(matrix: Residues, counts: Sequence[int]) -> Residues:
    """The inverse of ``odd_even_matrix``: the scores in one dimension, the last site fastest."""
    sizes, order = _choosing(counts)
    return matrix.reshape([sizes[axis] for axis in order]).transpose(np.argsort(order)).reshape(-1)


def _choosing(counts: Sequence[int]) -> tuple[list[int], list[int]]:
    """Sizes of the sites with more than one vector (NumPy has 64 axes at most), and their axes, odd sites first."""
    sites = [site for site, count in enumerate(counts) if count > 1]
    return [counts[site] for site in sites], sorted(range(len(sites)), key=lambda axis: sites[axis] % 2)
