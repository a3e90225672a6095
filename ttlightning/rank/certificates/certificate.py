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
from typing import Any

from torch import Tensor

from ttlightning.errors import UserError
from ttlightning.rank.bounds import generic_odd_even_rank
from ttlightning.rank.certificates.exact import Canonical, Chain, exact_network
from ttlightning.rank.finite_field import (
    PRIMES,
    Residues,
    hashed,
    multiply,
    pivot_columns,
    rank_modulo,
    ranks_modulo,
)
from ttlightning.rank.limits import (
    LARGEST,
    LARGEST_FILE,
    classes_of,
    out_of_range,
    sample_excess,
    staircase_excess,
    stated,
    unfit,
)
from ttlightning.rank.staircase import pair_matrix, pairs, rank_from_deficits, state_matrix
from ttlightning.rank.statements import TITLE, VERSION, checkpoint_statement, generic_statement, sampled_statement

Certificate = dict[str, Any]


def generic_certificate(
    mode_size: int, rank: int, sites: int, seed: int = 0, primes: Sequence[int] = PRIMES
) -> Certificate:
    """Almost every tensor train of ``mode_size``, TT-rank ``rank`` and ``sites`` has the generic rank of ``bounds.py``.

    Where r > n, the network that shows it uses n of its states; where n > r^2, r^2 of its modes: what it reaches,
    almost every larger one reaches too.

    Raises:
        UserError: where a size is not in the table of ``limits.py``, or the seed's cores do not reach it (for one seed
            in about 2^50).
    """
    _refuse(out_of_range(mode_size=mode_size, rank=rank, sites=sites, seed=seed))
    states = min(mode_size, rank)
    slices = min(mode_size, states**2)
    _refuse(staircase_excess(slices, states, sites, primes, slices))
    expected = generic_odd_even_rank(mode_size, rank, sites)
    ranks = []
    for prime in primes:
        first = hashed((slices, states), prime, seed, "first")
        interior = hashed((slices, states, states), prime, seed, "interior")
        last = hashed((states, slices), prime, seed, "last")
        ranks.append(_ranks([interior] * (sites - 2), sites, first, [last], prime))
        found = rank_from_deficits(slices, states, sites, *_for_class(ranks[-1], 0))
        if found != expected:
            raise UserError(f"the cores of seed {seed} fall short of the generic rank modulo {prime}; try another one")
    expected = stated(expected)
    return {
        "certificate": TITLE,
        "version": VERSION,
        "kind": "generic",
        "statement": generic_statement(mode_size, rank, sites, expected),
        "mode_size": mode_size,
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

    Raises:
        UserError: where the sizes are not in the table of ``limits.py``, or the weights have no exact image.
    """
    mode_size, rank = state["first"].shape
    classes, cores = state["last"].shape[-1], len(state["interior"])
    _refuse(out_of_range(mode_size=mode_size, rank=rank, sites=sites, classes=classes) or unfit(state))
    numbers = sum(value.numel() for value in state.values())
    slices: list[list[int]] = []
    ranks, bounds = [], []
    for prime in primes:
        chain = Chain(state, sites, prime)
        slices = slices or _independent_slices(chain)
        size = len(slices[0]) if slices else mode_size
        _refuse(staircase_excess(size, rank, sites, primes, mode_size, cores > 1, classes, numbers))
        interior = chain.chosen(slices)
        found = _ranks(interior, sites, chain.first, list(chain.last), prime)
        ranks.append(found)
        bounds.append(
            [rank_from_deficits(size, chain.rank, sites, *_for_class(found, y)) for y in range(len(chain.last))]
        )
    best = [stated(max(each)) for each in zip(*bounds, strict=True)]
    return {
        "certificate": TITLE,
        "version": VERSION,
        "kind": "checkpoint",
        "statement": checkpoint_statement(best, sites),
        "mode_size": mode_size,
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
        UserError: where the size is no power of two or more than the sites' modes allow, a size is not in the table of
            ``limits.py``, or the weights have no exact image.
    """
    _refuse(out_of_range(sites=sites, size=size, seed=seed, classes=classes_of(state)) or unfit(state))
    ranks = []
    for prime in primes:
        network = exact_network(state, sites, prime)
        _refuse(out_of_range(mode_size=network.mode_size, rank=network.rank))
        counts = grid(size, network.mode_size, sites)
        _refuse(sample_excess(state, size, counts, network.mode_size, network.rank, primes))
        shapes = [(count, network.mode_size) for count in counts]
        vectors = [hashed(shape, prime, seed, "features", site) for site, shape in enumerate(shapes, start=1)]
        ranks.append(ranks_modulo(network.score_matrices(vectors), prime, workers))
    best = [max(each) for each in zip(*ranks, strict=True)]
    return {
        "certificate": TITLE,
        "version": VERSION,
        "kind": "sampled",
        "statement": sampled_statement(best, size, network.rank if isinstance(network, Canonical) else None),
        "mode_size": network.mode_size,
        "rank": network.rank,
        "sites": sites,
        "weights_sha256": sha256,
        "size": size,
        "seed": seed,
        "primes": list(primes),
        "ranks": ranks,
        "cp_rank_at_least": best,
    }


def grid(size: int, mode_size: int, sites: int) -> list[int]:
    """How many feature vectors each site chooses from: powers of two, product ``size`` over odd and over even sites."""
    _refuse(out_of_range(size=size))
    bits = size.bit_length() - 1
    if size != 2**bits:
        raise UserError(f"the sampled size is {size}, it must be a power of two")
    counts = [0] * sites
    most = mode_size.bit_length() - 1  # no more vectors than are independent
    for parity in (0, 1):
        places = range(parity, sites, 2)
        if bits > most * len(places):
            raise UserError(
                f"the sampled size is {size}, the largest for {sites} sites of mode size {mode_size} is "
                f"{2 ** (most * len(places))}: each site chooses from {2**most} feature vectors, the largest power of "
                f"two up to {mode_size}"
            )
        for bit in range(bits):  # from the last site on: what the first ones share is computed once
            counts[places[len(places) - 1 - bit % len(places)]] += 1
    return [2**count for count in counts]


def largest_grid(size: int, mode_size: int, sites: int) -> int:
    """The largest power of two up to ``size`` for which there is a ``grid``."""
    bits = min(size, LARGEST["size"]).bit_length() - 1
    return 1 << min(bits, (mode_size.bit_length() - 1) * (sites // 2))


def write_certificate(path: Path, certificate: Certificate) -> None:
    """Write a new file; ``UserError`` where there is one, or the certificate is larger than one is read."""
    text = json.dumps(certificate, indent=1) + "\n"
    if len(text) > LARGEST_FILE:
        raise UserError(f"the certificate has {len(text):,} bytes, the limit is {LARGEST_FILE:,}")
    try:
        file = path.open("x")
    except FileExistsError as fault:
        raise UserError(f"{path} exists and is left as it is; name another file with --output") from fault
    except OSError as fault:
        raise UserError(f"{path} cannot be written: {fault.strerror}") from fault
    try:
        with file:
            file.write(text)
    except OSError as fault:
        path.unlink(missing_ok=True)
        raise UserError(f"{path} cannot be written: {fault.strerror}") from fault


def _refuse(reason: str | None) -> None:
    if reason is not None:
        raise UserError(reason)


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
    """For every interior site as many slices as all sites can have that are linearly independent: r^2 at most.

    One at least: a site whose slices are all zero has its first.
    """
    pivots = [pivot_columns(state_matrix(core), chain.prime) or [0] for core in chain.distinct]
    size = min((len(p) for p in pivots), default=0)
    return [pivots[0 if len(pivots) == 1 else k][:size] for k in range(chain.sites - 2)]
