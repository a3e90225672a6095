"""The rank figure: published bounds, the theorem, exact ranks, and numerical ranks in float64.

    python scripts/rank_figure.py [--largest 24] [--seeds 3] [--output results/rank_figure] [--quick]

Left: n = 2, TT-rank 3, equal cores, growing d, as in [A24]: numerical ranks of random tensors, standard normal cores,
at several tolerances (singular values above tolerance times the largest), beside the exact rank of tensors with random
integer cores, and the bounds. Middle: the singular values of one tensor of each
order, of which float64 loses the small ones. Right: generic rank at d = 6 over n, counted, beside the three formulas.
Results are kept in the .json file row by row, so a stopped script continues.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch

from ttlightning import EqualCoreTensorTrain
from ttlightning.formats.bounds import cp_rank_bound_a24, cp_rank_bound_k18, generic_odd_even_rank
from ttlightning.rank.full_matricization import measured_rank
from ttlightning.rank.unfolding import matricization
from ttlightning.runs.files import write_json
from ttlightning.system.output import run_script

MODES, RANK = 2, 3
TOLERANCES = (1e-6, 1e-10, 1e-14)
SPECTRA = (8, 12, 16, 20, 24)


def singular_values(sites: int, seed: int) -> np.ndarray:
    """Singular values of the complete matricization of a random equal-core tensor train, over the largest."""
    generator = torch.Generator().manual_seed(seed)
    format = EqualCoreTensorTrain(sites, MODES, 1, RANK).double()
    with torch.no_grad():
        for parameter in format.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
        values = torch.linalg.svdvals(matricization(format)[0]).numpy()
    return values / values[0]


def float_row(sites: int, seed: int) -> dict[str, Any]:
    values = singular_values(sites, seed)
    keep = np.unique(np.linspace(0, len(values) - 1, 65).round().astype(int))
    default = len(values) * np.finfo(float).eps  # what matrix_rank takes
    return {
        "ranks": {str(t): int((values > t).sum()) for t in TOLERANCES},
        "default": int((values > default).sum()),
        "spectrum": [[int(i), float(values[i])] for i in keep],
    }


def draw(stored: dict[str, Any], largest: int, path: Path) -> None:
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(14, 4.3), layout="constrained")
    orders = list(range(2, largest + 1, 2))
    seeds = sorted({int(key.split()[-1]) for key in stored if key.startswith(f"float {orders[-1]} ")})
    left.plot(orders, [generic_odd_even_rank(MODES, RANK, d) for d in orders], "k-", label="theorem, and A24's bound")
    exact = [stored[f"exact {d}"] for d in orders]
    left.plot(orders, exact, "ko", markerfacecolor="none", label="exact rank, random integer cores")
    for index, tolerance in enumerate(TOLERANCES):
        for seed in seeds:
            points = [(d, stored[f"float {d} {seed}"]["ranks"][str(tolerance)]) for d in orders]
            label = f"float64, tolerance {tolerance:g}" if seed == seeds[0] else None
            left.plot(*zip(*points, strict=True), ".-", color=f"C{index}", linewidth=0.7, label=label)
    left.set(yscale="log", xlabel="order d", ylabel="rank of the odd/even matricization")
    left.set_title("n = 2, TT-rank 3, equal cores", fontsize=10)
    left.legend(fontsize=7, loc="upper left")
    part = left.inset_axes((0.56, 0.1, 0.42, 0.38))
    for index, tolerance in enumerate(TOLERANCES):
        for seed in seeds:
            shares = [stored[f"float {d} {seed}"]["ranks"][str(tolerance)] / stored[f"exact {d}"] for d in orders]
            part.plot(orders, shares, color=f"C{index}", linewidth=0.8)
    part.set_title("numerical / exact", fontsize=7)
    part.tick_params(labelsize=6)
    for d in (d for d in SPECTRA if d <= largest):
        spectrum = stored[f"float {d} {seeds[0]}"]["spectrum"]
        middle.plot(
            [(i + 1) / 2 ** (d // 2) for i, _ in spectrum], [max(v, 1e-20) for _, v in spectrum], label=f"d = {d}"
        )
    middle.axhline(np.finfo(float).eps, color="black", linewidth=0.8, linestyle="--", label="float64's eps")
    middle.set(yscale="log", xlabel="index of the singular value / exact rank", ylabel="singular value / largest")
    middle.set_title("the exact rank counts all of them", fontsize=10)
    middle.legend(fontsize=7)
    for index, rank in enumerate((2, 3, 4)):
        counted = (key.split() for key in stored if key.startswith("generic"))
        sizes = sorted(int(n) for _, n, r in counted if r == str(rank))
        color = f"C{index}"
        right.plot(
            sizes, [generic_odd_even_rank(n, rank, 6) for n in sizes], "-", color=color, label=f"theorem, r = {rank}"
        )
        right.plot(sizes, [stored[f"generic {n} {rank}"] for n in sizes], "o", color=color, markerfacecolor="none")
        right.plot(sizes, [cp_rank_bound_k18(n, rank, 6) for n in sizes], "--", color=color)
        right.plot(sizes, [cp_rank_bound_a24(n, rank, 6) for n in sizes], ":", color=color)
    right.plot([], [], "ko", markerfacecolor="none", label="counted")
    right.plot([], [], "k--", label="K18, different cores")
    right.plot([], [], "k:", label="A24, equal cores")
    right.set(yscale="log", xlabel="mode size n", ylabel="generic rank, d = 6")
    right.legend(fontsize=7)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--largest", type=int, default=24)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("results/rank_figure"))
    parser.add_argument("--quick", action="store_true", help="sites to 12, mode sizes to 6")
    options = parser.parse_args()
    largest, most_modes = (12, 6) if options.quick else (options.largest, 12)
    store = options.output.with_suffix(".json")
    store.parent.mkdir(parents=True, exist_ok=True)
    stored: dict[str, Any] = json.loads(store.read_text()) if store.exists() else {}
    todo = {f"exact {d}": (measured_rank, MODES, RANK, d) for d in range(2, largest + 1, 2)}
    todo |= {f"generic {n} {r}": (measured_rank, n, r, 6) for n in range(2, most_modes + 1) for r in (2, 3, 4)}
    todo |= {f"float {d} {s}": (float_row, d, s) for d in range(2, largest + 1, 2) for s in range(options.seeds)}
    for key, (function, *arguments) in todo.items():
        if key not in stored:
            stored[key] = function(*arguments)
            write_json(store, stored)
    for d in range(2, largest + 1, 2):
        ranks = [stored[f"float {d} {s}"]["default"] for s in range(options.seeds)]
        print(f"d {d:2}  exact {stored[f'exact {d}']:5}  matrix_rank in float64 {' '.join(f'{r:5}' for r in ranks)}")
    generic = [key for key in stored if key.startswith("generic")]
    off = sum(stored[key] != generic_odd_even_rank(*map(int, key.split()[1:]), 6) for key in generic)
    print(f"generic rank at d = 6: {off} of {len(generic)} differ from the theorem")
    draw(stored, largest, options.output.with_suffix(".png"))


if __name__ == "__main__":
    run_script(main)
