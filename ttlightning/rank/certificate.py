r"""Certificates: small JSON files that say how large a rank is, and hold what a stranger needs to check it.

Three kinds:
    generic     almost every tensor train of this (n, r, d), with equal or different cores, has CP-rank >= R. One tensor
                with integer cores drawn from a seed shows it, by the staircase.
    checkpoint  the class tensors of one trained network have CP-rank >= R_y: by the staircase over the exact images of
                its weights, at full depth.
    sampled     the same from a K x K matrix of scores, for any format, n and r; K bounds what it can say.

Ranks are counted modulo primes (``modular.py``); each is a lower bound on the rank over the reals, so that nothing
rests on a tolerance. ``verification.py`` counts again with other code.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from torch import Tensor

from ttlightning.errors import UserError
from ttlightning.rank.bounds import MOST_DIGITS, can_be_written, generic_odd_even_rank
from ttlightning.rank.exact import Canonical, Chain, exact_network
from ttlightning.rank.modular import (
    PRIMES,
    Residues,
    hashed,
    multiply,
    pivot_columns,
    rank_modulo,
    ranks_modulo,
)
from ttlightning.rank.staircase import pair_matrix, pairs, rank_from_deficits, state_matrix

TITLE: Final = "ttlightning rank certificate"
VERSION: Final = 1
LARGEST_PAIR: Final = 4096
"""Rows of the largest T of a generic certificate: minutes to make, and to verify."""
LARGEST_SAMPLE: Final = 4096
"""Largest K of a sampled certificate."""
Certificate = dict[str, Any]


def generic_certificate(
    modes: int, rank: int, sites: int, seed: int = 0, primes: Sequence[int] = PRIMES
) -> Certificate:
    """Almost every tensor train of ``modes``, TT-rank ``rank`` and ``sites`` has the generic rank of ``bounds.py``.

    Where r > n, the network that shows it uses n of its states; where n > r^2, r^2 of its modes: what it reaches,
    almost every larger one reaches too.

    Raises:
        UserError: where the seed's cores do not reach it (for one seed in about 2^50).
    """
    for name, value, least in (("modes", modes, 1), ("rank", rank, 1), ("sites", sites, 2)):
        if value < least:
            raise UserError(f"{name} is {value}, it must be at least {least}")
    states = min(modes, rank)
    slices = min(modes, states**2)
    expected = generic_odd_even_rank(modes, rank, sites)
    if states * slices > LARGEST_PAIR:
        raise UserError(
            f"T has {states * slices:,} rows at modes {modes} and rank {rank}, the limit is {LARGEST_PAIR:,}"
        )
    if not can_be_written(expected):
        raise UserError(f"sites is {sites}: the rank has over {MOST_DIGITS:,} digits")
    ranks = []
    for prime in primes:
        first = hashed((slices, states), prime, seed, "first")
        interior = hashed((slices, states, states), prime, seed, "interior")
        last = hashed((states, slices), prime, seed, "last")
        ranks.append(_ranks([interior] * (sites - 2), sites, first, [last], prime))
        found = rank_from_deficits(slices, states, sites, *_for_class(ranks[-1], 0))
        if found != expected:
            raise UserError(
                f"the cores of seed {seed} reach {found} modulo {prime}, not {expected}; try another --seed"
            )
    return {
        "certificate": TITLE,
        "version": VERSION,
        "kind": "generic",
        "statement": generic_statement(modes, rank, sites, expected),
        "modes": modes,
        "rank": rank,
        "sites": sites,
        "seed": seed,
        "primes": list(primes),
        "ranks": ranks,
        "cp_rank_at_least": [expected],
    }


def checkpoint_certificate(
    state: dict[str, Tensor], sites: int, sha256: str, primes: Sequence[int] = PRIMES
) -> Certificate:
    """The CP-rank of every class tensor of a trained chain, from the staircase of its weights.

    Args:
        state: ``first``, ``interior`` and ``last``.
        sites: d.
        sha256: hash of all the weights of the checkpoint, by ``runs.weights_sha256``.
    """
    slices: list[list[int]] = []
    ranks, bounds = [], []
    for prime in primes:
        chain = Chain(state, sites, prime)
        slices = slices or _independent_slices(chain)
        interior = chain.chosen(slices)
        found = _ranks(interior, sites, chain.first, list(chain.last), prime)
        ranks.append(found)
        size = len(slices[0]) if slices else chain.modes
        bounds.append(
            [rank_from_deficits(size, chain.rank, sites, *_for_class(found, y)) for y in range(len(chain.last))]
        )
    best = [max(each) for each in zip(*bounds, strict=True)]
    modes, rank = state["first"].shape
    return {
        "certificate": TITLE,
        "version": VERSION,
        "kind": "checkpoint",
        "statement": checkpoint_statement(best, sites),
        "modes": modes,
        "rank": rank,
        "sites": sites,
        "weights_sha256": sha256,
        "primes": list(primes),
        "slices": slices if len({tuple(s) for s in slices}) > 1 else slices[:1],
        "ranks": ranks,
        "cp_rank_at_least": best,
    }


def sampled_certificate(
    state: dict[str, Tensor],
    sites: int,
    sha256: str,
    size: int,
    seed: int = 0,
    primes: Sequence[int] = PRIMES[:1],
    workers: int = 1,
) -> Certificate:
    """Ranks of a ``size`` x ``size`` matrix of scores of a trained network of any format, for every class.

    Rows are choices of a feature vector at every odd site, columns at every even site, out of the few that the seed
    gives each site. ``workers`` processes share the classes.

    Raises:
        UserError: where the size is no power of two, or larger than ``LARGEST_SAMPLE`` or the sites' modes allow.
    """
    ranks = []
    for prime in primes:
        network = exact_network(state, sites, prime)
        counts = grid(size, network.modes, sites)
        vectors = [
            hashed((count, network.modes), prime, seed, "features", site) for site, count in enumerate(counts, start=1)
        ]
        ranks.append(ranks_modulo(network.score_matrices(vectors), prime, workers))
    best = [max(each) for each in zip(*ranks, strict=True)]
    return {
        "certificate": TITLE,
        "version": VERSION,
        "kind": "sampled",
        "statement": sampled_statement(best, size, network.rank if isinstance(network, Canonical) else None),
        "modes": network.modes,
        "rank": network.rank,
        "sites": sites,
        "weights_sha256": sha256,
        "size": size,
        "seed": seed,
        "primes": list(primes),
        "ranks": ranks,
        "cp_rank_at_least": best,
    }


def generic_statement(modes: int, rank: int, sites: int, bound: int) -> str:
    return (
        f"Almost every tensor with {sites} modes of size {modes} and TT-rank {rank}, with equal interior cores or with "
        f"different ones, has CP-rank at least {bound}: a shallow network needs as many hidden units to equal it."
    )


def checkpoint_statement(bounds: Sequence[int], sites: int) -> str:
    return (
        f"The weight tensors, with {sites} modes, of the {len(bounds)} classes of the network with these weights have "
        f"CP-rank at least {min(bounds)} each: a shallow network needs as many hidden units to equal one of them."
    )


def sampled_statement(bounds: Sequence[int], size: int, units: int | None = None) -> str:
    """``units``: of a network that is shallow itself, which is a bound from above."""
    return (
        f"The weight tensors of the {len(bounds)} classes of the network with these weights have CP-rank at least "
        f"{min(bounds)} each, as seen in {size} x {size} scores: a shallow network needs as many hidden units."
    ) + ("" if units is None else f" None has a CP-rank above {units}, the hidden units of the network itself.")


def grid(size: int, modes: int, sites: int) -> list[int]:
    """How many feature vectors each site chooses from: powers of two, product ``size`` over odd and over even sites."""
    bits = size.bit_length() - 1
    if size < 1 or size != 2**bits:
        raise UserError(f"the sampled size is {size}, it must be a power of two")
    if size > LARGEST_SAMPLE:
        raise UserError(f"the sampled size is {size}, the limit is {LARGEST_SAMPLE}")
    counts = [0] * sites
    most = modes.bit_length() - 1  # no more vectors than are independent
    for parity in (0, 1):
        places = range(parity, sites, 2)
        if bits > most * len(places):
            raise UserError(
                f"the sampled size is {size}, but {len(places)} sites of {modes} modes tell "
                f"{2 ** (most * len(places))} combinations apart at most"
            )
        for bit in range(bits):  # from the last site on: what the first ones share is computed once
            counts[places[len(places) - 1 - bit % len(places)]] += 1
    return [2**count for count in counts]


def largest_grid(size: int, modes: int, sites: int) -> int:
    """The largest power of two up to ``size`` for which there is a ``grid``."""
    bits = min(size, LARGEST_SAMPLE).bit_length() - 1
    return 1 << min(bits, (modes.bit_length() - 1) * (sites // 2))


def write_certificate(path: Path, certificate: Certificate) -> None:
    """Write a new file; ``UserError`` where there is one."""
    try:
        with path.open("x") as file:
            file.write(json.dumps(certificate, indent=1) + "\n")
    except FileExistsError as fault:
        raise UserError(f"{path} exists and is left as it is; name another file with --output") from fault
    except OSError as fault:
        raise UserError(f"{path} cannot be written: {fault.strerror}") from fault


def _ranks(interior: Sequence[Residues], sites: int, first: Residues, last: Sequence[Residues], prime: int) -> Any:
    """Ranks of the pieces of the staircase: T_m, H (odd d), F, and L of every class."""
    seen: dict[tuple[int, int], int] = {}  # equal cores have one T

    def pair_rank(even: int, odd: int) -> int:
        cores = interior[even - 2], interior[odd - 2]
        key = id(cores[0]), id(cores[1])
        if key not in seen:
            seen[key] = rank_modulo(pair_matrix(*cores, lambda a, b: multiply(a, b, prime)), prime)
        return seen[key]

    return {
        "pairs": [pair_rank(*sites_) for sites_ in pairs(sites)],
        "state": rank_modulo(state_matrix(interior[-1]), prime) if sites % 2 else None,
        "first": rank_modulo(first, prime),
        "last": [rank_modulo(each, prime) for each in last],
    }


def _for_class(ranks: Any, y: int) -> tuple[list[int], int | None, int, int]:
    return ranks["pairs"], ranks["state"], ranks["first"], ranks["last"][y]


def _independent_slices(chain: Chain) -> list[list[int]]:
    """For every interior site as many slices as all sites can have that are linearly independent: r^2 at most."""
    cores = len(chain.distinct)
    pivots = [pivot_columns(state_matrix(core), chain.prime) for core in chain.distinct] if chain.sites > 2 else []
    size = min((len(p) for p in pivots), default=0)
    return [pivots[0 if cores == 1 else k][:size] for k in range(chain.sites - 2)]
