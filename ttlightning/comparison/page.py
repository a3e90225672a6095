"""A comparison as one HTML page that needs no other file: ``page.html.jinja`` holds its text, style and script."""

from typing import Final

from jinja2 import Environment, PackageLoader, StrictUndefined

from ttlightning.comparison.figure import COLOURS, panel_svg, panels
from ttlightning.comparison.records import ACCURACIES, Record
from ttlightning.comparison.statistics import Comparison, Estimate
from ttlightning.comparison.tables import (
    LEGEND,
    NOTHING,
    PAIRS_LEGEND,
    SUPERSCRIPTS,
    Cell,
    Table,
    note_marks,
    pair_table,
    percent,
    result_table,
    setting,
)

DARK_COLOURS: Final = ("#5b9ef0", "#f08a3c", "#35bd90", "#a58be8", "#ee74b0", "#d3a72c", "#ef7168", "#45b9cb")
SHORT_SHA: Final = 12
"""Characters of a hash that a table shows."""


def page(comparison: Comparison) -> str:
    """The HTML document. Jinja escapes every text that comes from a run."""
    names = list(dict.fromkeys(record.experiment for group in comparison.groups for record in group.records))
    runs = [
        (index, record, record in group.repeats)
        for index, group in enumerate(comparison.groups)
        for record in (*group.records, *group.repeats)
    ]
    environment = Environment(
        loader=PackageLoader("ttlightning.comparison", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
    )
    return environment.get_template("page.html.jinja").render(
        title="Comparison of " + (" and ".join(names) if len(names) < 3 else f"{len(names)} experiments"),
        names=names,
        comparison=comparison,
        colours=COLOURS,
        dark_colours=DARK_COLOURS,
        results=result_table(comparison),
        notes={note: str(number).translate(SUPERSCRIPTS) for note, number in note_marks(comparison).items()},
        legend=LEGEND,
        curves=[panel_svg(comparison, name) for name in panels(comparison)],
        bands=any(len(group.records) > 1 for group in comparison.groups),
        pairs=pair_table(comparison.pairs),
        pairs_legend=PAIRS_LEGEND,
        runs=_run_table([(record, is_repeat) for _, record, is_repeat in runs]),
        groups_of_runs=[index for index, _, _ in runs],
        settings=_setting_table(comparison),
    )


def _run_table(runs: list[tuple[Record, bool]]) -> Table:
    """One line for each run; the boolean says whether the run repeats another run of its group."""
    lines = []
    for record, is_repeat in runs:
        known = [record.metrics.get(metric) for metric in ACCURACIES]
        numbers = [Cell(NOTHING, -1) if v is None else Cell(percent(Estimate(v, None, 1)), v) for v in known]
        data = record.dataset + (f", fallback for {record.fallback_for}" if record.fallback_for else "")
        commit, _, changes = (record.commit or NOTHING).partition(" ")
        lines.append(
            [
                Cell(record.place + (", the same again" if is_repeat else "")),
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


def _setting_table(comparison: Comparison) -> Table:
    """One line for each setting that differs between groups, one column for each group."""
    titles = ["key", *(group.label for group in comparison.groups)]
    lines = [[Cell(key), *(setting(group, key) for group in comparison.groups)] for key in comparison.differing]
    return Table(titles, [False] * len(titles), lines)
