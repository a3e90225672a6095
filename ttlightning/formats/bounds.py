r"""Ranks that almost every tensor of a format has, as exact integers.

The CP-rank of a tensor is at least the rank of each of its matricizations. Each function gives the rank of one
matricization, with the odd sites as rows and the even sites as columns, or a published lower bound on it. The numbers
hold for almost every tensor, outside a set of measure zero. d sites, mode size n, rank r.
"""


def cp_rank_bound_k18(mode_size: int, rank: int, sites: int) -> int:
    r"""min(n, r)^floor(d/2), different cores. [K18, Theorem 1], for even d; for odd d fix the last site's index."""
    return min(mode_size, rank) ** (sites // 2)


def cp_rank_bound_a24(mode_size: int, rank: int, sites: int) -> int:
    r"""min(n, r-1)^floor(d/2), equal cores. [A24], for even d. At r = 1 the bound is empty, and 1 is returned."""
    return max(1, min(mode_size, rank - 1)) ** (sites // 2)


def generic_odd_even_rank(mode_size: int, rank: int, sites: int) -> int:
    r"""Rank of the odd/even matricization of almost every tensor train, with different or with equal cores.

    d = 2k:      min(n, r) min(n, r^2)^(k-1)
    d = 2k + 1:  min(n, r^2)^k

    It is an upper bound because an interior even site touches two bonds and an end site one. That equal cores reach it
    too is this project's own sharpening of [K18] and [A24]; proof and checks: docs/theorem.md.
    """
    interior = min(mode_size, rank**2)
    if sites % 2:
        return interior ** (sites // 2)
    return min(mode_size, rank) * interior ** (sites // 2 - 1)


def generic_tree_rank(mode_size: int, rank: int, sites: int) -> int:
    r"""min(n, r)^(d/2): rank of the odd/even matricization of almost every hierarchical Tucker tensor.

    It holds for own and for shared nodes. No other matricization has a larger rank, because the leaf of a site has at
    most min(n, r) independent states. Proof: docs/partitions.md; a tensor that reaches it: ``rank/witnesses.tree``.
    [K18, Table 2] has r^(d/2), n > r.
    """
    return min(mode_size, rank) ** (sites // 2)


def generic_canonical_rank(mode_size: int, rank: int, sites: int) -> int:
    r"""min(r, n^floor(d/2)): rank of the odd/even matricization of almost every canonical polyadic tensor."""
    return min(rank, mode_size ** (sites // 2))
