r"""Powers of two for a program that leaves Python: ``torch.export`` and ONNX.

    exponent = floor(log2 |x|) + 1        power of two = table[exponent]

scales.py reads and writes the bits of a floating-point number, which ONNX cannot express. In an exported program the
exponent comes from a logarithm and the power of two from a table, so that it is exact on every runtime. If a logarithm
is rounded to an integer, a factor of 2 moves from the exponent to the mantissa, which changes no digit of a score.
"""

from collections.abc import Callable
from typing import Final

import torch
from jaxtyping import Float, Int
from torch import Tensor

SMALLEST: Final = {torch.float32: -126, torch.float64: -1022}
"""Exponent of the smallest normal number; the largest power of two has the exponent 1 - SMALLEST."""

is_exporting: Final[Callable[[], bool]] = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)
"""Whether ``torch.export`` records this call. Before version 2.7 torch cannot tell it from ``torch.compile``."""


def scales_by_logarithm(largest: Float[Tensor, "*rows"]) -> tuple[Float[Tensor, "*rows"], Int[Tensor, "*rows"]]:
    """Powers of two that bring positive numbers into [1/2, 1), up to the logarithm's rounding; the exponents they undo.

    0 counts as the smallest normal number, inf and NaN as the largest power of two whose inverse is normal.
    """
    dtype, smallest = largest.dtype, SMALLEST[largest.dtype]
    low, high = 2.0**smallest, 2.0 ** (-smallest - 1)
    inside = torch.where(largest < high, largest, high)  # NaN is not smaller
    exponent = torch.where(inside > low, inside, low).log2().floor().to(torch.int32) + 1
    return power_of_two_from_table(-exponent, dtype), exponent


def power_of_two_from_table(exponent: Int[Tensor, "*rows"], dtype: torch.dtype) -> Float[Tensor, "*rows"]:
    """2**exponent, clamped to the range of normal numbers."""
    smallest = SMALLEST[dtype]
    table = torch.tensor([2.0**k for k in range(smallest, 2 - smallest)], dtype=dtype, device=exponent.device)
    return table[exponent.clamp(smallest, 1 - smallest).to(torch.int64) - smallest]
