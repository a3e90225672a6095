"""Curves of a comparison: accuracy, loss, width and rank after every epoch, mean and range of each group."""

import io
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ttlightning.comparison.statistics import Comparison, Group
from ttlightning.errors import UserError

PANELS: Final = {
    "val/acc": ("validation accuracy, %", 100),
    "train/loss": ("training loss", 1),
    "rank/width_10_percent": ("shallow units for an error of 10 %, at least", 1),
    "rank/certified": ("certified CP-rank", 1),
}
LOGARITHMIC: Final = ("rank/width_10_percent", "rank/certified")
"""Curve: title of its panel, and the factor of its values."""
COLOURS: Final = ("#2a78d6", "#d9660f", "#17936a", "#7a52c7", "#d63f8c", "#a87a00", "#c63a33", "#1591a5")
DASHES: Final = ("-", "--", ":")
INK, FAINT = "#1d1d1b", "#d8d7d2"
RC: Final = {"text.parse_math": False, "svg.fonttype": "none", "svg.hashsalt": "ttlightning", "font.size": 9}


def check_figure(path: Path) -> None:
    """``UserError`` if matplotlib does not write this kind of file."""
    known = sorted(Figure().canvas.get_supported_filetypes())
    if path.suffix.lower().removeprefix(".") not in known:
        raise UserError(f"--figure is {path}, its ending must be one of {', '.join(known)}")


def panels(comparison: Comparison) -> list[str]:
    """Names of the curves that at least one group has."""
    return [name for name in PANELS if any(group.curve(name) for group in comparison.groups)]


def figure_file(comparison: Comparison, suffix: str) -> bytes:
    """All panels with a legend below, as a PNG, SVG, PDF or another file of matplotlib.

    Raises:
        UserError: if no run has logged any of the values.
    """
    names = panels(comparison)
    if not names:
        raise UserError(f"there is nothing to draw: no run has {' or '.join(PANELS)} among its logged values")
    lines = len(comparison.groups)
    with matplotlib.rc_context(RC):
        labels = [group.label for group in comparison.groups]
        across = min(2, len(names))
        down = math.ceil(len(names) / across)
        columns = max(1, round(60 * across / (8 + max(map(len, labels)))))
        size = (4.6 * across, 3.3 * down + 0.18 * math.ceil(lines / columns))
        figure = Figure(figsize=size, layout="constrained")
        places = figure.subplots(down, across, squeeze=False).flat
        for axes, name in zip(places, names, strict=False):
            draw_panel(axes, comparison.groups, name)
        for axes in places:  # a row that is not full
            axes.set_axis_off()
        handles = [Line2D([], [], **style(index)) for index in range(lines)]
        figure.legend(handles, labels, loc="outside lower left", ncols=columns, frameon=False, fontsize=8)
        content = io.BytesIO()
        figure.savefig(content, format=suffix.lower().removeprefix("."), dpi=160)
    return content.getvalue()


def panel_svg(comparison: Comparison, name: str) -> str:
    """One panel as ``<svg>`` with text as text, and colours by the page's variables ``--c0``, ``--c1``, ..."""
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(4.8, 3.1), layout="constrained")
        draw_panel(figure.subplots(), comparison.groups, name)
        content = io.StringIO()
        figure.savefig(content, format="svg", transparent=True,
                       metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))  # fmt: skip
    svg = content.getvalue()
    svg = re.sub(r"<!--.*?-->", "", svg[svg.index("<svg") :].strip(), flags=re.S)
    head, rest = svg.split(">", 1)
    view = re.search(r'viewBox="[^"]*"', head)
    rest = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name.replace('/', '-')}-", rest)
    for variable, value in {**{f"c{i}": c for i, c in enumerate(COLOURS)}, "ink": INK, "faint": FAINT}.items():
        rest = rest.replace(value, f"var(--{variable})")
    return f'<svg role="img" aria-label="{PANELS[name][0]} against epoch" {view[0] if view else ""}>{rest}'


def draw_panel(axes: Axes, groups: Sequence[Group], name: str) -> None:
    """A line for the mean of each group, and a band from its smallest to its largest run."""
    title, scale = PANELS[name]
    for index, group in enumerate(groups):
        curve = group.curve(name)
        epochs = list(curve)
        low, mean, high = ([scale * point[i] for point in curve.values()] for i in range(3))
        axes.plot(epochs, mean, marker="o" if len(epochs) < 8 else "", markersize=3.5, **style(index))
        if len(group.records) > 1:
            axes.fill_between(epochs, low, high, color=style(index)["color"], alpha=0.16, linewidth=0)
    axes.set_title(title, loc="left", fontsize=10, color=INK)
    if name in LOGARITHMIC:
        axes.set_yscale("log")
    axes.set_xlabel("epoch", color=INK)
    low, high = axes.get_xlim()
    if high - low < 1:  # one epoch: no ticks between whole numbers
        axes.set_xlim(low - 0.5, high + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, steps=[1, 2, 5, 10], min_n_ticks=1))
    axes.grid(axis="y", color=FAINT, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(FAINT)


def style(index: int) -> dict[str, Any]:
    """Colour, dashes and width of a group's line; the dashes change after each round through the colours."""
    colour, dashes = COLOURS[index % len(COLOURS)], DASHES[index // len(COLOURS) % len(DASHES)]
    return {"color": colour, "linestyle": dashes, "linewidth": 1.8}
