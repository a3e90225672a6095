r"""Certificates by the staircase: for almost every tensor train, and for one trained tensor train.

``rank/staircase.py`` has the matrices T_m, H, F and L and the bound that follows from their ranks. Where n < r, F and L
take in neighbouring sites and become A and B (``rank/absorbed_ends.py``), if that bound is larger.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ttlightning.errors import UserError
from ttlightning.formats.bounds import generic_odd_even_rank
from ttlightning.formats.modular import Residues
from ttlightning.rank.absorbed_ends import ENDS_ALONE, Kept, absorbed_end, best_ends, bound_from_deficits
from ttlightning.rank.certificates import Certificate
from ttlightning.rank.finite_field import PRIMES, PrimeField, hashed, pivot_columns, rank_modulo
from ttlightning.rank.limits import out_of_range, refuse, staircase_excess, stated, unfit
from ttlightning.rank.staircase import pair_matrix, pairs, rank_from_deficits, state_matrix
from ttlightning.rank.statements import checkpoint_statement, generic_statement, heading

if TYPE_CHECKING:
    from ttlightning.formats import ScoreTensor


def generic_certificate(
    mode_size: int, rank: int, sites: int, seed: int = 0, primes: Sequence[int] = PRIMES
) -> Certificate:
    """Almost every tensor train of ``mode_size``, TT-rank ``rank`` and ``sites`` has ``generic_odd_even_rank``.

    The network that proves it uses n of its states if r > n, and r^2 of its modes if n > r^2. Almost every larger
    network reaches the same rank.

    Raises:
        UserError: if a size is outside the table of ``limits.py``, or the cores of the seed fall short of the generic
            rank (for one seed in about 2^50).
    """
    refuse(out_of_range(mode_size=mode_size, rank=rank, sites=sites, seed=seed))
    states = min(mode_size, rank)
    slices = min(mode_size, states**2)
    refuse(staircase_excess(slices, states, sites, primes, slices))
    expected = generic_odd_even_rank(mode_size, rank, sites)
    ranks = []
    for prime in primes:
        first = hashed((slices, states), prime, seed, "first")
        interior = hashed((slices, states, states), prime, seed, "interior")
        last = hashed((states, slices), prime, seed, "last")
        ranks.append(_ranks([interior] * (sites - 2), sites, first, [last], prime))
        if rank_from_deficits(slices, states, sites, *_for_class(ranks[-1], 0)) != expected:
            raise UserError(f"the cores of seed {seed} fall short of the generic rank modulo {prime}; try another one")
    expected = stated(expected)
    return heading("generic", generic_statement(mode_size, rank, sites, expected), mode_size, rank, sites) | {
        "seed": seed,
        "primes": list(primes),
        "ranks": ranks,
        "cp_rank_at_least": [expected],
    }


def checkpoint_certificate(format: "ScoreTensor", sha256: str, primes: Sequence[int] = PRIMES) -> Certificate:
    """The CP-rank of every class tensor of a trained tensor train, from the staircase of its weights.

    Args:
        format: with ``staircase_cores``.
        sha256: hash of all weights of the network, by ``runs.weights_sha256``.
        primes: the ranks are counted modulo each of them.

    Raises:
        UserError: if the format has no staircase, a size is outside the table of ``limits.py``, or a weight has no
            exact image.
    """
    cores, mode_size, rank, sites = format.staircase_cores(), format.mode_size, format.rank, format.sites
    if cores is None:
        raise UserError(f"{format.name} has no staircase, which is for tensor trains: certify it from scores instead")
    refuse(out_of_range(mode_size=mode_size, rank=rank, sites=sites, classes=format.classes) or unfit(cores._asdict()))
    numbers, distinct = sum(core.numel() for core in cores), len(cores.interior)
    slices: list[list[int]] = []
    ranks, bounds, ends = [], [], ENDS_ALONE
    for prime in primes:
        first, interior, last = map(PrimeField(prime).residues, cores)
        slices = slices or _independent_slices(interior, sites, prime)
        size = len(slices[0]) if slices else mode_size
        ends = best_ends(mode_size, size, rank, sites)
        refuse(staircase_excess(size, rank, sites, primes, mode_size, distinct > 1, format.classes, numbers, *ends))
        ranks.append(_ranks(_chosen(interior, slices), sites, first, list(last.transpose(2, 1, 0)), prime, *ends))
        of_classes = [_for_class(ranks[-1], y) for y in range(format.classes)]
        bounds.append([_bound(size, rank, sites, ends, *pieces) for pieces in of_classes])
    best = [stated(max(each)) for each in zip(*bounds, strict=True)]
    return heading("checkpoint", checkpoint_statement(best, sites), mode_size, rank, sites) | {
        "weights_sha256": sha256,
        "primes": list(primes),
        "absorbed": ends[0],
        "kept": list(ends[1]),
        "slices": slices if len({tuple(s) for s in slices}) > 1 else slices[:1],
        "ranks": ranks,
        "cp_rank_at_least": best,
    }


def _ranks(
    interior: Sequence[Residues],
    sites: int,
    first: Residues,
    last: Sequence[Residues],
    prime: int,
    absorbed: int = 0,
    kept: Kept = (1, 1),
) -> Any:
    """Ranks of the matrices of the staircase: T_m, H (odd d), F, and L of every class; or A and B."""
    known: dict[tuple[int, int], int] = {}  # equal cores have one T
    field, between = PrimeField(prime), pairs(sites)[absorbed : max(0, sites // 2 - 1 - absorbed)]
    left, right = [first], list(last)
    if absorbed:
        chain, ends = list(interior), [each.T for each in last]
        if sites % 2:
            *chain, final = chain
            summed = [field.multiply(final.reshape(-1, len(each)), each.sum(1, keepdims=True) % prime) for each in last]
            ends = [each.reshape(final.shape[:2]) for each in summed]
        mirrored = [core.transpose(0, 2, 1) for core in chain[::-1][: 2 * absorbed]]
        left = [absorbed_end(first, chain[: 2 * absorbed], kept[0], field)]
        right = [absorbed_end(end, mirrored, kept[1], field) for end in ends]

    def pair_rank(even: int, odd: int) -> int:
        cores = interior[even - 2], interior[odd - 2]
        key = id(cores[0]), id(cores[1])
        if key not in known:
            known[key] = rank_modulo(pair_matrix(*cores, field.multiply), prime)
        return known[key]

    return {
        "pairs": [pair_rank(*both) for both in between],
        "state": rank_modulo(state_matrix(interior[-1]), prime) if sites % 2 and not absorbed else None,
        "first": rank_modulo(left[0], prime),
        "last": [rank_modulo(each, prime) for each in right],
    }


def _bound(
    size: int,
    rank: int,
    sites: int,
    ends: tuple[int, Kept],
    pair_ranks: list[int],
    state_rank: int | None,
    first: int,
    last: int,
) -> int:
    """The lower bound that the ranks of one class give."""
    absorbed, kept = ends
    if not absorbed:
        return rank_from_deficits(size, rank, sites, pair_ranks, state_rank, first, last)
    of_pairs = sum(rank * size - pair for pair in pair_ranks)
    of_ends = [e * rank - end for e, end in zip(kept, (first, last), strict=True)]
    return bound_from_deficits(size, rank, len(pair_ranks), kept, of_ends, of_pairs)


def _for_class(ranks: Any, y: int) -> tuple[list[int], int | None, int, int]:
    return ranks["pairs"], ranks["state"], ranks["first"], ranks["last"][y]


def _independent_slices(interior: Residues, sites: int, prime: int) -> list[list[int]]:
    """For every interior site, linearly independent slices; equally many at each site, at most r^2 and at least one."""
    pivots = [pivot_columns(state_matrix(core), prime) or [0] for core in interior]
    size = min((len(columns) for columns in pivots), default=0)
    return [pivots[min(k, len(pivots) - 1)][:size] for k in range(sites - 2)]


def _chosen(interior: Residues, slices: Sequence[Sequence[int]]) -> list[Residues]:
    """The chosen slices of every interior site; the same array if core and slices are the same."""
    keys = [(min(site, len(interior) - 1), *chosen) for site, chosen in enumerate(slices)]
    known = {key: interior[key[0]][np.array(key[1:], dtype=int)] for key in dict.fromkeys(keys)}
    return [known[key] for key in keys]
