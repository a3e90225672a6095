r"""The chain kernel: one pass from the first site to the last.

    h_1[b]  = sum_i   f_1[i] F[i, b]
    h_k[b]  = sum_a,i h_{k-1}[a] f_k[i] G_k[i, a, b]          k = 2 .. d-1
    s[y]    = sum_a,i h_{d-1}[a] f_d[i] L[i, a, y]            [K18, Sec. 3.2]

Each site is one product of the joint vector (f_k x h_{k-1}), of length modes * rank, with the core as a matrix.

The state is never normalised: that would make the map nonlinear. Instead, every few sites a power of two is split off
each sample's state and counted in an integer. Multiplying by a power of two is exact, so the scores are those of plain
arithmetic to the last bit where plain arithmetic survives, and right where it would overflow or die (d = 784 and more).
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

SITES_PER_RESCALING = 8
"""In float32 a state may grow or shrink by 2^15 at each of so many sites before a rescaling would come too late."""


def chain_scores(
    features: Float[Tensor, "batch sites modes"],
    first: Float[Tensor, "modes rank"],
    interior: Float[Tensor, "distinct modes rank rank"],
    last: Float[Tensor, "modes rank classes"],
) -> tuple[Float[Tensor, "batch classes"], Int[Tensor, " batch"]]:
    """Scores as ``mantissa * 2**exponent`` per sample.

    ``interior`` has one core for each of the ``sites - 2`` interior sites, or a single one that all of them share.
    """
    sites = features.unbind(1)
    cores = interior.flatten(1, 2).unbind(0)
    if len(cores) == 1:
        cores = cores * (len(sites) - 2)
    state = sites[0] @ first
    exponent = torch.zeros(len(features), dtype=torch.int32, device=features.device)
    for k, (site, core) in enumerate(zip(sites[1:-1], cores, strict=True), start=2):
        state = _joint(site, state) @ core
        if k % SITES_PER_RESCALING == 0:
            state, shift = split_off_power_of_two(state)
            exponent = exponent + shift
    return _joint(sites[-1], state) @ last.flatten(0, 1), exponent


def _joint(site: Float[Tensor, "batch modes"], state: Float[Tensor, "batch rank"]) -> Float[Tensor, "batch modes*rank"]:
    return (site.unsqueeze(2) * state.unsqueeze(1)).flatten(1)


def split_off_power_of_two(
    state: Float[Tensor, "batch rank"],
) -> tuple[Float[Tensor, "batch rank"], Int[Tensor, " batch"]]:
    """``state = scaled * 2**exponent`` with the largest magnitude in each row of ``scaled`` in [1/2, 1)."""
    exponent = torch.frexp(state.detach().abs().amax(1)).exponent
    return scale_by_power_of_two(state, -exponent), exponent


def scale_by_power_of_two(
    values: Float[Tensor, "batch width"], exponent: Int[Tensor, " batch"]
) -> Float[Tensor, "batch width"]:
    """``values * 2**exponent`` row by row, exact; in two halves, since 2**exponent alone may be out of range."""
    half = exponent // 2
    return values * _power_of_two(half, values.dtype) * _power_of_two(exponent - half, values.dtype)


def _power_of_two(exponent: Int[Tensor, " batch"], dtype: torch.dtype) -> Float[Tensor, "batch 1"]:
    """2**exponent as a column, written into the exponent bits; past the range of normal numbers, its nearest end."""
    integer, bias, fraction_bits = _LAYOUTS[dtype]
    bits = (exponent.to(integer).clamp(1 - bias, bias) + bias) << fraction_bits
    return bits.view(dtype).unsqueeze(1)


_LAYOUTS = {torch.float32: (torch.int32, 127, 23), torch.float64: (torch.int64, 1023, 52)}
