r"""Hierarchical Tucker: the weight tensor of a convolutional network with products for pooling, a binary tree.

    leaves   u_j = sum_i f_j[i] U_j[i]                        one vector of length r for each site j
    nodes    v = sum_ab left[a] right[b] B[a, b]              the sites of a level in pairs, half as many on each level
    root     score_y = sum_ab left[a] right[b] R_y[a, b]                                        [K18, Fig. 2; Sec. 4]

The number of sites is a power of two.
"""

from collections.abc import Iterable, Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ttlightning.errors import UserError
from ttlightning.formats.base import ScoreTensor, require_at_least
from ttlightning.formats.bounds import generic_tree_rank
from ttlightning.formats.initialization import gaussian
from ttlightning.formats.kernels.derivatives import in_full_precision
from ttlightning.formats.kernels.tree import tree_scores, tree_values
from ttlightning.formats.modular import Field, Residues, multiply_in_pieces
from ttlightning.formats.moments import Moments, tree_moments


class HierarchicalTucker(ScoreTensor):
    r"""Hierarchical Tucker decomposition with a separate node at every position of the tree ([K18, Sec. 4]).

    Width: HT-rank r, the same at every edge. Parameters: d n r + (d - 2) r^3 + r^2 C for d sites, mode size n, C
    classes. CP-rank of almost every such tensor: at least min(n, r)^(d/2) [K18, Table 2].

    The parameters:
        ``leaves`` (sites, modes, rank); ``nodes``, a list from the leaves to the root, of the shapes (sites/2, rank,
        rank, rank), (sites/4, ...), ..., (2, ...); ``root`` (rank, rank, classes).

    Args:
        sites: d, a power of two.
        mode_size: n, features per site.
        classes: C.
        rank: r.
        initialization: ``identity`` starts near a canonical polyadic network whose units are 1 if the last feature is
            1 and the others are 0, in the scale in which the vectors of all nodes then have norm 1: with s = r^(-1/2)
            the last slice of a leaf is s, B[a, a, a] is 1/s, the diagonal of the root is N(0, 1/r) / s^2, and all else
            is noise of size gain/10. ``gaussian`` draws all entries so that each level keeps the variance.
        gain: size of the random part.

    Raises:
        UserError: if a size is too small, or the number of sites is no power of two.
    """

    kind = "different nodes"

    def __init__(
        self,
        sites: int,
        mode_size: int,
        classes: int,
        rank: int = 16,
        initialization: Literal["identity", "gaussian"] = "identity",
        gain: float = 1.0,
    ) -> None:
        super().__init__(sites, mode_size, classes)
        require_at_least(self.name, "rank", rank, 1)
        if sites & (sites - 1):
            raise UserError(f"{self.name}: sites is {sites}, it must be a power of two: 4, 16, 64, ...")
        identity = initialization == "identity"
        noise = gain * (0.1 if identity else 1.0)
        # Vectors of ones would be the same network, and one step of Adam of size lr would move them by r^2 lr.
        scale = rank**-0.5 if identity else 1.0
        widths = [sites >> level for level in range(1, sites.bit_length() - 1)]
        self.leaves = nn.Parameter(gaussian(noise * scale / mode_size**0.5, self._distinct(sites), mode_size, rank))
        self.nodes = nn.ParameterList(
            gaussian(noise / (rank * scale), self._distinct(width), rank, rank, rank) for width in widths
        )
        self.root = nn.Parameter(gaussian(noise / (rank * scale**2), rank, rank, classes))
        if identity:
            with torch.no_grad():
                along = torch.arange(rank)
                self.leaves[:, -1] = scale
                for node in self.nodes:
                    node[:, along, along, along] = 1 / scale
                self.root[along, along] = gaussian(rank**-0.5 / scale**2, rank, classes)

    @property
    def rank(self) -> int:
        return self.root.shape[0]

    @in_full_precision
    def scaled_scores(
        self, features: Float[Tensor, "batch sites modes"]
    ) -> tuple[Float[Tensor, "batch classes"], Int[Tensor, " batch"]]:
        return tree_scores(features, self.leaves, self.root, *self.nodes)

    @in_full_precision
    def scores(self, features: Float[Tensor, "batch sites modes"]) -> Float[Tensor, "batch classes"]:
        return tree_values(features, self.leaves, self.root, *self.nodes)

    def generic_rank(self) -> int:
        return generic_tree_rank(self.mode_size, self.rank, self.sites)

    def roundings(self) -> int:
        return self.sites * self.mode_size + (self.sites - 1) * (self.rank**2 + 2)

    def spectral_moments(self, metrics: Float[Tensor, "sites modes modes"]) -> Moments:
        return tree_moments(self.leaves.expand(self.sites, -1, -1), list(self.nodes), self.root, metrics)

    def exact_scores(self, vectors: Sequence[Residues], field: Field) -> Iterable[Residues]:
        """From the leaves to the root: a node joins every row of its left child with every row of its right child."""
        leaves, root = field.residues(self.leaves), field.residues(self.root)
        tables = [field.multiply(v, leaves[min(site, len(leaves) - 1)]) for site, v in enumerate(vectors)]
        for level in self.nodes:
            nodes = field.residues(level)
            children = zip(tables[0::2], tables[1::2], strict=True)
            tables = [_join(*pair, nodes[min(k, len(nodes) - 1)], field) for k, pair in enumerate(children)]
        left, right = tables
        for core in root.transpose(2, 0, 1):
            yield multiply_in_pieces(field.multiply(left, core), right.T, field).reshape(-1)

    def _distinct(self, positions: int) -> int:
        return positions


class SharedHierarchicalTucker(HierarchicalTucker):
    r"""Hierarchical Tucker with one node for all positions of a level and one leaf for all sites: a convolution.

    Width: HT-rank r. Parameters: n r + (log2(d) - 1) r^3 + r^2 C.
    ``leaves`` has the shape (1, modes, rank), each entry of ``nodes`` (1, rank, rank, rank).
    """

    kind = "equal nodes"

    def _distinct(self, positions: int) -> int:
        return 1


def _join(left: Residues, right: Residues, node: Residues, field: Field) -> Residues:
    """sum_ab left[i, a] right[j, b] node[a, b, c] for every i and j: (i j, c)."""
    rank = len(node)
    half = field.multiply(left, node.reshape(rank, -1)).reshape(len(left), rank, rank)
    joined = field.multiply(half.transpose(0, 2, 1).reshape(-1, rank), right.T)
    return joined.reshape(len(left), rank, len(right)).transpose(0, 2, 1).reshape(-1, rank)
