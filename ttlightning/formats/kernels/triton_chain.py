r"""The chain on a GPU in two launches: all site matrices in one product, then one program per sample.

    M_k[b] = sum_i f_k[b, i] G_k[i]            one product over all sites and samples
    h_k = h_{k-1} M_k                          one launch from the first interior site to the last
    p_{k-1} = M_k p_k                          one launch back
    dLoss/dG, dLoss/df                         from the outer products h_{k-1} (x) p_k, as in torch_chain.py

torch_chain.py makes about ten launches per site. Here the number of launches does not depend on d. The price is memory
for batch * d * rank^2 numbers, which the backward pass computes again. No sum uses atomics, so the same input gives the
same bits.

``TTLIGHTNING_KERNEL=triton`` selects this kernel. Tests compare it with torch_chain.py in Triton's interpreter on a CPU
and compile it for an H100 (tests/formats/kernels/test_triton_chain.py). It has not run on a GPU yet, so it is never
selected by default.
"""

from typing import Any, Final

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from ttlightning.formats.kernels.derivatives import gradients
from ttlightning.formats.kernels.recurrence import SITES_PER_RESCALING, chain_by_operations
from ttlightning.formats.kernels.torch_chain import (
    Scales,
    backward_from_last_site,
    balanced,
    interior_gradients,
)

# Dimensions: K sites, B batch, n mode size, r rank, C classes, D distinct interior cores (1 or K - 2).
LARGEST_RANK: Final = 128
"""Each program holds a matrix of rank x rank numbers in its registers."""


class TritonChain(torch.autograd.Function):
    """(features, first, interior, last) -> (scores, exponent), to be multiplied by ``2**exponent``."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, first: Tensor, interior: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
        x_KBn, h_KBr, cores, exponent, sizes_ = balanced(features, first, interior)
        sites, batch, _ = x_KBn.shape
        scales = x_KBn.new_ones((sites - 1) // SITES_PER_RESCALING, batch, 1)
        _launch(_states_kernel, _matrices(x_KBn, cores), h_KBr, scales, exponent, **layout(x_KBn.dtype))
        joint_Bnr = x_KBn[-1].unsqueeze(2) * h_KBr[-1].unsqueeze(1)
        ctx.save_for_backward(features, first, interior, last, exponent, x_KBn, h_KBr, cores, *sizes_, scales)
        ctx.mark_non_differentiable(exponent)
        return joint_Bnr.flatten(1) @ last.flatten(0, 1), exponent

    @staticmethod
    def backward(ctx: Any, scores_BC: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        return gradients(ctx, scores_BC, 4, _by_hand, chain_by_operations)


def _by_hand(
    _: Any, scores_BC: Tensor, inputs: tuple[Tensor, ...], saved: tuple[Tensor, ...], *_exponent: Tensor
) -> tuple[Tensor, ...]:
    return backward_from_last_site(scores_BC, inputs, saved, _way_back)


def _way_back(
    x_KBn: Tensor, h_KBr: Tensor, p_KBr: Tensor, cores: Tensor, scales: Scales, _: Tensor, dx: Tensor
) -> Tensor:
    """Fill the adjoint states and the interior part of ``dx``; return the gradient of the interior cores."""
    _launch(_adjoints_kernel, _matrices(x_KBn, cores), p_KBr, scales[0])
    return interior_gradients(x_KBn[1:-1], h_KBr[:-1], p_KBr[1:], cores, dx[1:-1])


def _matrices(
    x_KBn: Float[Tensor, "sites batch modes"], cores: Float[Tensor, "distinct modes rank rank"]
) -> Float[Tensor, "interior batch rank*rank"]:
    """M_k[b] of all interior sites."""
    interior = x_KBn[1:-1]
    if len(cores) == 1:
        return (interior.flatten(0, 1) @ cores[0].flatten(1)).unflatten(0, interior.shape[:2])
    return torch.bmm(interior, cores.flatten(2))


def _launch(kernel: Any, matrices: Tensor, states_KBr: Tensor, *others: Tensor, **constants: Any) -> None:
    interior, (batch, rank) = len(matrices), states_KBr.shape[1:]
    if interior and batch:
        kernel[(batch,)](matrices, states_KBr, *others, batch, interior, rank, **sizes(rank), **constants)


def sizes(rank: int) -> dict[str, int]:
    """Compile-time constants of both kernels: sites per rescaling, and the padded size of a matrix."""
    return {"RESCALE": SITES_PER_RESCALING, "BLOCK": triton.next_power_of_2(rank)}


def layout(dtype: torch.dtype) -> dict[str, Any]:
    """Compile-time constants of the forward kernel: the bits of a floating-point number."""
    double = dtype == torch.float64
    return {
        "INTEGER": tl.int64 if double else tl.int32,
        "BIAS": 1023 if double else 127,
        "FRACTION": 52 if double else 23,
    }


@triton.jit
def _matrix(matrices, k, sample, batch, rank, BLOCK: tl.constexpr):
    """M_k of a sample, padded with zeros."""
    a = tl.arange(0, BLOCK)
    inside = a < rank
    offset = ((k - 1) * batch + sample).to(tl.int64) * rank * rank
    cells = matrices + offset + a[:, None] * rank + a[None, :]
    return tl.load(cells, mask=inside[:, None] & inside[None, :], other=0.0)


@triton.jit
def _states_kernel(
    matrices, states, scales, exponent, batch, interior, rank,
    RESCALE: tl.constexpr, BLOCK: tl.constexpr, INTEGER: tl.constexpr, BIAS: tl.constexpr, FRACTION: tl.constexpr,
):  # fmt: skip
    """h_k = h_{k-1} M_k for a sample; every RESCALE-th site splits off a power of two and counts it."""
    sample = tl.program_id(0)
    a = tl.arange(0, BLOCK)
    state = tl.load(states + sample * rank + a, mask=a < rank, other=0.0)
    counted = tl.load(exponent + sample)
    for k in range(1, interior + 1):
        state = tl.sum(state[:, None] * _matrix(matrices, k, sample, batch, rank, BLOCK), 0)
        if (k + 1) % RESCALE == 0:
            # frexp of the largest entry by its bits: power 0 for 0, inf and nan, the end of the range for subnormals
            largest = tl.max(tl.abs(state), 0)
            field = (largest.to(INTEGER, bitcast=True) >> FRACTION) & (2 * BIAS + 1)
            power = tl.where((field == 2 * BIAS + 1) | (largest == 0), 0, field - (BIAS - 1))
            power = tl.maximum(tl.minimum(power, BIAS - 1), 1 - BIAS)
            scale = ((BIAS - power) << FRACTION).to(state.dtype, bitcast=True)
            state = state * scale
            counted += power.to(tl.int32)
            tl.store(scales + ((k + 1) // RESCALE - 1) * batch + sample, scale)
        tl.store(states + (k * batch + sample).to(tl.int64) * rank + a, state, mask=a < rank)
    tl.store(exponent + sample, counted)


@triton.jit
def _adjoints_kernel(matrices, adjoints, scales, batch, interior, rank, RESCALE: tl.constexpr, BLOCK: tl.constexpr):
    """p_{k-1} = M_k p_k for a sample, after p_k is multiplied by the scale of h_k."""
    sample = tl.program_id(0)
    a = tl.arange(0, BLOCK)
    adjoint = tl.load(adjoints + (interior * batch + sample).to(tl.int64) * rank + a, mask=a < rank, other=0.0)
    for back in range(0, interior):
        k = interior - back
        if (k + 1) % RESCALE == 0:
            adjoint = adjoint * tl.load(scales + ((k + 1) // RESCALE - 1) * batch + sample)
            tl.store(adjoints + (k * batch + sample).to(tl.int64) * rank + a, adjoint, mask=a < rank)
        adjoint = tl.sum(_matrix(matrices, k, sample, batch, rank, BLOCK) * adjoint[None, :], 1)
        tl.store(adjoints + ((k - 1) * batch + sample).to(tl.int64) * rank + a, adjoint, mask=a < rank)
