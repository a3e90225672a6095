r"""Hierarchical Tucker: the weight tensor of a convolutional network with products for pooling, a binary tree.

    leaves   u_j = sum_i f_j[i] U_j[i]                        one vector of length r for each site j
    nodes    v = sum_ab left[a] right[b] B[a, b]              the sites of a level in pairs, half as many on each level
    root     score_y = sum_ab left[a] right[b] R_y[a, b]                                        [K18, Fig. 2; Sec. 4]

The number of sites is a power of two.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ttlightning.errors import UserError
from ttlightning.formats.base import ScoreTensor, require_at_least
from ttlightning.formats.bounds import generic_tree_rank
from ttlightning.formats.initialization import gaussian
from ttlightning.formats.kernels.derivatives import contract, gradients, in_full_precision
from ttlightning.formats.kernels.scales import split_off_scales
from ttlightning.formats.modular import Field, Residues, multiply_in_pieces

PAIRS_AT_ONCE: Final = 1 << 18
"""Products left[a] right[b] in memory at once; more would not stay in the cache."""


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
            1 and the others are 0: the last slice of a leaf is 1, B[a, a, a] is 1, the diagonal of the root is
            N(0, 1/r), and all else is noise of size gain/10. ``gaussian`` draws all entries so that each level keeps
            the variance.
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
        widths = [sites >> level for level in range(1, sites.bit_length() - 1)]
        self.leaves = nn.Parameter(gaussian(noise / mode_size**0.5, self._distinct(sites), mode_size, rank))
        self.nodes = nn.ParameterList(
            gaussian(noise / rank, self._distinct(width), rank, rank, rank) for width in widths
        )
        self.root = nn.Parameter(gaussian(noise / rank, rank, rank, classes))
        if identity:
            with torch.no_grad():
                along = torch.arange(rank)
                self.leaves[:, -1] = 1
                for node in self.nodes:
                    node[:, along, along, along] = 1
                self.root[along, along] = gaussian(rank**-0.5, rank, classes)

    @property
    def rank(self) -> int:
        return self.root.shape[0]

    @in_full_precision
    def scaled_scores(
        self, features: Float[Tensor, "batch sites modes"]
    ) -> tuple[Float[Tensor, "batch classes"], Int[Tensor, " batch"]]:
        return contract(TreeContraction, _by_operations, features, self.leaves, self.root, *self.nodes)

    def generic_rank(self) -> int:
        return generic_tree_rank(self.mode_size, self.rank, self.sites)

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


class TreeContraction(torch.autograd.Function):
    """Scores (batch, classes) and one exponent of two for each sample, from the leaves to the root."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, leaves: Tensor, root: Tensor, *nodes: Tensor) -> tuple[Tensor, Tensor]:
        scores_BC, exponent, x_PnB, all_states, all_scales = _scores(features, leaves, root, *nodes)
        ctx.save_for_backward(features, leaves, root, *nodes, exponent, x_PnB, *all_states, *all_scales)
        ctx.mark_non_differentiable(exponent)
        return scores_BC, exponent

    @staticmethod
    def backward(ctx: Any, scores_BC: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        return gradients(ctx, scores_BC, len(ctx.needs_input_grad), _by_hand, _by_operations)


def _scores(
    features: Tensor, leaves: Tensor, root: Tensor, *nodes: Tensor
) -> tuple[Tensor, Tensor, Tensor, list[Tensor], list[Tensor]]:
    """Scores and exponents; for the backward pass also the features, the states and their scales.

    A level is one batched product, or several if its pairs left[a] right[b] do not fit the cache. The backward pass
    computes the pairs again. The scale of each position is split off first. The batch is the last axis in memory, and
    every operation runs along it.
    """
    x_PnB = features.permute(1, 2, 0).contiguous()
    states_PrB = torch.bmm(_cores(leaves, len(x_PnB)).transpose(1, 2), x_PnB)
    all_states, all_scales, all_exponents = [], [], []
    for node in (*nodes, root.unsqueeze(0)):
        scales, exponents = split_off_scales(states_PrB)
        all_states.append(states_PrB)
        all_scales.append(scales)
        all_exponents.append(exponents)
        cores_Ppk = _cores(node.flatten(1, 2), len(states_PrB) // 2)
        (states_PrB,) = _in_pieces(_up, states_PrB[0::2], states_PrB[1::2], cores_Ppk)
    exponent = torch.cat(all_exponents).sum((0, 1), dtype=torch.int32)
    return states_PrB[0].T.contiguous(), exponent, x_PnB, all_states, all_scales


def _by_operations(features: Tensor, leaves: Tensor, root: Tensor, *nodes: Tensor) -> tuple[Tensor, Tensor]:
    return _scores(features, leaves, root, *nodes)[:2]


def _by_hand(
    _: Any, scores_BC: Tensor, inputs: tuple[Tensor, ...], saved: tuple[Tensor, ...], *_exponent: Tensor
) -> tuple[Tensor, ...]:
    leaves, root, *nodes = inputs[1:]
    x_PnB, levels = saved[0], len(nodes) + 1
    all_states, all_scales = saved[1 : 1 + levels], saved[1 + levels :]
    adjoint_PkB, dnodes = scores_BC.T.contiguous().unsqueeze(0), []
    backwards = zip((*nodes, root.unsqueeze(0)), all_states, all_scales, strict=True)
    for node, states_PrB, scales in reversed([*backwards]):
        cores_Ppk = _cores(node.flatten(1, 2), len(adjoint_PkB))
        dcores, below = _in_pieces(_down, states_PrB[0::2], states_PrB[1::2], cores_Ppk, adjoint_PkB)
        dnodes.append(_of_distinct(dcores, len(node)).view_as(node))
        adjoint_PkB = below.view_as(states_PrB).mul_(scales)
    dleaves = _of_distinct(torch.bmm(x_PnB, adjoint_PkB.transpose(1, 2)), len(leaves))
    dx_PnB = torch.bmm(_cores(leaves, len(x_PnB)), adjoint_PkB)
    return dx_PnB.permute(2, 0, 1), dleaves, dnodes[0][0], *reversed(dnodes[1:])


def _up(left_PrB: Tensor, right_PrB: Tensor, cores_Ppk: Tensor) -> tuple[Tensor]:
    """The states of the parent nodes."""
    pairs_PrrB = left_PrB.unsqueeze(2) * right_PrB.unsqueeze(1)
    return (torch.bmm(cores_Ppk.transpose(1, 2), pairs_PrrB.flatten(1, 2)),)


def _down(left_PrB: Tensor, right_PrB: Tensor, cores_Ppk: Tensor, adjoint_PkB: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of the cores and of both children's states, (positions, 2, rank, batch)."""
    pairs_PrrB = left_PrB.unsqueeze(2) * right_PrB.unsqueeze(1)
    dcores_Ppk = torch.bmm(pairs_PrrB.flatten(1, 2), adjoint_PkB.transpose(1, 2))
    dpairs_PrrB = torch.bmm(cores_Ppk, adjoint_PkB).view_as(pairs_PrrB)
    positions, rank, batch = left_PrB.shape
    below = left_PrB.new_empty(positions, 2, rank, batch)
    torch.sum(torch.mul(dpairs_PrrB, right_PrB.unsqueeze(1), out=pairs_PrrB), 2, out=below[:, 0])
    torch.sum(dpairs_PrrB.mul_(left_PrB.unsqueeze(2)), 1, out=below[:, 1])
    return dcores_Ppk, below


def _in_pieces(function: Callable[..., tuple[Tensor, ...]], left_PrB: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
    """The function applied to as many positions at a time as fit the cache; the results are concatenated.

    A compiled or exported program takes batches of any size and has no pieces.
    """
    positions, rank, batch = left_PrB.shape
    if torch.compiler.is_compiling() or positions * rank * rank * batch <= PAIRS_AT_ONCE or positions == 1:
        return function(left_PrB, *others)
    step = max(1, PAIRS_AT_ONCE // (rank * rank * batch))
    pieces = zip(*(each.split(step) for each in (left_PrB, *others)), strict=True)
    return tuple(torch.cat(parts) for parts in zip(*(function(*piece) for piece in pieces), strict=True))


def _cores(distinct: Tensor, positions: int) -> Tensor:
    """One core for every position; a shared core is repeated."""
    return distinct.expand(positions, -1, -1)


def _of_distinct(gradient: Tensor, distinct: int) -> Tensor:
    """The gradient of the distinct cores: summed over the positions that share one."""
    return gradient if distinct == len(gradient) else gradient.sum(0, keepdim=True)
