"""Title, version and kinds of certificates, and the statement of each kind."""

from collections.abc import Sequence
from typing import Any, Final

from ttlightning.rank.limits import LARGEST_BOUND, MOST_DIGITS

TITLE: Final = "ttlightning rank certificate"
VERSION: Final = 4
"""Version 1, of ttlightning 0.1, has ``modes`` instead of ``mode_size``; 2 does not name the matricization; 3 has no
absorbed ends."""
MATRICIZATION: Final = "matricization with the odd modes as rows and the even modes as columns"
UNITS: Final = "Fewer hidden units may approximate, but a shallow network needs as many to equal"
NOTHING: Final = "which says nothing: every tensor but 0 has CP-rank at least 1"
ANALYTIC: Final = ("gelu", "sigmoid", "tanh", "softplus", "cos")
"""Activations whose features are independent on every open set of patches as soon as they are on one."""
MOST_LISTED: Final = 20
"""Classes whose bounds stand in the statement one by one, if they differ."""
KINDS: Final = ("generic", "checkpoint", "sampled", "width")


def heading(kind: str, statement: str, mode_size: int, rank: int, sites: int) -> dict[str, Any]:
    """The fields that every certificate begins with."""
    sizes = {"mode_size": mode_size, "rank": rank, "sites": sites}
    return {"certificate": TITLE, "version": VERSION, "kind": kind, "statement": statement} | sizes


def generic_statement(mode_size: int, rank: int, sites: int, bound: int) -> str:
    """What holds for all cores but a set of Lebesgue measure 0."""
    subject = (
        "Almost every tensor train, by the Lebesgue measure on the entries of its cores, real or complex, with equal "
        f"or with different interior cores, {sites} modes of size {mode_size} and TT-rank {rank},"
    )
    if bound < 2:
        return f"{subject} has CP-rank at least {bound}, {NOTHING}."
    return (
        f"{subject} has CP-rank at least {_number(bound)} over the real and the complex numbers, because its "
        f"{MATRICIZATION} has at least this rank. {UNITS} it."
    )


def checkpoint_statement(bounds: Sequence[int], sites: int, seen: str = "") -> str:
    """What holds for the weight tensors of one network.

    Args:
        bounds: of each class.
        sites: d.
        seen: how the ranks were seen, if not by the staircase.
    """
    subject = f"The weight tensors, with {sites} modes, of the {len(bounds)} classes of the network with these weights"
    if max(bounds) < 2:
        return f"{subject} have CP-rank {_each(bounds)}{seen}, {NOTHING}."
    return (
        f"{subject}, taken as exact numbers, have CP-rank {_each(bounds)} over the real and the complex numbers, "
        f"because the {MATRICIZATION} has at least this rank{seen}. {UNITS} one of them."
    )


def sampled_statement(bounds: Sequence[int], sites: int, size: int, units: int | None = None) -> str:
    """``units``: the width of a network that is shallow itself, an upper bound."""
    statement = checkpoint_statement(bounds, sites, f", as {size} x {size} scores show")
    if units is not None:
        statement += f" None has a CP-rank above {units}, the hidden units of the network itself."
    return statement


def length_statement(sites: int, network_sites: int) -> str:
    """What a certificate of equal cores for another number of sites than the network's says in addition."""
    return (
        f" The network has {network_sites} sites. Its interior cores are equal, so they give sequences of {sites} "
        "sites the scores of these tensors."
    )


def features_statement(mode_size: int, activation: str, constant: bool) -> str:
    """What follows for functions of images if the features are linearly independent."""
    place = "every open set of patches" if activation in ANALYTIC else "the set of all real patches"
    return (
        f" Its {mode_size} features, {activation}(A x + b){' and 1' * constant}, are linearly independent on {place}. "
        "So on images of patches from there that do not overlap, no shallow network with fewer hidden units than the "
        "bound of a class has the scores of this class, whatever its features."
    )


def _each(bounds: Sequence[int]) -> str:
    if len({*bounds}) == 1:
        return f"at least {_number(bounds[0])} each"
    if len(bounds) <= MOST_LISTED and max(bounds) < 10**30:
        return f"at least {', '.join(map(str, bounds))}, class by class,"
    return f"at least {_number(min(bounds))} each, and more for some classes,"


def width_statement(
    permille: Sequence[int], units: Sequence[int], images: int, activation: str, pixel_mean: float
) -> str:
    """What holds for a network in exact arithmetic on given images.

    Args:
        permille: errors in thousandths.
        units: for each of them.
        images: K.
        activation: of the feature map.
        pixel_mean: what the feature map subtracts.
    """
    each = ", ".join(f"{count} for {error / 10:g} %" for error, count in zip(permille, units, strict=True))
    return (
        f"Every shallow network, whatever its features, that stays within an error of the scores of the network with "
        f"these weights and the features {activation}(A (x - {pixel_mean!r}) + b), in exact arithmetic, on the "
        f"{images} x {images} images that take the odd patches of one of {images} images and the even patches of "
        f"another, has at least so many hidden units: {each}. The error is the root mean square over these images and "
        "the classes, as a fraction of that of the scores, which are taken minus their mean over the classes."
    )


def _number(bound: int) -> str:
    return f"10^{MOST_DIGITS}" if bound == LARGEST_BOUND else str(bound)
