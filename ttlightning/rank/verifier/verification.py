r"""Verifying a certificate: every rank that it claims is counted again.

No code is shared with ``rank/certificates``; the arithmetic is in ``arithmetic.py``. First the claims are checked for
form and consistency (``claims.py``). Then every claimed rank is counted from the inputs in the file: sizes, primes,
seed, slices, hash of the weights.
"""

from typing import TYPE_CHECKING, Any, Final

from ttlightning.errors import UserError
from ttlightning.rank.limits import sample_excess, staircase_excess, unfit
from ttlightning.rank.statements import sampled_statement
from ttlightning.rank.verifier.arithmetic import (
    Slices,
    hashed,
    hashed_core,
    matrix,
    rank_modulo,
    staircase_ranks,
)
from ttlightning.rank.verifier.claims import (
    NoCertificate,
    Rejected,
    additions,
    agree,
    check_claims,
    difference,
    read_certificate,
)
from ttlightning.rank.verifier.independence import check_features
from ttlightning.rank.verifier.scores import canonical_scores, chain_scores, choices, tree_scores

if TYPE_CHECKING:
    from torch import Tensor

    from ttlightning.rank.verifier.independence import Features

__all__ = ["NoCertificate", "Rejected", "read_certificate", "verify"]

SCORES: Final = {"first": chain_scores, "factors": canonical_scores, "leaves": tree_scores}
"""A parameter that only one family of formats has: the function that counts its scores."""


def classes_of(weights: dict[str, "Tensor"]) -> int:
    """C, the last size of the parameter at the end of a chain, a sum of units or a tree; 0 if there is none."""
    ends = (weights[name] for name in ("last", "weights", "root") if name in weights)
    return next((value.shape[-1] for value in ends if value.ndim), 0)


def verify(
    content: dict[str, Any],
    weights: dict[str, "Tensor"] | None = None,
    sha256: str | None = None,
    sites: int | None = None,
    features: "Features | None" = None,
) -> None:
    """Raise ``Rejected`` unless counting confirms the certificate.

    Args:
        content: a certificate, see ``read_certificate``.
        weights: the parameters of the network's format, by name (not for a generic certificate).
        sha256: hash of all weights of the network.
        sites: the network's sites, which the shapes of equal cores do not determine.
        features: activation, whether there is a constant feature, and the weights and biases of the feature map, for a
            certificate that speaks of them.
    """
    check_claims(content)
    if content["kind"] == "generic":
        _count_generic(content)
        return
    if weights is None or sha256 is None:
        raise UserError("this certificate is for a trained network: name it with --checkpoint")
    if content["weights_sha256"] != sha256:
        raise Rejected("it is for other weights than those of the checkpoint")
    if sites is not None and (stated := content.get("network_sites", content["sites"])) != sites:
        raise Rejected(f"it is for {stated} sites, the checkpoint has {sites}")
    if "network_sites" in content:
        weights = _of_length(content["sites"], weights)
    if weights and not SCORES.keys() & weights.keys():
        raise UserError(f"the verifier has no formula for a network with the parameters {', '.join(sorted(weights))}")
    _check_shapes(content, weights)
    if reason := unfit(weights):
        raise Rejected(reason)
    if "features" in content:
        if features is None:
            raise UserError("this certificate speaks of the network's features: they are needed too")
        check_features(content["features"], content["mode_size"], *features)
    (_count_staircase if content["kind"] == "checkpoint" else _count_sampled)(content, weights)


def _of_length(sites: int, weights: dict[str, "Tensor"]) -> dict[str, "Tensor"]:
    """The parameters of a chain of equal cores for another number of sites; ``Rejected`` for other parameters."""
    if "interior" not in weights or len(weights["interior"]) != 1:
        raise Rejected("only a chain of equal cores has tensors of several numbers of sites")
    return weights | {"interior": weights["interior"][: min(1, sites - 2)]}


def _count_generic(content: dict[str, Any]) -> None:
    mode_size, rank, sites, seed = (content[name] for name in ("mode_size", "rank", "sites", "seed"))
    states = min(mode_size, rank)
    slices = min(mode_size, states * states)
    for p, claimed in zip(content["primes"], content["ranks"], strict=True):
        first = hashed(slices, states, p, f"{seed}/first")
        core = hashed_core(slices, states, p, f"{seed}/interior")
        last = hashed(states, slices, p, f"{seed}/last")
        _compare(claimed, staircase_ranks([core] * (sites - 2), sites, first, [last], p), p)


def _count_staircase(content: dict[str, Any], weights: dict[str, "Tensor"]) -> None:
    sites, mode_size, rank, primes = (content[name] for name in ("sites", "mode_size", "rank", "primes"))
    slices = content["slices"] * (sites - 2) if len(content["slices"]) == 1 else content["slices"]
    size = len(slices[0]) if slices else mode_size
    different = len(weights["interior"]) > 1 or len(content["slices"]) > 1
    numbers = sum(value.numel() for value in weights.values())
    ends = content["absorbed"], (content["kept"][0], content["kept"][1])
    if reason := staircase_excess(size, rank, sites, primes, mode_size, different, classes_of(weights), numbers, *ends):
        raise Rejected(reason)
    for p, claimed in zip(primes, content["ranks"], strict=True):
        first = matrix(weights["first"], p)
        distinct = [[matrix(each, p) for each in core] for core in weights["interior"]]
        lasts = [matrix(core.T, p) for core in weights["last"].permute(2, 0, 1)]
        chosen: dict[tuple[int, ...], Slices] = {}
        interior = []
        for site, picked in enumerate(slices):
            which = 0 if len(distinct) == 1 else site
            interior.append(chosen.setdefault((which, *picked), [distinct[which][i] for i in picked]))
        _compare(claimed, staircase_ranks(interior, sites, first, lasts, p, *ends), p)


def _count_sampled(content: dict[str, Any], weights: dict[str, "Tensor"]) -> None:
    sites, mode_size, rank, size = (content[name] for name in ("sites", "mode_size", "rank", "size"))
    counts = choices(size, mode_size, sites)
    if counts is None:
        raise Rejected(f"size {size} is no power of two, or too much for {sites} sites of mode size {mode_size}")
    if reason := sample_excess(weights, classes_of(weights), size, counts, mode_size, rank, content["primes"]):
        raise Rejected(reason)
    units = rank if "factors" in weights else None
    agree("statement", content, sampled_statement(content["cp_rank_at_least"], sites, size, units) + additions(content))
    of_network = next(scores for name, scores in SCORES.items() if name in weights)
    chosen = [site for site in range(sites) if counts[site] > 1]  # NumPy has 64 axes at most
    order = sorted(range(len(chosen)), key=lambda axis: chosen[axis] % 2)
    for p, claimed in zip(content["primes"], content["ranks"], strict=True):
        vectors = [
            hashed(count, mode_size, p, f"{content['seed']}/features/{site + 1}") for site, count in enumerate(counts)
        ]
        classes = (
            scores.reshape([counts[site] for site in chosen]).transpose(order)
            for scores in of_network(weights, vectors, p)
        )
        _compare(claimed, [rank_modulo(each.reshape(size, size), p) for each in classes], p)


def _compare(claimed: Any, counted: Any, p: int) -> None:
    """Raise ``Rejected`` unless the counted ranks modulo one prime are the claimed ones."""
    if isinstance(counted, list):
        claimed, counted = {"scores": claimed}, {"scores": counted}
    for name, value in counted.items():
        if claimed[name] != value:
            wrong, right = difference(claimed[name], value)
            raise Rejected(f"the rank of {name} modulo {p} is {wrong}, but counting gives {right}")


def _check_shapes(content: dict[str, Any], weights: dict[str, "Tensor"]) -> None:
    """Raise ``Rejected`` unless the parameters are those of a known format with the certificate's sizes."""
    n, r, d = content["mode_size"], content["rank"], content["sites"]
    shapes = {name: tuple(value.shape) for name, value in weights.items()}
    classes = classes_of(weights)
    widths = [d >> level for level in range(1, d.bit_length() - 1)]
    possible = [
        {"first": (n, r), "interior": (cores, n, r, r), "last": (n, r, classes)} for cores in {min(1, d - 2), d - 2}
    ]
    if content["kind"] == "sampled":
        possible.append({"factors": (d, n, r), "weights": (r, classes)})
    if content["kind"] == "sampled" and d & (d - 1) == 0:
        for most in (1, d):
            nodes = {f"nodes.{level}": (min(most, width), r, r, r) for level, width in enumerate(widths)}
            possible.append({"leaves": (min(most, d), n, r), **nodes, "root": (r, r, classes)})
    if shapes not in possible or classes < 1:
        raise Rejected(f"a network of {d} sites, mode size {n} and rank {r} is not what the checkpoint holds")
    if classes != len(content["cp_rank_at_least"]):
        raise Rejected(f"it is for {len(content['cp_rank_at_least'])} classes, the checkpoint has {classes}")
