"""Drawings of a finished run: confusion matrix, surest mistakes, singular values.

Matplotlib's Agg draws them; it needs no display. Matplotlib is imported when something is drawn.
"""

import io
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
from jaxtyping import Float, Int, UInt8
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI: Final = 110
COLUMNS: Final = 8
"""Pictures in a row of ``draw_mistakes``."""

TILE: Final = 1.05
"""Inches of a picture."""

TITLE: Final = 0.35
"""Inches above the axes."""

MOST_COUNTS: Final = 20
"""Largest number of classes whose counts are written into the matrix."""

LONGEST_NAME: Final = 20
"""Characters of a class's name beside the confusions."""

NOTHING: Final = 1e-16
"""Smaller singular values, relative to the largest, are rounding errors and are not drawn."""


def draw_confusion(counts: Int[Tensor, "classes classes"], names: Sequence[str] | None = None) -> "Figure":
    """Confusion matrix: labels are rows, predictions columns; only mistakes are coloured.

    Classes have their ``names``, cut to ``LONGEST_NAME`` characters, else their numbers.
    """
    named = names is not None and len(counts) <= MOST_COUNTS
    room = 0.07 * min(LONGEST_NAME, max(map(len, names))) if names is not None and named else 0.0
    figure, axes = _figure(5.9 + room, 5.0 + room, left=0.6 + room, right=0.1, below=0.5 + room)
    table, classes = counts.numpy(), len(counts)
    right = np.eye(classes, dtype=bool)
    mistakes = np.ma.masked_where(right | (table == 0), table)
    shown = axes.imshow(mistakes, cmap="OrRd", vmin=0, vmax=max(1, mistakes.max() if mistakes.count() else 1))
    axes.imshow(np.ma.masked_where(~right, right), cmap="Greys", vmin=0, vmax=8)
    if classes <= MOST_COUNTS:
        for (row, column), count in np.ndenumerate(table):
            dark = row != column and count > 0.6 * shown.get_clim()[1]
            text = f"{count:,}" if count else ""
            axes.text(column, row, text, ha="center", va="center", fontsize=8, color="white" if dark else "black")
        axes.set(xticks=range(classes), yticks=range(classes))
    if named:
        short = [shorten(name, LONGEST_NAME) for name in names or ()]
        axes.set_xticklabels(short, rotation=90, parse_math=False)
        axes.set_yticklabels(short, parse_math=False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    total, correct = int(table.sum()), int(table.trace())
    axes.set(xlabel="predicted", ylabel="label", title=f"{correct:,} of {total:,} right, {correct / total:.2%}")
    axes.title.set_fontsize(10)
    figure.colorbar(shown, label="mistakes", shrink=0.8, pad=0.03)
    return figure


def draw_mistakes(images: UInt8[Tensor, "samples channels height width"], captions: Sequence[str], of: int) -> "Figure":
    """Images in the given order, each above its caption; ``of``: the number of all mistakes."""
    samples, _, height, width = images.shape
    columns, rows = min(COLUMNS, samples), math.ceil(samples / COLUMNS)
    lines = 1 + max(caption.count("\n") for caption in captions)
    margin, below = max(1, round(0.12 * width)), round((0.15 + 0.25 * lines) * height)
    tall, wide = height + below, width + 2 * margin
    canvas = np.full((rows * tall, columns * wide, 3), 255, dtype=np.uint8)
    figure, axes = _figure(max(3.5, TILE * columns), TITLE + TILE * rows * tall / wide)
    for number, (image, caption) in enumerate(zip(images, captions, strict=True)):
        top, left = number // columns * tall, number % columns * wide + margin
        canvas[top : top + height, left : left + width] = image.permute(1, 2, 0).numpy()
        x, y = left + (width - 1) / 2, top + height + 0.1 * below
        axes.text(x, y, caption, ha="center", va="top", fontsize=8, parse_math=False)
    axes.imshow(canvas, interpolation="nearest")
    axes.set_axis_off()
    axes.set_title(f"the surest {samples} of {of:,} mistakes" if samples < of else f"mistakes: {of:,}", fontsize=10)
    return figure


def draw_spectrum(spectra: Mapping[int, Float[Tensor, " size"]], of: str) -> "Figure":
    """Singular values relative to the largest; ``of``: a list belongs to a ``bond`` or a ``class``."""
    from matplotlib.collections import LineCollection

    figure, axes = _figure(6.2, 4.2, left=0.8, right=0.1, below=0.5)
    lines = []
    for values in spectra.values():
        numbers = values.double().numpy()
        points = np.column_stack([np.arange(1, 1 + len(numbers)), numbers])
        lines.append(points[numbers > NOTHING])
    drawn = LineCollection(lines, cmap="viridis", linewidths=1.2, array=list(spectra))
    axes.add_collection(drawn)
    for line, colour in zip(lines, drawn.to_rgba(list(spectra)), strict=True):
        axes.plot(*line.T, ".", color=colour, markersize=4)
    axes.set(yscale="log", xlabel="number", ylabel="singular value, relative to the largest")
    subject = "at each bond" if of == "bond" else "of a sketch of each class tensor"
    axes.set_title(f"singular values {subject}", fontsize=10)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)
    figure.colorbar(drawn, label=of, pad=0.03)
    return figure


def shorten(name: str, longest: int) -> str:
    """The name, cut to ``longest`` characters."""
    return name if len(name) <= longest else f"{name[: longest - 1]}…"


def png(figure: "Figure") -> bytes:
    """The figure as a PNG file."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=DPI)
    return content.getvalue()


def _figure(
    width: float, height: float, left: float = 0, right: float = 0, below: float = 0
) -> tuple["Figure", "Axes"]:
    """A figure with one pair of axes; all sizes in inches. Margins are fixed: a computed layout draws twice."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    box = (left / width, below / height, 1 - (left + right) / width, 1 - (below + TITLE) / height)
    return figure, figure.add_axes(box)
