r"""The chain by differentiable operations, for autograd and everything that torch builds on it.

    h_k[b] = sum_a,i h_{k-1}[a] f_k[i] G_k[i, a, b]

The graph has about ten small operations per site. The other kernels compute the same sums with their own gradients.
"""

from torch import Tensor

from ttlightning.formats.kernels.scales import scales_of


def chain_by_operations(features: Tensor, first: Tensor, interior: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
    """Scores (batch, classes) as mantissa and exponent; every site splits off a power of two."""
    columns = features.unbind(1)
    state, exponent = _without_scale(columns[0] @ first)
    for column, core in zip(columns[1:-1], core_of_each_site(interior.flatten(1, 2), len(columns) - 2), strict=True):
        state, power = _without_scale(_joint(column, state) @ core)
        exponent = exponent + power
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
