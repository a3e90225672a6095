"""Curves of a comparison."""

from types import SimpleNamespace

import pytest
from matplotlib.figure import Figure

from ttlightning.comparison.figure import draw_panel


@pytest.mark.parametrize("epochs", [1, 2, 3, 20])
def test_epochs_are_counted_in_whole_numbers(epochs):
    figure = Figure()
    axes = figure.subplots()
    curve = dict.fromkeys(range(1, epochs + 1), (0.5, 0.6, 0.7))
    draw_panel(axes, [SimpleNamespace(curve=lambda _: curve, records=[1, 2])], "val/acc")
    figure.draw_without_rendering()
    low, high = axes.get_xlim()
    ticks = [tick for tick in axes.get_xticks() if low <= tick <= high]
    assert ticks
    assert all(tick == round(tick) for tick in ticks)
