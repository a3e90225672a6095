r"""Trained networks as exact numbers modulo a prime, and their scores on a grid of features.

Site s has a few feature vectors v_s1, v_s2, ... over F_p. The matrix of scores

    S_y[(j_1, j_3, ...), (j_2, j_4, ...)] = score_y(v_1j_1, v_2j_2, ..., v_dj_d)

is the odd/even matricization of the class tensor between two matrices, so its rank is at most that tensor's CP-rank. It
is the literal matricization of the network whose sites have the vectors for modes, and is written out as its format
allows:

    chain      a site at a time (``literal.py``)
    canonical  S_y = U diag(c_y) V^T; U has the units' products over the odd sites, V those over the even sites
    tree       a node joins the tables of its two children, every row of one with every row of the other

Residues are below 2^31, so that a product of two fits into an int64; sums of products go through ``modular.multiply``.
"""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from ttlightning.rank.finite_field import Residues, multiply, residues
from ttlightning.rank.full_matricization import literal_matricizations

ENTRIES_AT_ONCE = 1 << 20
"""Scores computed in one piece: they take 64 bits and more on the way, 32 afterwards."""


class Chain:
    """The cores of a tensor train as exact numbers mod p: F (n, r), the interior slices of every site, L_y (r, n).

    Args:
        state: ``first``, ``interior`` and ``last`` of a ``TensorTrain``.
        sites: d.
    """

    def __init__(self, state: dict[str, Tensor], sites: int, prime: int) -> None:
        self.sites, self.prime = sites, prime
        self.first = residues(state["first"], prime)
        self.distinct = residues(state["interior"], prime)
        self.last = residues(state["last"], prime).transpose(2, 1, 0)
        self.mode_size, self.rank = self.first.shape

    def interior(self, site: int) -> Residues:
        """Slices (n, r, r) of an interior site, counted from 1."""
        return self.distinct[0 if len(self.distinct) == 1 else site - 2]

    def chosen(self, slices: Sequence[Sequence[int]]) -> list[Residues]:
        """Some slices of every interior site; one and the same array where they are the same."""
        known: dict[tuple[int, ...], Residues] = {}
        for site, picked in enumerate(slices, start=2):
            which = 0 if len(self.distinct) == 1 else site
            known.setdefault((which, *picked), self.interior(site)[np.array(picked, dtype=int)])
        return [known[(0 if len(self.distinct) == 1 else k, *picked)] for k, picked in enumerate(slices, start=2)]

    def score_matrices(self, vectors: Sequence[Residues]) -> list[Residues]:
        """S_y of every class, from the (count, modes) feature vectors of each site."""

        def compressed(site: int, core: Residues) -> Residues:
            """(modes, left, right) -> (count, left, right): sums over the modes with the site's feature vectors."""
            flat = multiply(vectors[site - 1], core.reshape(self.mode_size, -1), self.prime)
            return flat.reshape(-1, *core.shape[1:])

        first = compressed(1, self.first[:, None, :])
        interior = [compressed(site, self.interior(site)) for site in range(2, self.sites)]
        last = compressed(self.sites, self.last.transpose(2, 1, 0))
        return literal_matricizations([first, *interior, last], self.prime)


class Canonical:
    """The factors (d, n, r) and weights (r, classes) of a canonical polyadic tensor.

    Args:
        state: ``factors`` and ``weights`` of a ``CanonicalPolyadic``.
        sites: d.
    """

    def __init__(self, state: dict[str, Tensor], sites: int, prime: int) -> None:
        self.sites, self.prime = sites, prime
        self.factors, self.weights = (residues(state[name], prime) for name in ("factors", "weights"))
        _, self.mode_size, self.rank = self.factors.shape

    def score_matrices(self, vectors: Sequence[Residues]) -> list[Residues]:
        """S_y of every class, from the (count, modes) feature vectors of each site."""
        units = [multiply(v, factor, self.prime) for v, factor in zip(vectors, self.factors, strict=True)]
        odd, even = (self._products(units[parity::2]) for parity in (0, 1))
        return [product(odd * c % self.prime, even, self.prime) for c in self.weights.T]

    def _products(self, tables: Sequence[Residues]) -> Residues:
        """(choices, r) of several sites -> (all combinations of choices, r): a unit multiplies."""
        whole = tables[0]
        for table in tables[1:]:
            whole = (whole[:, None, :] * table[None, :, :] % self.prime).reshape(-1, self.rank)
        return whole


class Tree:
    """Leaves, nodes and root of a hierarchical Tucker tensor, its own at every place or one for all places of a level.

    Args:
        state: ``leaves``, ``nodes.0``, ``nodes.1``, ... and ``root`` of a ``HierarchicalTucker``.
        sites: d.
    """

    def __init__(self, state: dict[str, Tensor], sites: int, prime: int) -> None:
        self.sites, self.prime = sites, prime
        self.leaves, self.root = (residues(state[name], prime) for name in ("leaves", "root"))
        self.nodes = [residues(state[f"nodes.{level}"], prime) for level in range(len(state) - 2)]
        _, self.mode_size, self.rank = self.leaves.shape

    def score_matrices(self, vectors: Sequence[Residues]) -> list[Residues]:
        """S_y of every class, from the (count, modes) feature vectors of each site."""
        leaves = self._at_places(self.leaves, self.sites)
        tables = [multiply(v, leaf, self.prime) for v, leaf in zip(vectors, leaves, strict=True)]
        for level in self.nodes:
            nodes = self._at_places(level, len(tables) // 2)
            children = zip(tables[0::2], tables[1::2], strict=True)
            tables = [self._joined(*pair, node) for pair, node in zip(children, nodes, strict=True)]
        left, right = tables
        counts = [len(v) for v in vectors]
        order = [*range(0, self.sites, 2), *range(1, self.sites, 2)]
        rows = int(np.prod(counts[0::2]))
        matrices = []
        for root in self.root.transpose(2, 0, 1):
            scores = product(multiply(left, root, self.prime), right, self.prime)
            matrices.append(scores.reshape(counts).transpose(order).reshape(rows, -1))
        return matrices

    def _at_places(self, own: Residues, places: int) -> list[Residues]:
        return list(own) * (places // len(own))

    def _joined(self, left: Residues, right: Residues, node: Residues) -> Residues:
        """sum_ab left[i, a] right[j, b] node[a, b] for every i of the left table and j of the right: (i j, r)."""
        half = multiply(left, node.reshape(self.rank, -1), self.prime).reshape(len(left), self.rank, self.rank)
        whole = multiply(half.transpose(0, 2, 1).reshape(-1, self.rank), right.T, self.prime)
        return whole.reshape(len(left), self.rank, len(right)).transpose(0, 2, 1).reshape(-1, self.rank)


ExactNetwork = Chain | Canonical | Tree


def exact_network(state: dict[str, Tensor], sites: int, prime: int) -> ExactNetwork:
    """The network with these parameters, told from their names."""
    kinds: dict[str, type[ExactNetwork]] = {"first": Chain, "factors": Canonical, "leaves": Tree}
    return next(kind for name, kind in kinds.items() if name in state)(state, sites, prime)


def product(left: Residues, right: Residues, prime: int) -> Residues:
    """left right^T as int32, a piece of the rows at a time."""
    found = np.empty((len(left), len(right)), dtype=np.int32)
    step = max(1, ENTRIES_AT_ONCE // len(right))
    for start in range(0, len(left), step):
        found[start : start + step] = multiply(left[start : start + step], right.T, prime)
    return found
