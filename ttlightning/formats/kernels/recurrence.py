r"""The chain by differentiable operations, for autograd and everything that torch builds on it.

    h_k[b] = sum_a,i h_{k-1}[a] f_k[i] G_k[i, a, b]

The graph has three small operations per site. The other kernels compute the same sums with their own gradients.

Two kinds of powers of two are split off (scales.py). Before any product: the size of each site, which is the largest
|f_k[i]| of a sample times the largest |G_k[i, a, b]|. After every ``SITES_PER_RESCALING`` sites: the size of the state.
"""

from typing import Final

import torch
from torch import Tensor

from ttlightning.formats.kernels.scales import scales_of

SITES_PER_RESCALING: Final = 8
"""In float32 a state may grow or shrink by 2^15 per site, beside the size of the site, between two rescalings."""


def chain_by_operations(features: Tensor, first: Tensor, interior: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
    """Scores (batch, classes) as mantissa and exponent."""
    sites = features.shape[1]
    feature_scales, feature_exponents = scales_of(features, 2)
    columns = (features * feature_scales).unbind(1)
    state, state_exponents = _without_scale(columns[0] @ first)
    exponent = feature_exponents.sum((1, 2), dtype=torch.int32) + state_exponents
    if sites > 2:
        core_scales, core_exponents = scales_of(interior, (1, 2, 3))
        exponent = exponent + core_exponents.expand(sites - 2, 1, 1, 1).sum(dtype=torch.int32)
        cores = core_of_each_site((interior * core_scales).flatten(1, 2), sites - 2)
        for k, (column, core) in enumerate(zip(columns[1:-1], cores, strict=True), start=1):
            state = _joint(column, state) @ core
            if (k + 1) % SITES_PER_RESCALING == 0:
                state, state_exponents = _without_scale(state)
                exponent = exponent + state_exponents
    return _joint(columns[-1], state) @ last.flatten(0, 1), exponent


def core_of_each_site(cores: Tensor, sites: int) -> tuple[Tensor, ...]:
    """One core per site, the same core for all sites if they share it."""
    distinct = cores.unbind(0)
    return distinct * sites if len(distinct) == 1 else distinct


def _joint(column_Bn: Tensor, state_Br: Tensor) -> Tensor:
    return (column_Bn.unsqueeze(2) * state_Br.unsqueeze(1)).flatten(1)


def _without_scale(state_Br: Tensor) -> tuple[Tensor, Tensor]:
    scales, exponents = scales_of(state_Br, 1)
    return state_Br * scales, exponents.squeeze(1)
