"""Theorem, staircase and literal matricization on the same tensors, in exact arithmetic.

    python scripts/rank_agreement.py [--entries 20] [--seed 0]

For every (n, r, d, kind) whose odd/even matricization has at most 2^entries entries: generic rank of the theorem; the
staircase's rank of a tensor train with random integer cores; rank of its literal matricization, modulo 2^31 - 1.
Where n < r the staircase speaks of the tensor that uses n of the r states, the one in the theorem's proof. Prints a
line for each pair (n, r) and, at the end, how many cases agree; exit code 1 if one does not.

The same of canonical polyadic and hierarchical Tucker tensors, where n is a power of two and a sample of scores can be
as large as the matricization: generic rank, rank of the sample, rank of the tensor written out.
"""

import argparse
import itertools
import sys

import numpy as np
import torch

from ttlightning.formats import CanonicalPolyadic, HierarchicalTucker, SharedHierarchicalTucker
from ttlightning.rank import generic_odd_even_rank, generic_tree_rank
from ttlightning.rank.certificates.certificate import checkpoint_certificate, generic_certificate, sampled_certificate
from ttlightning.rank.finite_field import PRIMES, Residues, rank_modulo
from ttlightning.rank.full_matricization import literal_matricizations
from ttlightning.rank.limits import LARGEST
from ttlightning.system.output import run_script

OTHERS = (CanonicalPolyadic, HierarchicalTucker, SharedHierarchicalTucker)
KINDS = ("equal", "different")


def draw(mode_size: int, rank: int, sites: int, kind: str, seed: int) -> dict[str, torch.Tensor]:
    """Integer cores, exact in float64."""
    generator = np.random.default_rng([mode_size, rank, sites, KINDS.index(kind), seed])
    distinct = min(1, sites - 2) if kind == "equal" else sites - 2
    shapes = {"first": (mode_size, rank), "interior": (distinct, mode_size, rank, rank), "last": (mode_size, rank, 1)}
    return {name: torch.from_numpy(generator.integers(-99, 100, shape)).double() for name, shape in shapes.items()}


def literal_rank(state: dict[str, torch.Tensor], sites: int) -> int:
    first, interior, last = (state[name].numpy().astype(np.int64) % PRIMES[0] for name in ("first", "interior", "last"))
    middle = [interior[0 if len(interior) == 1 else k] for k in range(sites - 2)]
    (matrix,) = literal_matricizations([first[:, None, :], *middle, last], PRIMES[0])
    return rank_modulo(matrix, PRIMES[0])


def draw_other(kind: type, mode_size: int, rank: int, sites: int, seed: int) -> dict[str, torch.Tensor]:
    """The same for the parameters of another format, from so many integers that none of a few weights is 0."""
    generator = np.random.default_rng([mode_size, rank, sites, OTHERS.index(kind), seed])
    shapes = {name: p.shape for name, p in kind(sites, mode_size, 1, rank).named_parameters()}
    return {
        name: torch.from_numpy(generator.integers(-(10**6), 10**6, tuple(s))).double() for name, s in shapes.items()
    }


def written_out(state: dict[str, torch.Tensor], sites: int) -> Residues:
    """Every entry of the one class tensor modulo p, by its definition; remainders after every product."""
    p = PRIMES[0]
    numbers = {name: value.numpy().astype(np.int64) % p for name, value in state.items()}
    if "factors" in numbers:
        units = numbers["weights"].T
        for factor in numbers["factors"]:
            units = (units[:, None, :] * factor[None, :, :] % p).reshape(-1, units.shape[-1])
        return units.sum(1) % p
    levels = [numbers["leaves"], *(numbers[f"nodes.{k}"] for k in range(len(numbers) - 2)), numbers["root"][None]]
    parts = [levels[0][site % len(levels[0])] for site in range(sites)]
    for level in levels[1:]:
        joined = []
        for place in range(len(parts) // 2):
            node, (left, right) = level[place % len(level)], parts[2 * place : 2 * place + 2]
            found = np.zeros((len(left), len(right), node.shape[2]), dtype=np.int64)
            for a, b in np.ndindex(node.shape[:2]):
                pairs = left[:, None, a] * right[None, :, b] % p
                found = (found + pairs[:, :, None] * node[a, b] % p) % p
            joined.append(found.reshape(-1, node.shape[2]))
        parts = joined
    return parts[0][:, 0]


def compare_others(entries: int, seed: int) -> tuple[int, int]:
    """Cases, and how many of them are off."""
    total = off = 0
    for kind, mode_size, rank, sites in itertools.product(OTHERS, (2, 4, 8), range(1, 7), range(2, 13)):
        size = mode_size ** (sites // 2)
        tree = kind is not CanonicalPolyadic
        if mode_size**sites > 2**entries or size > LARGEST["size"] or (tree and sites & (sites - 1)):
            continue
        state = draw_other(kind, mode_size, rank, sites, seed)
        generic = generic_tree_rank(mode_size, rank, sites) if tree else min(rank, size)
        (sampled,) = sampled_certificate(state, sites, "", size)["cp_rank_at_least"]
        order = [*range(0, sites, 2), *range(1, sites, 2)]
        whole = written_out(state, sites).reshape([mode_size] * sites).transpose(order)
        literal = rank_modulo(whole.reshape(-1, size), PRIMES[0])
        total += 1
        if not generic == sampled == literal:
            off += 1
            print(f"OFF  n {mode_size} r {rank} d {sites} {kind.__name__}: {generic} {sampled} {literal}", flush=True)
    return total, off


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=20, help="largest matricization, as a power of two")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    total, off = 0, 0
    for mode_size, rank in itertools.product(range(2, 9), range(1, 7)):
        line = []
        for sites, kind in itertools.product(range(2, 13), KINDS):
            if mode_size**sites > 2**options.entries:
                continue
            state = draw(mode_size, rank, sites, kind, options.seed)
            theorem = generic_odd_even_rank(mode_size, rank, sites)
            if mode_size >= rank:
                staircase = checkpoint_certificate(state, sites, "")["cp_rank_at_least"][0]
            else:
                staircase = generic_certificate(mode_size, rank, sites, options.seed)["cp_rank_at_least"][0]
            literal = literal_rank(state, sites)
            total += 1
            if not theorem == staircase == literal:
                off += 1
                print(f"OFF  n {mode_size} r {rank} d {sites} {kind}: {theorem} {staircase} {literal}", flush=True)
            if kind == "equal":
                line.append(str(literal))
        print(f"n {mode_size}  r {rank}  d = 2, 3, ..: {' '.join(line)}", flush=True)
    print(f"{total} cases (n, r, d, kind): theorem, staircase and literal matricization agree on {total - off}")
    others, others_off = compare_others(options.entries, options.seed)
    print(f"{others} cases of other formats: generic, sampled and literal rank agree on {others - others_off}")
    sys.exit(int(off + others_off > 0))


if __name__ == "__main__":
    run_script(main)
