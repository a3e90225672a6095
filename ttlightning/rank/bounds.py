r"""What a lower bound on the CP-rank means in parameters of a shallow network. Exact integers, no torch.

A bound R is a width: no narrower shallow network equals almost any tensor of these sizes. A shallow network of R units
has R d n parameters; a tensor train has n r + D n r^2 + n r C.
"""

import math


def shallow_parameters(units: int, mode_size: int, sites: int) -> int:
    r"""R d n: parameters of a shallow network of R units, each the product of d inner products with n features."""
    return units * sites * mode_size


def chain_parameters(mode_size: int, rank: int, distinct: int = 1, classes: int = 1) -> int:
    r"""n r + D n r^2 + n r C: parameters of a tensor train with D distinct interior cores (1 for equal cores)."""
    return mode_size * rank + distinct * mode_size * rank**2 + mode_size * rank * classes


def ratio(numerator: int, denominator: int) -> float:
    """The quotient of two positive integers of any size; inf if a float cannot hold it."""
    try:
        return numerator / denominator
    except OverflowError:
        return math.inf


def in_figures(number: int) -> str:
    """1,234 in full up to 10^15, larger numbers as 1.23e+482."""
    if number < 10**15:
        return f"{number:,}"
    exponent = math.floor(math.log10(number))
    exponent += (number >= 10 ** (exponent + 1)) - (number < 10**exponent)  # the logarithm is rounded
    return f"{number // 10 ** (exponent - 2) / 100:.2f}e+{exponent}"
