"""A comparison as one HTML page that needs nothing beside it: style, curves and the script that sorts are inside."""

from collections.abc import Sequence
from html import escape
from typing import Final

from ttlightning.comparison.figure import COLOURS, DASHES, colour, dashes, panel_svg, panels
from ttlightning.comparison.records import ACCURACIES
from ttlightning.comparison.statistics import Comparison, Estimate, Group
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

STYLE: Final = """
:root { color-scheme: light dark; --page: #f7f7f5; --card: #ffffff; --ink: #1d1d1b; --muted: #64635e; --line: #e2e1dc;
  --faint: #d8d7d2; --best: #eaf3ea; --best-ink: #14632c; --edge: #0000001f; LIGHT }
@media (prefers-color-scheme: dark) { :root { --page: #151514; --card: #1e1e1c; --ink: #ecebe7; --muted: #a4a39c;
  --line: #35342f; --faint: #403f3a; --best: #1d3324; --best-ink: #8fdca6; --edge: #00000080; DARK } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.5 system-ui, Roboto, sans-serif; }
main { max-width: 78rem; margin: 0 auto; padding: clamp(1rem, 4vw, 3rem) clamp(.8rem, 3vw, 2rem); }
h1 { font-size: clamp(1.5rem, 4vw, 2.1rem); line-height: 1.2; margin: 0 0 .4rem; letter-spacing: -.01em;
  overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.4rem 0 .7rem; }
p { margin: .5rem 0; } .muted { color: var(--muted); font-size: .88rem; }
code { font: .86em/1.4 ui-monospace, "SF Mono", Menlo, Consolas, monospace; overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; margin: 1rem 0 0; }
dt { color: var(--muted); } dd { margin: 0; overflow-wrap: anywhere; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px; }
.scroll { overflow-x: auto;
  background: linear-gradient(to left, var(--card) 1.5rem, transparent) right / 3rem 100% no-repeat local,
  linear-gradient(to left, var(--edge), transparent) right / 1.1rem 100% no-repeat scroll, var(--card); }
table { border-collapse: collapse; width: 100%; font-size: .92rem; font-variant-numeric: tabular-nums; }
th, td { padding: .5rem .62rem; text-align: left; white-space: nowrap; border-bottom: 1px solid var(--line); }
tbody tr:last-child > * { border-bottom: 0; }
thead th { color: var(--muted); font-weight: 600; font-size: .82rem; vertical-align: bottom; }
tbody th { font-weight: 600; position: sticky; left: 0; background: var(--card); }
.number { text-align: right; } .strong { color: var(--best-ink); background: var(--best); }
th button { all: unset; cursor: pointer; } th button:hover, th button:focus-visible { text-decoration: underline; }
th[aria-sort=ascending] button::after { content: " \\2191"; }
th[aria-sort=descending] button::after { content: " \\2193"; }
.dot { display: inline-block; width: .7em; height: .7em; border: .16em solid var(--dot); margin-right: .5em; }
.s0, .s2 { background: var(--dot); } .s0, .s1 { border-radius: 50%; }
.curves { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); gap: 1rem;
  padding: 1rem; }
.curves svg { width: 100%; height: auto; display: block; overflow: visible; }
.curves text { font-family: inherit !important; }
.key { display: flex; flex-wrap: wrap; gap: .2rem 1.4rem; list-style: none; margin: 0; padding: 0 1rem 1rem;
  font-size: .9rem; }
.notes { list-style: none; padding: 0; margin: .7rem 0 0; font-size: .88rem; overflow-wrap: anywhere; }
@media (max-width: 40rem) { th, td { padding: .45rem .6rem; } tbody th { min-width: 8.5rem; max-width: 11rem;
  overflow-wrap: break-word; white-space: normal; }
  dl { grid-template-columns: 1fr; gap: 0; } dd { margin-bottom: .4rem; } }
@media print { body { background: none; } .scroll { overflow: visible; } }
"""
SCRIPT: Final = """
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  heads.forEach((head, column) => head.firstElementChild.addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    heads.forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const value = row => row.cells[column].dataset.order;
    const compare = (a, b) => (value(a) - value(b)) || value(a).localeCompare(value(b), undefined, { numeric: true });
    body.append(...[...body.rows].sort((a, b) => down ? compare(b, a) : compare(a, b)));
  }));
}
"""


def page(comparison: Comparison) -> str:
    """The whole document. Every text that comes from a run is escaped."""
    names = list(dict.fromkeys(record.experiment for group in comparison.groups for record in group.records))
    title = "Comparison of " + (" and ".join(names) if len(names) < 3 else f"{len(names)} experiments")
    sections = [_head(title, names, comparison), _results(comparison), _curves(comparison), _pairs(comparison)]
    sections += [_runs(comparison.groups), _settings(comparison)]
    variables = (_variables(COLOURS), _variables(DARK_COLOURS))
    style = STYLE.replace("LIGHT", variables[0]).replace("DARK", variables[1])
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{style}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(filter(None, sections))
        + f"\n</main>\n<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )


def _variables(colours: Sequence[str]) -> str:
    return " ".join(f"--c{index}: {value};" for index, value in enumerate(colours))


def _head(title: str, names: Sequence[str], comparison: Comparison) -> str:
    groups = len(comparison.groups)
    runs = sum(len(group.records) + len(group.repeats) for group in comparison.groups)
    data = "<br>".join(
        f"{escape(name)}, SHA-256 <code>{escape(sha)}</code>" for sha, name in comparison.datasets.items()
    )
    listed = f"<p>{escape(', '.join(names))}</p>\n" if len(names) > 2 else ""
    size = f"{groups} group{'s' * (groups > 1)}, {runs} run{'s' * (runs > 1)}"
    size += "; the runs of a group differ in nothing but the seed" if runs > 1 else ""
    return (
        f"<header>\n<h1>{escape(title)}</h1>\n{listed}"
        f'<p class="muted">{size}</p>\n<dl><dt>Data</dt><dd>{data}</dd></dl>\n</header>'
    )


def _results(comparison: Comparison) -> str:
    dots = [_dot(index) for index in range(len(comparison.groups))]
    notes = "".join(
        f"<li>{str(number).translate(SUPERSCRIPTS)} {escape(note)}</li>"
        for note, number in note_marks(comparison).items()
    )
    return (
        f"<h2>Results</h2>\n{_table(result_table(comparison), dots)}\n"
        + (f'<ul class="notes">{notes}</ul>\n' if notes else "")
        + f'<p class="muted">{escape(LEGEND)}</p>'
    )


def _pairs(comparison: Comparison) -> str:
    if not comparison.pairs:
        return ""
    table = _table(pair_table(comparison.pairs))
    return f'<h2>Paired tests</h2>\n{table}\n<p class="muted">{escape(PAIRS_LEGEND)}</p>'


def _curves(comparison: Comparison) -> str:
    names = panels(comparison)
    if not names:
        return '<h2>Curves</h2>\n<p class="muted">No run has logged validation accuracy or training loss.</p>'
    drawn = "\n".join(panel_svg(comparison, name) for name in names)
    key = "".join(f"<li>{_dot(i)}{escape(group.label)}</li>" for i, group in enumerate(comparison.groups))
    bands = any(len(group.records) > 1 for group in comparison.groups)
    legend = '\n<p class="muted">Mean of each group, and the range of its runs.</p>' if bands else ""
    return (
        f'<h2>Curves</h2>\n<div class="card">\n<div class="curves">\n{drawn}\n</div>\n'
        f'<ul class="key">{key}</ul>\n</div>{legend}'
    )


def _dot(index: int) -> str:
    """The colour of a group; a ring and a square in the rounds in which its line is broken."""
    shape = DASHES.index(dashes(index))
    return f'<span class="dot s{shape}" style="--dot: var(--c{COLOURS.index(colour(index))})"></span>'


def _runs(groups: Sequence[Group]) -> str:
    """Every run."""
    lines, dots = [], []
    for index, group in enumerate(groups):
        for record in (*group.records, *group.repeats):
            known = [record.metrics.get(metric) for metric in ACCURACIES]
            numbers = [Cell(NOTHING, -1) if v is None else Cell(percent(Estimate(v, None, 1)), v) for v in known]
            data = record.dataset + (f", fallback for {record.fallback_for}" if record.fallback_for else "")
            sha, commit = record.weights_sha256, record.commit or NOTHING
            short = " ".join(part[:SHORT_SHA] if number == 0 else part for number, part in enumerate(commit.split(" ")))
            place = record.place + (", the same again" if record in group.repeats else "")
            cells = [Cell(place), Cell(data), Cell(str(record.seed), record.seed), *numbers]
            cells += [Cell(sha[:SHORT_SHA], full=sha), Cell(short, full=commit), Cell(record.date or NOTHING)]
            lines.append(cells)
            dots.append(_dot(index))
    titles = ["run", "data", "seed", "train %", "val %", "test %", "weights SHA-256", "git commit", "date"]
    return "<h2>Runs</h2>\n" + _table(Table(titles, [False] * 2 + [True] * 4 + [False] * 3, lines), dots)


def _settings(comparison: Comparison) -> str:
    """Every setting that is not the same in all groups, a column for each group."""
    if not comparison.differing:
        return ""
    titles = ["key", *(group.label for group in comparison.groups)]
    lines = [[Cell(key), *(setting(group, key) for group in comparison.groups)] for key in comparison.differing]
    return "<h2>What differs in the configurations</h2>\n" + _table(Table(titles, [False] * len(titles), lines))


def _table(table: Table, before: Sequence[str] = ()) -> str:
    """A table that can be sorted; ``before`` is HTML that begins each line."""
    head = "".join(
        f'<th scope="col"{_class(number)}><button type="button">{escape(title)}</button></th>'
        for title, number in zip(table.titles, table.numbers, strict=True)
    )
    starts = before or [""] * len(table.lines)
    body = "\n".join(
        "<tr>"
        + _cell(line[0], 'th scope="row"', False, start)
        + "".join(_cell(cell, "td", number) for cell, number in zip(line[1:], table.numbers[1:], strict=True))
        + "</tr>"
        for line, start in zip(table.lines, starts, strict=True)
    )
    return (
        f'<div class="card scroll"><table class="sortable">\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody>\n</table></div>"
    )


def _cell(cell: Cell, tag: str, number: bool, start: str = "") -> str:
    text = f"<strong>{escape(cell.text)}</strong>" if cell.strong else escape(cell.text)
    order = escape(str(cell.order if cell.order != "" else cell.text))
    hover = f' title="{escape(cell.full)}"' if cell.full not in ("", cell.text) else ""
    return f'<{tag}{_class(number, cell.strong)} data-order="{order}"{hover}>{start}{text}</{tag[:2]}>'


def _class(number: bool, strong: bool = False) -> str:
    names = [name for name, wanted in (("number", number), ("strong", strong)) if wanted]
    return f' class="{" ".join(names)}"' if names else ""
