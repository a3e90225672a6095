r"""Hierarchical Tucker: the weight tensor of a convolutional network with products for pooling, a binary tree.

    leaves   u_j = sum_i f_j[i] U_j[i]                        one vector of length r for each site j
    nodes    v = sum_ab left[a] right[b] B[a, b]              the sites of a level pairwise, halved from level to level
    root     score_y = sum_ab left[a] right[b] R_y[a, b]                                        [K18, Fig. 2; Sec. 4]

The number of sites is a power of two.
"""

from typing import Any, Final, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ttlightning.errors import UserError
from ttlightning.formats.base import ScoreTensor, require_at_least
from ttlightning.formats.contraction import split_off_scales

PAIRS_AT_ONCE: Final = 1 << 18
"""Products left[a] right[b] held at once, so that they stay in the cache."""


class HierarchicalTucker(ScoreTensor):
    r"""Hierarchical Tucker decomposition with a node of its own at every place of the tree ([K18, Sec. 4]).

    Width: HT-rank r, the same at every edge. Parameters: d n r + (d - 2) r^3 + r^2 C for d sites, n modes, C classes.

    The parameters:
        ``leaves`` (sites, modes, rank); ``nodes``, a list from the leaves to the root, of the shapes (sites/2, rank,
        rank, rank), (sites/4, ...), ..., (2, ...); ``root`` (rank, rank, classes).

    Args:
        sites: d, a power of two.
        modes: n, features per site.
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
        modes: int,
        classes: int,
        rank: int = 16,
        initialization: Literal["identity", "gaussian"] = "identity",
        gain: float = 1.0,
    ) -> None:
        super().__init__(sites, modes, classes)
        require_at_least(type(self).__name__, "rank", rank, 1)
        if sites & (sites - 1):
            raise UserError(f"{type(self).__name__}: sites is {sites}, it must be a power of two: 4, 16, 64, ...")
        identity = initialization == "identity"
        noise = gain * (0.1 if identity else 1.0)
        widths = [sites >> level for level in range(1, sites.bit_length() - 1)]
        self.leaves = nn.Parameter(noise / modes**0.5 * torch.randn(self._distinct(sites), modes, rank))
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

    def scaled_scores(
        self, features: Float[Tensor, "batch sites modes"]
    ) -> tuple[Float[Tensor, "batch classes"], Int[Tensor, " batch"]]:
        return TreeContraction.apply(features, self.leaves, self.root, *self.nodes)

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
    """Scores (batch, classes) and their power of two for each sample, from the leaves to the root; backward once.

    A level is a few batched products, each of as many places as fit the cache with their pairs left[a] right[b], which
    are computed again on the way back; the scale of each place is split off before. The batch comes last in memory,
    where every operation runs along it.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor, leaves: Tensor, root: Tensor, *nodes: Tensor) -> tuple[Tensor, Tensor]:
        x_PnB = features.permute(1, 2, 0).contiguous()
        states_PrB = torch.bmm(_cores(leaves, len(x_PnB)).transpose(1, 2), x_PnB)
        all_states, all_scales, all_exponents = [], [], []
        scratch = states_PrB.new_empty(_places_at_once(states_PrB), root.shape[0] ** 2, len(features))
        for node in (*nodes, root.unsqueeze(0)):
            scales, exponents = split_off_scales(states_PrB)
            all_states.append(states_PrB)
            all_scales.append(scales)
            all_exponents.append(exponents)
            cores_Ppk = _cores(node.flatten(1, 2), len(states_PrB) // 2)
            above_PkB = states_PrB.new_empty(len(cores_Ppk), node.shape[3], len(features))
            for here in _pieces(len(cores_Ppk), len(scratch)):
                pairs_PpB = _pairs(*_children(states_PrB, here), scratch)
                torch.bmm(cores_Ppk[here].transpose(1, 2), pairs_PpB, out=above_PkB[here])
            states_PrB = above_PkB
        ctx.save_for_backward(x_PnB, leaves, root, *nodes, *all_states, *all_scales)
        exponent = torch.cat(all_exponents).sum((0, 1), dtype=torch.int32)
        ctx.mark_non_differentiable(exponent)
        return states_PrB[0].T.contiguous(), exponent

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scores_BC: Tensor, _: Tensor) -> tuple[Tensor, ...]:
        x_PnB, leaves, root, *others = ctx.saved_tensors
        levels = (len(others) + 1) // 3  # a node, states and scales for each; the root has no node
        nodes, all_states, all_scales = others[: levels - 1], others[levels - 1 : -levels], others[-levels:]
        adjoint_PkB, gradients = scores_BC.T.contiguous().unsqueeze(0), []
        size = _places_at_once(all_states[0]), root.shape[0] ** 2, len(scores_BC)
        scratch, products = x_PnB.new_empty(size), x_PnB.new_empty(size)
        way_back = zip((*nodes, root.unsqueeze(0)), all_states, all_scales, strict=True)
        for node, states_PrB, scales in reversed([*way_back]):
            gradient, below_PrB = torch.zeros_like(node).flatten(1, 2), torch.empty_like(states_PrB)
            cores_Ppk = _cores(node.flatten(1, 2), len(adjoint_PkB))
            for here in _pieces(len(adjoint_PkB), len(scratch)):
                left_PrB, right_PrB = _children(states_PrB, here)
                pairs_PpB, adjoint = _pairs(left_PrB, right_PrB, scratch), adjoint_PkB[here]
                _add_to_cores(gradient, here, pairs_PpB, adjoint)
                torch.bmm(cores_Ppk[here], adjoint, out=products[: len(adjoint)])
                dpairs_PrrB = products[: len(adjoint)].unflatten(1, (len(left_PrB[0]), -1))
                product_PrrB = torch.mul(dpairs_PrrB, right_PrB.unsqueeze(1), out=pairs_PpB.view_as(dpairs_PrrB))
                dleft_PrB, dright_PrB = _children(below_PrB, here)
                torch.sum(product_PrrB, 2, out=dleft_PrB)
                torch.sum(dpairs_PrrB.mul_(left_PrB.unsqueeze(2)), 1, out=dright_PrB)
            gradients.append(gradient.view_as(node))
            adjoint_PkB = below_PrB.mul_(scales)
        dleaves = torch.zeros_like(leaves)
        _add_to_cores(dleaves, slice(0, len(x_PnB)), x_PnB, adjoint_PkB)
        dx_PnB = torch.bmm(_cores(leaves, len(x_PnB)), adjoint_PkB)
        droot, *dnodes = gradients
        return dx_PnB.permute(2, 0, 1), dleaves, droot[0], *reversed(dnodes)


def _cores(own: Tensor, places: int) -> Tensor:
    """A core for every place, the same one where all share it."""
    return own.expand(places, -1, -1)


def _add_to_cores(gradient: Tensor, here: slice, inputs_PmB: Tensor, adjoint_PkB: Tensor) -> None:
    """The gradient of the cores of some places, or what they add to that of the one which all places share."""
    if len(gradient) == 1:
        gradient += torch.bmm(inputs_PmB, adjoint_PkB.transpose(1, 2)).sum(0, keepdim=True)
    else:
        torch.bmm(inputs_PmB, adjoint_PkB.transpose(1, 2), out=gradient[here])


def _children(states_PrB: Tensor, here: slice) -> tuple[Tensor, Tensor]:
    """The left and the right children of some places of the level above."""
    return states_PrB[0::2][here], states_PrB[1::2][here]


def _pairs(left_PrB: Tensor, right_PrB: Tensor, scratch: Tensor) -> Tensor:
    """left[a] right[b] at every place, written into the scratch: (places, rank^2, batch)."""
    places, rank, batch = left_PrB.shape
    pairs_PrrB = scratch[:places].view(places, rank, rank, batch)
    return torch.mul(left_PrB.unsqueeze(2), right_PrB.unsqueeze(1), out=pairs_PrrB).flatten(1, 2)


def _places_at_once(states_PrB: Tensor) -> int:
    places, rank, batch = states_PrB.shape
    return min(places // 2, max(1, PAIRS_AT_ONCE // max(1, rank * rank * batch)))


def _pieces(places: int, step: int) -> list[slice]:
    return [slice(start, min(start + step, places)) for start in range(0, places, step)]
