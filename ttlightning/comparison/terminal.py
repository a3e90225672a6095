"""A comparison on a terminal: tables of lines, turned on their side where they are too wide for it."""

from collections.abc import Sequence
from typing import Final

import rich.table
from rich.console import Console
from rich.measure import Measurement
from rich.text import Text

from ttlightning.comparison.statistics import Comparison
from ttlightning.comparison.tables import (
    LEGEND,
    PAIRS_LEGEND,
    Cell,
    Table,
    note_marks,
    pair_table,
    result_table,
)
from ttlightning.system.output import print_whole, printable, say

BOLD: Final = "bold"


def show(comparison: Comparison, console: Console) -> None:
    """Print the results, notes and data, and the paired tests."""
    print_whole(fitting(result_table(comparison), console))
    for note, mark in note_marks(comparison).items():
        say(f"{mark} {note}")
    for sha, name in comparison.datasets.items():
        say(f"Data: {name}, SHA-256 {sha}")
    say(LEGEND)
    if comparison.pairs:
        print_whole(fitting(pair_table(comparison.pairs), console))
        say(PAIRS_LEGEND)


def fitting(table: Table, console: Console) -> rich.table.Table:
    """The table, or if it is wider than the terminal and its lines as columns are not, the table on its side."""
    upright, sideways = drawn(table), drawn(turned(table))
    widths = [
        Measurement.get(console, console.options.update(max_width=100_000), t).maximum for t in (upright, sideways)
    ]
    return sideways if widths[0] > console.width >= widths[1] else upright


def drawn(table: Table) -> rich.table.Table:
    """The table with lines around its cells; numbers are at the right, what matters is bold."""
    titles = zip(table.titles, table.numbers, strict=True)
    columns = [
        rich.table.Column(Text(printable(title)), justify="right" if number else "left") for title, number in titles
    ]
    made = rich.table.Table(*columns)
    for line in table.lines:
        made.add_row(*(Text(printable(cell.text), style=BOLD if cell.strong else "") for cell in line))
    return made


def turned(table: Table) -> Table:
    """One line for each title, one column for each line; the first cell of a line is the title of its column."""
    names: Sequence[str] = [line[0].text for line in table.lines]
    lines = [[Cell(title), *(line[at] for line in table.lines)] for at, title in enumerate(table.titles) if at]
    return Table([table.titles[0], *names], [False, *(True for _ in names)], lines)
