r"""Hierarchical Tucker: the weight tensor of a convolutional network with products for pooling, a binary tree.

    leaves   u_j = sum_i f_j[i] U_j[i]                        one vector of length r for each site j
    nodes    v = sum_ab left[a] right[b] B[a, b]              the sites of a level pairwise, halved from level to level
    root     score_y = sum_ab left[a] right[b] R_y[a, b]                                        [K18, Fig. 2; Sec. 4]

The number of sites is a power of two.
"""

from collections.abc import Callable
from typing import Any, Final, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ttlightning.errors import UserError
from ttlightning.formats.base import ScoreTensor, require_at_least
from ttlightning.formats.kernels.derivatives import contract, gradients, in_full_precision
from ttlightning.formats.kernels.scales import split_off_scales

PAIRS_AT_ONCE: Final = 1 << 18
"""Products left[a] right[b] held at once, so that they stay in the cache."""


class HierarchicalTucker(ScoreTensor):
    r"""Hierarchical Tucker decomposition with a node of its own at every place of the tree ([K18, Sec. 4]).

    Width: HT-rank r, the same at every edge. Parameters: d n r + (d - 2) r^3 + r^2 C for d sites, mode size n, C
    classes.

    The parameters:
        ``leaves`` (sites, modes, rank); ``nodes``, a list from the leaves to the root, of the shapes (sites/2, rank,
        rank, rank), (sites/4, ...), ..., (2, ...); ``root`` (rank, rank, classes).

    Args:
        sites: d, a power of two.
        mode_size: n, features per site.
        classes: C.
        rank: r.
        initialization: ``identity`` starts near a canonical polyadic network whose units are 1 where the last feature
            is 1 and the others are 0: last slice of a leaf 1, B[a, a, a] = 1, diagonal of the root N(0, 1/r); the rest
            is noise of size gain/10. ``gaussian`` draws every entry so that a level keeps the variance.
        gain: size of the random part.

    Raises:
        UserError: where a size is too small, or the number of sites is no power of two.
    """

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
        require_at_least(type(self).__name__, "rank", rank, 1)
        if sites & (sites - 1):
            raise UserError(f"{type(self).__name__}: sites is {sites}, it must be a power of two: 4, 16, 64, ...")
        identity = initialization == "identity"
        noise = gain * (0.1 if identity else 1.0)
        widths = [sites >> level for level in range(1, sites.bit_length() - 1)]
        self.leaves = nn.Parameter(noise / mode_size**0.5 * torch.randn(self._distinct(sites), mode_size, rank))
        self.nodes = nn.ParameterList(
            noise / rank * torch.randn(self._distinct(width), rank, rank, rank) for width in widths
        )
        self.root = nn.Parameter(noise / rank * torch.randn(rank, rank, classes))
        if identity:
            with torch.no_grad():
                along = torch.arange(rank)
                self.leaves[:, -1] = 1
                for node in self.nodes:
                    node[:, along, along, along] = 1
                self.root[along, along] = rank**-0.5 * torch.randn(rank, classes)

    @property
    def rank(self) -> int:
        return self.root.shape[0]

    @in_full_precision
    def scaled_scores(
        self, features: Float[Tensor, "batch sites modes"]
    ) -> tuple[Float[Tensor, "batch classes"], Int[Tensor, " batch"]]:
        return contract(TreeContraction, _by_operations, features, self.leaves, self.root, *self.nodes)

    def _distinct(self, places: int) -> int:
        return places


class SharedHierarchicalTucker(HierarchicalTucker):
    r"""Hierarchical Tucker with one node for all places of a level, one leaf for all sites: a convolution.

    Width: HT-rank r. Parameters: n r + (log2(d) - 1) r^3 + r^2 C.
    ``leaves`` has the shape (1, modes, rank), every entry of ``nodes`` (1, rank, rank, rank).
    """

    def _distinct(self, places: int) -> int:
        return 1


class TreeContraction(torch.autograd.Function):
    """Scores (batch, classes) and their power of two for each sample, from the leaves to the root."""

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
    """The scores and their exponents; then what the way back by hand wants: features, states and their scales.

    A level is one batched product, or a few of as many places as fit the cache with their pairs left[a] right[b], which
    are computed again on the way back; the scale of each place is split off before. The batch comes last in memory,
    where every operation runs along it.
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
    way_back = zip((*nodes, root.unsqueeze(0)), all_states, all_scales, strict=True)
    for node, states_PrB, scales in reversed([*way_back]):
        cores_Ppk = _cores(node.flatten(1, 2), len(adjoint_PkB))
        dcores, below = _in_pieces(_down, states_PrB[0::2], states_PrB[1::2], cores_Ppk, adjoint_PkB)
        dnodes.append(_of_distinct(dcores, len(node)).view_as(node))
        adjoint_PkB = below.view_as(states_PrB).mul_(scales)
    dleaves = _of_distinct(torch.bmm(x_PnB, adjoint_PkB.transpose(1, 2)), len(leaves))
    dx_PnB = torch.bmm(_cores(leaves, len(x_PnB)), adjoint_PkB)
    return dx_PnB.permute(2, 0, 1), dleaves, dnodes[0][0], *reversed(dnodes[1:])


def _up(left_PrB: Tensor, right_PrB: Tensor, cores_Ppk: Tensor) -> tuple[Tensor]:
    """The states of the nodes above."""
    pairs_PrrB = left_PrB.unsqueeze(2) * right_PrB.unsqueeze(1)
    return (torch.bmm(cores_Ppk.transpose(1, 2), pairs_PrrB.flatten(1, 2)),)


def _down(left_PrB: Tensor, right_PrB: Tensor, cores_Ppk: Tensor, adjoint_PkB: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of the cores, and of the states of both children, (places, 2, rank, batch)."""
    pairs_PrrB = left_PrB.unsqueeze(2) * right_PrB.unsqueeze(1)
    dcores_Ppk = torch.bmm(pairs_PrrB.flatten(1, 2), adjoint_PkB.transpose(1, 2))
    dpairs_PrrB = torch.bmm(cores_Ppk, adjoint_PkB).view_as(pairs_PrrB)
    places, rank, batch = left_PrB.shape
    below = left_PrB.new_empty(places, 2, rank, batch)
    torch.sum(torch.mul(dpairs_PrrB, right_PrB.unsqueeze(1), out=pairs_PrrB), 2, out=below[:, 0])
    torch.sum(dpairs_PrrB.mul_(left_PrB.unsqueeze(2)), 1, out=below[:, 1])
    return dcores_Ppk, below


def _in_pieces(function: Callable[..., tuple[Tensor, ...]], left_PrB: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
    """The function's results for as many places at a time as fit the cache, joined."""
    places, rank, batch = left_PrB.shape
    if places * rank * rank * batch <= PAIRS_AT_ONCE or places == 1:
        return function(left_PrB, *others)
    step = max(1, PAIRS_AT_ONCE // (rank * rank * batch))
    pieces = zip(*(each.split(step) for each in (left_PrB, *others)), strict=True)
    return tuple(torch.cat(parts) for parts in zip(*(function(*piece) for piece in pieces), strict=True))


def _cores(own: Tensor, places: int) -> Tensor:
    """A core for every place, the same one where all share it."""
    return own.expand(places, -1, -1)


def _of_distinct(gradient: Tensor, distinct: int) -> Tensor:
    """What all places say of the core that they share."""
    return gradient if distinct == len(gradient) else gradient.sum(0, keepdim=True)
