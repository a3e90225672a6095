r"""The chain by torch's operations: one pass from the first site to the last, and one pass back, written by hand.

The forward pass is the recurrence in dispatch.py. With the adjoint states p_k = dLoss/dh_k the backward pass is a chain
of the same shape, from the last site to the first,

    p_{k-1}[a] = sum_i,b f_k[i] p_k[b] G_k[i, a, b],

and the outer products O_k = h_{k-1} (x) p_k give the gradients of many sites at once:

    dLoss/dG_k[i] = sum over samples of f_k[i] O_k,           dLoss/df_k[i] = <O_k, G_k[i]>.

Each site is one product of the joint vector f x h (or f x p), of length modes * rank, with the core as a matrix. Only
the states are kept between the passes: batch * rank numbers per site. If a site is so much arithmetic that the number
of operations no longer matters, the backward pass goes site by site, with Q_k[i] = G_k[i] p_k:

    p_{k-1} = sum_i f_k[i] Q_k[i],   dLoss/df_k[i] = <h_{k-1}, Q_k[i]>,   dLoss/dG_k = sum over samples (f x h) (x) p_k,

which is one product of that size less.

Two kinds of powers of two are split off (scales.py). Before any product: the size of each site, which is the largest
|f_k[i]| of a sample times the largest |G_k[i, a, b]|. After every ``SITES_PER_RESCALING`` sites: the size of the state.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ttlightning.formats.kernels.derivatives import gradients
from ttlightning.formats.kernels.recurrence import SITES_PER_RESCALING, chain_by_operations, core_of_each_site
from ttlightning.formats.kernels.scales import scales_of, split_off_power_of_two, split_off_scales

# Dimensions: K sites, B batch, n mode size, r rank, C classes, D distinct interior cores (1 or K - 2).
NUMBERS_AT_ONCE = 1 << 20
"""Numbers in the outer products O_k that the backward pass holds at once, so that they stay in the cache."""
ARITHMETIC_PER_SITE = 16_000_000
"""Multiply-adds of a site, batch * modes * rank^2. From this number on, the backward pass goes site by site."""
Scales = Sequence[Tensor]
"""The factors that every ``SITES_PER_RESCALING``-th state was multiplied by."""


class TorchChain(torch.autograd.Function):
    """(features, first, interior, last) -> (scores, exponent), to be multiplied by ``2**exponent``."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, first: Tensor, interior: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
        x_KBn, h_KBr, cores, exponent, sizes = balanced(features, first, interior)
        sites, batch, mode_size = x_KBn.shape
        joint_Bnr = x_KBn.new_empty(batch, mode_size, first.shape[1])
        joint = joint_Bnr.flatten(1)
        columns, rows, states = x_KBn.unsqueeze(3).unbind(0), h_KBr.unsqueeze(2).unbind(0), h_KBr.unbind(0)
        scales = []
        for k, core in enumerate(core_of_each_site(cores.flatten(1, 2), sites - 2), start=1):
            torch.mul(columns[k], rows[k - 1], out=joint_Bnr)
            torch.mm(joint, core, out=states[k])
            if (k + 1) % SITES_PER_RESCALING == 0:
                scale, shift = split_off_power_of_two(states[k])
                scales.append(scale)
                exponent += shift
        torch.mul(columns[-1], rows[-1], out=joint_Bnr)
        ctx.save_for_backward(features, first, interior, last, exponent, x_KBn, h_KBr, cores, *sizes, *scales)
        ctx.mark_non_differentiable(exponent)
        return joint @ last.flatten(0, 1), exponent

    @staticmethod
    def backward(ctx: Any, scores_BC: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        return gradients(ctx, scores_BC, 4, _by_hand, chain_by_operations)


def _by_hand(
    _: Any, scores_BC: Tensor, inputs: tuple[Tensor, ...], saved: tuple[Tensor, ...], *_exponent: Tensor
) -> tuple[Tensor, ...]:
    h_KBr, mode_size = saved[1], inputs[0].shape[2]
    arithmetic = h_KBr[0].numel() * mode_size * h_KBr.shape[2]
    way_back = _site_by_site if arithmetic >= ARITHMETIC_PER_SITE else _chain_then_outer
    return backward_from_last_site(scores_BC, inputs, saved, way_back)


def balanced(
    features: Tensor, first: Tensor, interior: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, tuple[Tensor, Tensor, Tensor]]:
    """Divide features, interior cores and the first state by the powers of two that are their sizes.

    Returns x_KBn, an uninitialized h_KBr whose first state is filled in, the cores, the exponent split off from each
    sample, and the factors of the features (batch, sites, 1), of the cores and of the first state.
    """
    batch, sites, mode_size = features.shape
    feature_scales, feature_exponents = scales_of(features, 2)
    core_scales, core_exponents = scales_of(interior, (1, 2, 3))
    x_KBn = features.new_empty(sites, batch, mode_size)
    torch.mul(features.transpose(0, 1), feature_scales.transpose(0, 1), out=x_KBn)
    h_KBr = features.new_empty(sites - 1, batch, first.shape[1])
    state_scales, state_exponents = split_off_scales(torch.mm(x_KBn[0], first, out=h_KBr[0]))
    core_exponent = core_exponents.expand(sites - 2, 1, 1, 1).sum(dtype=torch.int32)
    exponent = feature_exponents.sum((1, 2), dtype=torch.int32) + state_exponents.squeeze(1) + core_exponent
    return x_KBn, h_KBr, interior * core_scales, exponent, (feature_scales, core_scales, state_scales)


def backward_from_last_site(
    scores_BC: Tensor, inputs: tuple[Tensor, ...], saved: tuple[Tensor, ...], way_back: Callable[..., Tensor]
) -> tuple[Tensor, ...]:
    """Gradients of features and cores; ``way_back`` computes those of the interior sites."""
    _, first, _, last = inputs
    x_KBn, h_KBr, cores, feature_scales, core_scales, state_scales, *scales = saved
    dx_KBn = torch.empty_like(x_KBn)
    p_KBr = torch.empty_like(h_KBr)

    at_last_Bnr = (scores_BC @ last.flatten(0, 1).T).unflatten(1, last.shape[:2])
    joint_Bnr = x_KBn[-1].unsqueeze(2) * h_KBr[-1].unsqueeze(1)
    dlast = (joint_Bnr.flatten(1).T @ scores_BC).view_as(last)
    torch.sum(at_last_Bnr * h_KBr[-1].unsqueeze(1), 2, out=dx_KBn[-1])
    torch.sum(at_last_Bnr * x_KBn[-1].unsqueeze(2), 1, out=p_KBr[-1])

    dinterior = way_back(x_KBn, h_KBr, p_KBr, cores, scales, joint_Bnr, dx_KBn)
    p_KBr[0].mul_(state_scales)
    dfirst = x_KBn[0].T @ p_KBr[0]
    torch.mm(p_KBr[0], first.T, out=dx_KBn[0])
    dfeatures = dx_KBn.mul_(feature_scales.transpose(0, 1)).transpose(0, 1)
    return dfeatures, dfirst, dinterior.mul_(core_scales), dlast


def scale_behind(scales: Scales, k: int) -> Tensor | None:
    """The factor that the state after site ``k`` was multiplied by; None if the site has no rescaling."""
    return scales[(k + 1) // SITES_PER_RESCALING - 1] if k and (k + 1) % SITES_PER_RESCALING == 0 else None


def _chain_then_outer(
    x_KBn: Tensor, h_KBr: Tensor, p_KBr: Tensor, cores: Tensor, scales: Scales, joint_Bnr: Tensor, dx: Tensor
) -> Tensor:
    """Fill the adjoint states and the interior part of ``dx``; return the gradient of the interior cores."""
    sites, joint = len(x_KBn), joint_Bnr.flatten(1)
    columns, rows, adjoints = x_KBn.unsqueeze(3).unbind(0), p_KBr.unsqueeze(2).unbind(0), p_KBr.unbind(0)
    backwards = core_of_each_site(cores.transpose(2, 3).flatten(1, 2), sites - 2)
    for k in range(sites - 2, 0, -1):
        if (scale := scale_behind(scales, k)) is not None:
            adjoints[k].mul_(scale)
        torch.mul(columns[k], rows[k], out=joint_Bnr)
        torch.mm(joint, backwards[k - 1], out=adjoints[k - 1])
    return interior_gradients(x_KBn[1:-1], h_KBr[:-1], p_KBr[1:], cores, dx[1:-1])


def _site_by_site(
    x_KBn: Tensor, h_KBr: Tensor, p_KBr: Tensor, cores: Tensor, scales: Scales, joint_Bnr: Tensor, dx: Tensor
) -> Tensor:
    """The same with Q_k: three products per site instead of four, and more small operations."""
    q_Bnr, joint = torch.empty_like(joint_Bnr), joint_Bnr.flatten(1)
    gradient = torch.zeros_like(cores, memory_format=torch.contiguous_format)
    for k in range(len(x_KBn) - 2, 0, -1):
        if (scale := scale_behind(scales, k)) is not None:
            p_KBr[k].mul_(scale)
        site = 0 if len(cores) == 1 else k - 1
        core = cores[site].flatten(0, 1)
        torch.mul(x_KBn[k].unsqueeze(2), h_KBr[k - 1].unsqueeze(1), out=joint_Bnr)
        gradient[site].flatten(0, 1).addmm_(joint.T, p_KBr[k])
        torch.mm(p_KBr[k], core.T, out=q_Bnr.flatten(1))
        torch.sum(torch.mul(q_Bnr, h_KBr[k - 1].unsqueeze(1), out=joint_Bnr), 2, out=dx[k])
        torch.sum(q_Bnr.mul_(x_KBn[k].unsqueeze(2)), 1, out=p_KBr[k - 1])
    return gradient


def interior_gradients(x_KBn: Tensor, h_KBr: Tensor, p_KBr: Tensor, cores: Tensor, dx_KBn: Tensor) -> Tensor:
    """Return the gradient of the interior cores; write the gradient of the features into ``dx_KBn``."""
    sites, batch, mode_size = x_KBn.shape
    distinct, rank = cores.shape[0], cores.shape[-1]
    gradient = torch.zeros_like(cores, memory_format=torch.contiguous_format).view(distinct, mode_size, rank * rank)
    matrices = cores.reshape(distinct, mode_size, rank * rank).transpose(1, 2)
    shared = distinct < sites
    step = max(1, NUMBERS_AT_ONCE // max(1, batch * rank * rank))
    for start in range(0, sites, step):
        here = slice(start, min(start + step, sites))
        mine = slice(0, 1) if shared else here
        groups = (1 if shared else here.stop - here.start, -1)
        outer = (h_KBr[here].unsqueeze(3) * p_KBr[here].unsqueeze(2)).view(*groups, rank * rank)
        x = x_KBn[here].view(*groups, mode_size)
        gradient[mine].baddbmm_(x.transpose(1, 2), outer)
        torch.bmm(outer, matrices[mine], out=dx_KBn[here].view(*groups, mode_size))
    return gradient.view_as(cores)
