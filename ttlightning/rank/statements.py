"""Title, version and kinds of certificates, and the statement of each kind."""

from collections.abc import Sequence
from typing import Any, Final

from ttlightning.rank.limits import LARGEST_BOUND, MOST_DIGITS

TITLE: Final = "ttlightning rank certificate"
VERSION: Final = 2
"""Version 1, of ttlightning 0.1, has ``modes`` instead of ``mode_size``."""
KINDS: Final = ("generic", "checkpoint", "sampled", "width")


def heading(kind: str, statement: str, mode_size: int, rank: int, sites: int) -> dict[str, Any]:
    """The fields that every certificate begins with."""
    sizes = {"mode_size": mode_size, "rank": rank, "sites": sites}
    return {"certificate": TITLE, "version": VERSION, "kind": kind, "statement": statement} | sizes


def generic_statement(mode_size: int, rank: int, sites: int, bound: int) -> str:
    return (
        f"Almost every tensor with {sites} modes of size {mode_size} and TT-rank {rank}, with equal interior cores or "
        f"with different ones, has CP-rank at least {_number(bound)}: a shallow network needs as many hidden "
        "units to equal it."
    )


def checkpoint_statement(bounds: Sequence[int], sites: int) -> str:
    return (
        f"The weight tensors, with {sites} modes, of the {len(bounds)} classes of the network with these weights have "
        f"CP-rank at least {_number(min(bounds))} each: a shallow network needs as many hidden units to equal one of "
        "them."
    )


def sampled_statement(bounds: Sequence[int], size: int, units: int | None = None) -> str:
    """``units``: the width of a network that is shallow itself, an upper bound."""
    return (
        f"The weight tensors of the {len(bounds)} classes of the network with these weights have CP-rank at least "
        f"{min(bounds)} each, as seen in {size} x {size} scores: a shallow network needs as many hidden units."
    ) + ("" if units is None else f" None has a CP-rank above {units}, the hidden units of the network itself.")


def width_statement(permille: Sequence[int], units: Sequence[int], images: int) -> str:
    """``permille``: errors in thousandths; ``units``: for each of them."""
    each = ", ".join(f"{count} for {error / 10:g} %" for error, count in zip(permille, units, strict=True))
    return (
        f"Every shallow network, whatever its features, that stays within an error of the scores of the network with "
        f"these weights on the {images} x {images} images that take the odd patches of one of {images} images and the "
        f"even patches of another has at least so many hidden units: {each}. The error is the root mean square over "
        "these images and the classes, as a fraction of that of the scores, which are taken minus their mean over the "
        "classes."
    )


def _number(bound: int) -> str:
    return f"10^{MOST_DIGITS}" if bound == LARGEST_BOUND else str(bound)
