r"""Rounding of a chain to a smaller TT-rank: with cores of its own at every site, and with equal cores.

    W ~ A_1 ... A_d,   A_k <- A_k M_k^(1/2),   truncate every bond by an SVD,   A_k <- A_k M_k^(-1/2)

The error is ||W - W'||_M, the Frobenius norm after the multiplication of site k by M_k^(1/2). Without metric it is the
norm of the tensor. With M_k, the second moments of the features at site k over images, its square is the mean square
error of the scores over images whose patches are independent.

TT rounding (Oseledets 2011) truncates bond after bond of an orthogonalised chain. The squared error is at most the sum
of the discarded squared singular values, and the error at most sqrt(d - 1) times that of the best tensor of this rank.
Equal cores do not survive it. They need one projection for all bonds: see ``project_equal``.
"""

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

RIDGE: Final = 1e-4
"""Added to every second-moment matrix, times its mean eigenvalue: the images do not determine the tensor where no
feature ever goes, and M_k^(-1/2) must exist."""

Cores = list[Float[Tensor, "left modes right"]]


class Rounded(NamedTuple):
    """A chain of smaller TT-rank."""

    cores: Cores
    discarded: float
    """sum of the discarded squared singular values over ||W||^2, an upper bound on the squared relative error"""


def square_roots(
    metrics: Float[Tensor, "sites modes modes"],
) -> tuple[Float[Tensor, "sites modes modes"], Float[Tensor, "sites modes modes"]]:
    """M^(1/2) and M^(-1/2) of positive definite matrices."""
    values, vectors = torch.linalg.eigh(metrics)
    roots = values.clamp_min(torch.finfo(values.dtype).tiny).sqrt().unsqueeze(-2)
    return vectors * roots @ vectors.mT, vectors / roots @ vectors.mT


def with_ridge(moments: Float[Tensor, "sites modes modes"]) -> Float[Tensor, "sites modes modes"]:
    """Second moments made positive definite: M + RIDGE * trace(M) / n * identity."""
    mean = moments.diagonal(dim1=1, dim2=2).mean(1)
    return moments + RIDGE * mean[:, None, None] * torch.eye(moments.shape[1], dtype=moments.dtype)


def round_chain(cores: Sequence[Tensor], rank: int, metrics: Float[Tensor, "sites modes modes"]) -> Rounded:
    """The chain with TT-ranks of at most ``rank``, by SVDs from the last bond to the first.

    Args:
        cores: (r_{k-1}, n, r_k) in float64; the last bond is the class.
        rank: the largest TT-rank afterwards.
        metrics: M_k of every site, positive definite.
    """
    roots, inverse = square_roots(metrics)
    rounded, logarithm = _orthogonalized(_times(cores, roots))
    discarded = 0.0
    for site in range(len(cores) - 1, 0, -1):
        core = rounded[site]
        left, values, right = torch.linalg.svd(core.flatten(1), full_matrices=False)
        discarded += float(values[rank:].square().sum())
        rounded[site] = right[:rank].reshape(-1, *core.shape[1:])
        rounded[site - 1] = torch.tensordot(rounded[site - 1], left[:, :rank] * values[:rank], dims=1)
    return Rounded(_balanced(_times(rounded, inverse), logarithm), discarded)


def relative_error(
    cores: Sequence[Tensor], others: Sequence[Tensor], metrics: Float[Tensor, "sites modes modes"]
) -> float:
    """||W - W'||_M / ||W||_M of two chains, from the norm of the chain of their difference: exact where it is small."""
    roots, _ = square_roots(metrics)
    last, end = len(cores) - 1, cores[-1].shape[2]
    difference = []
    for site, (ours, theirs) in enumerate(zip(cores, others, strict=True)):
        rows = (0 if site == 0 else ours.shape[0], 0 if site == last else ours.shape[2])
        shape = (rows[0] + theirs.shape[0], ours.shape[1], end if site == last else rows[1] + theirs.shape[2])
        core = ours.new_zeros(shape)
        core[: ours.shape[0], :, : ours.shape[2]] += ours
        core[rows[0] :, :, rows[1] :] += -theirs if site == 0 else theirs
        difference.append(core)
    whole, part = (_log_norm(_times(chain, roots)) for chain in (cores, difference))
    return 0.0 if part == -math.inf else math.exp(part - whole)


def project_equal(
    first: Float[Tensor, "modes rank"],
    core: Float[Tensor, "modes rank rank"],
    last: Float[Tensor, "modes rank classes"],
    rank: int,
    metrics: Float[Tensor, "sites modes modes"],
) -> tuple[Tensor, Tensor, Tensor]:
    r"""One projection for all bonds: balanced truncation with the environments averaged over the bonds of this chain.

    L_k = Gramian of the sites up to bond k, R_k = Gramian of those after it, scaled to tr(L_k) = tr(R_k) and
    tr(L_k R_k) = ||W||^2 = 1. With their means L = Y Y^T, R = Z Z^T and Y^T Z = U S V^T, the columns of
    P = Z V S^(-1/2) and Q = Y U S^(-1/2) of the largest ``rank`` values have Q^T P = 1, and F P, Q^T G P, Q^T L_y are
    the cores. No quasi-optimality is known for it; ``fit_equal`` improves it.
    """
    lefts = [first.T @ metrics[0] @ first]
    rights = [torch.einsum("iac,ij,jbc->ab", last, metrics[-1], last)]
    for metric in metrics[1:-1]:
        lefts.append(torch.einsum("iac,ij,ab,jbd->cd", core, metric, lefts[-1] / lefts[-1].trace(), core))
    for metric in reversed(metrics[1:-1]):
        rights.insert(0, torch.einsum("iac,ij,cd,jbd->ab", core, metric, rights[0] / rights[0].trace(), core))
    left, right = torch.zeros_like(lefts[0]), torch.zeros_like(lefts[0])
    for one, two in zip(lefts, rights, strict=True):
        one, two = one / one.trace(), two / two.trace()
        joint = (one * two).sum().sqrt()
        left, right = left + one / joint, right + two / joint
    y, z = (_factor(gramian) for gramian in (left, right))
    u, values, vt = torch.linalg.svd(y.T @ z)
    scale = values[:rank].clamp_min(torch.finfo(values.dtype).eps * values[0]).rsqrt()
    onto, back = z @ vt[:rank].T * scale, y @ u[:, :rank] * scale
    return first @ onto, back.T @ core @ onto, back.T @ last


def fit_equal(
    cores: Sequence[Tensor],
    start: tuple[Tensor, Tensor, Tensor],
    metrics: Float[Tensor, "sites modes modes"],
    iterations: int = 200,
) -> tuple[Tensor, Tensor, Tensor]:
    """Equal cores nearer to the chain than ``start``: a local minimum of ||W - W'||_M^2 / ||W||_M^2, by L-BFGS.

    Deterministic. The result is never farther than ``start``.
    """
    roots, _ = square_roots(metrics)
    scale = math.exp(-_log_norm(_times(cores, roots)) / len(cores))  # that the norm of the chain is 1
    target = [core * scale for core in cores]
    free = [(part * scale).detach().clone().requires_grad_() for part in start]
    optimizer = torch.optim.LBFGS(free, max_iter=iterations, history_size=30, line_search_fn="strong_wolfe")

    def error() -> Tensor:
        chain = equal_chain(free[0], free[1], free[2], len(cores))
        return 1 - 2 * _product(target, chain, metrics) + _product(chain, chain, metrics)

    def step() -> float:
        optimizer.zero_grad()
        value = error()
        value.backward()
        return value.item()

    with torch.enable_grad():
        before = error().item()
        optimizer.step(step)
        after = error().item()
    if not after <= before:  # also NaN
        return start
    first, core, last = (part.detach() / scale for part in free)
    return first, core, last


def equal_chain(first: Tensor, core: Tensor, last: Tensor, sites: int) -> Cores:
    """The cores (left, modes, right) of a chain whose interior cores are one core (modes, rank, rank)."""
    return [first.unsqueeze(0), *[core.transpose(0, 1)] * (sites - 2), last.transpose(0, 1)]


def _times(cores: Sequence[Tensor], factors: Sequence[Tensor] | Tensor) -> Cores:
    """Every core multiplied at its site by a symmetric matrix."""
    return [torch.einsum("aib,ij->ajb", core, factor) for core, factor in zip(cores, factors, strict=True)]


def _orthogonalized(cores: Sequence[Tensor]) -> tuple[Cores, float]:
    """Left-orthogonal cores of a chain of norm 1, and the logarithm of the norm that was divided out."""
    chain, logarithm = list(cores), 0.0
    for site, core in enumerate(chain):
        norm = float(core.norm())
        if norm == 0:
            return [torch.zeros_like(c) for c in chain], -math.inf
        logarithm += math.log(norm)
        chain[site] = core / norm
        if site + 1 < len(chain):
            q, r = torch.linalg.qr(chain[site].flatten(0, 1))
            chain[site] = q.reshape(*core.shape[:2], -1)
            chain[site + 1] = torch.tensordot(r, chain[site + 1], dims=1)
    return chain, logarithm


def _log_norm(cores: Sequence[Tensor]) -> float:
    return _orthogonalized(cores)[1]


def _balanced(cores: Cores, logarithm: float) -> Cores:
    """The chain exp(logarithm) * cores, with the same Frobenius norm in every core."""
    norms = [float(core.norm()) for core in cores]
    if 0 in norms or logarithm == -math.inf:
        return [torch.zeros_like(core) for core in cores]
    each = math.exp((logarithm + sum(map(math.log, norms))) / len(cores))
    return [core * (each / norm) for core, norm in zip(cores, norms, strict=True)]


def _product(one: Sequence[Tensor], two: Sequence[Tensor], metrics: Tensor) -> Tensor:
    """<W, W'>_M, summed over the classes."""
    joint = one[0].new_ones(1, 1)
    for ours, theirs, metric in zip(one, two, metrics, strict=True):
        joint = torch.einsum("aic,ij,ab,bjd->cd", ours, metric, joint, theirs)
    return joint.trace()


def _factor(gramian: Tensor) -> Tensor:
    """Y with Y Y^T = gramian."""
    values, vectors = torch.linalg.eigh(gramian)
    return vectors * values.clamp_min(0).sqrt()
