"""``rank``: proven bounds for tensor trains of given sizes, and ranks counted in exact arithmetic."""

import csv
import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.progress import track
from rich.table import Column, Table

from ttlightning.commands.parser import VerbParser, check_new_file, integers
from ttlightning.errors import UserError
from ttlightning.formats.bounds import cp_rank_bound_a24, cp_rank_bound_k18, generic_odd_even_rank
from ttlightning.rank.bounds import chain_parameters, in_figures, ratio, shallow_parameters
from ttlightning.rank.finite_field import PRIMES
from ttlightning.rank.full_matricization import LARGEST_MATRIX, measured_rank
from ttlightning.rank.limits import LARGEST_BOUND, MOST_DIGITS, out_of_range, staircase_excess
from ttlightning.system.output import print_whole, say

SIZES: Final = ("mode_size", "rank", "sites")
"""The three sizes by their names in the table of limits."""
MOST_ROWS: Final = 100_000
COLUMNS: Final = {
    "mode_size": "n",
    "rank": "r",
    "sites": "d",
    "k18": "K18",
    "a24": "A24",
    "generic": "generic",
    "measured": "measured",
    "shallow_parameters": "shallow/chain",
}
LEGEND: Final = """\
Lower bounds on the CP-rank of almost every tensor with d modes of size n and TT-rank r, the hidden units that a shallow
network needs. K18: different cores [Khrulkov et al. 2018]; A24: equal cores [Alkin, Oseledets 2024]; generic: the rank
of the odd/even matricization, equal and different cores (docs/theorem.md); shallow/chain: parameters of that shallow
network over those of the chain with equal cores."""


def main(args: Sequence[str]) -> int:
    parser = VerbParser("rank", "Lower bounds on the CP-rank of almost every tensor train.")
    parser.add_argument("--mode_size", type=str, default="2", help="n: a number, 2,4,8 or 2:12")
    parser.add_argument("--rank", type=str, default="3", help="r: likewise")
    parser.add_argument("--sites", type=str, default="8", help="d: likewise")
    measure = {"type": bool, "nargs": "?", "const": True, "default": False}
    parser.add_argument("--measure", **measure, help="count the rank of one matricization, exactly")
    parser.add_argument("--seed", type=int, default=0, help="of the measured tensors' cores")
    parser.add_argument("--output", type=Path | None, help="CSV to write; rows that it has already are kept")
    parser.add_argument("--figure", type=Path | None, help="PNG, SVG or PDF to write")
    options = parser.parse_args(args)
    ranges = [integers(f"--{name}", options[name]) for name in SIZES]
    if (rows := math.prod(map(len, ranges))) > MOST_ROWS:
        raise UserError(f"--mode_size, --rank and --sites ask for {rows:,} rows, the limit is {MOST_ROWS:,}")
    for name, values in zip(SIZES, ranges, strict=True):
        if reason := out_of_range(**{name: min(values)}) or out_of_range(**{name: max(values)}):
            raise UserError(f"--{reason}")
    sizes = list(itertools.product(*ranges))
    for mode_size, rank, sites in sizes:
        if generic_odd_even_rank(mode_size, rank, sites) >= LARGEST_BOUND:
            size = f"mode size {mode_size} and rank {rank}"
            raise UserError(f"--sites is {sites}: at {size} the generic rank has over {MOST_DIGITS:,} digits")
    if options.measure and len(sizes) == 1 and mode_size**sites > LARGEST_MATRIX:
        raise UserError(too_large(mode_size, rank, sites))
    if options.figure is not None:
        check_new_file(options.figure, "--figure")
    rows = collect(sizes, options.measure, options.seed, options.output)
    show(rows, options.measure)
    if options.figure is not None:
        draw(rows, options.figure)
        print(f"figure  {options.figure}")
    if options.output is not None:
        print(f"table   {options.output}")
    return 0


def too_large(mode_size: int, rank: int, sites: int) -> str:
    """Why the complete matricization is not counted, and the way out."""
    states = min(mode_size, rank)
    slices = min(mode_size, states**2)
    command = f"python -m ttlightning certify --mode_size {mode_size} --rank {rank} --sites {sites}"
    rows, columns = (in_figures(mode_size**modes) for modes in ((sites + 1) // 2, sites // 2))
    return (
        f"the matricization of {sites} sites of mode size {mode_size} has {rows} x {columns} entries, the limit is "
        f"{LARGEST_MATRIX:,} in all; leave --measure out"
        + ("" if staircase_excess(slices, states, sites, PRIMES, slices) else f", or certify it: {command}")
    )


def collect(
    sizes: Sequence[tuple[int, int, int]], measure: bool, seed: int, output: Path | None
) -> list[dict[str, Any]]:
    """A row for every size. Rows are written to ``output`` one by one, so a stopped command can be continued."""
    known = _read(output, seed) if output is not None and output.exists() else {}
    todo = [size for size in sizes if size not in known or (measure and known[size]["measured"] == "")]
    rows = {size: row for size, row in known.items() if size not in todo}
    if output is not None and len(todo) < len(sizes):
        print(f"{len(sizes) - len(todo)} rows are in {output} already")
    quiet = Console(stderr=True)
    for size in track(todo, "counting", console=quiet, transient=True, disable=not (measure and quiet.is_terminal)):
        rows[size] = describe(*size, measure, seed)
        if output is not None:
            _append(output, rows[size])
    return [rows[size] for size in sizes]


def describe(mode_size: int, rank: int, sites: int, measure: bool, seed: int) -> dict[str, Any]:
    """Bounds, generic rank and, if asked for, the measured rank of one size."""
    generic, measured = generic_odd_even_rank(mode_size, rank, sites), measure and mode_size**sites <= LARGEST_MATRIX
    return {
        "mode_size": mode_size,
        "rank": rank,
        "sites": sites,
        "k18": cp_rank_bound_k18(mode_size, rank, sites),
        "a24": cp_rank_bound_a24(mode_size, rank, sites),
        "generic": generic,
        "measured": measured_rank(mode_size, rank, sites, seed) if measured else "",
        "shallow_parameters": ratio(shallow_parameters(generic, mode_size, sites), chain_parameters(mode_size, rank)),
        "seed": seed,
    }


def show(rows: Sequence[dict[str, Any]], measured: bool) -> None:
    columns = {name: title for name, title in COLUMNS.items() if measured or name != "measured"}
    table = Table(*(Column(title, justify="right") for title in columns.values()))
    for row in rows:
        table.add_row(*(_form(row[name]) for name in columns))
    print_whole(table)
    say(LEGEND + (" measured: one random tensor, counted modulo 2^31 - 1." if measured else ""))


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Rank over sites if they differ, else over mode sizes; one line for each pair of the other sizes."""
    import matplotlib.pyplot as plt

    axis = "sites" if len({row["sites"] for row in rows}) > 1 else "mode_size"
    others = [name for name in ("mode_size", "rank", "sites") if name != axis]
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    styles = {"generic": "-", "k18": "--", "a24": ":", "measured": "o"}
    groups = sorted({tuple(row[name] for name in others) for row in rows})
    for index, group in enumerate(groups):
        mine = [row for row in rows if tuple(row[name] for name in others) == group]
        for name, style in styles.items():
            points = [(row[axis], math.log10(row[name])) for row in mine if row[name] != ""]
            if points:
                label = f"{name}: " + ", ".join(f"{o} {v}" for o, v in zip(others, group, strict=True))
                axes.plot(*zip(*points, strict=True), style, color=f"C{index % 10}", label=label if index < 6 else None)
    axes.set(xlabel=COLUMNS[axis], ylabel="CP-rank, lower bound")
    axes.yaxis.set_major_formatter("$10^{{{x:g}}}$")  # the logarithm is drawn: a float ends at 1e308
    axes.legend(fontsize=6)
    try:
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as fault:
        raise UserError(f"{path} cannot be written: {fault}") from fault
    finally:
        plt.close(figure)


def _form(value: Any) -> str:
    if value == "":
        return "-"
    if isinstance(value, float):
        return f"{value:,.3g}" if value < 1e3 else f"{value:,.0f}" if value < 1e6 else f"{value:.3g}"
    return in_figures(value)


def _read(path: Path, seed: int) -> dict[tuple[int, int, int], dict[str, Any]]:
    """Rows of an earlier command with the same seed."""
    try:
        with path.open(newline="") as file:
            reader = csv.DictReader(file)
            if reader.fieldnames != [*COLUMNS, "seed"]:
                raise UserError(f"{path} is no table of this command and is left as it is; name another with --output")
            rows = []
            for row in reader:
                numbers = {name: int(row[name]) for name in COLUMNS if name != "shallow_parameters" and row[name] != ""}
                if min(numbers.values()) < 1:
                    raise ValueError(f"line {reader.line_num} has a number below 1")
                rows.append({"measured": "", **numbers, "shallow_parameters": float(row["shallow_parameters"])})
                rows[-1]["seed"] = int(row["seed"])
    except (OSError, ValueError, TypeError, csv.Error) as fault:
        raise UserError(f"{path} cannot be read as a table of this command: {fault}") from fault
    return {(row["mode_size"], row["rank"], row["sites"]): row for row in rows if row["seed"] == seed}


def _append(path: Path, row: dict[str, Any]) -> None:
    try:
        new = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.DictWriter(file, [*COLUMNS, "seed"])
            if new:
                writer.writeheader()
            writer.writerow(row)
    except OSError as fault:
        raise UserError(f"{path} cannot be written: {fault.strerror}") from fault
