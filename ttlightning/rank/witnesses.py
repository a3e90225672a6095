r"""Witnesses: tensor trains and trees with small integer cores whose odd/even matricization is known.

One tensor of some rank R proves that almost every tensor has at least that rank: some minor of size R is a polynomial
in the cores, and it does not vanish at the witness. All witnesses have equal cores over the integers and at most r
states; ``padded`` extends a tensor train to a larger size.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ttlightning.errors import UserError
from ttlightning.formats import EqualCoreTensorTrain, HierarchicalTucker, SharedHierarchicalTucker
from ttlightning.rank.finite_field import PRIMES, hashed

Integers = NDArray[np.int64]


class Witness(NamedTuple):
    """End cores F[i, a] and L[a, i], and the slices G_i[a, b] that all interior sites share."""

    first: Integers
    """(modes, rank)"""
    interior: Integers
    """(modes, rank, rank)"""
    last: Integers
    """(rank, modes)"""


def published(mode_size: int, rank: int) -> Witness:
    """[A24]: q = min(n, r-1). Restricted to i_k <= q, the odd/even matricization is the identity of size q^(d/2).

    One of the r states means that no letter is pending. Each other state remembers the letter that must come next.
    """
    q = min(mode_size, rank - 1)
    if q < 1:
        raise UserError(f"the published witness needs rank 2 or more, got {rank}")
    first, last = np.zeros((mode_size, rank), int), np.zeros((rank, mode_size), int)
    interior = np.zeros((mode_size, rank, rank), int)
    for i in range(q):
        first[i, i] = last[i, i] = 1
        interior[i, i, q] = 1  # the letter pending is repeated
        interior[i, q, i] = 1  # a new letter is pending
    return Witness(first, interior, last)


def star(mode_size: int) -> Witness:
    """n = r: G_1 = E_11, G_i = E_i1 + E_1i. An entry is 1 if its word splits into letters 1 and pairs aa, a > 1."""
    interior = np.zeros((mode_size, mode_size, mode_size), int)
    for i in range(mode_size):
        interior[i, i, 0] = interior[i, 0, i] = 1
    return Witness(np.eye(mode_size, dtype=int), interior, np.eye(mode_size, dtype=int))


def pair(rank: int) -> Witness:
    """n = r^2: G_(a,b) = E_ab. The odd/even matricization is a partial permutation of rank r^(d-1)."""
    mode_size = rank**2
    interior = np.eye(mode_size, dtype=int).reshape(mode_size, rank, rank)
    ends = np.zeros((mode_size, rank), int)
    ends[:rank] = np.eye(rank, dtype=int)
    return Witness(ends, interior, ends.T.copy())


def symmetric(rank: int) -> Witness:
    """n = r (r + 1) / 2: all symmetric matrices, E_aa and E_ab + E_ba."""
    slices = []
    for a in range(rank):
        for b in range(a, rank):
            one = np.zeros((rank, rank), int)
            one[a, b] = one[b, a] = 1
            slices.append(one)
    ends = np.zeros((len(slices), rank), int)
    ends[:rank] = np.eye(rank, dtype=int)
    return Witness(ends, np.array(slices), ends.T.copy())


def graded(mode_size: int, rank: int, weights: Integers | None = None, shift: int = 0) -> Witness:
    r"""T invertible for almost every ``weights``, any 1 <= n <= r^2: the core of the proof.

    States are the integers mod r. Slice (h, q), with h mod r and 1 <= q <= l_h, moves a state x to y = h - x:

        G_(h,q) = sum over x + y = h of  z_xy x^(q-1) E_xy,        sum over h of l_h = n,

    where n = r s + t and l_h is s + 1 for t of the h, and s for the others. T falls apart into r blocks of size n.

    Args:
        weights: z, (r, r), integers; hashed by default. Powers of one number can fail: terms of det T are then the
            same power, and cancel, as at n = 2, r = 3.
        shift: the first h that has s + 1 slices.
    """
    if not 1 <= mode_size <= rank**2:
        raise UserError(f"the graded witness needs 1 <= mode_size <= rank^2, got {mode_size} and {rank}")
    if weights is None:
        weights = hashed((rank, rank), PRIMES[0], "graded witness").astype(object)
    slices = []
    for h, q in graded_slices(mode_size, rank, shift):
        one = np.zeros((rank, rank), dtype=weights.dtype)
        for x in range(rank):
            one[x, (h - x) % rank] = weights[x, (h - x) % rank] * x**q
        slices.append(one)
    ends = np.zeros((mode_size, rank), int)
    ends[: min(mode_size, rank)] = np.eye(min(mode_size, rank), rank, dtype=int)
    return Witness(ends, np.array(slices), ends.T.copy())


def graded_slices(mode_size: int, rank: int, shift: int = 0) -> list[tuple[int, int]]:
    """The pairs (h, q - 1) of the slices of the graded witness, in order."""
    s, t = divmod(mode_size, rank)
    lengths = [s + ((h - shift) % rank < t) for h in range(rank)]
    return [(h, q) for h in range(rank) for q in range(lengths[h])]


def kronecker(one: Witness, other: Witness) -> Witness:
    """Modes and states are pairs: the matricization is the Kronecker product of the two, up to the order of rows."""
    return Witness(
        np.kron(one.first, other.first),
        np.array([np.kron(a, b) for a in one.interior for b in other.interior]),
        np.kron(one.last, other.last),
    )


def padded(witness: Witness, mode_size: int, rank: int) -> Witness:
    """The same tensor with more modes and states, all of them zero."""
    n, r = witness.first.shape
    first, interior = np.zeros((mode_size, rank), int), np.zeros((mode_size, rank, rank), witness.interior.dtype)
    last = np.zeros((rank, mode_size), int)
    first[:n, :r], interior[:n, :r, :r], last[:r, :n] = witness
    return Witness(first, interior, last)


class TreeWitness(NamedTuple):
    """Leaves U[i, a], nodes B[a, b, c] of every level from the leaves up, and the root R[a, b], shared by positions."""

    leaves: Integers
    """(modes, rank)"""
    nodes: list[Integers]
    """(rank, rank, rank) for each level"""
    root: Integers
    """(rank, rank)"""


def tree(mode_size: int, rank: int, sites: int) -> TreeWitness:
    """q = min(n, r). W = 1 where i_1 = i_2 <= q, i_3 = i_4 <= q, ..; so the odd/even matricization has rank q^(d/2).

    A leaf keeps the letters up to q. A node above two leaves says by its first state whether they agree, the other
    nodes multiply the first states of their children. At d = 2 the root compares the leaves.
    """
    if sites < 2 or sites & (sites - 1):
        raise UserError(f"a tree has 2, 4, 8, .. sites, got {sites}")
    levels = [np.zeros((rank, rank, rank), int) for _ in range(sites.bit_length() - 2)]
    for level in levels[1:]:
        level[0, 0, 0] = 1
    root = np.zeros((rank, rank), int)
    root[0, 0] = 1
    if levels:
        levels[0][:, :, 0] = np.eye(rank, dtype=int)
    else:
        root = np.eye(rank, dtype=int)
    return TreeWitness(np.eye(mode_size, rank, dtype=int), levels, root)


def tree_as_format(witness: TreeWitness, sites: int, shared: bool = True) -> HierarchicalTucker:
    """The tree as a format of one class, in float64, with shared or with own nodes."""
    kind = SharedHierarchicalTucker if shared else HierarchicalTucker
    format = kind(sites, len(witness.leaves), 1, len(witness.root)).double()
    with torch.no_grad():
        format.leaves.copy_(torch.from_numpy(witness.leaves.astype(float)))
        for parameter, node in zip(format.nodes, witness.nodes, strict=True):
            parameter.copy_(torch.from_numpy(node.astype(float)))
        format.root.copy_(torch.from_numpy(witness.root.astype(float)).unsqueeze(-1))
    return format


def as_format(witness: Witness, sites: int) -> EqualCoreTensorTrain:
    """The witness as a format of one class, in float64; exact if its entries are below 2^53."""
    mode_size, rank = witness.first.shape
    format = EqualCoreTensorTrain(sites, mode_size, 1, rank).double()
    with torch.no_grad():
        format.first.copy_(torch.from_numpy(witness.first.astype(float)))
        if sites > 2:
            format.interior.copy_(torch.from_numpy(witness.interior.astype(float)).unsqueeze(0))
        format.last.copy_(torch.from_numpy(witness.last.T.astype(float)).unsqueeze(-1))
    return format
