r"""Hierarchical Tucker: the weight tensor of a convolutional network with products for pooling, a binary tree.

    leaves   u_j = sum_i f_j[i] U_j[i]                        one vector of length r for each site j
    nodes    v = sum_ab left[a] right[b] B[a, b]              the sites of a level pairwise, halved from level to level
    root     score_y = sum_ab left[a] right[b] R_y[a, b]                                        [K18, Fig. 2; Sec. 4]

The number of sites is a power of two.
"""

from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ttlightning.errors import UserError
from ttlightning.formats.base import ScoreTensor, require_at_least
from ttlightning.formats.contraction import split_off_scales


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

    A level is one batched product; the scale of each place is split off before. ``pairs`` are left[a] right[b]. The
    batch comes last in memory, where every operation runs along it.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor, leaves: Tensor, root: Tensor, *nodes: Tensor) -> tuple[Tensor, Tensor]:
        x_PnB = features.permute(1, 2, 0).contiguous()
        states_PrB, saved, all_exponents = _at_places(x_PnB, leaves), [], []
        for node in (*nodes, root.unsqueeze(0)):
            scales, exponents = split_off_scales(states_PrB)
            all_exponents.append(exponents)
            pairs_PrrB = states_PrB[0::2].unsqueeze(2) * states_PrB[1::2].unsqueeze(1)
            saved += [states_PrB, scales, pairs_PrrB]
            states_PrB = _at_places(pairs_PrrB.flatten(1, 2), node.flatten(1, 2))
        ctx.save_for_backward(x_PnB, leaves, root, *nodes, *saved)
        exponent = torch.cat(all_exponents).sum((0, 1), dtype=torch.int32)
        ctx.mark_non_differentiable(exponent)
        return states_PrB[0].T.contiguous(), exponent

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scores_BC: Tensor, _: Tensor) -> tuple[Tensor, ...]:
        x_PnB, leaves, root, *others = ctx.saved_tensors
        levels = (len(others) + 1) // 4  # a node, states, scales and pairs for each; the root has no node
        nodes, saved = others[: levels - 1], others[levels - 1 :]
        adjoint_PrB, gradients = scores_BC.T.unsqueeze(0), []
        for node in (root.unsqueeze(0), *reversed(nodes)):
            *saved, states_PrB, scales, pairs_PrrB = saved
            dnode, dpairs_PpB = _back_to_places(pairs_PrrB.flatten(1, 2), node.flatten(1, 2), adjoint_PrB)
            gradients.append(dnode.view_as(node))
            dpairs_PrrB = dpairs_PpB.view_as(pairs_PrrB)
            adjoint_PrB = torch.empty_like(states_PrB)
            torch.sum(dpairs_PrrB * states_PrB[1::2].unsqueeze(1), 2, out=adjoint_PrB[0::2])
            torch.sum(dpairs_PrrB.mul_(states_PrB[0::2].unsqueeze(2)), 1, out=adjoint_PrB[1::2])
            adjoint_PrB.mul_(scales)
        dleaves, dx_PnB = _back_to_places(x_PnB, leaves, adjoint_PrB)
        droot, *dnodes = gradients
        return dx_PnB.permute(2, 0, 1), dleaves, droot[0], *reversed(dnodes)


def _at_places(inputs_PmB: Tensor, cores_Pmk: Tensor) -> Tensor:
    """At each place its inputs times its core, or times the one core of all places."""
    return torch.bmm(cores_Pmk.transpose(1, 2).expand(len(inputs_PmB), -1, -1), inputs_PmB)


def _back_to_places(inputs_PmB: Tensor, cores_Pmk: Tensor, adjoint_PkB: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of the cores and of the inputs."""
    dcores = torch.bmm(inputs_PmB, adjoint_PkB.transpose(1, 2))
    if len(cores_Pmk) < len(inputs_PmB):
        dcores = dcores.sum(0, keepdim=True)
    return dcores, torch.bmm(cores_Pmk.expand(len(inputs_PmB), -1, -1), adjoint_PkB)
