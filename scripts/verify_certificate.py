r"""Verify rank certificates with Python's standard library alone. This file imports nothing of the package.

    python verify_certificate.py FILE... [--weights FILE.safetensors] [--limit SECONDS]

A certificate holds if counting gives it again: from the sizes, primes, seed and slices in the file, and from the
weights, every rank, bound and sentence is computed and compared. One line a file; the exit code is the worst of all.

    0  holds       every claim is the counted one
    1  REJECTED    a claim is false, or a field has not its form
    2  UNCHECKED   the file is no certificate, its weights cannot be read, or counting would take longer than the limit

The weights of FILE.json lie in FILE.safetensors, which ``ttlightning certify`` writes beside it: eight bytes with the
length of a JSON header, the header {name: {dtype, shape, data_offsets}}, and the numbers, little-endian. The hash in
the certificate is over names, types, shapes and bytes of all of them.

Ranks are over F_p. Weights are m 2^e, so they have exact images, and a rank over F_p is a lower bound on the rank over
the rational numbers. A row of residues is packed into one integer, a slot for each entry, wide enough that sums of
products need no carry. So a row operation is one product and one sum of two integers.
"""

# ruff: noqa: B905, UP035 - it runs on Python 3.9
from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import struct
import sys
import time
from fractions import Fraction
from pathlib import Path, PurePosixPath
from typing import Any, Iterator, Sequence

VERSION = 3
FILE_LIMIT, WEIGHTS_LIMIT = 2**26, 2**30  # bytes
DIGITS = 4000  # of the longest integer; a larger bound is stated as 10^4000
RANGES = {"mode_size": (1, 100_000), "rank": (1, 100_000), "sites": (2, 100_000), "seed": (0, 2**63 - 1)}
SIZE_LIMIT, CLASSES_LIMIT, PRIMES_LIMIT = 4096, 100_000, 8
NUMBERS_LIMIT = 2**25  # numbers in memory at a time: about 2 GiB
SLOT, CALL = 1e-9, 4e-7  # seconds for each byte of a product, and for each product, on a slow core

Rows = "list[list[int]]"
Table = "list[Rows]"  # for each state, the numbers at all choices of odd sites (rows) and of even sites (columns)


class Rejected(Exception):
    """A claim is false."""


class Unchecked(Exception):
    """The claims cannot be judged."""


# Arithmetic modulo p


def width(p: int, terms: int) -> int:
    """Bytes of a slot that holds one residue and a sum of ``terms`` products of residues."""
    return (((terms + 1) * p * p).bit_length() + 7) // 8


def pack(row: Sequence[int], bytes_each: int) -> int:
    return int.from_bytes(b"".join([x.to_bytes(bytes_each, "little") for x in row]), "little")


def unpack(packed: int, count: int, bytes_each: int, p: int) -> list[int]:
    data = packed.to_bytes(count * bytes_each, "little")
    return [int.from_bytes(data[i : i + bytes_each], "little") % p for i in range(0, len(data), bytes_each)]


def product(left: Rows, right: Rows, p: int) -> Rows:
    """left right mod p."""
    each, columns = width(p, len(right)), len(right[0])
    packed = [pack(row, each) for row in right]
    return [unpack(sum(map(int.__mul__, row, packed)), columns, each, p) for row in left]


def rank_modulo(rows: Rows, p: int) -> int:
    """Rank over F_p: each row is reduced by the rows that were kept before it, and kept if it is not 0 then."""
    columns = len(rows[0]) if rows else 0
    each = width(p, min(len(rows), columns))
    mask, kept = (1 << 8 * each) - 1, []
    for row in rows:
        if len(kept) == columns:
            break
        rest = pack(row, each)
        for shift, pivot in kept:  # the pivot row has 1 in this slot, and 0 in the slots of the earlier ones
            entry = (rest >> shift & mask) % p
            if entry:
                rest += (p - entry) * pivot
        entries = unpack(rest, columns, each, p)
        last = next((c for c in range(columns - 1, -1, -1) if entries[c]), None)
        if last is not None:
            inverse = pow(entries[last], -1, p)
            kept.append((8 * each * last, pack([x * inverse % p for x in entries], each)))
    return len(kept)


def is_prime(number: int) -> bool:
    """The test of Miller and Rabin; these bases decide every number below 2^64."""
    bases = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37)
    if number < 41 or any(number % base == 0 for base in bases):
        return number in bases
    twos = ((number - 1) & (1 - number)).bit_length() - 1
    for base in bases:
        power = pow(base, (number - 1) >> twos, number)
        if power != 1 and all(pow(power, 1 << k, number) != number - 1 for k in range(twos)):
            return False
    return True


def hashed(rows: int, columns: int, p: int, label: str, start: int = 0) -> Rows:
    """Residues that a label determines: the first 16 bytes of SHA-256 of ``label/index``, big-endian, mod p."""

    def draw(index: int) -> int:
        return int.from_bytes(hashlib.sha256(f"{label}/{start + index}".encode()).digest()[:16], "big") % p

    return [[draw(row * columns + column) for column in range(columns)] for row in range(rows)]


# Weights


TYPES = {  # of a safetensors file: bytes, the name in the hash, the code of struct
    "F16": (2, "float16", "e"),
    "BF16": (2, "bfloat16", None),
    "F32": (4, "float32", "f"),
    "F64": (8, "float64", "d"),
    "BOOL": (1, "bool", None),
    "U8": (1, "uint8", None),
    "I8": (1, "int8", None),
    "I16": (2, "int16", None),
    "I32": (4, "int32", None),
    "I64": (8, "int64", None),
}


class Weights:
    """All tensors of a safetensors file, and the SHA-256 over them."""

    def __init__(self, file: Path) -> None:
        data = read_bytes(file, WEIGHTS_LIMIT)
        length = int.from_bytes(data[:8], "little")
        if len(data) < 8 or length > len(data) - 8:
            raise Unchecked(f"{file} is no safetensors file: it ends within its header")
        header = read_json(data[8 : 8 + length], f"{file} is no safetensors file")
        body = memoryview(data)[8 + length :]
        metadata = header.pop("__metadata__", {}) if isinstance(header, dict) else None
        self.metadata: dict[str, Any] = metadata if isinstance(metadata, dict) else {}
        if metadata is None or not all(map(self._fits, header.values())):
            raise Unchecked(f"{file} is no safetensors file: its header has not the form of one")
        end = 0
        for start, stop in sorted(entry["data_offsets"] for entry in header.values()):
            if start != end:
                raise Unchecked(f"{file} is damaged: its tensors overlap or leave gaps")
            end = stop
        if end != len(body):
            raise Unchecked(f"{file} is damaged: it has {len(body):,} bytes of numbers, its header says {end:,}")
        self.entries, self.body, digest = header, body, hashlib.sha256()
        for name in sorted(header):
            entry = header[name]
            plain = name.isprintable() and not {" ", '"'} & set(name)
            title = name if plain else json.dumps(name, ensure_ascii=False)
            line = f"{title} torch.{TYPES[entry['dtype']][1]} {tuple(entry['shape'])}\n"
            digest.update(line.encode("utf-8", "surrogatepass"))
            digest.update(body[slice(*entry["data_offsets"])])
        self.sha256 = digest.hexdigest()
        self.shapes = {k[7:]: tuple(v["shape"]) for k, v in header.items() if k.startswith("format.")}
        self.count = sum(math.prod(shape) for shape in self.shapes.values())

    def _fits(self, entry: Any) -> bool:
        if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
            return False
        kind, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not isinstance(kind, str) or kind not in TYPES or not isinstance(shape, list) or len(shape) > 8:
            return False
        if not isinstance(offsets, list) or len(offsets) != 2:
            return False
        if not all(type(x) is int and 0 <= x <= WEIGHTS_LIMIT for x in [*shape, *offsets]):
            return False
        return offsets[1] - offsets[0] == math.prod(shape) * TYPES[kind][0]

    def floats(self, name: str) -> list[float]:
        """The numbers of a tensor, exactly."""
        entry = self.entries[name]
        raw, (_, kind, code) = bytes(self.body[slice(*entry["data_offsets"])]), TYPES[entry["dtype"]]
        if kind == "bfloat16":  # the upper half of a float32
            raw, code = b"".join([b"\0\0" + raw[i : i + 2] for i in range(0, len(raw), 2)]), "f"
        if code is None:
            raise Rejected(f"the weights {name} are {kind}, which has no rank")
        values = list(struct.unpack(f"<{len(raw) // struct.calcsize(code)}{code}", raw))
        if not all(map(math.isfinite, values)):
            raise Rejected(f"a weight of {name} is infinite or not a number")
        return values

    def residues(self, name: str, p: int) -> list[int]:
        """The exact images mod p, in order."""
        inverses: dict[int, int] = {}
        result = []
        for value in self.floats("format." + name):
            numerator, denominator = value.as_integer_ratio()
            if denominator not in inverses:
                inverses[denominator] = pow(denominator, -1, p)
            result.append(numerator % p * inverses[denominator] % p)
        return result

    def matrices(self, name: str, p: int) -> Any:
        """The residues in nested lists, as the shape says."""
        flat: list[Any] = self.residues(name, p)
        for size in reversed(self.shapes[name][1:]):
            flat = [flat[i : i + size] for i in range(0, len(flat), size)]
        return flat


# Staircase of a tensor train


def pair_matrix(even: Table, odd: Table, p: int) -> Rows:
    """T[(a, i), (j, c)] = sum over b of even_j[a][b] odd_i[b][c]."""
    r, each = len(even[0]), width(p, len(even[0]))
    packed = [[pack(row, each) for row in core] for core in odd]
    rows = []
    for a in range(r):
        for core in packed:
            pieces = [unpack(sum(map(int.__mul__, slice_[a], core)), r, each, p) for slice_ in even]
            rows.append([x for piece in pieces for x in piece])
    return rows


def staircase_ranks(interior: list[Table], sites: int, first: Rows, lasts: list[Rows], p: int) -> dict[str, Any]:
    """Ranks of every T_m, of H (odd d), F and L_y. Cores that are the same object are counted once."""
    known: dict[tuple[int, int], int] = {}
    pairs = []
    for m in range(0, 2 * (sites // 2 - 1), 2):
        key = id(interior[m]), id(interior[m + 1])
        if key not in known:
            known[key] = rank_modulo(pair_matrix(interior[m], interior[m + 1], p), p)
        pairs.append(known[key])
    state = rank_modulo([[x for row in core for x in row] for core in interior[-1]], p) if sites % 2 else None
    return {"pairs": pairs, "state": state, "first": rank_modulo(first, p), "last": [rank_modulo(x, p) for x in lasts]}


def sylvester(n: int, r: int, sites: int, ranks: dict[str, Any], y: int) -> int:
    """The lower bound that these ranks give, by Sylvester's inequality for a product of matrices."""
    k, first, last = sites // 2, ranks["first"], ranks["last"][y]
    points = n ** (k - 1)
    missing = (r * n * (k - 1) - sum(ranks["pairs"])) * n ** max(0, k - 2)
    if sites % 2:
        bound = points * ranks["state"] - r * missing - (r * r - first * last) * points
    else:
        bound = points * (first + last - r) - missing
    return min(max(0, bound), 10**DIGITS)


# Scores at chosen features


def choices(size: int, mode_size: int, sites: int) -> list[int]:
    """Feature vectors of each site: powers of two up to n, ``size`` for the odd and for the even sites together."""
    counts = [1] * sites
    for parity in (0, 1):
        places, left, turn = range(sites - 1 - (sites - 1 - parity) % 2, -1, -2), size, 0
        while left > 1:
            place = places[turn % len(places)]
            if left % 2 or 2 * counts[place] > mode_size:
                raise Rejected(
                    f"size {size} is no power of two, or too much for {sites} sites of mode size {mode_size}"
                )
            counts[place], left, turn = 2 * counts[place], left // 2, turn + 1
    return counts


def leaf(vectors: Rows, core: Rows, site: int, p: int) -> Table:
    """For each column of the core, its value at every vector, as a row or a column of choices."""
    values = zip(*product(vectors, core, p))
    return [[list(each)] if site % 2 else [[x] for x in each] for each in values]


def join(left: Table, right: Table, nodes: Iterator[Rows], p: int) -> Iterator[Rows]:
    """For each node N: the sum over a, b of N[a][b] left_a (x) right_b, as a matrix of all choices."""
    flat = [[x for row in state for x in row] for state in right]
    columns, of_left, each = len(right[0][0]), len(left[0][0]), width(p, len(left))
    wide = [[pack(state[i], each) for state in left] for i in range(len(left[0]))] if of_left > columns else None
    for node in nodes:
        mixed = product(node, flat, p)
        rows = []
        for i in range(len(left[0])):
            for k in range(0, len(flat[0]), columns):
                row: list[int] = []
                if wide is None:  # the longer side is packed; the order of the columns does not change the rank
                    packed = [pack(state[k : k + columns], each) for state in mixed]
                    for entries in zip(*(state[i] for state in left)):
                        row += unpack(sum(map(int.__mul__, entries, packed)), columns, each, p)
                else:
                    for entries in zip(*(state[k : k + columns] for state in mixed)):
                        row += unpack(sum(map(int.__mul__, entries, wide[i])), of_left, each, p)
                rows.append(row)
        yield rows


def chain_scores(weights: Weights, vectors: list[Rows], p: int) -> Iterator[Rows]:
    interior = weights.matrices("interior", p)
    state = leaf(vectors[0], weights.matrices("first", p), 0, p)
    for site in range(1, len(vectors)):
        inputs = [[list(each)] if site % 2 else [[x] for x in each] for each in zip(*vectors[site])]
        if site == len(vectors) - 1:
            last = weights.matrices("last", p)
            classes = range(weights.shapes["last"][2])
            yield from join(state, inputs, ([[x[y] for x in b] for b in zip(*last)] for y in classes), p)
            return
        core = interior[0 if len(interior) == 1 else site - 1]  # core[i][b][c], a node is [b][i] for each c
        r = len(core[0])
        state = list(join(state, inputs, ([[x[b][c] for x in core] for b in range(r)] for c in range(r)), p))


def tree_scores(weights: Weights, vectors: list[Rows], p: int) -> Iterator[Rows]:
    leaves = weights.matrices("leaves", p)
    tables = [leaf(each, leaves[site if len(leaves) > 1 else 0], site, p) for site, each in enumerate(vectors)]
    for level in range(len(weights.shapes) - 2):
        nodes = weights.matrices(f"nodes.{level}", p)
        tables = [
            list(join(tables[2 * i], tables[2 * i + 1], last_first(nodes[i if len(nodes) > 1 else 0]), p))
            for i in range(len(tables) // 2)
        ]
    yield from join(*tables, last_first(weights.matrices("root", p)), p)


def last_first(node: Table) -> Iterator[Rows]:
    """N[a][b][c] as matrices [a][b] for each c."""
    return ([[x[c] for x in row] for row in node] for c in range(len(node[0][0])))


def unit_scores(weights: Weights, vectors: list[Rows], p: int) -> Iterator[Rows]:
    sides: list[Rows] = [[[1] * weights.shapes["weights"][0]], [[1] * weights.shapes["weights"][0]]]
    for site, (factor, chosen) in enumerate(zip(weights.matrices("factors", p), vectors)):
        inner = product(chosen, factor, p)
        sides[site % 2] = [[x * y % p for x, y in zip(a, b)] for a in sides[site % 2] for b in inner]
    odd, even = sides[0], [list(column) for column in zip(*sides[1])]
    for mixed in zip(*weights.matrices("weights", p)):
        yield product([[x * y % p for x, y in zip(row, mixed)] for row in odd], even, p)


SCORES = {"first": chain_scores, "leaves": tree_scores, "factors": unit_scores}


# Cost


class Cost:
    """A bound on the work: products of packed integers, and the products of residues in them."""

    def __init__(self) -> None:
        self.calls, self.bytes, self.residues, self.other = 0, 0, 0, 0.0

    def add(self, calls: int, slots: int, p: int, terms: int = 64) -> None:
        self.calls, self.residues = self.calls + calls, self.residues + calls * slots
        self.bytes += calls * slots * width(p, terms)

    def rank(self, rows: int, columns: int, p: int) -> None:
        self.add(rows * min(rows, columns), columns, p, columns)
        self.other += 1e-6 * rows * columns  # packed and unpacked

    def refuse_above(self, limit: float) -> str:
        """The cost in words; ``Unchecked`` if it is above the limit."""
        seconds = self.calls * CALL + self.bytes * SLOT + self.other
        text = f"{self.residues:.1e} products of residues, about {seconds:,.1f} s"
        if seconds > limit:
            raise Unchecked(f"counting takes {text}, the limit is {limit:,.0f} s: raise it with --limit")
        return text


def staircase_cost(size: int, r: int, n: int, sites: int, pairs: int, classes: int, numbers: int, primes: Any) -> Cost:
    """``size``: slices that take part; ``pairs``: different T_m; ``numbers``: weights or draws."""
    cost, rows = Cost(), r * size
    for p in primes:
        cost.add(pairs * rows * size * r, r, p)
        cost.other += pairs * rows * rows * 1e-6 + numbers * 3e-6
        cost.add(pairs * rows * rows, rows, p, rows)
        cost.rank((1 + classes) * n, r, p)
        if sites % 2:
            cost.rank(size, r * r, p)
    return cost


def sampled_cost(weights: Weights, size: int, r: int, n: int, sites: int, counts: Any, primes: Any) -> Cost:
    cost, classes = Cost(), classes_of(weights)
    largest = size * size * (1 if "factors" in weights.shapes else r)
    if largest > NUMBERS_LIMIT:
        raise Unchecked(f"{size} x {size} scores at rank {r} take {largest:,} numbers, the limit is 2^25")
    for p in primes:
        cost.other += 3e-6 * (weights.count + n * sum(counts)) + 1e-6 * 4 * largest
        cost.add(sum(counts) * n, r * (r if "first" in weights.shapes else 1), p)
        cost.add(4 * (r + classes) * size * r, size, p)  # joins, the last of which is for the classes
        if "leaves" in weights.shapes:
            cost.add(sites * r * r, r * size, p)
        cost.other += classes * size * size * 2e-6
        cost.add(classes * size * size, size, p, size)
    return cost


# Claims

HEAD = {"certificate", "version", "kind", "statement", "mode_size", "rank", "sites", "primes", "ranks"}
FIELDS = {
    "generic": HEAD | {"seed", "cp_rank_at_least"},
    "checkpoint": HEAD | {"weights_sha256", "slices", "cp_rank_at_least"},
    "sampled": HEAD | {"weights_sha256", "size", "seed", "cp_rank_at_least"},
}


def verify(content: dict[str, Any], find_weights: Any, limit: float, say: Any) -> None:
    """Raise ``Rejected`` unless counting gives every claim again."""
    check_form(content)
    kind = content["kind"]
    if kind == "generic":
        expected = count_generic(content, limit, say)
    else:
        weights = find_weights()
        if content["weights_sha256"] != weights.sha256:
            raise Rejected("it is for other weights than those of the file")
        own = content.get("network_sites", content["sites"])
        if weights.metadata.get("sites", str(own)) != str(own):
            raise Rejected(f"it is for {own} sites, the weights are for another number")
        if "network_sites" in content:
            take_length(content, weights)
        check_shapes(content, weights)
        expected = (count_staircase if kind == "checkpoint" else count_sampled)(content, weights, limit, say)
    if "features" in content:
        expected["statement"] += check_features(content, weights)
    if "network_sites" in content:
        expected["statement"] += (
            f" The network has {content['network_sites']} sites. Its interior cores are equal, so they give sequences "
            f"of {content['sites']} sites the scores of these tensors."
        )
    for name, value in expected.items():
        compare(name, content[name], value)


def take_length(content: dict[str, Any], weights: Weights) -> None:
    """Equal cores only have tensors of other numbers of sites than the network's; of two sites, without them."""
    if weights.metadata.get("format", "EqualCoreTensorTrain") != "EqualCoreTensorTrain":
        raise Rejected(f"it is for {content['sites']} sites, and only equal cores have several numbers of sites")
    if content["network_sites"] == content["sites"] or "features" in content:
        raise Rejected("network_sites is for another number of sites than the network's, without features")
    shape = weights.shapes.get("interior", ())
    if len(shape) != 4 or shape[0] != 1:
        raise Rejected("only a chain of equal cores has tensors of several numbers of sites")
    weights.shapes["interior"] = (min(1, content["sites"] - 2), *shape[1:])


def check_features(content: dict[str, Any], weights: Weights) -> str:
    """The sentence that follows if the features sigma(a_i . x + b_i), and perhaps 1, are linearly independent.

    They are, for the analytic sigma, if no two a_i are equal or opposite; for relu if no two (a_i, b_i) are parallel.
    """
    claim, n = content["features"], content["mode_size"]
    if type(claim) is not dict or set(claim) != {"activation", "constant"} or type(claim["constant"]) is not bool:
        raise Rejected("features must be the name of an activation, and whether there is a constant one")
    sigma, constant = claim["activation"], claim["constant"]
    if type(sigma) is not str or sigma not in ("gelu", "sigmoid", "tanh", "softplus", "cos", "relu"):
        raise Rejected(f"features of {short(sigma)} have no criterion of independence")
    if weights.metadata.get("activation", sigma) != sigma or max(content["cp_rank_at_least"]) < 2:
        raise Rejected("features are of another activation, or of no use to bounds below 2")
    names = ("features.linear.weight", "features.linear.bias")
    shapes = [weights.entries[name]["shape"] if name in weights.entries else [] for name in names]
    if len(shapes[0]) != 2 or shapes[1] != shapes[0][:1] or shapes[0][0] + constant != n:
        raise Rejected(f"the weights have no feature map of {n} features")
    flat, shifts = (weights.floats(name) for name in names)
    rows = [flat[i * shapes[0][1] : (i + 1) * shapes[0][1]] for i in range(shapes[0][0])]
    seen: set[Any] = set()
    for row, shift in zip(rows, shifts):
        first = next((x for x in row if x), None)
        if first is None:
            raise Rejected("a feature is constant")
        scale = Fraction(first) if sigma == "relu" else Fraction(1 if first > 0 else -1)
        seen.add(tuple(Fraction(x) / scale for x in ([*row, shift] if sigma == "relu" else row)))
    if len(seen) < len(rows):
        raise Rejected("two features may depend on each other")
    place = "the set of all real patches" if sigma == "relu" else "every open set of patches"
    return (
        f" Its {n} features, {sigma}(A x + b){' and 1' if constant else ''}, are linearly independent on {place}. So "
        "on images of patches from there that do not overlap, no shallow network with fewer hidden units than the "
        "bound of a class has the scores of this class, whatever its features."
    )


def compare(name: str, claimed: Any, counted: Any) -> None:
    """As JSON texts: 1, 1.0 and true are not the same."""
    if json.dumps(claimed, sort_keys=True) != json.dumps(counted, sort_keys=True):
        raise Rejected(f"{name} is {short(claimed)}, but counting gives {short(counted)}")


def check_form(content: dict[str, Any]) -> None:
    kind = content["kind"]
    fields = FIELDS[kind]
    for name in sorted(fields ^ set(content)):
        if name in fields:
            raise Rejected(f"{name} is missing")
        if name not in ("checkpoint", "features", "network_sites") or kind == "generic":
            raise Rejected(f"{short(name)} is too much")
    path = content.get("checkpoint", "network.ckpt")
    if type(path) is not str or not 0 < len(path) <= 4096 or not path.isprintable() or path.startswith("~"):
        raise Rejected(f"checkpoint is {short(path)}, not a path from the folder of the certificate")
    if not PurePosixPath(path).parts or PurePosixPath(path).is_absolute():
        raise Rejected(f"checkpoint is {short(path)}, not a path from the folder of the certificate")
    for name, (least, most) in {**RANGES, "network_sites": RANGES["sites"], "size": (1, SIZE_LIMIT)}.items():
        if name in content and not (type(content[name]) is int and least <= content[name] <= most):
            raise Rejected(f"{name} is {short(content[name])}, not an integer from {least} to {most:,}")
    primes = content["primes"]
    if type(primes) is not list or not 1 <= len(primes) <= PRIMES_LIMIT:
        raise Rejected(f"primes must be a list of one to {PRIMES_LIMIT}")
    for p in primes:
        if type(p) is not int or not 2 < p < (2**31 if kind == "sampled" else 2**64) or not is_prime(p):
            raise Rejected(f"{short(p)} is not an odd prime below the limit")
    if len(set(primes)) != len(primes):
        raise Rejected("primes must be different ones")
    bounds = content["cp_rank_at_least"]
    if type(bounds) is not list or not 1 <= len(bounds) <= CLASSES_LIMIT or not all(type(x) is int for x in bounds):
        raise Rejected("cp_rank_at_least must be a bound for each class")


def count_generic(content: dict[str, Any], limit: float, say: Any) -> dict[str, Any]:
    n, r, sites, seed = (content[name] for name in ("mode_size", "rank", "sites", "seed"))
    states = min(n, r)
    slices, k = min(n, states * states), sites // 2
    exact = min(n, r * r) ** ((sites - 1) // 2) * (1 if sites % 2 else states)
    bound = min(exact, 10**DIGITS)
    statement = (
        "Almost every tensor train, by the Lebesgue measure on the entries of its cores, real or complex, with equal "
        f"or with different interior cores, {sites} modes of size {n} and TT-rank {r}, has CP-rank at least "
        f"{stated(bound)}"
    ) + reason("its", "", bound, "it")
    expected = {"statement": statement, "cp_rank_at_least": [bound]}
    for name, value in expected.items():
        compare(name, content[name], value)  # before anything is counted
    draws = slices * states * (states + 2)
    pairs = 1 if k > 1 else 0
    say(staircase_cost(slices, states, slices, sites, pairs, 1, draws, content["primes"]).refuse_above(limit))
    ranks = []
    for p in content["primes"]:
        core = [hashed(states, states, p, f"{seed}/interior", i * states * states) for i in range(slices)]
        first, last = hashed(slices, states, p, f"{seed}/first"), hashed(states, slices, p, f"{seed}/last")
        ranks.append(staircase_ranks([core] * (sites - 2), sites, first, [last], p))
        if sylvester(slices, states, sites, ranks[-1], 0) != bound:
            raise Rejected(f"the cores of the seed do not reach the bound modulo {p}")
    return {"ranks": ranks}


def count_staircase(content: dict[str, Any], weights: Weights, limit: float, say: Any) -> dict[str, Any]:
    n, r, sites, primes = (content[name] for name in ("mode_size", "rank", "sites", "primes"))
    slices, classes = content["slices"], classes_of(weights)
    check_slices(slices, sites, n)
    size = len(slices[0]) if slices else n
    different = len(slices) > 1 or weights.shapes["interior"][0] > 1
    pairs = (sites // 2 - 1 if different else 1) if sites > 3 else 0
    say(staircase_cost(size, r, n, sites, pairs, classes, weights.count, primes).refuse_above(limit))
    ranks, bounds = [], []
    for p in primes:
        cores, last = weights.matrices("interior", p), weights.matrices("last", p)
        known: dict[tuple[int, ...], Table] = {}
        interior = []
        for site in range(sites - 2):
            which, picked = min(site, len(cores) - 1), slices[min(site, len(slices) - 1)]
            interior.append(known.setdefault((which, *picked), [cores[which][i] for i in picked]))
        lasts = [[[x[y] for x in row] for row in last] for y in range(classes)]
        ranks.append(staircase_ranks(interior, sites, weights.matrices("first", p), lasts, p))
        bounds.append([sylvester(size, r, sites, ranks[-1], y) for y in range(classes)])
    best = [max(each) for each in zip(*bounds)]
    return {"ranks": ranks, "cp_rank_at_least": best, "statement": of_classes(best, sites, "")}


def count_sampled(content: dict[str, Any], weights: Weights, limit: float, say: Any) -> dict[str, Any]:
    n, r, sites, size, primes = (content[name] for name in ("mode_size", "rank", "sites", "size", "primes"))
    counts = choices(size, n, sites)
    say(sampled_cost(weights, size, r, n, sites, counts, primes).refuse_above(limit))
    scores = next(function for name, function in SCORES.items() if name in weights.shapes)
    ranks = []
    for p in primes:
        vectors = [hashed(count, n, p, f"{content['seed']}/features/{i}") for i, count in enumerate(counts, start=1)]
        ranks.append([rank_modulo(matrix, p) for matrix in scores(weights, vectors, p)])
    best = [max(each) for each in zip(*ranks)]
    statement = of_classes(best, sites, f", as {size} x {size} scores show")
    if "factors" in weights.shapes:
        statement += f" None has a CP-rank above {r}, the hidden units of the network itself."
    return {"ranks": ranks, "cp_rank_at_least": best, "statement": statement}


def of_classes(bounds: list[int], sites: int, seen: str) -> str:
    if len(set(bounds)) == 1:
        each = f"{stated(bounds[0])} each"
    elif len(bounds) <= 20 and max(bounds) < 10**30:
        each = f"{', '.join(map(str, bounds))}, class by class,"
    else:
        each = f"{stated(min(bounds))} each, and more for some classes,"
    exact = ", taken as exact numbers," if max(bounds) > 1 else ""
    return (
        f"The weight tensors, with {sites} modes, of the {len(bounds)} classes of the network with these weights"
        f"{exact} have CP-rank at least {each}"
    ) + reason("the", seen, max(bounds), "one of them")


def reason(whose: str, seen: str, bound: int, what: str) -> str:
    if bound < 2:
        return f"{seen}, which says nothing: every tensor but 0 has CP-rank at least 1."
    return (
        f" over the real and the complex numbers, because {whose} matricization with the odd modes as rows and the "
        f"even modes as columns has at least this rank{seen}. Fewer hidden units may approximate, but a shallow "
        f"network needs as many to equal {what}."
    )


def check_slices(slices: Any, sites: int, n: int) -> None:
    if type(slices) is not list or len(slices) not in ({0} if sites == 2 else {1, sites - 2}):
        raise Rejected("slices must be one list, or one for each interior site")
    for picked in slices:
        if type(picked) is not list or not picked or not all(type(i) is int and 0 <= i < n for i in picked):
            raise Rejected("slices must be modes of each site")
        if len(set(picked)) != len(picked) or len(picked) != len(slices[0]):
            raise Rejected("slices must be as many different modes at each site")


def classes_of(weights: Weights) -> int:
    end = next((name for name in ("last", "weights", "root") if weights.shapes.get(name)), None)
    return weights.shapes[end][-1] if end else 0


def check_shapes(content: dict[str, Any], weights: Weights) -> None:
    """The parameters must be those of a tensor train, a sum of units, or a balanced tree with these sizes."""
    n, r, d, classes = content["mode_size"], content["rank"], content["sites"], classes_of(weights)
    possible = [{"first": (n, r), "interior": (k, n, r, r), "last": (n, r, classes)} for k in {min(1, d - 2), d - 2}]
    if content["kind"] == "sampled":
        possible.append({"factors": (d, n, r), "weights": (r, classes)})
        if d & (d - 1) == 0:
            for most in (1, d):
                nodes = {f"nodes.{k - 1}": (min(most, d >> k), r, r, r) for k in range(1, d.bit_length() - 1)}
                possible.append({"leaves": (most, n, r), "root": (r, r, classes), **nodes})
    if weights.shapes not in possible or classes < 1:
        raise Rejected(f"a network of {d} sites, mode size {n} and rank {r} is not what the weights are")
    if classes != len(content["cp_rank_at_least"]):
        raise Rejected(f"it is for {len(content['cp_rank_at_least'])} classes, the weights are for {classes}")


# Files and words


def read_bytes(file: Path, limit: int) -> bytes:
    try:
        with file.open("rb") as opened:
            data = opened.read(limit + 1)
    except (OSError, ValueError) as fault:
        raise Unchecked(f"{file} cannot be read: {getattr(fault, 'strerror', None) or fault}") from fault
    if len(data) > limit:
        raise Unchecked(f"{file} is larger than {limit:,} bytes")
    return data


def read_json(text: bytes, otherwise: str) -> Any:
    def once(items: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(items)) != len(items):
            raise ValueError("a name stands twice")
        return dict(items)

    def integer(digits: str) -> int:
        if len(digits) > DIGITS + 2:
            raise ValueError(f"an integer has {len(digits):,} digits")
        return int(digits)

    def constant(name: str) -> None:
        raise ValueError(f"{name} is no number of JSON")

    try:
        return json.loads(text, object_pairs_hook=once, parse_int=integer, parse_constant=constant)
    except (ValueError, RecursionError) as fault:
        raise Unchecked(f"{otherwise} ({fault})") from fault


def read_certificate(file: Path) -> dict[str, Any]:
    content = read_json(read_bytes(file, FILE_LIMIT), "not a whole JSON file")
    if not isinstance(content, dict) or content.get("certificate") != "ttlightning rank certificate":
        raise Unchecked("not a rank certificate")
    if type(content.get("version")) is not int or content["version"] != VERSION:
        raise Unchecked(f"of version {short(content.get('version'))}, this program knows {VERSION}: certify again")
    if not isinstance(content.get("kind"), str) or content["kind"] not in FIELDS:
        raise Unchecked(f"of a kind that this program does not know, {short(content.get('kind'))}")
    return content


def stated(bound: int) -> str:
    return f"10^{DIGITS}" if bound == 10**DIGITS else str(bound)


def short(value: Any) -> str:
    if type(value) is int and abs(value) > 10**40:
        return f"an integer of {value.bit_length():,} bits"
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list) and len(value) > 8:
        return f"a list of {len(value):,}"
    text = ascii(value[:90] if isinstance(value, str) else value)
    return text if len(text) <= 90 else text[:87] + "..."


def judge(file: Path, weights: Path | None, limit: float) -> tuple[int, str]:
    """The exit code and the line of one file."""
    started = time.perf_counter()

    def say(cost: str) -> None:
        print(plain(f"{file}: {cost}"), file=sys.stderr, flush=True)

    try:
        content = read_certificate(file)
        verify(content, lambda: Weights(weights or file.with_suffix(".safetensors")), limit, say)
    except Rejected as why:
        return 1, plain(f"REJECTED  {file}: {why}")
    except Unchecked as why:
        return 2, plain(f"UNCHECKED {file}: {why}")
    return 0, plain(f"holds     {file} ({time.perf_counter() - started:.1f} s): {content['statement']}")


def plain(line: str) -> str:
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", help="certificates")
    parser.add_argument("--weights", type=Path, help="weights that they are for, if not beside them")
    parser.add_argument("--limit", type=float, default=600, help="seconds that counting one may take (default 600)")
    options = parser.parse_args()
    worst = 0
    for file in options.files:
        code, line = judge(Path(file), options.weights, options.limit)
        worst = max(worst, code)
        try:
            print(line, flush=True)
        except BrokenPipeError:  # nobody reads any more, as after `| head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return worst


if __name__ == "__main__":
    sys.exit(main())
