r"""Singular values: of a matrix, and of a tensor train at each of its bonds.

Across bond k the tensor is a matrix, (i_1 ... i_k) x (i_{k+1} ... i_d, y). Its singular values are computed without
forming it. QR from the right makes the cores right of the bond orthogonal, the SVDs make the cores left of it
orthogonal. Then the large matrix has the singular values of the small matrix between them [Oseledets 2011, Sec. 3].
"""

import torch
from jaxtyping import Float
from torch import Tensor


def numerical_rank(singular_values: Float[Tensor, "*batch size"], tolerance: float) -> Tensor:
    """How many singular values exceed ``tolerance`` times the largest; 0 for a zero matrix."""
    largest = singular_values.amax(-1, keepdim=True)
    return (singular_values > tolerance * largest).sum(-1)


def stable_rank(singular_values: Float[Tensor, "*batch size"]) -> Tensor:
    r"""|A|_F^2 / |A|_2^2 = sum_i s_i^2 / max_i s_i^2, between 1 and the rank."""
    squares = _relative(singular_values).square()
    return squares.sum(-1)


def entropy(singular_values: Float[Tensor, "*batch size"]) -> Tensor:
    r"""- sum_i p_i log p_i with p_i = s_i^2 / sum_j s_j^2, in nats, between 0 and log(rank); 0 for a zero matrix."""
    squares = _relative(singular_values).square()
    total = squares.sum(-1, keepdim=True)
    p = torch.where(total > 0, squares / total, squares)
    return -torch.special.xlogy(p, p).sum(-1)


def bond_spectra(cores: list[Float[Tensor, "left modes right"]]) -> list[Float[Tensor, " rank"]]:
    """Singular values at the d - 1 bonds, descending, each list scaled to a largest value of 1.

    ``cores`` are (r_{k-1}, n, r_k) with r_0 = 1. An open index at the right end (the classes) belongs to the last mode.
    Computed in float64. A zero tensor gives zeros.
    """
    exact = [core.detach().to(device="cpu", dtype=torch.float64) for core in cores]
    carried = exact[-1].flatten(1)
    orthogonal = []
    for core in reversed(exact[:-1]):
        q, r = torch.linalg.qr(carried.T)
        orthogonal.append(q.T)
        carried = _normalised(torch.einsum("lnr,rq->lnq", core, r.T)).flatten(1)
    orthogonal.append(carried)
    orthogonal.reverse()

    spectra = []
    left = torch.ones(1, 1, dtype=torch.float64)
    for matrix, core in zip(orthogonal[:-1], exact[:-1], strict=True):
        mode_size = core.shape[1]
        joined = torch.einsum("al,lnq->anq", left, matrix.reshape(left.shape[1], mode_size, -1)).flatten(0, 1)
        _, values, right = torch.linalg.svd(joined, full_matrices=False)
        spectra.append(_relative(values))
        left = values.unsqueeze(1) / values.max().clamp_min(torch.finfo(values.dtype).tiny) * right
    return spectra


def _relative(values: Float[Tensor, "*batch size"]) -> Float[Tensor, "*batch size"]:
    largest = values.amax(-1, keepdim=True)
    return torch.where(largest > 0, values / largest, values)


def _normalised(core: Tensor) -> Tensor:
    largest = core.abs().max()
    return core / largest if largest > 0 else core
