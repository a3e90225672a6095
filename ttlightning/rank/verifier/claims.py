r"""The form of a certificate's fields, and whether its claims are consistent; nothing is counted.

A file may come from anywhere. Each field has one form, and each size is compared with the table of ``limits.py``. Then
the claimed bound is compared with the bound that the claimed ranks give, and that of a generic certificate with the
closed form. A consistent certificate is counted in ``verification.py``.
"""

import json
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Final

from ttlightning.errors import UserError
from ttlightning.rank.limits import (
    LARGEST_BOUND,
    LARGEST_FILE,
    LARGEST_PRIME,
    MOST_PRIMES,
    MOST_WIDTHS,
    out_of_range,
    staircase_excess,
    stated,
)
from ttlightning.rank.statements import (
    ANALYTIC,
    KINDS,
    TITLE,
    VERSION,
    checkpoint_statement,
    features_statement,
    generic_statement,
    length_statement,
    width_statement,
)
from ttlightning.rank.verifier.arithmetic import is_prime

HEAD: Final = ("certificate", "version", "kind", "statement", "mode_size", "rank", "sites")
COUNTED: Final = (*HEAD, "primes", "ranks", "cp_rank_at_least")
FIELDS: Final = {
    "generic": (*COUNTED, "seed"),
    "checkpoint": (*COUNTED, "weights_sha256", "absorbed", "kept", "slices"),
    "sampled": (*COUNTED, "weights_sha256", "size", "seed"),
    "width": (
        *(*HEAD, "weights_sha256", "images", "images_sha256", "activation", "constant", "pixel_mean"),
        *("permille", "units_at_least"),
    ),
}
"""The fields of each kind."""
MORE: Final[dict[str, tuple[str, ...]]] = {
    "generic": (),
    "checkpoint": ("checkpoint", "features", "network_sites"),
    "sampled": ("checkpoint", "features", "network_sites"),
    "width": ("checkpoint",),
}
"""Fields that a certificate of each kind may have: the path of its checkpoint, independent features, another length."""
ACTIVATIONS: Final = ("relu", "gelu", "sigmoid", "tanh", "softplus", "cos", "identity")
SIZES: Final = ("mode_size", "rank", "sites", "size", "seed", "images")


class Rejected(Exception):
    """The certificate does not hold; the text says why."""


class NoCertificate(UserError):
    """The file is no certificate that this version can read."""


def read_certificate(path: Path) -> dict[str, Any]:
    """The content of a certificate file.

    Raises:
        NoCertificate: if the file is no JSON file with a certificate of a known version and kind.
        UserError: if the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            text = file.read(LARGEST_FILE + 1)
    except (OSError, ValueError) as fault:
        raise UserError(f"{path} cannot be read: {getattr(fault, 'strerror', fault)}") from fault
    if len(text) > LARGEST_FILE:
        raise NoCertificate(f"larger than {LARGEST_FILE:,} bytes, which no certificate is")
    try:
        content = json.loads(text, object_pairs_hook=_once, parse_constant=_no_number)
    except (ValueError, RecursionError) as fault:
        raise NoCertificate(f"not a whole JSON file ({fault})") from fault
    if not isinstance(content, dict) or content.get("certificate") != TITLE:
        raise NoCertificate("not a rank certificate")
    if type(content.get("version")) is not int or content["version"] != VERSION:
        raise NoCertificate(f"of version {short(content.get('version'))}, this program knows {VERSION}: certify again")
    if not isinstance(content.get("kind"), str) or content["kind"] not in KINDS:
        raise NoCertificate(f"of an unknown kind {short(content.get('kind'))}")
    return content


def check_claims(content: dict[str, Any]) -> None:
    """Raise ``Rejected`` unless every field has its form and the claims are consistent."""
    kind = content["kind"]
    for name in FIELDS[kind]:
        if name not in content:
            raise Rejected(f"{name} is missing")
    for name in content:
        if name not in FIELDS[kind] and name not in MORE[kind]:
            raise Rejected(f"{short(name)} is too much")
    for name in SIZES:
        if name in content:
            _check_integer(name, content[name])
            _reject(out_of_range(**{name: content[name]}))
    for name in ("statement", "weights_sha256", "images_sha256", "activation", "checkpoint"):
        if name in content and type(content[name]) is not str:
            raise Rejected(f"{name} is {short(content[name])}, not a text")
    if "checkpoint" in content:
        _check_path(content["checkpoint"])
    if kind == "width":
        _check_width(content)
        return
    _check_primes(content["primes"])
    _check_bounds(content["cp_rank_at_least"])
    if "network_sites" in content:
        _check_length(content)
    if "features" in content:
        _check_features(content["features"], content["cp_rank_at_least"])
    {"generic": _check_generic, "checkpoint": _check_staircase, "sampled": _check_sampled}[kind](content)


def _check_generic(content: dict[str, Any]) -> None:
    mode_size, rank, sites = (content[name] for name in ("mode_size", "rank", "sites"))
    states = min(mode_size, rank)
    slices = min(mode_size, states * states)
    _reject(staircase_excess(slices, states, sites, content["primes"], slices))
    expected = closed_form(mode_size, rank, sites)
    agree("cp_rank_at_least", content, [stated(expected)])
    agree("statement", content, generic_statement(mode_size, rank, sites, stated(expected)))
    _check_ranks(content, slices, states, slices, 1, 0, (1, 1))
    for ranks in content["ranks"]:
        if sylvester(slices, states, sites, ranks, 0) != expected:
            raise Rejected("ranks give less than the bound")


def _check_staircase(content: dict[str, Any]) -> None:
    mode_size, rank, sites, primes = (content[name] for name in ("mode_size", "rank", "sites", "primes"))
    classes, slices = len(content["cp_rank_at_least"]), content["slices"]
    _check_slices(slices, sites, mode_size)
    size = len(slices[0]) if slices else mode_size
    absorbed, kept = _check_ends(content, size)
    _reject(staircase_excess(size, rank, sites, primes, mode_size, len(slices) > 1, classes, 0, absorbed, kept))
    _check_ranks(content, size, rank, mode_size, classes, absorbed, kept)
    bounds = [[sylvester(size, rank, sites, ranks, y, kept) for y in range(classes)] for ranks in content["ranks"]]
    best = [stated(max(of_class)) for of_class in zip(*bounds, strict=True)]
    agree("cp_rank_at_least", content, best)
    agree("statement", content, checkpoint_statement(best, sites) + additions(content))


def _check_sampled(content: dict[str, Any]) -> None:
    """Check all fields but the statement, which depends on the network's format."""
    classes, size = len(content["cp_rank_at_least"]), content["size"]
    ranks = content["ranks"]
    if type(ranks) is not list or len(ranks) != len(content["primes"]):
        raise Rejected("ranks must be a list for each prime")
    for of_prime in ranks:
        _check_list("ranks", of_prime, classes, size)
    agree("cp_rank_at_least", content, [max(of_class) for of_class in zip(*ranks, strict=True)])


def _check_width(content: dict[str, Any]) -> None:
    permille, units, images = (content[name] for name in ("permille", "units_at_least", "images"))
    if type(permille) is not list or not 1 <= len(permille) <= MOST_WIDTHS:
        raise Rejected(f"permille must be a list of one to {MOST_WIDTHS}")
    _check_list("permille", permille, len(permille), 999)
    if 0 in permille or sorted({*permille}, reverse=True) != permille:
        raise Rejected("permille must fall, and be above 0")
    _check_list("units_at_least", units, len(permille), images)
    if sorted(units) != units:
        raise Rejected("units_at_least must not fall: a smaller error takes no fewer units")
    if content["activation"] not in ACTIVATIONS:
        raise Rejected(f"activation is {short(content['activation'])}, it must be one of {', '.join(ACTIVATIONS)}")
    if type(content["constant"]) is not bool:
        raise Rejected(f"constant is {short(content['constant'])}, not true or false")
    if type(content["pixel_mean"]) is not float or not abs(content["pixel_mean"]) <= 2.0**64:
        raise Rejected(f"pixel_mean is {short(content['pixel_mean'])}, not a number of at most 2^64")
    agree(
        "statement",
        content,
        width_statement(permille, units, images, content["activation"], content["pixel_mean"]),
    )


def additions(content: dict[str, Any]) -> str:
    """The sentence of the field ``features`` or ``network_sites``, whose form has been checked; empty without them."""
    if "network_sites" in content:
        return length_statement(content["sites"], content["network_sites"])
    if "features" not in content:
        return ""
    return features_statement(content["mode_size"], content["features"]["activation"], content["features"]["constant"])


def _check_length(content: dict[str, Any]) -> None:
    _check_integer("network_sites", content["network_sites"])
    _reject(out_of_range(sites=content["network_sites"]))
    if content["network_sites"] == content["sites"] or "features" in content:
        raise Rejected("network_sites is for another number of sites than the network's, without features")


def _check_features(claim: Any, bounds: list[int]) -> None:
    if type(claim) is not dict or {*claim} != {"activation", "constant"} or type(claim["constant"]) is not bool:
        raise Rejected("features must be the name of an activation, and whether there is a constant one")
    if type(claim["activation"]) is not str or claim["activation"] not in (*ANALYTIC, "relu"):
        raise Rejected(f"features of {short(claim['activation'])} have no criterion of independence")
    if max(bounds) < 2:
        raise Rejected("features are of no use to bounds below 2")


def closed_form(n: int, r: int, d: int) -> int:
    """The rank of almost every tensor train; the verifier's own copy of the formula."""
    pairs = min(n, r * r) ** ((d - 1) // 2)
    return pairs if d % 2 else min(n, r) * pairs


def sylvester(n: int, r: int, sites: int, ranks: dict[str, Any], y: int, kept: tuple[int, int] = (1, 1)) -> int:
    """The lower bound from Sylvester's inequality; the verifier's own copy of the formula.

    For ends alone, kept is (1, 1), and the pairs are k - 1. For absorbed ends the number of sites counts as even.
    """
    k, first, last = len(ranks["pairs"]) + 1, ranks["first"], ranks["last"][y]
    power = n ** (k - 1)
    full = r * power
    if k > 1:
        full -= (r * n * (k - 1) - sum(ranks["pairs"])) * n ** (k - 2)
    if ranks["state"] is None:
        e, f = kept
        return max(0, e * f * full - f * (e * r - first) * power - e * (f * r - last) * power)
    lost = r * (r * power - full)
    return max(0, power * ranks["state"] - lost - (r * r - first * last) * power)


def agree(name: str, content: dict[str, Any], expected: Any) -> None:
    """Raise ``Rejected`` if a field, whose form has been checked, has another value than ``expected``."""
    if content[name] != expected:
        claimed, right = difference(content[name], expected)
        raise Rejected(f"{name} is {claimed}, but should be {right}")


def difference(claimed: Any, expected: Any) -> tuple[str, str]:
    """Two different values in short; of two lists of the same length, the first entries that differ."""
    if isinstance(claimed, list) and isinstance(expected, list) and len(claimed) == len(expected):
        return difference(*next(pair for pair in zip(claimed, expected, strict=True) if pair[0] != pair[1]))
    return short(claimed), short(expected)


def short(value: Any) -> str:
    """A value of any type and size in one line of plain characters."""
    if type(value) is int and abs(value) > 10**40:
        return f"an integer of {value.bit_length():,} bits"
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else f"a list of {len(value):,}"
    text = ascii(value[:60] if isinstance(value, str) else value)
    return text if len(text) <= 60 else text[:57] + "..."


def _check_primes(primes: Any) -> None:
    if type(primes) is not list or not 1 <= len(primes) <= MOST_PRIMES:
        raise Rejected(f"primes must be a list of one to {MOST_PRIMES}")
    for p in primes:
        if type(p) is not int or not 2 < p < LARGEST_PRIME or not is_prime(p):
            raise Rejected(f"{short(p)} is not an odd prime below 2^64")
    if len({*primes}) != len(primes):
        raise Rejected("primes must be different ones")


def _check_path(path: str) -> None:
    """Check the path of a checkpoint, which must be relative to the certificate's folder."""
    parsed = PurePosixPath(path)
    named = 0 < len(path) <= 4096 and path.isprintable() and parsed.parts
    if not named or parsed.is_absolute() or path.startswith("~"):
        raise Rejected(f"checkpoint is {short(path)}, not a path from the folder of the certificate")


def _check_bounds(bounds: Any) -> None:
    if type(bounds) is not list or not bounds:
        raise Rejected("cp_rank_at_least must be a bound for each class")
    _reject(out_of_range(classes=len(bounds)))
    _check_list("cp_rank_at_least", bounds, len(bounds), LARGEST_BOUND)


def _check_slices(slices: Any, sites: int, mode_size: int) -> None:
    if type(slices) is not list or len(slices) not in ({0} if sites == 2 else {1, sites - 2}):
        raise Rejected("slices must be one list, or one for each interior site")
    for picked in slices:
        indices = type(picked) is list and all(type(i) is int and 0 <= i < mode_size for i in picked)
        if not indices or len({*picked}) != len(picked) or len(picked) != len(slices[0]) or not picked:
            raise Rejected("slices must be as many different modes at each site")


def _check_ends(content: dict[str, Any], slices: int) -> tuple[int, tuple[int, int]]:
    """The pairs of sites that an end takes in, and the slices kept of the last one; 0, 1 and 1 for ends alone."""
    absorbed, kept = content["absorbed"], content["kept"]
    _check_list("absorbed", [absorbed], 1, (content["sites"] // 2 - 1) // 2)
    _check_list("kept", kept, 2, slices if absorbed else 1)
    if 0 in kept:
        raise Rejected("kept has a 0: an end keeps one slice or more")
    return absorbed, (kept[0], kept[1])


def _check_ranks(
    content: dict[str, Any],
    slices: int,
    rank: int,
    mode_size: int,
    classes: int,
    absorbed: int,
    kept: tuple[int, int],
) -> None:
    """Check that no rank of a staircase's matrices is larger than its size allows."""
    points = slices**absorbed
    rows = (mode_size * points, (slices if absorbed and content["sites"] % 2 else mode_size) * points)
    sites, ranks = content["sites"], content["ranks"]
    if type(ranks) is not list or len(ranks) != len(content["primes"]):
        raise Rejected("ranks must be an object for each prime")
    for each in ranks:
        if type(each) is not dict or {*each} != {"pairs", "state", "first", "last"}:
            raise Rejected("ranks must have pairs, state, first and last")
        _check_list("pairs", each["pairs"], sites // 2 - 1 - 2 * absorbed, rank * slices)
        _check_list("first", [each["first"]], 1, min(rows[0], kept[0] * rank))
        _check_list("last", each["last"], classes, min(rows[1], kept[1] * rank))
        alone = sites % 2 == 1 and not absorbed
        if not alone and each["state"] is not None:
            raise Rejected("state is for odd numbers of sites, and for ends alone")
        if alone:
            _check_list("state", [each["state"]], 1, min(slices, rank * rank))


def _check_list(name: str, values: Any, length: int, most: int) -> None:
    if type(values) is not list or len(values) != length:
        raise Rejected(f"{name} must be a list of {length:,}")
    for value in values:
        _check_integer(name, value)
        if not 0 <= value <= most:
            raise Rejected(f"{name} has {short(value)}, out of range")


def _check_integer(name: str, value: Any) -> None:
    if type(value) is not int:
        raise Rejected(f"{name} is {short(value)}, not an integer")


def _reject(reason: str | None) -> None:
    if reason is not None:
        raise Rejected(reason)


def _once(items: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object without a repeated name."""
    entries = dict(items)
    if len(entries) != len(items):
        raise ValueError("a name stands twice")
    return entries


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no number of JSON")
