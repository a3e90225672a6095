r"""The table of limits of certificates, shared by the code that makes them and the code that checks them.

Both sides compare sizes with this table before they count. So every certificate that can be made can be checked, and a
small file cannot cause hours of work. The table holds sizes and costs; no rank is computed here.

A cost is in steps of about a nanosecond on the checking side, which is the slower one.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from ttlightning.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

LEAST: Final = {"mode_size": 1, "rank": 1, "sites": 2, "classes": 1, "size": 1, "seed": 0, "images": 2}
LARGEST: Final = {
    "mode_size": 100_000,
    "rank": 100_000,
    "sites": 100_000,
    "classes": 100_000,
    "size": 4096,
    "seed": 2**63 - 1,
    "images": 1024,
}
WEIGHT_TYPES: Final = ("float16", "bfloat16", "float32", "float64")
"""Types of weights that have an exact image modulo a prime."""
MOST_PRIMES: Final = 8
MOST_WIDTHS: Final = 20
LARGEST_PRIME: Final = 2**64
SMALL_PRIME: Final = 2**31
"""Below it, a product of two residues fits 64 bits; sampled certificates use only such primes."""
LARGEST_PAIR: Final = 4096
"""Rows of the largest T: minutes to make, minutes to check."""
LARGEST_TABLE: Final = 2**30
"""Numbers in memory while K x K scores are computed, K^2 r: 8 GiB."""
LARGEST_WORK: Final = 2**41
"""Steps to check one certificate: half an hour."""
LARGEST_FILE: Final = 2**26
"""Bytes of a certificate file."""
MOST_DIGITS: Final = 4000
"""Digits of the longest integer in a certificate; Python's own limit is 4,300."""
LARGEST_BOUND: Final = 10**MOST_DIGITS
"""The largest lower bound that is written down."""

PYTHON: Final = 80
"""Steps to multiply, reduce and add two Python integers."""
LARGE_PRIME: Final = 40
"""Factor on the time of an elimination if the prime is not below ``SMALL_PRIME``."""
COLUMN: Final = 50_000
"""Steps of one column of an elimination, at least."""
BALL: Final = 100
"""Steps to multiply and add two balls."""
EXACT_IMAGE: Final = 2000
"""Steps of one weight's image modulo a prime."""


def stated(bound: int) -> int:
    """A lower bound as certificates state it: ``bound``, or 10^4000 if it is larger, which is a lower bound too."""
    return min(bound, LARGEST_BOUND)


def out_of_range(**sizes: int) -> str | None:
    """What is wrong with the first size outside the table; None if all are inside."""
    for name, value in sizes.items():
        if not LEAST[name] <= value <= LARGEST[name]:
            shown = value if abs(value) < 10**30 else f"an integer of {value.bit_length():,} bits"
            if value < LEAST[name]:
                return f"{name} is {shown}, it must be at least {LEAST[name]}"
            return f"{name} is {shown}, the limit is {LARGEST[name]:,}"
    return None


def refuse(reason: str | None) -> None:
    """Raise ``UserError`` with the reason, unless it is None."""
    if reason is not None:
        raise UserError(reason)


def unfit(weights: Mapping[str, "Tensor"]) -> str | None:
    """Why these weights have no rank to certify: their type, or a value; None if they have one."""
    for name, value in weights.items():
        kind = str(value.dtype).removeprefix("torch.")
        if kind not in WEIGHT_TYPES:
            return f"the weights {name} are {kind}, a certificate needs {', '.join(WEIGHT_TYPES)}"
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
    absorbed: int = 0,
    kept: tuple[int, int] = (1, 1),
) -> str | None:
    """Why a staircase is too large to count; None if it is not.

    Args:
        slices: n of the interior cores that take part.
        rank: r.
        sites: d.
        primes: the ranks are counted modulo each of them.
        mode_size: n of the first and the last core.
        distinct: whether the T_m differ.
        classes: number of last cores.
        numbers: weights to be reduced modulo each prime.
        absorbed: pairs of sites that an end takes in.
        kept: e and f, the slices that it keeps of the last one.
    """
    rows = slices * rank
    if sites > 2 and rows > LARGEST_PAIR:
        return f"T has {rows:,} rows at {slices:,} slices and rank {rank:,}, the limit is {LARGEST_PAIR:,}"
    pairs = (sites // 2 - 1 if distinct else 1) if sites > 3 else 0
    tall, columns = mode_size, rank
    if absorbed:  # with two slices, twelve pairs of sites reach the limit
        tall, columns = mode_size * slices ** min(absorbed, 12), max(kept) * rank
        if tall > LARGEST_PAIR or columns > 2 * LARGEST_PAIR:
            return (
                f"ends of {absorbed:,} pairs of sites and {columns:,} columns are too large: the limit is "
                f"{LARGEST_PAIR:,} rows and {2 * LARGEST_PAIR:,} columns"
            )
    ends = (1 + classes) * tall * columns * min(tall, columns) + (rows * rows if sites % 2 else 0)
    building = (1 + classes) * absorbed * (PYTHON * tall * columns * rank + COLUMN * min(tall, columns))
    work = 0
    for p in primes:
        slower = 1 if p < SMALL_PRIME else LARGE_PRIME
        work += pairs * rows * (rows * (slower * rows + PYTHON * rank) + COLUMN)
        work += slower * ends + building + EXACT_IMAGE * numbers
    return _too_much(work)


def sample_excess(
    weights: Mapping[str, "Tensor"],
    classes: int,
    size: int,
    counts: Sequence[int],
    mode_size: int,
    rank: int,
    primes: Sequence[int],
) -> str | None:
    """Why a sample of scores is too large to count; None if it is not.

    The names of its parameters identify a format. An unknown format counts as the most expensive known one.

    Args:
        weights: the parameters of the format, by name.
        classes: C.
        size: K.
        counts: feature vectors of each site.
        mode_size: n.
        rank: r.
        primes: the ranks are counted modulo each of them.
    """
    if size * size * rank > LARGEST_TABLE:
        return f"{size:,} x {size:,} scores at rank {rank:,} take {size * size * rank:,} numbers, the limit is 2^30"
    if any(p >= SMALL_PRIME for p in primes):
        return "a prime is too large for a sampled certificate, 2^31 is the limit"
    numbers = sum(value.numel() for value in weights.values())
    width = rank if "factors" in weights or "leaves" in weights else rank**2
    joins = 0 if "first" in weights or "factors" in weights else 10 * rank**2
    vectors = PYTHON * (sum(counts) * mode_size * width + max(counts) * numbers)
    scores = size**2 * (classes * (size + 10 * rank) + joins)
    return _too_much(len(primes) * (scores + vectors + EXACT_IMAGE * numbers))


def width_excess(
    weights: Mapping[str, "Tensor"], images: int, sites: int, mode_size: int, rank: int, classes: int
) -> str | None:
    """Why a width is too much to count; None if it is not.

    Args:
        weights: the parameters of the network, by name.
        images: K.
        sites: d.
        mode_size: n.
        rank: r.
        classes: C.
    """
    pair = sites * (rank**3 if "format.leaves" in weights else rank**2) + classes * rank**2
    layers = sum(weight.numel() for name, weight in weights.items() if name.startswith("features."))
    features = images * sites * (mode_size * rank**2 + layers)
    algebra = images**3 * (classes + 6)
    return _too_much(BALL * (images**2 * pair + features + algebra))


def _too_much(work: int) -> str | None:
    if work <= LARGEST_WORK:
        return None
    hours, limit = work / 3.6e12, LARGEST_WORK / 3.6e12
    return f"counting it again would take about {hours:,.1f} hours, the limit is {limit:.1f}"
