r"""[K18, Table 2] computed: the width that one format needs to equal a random network of another format.

    python scripts/rank_table.py [--quick] [--seeds 3] [--output results/rank_table.md]

Random tensors in tensor-train, hierarchical-Tucker and canonical format of width r, n > r, with all entries over F_p,
p = 2^31 - 1. The TT-rank is the largest rank of the matricizations {1..k} | {k+1..d}. The HT-rank is the largest rank
of the matricizations of the tree's nodes, the sites of a node against the other sites. The CP-rank is at least the rank
of the odd/even matricization. Ranks are counted exactly and printed beside the table's entries, for all seeds.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from ttlightning.formats import CanonicalPolyadic, HierarchicalTucker, ScoreTensor, TensorTrain
from ttlightning.formats.bounds import generic_odd_even_rank
from ttlightning.formats.modular import Residues
from ttlightning.rank.finite_field import PRIMES, PrimeField, rank_modulo
from ttlightning.system.output import run_script

PRIME = PRIMES[0]
SIZES = ((2, 3, 4), (3, 4, 4), (4, 5, 4), (2, 3, 8), (3, 4, 8))  # r, n, d


def random_entries(kind: type[ScoreTensor], rank: int, mode_size: int, sites: int, seed: int) -> Residues:
    """Every entry of a random tensor of a format, with integer weights, in one long row."""
    generator = np.random.default_rng([rank, mode_size, sites, seed])
    format = kind(sites, mode_size, 1, rank).double().requires_grad_(False)
    for parameter in format.parameters():
        parameter.copy_(torch.from_numpy(generator.integers(-(10**9), 10**9, tuple(parameter.shape))))
    (entries,) = format.exact_scores([np.eye(mode_size, dtype=np.int64)] * sites, PrimeField(PRIME))
    return entries


def matricization_rank(entries: Residues, mode_size: int, sites: int, rows: list[int]) -> int:
    """Rank over F_p of the given sites against the others."""
    order = [*rows, *(site for site in range(sites) if site not in rows)]
    return rank_modulo(entries.reshape([mode_size] * sites).transpose(order).reshape(mode_size ** len(rows), -1), PRIME)


def widths(entries: Residues, mode_size: int, sites: int) -> dict[str, int]:
    """TT-rank, HT-rank, and the lower bound on the CP-rank."""

    def largest(sets: list[list[int]]) -> int:
        return max(matricization_rank(entries, mode_size, sites, rows) for rows in sets)

    sizes = [1 << level for level in range(sites.bit_length() - 1)]
    nodes = [list(range(start, start + size)) for size in sizes for start in range(0, sites, size)]
    return {
        "TT": largest([list(range(k)) for k in range(1, sites)]),
        "HT": largest(nodes),
        "CP": matricization_rank(entries, mode_size, sites, list(range(0, sites, 2))),
    }


FORMATS = {"TT": TensorTrain, "HT": HierarchicalTucker, "CP": CanonicalPolyadic}
ENTRIES = {
    ("TT", "TT"): "r", ("TT", "HT"): "r^2", ("TT", "CP"): ">= r^(d/2)",
    ("HT", "TT"): "r^(log2(d)/2)", ("HT", "HT"): "r", ("HT", "CP"): ">= r^(d/2)",
    ("CP", "TT"): "r", ("CP", "HT"): "r", ("CP", "CP"): "r",
}  # fmt: skip
"""(given, needed): the table's entry."""


def value(entry: str, rank: int, sites: int) -> float:
    """An entry of the table as a number."""
    exponent = {"r": 1.0, "r^2": 2.0, ">= r^(d/2)": sites / 2, "r^(log2(d)/2)": np.log2(sites) / 2}[entry]
    return float(rank**exponent)


def table(sizes: tuple[tuple[int, int, int], ...], seeds: range) -> str:
    lines = [
        "| given | r, n, d | TT-rank (table) | HT-rank (table) | CP-rank at least (table) |",
        "|---|---|---|---|---|",
    ]
    for given, kind in FORMATS.items():
        for rank, mode_size, sites in sizes:
            tensors = (random_entries(kind, rank, mode_size, sites, seed) for seed in seeds)
            computed = [widths(entries, mode_size, sites) for entries in tensors]
            cells = []
            for needed in ("TT", "HT", "CP"):
                ranks = sorted({each[needed] for each in computed})
                entry = value(ENTRIES[given, needed], rank, sites)
                cells.append(f"{' to '.join(map(str, ranks))} ({entry:.3g})")
            lines.append(f"| {given} | {rank}, {mode_size}, {sites} | {' | '.join(cells)} |")
            if given == "TT":
                assert {each["CP"] for each in computed} == {generic_odd_even_rank(mode_size, rank, sites)}
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="four sites only")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output", type=Path, help="write the table to this file as well")
    options = parser.parse_args()
    text = table(tuple(size for size in SIZES if size[2] == 4 or not options.quick), range(options.seeds))
    print(text)
    if options.output:
        options.output.write_text(text + "\n")


if __name__ == "__main__":
    run_script(main)
