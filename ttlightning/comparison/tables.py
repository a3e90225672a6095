"""A comparison as tables of text: cells for Markdown and for the page, numbers for CSV."""

import csv
import io
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from ttlightning.comparison.records import ACCURACIES, WIDTHS, value_text
from ttlightning.comparison.statistics import Comparison, Estimate, Group, Pair
from ttlightning.rank.bounds import in_figures
from ttlightning.system.output import printable

NOTHING: Final = "\N{EN DASH}"
MOST_KEYS_FIRST: Final = 4
"""The number of settings that fit before the results; more of them are shown after the results."""
NUMBERS: Final = ("seeds", "parameters", "train %", "val %", "test %", "CP-rank ≥", "10 % ≥", "1 % ≥", "seconds")
SIGNIFICANT: Final = 0.05
SHORT_SHA: Final = 12
"""Characters of a hash that a table shows."""
SUPERSCRIPTS: Final = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
LEGEND: Final = (
    "Accuracies in percent: mean ± half of the 95 % interval of the mean (Student's t over the seeds). "
    "CP-rank: certified for the weights of every class and seed. 10 %, 1 %: units that a shallow network needs to stay "
    "within this error of the scores on mixed images, mean over the seeds. Seconds: median of the training times."
)
PAIRS_LEGEND: Final = (
    "First less second, test accuracy in points over the seeds that both have; paired t-test, p-values corrected by "
    "Holm's method for the number of tests, bold below 0.05."
)


class Cell(NamedTuple):
    """A text in a table, and the value by which the column is sorted."""

    text: str
    order: Any = ""
    strong: bool = False
    """whether it is set in bold: the best result, a significant difference"""
    full: str = ""
    """the complete text, if ``text`` is a part of it"""


class Table(NamedTuple):
    """Titles, whether each column holds numbers, and lines."""

    titles: Sequence[str]
    numbers: Sequence[bool]
    lines: Sequence[Sequence[Cell]]


def result_table(comparison: Comparison) -> Table:
    """One line for each group: name, differing settings, results; many settings come last."""
    keys = comparison.keys
    many = len(keys) > MOST_KEYS_FIRST
    marks = note_marks(comparison)
    lines = []
    for group in comparison.groups:
        name = group.label if many else group.name
        settings, numbers = [_setting(group, key) for key in keys], _numbers(group, group.label in comparison.best)
        first = Cell(" ".join([name, *(marks[note] for note in group.notes)]), name)
        lines.append([first, *numbers, *settings] if many else [first, *settings, *numbers])
    named = [(key, False) for key in keys], [(title, True) for title in NUMBERS]
    columns = [("name", False), *(named[1] + named[0] if many else named[0] + named[1])]
    return Table([title for title, _ in columns], [number for _, number in columns], lines)


def _numbers(group: Group, best: bool) -> list[Cell]:
    cells = [Cell(str(len(group.seeds)), len(group.seeds)), Cell(f"{group.parameters:,}", group.parameters)]
    for metric in ACCURACIES:
        known = group.estimate(metric)
        cells.append(Cell(percent(known), known.mean if known else -1, best and metric == "test/acc"))
    certified, seconds = group.certified, group.seconds
    cells.append(Cell(NOTHING, -1) if certified is None else Cell(in_figures(certified), certified))
    for width in map(group.width, WIDTHS):
        cells.append(Cell(NOTHING, -1) if width is None else Cell(f"{width:,.0f}", width))
    cells.append(Cell(NOTHING, -1) if seconds is None else Cell(f"{seconds:,.1f}", seconds))
    return cells


def _setting(group: Group, key: str) -> Cell:
    """A group's value of a setting."""
    if key not in group.settings:
        return Cell(NOTHING)
    value = group.settings[key]
    return Cell(value_text(value), value if isinstance(value, int | float) else value_text(value))


def note_marks(comparison: Comparison) -> dict[str, str]:
    """Note: its number as a superscript."""
    notes = dict.fromkeys(note for group in comparison.groups for note in group.notes)
    return {note: str(number).translate(SUPERSCRIPTS) for number, note in enumerate(notes, 1)}


def percent(known: Estimate | None, sign: str = "") -> str:
    """``98.02 ± 0.26``, or ``98.02`` for a single seed; with sign ``+`` a difference, ``+0.12 ± 0.26``."""
    if known is None:
        return NOTHING
    return f"{100 * known.mean:{sign}.2f}" + ("" if known.interval is None else f" ± {100 * known.interval:.2f}")


def pair_table(pairs: Sequence[Pair]) -> Table:
    """One line for each pair of groups, with a reason if there is no p-value."""
    lines = []
    for pair in pairs:
        known = pair.difference
        difference = Cell(percent(known, "+"), known.mean if known else -9)
        p_value = [Cell(NOTHING, 9), Cell(pair.reason, 9)]
        if pair.p_value is not None and pair.corrected is not None:
            clear = pair.corrected < SIGNIFICANT
            p_value = [Cell(f"{pair.p_value:.2g}", pair.p_value), Cell(f"{pair.corrected:.2g}", pair.corrected, clear)]
        lines.append([Cell(pair.first), Cell(pair.second), Cell(str(pair.seeds), pair.seeds), difference, *p_value])
    titles = ["first", "second", "common seeds", "difference", "p", "p, corrected"]
    return Table(titles, [False] * 2 + [True] * 4, lines)


def run_table(comparison: Comparison) -> Table:
    """One line for each run, in the order of the groups."""
    repeats = [record for group in comparison.groups for record in group.repeats]
    lines = []
    for record in (record for group in comparison.groups for record in (*group.records, *group.repeats)):
        known = [record.metrics.get(metric) for metric in ACCURACIES]
        numbers = [Cell(NOTHING, -1) if v is None else Cell(percent(Estimate(v, None, 1)), v) for v in known]
        data = record.dataset + (f", fallback for {record.fallback_for}" if record.fallback_for else "")
        commit, _, changes = (record.commit or NOTHING).partition(" ")
        lines.append(
            [
                Cell(record.place + (", the same again" if record in repeats else "")),
                Cell(data),
                Cell(str(record.seed), record.seed),
                *numbers,
                Cell(record.weights_sha256[:SHORT_SHA], full=record.weights_sha256),
                Cell(f"{commit[:SHORT_SHA]} {changes}".rstrip(), full=record.commit or NOTHING),
                Cell(record.date or NOTHING),
            ]
        )
    titles = ["run", "data", "seed", "train %", "val %", "test %", "weights SHA-256", "git commit", "date"]
    return Table(titles, [False] * 2 + [True] * 4 + [False] * 3, lines)


def setting_table(comparison: Comparison) -> Table:
    """One line for each setting that differs between groups, one column for each group."""
    titles = ["key", *(group.label for group in comparison.groups)]
    lines = [[Cell(key), *(_setting(group, key) for group in comparison.groups)] for key in comparison.differing]
    return Table(titles, [False] * len(titles), lines)


def markdown(comparison: Comparison) -> str:
    """The table, the notes, the data and the paired tests."""
    parts = [_markdown_table(result_table(comparison))]
    if marks := note_marks(comparison):
        parts.append("\n".join(f"{mark} {_plain(note)}  " for note, mark in marks.items()))
    data = [f"Data: {_plain(name)}, SHA-256 {_plain(sha)}  " for sha, name in comparison.datasets.items()]
    parts += [LEGEND, "\n".join(data)]
    if comparison.pairs:
        parts += [_markdown_table(pair_table(comparison.pairs)), PAIRS_LEGEND]
    return "\n\n".join(parts) + "\n"


def _markdown_table(table: Table) -> str:
    rows = [[_plain(title) for title in table.titles], ["---:" if number else "---" for number in table.numbers]]
    rows += [
        [f"**{_plain(cell.text)}**" if cell.strong else _plain(cell.text) for cell in line] for line in table.lines
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _plain(text: str) -> str:
    """The text with Markdown's special characters escaped."""
    for sign, instead in (("&", "&amp;"), ("<", "&lt;"), ("\\", "\\\\"), ("|", "\\|"), ("*", "\\*"), ("`", "\\`")):
        text = text.replace(sign, instead)
    return printable(" ".join(text.split()))


def csv_table(comparison: Comparison) -> str:
    """One line for each group, accuracies as fractions with all digits; unknown values are empty."""
    file = io.StringIO(newline="")
    writer = csv.writer(file, lineterminator="\n")
    numbers = [f"{metric} {part}" for metric in ACCURACIES for part in ("mean", "interval", "seeds")]
    titles = ["label", "name", *comparison.keys, "dataset", "dataset_sha256", "seeds", "runs", "parameters", *numbers]
    writer.writerow([*titles, "certified", *WIDTHS, "seconds", "notes"])
    for group in comparison.groups:
        row = [group.label, group.name, *("" if key not in group.settings else _setting(group, key).text
                                          for key in comparison.keys)]  # fmt: skip
        row += [group.records[0].dataset, group.dataset_sha256, len(group.seeds), len(group.records), group.parameters]
        for metric in ACCURACIES:
            row += group.estimate(metric) or ("", "", "")
        widths = map(group.width, WIDTHS)
        writer.writerow([*row, group.certified, *widths, group.seconds, "; ".join(group.notes)])
    return file.getvalue()
