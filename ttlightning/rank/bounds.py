r"""Lower bounds on the CP-rank of tensor trains: the units that a shallow network needs to say the same.

The CP-rank of a tensor is at least the rank of each of its matricizations. All three bounds speak of the one with the
odd sites as rows and the even sites as columns, and hold for almost every tensor: outside a set of measure zero.
d sites, mode size n, TT-rank r. Exact integers.

A bound R is a width below which no shallow network equals almost any network of these sizes; with R units it has R d n
parameters (``shallow_parameters``), where the chain has n r + n r^2 + n r (``chain_parameters``).
"""

import math

from ttlightning.rank.limits import LARGEST_BOUND


def cp_rank_bound_k18(mode_size: int, rank: int, sites: int) -> int:
    r"""min(n, r)^floor(d/2), different cores. [K18, Theorem 1], even d; for odd d fix the last site's index."""
    return min(mode_size, rank) ** (sites // 2)


def cp_rank_bound_a24(mode_size: int, rank: int, sites: int) -> int:
    r"""min(n, r-1)^floor(d/2), equal cores. [A24], stated for even d. At r = 1 it says nothing: 1."""
    return max(1, min(mode_size, rank - 1)) ** (sites // 2)


def generic_odd_even_rank(mode_size: int, rank: int, sites: int) -> int:
    r"""The rank that the odd/even matricization of almost every tensor train has, with different or with equal cores.

    d = 2k:      min(n, r) min(n, r^2)^(k-1)
    d = 2k + 1:  min(n, r^2)^k

    It cannot be more: an interior even site touches two bonds, an end site one. That it is reached, for equal cores
    too, is this project's own sharpening of [K18] and [A24]; proof and checks: docs/theorem.md.
    """
    interior = min(mode_size, rank**2)
    if sites % 2:
        return interior ** (sites // 2)
    return min(mode_size, rank) * interior ** (sites // 2 - 1)


def generic_tree_rank(mode_size: int, rank: int, sites: int) -> int:
    r"""min(n, r)^(d/2): the same rank of almost every hierarchical Tucker tensor, with own or with shared nodes.

    It cannot be more: an odd site's leaf has no more than min(n, r) independent states. Leaves of ones on the diagonal,
    B[a, b, 1] = [a = b] in the first level and [1, 1, 1] alone above reach it, so almost all do ([K18, Table 2]).
    """
    return min(mode_size, rank) ** (sites // 2)


def shallow_parameters(units: int, mode_size: int, sites: int) -> int:
    r"""R d n: the numbers in a shallow network of R units, each the product of d inner products with n features."""
    return units * sites * mode_size


def chain_parameters(mode_size: int, rank: int, distinct: int = 1, classes: int = 1) -> int:
    r"""n r + D n r^2 + n r C: the numbers in a tensor train with D distinct interior cores (1 where they are equal)."""
    return mode_size * rank + distinct * mode_size * rank**2 + mode_size * rank * classes


def ratio(numerator: int, denominator: int) -> float:
    """The quotient of two positive integers of any size; inf where a float cannot hold it."""
    try:
        return numerator / denominator
    except OverflowError:
        return math.inf


def in_figures(number: int) -> str:
    """1,234 in full up to 10^15, beyond as 1.23e+482, however large."""
    if number < 10**15:
        return f"{number:,}"
    exponent = math.floor(math.log10(number))
    exponent += (number >= 10 ** (exponent + 1)) - (number < 10**exponent)  # the logarithm is rounded
    return f"{number // 10 ** (exponent - 2) / 100:.2f}e+{exponent}"


def can_be_written(number: int) -> bool:
    """Whether the number has at most ``MOST_DIGITS`` digits."""
    return number < LARGEST_BOUND
