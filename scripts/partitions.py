r"""Which matricization has the largest rank? Every balanced partition of up to eight sites, counted.

    python scripts/partitions.py [--sites 4 6 8] [--sizes 3x2 ..] [--seeds 2] [--output results/partitions]

A partition puts half of the sites in the rows and half in the columns. For random tensors of every format, the rank of
each partition over F_p, p = 2^31 - 1, and the minimal cut of the network between the two halves. The count is a lower
bound on the generic rank, and the cut is an upper bound. Partitions that a symmetry of the format's network exchanges
are one row: reversal of a chain, exchange of the subtrees of a node, any permutation of a sum's sites. All of them are
counted; a row with more than one rank says so. ``--output`` writes a table (.md) and all counts (.json).
"""

import argparse
import itertools
import json
import math
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rank_table import matricization_rank, random_entries

from ttlightning.errors import UserError
from ttlightning.formats import (
    CanonicalPolyadic,
    EqualCoreTensorTrain,
    HierarchicalTucker,
    SharedHierarchicalTucker,
    TensorTrain,
)
from ttlightning.system.output import run_script

SIZES = [(n, r) for n in (2, 3, 4) for r in (2, 3, 4)] + [(5, 2)]
LARGEST_TENSOR = 2**20
"""Entries of the largest tensor that is counted."""
FORMATS = {
    "TT, different cores": TensorTrain,
    "TT, equal cores": EqualCoreTensorTrain,
    "HT, different nodes": HierarchicalTucker,
    "HT, equal nodes": SharedHierarchicalTucker,
    "CP": CanonicalPolyadic,
}
SHOWN = (3, 2)
"""n and r of the table of all partitions."""

Network = Any
"""A tensor is a tuple of what hangs below it: tensors, and sites as integers."""


def network(name: str, sites: int) -> Network:
    """The tensors of a chain or of a tree, each below the one before."""
    if name.startswith("TT"):
        chain: Network = (sites - 1,)
        for site in reversed(range(sites - 1)):
            chain = (site, chain)
        return chain
    level: list[Network] = [(site,) for site in range(sites)]
    while len(level) > 1:
        level = [*zip(level[0::2], level[1::2], strict=True)]
    return level[0]


def minimal_cut(name: str, rows: tuple[int, ...], sites: int, mode_size: int, rank: int) -> int:
    """The least product of sizes of edges, n of a site and r of a bond, whose removal parts rows from columns.

    The units of a sum share one index of size r: its cut is min(r, n^(d/2)).
    """
    if name == "CP":
        return min(rank, mode_size ** (sites // 2))

    def costs(part: Network) -> tuple[float, float]:
        """The cut below ``part`` if it is on the side of the columns, and on that of the rows."""
        if isinstance(part, int):
            return (math.inf, 1) if part in rows else (1, math.inf)
        both = [1.0, 1.0]
        for below in part:
            edge = mode_size if isinstance(below, int) else rank
            found = costs(below)
            for side in (0, 1):
                both[side] *= min(found[side], edge * found[1 - side])
        return both[0], both[1]

    return int(min(costs(network(name, sites))))


def symmetric_form(name: str, rows: tuple[int, ...], sites: int) -> Any:
    """The same for two partitions if a symmetry of the network exchanges them."""
    word = tuple(int(site in rows) for site in range(sites))
    words = [word, tuple(1 - letter for letter in word)]
    if name == "CP":
        return ()
    if name.startswith("TT"):
        return min([*words, *(each[::-1] for each in words)])

    def sorted_tree(part: Network, letters: tuple[int, ...]) -> Any:
        if len(part) == 1:
            return str(letters[part[0]])
        return "(" + "".join(sorted(sorted_tree(below, letters) for below in part)) + ")"

    return min(sorted_tree(network(name, sites), each) for each in words)


def partitions(sites: int) -> list[tuple[int, ...]]:
    """The rows of every balanced partition, from 0; the first site is a row."""
    return [(0, *others) for others in itertools.combinations(range(1, sites), sites // 2 - 1)]


def count(name: str, sites: int, mode_size: int, rank: int, seeds: int) -> list[dict[str, Any]]:
    """One row for each class of symmetric partitions, the largest rank first."""
    tensors = [random_entries(FORMATS[name], rank, mode_size, sites, seed) for seed in range(seeds)]
    classes: dict[Any, list[tuple[int, ...]]] = defaultdict(list)
    for rows in partitions(sites):
        classes[symmetric_form(name, rows, sites)].append(rows)
    odd = tuple(range(0, sites, 2))
    table = []
    for members in classes.values():
        shown = odd if odd in members else members[0]
        ranks = [max(matricization_rank(each, mode_size, sites, [*rows]) for each in tensors) for rows in members]
        cuts = {minimal_cut(name, rows, sites, mode_size, rank) for rows in members}
        table.append(
            {
                "rows": "".join(str(site + 1) for site in shown),
                "partitions": len(members),
                "odd_even": shown == odd,
                "cut": max(cuts),
                "rank": max(ranks),
                "least_rank": min(ranks),
            }
        )
    return sorted(table, key=lambda row: (-row["rank"], not row["odd_even"], row["rows"]))


def summary(results: list[dict[str, Any]]) -> Iterator[str]:
    """For each format and number of sites: where odd/even is the best partition, and where the cut is not reached."""
    yield "| format | sites | partitions | up to symmetry | odd/even is best | alone | cut not reached |"
    yield "|---|---|---|---|---|---|---|"
    groups = defaultdict(list)
    for each in results:
        groups[each["format"], each["sites"]].append(each["classes"])
    for (name, sites), tables in groups.items():
        best = [[row for row in table if row["rank"] == table[0]["rank"]] for table in tables]
        odd = [any(row["odd_even"] for row in rows) for rows in best]
        alone = [len(rows) == 1 and found for rows, found in zip(best, odd, strict=True)]
        every = [row for table in tables for row in table]
        below = sum(row["least_rank"] < row["cut"] for row in every)
        counted = sum(row["partitions"] for row in tables[0])
        yield (
            f"| {name} | {sites} | {counted} | {len(tables[0])} | {sum(odd)} of {len(odd)} sizes | {sum(alone)} | "
            f"{below} of {len(every)} |"
        )


def below_the_cut(results: list[dict[str, Any]]) -> Iterator[str]:
    """Every row whose counted rank is less than its minimal cut."""
    for each in results:
        for row in each["classes"]:
            if row["least_rank"] < row["cut"]:
                where = f"{each['format']}, {each['sites']} sites, n = {each['mode_size']}, r = {each['rank']}"
                yield f"- {where}: {row['rows']} has rank {ranks(row)}, the cut is {row['cut']}"


def all_partitions(results: list[dict[str, Any]], sites: int) -> Iterator[str]:
    """Rank and cut of every partition at n, r = ``SHOWN``."""
    yield "| format | rows: rank (cut) |"
    yield "|---|---|"
    for each in results:
        if (each["sites"], each["mode_size"], each["rank"]) == (sites, *SHOWN):
            cells = ", ".join(f"{row['rows']}: {ranks(row)} ({row['cut']})" for row in each["classes"])
            yield f"| {each['format']} | {cells} |"


def ranks(row: dict[str, Any]) -> str:
    """The rank of a row; from and to if its partitions differ."""
    least, most = row["least_rank"], row["rank"]
    return str(most) if least == most else f"{least} to {most}"


def size(text: str) -> tuple[int, int]:
    """n and r from nxr."""
    n, r = map(int, text.split("x"))
    return n, r


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sites", type=int, nargs="+", default=[4, 6, 8])
    parser.add_argument("--sizes", type=size, nargs="+", default=SIZES, help="n and r, as 3x2 4x4")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--output", type=Path, help="write this file with .md and .json")
    options = parser.parse_args()
    if options.seeds < 1 or any(sites % 2 or not 2 <= sites <= 8 for sites in options.sites):
        raise UserError("partitions of 2, 4, 6 or 8 sites are counted, for one seed or more")
    for n, r in options.sizes:
        if n < 1 or r < 1 or n ** max(options.sites) > LARGEST_TENSOR:
            raise UserError(f"tensors of mode size {n} and rank {r} have no entries, or more than {LARGEST_TENSOR:,}")
    results = [
        {"format": name, "sites": sites, "mode_size": n, "rank": r, "classes": count(name, sites, n, r, options.seeds)}
        for name in FORMATS
        for sites in options.sites
        if not name.startswith("HT") or not sites & (sites - 1)
        for n, r in options.sizes
    ]
    most, (n, r) = max(options.sites), SHOWN
    parts = [
        *summary(results),
        "",
        "Partitions whose counted rank is below the minimal cut:",
        "",
        *([*below_the_cut(results)] or ["- none"]),
        "",
        f"All partitions of {most} sites at n = {n}, r = {r}, each named by the sites of its rows:",
        "",
        *all_partitions(results, most),
    ]
    print("\n".join(parts))
    if options.output:
        options.output.with_suffix(".md").write_text("\n".join(parts) + "\n")
        options.output.with_suffix(".json").write_text("[\n" + ",\n".join(map(json.dumps, results)) + "\n]\n")


if __name__ == "__main__":
    run_script(main)
