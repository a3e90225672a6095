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

The numbers of the patches of a certificate of width lie in FILE.images, float32, little-endian.

Ranks are over F_p. Weights are m 2^e, so they have exact images, and a rank over F_p is a lower bound on the rank over
the rational numbers. A row of residues is packed into one integer, a slot for each entry, wide enough that sums of
products need no carry. So a row operation is one product and one sum of two integers. Scores of images are integers
times a power of two, with a bound on their error.
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

VERSION = 4
FILE_LIMIT, WEIGHTS_LIMIT = 2**26, 2**30  # bytes
DIGITS = 4000  # of the longest integer; a larger bound is stated as 10^4000
RANGES = {"mode_size": (1, 100_000), "rank": (1, 100_000), "sites": (2, 100_000), "seed": (0, 2**63 - 1)}
SIZE_LIMIT, CLASSES_LIMIT, PRIMES_LIMIT, IMAGES_LIMIT = 4096, 100_000, 8, 1024
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


def staircase_ranks(
    interior: list[Table], sites: int, first: Rows, lasts: list[Rows], p: int, absorbed: int = 0, kept: Any = (1, 1)
) -> dict[str, Any]:
    """Ranks of every T_m, of H (odd d), F and L_y. Cores that are the same object are counted once.

    With absorbed pairs of sites the ends are the matrices A and B_y, and there is no H.
    """
    known: dict[tuple[int, int], int] = {}
    pairs = []
    for m in range(2 * absorbed, 2 * (sites // 2 - 1 - absorbed), 2):
        key = id(interior[m]), id(interior[m + 1])
        if key not in known:
            known[key] = rank_modulo(pair_matrix(interior[m], interior[m + 1], p), p)
        pairs.append(known[key])
    state = None
    if absorbed:
        first = end(first, interior, absorbed, kept[0], p)
        if sites % 2:  # the last site is summed over its index
            sums = [[sum(column) % p for column in zip(*each)] for each in lasts]
            lasts = [[product([total], transposed(core), p)[0] for core in interior[-1]] for total in sums]
        inside = interior[: len(interior) - sites % 2]
        chain = [[transposed(core) for core in each] for each in reversed(inside[-2 * absorbed :])]
        lasts = [end(each, chain, absorbed, kept[1], p) for each in lasts]
    elif sites % 2:
        state = rank_modulo([[x for row in core for x in row] for core in interior[-1]], p)
    return {"pairs": pairs, "state": state, "first": rank_modulo(first, p), "last": [rank_modulo(x, p) for x in lasts]}


def end(start: Rows, chain: list[Table], absorbed: int, kept: int, p: int) -> Rows:
    """A[(i_1, i_3, ...), (j, b)]: the end core times one slice of each site that it takes in.

    Of every second site, which is a column's, the first slice counts, of the last of these the first ``kept``.
    """
    rows = start
    for pair in range(absorbed):
        chosen = chain[2 * pair][: kept if pair == absorbed - 1 else 1]
        inner = [product(rows, core, p) for core in chosen]
        outer = [[product(each, core, p) for each in inner] for core in chain[2 * pair + 1]]
        rows = [[x for part in parts for x in part[k]] for k in range(len(rows)) for parts in outer]
    return rows


def transposed(matrix: Rows) -> Rows:
    return [list(column) for column in zip(*matrix)]


def sylvester(n: int, r: int, ranks: dict[str, Any], y: int, kept: Any = (1, 1)) -> int:
    """The lower bound that these ranks give, by Sylvester's inequality for a product of matrices."""
    pairs, first, last, (e, f) = len(ranks["pairs"]), ranks["first"], ranks["last"][y], kept
    points = n**pairs
    missing = (r * n * pairs - sum(ranks["pairs"])) * n ** max(0, pairs - 1)
    if ranks["state"] is not None:
        bound = points * ranks["state"] - r * missing - (r * r - first * last) * points
    else:
        bound = points * (f * first + e * last - e * f * r) - e * f * missing
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


# Width within an error, on mixed images. A block (m, e, x) stands for numbers within e of the integers m, times 2^x.


DEEP = 512
ONE = 1 << DEEP  # numbers with DEEP bits after the point; functions of them are within 2^-250, which the notes count
FEATURE, KEPT = 192, 192  # bits of a feature after the point; bits of the largest number of a block
ACTIVATIONS = ("relu", "gelu", "sigmoid", "tanh", "softplus", "cos", "identity")


def exp_minus(a: int) -> int:
    """exp(-a), a >= 0. About 70 terms, each off by 2 in the last place; 16 squares double that each time."""
    if a >> (DEEP + 9):
        return 0  # exp(-512) < 2^-738
    total, term, k = ONE, ONE, 0
    while term:
        k += 1
        term = (term * a >> (DEEP + 16)) // k
        total += term
    value = ONE * ONE // total
    for _ in range(16):
        value = value * value >> DEEP
    return value


def arctan_of_one_over(m: int) -> int:
    total, power, k = 0, ONE // m, 1
    while power:
        total += power // k if k % 4 == 1 else -(power // k)
        power, k = power // (m * m), k + 2
    return total


def log_of_one_plus(y: int) -> int:
    """log(1 + y) = 2 artanh(y / (2 + y)), 0 <= y <= 1."""
    s = y * ONE // (2 * ONE + y)
    total, power, k = 0, s, 1
    while power:
        total, power, k = total + power // k, power * s // ONE * s // ONE, k + 2
    return 2 * total


def gelu(z: int) -> int:
    """z Phi(z), Phi(z) = 1/2 + phi(z) (z + z^3/3 + z^5/(3 5) + ..). Up to |z| = 17 the sum is below 2^215."""
    a = abs(z)
    if a > 17 * ONE:
        return max(z, 0)  # |z| (1 - Phi(|z|)) <= phi(17) < 2^-208
    square = a * a >> DEEP
    total, term, k = 0, a, 1
    while term:
        total, k = total + term, k + 2
        term = (term * square >> DEEP) // k
    pi = 16 * arctan_of_one_over(5) - 4 * arctan_of_one_over(239)
    above = total * (exp_minus(square // 2) * ONE // math.isqrt(2 * pi * ONE)) >> DEEP
    return z * (ONE // 2 + (above if z > 0 else -above)) >> DEEP


def cosine(z: int) -> int:
    """cos(z) = 2 cos(z/2)^2 - 1, 48 times: an error grows 2^96-fold."""
    if abs(z) >> (DEEP + 40):
        raise Unchecked("a cosine of a number above 2^40")
    square, total, term, k = (z >> 48) ** 2 >> DEEP, 0, ONE, 0
    while term:
        total, k = total + (term if k % 4 == 0 else -term), k + 2
        term = (term * square >> DEEP) // (k * (k - 1))
    for _ in range(48):
        total = (2 * total * total >> DEEP) - ONE
    return total


def activated(z: int, name: str) -> int:
    if name in ("relu", "identity"):
        return max(z, 0) if name == "relu" else z
    if name in ("gelu", "cos"):
        return gelu(z) if name == "gelu" else cosine(z)
    a = abs(z)
    small = exp_minus(2 * a if name == "tanh" else a)
    if name == "tanh":
        return (ONE - small) * (ONE if z > 0 else -ONE) // (ONE + small)
    if name == "softplus":
        return max(z, 0) + log_of_one_plus(small)
    return (ONE if z > 0 else small) * ONE // (ONE + small)


def integers(values: Sequence[float]) -> tuple[list[int], int]:
    """The numbers times 2^bits, as integers."""
    ratios = [value.as_integer_ratio() for value in values]
    bits = max((bottom.bit_length() - 1 for _, bottom in ratios), default=0)
    return [top << (bits + 1 - bottom.bit_length()) for top, bottom in ratios], bits


def rounded(m: list[int], e: int, x: int) -> Any:
    """The block with at most KEPT bits."""
    extra = max(map(abs, m)).bit_length() - KEPT
    return ([each >> extra for each in m], (e >> extra) + 2, x + extra) if extra > 0 else (m, e, x)


def times(block: Any, exact: Any) -> Any:
    """A block times an exact matrix, (columns, most, bits); most is the largest sum of a column's magnitudes."""
    (m, e, x), (columns, most, bits) = block, exact
    return rounded([sum(map(int.__mul__, m, column)) for column in columns], e * most, x - bits)


def elementwise(one: Any, two: Any) -> Any:
    (m, e, x), (n, f, y) = one, two
    error = max(map(abs, m)) * f + max(map(abs, n)) * e + e * f
    return rounded([a * b for a, b in zip(m, n)], error, x + y)


class Network:
    """Scores of mixed images, from the features of every image at every site."""

    def __init__(self, weights: Weights, sites: int) -> None:
        self.weights, self.shapes, self.sites = weights, weights.shapes, sites

    def cores(self, name: str, several: bool = True) -> list[Any]:
        """The cores of a parameter, or the one that it is: the first mode against the others, as ``times`` takes it."""
        values, shape = self.weights.floats("format." + name), self.shapes[name]
        count, rows = (shape[0], shape[1]) if several else (1, shape[0])
        size = len(values) // count if count else 0
        found = []
        for start in range(0, len(values), size or 1):
            numbers, bits = integers(values[start : start + size])
            columns = [numbers[k :: size // rows] for k in range(size // rows)]
            found.append((columns, max(sum(map(abs, column)) for column in columns), bits))
        return found

    def core(self, name: str) -> Any:
        return self.cores(name, several=False)[0]

    def scores(self, features: list[list[Any]]) -> Iterator[Any]:
        """The block of the classes' scores for every image i, and every image j."""
        kind = next(name for name in SCORES if name in self.shapes)
        yield from {"first": self.chain, "factors": self.units, "leaves": self.tree}[kind](features)

    def chain(self, features: list[list[Any]]) -> Iterator[Any]:
        interior, inside = self.cores("interior"), range(self.sites - 2)
        cores = [self.core("first"), *(interior[min(k, len(interior) - 1)] for k in inside), self.core("last")]
        right = [self.shapes["first"][1]] * (self.sites - 1) + [self.shapes["last"][2]]
        made = []
        for of_sites in features:
            row = []
            for block, core, width_ in zip(of_sites, cores, right):
                m, e, x = times(block, core)
                columns = [m[k::width_] for k in range(width_)]
                row.append((columns, max(sum(map(abs, column)) for column in columns), e, x))
            made.append(row)
        for odd in made:
            for even in made:
                columns, _, e, x = odd[0]
                m = [column[0] for column in columns]
                for site in range(1, self.sites):
                    columns, most, f, y = (even if site % 2 else odd)[site]
                    error = e * most + f * (sum(map(abs, m)) + len(m) * e)
                    m, e, x = rounded([sum(map(int.__mul__, m, column)) for column in columns], error, x + y)
                yield m, e, x

    def units(self, features: list[list[Any]]) -> Iterator[Any]:
        factors, last = self.cores("factors"), self.core("weights")
        sides: list[list[Any]] = [[], []]
        for of_sites in features:
            inner = [times(block, factor) for block, factor in zip(of_sites, factors)]
            for parity in (0, 1):
                found = inner[parity]
                for other in inner[parity + 2 :: 2]:
                    found = elementwise(found, other)
                sides[parity].append(found)
        for odd in sides[0]:
            for even in sides[1]:
                yield times(elementwise(odd, even), last)

    def tree(self, features: list[list[Any]]) -> Iterator[Any]:
        leaves = self.cores("leaves")
        levels = [self.cores(f"nodes.{k}") for k in range(len(self.shapes) - 2)] + [[self.core("root")]]
        bottom = [[times(b, leaves[min(k, len(leaves) - 1)]) for k, b in enumerate(each)] for each in features]
        for odd in bottom:
            for even in bottom:
                parts = [(even if site % 2 else odd)[site] for site in range(self.sites)]
                for level in levels:
                    pairs = zip(parts[0::2], parts[1::2])
                    parts = [self.node(*pair, level[min(k, len(level) - 1)]) for k, pair in enumerate(pairs)]
                yield parts[0]

    def node(self, left: Any, right: Any, exact: Any) -> Any:
        (m, e, x), (n, f, y), (columns, most, bits) = left, right, exact
        half = [sum(map(int.__mul__, m, column)) for column in columns]  # of [b][c]
        up = len(half) // len(n)
        error = len(n) * most * (max(map(abs, m)) * f + max(map(abs, n)) * e + e * f)
        return rounded([sum(map(int.__mul__, n, half[c::up])) for c in range(up)], error, x + y - bits)


def features_of(content: dict[str, Any], weights: Weights, pixels: Sequence[float]) -> list[list[Any]]:
    """The block of the features of every image at every site: sigma(A (x - m) + b), and perhaps 1."""
    matrix, bits = integers(weights.floats("features.linear.weight"))
    shifts, of_shifts = integers(weights.floats("features.linear.bias"))
    numbers, of_numbers = integers([*pixels, content["pixel_mean"]])
    size, total = len(matrix) // len(shifts), bits + of_numbers
    rows = [matrix[k : k + size] for k in range(0, len(matrix), size)]
    centred = [each - numbers[-1] for each in numbers[:-1]]
    blocks = []
    for start in range(0, len(centred), size):
        patch, m = centred[start : start + size], []
        for row, shift in zip(rows, shifts):
            z = (sum(map(int.__mul__, row, patch)) << of_shifts) + (shift << total)
            z = z << DEEP >> (total + of_shifts)
            m.append(activated(z, content["activation"]) >> (DEEP - FEATURE))
        blocks.append((m + [1 << FEATURE] * content["constant"], 2, -FEATURE))
    return [blocks[k : k + content["sites"]] for k in range(0, len(blocks), content["sites"])]


def common_rows(scores: list[Any], images: int, classes: int) -> tuple[Rows, int]:
    """C times (scores minus their mean over the C classes), image by image, and a bound on the square of the errors."""
    unit = max(max(map(abs, m)).bit_length() + x for m, _, x in scores) - KEPT
    entries, square = [], 0
    for m, e, x in scores:
        shift = x - unit
        moved = [each << shift if shift >= 0 else each >> -shift for each in m]
        error = 2 * classes * ((e << shift if shift >= 0 else e >> -shift) + 2)
        entries.append([classes * each - sum(moved) for each in moved])
        square += classes * error * error
    return [[x for each in entries[k : k + images] for x in each] for k in range(0, len(entries), images)], square


def jacobi(a: list[list[float]]) -> list[list[float]]:
    """Rows that are nearly the eigenvectors of a symmetric matrix; what they miss is counted afterwards."""
    size = len(a)
    vectors = [[float(i == j) for j in range(size)] for i in range(size)]
    for _ in range(12):
        turned = False
        for p in range(size):
            for q in range(p + 1, size):
                if abs(a[p][q]) <= 1e-17:
                    continue
                turned, theta = True, (a[q][q] - a[p][p]) / (2 * a[p][q])
                t = (1 if theta >= 0 else -1) / (abs(theta) + math.hypot(theta, 1))
                c = 1 / math.hypot(t, 1)
                s = t * c
                for rows in (a, vectors):
                    one, two = rows[p], rows[q]
                    rows[p] = [c * x - s * y for x, y in zip(one, two)]
                    rows[q] = [s * x + c * y for x, y in zip(one, two)]
                for row in a:
                    row[p], row[q] = c * row[p] - s * row[q], s * row[p] + c * row[q]
        if not turned:
            break
    return vectors


def check_units(content: dict[str, Any], rows: Rows, square: int) -> None:
    """Every width: the tail of the singular values is above the error. As docs/width.md says, in integers.

    D = Q^T H Q for any Q; eigenvalues of D are at most 1 + |Q^T Q - 1| times those of H, and they differ from the
    diagonal by at most sqrt(K) |D - diagonal| in sum.
    """
    size, scale = len(rows), 1 << 60
    gram = [[sum(map(int.__mul__, a, b)) for b in rows] for a in rows]
    total = sum(gram[k][k] for k in range(size))
    vectors = jacobi([[x / total for x in row] for row in gram]) if total else []
    q = [[round(x * scale) for x in row] for row in vectors]
    half = [[sum(map(int.__mul__, row, column)) for column in gram] for row in q]
    turned = [[sum(map(int.__mul__, row, other)) for other in q] for row in half]
    others = sum(turned[a][b] ** 2 for a in range(len(q)) for b in range(len(q)) if a != b)
    skew = [[sum(map(int.__mul__, a, b)) - (scale**2 if a is b else 0) for b in q] for a in q]
    defect = math.isqrt(sum(x * x for row in skew for x in row)) + 1
    lost, moved, norm = math.isqrt(size * others) + 1, math.isqrt(square) + 1, math.isqrt(total) + 1
    smallest = sorted(turned[k][k] for k in range(len(q)))
    for permille, units in zip(content["permille"], content["units_at_least"]):
        tail = sum(smallest[: size - units + 1]) - lost
        right = permille * (norm + moved) + 1000 * moved
        if units and not (tail > 0 and tail * 10**6 > right * right * (scale**2 + defect)):
            if moved << 40 > norm:
                raise Unchecked("its scores are too small beside their terms for this program's precision")
            raise Rejected(f"{units} hidden units for {permille / 10:g} % are more than counting gives")


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


def add_ends(cost: Cost, tall: int, columns: int, r: int, absorbed: int, classes: int, primes: Any) -> None:
    """The ends that take sites in: matrices of ``tall`` rows."""
    for p in primes:
        cost.add((1 + classes) * absorbed * 2 * tall * columns, r, p, r)
        cost.other += (1 + classes) * absorbed * tall * columns * 4e-6
        cost.rank((1 + classes) * tall, columns, p)


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


def width_cost(weights: Weights, images: int, sites: int, n: int, r: int, classes: int, activation: str) -> float:
    """Seconds, from above."""
    pair = sites * r ** (3 if "leaves" in weights.shapes else 2 if "first" in weights.shapes else 1) + classes * r * r
    wide = 8 if any(entry["dtype"] == "F64" for entry in weights.entries.values()) else 1  # up to 2^-1074
    patch_dim = weights.entries["features.linear.weight"]["shape"][1]
    slow = 1e-5 if activation in ("relu", "identity") else 4e-4
    of_features = images * sites * n * (3e-7 * (patch_dim + r ** (2 if "first" in weights.shapes else 1)) + slow)
    return wide * (2e-7 * images**2 * pair + of_features + 3e-7 * images**3 * (classes + 20) + 3e-6 * weights.count)


# Claims

HEAD = {"certificate", "version", "kind", "statement", "mode_size", "rank", "sites", "primes", "ranks"}
FIELDS = {
    "generic": HEAD | {"seed", "cp_rank_at_least"},
    "checkpoint": HEAD | {"weights_sha256", "absorbed", "kept", "slices", "cp_rank_at_least"},
    "sampled": HEAD | {"weights_sha256", "size", "seed", "cp_rank_at_least"},
    "width": (HEAD - {"primes", "ranks"})
    | {"weights_sha256", "images", "images_sha256", "activation", "constant", "pixel_mean"}
    | {"permille", "units_at_least"},
}


def verify(content: dict[str, Any], find_weights: Any, find_images: Any, limit: float, say: Any) -> None:
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
        if kind == "width":
            count_width(content, weights, find_images(), limit, say)
            return
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
    if any(name.startswith("features.") and name not in names for name in weights.entries):
        raise Rejected("the feature map has more than one layer")
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
        if kind == "generic" or name not in ("checkpoint",) + ("features", "network_sites") * (kind != "width"):
            raise Rejected(f"{short(name)} is too much")
    path = content.get("checkpoint", "network.ckpt")
    if type(path) is not str or not 0 < len(path) <= 4096 or not path.isprintable() or path.startswith("~"):
        raise Rejected(f"checkpoint is {short(path)}, not a path from the folder of the certificate")
    if not PurePosixPath(path).parts or PurePosixPath(path).is_absolute():
        raise Rejected(f"checkpoint is {short(path)}, not a path from the folder of the certificate")
    more = {"network_sites": RANGES["sites"], "size": (1, SIZE_LIMIT), "images": (2, IMAGES_LIMIT)}
    for name, (least, most) in {**RANGES, **more}.items():
        if name in content and not (type(content[name]) is int and least <= content[name] <= most):
            raise Rejected(f"{name} is {short(content[name])}, not an integer from {least} to {most:,}")
    if kind == "width":
        check_width(content)
        return
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
        if sylvester(slices, states, ranks[-1], 0) != bound:
            raise Rejected(f"the cores of the seed do not reach the bound modulo {p}")
    return {"ranks": ranks}


def count_staircase(content: dict[str, Any], weights: Weights, limit: float, say: Any) -> dict[str, Any]:
    n, r, sites, primes = (content[name] for name in ("mode_size", "rank", "sites", "primes"))
    slices, classes = content["slices"], classes_of(weights)
    check_slices(slices, sites, n)
    size = len(slices[0]) if slices else n
    different = len(slices) > 1 or weights.shapes["interior"][0] > 1
    pairs = (sites // 2 - 1 if different else 1) if sites > 3 else 0
    absorbed, kept = content["absorbed"], content["kept"]
    check_ends(absorbed, kept, sites, size)
    cost = staircase_cost(size, r, n, sites, pairs, classes, weights.count, primes)
    if absorbed:  # twenty pairs of sites are too many as soon as there are two slices
        add_ends(cost, n * size ** min(absorbed, 20), r * max(kept), r, absorbed, classes, primes)
    say(cost.refuse_above(limit))
    ranks, bounds = [], []
    for p in primes:
        cores, last = weights.matrices("interior", p), weights.matrices("last", p)
        known: dict[tuple[int, ...], Table] = {}
        interior = []
        for site in range(sites - 2):
            which, picked = min(site, len(cores) - 1), slices[min(site, len(slices) - 1)]
            interior.append(known.setdefault((which, *picked), [cores[which][i] for i in picked]))
        lasts = [[[x[y] for x in row] for row in last] for y in range(classes)]
        ranks.append(staircase_ranks(interior, sites, weights.matrices("first", p), lasts, p, absorbed, kept))
        bounds.append([sylvester(size, r, ranks[-1], y, kept) for y in range(classes)])
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


def count_width(content: dict[str, Any], weights: Weights, data: bytes, limit: float, say: Any) -> None:
    """Raise ``Rejected`` unless the widths follow from the scores at the features of the images."""
    n, r, sites, images = (content[name] for name in ("mode_size", "rank", "sites", "images"))
    names = ("features.linear.weight", "features.linear.bias")
    shapes = [weights.entries[name]["shape"] if name in weights.entries else [] for name in names]
    if len(shapes[0]) != 2 or shapes[1] != [n - content["constant"]] or shapes[0][:1] != shapes[1] or 0 in shapes[0]:
        raise Rejected(f"the weights have no feature map of {n} features")
    if any(name.startswith("features.") and name not in names for name in weights.entries):
        raise Unchecked("the feature map has more than one layer, which `python -m ttlightning verify` counts")
    if len(data) != 4 * images * sites * shapes[0][1]:
        raise Rejected(f"the images are not {images} of {sites} patches of {shapes[0][1]} numbers")
    if hashlib.sha256(data).hexdigest() != content["images_sha256"]:
        raise Rejected("it is for other images than those beside it")
    pixels = struct.unpack(f"<{len(data) // 4}f", data)
    if not all(map(math.isfinite, pixels)):
        raise Rejected("a pixel is infinite or not a number")
    seconds = width_cost(weights, images, sites, n, r, classes_of(weights), content["activation"])
    if seconds > limit:
        raise Unchecked(f"counting takes about {seconds:,.1f} s, the limit is {limit:,.0f} s: raise it with --limit")
    say(f"{images * images:,} scores in exact arithmetic with error bounds, about {seconds:,.1f} s")
    scores = list(Network(weights, sites).scores(features_of(content, weights, pixels)))
    check_units(content, *common_rows(scores, images, classes_of(weights)))


def check_width(content: dict[str, Any]) -> None:
    """The form of the fields of a width, and the statement."""
    permille, units, images, mean = (content[x] for x in ("permille", "units_at_least", "images", "pixel_mean"))
    for name, values, most in (("permille", permille, 999), ("units_at_least", units, images)):
        if type(values) is not list or not 1 <= len(values) <= 20 or len(values) != len(permille):
            raise Rejected(f"{name} must be a list of one to 20, as long as the other")
        if not all(type(x) is int and 0 <= x <= most for x in values):
            raise Rejected(f"{name} has a number out of range")
    if 0 in permille or sorted(set(permille), reverse=True) != permille or sorted(units) != units:
        raise Rejected("permille must fall, and be above 0, and units_at_least must not fall")
    if type(content["activation"]) is not str or content["activation"] not in ACTIVATIONS:
        raise Rejected(f"activation is {short(content['activation'])}, which this program does not know")
    if type(content["constant"]) is not bool or type(mean) is not float or not abs(mean) <= 2.0**64:
        raise Rejected("constant must be true or false, and pixel_mean a number of at most 2^64")
    each = ", ".join(f"{count} for {error / 10:g} %" for error, count in zip(permille, units))
    statement = (
        "Every shallow network, whatever its features, that stays within an error of the scores of the network with "
        f"these weights and the features {content['activation']}(A (x - {mean!r}) + b), in exact arithmetic, on the "
        f"{images} x {images} images that take the odd patches of one of {images} images and the even patches of "
        f"another, has at least so many hidden units: {each}. The error is the root mean square over these images and "
        "the classes, as a fraction of that of the scores, which are taken minus their mean over the classes."
    )
    compare("statement", content["statement"], statement)


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


def check_ends(absorbed: Any, kept: Any, sites: int, size: int) -> None:
    if type(absorbed) is not int or not 0 <= absorbed <= (sites // 2 - 1) // 2:
        raise Rejected(f"absorbed is {short(absorbed)}, not a number of pairs of sites")
    most = size if absorbed else 1
    if type(kept) is not list or len(kept) != 2 or not all(type(x) is int and 1 <= x <= most for x in kept):
        raise Rejected(f"kept is {short(kept)}, not two numbers from 1 to {most}")


def classes_of(weights: Weights) -> int:
    end = next((name for name in ("last", "weights", "root") if weights.shapes.get(name)), None)
    return weights.shapes[end][-1] if end else 0


def check_shapes(content: dict[str, Any], weights: Weights) -> None:
    """The parameters must be those of a tensor train, a sum of units, or a balanced tree with these sizes."""
    n, r, d, classes = content["mode_size"], content["rank"], content["sites"], classes_of(weights)
    possible = [{"first": (n, r), "interior": (k, n, r, r), "last": (n, r, classes)} for k in {min(1, d - 2), d - 2}]
    if content["kind"] in ("sampled", "width"):
        possible.append({"factors": (d, n, r), "weights": (r, classes)})
        if d & (d - 1) == 0:
            for most in (1, d):
                nodes = {f"nodes.{k - 1}": (min(most, d >> k), r, r, r) for k in range(1, d.bit_length() - 1)}
                possible.append({"leaves": (most, n, r), "root": (r, r, classes), **nodes})
    if weights.shapes not in possible or classes < 1:
        raise Rejected(f"a network of {d} sites, mode size {n} and rank {r} is not what the weights are")
    if content["kind"] != "width" and classes != len(content["cp_rank_at_least"]):
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
        beside = file.with_suffix(".images")
        verify(
            content,
            lambda: Weights(weights or file.with_suffix(".safetensors")),
            lambda: read_bytes(beside, WEIGHTS_LIMIT),
            limit,
            say,
        )
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
