r"""A format that the package does not know: a tensor ring, with what somebody writes who adds one.

W_y[i_1, ..., i_d] = trace(G_1[i_1] G_2[i_2] ... G_d[i_d] C_y)
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from ttlightning.formats import ScoreTensor
from ttlightning.formats.kernels.scales import scales_of
from ttlightning.formats.modular import Field, Residues, extend_states


class PlainTensorRing(ScoreTensor):
    """Only what training, checks and figures need; it has no exact scores."""

    def __init__(self, sites: int, mode_size: int, classes: int, width: int = 2) -> None:
        super().__init__(sites, mode_size, classes)
        self.ring = nn.Parameter(0.1 * torch.randn(sites, mode_size, width, width))
        self.closing = nn.Parameter(torch.randn(width, width, classes))
        with torch.no_grad():
            self.ring[:, -1] = torch.eye(width)

    @property
    def rank(self) -> int:
        return self.ring.shape[-1]

    def scaled_scores(self, features: Tensor) -> tuple[Tensor, Tensor]:
        state = torch.eye(self.rank, dtype=self.ring.dtype, device=features.device).expand(len(features), -1, -1)
        exponent = torch.zeros(len(features), dtype=torch.int32, device=features.device)
        for site in range(self.sites):
            state = torch.einsum("bxl,bn,nlr->bxr", state, features[:, site], self.ring[site])
            scales, exponents = scales_of(state, (1, 2))
            state, exponent = state * scales, exponent + exponents.flatten()
        return torch.einsum("bxl,lxy->by", state, self.closing), exponent


class TensorRing(PlainTensorRing):
    """The same with exact scores, for certificates."""

    def exact_scores(self, vectors: Sequence[Residues], field: Field) -> Iterable[Residues]:
        ring, closing = field.residues(self.ring), field.residues(self.closing)
        width = self.rank
        cores = [field.multiply(v, core.reshape(len(core), -1)) for v, core in zip(vectors, ring, strict=True)]
        cores = [core.reshape(-1, width, width) for core in cores]
        first = cores[0].reshape(-1, width)  # (count, x) x l: a state for every choice and every x
        states = extend_states(first, cores[1:], field).reshape(len(cores[0]), width, -1, width)
        whole = states.transpose(0, 2, 3, 1).reshape(-1, width * width)
        return field.multiply(whole, closing.reshape(width * width, -1)).T
