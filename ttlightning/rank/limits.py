r"""The one table of limits of certificates, for those who make them and for those who check them.

Both sides read it before they count, so that what is made is what can be checked, and a file of some bytes cannot keep
anyone busy. It holds sizes and steps; no rank is computed here.

A step is about a nanosecond of the checking side, which is the slower one.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from torch import Tensor

LEAST: Final = {"mode_size": 1, "rank": 1, "sites": 2, "classes": 1, "size": 1, "seed": 0}
LARGEST: Final = {
    "mode_size": 100_000,
    "rank": 100_000,
    "sites": 100_000,
    "classes": 100_000,
    "size": 4096,
    "seed": 2**63 - 1,
}
WEIGHT_TYPES: Final = ("float16", "bfloat16", "float32", "float64")
"""Types of weights that have an exact image modulo a prime."""
MOST_PRIMES: Final = 8
LARGEST_PRIME: Final = 2**64
SMALL_PRIME: Final = 2**31
"""Below it, products of two residues fit 64 bits; a sampled certificate has no larger primes."""
LARGEST_PAIR: Final = 4096
"""Rows of the largest T: minutes to make, and to check."""
LARGEST_TABLE: Final = 2**30
"""Numbers that the scores of a sample take on the way, K^2 r: 8 GiB."""
LARGEST_WORK: Final = 2**41
"""Steps of a whole certificate: half an hour."""
LARGEST_FILE: Final = 2**26
"""Bytes of a certificate file."""
MOST_DIGITS: Final = 4000
"""Python writes and reads integers of some more digits than this, and no longer ones."""
LARGEST_BOUND: Final = 10**MOST_DIGITS
"""The largest lower bound that is written down."""

PYTHON: Final = 80
"""Steps of a product of two Python integers, its remainder and sum."""
LARGE_PRIME: Final = 40
"""How much longer an elimination takes where a prime is not small."""
COLUMN: Final = 50_000
"""Steps of a column of an elimination, however short."""
EXACT_IMAGE: Final = 2000
"""Steps of one weight's image modulo a prime."""


def stated(bound: int) -> int:
    """A lower bound as it is written down: ``bound``, and 10^4000 where it is larger, which is a lower bound too."""
    return min(bound, LARGEST_BOUND)


def out_of_range(**sizes: int) -> str | None:
    """What is wrong with the first size that is not in the table; None where all are."""
    for name, value in sizes.items():
        if not LEAST[name] <= value <= LARGEST[name]:
            shown = value if abs(value) < 10**30 else f"an integer of {value.bit_length():,} bits"
            if value < LEAST[name]:
                return f"{name} is {shown}, it must be at least {LEAST[name]}"
            return f"{name} is {shown}, the limit is {LARGEST[name]:,}"
    return None


def unfit(weights: Mapping[str, Tensor]) -> str | None:
    """Why there is no rank to certify of these weights: their type, or a value; None where there is one."""
    for name, value in weights.items():
        kind = str(value.dtype).removeprefix("torch.")
        if kind not in WEIGHT_TYPES:
            return f"the weights {name} are {kind}, certificates speak of {', '.join(WEIGHT_TYPES)}"
        if not value.isfinite().all():
            return "a weight is infinite or not a number: there is no rank to certify"
    return None


def staircase_excess(
    slices: int,
    rank: int,
    sites: int,
    primes: Sequence[int],
    mode_size: int,
    distinct: bool = False,
    classes: int = 1,
    numbers: int = 0,
) -> str | None:
    """Why a staircase is too large to count; None where it is not.

    Args:
        slices: of the interior cores that take part.
        rank: r.
        sites: d.
        primes: modulo which it is counted.
        mode_size: of the first and last core.
        distinct: whether the T_m differ.
        classes: number of last cores.
        numbers: weights that become residues.
    """
    rows = slices * rank
    if sites > 2 and rows > LARGEST_PAIR:
        return f"T has {rows:,} rows at {slices:,} slices and rank {rank:,}, the limit is {LARGEST_PAIR:,}"
    pairs = (sites // 2 - 1 if distinct else 1) if sites > 3 else 0
    ends = (1 + classes) * mode_size * rank * min(mode_size, rank) + (rows * rows if sites % 2 else 0)
    work = 0
    for p in primes:
        slower = 1 if p < SMALL_PRIME else LARGE_PRIME
        work += pairs * rows * (rows * (slower * rows + PYTHON * rank) + COLUMN)
        work += slower * ends + EXACT_IMAGE * numbers
    return _too_much(work)


def sample_excess(
    weights: Mapping[str, Tensor], size: int, counts: Sequence[int], mode_size: int, rank: int, primes: Sequence[int]
) -> str | None:
    """Why a sample of scores is too large to count; None where it is not.

    Args:
        weights: the parameters of the network.
        size: K.
        counts: feature vectors of each site.
        mode_size: n.
        rank: r.
        primes: modulo which it is counted.
    """
    if size * size * rank > LARGEST_TABLE:
        return f"{size:,} x {size:,} scores at rank {rank:,} take {size * size * rank:,} numbers, the limit is 2^30"
    if any(p >= SMALL_PRIME for p in primes):
        return "a prime is too large for a sampled certificate, 2^31 is the limit"
    numbers = sum(value.numel() for value in weights.values())
    vectors = PYTHON * (sum(counts) * mode_size * rank * (rank if "first" in weights else 1) + max(counts) * numbers)
    scores = size**2 * (classes_of(weights) * (size + 10 * rank) + (10 * rank**2 if "leaves" in weights else 0))
    return _too_much(len(primes) * (scores + vectors + EXACT_IMAGE * numbers))


def classes_of(weights: Mapping[str, Tensor]) -> int:
    """C, the last size of the parameter that ends a chain, a sum of units or a tree; 0 where there is none."""
    ends = (weights[name] for name in ("last", "weights", "root") if name in weights)
    return next((value.shape[-1] for value in ends if value.ndim), 0)


def _too_much(work: int) -> str | None:
    if work <= LARGEST_WORK:
        return None
    hours, limit = work / 3.6e12, LARGEST_WORK / 3.6e12
    return f"counting it again would take about {hours:,.1f} hours, the limit is {limit:.1f}"
