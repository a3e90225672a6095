"""The tables of docs/speed.md, from the files that ``make bench`` writes.

    python scripts/speed_page.py [--results results] [--page docs/speed.md]

A table stands between the lines ``<!-- NAME -->`` and ``<!-- end of NAME -->`` of the page and is replaced as a whole.
A table whose numbers are in no file becomes one line that says so.
"""

import argparse
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ttlightning.errors import UserError
from ttlightning.system.output import run_script

Report = dict[str, Any]
ROOT = Path(__file__).resolve().parents[1]
SIZES = "mode size, rank, batch, sites"


def table(header: list[str], rows: list[list[str]]) -> str:
    """Markdown."""
    return "\n".join(f"| {' | '.join(row)} |" for row in [header, ["---"] * len(header), *rows])


def by_case(rows: list[Report], column: str) -> dict[str, dict[tuple[str, int], Report]]:
    """The rows of each case, by their entry in ``column`` and the number of threads."""
    cases: dict[str, dict[tuple[str, int], Report]] = {}
    for row in rows:
        cases.setdefault(", ".join(map(str, row["case"])), {})[row[column], row["threads"]] = row
    return cases


def spread(row: Report, ratio: str) -> str:
    """``1.52x (1.48 to 1.60)``: the median and the quartiles of a ratio."""
    low, high = row[f"{ratio}_quartiles"]
    return f"{row[ratio]:.2f}x ({low:.2f} to {high:.2f})"


def chains(report: Report) -> str:
    """A training step beside TensorKrowch."""
    threads = sorted({row["threads"] for row in report["results"]})
    header = [f"{kind}: ms, ratio, {n} thr." for kind in ("different", "equal") for n in threads]
    rows = []
    for case, found in by_case(report["results"], "kind").items():
        steps = [found[kind, n] for kind in ("different", "equal") for n in threads]
        one = found["equal", threads[0]]
        cells = [f"{row['step_ms']:.1f}, {row['step_ratio']:.1f}x" for row in steps]
        rows.append([case, *cells, f"{one['step_floor_ms']:.1f}",
                     f"{one['memory_mb']:.1f}, theirs {one['memory_peer_mb']:.1f}"])  # fmt: skip
    return table([SIZES, *header, "no chain, ms", "memory, MB, equal"], rows)


def jax(report: Report) -> str:
    """A training step and inference beside a jitted loop in JAX, on one thread."""
    rows = []
    for case, found in by_case(report["results"], "kind").items():
        for kind in ("different", "equal"):
            row = found[kind, 1]
            cells = []
            for what in ("step", "inference"):
                theirs = row[f"{what}_jax_ms"]
                cells.append(f"{row[f'{what}_ms']:.2f}, {theirs:.2f}, {spread(row, f'{what}_jax_ratio')}")
            rows.append([case, kind, *cells])
    return table([SIZES, "cores", "step: ours, JAX, ratio", "inference: ours, JAX, ratio"], rows)


def trees(report: Report) -> str:
    """The other formats on one thread, HT beside TensorKrowch's Tree."""
    rows = []
    for case, found in by_case(report["other_formats"], "format").items():
        shallow, tree, shared = (found[name, 1] for name in ("canonical", "hierarchical", "shared hierarchical"))
        step = f"{tree['step_ms']:.1f}, {tree['step_peer_ms']:.1f}, {tree['step_ratio']:.2f}x"
        memory = f"{tree['memory_mb']:.1f}, theirs {tree['memory_peer_mb']:.1f}"
        rows.append([case, f"{shallow['step_ms']:.1f}", step, f"{tree['inference_ratio']:.2f}x",
                     f"{shared['step_ms']:.1f}", memory])  # fmt: skip
    titles = ["CP", "HT, theirs, ratio", "ratio of inference", "HT, one node for a level", "memory of HT, MB"]
    return table([SIZES, *titles], rows)


def networks(report: Report) -> str:
    """Images per second of networks of the same accuracy, in thousands, with quartiles."""
    whats = [(n, what) for n in report["threads"] for what in ("training", "inference")]
    rows = []
    for row in report["networks"]:
        cells = []
        for n, what in whats:
            of = row[f"threads_{n}"]
            low, high = (value / 1e3 for value in of[f"{what}_quartiles"])
            cells.append(f"{of[f'{what}_images_per_s'] / 1e3:.1f} ({low:.1f} to {high:.1f})")
        rows.append([row["network"], f"{row['parameters']:,}", f"{row['accuracy']:.2%}", *cells])
    header = ["network", "parameters", f"accuracy, {report['dataset']}, {report['epochs']} epochs"]
    return table([*header, *(f"{what}, {n} thr." for n, what in whats)], rows)


TABLES: dict[str, tuple[str, Callable[[Report], str]]] = {
    "chains": ("benchmark.json", chains),
    "jax": ("benchmark.json", jax),
    "trees": ("benchmark.json", trees),
    "networks": ("benchmark_networks.json", networks),
}
"""Name of a table: the file with its numbers, and how it is made."""


def made(name: str, results: Path) -> str:
    """The table of this name; a line without numbers if the file has none for it."""
    file, make = TABLES[name]
    try:
        return make(json.loads((results / file).read_text()))
    except (FileNotFoundError, KeyError):
        return f"`make bench` has not measured this yet: results/{file} has no numbers for it."


def page_with_tables(page: str, results: Path) -> str:
    """The page with every table made anew; ``UserError`` if a table has no place in it."""
    for name in TABLES:
        whole = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end of {name} -->\n)", re.S)
        if not whole.search(page):
            raise UserError(f"the page has no line <!-- {name} --> with <!-- end of {name} --> below")
        page = whole.sub(lambda match, name=name: f"{match[1]}\n{made(name, results)}\n\n{match[2]}", page)
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=ROOT / "results")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "speed.md")
    options = parser.parse_args()
    options.page.write_text(page_with_tables(options.page.read_text(), options.results))


if __name__ == "__main__":
    run_script(main)
