r"""Counting again: does a certificate say the truth?

Nothing here computes with the code that made the certificate. Weights become residues by Python's exact fractions, the
generic cores are drawn again, T_m, H and the sampled scores are summed by the definition, and ranks come from a plain
Gaussian elimination: NumPy's 64-bit integers where p < 2^31, Python's for larger primes. From the inputs
in the file (kind, sizes, primes, seed, slices, hash of the weights) the whole certificate is made again and compared.
"""

import json
from pathlib import Path
from typing import Any, Final

from torch import Tensor

from ttlightning.errors import UserError
from ttlightning.rank import certificate as made
from ttlightning.rank.bounds import can_be_written, generic_odd_even_rank
from ttlightning.rank.recount import (
    Slices,
    eliminate_small,
    hashed,
    hashed_core,
    is_prime,
    matrix,
    staircase_ranks,
)
from ttlightning.rank.resampling import canonical_scores, chain_scores, tree_scores

FIELDS: Final = {
    "generic": {"modes": int, "rank": int, "sites": int, "seed": int, "primes": list},
    "checkpoint": {"modes": int, "rank": int, "sites": int, "weights_sha256": str, "primes": list, "slices": list},
    "sampled": {
        "modes": int,
        "rank": int,
        "sites": int,
        "weights_sha256": str,
        "size": int,
        "seed": int,
        "primes": list,
    },
}
"""What a certificate of each kind is made from, and of which type it is."""
LARGEST: Final = {"modes": 4096, "rank": 4096, "sites": 100_000, "size": made.LARGEST_SAMPLE, "seed": 2**63}
SCORES: Final = {"first": chain_scores, "factors": canonical_scores, "leaves": tree_scores}
"""How the scores of a network are counted, by a parameter that only its format has."""


class Rejected(Exception):
    """The certificate does not hold; the text says why."""


def read_certificate(path: Path) -> dict[str, Any]:
    """The content of a certificate file.

    Raises:
        Rejected: where it is no whole certificate of a known kind and version.
        UserError: where there is no such file.
    """
    try:
        content = json.loads(path.read_bytes(), object_pairs_hook=_once)
    except OSError as fault:
        raise UserError(f"{path} cannot be read: {fault.strerror}") from fault
    except (ValueError, RecursionError) as fault:
        raise Rejected(f"not a whole JSON file ({fault})") from fault
    if not isinstance(content, dict) or content.get("certificate") != made.TITLE:
        raise Rejected("not a rank certificate")
    if content.get("version") != made.VERSION or type(content["version"]) is not int:
        raise Rejected(f"of version {content.get('version')!r}, this program knows {made.VERSION}")
    if content.get("kind") not in FIELDS:
        raise Rejected(f"of an unknown kind {content.get('kind')!r}")
    return content


def verify(
    content: dict[str, Any],
    weights: dict[str, Tensor] | None = None,
    sha256: str | None = None,
    sites: int | None = None,
) -> None:
    """Raise ``Rejected`` unless the certificate is what its inputs give.

    Args:
        content: a certificate, see ``read_certificate``.
        weights: the parameters of the format of the network that it speaks of, by name (not for a generic one).
        sha256: the hash of all that network's weights.
        sites: that network's sites, which equal cores do not tell by themselves.
    """
    kind = content["kind"]
    _check_inputs(content)
    if kind == "generic":
        again = _generic(content)
    else:
        if weights is None or sha256 is None:
            raise UserError("this certificate speaks of a trained network: name it with --checkpoint")
        if content["weights_sha256"] != sha256:
            raise Rejected("it speaks of other weights than those of the checkpoint")
        if sites is not None and content["sites"] != sites:
            raise Rejected(f"it speaks of {content['sites']} sites, the checkpoint has {sites}")
        _check_shapes(content, weights)
        again = (_checkpoint if kind == "checkpoint" else _sampled)(content, weights)
    for name in [*again, *(name for name in content if name not in again)]:
        if name not in again or name not in content:
            raise Rejected(f"{name} is {'too much' if name in content else 'missing'}")
        if _typed(content[name]) != _typed(again[name]):
            raise Rejected(f"{name} is {_short(content[name])}, but counting gives {_short(again[name])}")


def _generic(content: dict[str, Any]) -> dict[str, Any]:
    modes, rank, sites, seed = (content[name] for name in ("modes", "rank", "sites", "seed"))
    states = min(modes, rank)
    slices = min(modes, states * states)
    if states * slices > made.LARGEST_PAIR or not can_be_written(generic_odd_even_rank(modes, rank, sites)):
        raise Rejected("modes, rank or sites are out of range")
    ranks, bounds = [], []
    for p in content["primes"]:
        first = hashed(slices, states, p, f"{seed}/first")
        core = hashed_core(slices, states, p, f"{seed}/interior")
        last = hashed(states, slices, p, f"{seed}/last")
        found = staircase_ranks([core] * (sites - 2), sites, first, [last], p)
        ranks.append(found)
        bounds.append(_bound(slices, states, sites, found, 0))
    expected = generic_odd_even_rank(modes, rank, sites)
    if any(bound != expected for bound in bounds):
        raise Rejected(f"the cores of seed {seed} do not reach {expected}")
    return _inputs(content) | {
        "statement": made.generic_statement(modes, rank, sites, expected),
        "ranks": ranks,
        "cp_rank_at_least": [expected],
        **_head("generic"),
    }


def _checkpoint(content: dict[str, Any], weights: dict[str, Tensor]) -> dict[str, Any]:
    sites, rank = content["sites"], content["rank"]
    slices = content["slices"] * (sites - 2) if len(content["slices"]) == 1 else content["slices"]
    size = len(slices[0]) if slices else content["modes"]
    ranks, bounds = [], []
    for p in content["primes"]:
        first = matrix(weights["first"], p)
        distinct = [[matrix(each, p) for each in core] for core in weights["interior"]]
        lasts = [matrix(core.T, p) for core in weights["last"].permute(2, 0, 1)]
        chosen: dict[tuple[int, ...], Slices] = {}
        interior = []
        for site, picked in enumerate(slices):
            which = 0 if len(distinct) == 1 else site
            interior.append(chosen.setdefault((which, *picked), [distinct[which][i] for i in picked]))
        found = staircase_ranks(interior, sites, first, lasts, p)
        ranks.append(found)
        bounds.append([_bound(size, rank, sites, found, y) for y in range(len(lasts))])
    best = [max(each) for each in zip(*bounds, strict=True)]
    return _inputs(content) | {
        "statement": made.checkpoint_statement(best, sites),
        "ranks": ranks,
        "cp_rank_at_least": best,
        **_head("checkpoint"),
    }


def _sampled(content: dict[str, Any], weights: dict[str, Tensor]) -> dict[str, Any]:
    sites, modes, size = content["sites"], content["modes"], content["size"]
    try:
        counts = made.grid(size, modes, sites)
    except UserError as fault:
        raise Rejected(str(fault)) from fault
    of_network = next(scores for name, scores in SCORES.items() if name in weights)
    order = [*range(0, sites, 2), *range(1, sites, 2)]
    ranks: list[list[int]] = []
    for p in content["primes"]:
        if p >= 2**31:
            raise Rejected(f"the prime {p} is too large for a sampled certificate, 2^31 is the limit")
        vectors = [
            hashed(count, modes, p, f"{content['seed']}/features/{site + 1}") for site, count in enumerate(counts)
        ]
        classes = (scores.reshape(counts).transpose(order) for scores in of_network(weights, vectors, p))
        ranks.append([eliminate_small(each.reshape(size, size), p) for each in classes])
    best = [max(each) for each in zip(*ranks, strict=True)]
    return _inputs(content) | {
        "statement": made.sampled_statement(best, size, content["rank"] if "factors" in weights else None),
        "ranks": ranks,
        "cp_rank_at_least": best,
        **_head("sampled"),
    }


def _inputs(content: dict[str, Any]) -> dict[str, Any]:
    """What a certificate is made from, and where it says that its checkpoint lies."""
    names = [
        *FIELDS[content["kind"]],
        *(["checkpoint"] if content["kind"] != "generic" and "checkpoint" in content else []),
    ]
    return {name: content[name] for name in names}


def _head(kind: str) -> dict[str, Any]:
    return {"certificate": made.TITLE, "version": made.VERSION, "kind": kind}


def _check_inputs(content: dict[str, Any]) -> None:
    for name, kind in FIELDS[content["kind"]].items():
        if name not in content:
            raise Rejected(f"{name} is missing")
        if type(content[name]) is not kind:
            raise Rejected(f"{name} is {_short(content[name])}, not {kind.__name__}")
        if kind is int and not (2 if name == "sites" else 0 if name == "seed" else 1) <= content[name] <= LARGEST[name]:
            raise Rejected(f"{name} is {content[name]}, out of range")
    primes = content["primes"]
    if not primes or len(primes) != len({*map(str, primes)}) or len(primes) > 8:
        raise Rejected("primes must be one to eight different ones")
    for p in primes:
        if type(p) is not int or not 2 < p < 2**64 or not is_prime(p):
            raise Rejected(f"{_short(p)} is not an odd prime below 2^64")
    if content["kind"] == "checkpoint":
        _check_slices(content)


def _check_slices(content: dict[str, Any]) -> None:
    slices, sites, modes = content["slices"], content["sites"], content["modes"]
    if len(slices) not in ({0} if sites == 2 else {1, sites - 2}):
        raise Rejected("slices must be one list, or one for each interior site")
    for picked in slices:
        whole = isinstance(picked, list) and all(type(i) is int and 0 <= i < modes for i in picked)
        if not whole or len({*picked}) != len(picked) or len(picked) != len(slices[0]) or not picked:
            raise Rejected("slices must be as many different modes at each site")


def _check_shapes(content: dict[str, Any], weights: dict[str, Tensor]) -> None:
    """The parameters are those of one of the formats, with the certificate's sizes; a staircase is for chains only."""
    n, r, d = content["modes"], content["rank"], content["sites"]
    shapes = {name: tuple(value.shape) for name, value in weights.items()}
    classes = next((shape[-1] for name, shape in shapes.items() if name in ("last", "weights", "root") and shape), 0)
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
        raise Rejected(f"a network of {d} sites, {n} modes and rank {r} is not what the checkpoint holds")
    if not all(value.isfinite().all() for value in weights.values()):
        raise Rejected("a weight of the checkpoint is infinite or not a number")


def _bound(n: int, r: int, sites: int, ranks: dict[str, Any], y: int) -> int:
    """What Sylvester's inequality leaves of the full rank, written out on its own."""
    k, first, last = sites // 2, ranks["first"], ranks["last"][y]
    full = r * n ** (k - 1)
    for found in ranks["pairs"]:
        full -= (r * n - found) * n ** (k - 2)
    if sites % 2 == 0:
        return max(0, full - (r - first) * n ** (k - 1) - (r - last) * n ** (k - 1))
    lost = r * (r * n ** (k - 1) - full)
    return max(0, n ** (k - 1) * ranks["state"] - lost - (r * r - first * last) * n ** (k - 1))


def _once(items: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object that says nothing twice."""
    found = dict(items)
    if len(found) != len(items):
        raise ValueError("a name stands twice")
    return found


def _typed(value: Any) -> Any:
    """A value beside its type: 1, 1.0 and true are not the same answer."""
    if isinstance(value, list):
        return [_typed(each) for each in value]
    if isinstance(value, dict):
        return {name: _typed(each) for name, each in value.items()}
    return type(value).__name__, value


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."
