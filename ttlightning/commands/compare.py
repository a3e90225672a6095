"""``compare``: finished runs side by side, as a table, a page and curves."""

import sys
from collections.abc import Sequence
from pathlib import Path

from jsonargparse import Namespace
from rich.console import Console

from ttlightning.commands.parser import VerbParser, check_new_file
from ttlightning.comparison.records import Record
from ttlightning.comparison.sources import find_runs, read_record, wandb_records
from ttlightning.comparison.statistics import Comparison, compare
from ttlightning.comparison.tables import csv_table, markdown
from ttlightning.comparison.terminal import show
from ttlightning.errors import UserError
from ttlightning.runs.files import write_whole
from ttlightning.system.output import printable

FILES = {
    "markdown": "the table that is printed where the output is no terminal",
    "csv": "the table with all digits",
    "html": "a page with table, tests, curves and the list of runs",
    "figure": "PNG, SVG or PDF of the curves",
}


def main(args: Sequence[str]) -> int:
    parser = VerbParser("compare", "Finished runs side by side: runs that differ in nothing but the seed are one line.")
    parser.add_argument("runs", type=str, nargs="*", help="run directories, their folders, or 'runs/eq*/[0-2]'")
    parser.add_argument("--wandb", type=str | None, help="entity/project at Weights & Biases: its finished runs, too")
    parser.add_argument("--mixed_data", action="store_true", help="allow runs of different data, and mark every line")
    for name, text in FILES.items():
        parser.add_argument(f"--{name}", type=Path | None, help=f"file to write: {text}")
    options = parser.parse_args(args)
    files = check_files(options)
    records = collect(options.runs, options.wandb, curves=not files.keys().isdisjoint(("html", "figure")))
    comparison = compare(records, options.mixed_data)
    contents = {name: rendered(name, comparison, path.suffix) for name, path in files.items()}
    console = Console()
    if console.is_terminal:
        show(comparison, console)
    else:
        print(markdown(comparison), end="")
    for name, content in contents.items():
        write_whole(files[name], content)
        print(f"ttlightning: {name} is in {files[name]}", file=sys.stderr)
    return 0


def rendered(name: str, comparison: Comparison, suffix: str) -> bytes:
    """Content of the file ``name`` in ``FILES``. Page and figure need matplotlib, which the table does not wait for."""
    if name == "html":
        from ttlightning.comparison.page import page

        return page(comparison).encode()
    if name == "figure":
        from ttlightning.comparison.figure import figure_file

        return figure_file(comparison, suffix)
    return (markdown if name == "markdown" else csv_table)(comparison).encode()


def check_files(options: Namespace) -> dict[str, Path]:
    """The files to write; ``UserError`` if one of them cannot be written."""
    files = {name: options[name] for name in FILES if options[name] is not None}
    for name, path in files.items():
        check_new_file(path, f"--{name}")
        if list(files.values()).count(path) > 1:
            raise UserError(f"{path} is asked for twice; name another file with --{name}")
    if "figure" in files:
        from ttlightning.comparison.figure import check_figure

        check_figure(files["figure"])
    return files


def collect(names: Sequence[str], project: str | None, curves: bool) -> list[Record]:
    """The records of all finished runs; one line on stderr names the others.

    Raises:
        UserError: if no run is finished.
    """
    if not names and project is None:
        raise UserError("compare needs runs: directories such as runs/eq/0, folders such as runs/eq, or --wandb")
    finished, unfinished = find_runs(names)
    records, skipped = [read_record(run, curves) for run in finished], [str(run) for run in unfinished]
    if project is not None:
        online, others = wandb_records(project, curves)
        records, skipped = records + online, skipped + others
    if not records:
        raise UserError(f"no run is finished: {', '.join(skipped) or project}; fit --ckpt_path RUN goes on with one")
    if skipped:
        print(f"ttlightning: left out, not finished: {printable(', '.join(skipped))}", file=sys.stderr)
    return records
