"""Theorem, staircase and complete matricization on the same tensors, in exact arithmetic.

    python scripts/rank_agreement.py [--entries 20] [--seed 0]

For every (n, r, d, kind) whose odd/even matricization has at most 2^entries entries: the generic rank of the theorem;
the staircase's rank of a tensor train with random integer cores; the rank of its complete matricization modulo
2^31 - 1. If n < r, the staircase is that of the tensor in the theorem's proof, which uses n of the r states. Prints a
line for each pair (n, r) and, at the end, how many cases agree; exit code 1 if one does not. For n < r also what the
certificate of every random tensor states where its ends take in sites (``rank/absorbed_ends.py``); it must not exceed
the complete rank.

The same for canonical polyadic and hierarchical Tucker tensors, for n a power of two, where a sample of scores can be
as large as the matricization: generic rank, rank of the sample, rank of the complete matricization.
"""

import argparse
import itertools
import sys
from collections.abc import Iterator

import numpy as np
import torch

from ttlightning.formats import (
    CanonicalPolyadic,
    EqualCoreTensorTrain,
    HierarchicalTucker,
    ScoreTensor,
    SharedHierarchicalTucker,
    TensorTrain,
)
from ttlightning.formats.modular import Residues, chain_scores, odd_even_matrix
from ttlightning.rank.absorbed_ends import best_ends
from ttlightning.rank.certificates.sampled import sampled_certificate
from ttlightning.rank.certificates.staircase import checkpoint_certificate, generic_certificate
from ttlightning.rank.finite_field import PRIMES, PrimeField, rank_modulo
from ttlightning.rank.limits import LARGEST
from ttlightning.system.output import run_script

FIELD = PrimeField(PRIMES[0])
CHAINS = (EqualCoreTensorTrain, TensorTrain)
OTHERS = (CanonicalPolyadic, HierarchicalTucker, SharedHierarchicalTucker)


def draw(kind: type[ScoreTensor], mode_size: int, rank: int, sites: int, seed: int) -> ScoreTensor:
    """A format of one class with random integer weights, exact in float64."""
    generator = np.random.default_rng([mode_size, rank, sites, (CHAINS + OTHERS).index(kind), seed])
    format = kind(sites, mode_size, 1, rank).double().requires_grad_(False)
    for parameter in format.parameters():
        parameter.copy_(torch.from_numpy(generator.integers(-(10**6), 10**6, tuple(parameter.shape))))
    return format


def entries(format: ScoreTensor) -> Residues:
    """Every entry of the one class tensor modulo p, by its definition."""
    p = FIELD.prime
    if (cores := format.cores()) is not None:
        return chain_scores([FIELD.residues(core.transpose(0, 1)) for core in cores], FIELD)[0]
    numbers = {name: FIELD.residues(value) for name, value in format.named_parameters()}
    if "factors" in numbers:
        units = numbers["weights"].T
        for factor in numbers["factors"]:
            units = (units[:, None, :] * factor[None, :, :] % p).reshape(-1, units.shape[-1])
        return units.sum(1) % p
    levels = [numbers["leaves"], *(numbers[f"nodes.{k}"] for k in range(len(numbers) - 2)), numbers["root"][None]]
    parts = [levels[0][site % len(levels[0])] for site in range(format.sites)]
    for level in levels[1:]:
        joined = []
        for position in range(len(parts) // 2):
            node, (left, right) = level[position % len(level)], parts[2 * position : 2 * position + 2]
            table = np.zeros((len(left), len(right), node.shape[2]), dtype=np.int64)
            for a, b in np.ndindex(node.shape[:2]):
                pairs = left[:, None, a] * right[None, :, b] % p
                table = (table + pairs[:, :, None] * node[a, b] % p) % p
            joined.append(table.reshape(-1, node.shape[2]))
        parts = joined
    return parts[0][:, 0]


def complete_rank(format: ScoreTensor) -> int:
    """Rank of the complete odd/even matricization."""
    return rank_modulo(odd_even_matrix(entries(format), [format.mode_size] * format.sites), FIELD.prime)


def compare_chains(most: int, seed: int) -> Iterator[bool]:
    """Whether theorem, staircase and complete matricization agree, for every tensor train of up to ``most`` entries."""
    for mode_size, rank in itertools.product(range(2, 9), range(1, 7)):
        line = []
        for sites, kind in itertools.product(range(2, 13), CHAINS):
            if mode_size**sites > most:
                continue
            format = draw(kind, mode_size, rank, sites, seed)
            theorem = format.generic_rank()
            if mode_size >= rank:
                staircase = checkpoint_certificate(format, "")["cp_rank_at_least"][0]
            else:
                staircase = generic_certificate(mode_size, rank, sites, seed)["cp_rank_at_least"][0]
            complete = complete_rank(format)
            if not theorem == staircase == complete:
                print(f"OFF  n {mode_size} r {rank} d {sites} {format.kind}: {theorem} {staircase} {complete}")
            if kind is EqualCoreTensorTrain:
                line.append(str(complete))
            yield theorem == staircase == complete
        print(f"n {mode_size}  r {rank}  d = 2, 3, ..: {' '.join(line)}", flush=True)


def compare_absorbed(most: int, seed: int) -> Iterator[bool]:
    """Whether the certified bound with absorbed ends is positive and at most the rank, for n < r."""
    for mode_size, rank, sites, kind in itertools.product(range(2, 6), range(3, 10), range(6, 13), CHAINS):
        if mode_size >= rank or mode_size**sites > most or not best_ends(mode_size, mode_size, rank, sites)[0]:
            continue
        format = draw(kind, mode_size, rank, sites, seed)
        bound, complete = checkpoint_certificate(format, "")["cp_rank_at_least"][0], complete_rank(format)
        if not 0 < bound <= complete:
            print(f"OFF  n {mode_size} r {rank} d {sites} {format.kind}: absorbed {bound}, complete {complete}")
        yield 0 < bound <= complete


def compare_others(most: int, seed: int) -> Iterator[bool]:
    """Whether generic, sampled and complete rank agree, for every other tensor of up to ``most`` entries."""
    for kind, mode_size, rank, sites in itertools.product(OTHERS, (2, 4, 8), range(1, 7), range(2, 13)):
        size = mode_size ** (sites // 2)
        tree = kind is not CanonicalPolyadic
        if mode_size**sites > most or size > LARGEST["size"] or (tree and sites & (sites - 1)):
            continue
        format = draw(kind, mode_size, rank, sites, seed)
        generic, complete = format.generic_rank(), complete_rank(format)
        (sampled,) = sampled_certificate(format, "", size)["cp_rank_at_least"]
        if not generic == sampled == complete:
            print(f"OFF  n {mode_size} r {rank} d {sites} {format.name}: {generic} {sampled} {complete}", flush=True)
        yield generic == sampled == complete


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=20, help="largest matricization, as a power of two")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chains = [*compare_chains(2**options.entries, options.seed)]
    print(f"{len(chains)} cases (n, r, d, kind): theorem, staircase and complete matricization agree on {sum(chains)}")
    absorbed = [*compare_absorbed(2**options.entries, options.seed)]
    print(f"{len(absorbed)} cases n < r: the bound with absorbed ends is positive and holds in {sum(absorbed)}")
    n, r, d = 17, 32, 16
    (bound,) = checkpoint_certificate(draw(EqualCoreTensorTrain, n, r, d, options.seed), "")["cp_rank_at_least"]
    left = (2 * n - r) * n ** (d // 2 - 1)
    print(f"n {n}  r {r}  d {d}: absorbed ends give {bound:,} of {n ** (d // 2):,}, the ends alone {left:,}")
    others = [*compare_others(2**options.entries, options.seed)]
    print(f"{len(others)} cases of other formats: generic, sampled and complete rank agree on {sum(others)}")
    sys.exit(int(not all(chains + absorbed + others)))


if __name__ == "__main__":
    run_script(main)
