r"""Hierarchical Tucker: the weight tensor of a convolutional network with products for pooling, a binary tree.

    leaves   u_j = sum_i f_j[i] U_j[i]                        one vector of length r for each site j
    nodes    v = sum_ab left[a] right[b] B[a, b]              the sites of a level pairwise, halved from level to level
    root     score_y = sum_ab left[a] right[b] R_y[a, b]                                        [K18, Fig. 2; Sec. 4]

The number of sites is a power of two.
"""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ttlightning.errors import UserError
from ttlightning.formats.base import ScoreTensor, require_at_least
from ttlightning.formats.contraction import split_off_scale


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
        """A level of the tree is one batched product; the scale of each place is split off before the next."""
        states = features.transpose(0, 1) @ self.leaves  # (places, batch, rank)
        exponent = torch.zeros(len(features), dtype=torch.int32, device=features.device)
        for node in (*self.nodes, self.root.unsqueeze(0)):
            states, shifts = split_off_scale(states)
            exponent += shifts.sum(0, dtype=torch.int32)
            pairs = (states[0::2].unsqueeze(3) * states[1::2].unsqueeze(2)).flatten(2)
            states = pairs @ node.flatten(1, 2)
        return states[0], exponent

    def _distinct(self, places: int) -> int:
        return places


class SharedHierarchicalTucker(HierarchicalTucker):
    r"""Hierarchical Tucker with one node for all places of a level, one leaf for all sites: a convolution.

    Width: HT-rank r. Parameters: n r + (log2(d) - 1) r^3 + r^2 C.
    ``leaves`` has the shape (1, modes, rank), every entry of ``nodes`` (1, rank, rank, rank).
    """

    def _distinct(self, places: int) -> int:
        return 1
