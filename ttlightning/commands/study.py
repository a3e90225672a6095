"""``study``: the runs of a file, seeds, a grid or a sweep, side by side here or as one array of SLURM's.

Every run has the path that follows from its configuration and seed. A finished run is not made again, one that was
begun goes on: a study that was stopped goes on with the same command.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from ttlightning.commands.parser import VerbParser
from ttlightning.errors import UserError
from ttlightning.runs.files import write_whole
from ttlightning.runs.run import runs_root

if TYPE_CHECKING:
    from ttlightning.runs.run import Run

MARK: Final = "<!-- page of the study {} -->\n"
"""Last line of a study's page: a page with it is written anew, any other file is left as it is."""


def main(args: Sequence[str]) -> int:
    """0 where every run has a result, 1 where one has none; its fault is named on the last lines."""
    parser = VerbParser("study", "The runs of a file: seeds, a grid or a sweep; exit code 1 where one has no result.")
    parser.add_argument("file", type=str, help="YAML with config, options, grid and seeds; or a sweep of W&B")
    parser.add_argument("--launcher", type=Literal["local", "slurm"], default="local", help="where the runs are made")
    parser.add_argument("--jobs", type=int | None, help="runs side by side; default: one for each GPU, else core; "
                        "under slurm: as many as SLURM gives")  # fmt: skip
    parser.add_argument("--runs", type=int | None, help="choices to draw, for a sweep at random")
    parser.add_argument("--html", type=Path | None, help="the page; default: the file's name in the folder of the runs")
    options = parser.parse_args(args)

    from ttlightning.commands.studies import faults_of, make_runs  # takes seconds: imports Lightning
    from ttlightning.commands.study_file import read_study

    study = read_study(options.file, options.runs)
    page = options.html or runs_root() / f"{study.name}.html"
    check_page(page, study.name)
    if options.launcher == "slurm":
        from ttlightning.commands.study_slurm import submit_runs

        outcomes = submit_runs(study, options.jobs)
    else:
        if study.slurm:
            print(f"ttlightning: {options.file} has a section slurm, which --launcher local ignores", file=sys.stderr)
        outcomes = make_runs(study.jobs, options.jobs)
    report([outcome.run for outcome in outcomes if outcome.run is not None], page, study.name)
    if faults := faults_of(outcomes):
        print(faults, file=sys.stderr)
    return int(bool(faults))


def report(runs: Sequence["Run"], page: Path, name: str) -> None:
    """Print the table of the runs, and write their page; nothing where no run has a result."""
    if not runs:
        return
    from ttlightning.comparison.page import page as page_of
    from ttlightning.comparison.sources import read_record
    from ttlightning.comparison.statistics import compare
    from ttlightning.comparison.tables import markdown

    comparison = compare([read_record(run.path, curves=True) for run in runs], mixed_data=True)
    print(markdown(replace(comparison, pairs=[])), end="")
    page.parent.mkdir(parents=True, exist_ok=True)
    write_whole(page, (page_of(comparison) + MARK.format(name)).encode())
    print(f"ttlightning: paired tests, curves and the list of runs are in {page}", file=sys.stderr)


def check_page(page: Path, name: str) -> None:
    """``UserError`` if the page would replace a file that is no page of this study; to be called before any run."""
    if page.is_dir() or (page.is_file() and not page.read_bytes().endswith(MARK.format(name).encode())):
        raise UserError(f"{page} exists and is no page of this study, so it is left as it is; name another with --html")
