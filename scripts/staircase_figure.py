"""Draws docs/staircase.png: how rows and columns of the odd/even matricization meet in the matrices T_m.

python scripts/staircase_figure.py [--output docs/staircase.png]
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.patches import FancyBboxPatch

from ttlightning.system.output import run_script

STEPS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("docs/staircase.png"))
    options = parser.parse_args()
    figure, axes = plt.subplots(figsize=(9, 3.6), layout="constrained")
    for m in range(1, STEPS + 1):
        x, y = 2.6 * m, -0.75 * m
        axes.add_patch(FancyBboxPatch((x - 0.55, y - 0.3), 1.1, 0.6, boxstyle="round,pad=0.05", fc="#dbe9f6", ec="C0"))
        axes.text(x, y, f"$T_{m}$", ha="center", va="center", fontsize=15)
        axes.annotate("", (x, y + 0.36), (x, 0.35), arrowprops={"arrowstyle": "->", "color": "C3"})
        axes.text(x, 0.5, f"$i_{{{2 * m + 1}}}$", ha="center", color="C3", fontsize=14)
        axes.annotate("", (x, -3.55), (x, y - 0.36), arrowprops={"arrowstyle": "->", "color": "C2"})
        axes.text(x, -3.85, f"$i_{{{2 * m}}}$", ha="center", color="C2", fontsize=14)
        start = (x - 2.05, y + 0.75) if m > 1 else (x - 1.9, y)
        elbow = [(start[0] + 0.08, start[1]), (x - 1.3, start[1]), (x - 1.3, y), (x - 0.62, y)]
        axes.plot(*zip(*elbow, strict=True), color="black", linewidth=1.2)
        state = "a = b_0" if m == 1 else f"b_{m - 1}"
        axes.text(x - 1.25, y + (0.12 if m == 1 else 0.3), f"${state}$", fontsize=12)
    x, y = 2.6 * STEPS, -0.75 * STEPS
    axes.plot([x + 0.62, x + 1.6], [y, y], color="black", linewidth=1.2)
    axes.text(x + 0.75, y + 0.12, f"$b_{STEPS} = c$", fontsize=12)
    axes.text(-0.6, 0.5, "rows: $a$ and odd sites", color="C3", fontsize=11)
    axes.text(-0.6, -3.85, "columns: even sites and $c$", color="C2", fontsize=11)
    axes.set(xlim=(-0.7, 10), ylim=(-4.1, 0.9))
    axes.axis("off")
    figure.savefig(options.output, dpi=110)


if __name__ == "__main__":
    run_script(main)
