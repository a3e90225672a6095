r"""Powers of two that are split off numbers and counted in integers.

    value = mantissa * 2^exponent

A multiplication by a power of two is exact while it stays in range, so that splitting a scale off changes no bit of
what plain arithmetic gets right, and keeps what it would lose. A scale is a constant to autograd.
"""

from typing import Final

import torch
from jaxtyping import Float, Int
from torch import Tensor

LAYOUTS: Final = {torch.float32: (torch.int32, 127, 23), torch.float64: (torch.int64, 1023, 52)}
"""The bits of a floating-point number: the integer of its size, the exponent's bias, the fraction's length."""


def scales_of(values: Tensor, dim: int | tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Powers of two that bring the largest magnitude along ``dim``, which is kept, into [1/2, 1).

    Returns the factors and the exponents that they undo. 0 gets one that leaves it 0, inf one that leaves it inf.
    """
    tiny = torch.finfo(values.dtype).tiny
    largest = values.detach().abs().amax(dim, keepdim=True).clamp(tiny, 0.5 / tiny)  # so that its inverse is in range
    fraction, exponents = torch.frexp(largest)
    return fraction.div_(largest), exponents


def split_off_scales(values: Tensor, dim: int = 1) -> tuple[Tensor, Tensor]:
    """Scale in place by ``scales_of``; return the factors and the exponents that they undo."""
    scales, exponents = scales_of(values, dim)
    values.mul_(scales)
    return scales, exponents


def split_off_power_of_two(state_Br: Float[Tensor, "batch rank"]) -> tuple[Tensor, Tensor]:
    """Scale the state in place to a largest magnitude in [1/2, 1); return the factor and the power that it undoes."""
    range_ = LAYOUTS[state_Br.dtype][1] - 1
    exponent = torch.frexp(state_Br.abs().amax(1)).exponent.clamp(-range_, range_)
    scale = _power_of_two(-exponent, state_Br.dtype)
    state_Br.mul_(scale)
    return scale, exponent


def scale_by_power_of_two(
    values: Float[Tensor, "batch width"], exponent: Int[Tensor, " batch"]
) -> Float[Tensor, "batch width"]:
    """``values * 2**exponent`` row by row, exact; in three parts, since 2**exponent alone may be out of range."""
    part = exponent // 3
    third = _power_of_two(part, values.dtype)
    return values * third * third * _power_of_two(exponent - 2 * part, values.dtype)


def below_the_largest(
    mantissa: Float[Tensor, "batch width"], exponent: Int[Tensor, " batch"]
) -> Float[Tensor, "batch width"]:
    """By how much every score lies below the largest of its sample: softmax and cross-entropy know no more of them.

    The differences of the mantissas are taken before the scale returns, so that scores out of range have them too, and
    scores in range have them to the bit; -inf where a difference is out of range, never 0 where there is one; NaN for
    all scores of a sample of which one is inf or NaN.
    """
    below = mantissa - mantissa.amax(1, keepdim=True)
    scaled = scale_by_power_of_two(below, exponent)
    return torch.where(below < 0, scaled.clamp(max=-torch.finfo(scaled.dtype).tiny), scaled)


def _power_of_two(exponent: Int[Tensor, "*rows"], dtype: torch.dtype) -> Float[Tensor, "*rows 1"]:
    """2**exponent as a column, written into the exponent bits; past the range of normal numbers, its nearest end."""
    integer, bias, fraction_bits = LAYOUTS[dtype]
    bits = (exponent.to(integer).clamp(1 - bias, bias) + bias) << fraction_bits
    return bits.view(dtype).unsqueeze(-1)
