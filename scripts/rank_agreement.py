"""Theorem, staircase and literal matricization on the same tensors, in exact arithmetic.

    python scripts/rank_agreement.py [--entries 20] [--seed 0]

For every (n, r, d, kind) whose odd/even matricization has at most 2^entries entries: generic rank of the theorem; the
staircase's rank of a tensor train with random integer cores; rank of its literal matricization, modulo 2^31 - 1.
Where n < r the staircase speaks of the tensor that uses n of the r states, the one in the theorem's proof. Prints a
line for each pair (n, r) and, at the end, how many cases agree; exit code 1 if one does not.
"""

import argparse
import itertools
import sys

import numpy as np
import torch

from ttlightning.rank import generic_odd_even_rank
from ttlightning.rank.certificate import checkpoint_certificate, generic_certificate
from ttlightning.rank.literal import literal_matricizations
from ttlightning.rank.modular import PRIMES, rank_modulo

KINDS = ("equal", "different")


def draw(modes: int, rank: int, sites: int, kind: str, seed: int) -> dict[str, torch.Tensor]:
    """Integer cores, exact in float64."""
    generator = np.random.default_rng([modes, rank, sites, KINDS.index(kind), seed])
    distinct = min(1, sites - 2) if kind == "equal" else sites - 2
    shapes = {"first": (modes, rank), "interior": (distinct, modes, rank, rank), "last": (modes, rank, 1)}
    return {name: torch.from_numpy(generator.integers(-99, 100, shape)).double() for name, shape in shapes.items()}


def literal_rank(state: dict[str, torch.Tensor], sites: int) -> int:
    first, interior, last = (state[name].numpy().astype(np.int64) % PRIMES[0] for name in ("first", "interior", "last"))
    middle = [interior[0 if len(interior) == 1 else k] for k in range(sites - 2)]
    (matrix,) = literal_matricizations([first[:, None, :], *middle, last], PRIMES[0])
    return rank_modulo(matrix, PRIMES[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=20, help="largest matricization, as a power of two")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    total, off = 0, 0
    for modes, rank in itertools.product(range(2, 9), range(1, 7)):
        line = []
        for sites, kind in itertools.product(range(2, 13), KINDS):
            if modes**sites > 2**options.entries:
                continue
            state = draw(modes, rank, sites, kind, options.seed)
            theorem = generic_odd_even_rank(modes, rank, sites)
            if modes >= rank:
                staircase = checkpoint_certificate(state, sites, "")["cp_rank_at_least"][0]
            else:
                staircase = generic_certificate(modes, rank, sites, options.seed)["cp_rank_at_least"][0]
            literal = literal_rank(state, sites)
            total += 1
            if not theorem == staircase == literal:
                off += 1
                print(f"OFF  n {modes} r {rank} d {sites} {kind}: {theorem} {staircase} {literal}", flush=True)
            if kind == "equal":
                line.append(str(literal))
        print(f"n {modes}  r {rank}  d = 2, 3, ..: {' '.join(line)}", flush=True)
    print(f"{total} cases (n, r, d, kind): theorem, staircase and literal matricization agree on {total - off}")
    sys.exit(int(off > 0))


if __name__ == "__main__":
    main()
