r"""Powers of two, split off numbers and counted in integers.

    value = mantissa * 2^exponent

A product with a power of two is exact while it stays in range. Splitting a scale off therefore changes no bit of a
result that plain arithmetic gets right, and keeps results that would overflow or underflow. Autograd treats a scale as
a constant.
"""

from typing import Final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ttlightning.formats.kernels.exporting import is_exporting, power_of_two_from_table, scales_by_logarithm

LAYOUTS: Final = {torch.float32: (torch.int32, 127, 23), torch.float64: (torch.int64, 1023, 52)}
"""Layout of each floating-point type: integer of the same size, exponent bias, bits of the fraction."""


def scales_of(values: Tensor, dim: int | tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Powers of two that bring the largest magnitude along ``dim``, which is kept, into [1/2, 1).

    Returns the factors and the exponents that they undo. The factor keeps 0 at 0 and inf at inf.
    """
    tiny = torch.finfo(values.dtype).tiny
    largest = values.detach().abs().amax(dim, keepdim=True)
    if is_exporting():
        return scales_by_logarithm(largest)
    largest = largest.clamp(tiny, 0.5 / tiny)  # its inverse is in range
    fraction, exponents = torch.frexp(largest)
    return fraction.div_(largest), exponents


def split_off_scales(values: Tensor, dim: int | tuple[int, ...] = 1) -> tuple[Tensor, Tensor]:
    """Multiply in place by ``scales_of``; return the factors and the exponents that they undo."""
    scales, exponents = scales_of(values, dim)
    values.mul_(scales)
    return scales, exponents


def split_off_power_of_two(state_Br: Float[Tensor, "batch rank"]) -> tuple[Tensor, Tensor]:
    """Scale the state in place to a largest magnitude in [1/2, 1); return the factor and the exponent it undoes."""
    range_ = LAYOUTS[state_Br.dtype][1] - 1
    exponent = torch.frexp(state_Br.abs().amax(1)).exponent.clamp(-range_, range_)
    scale = _power_of_two(-exponent, state_Br.dtype)
    state_Br.mul_(scale)
    return scale, exponent


def scale_by_power_of_two(
    values: Float[Tensor, "batch width"], exponent: Int[Tensor, " batch"]
) -> Float[Tensor, "batch width"]:
    """``values * 2**exponent`` per row, exact; in three factors, because 2**exponent alone may be out of range."""
    part = exponent // 3
    third = _power_of_two(part, values.dtype)
    return values * third * third * _power_of_two(exponent - 2 * part, values.dtype)


def below_the_largest(
    mantissa: Float[Tensor, "batch width"], exponent: Int[Tensor, " batch"]
) -> Float[Tensor, "batch width"]:
    """Scores minus the largest score of their sample, which is all that softmax and cross-entropy need.

    The mantissas are subtracted before the scale is multiplied back. Scores out of range therefore have differences
    too, and scores in range have them to the bit. A difference out of range is -inf, and never 0 unless the scores are
    equal. All differences of a sample are NaN if one of its scores is inf or NaN.
    """
    below = mantissa - mantissa.amax(1, keepdim=True)
    scaled = scale_by_power_of_two(below, exponent)
    return torch.where(below < 0, scaled.clamp(max=-torch.finfo(scaled.dtype).tiny), scaled)


def _power_of_two(exponent: Int[Tensor, "*rows"], dtype: torch.dtype) -> Float[Tensor, "*rows 1"]:
    """2**exponent as a column, written into the exponent bits and clamped to the range of normal numbers.

    ``torch.func.vmap`` of torch 2.6 to 2.11 cannot reinterpret bits, so its calls look the same numbers up.
    """
    if is_exporting() or torch._C._are_functorch_transforms_active():
        return power_of_two_from_table(exponent, dtype).unsqueeze(-1)
    integer, bias, fraction_bits = LAYOUTS[dtype]
    bits = (exponent.to(integer).clamp(1 - bias, bias) + bias) << fraction_bits
    return bits.view(dtype).unsqueeze(-1)
