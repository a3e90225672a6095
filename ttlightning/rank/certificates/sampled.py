r"""Certificates from a sample of exact scores, for a trained network in any format."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ttlightning.errors import UserError
from ttlightning.formats.modular import odd_even_matrix
from ttlightning.rank.certificates import Certificate
from ttlightning.rank.finite_field import PRIMES, PrimeField, hashed, ranks_modulo
from ttlightning.rank.limits import LARGEST, out_of_range, refuse, sample_excess, unfit
from ttlightning.rank.statements import heading, sampled_statement

if TYPE_CHECKING:
    from ttlightning.formats import ScoreTensor


def sampled_certificate(
    format: "ScoreTensor",
    sha256: str,
    size: int,
    seed: int = 0,
    primes: Sequence[int] = PRIMES[:1],
    workers: int = 1,
) -> Certificate:
    r"""The CP-rank of every class tensor of a trained network, from a ``size`` x ``size`` matrix of its exact scores.

    The seed gives each site a few feature vectors over F_p. A row of the matrix is a choice of one vector at every odd
    site, a column a choice at every even site. The matrix is the odd/even matricization between two other matrices, so
    its rank is at most the CP-rank.

    Args:
        format: with ``exact_scores``.
        sha256: hash of all weights of the network, by ``runs.weights_sha256``.
        size: K, a power of two.
        seed: of the feature vectors.
        primes: the ranks are counted modulo each of them, p < 2^31.
        workers: processes that share the classes.

    Raises:
        UserError: if the format has no exact scores, the size is no power of two or larger than the modes allow, a size
            is outside the table of ``limits.py``, or a weight has no exact image.
    """
    mode_size, rank, sites, classes = format.mode_size, format.rank, format.sites, format.classes
    weights = dict(format.named_parameters())
    sizes = {"sites": sites, "size": size, "seed": seed, "classes": classes, "mode_size": mode_size, "rank": rank}
    refuse(out_of_range(**sizes) or unfit(weights))
    counts = grid(size, mode_size, sites)
    refuse(sample_excess(weights, format.classes, size, counts, mode_size, rank, primes))
    ranks = []
    for prime in primes:
        vectors = [hashed((k, mode_size), prime, seed, "features", site) for site, k in enumerate(counts, start=1)]
        matrices = []
        for scores in format.exact_scores(vectors, PrimeField(prime)):
            if scores.shape != (size * size,):
                raise UserError(f"{format.name}.exact_scores gives {scores.shape} of a class, not ({size * size},)")
            matrices.append(odd_even_matrix(scores, counts))
        if len(matrices) != format.classes:
            raise UserError(f"{format.name}.exact_scores gives {len(matrices)} classes, not {format.classes}")
        ranks.append(ranks_modulo(matrices, prime, workers))
    best = [max(each) for each in zip(*ranks, strict=True)]
    statement = sampled_statement(best, sites, size, rank if format.shallow else None)
    return heading("sampled", statement, mode_size, rank, sites) | {
        "weights_sha256": sha256,
        "size": size,
        "seed": seed,
        "primes": list(primes),
        "ranks": ranks,
        "cp_rank_at_least": best,
    }


def grid(size: int, mode_size: int, sites: int) -> list[int]:
    """Feature vectors of each site: powers of two whose product is ``size`` over the odd and over the even sites."""
    refuse(out_of_range(size=size))
    bits = size.bit_length() - 1
    if size != 2**bits:
        raise UserError(f"the sampled size is {size}, it must be a power of two")
    counts = [0] * sites
    most = mode_size.bit_length() - 1  # at most n vectors are independent
    for parity in (0, 1):
        same_parity = range(parity, sites, 2)
        largest = 2 ** (most * len(same_parity))
        if size > largest:
            raise UserError(
                f"the sampled size is {size}, the largest for {sites} sites of mode size {mode_size} is "
                f"{largest}: each site chooses from {2**most} feature vectors, the largest power "
                f"of two up to {mode_size}"
            )
        for bit in range(bits):  # from the last site on, so that the first sites are computed once
            counts[same_parity[len(same_parity) - 1 - bit % len(same_parity)]] += 1
    return [2**count for count in counts]


def largest_grid(size: int, mode_size: int, sites: int) -> int:
    """The largest power of two up to ``size`` that ``grid`` accepts."""
    bits = min(size, LARGEST["size"]).bit_length() - 1
    return 1 << min(bits, (mode_size.bit_length() - 1) * (sites // 2))
