"""Any config over seeds and over a grid or a sweep, run side by side, as one table.

    python scripts/seeds.py --config eq.yaml --seeds 5
    python scripts/seeds.py --config eq.yaml --seeds 5 --grid model.format.init_args.rank=4,8,16 [options of fit]
    python scripts/seeds.py --sweep sweeps/rank_grid.yaml
    python scripts/seeds.py --sweep sweeps/search_eq.yaml --runs 20

Every combination is an experiment of its own, named after what is chosen. A run that has a result is not made again,
one that was begun goes on: a script that was stopped is started again as it was. --jobs: runs side by side, by default
one for each GPU, else one for each core. A run that fails is reported at the end, with exit code 1; the others go on.
Prints mean and 95 % interval (Student's t) over the seeds. --quick: debug.yaml at two TT-ranks, one seed.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence

from ttlightning.commands.arguments import experiment_name
from ttlightning.commands.studies import Job, Outcome, faults_of, make_runs, percent
from ttlightning.commands.sweeps import SEED, Choice, name_of, option_words, read_options, read_sweep
from ttlightning.errors import UserError
from ttlightning.rank.bounds import in_figures
from ttlightning.system.output import run_script

QUICK = ["--config=debug.yaml", "--seeds=1", "--grid", "model.format.init_args.rank=2,3"]
ACCURACIES = ("train/acc", "val/acc", "test/acc")


def arguments(args: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Our options, and those that are for fit."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--config", action="append", help="of fit; again for configs that compose")
    parser.add_argument("--sweep", help="a file that `wandb sweep` takes: method grid, or random with --runs")
    parser.add_argument("--grid", nargs="+", default=[], metavar="OPTION=VALUE,VALUE")
    parser.add_argument("--seeds", type=int, help="seeds 0, 1, ... of every combination; default 1")
    parser.add_argument("--runs", type=int, help="combinations drawn from a sweep's distributions")
    parser.add_argument("--jobs", type=int, help="runs side by side")
    parser.add_argument("--experiment", help="what every name begins with; default: named after the configs")
    parser.add_argument("--quick", action="store_true")
    options, words = parser.parse_known_args([*QUICK, *args] if "--quick" in args else args)
    if options.sweep and options.grid:
        raise UserError("--sweep and --grid are two ways to say the same; leave one of them out")
    if not options.sweep and options.runs is not None:
        raise UserError(f"--runs is {options.runs}, it is for --sweep")
    if not options.sweep and not options.config:
        raise UserError("nothing to run: name a config with --config eq.yaml, or a sweep with --sweep")
    if options.seeds is not None and options.seeds < 1:
        raise UserError(f"--seeds is {options.seeds}, it must be at least 1")
    for word in words:
        if word.split("=")[0] in (f"--{SEED}", "--ckpt_path"):
            raise UserError(f"{word} is for a single run; here --seeds says how many, and runs that were begun go on")
    return options, words


def plan(options: argparse.Namespace, words: Sequence[str]) -> list[Job]:
    """All runs, a seed of every combination after the other, so that a table is there early."""
    choices: list[Choice]
    shared: tuple[str, ...]
    if options.sweep:
        shared, choices = read_sweep(options.sweep, options.runs)
    else:
        shared, choices = (), read_options(options.grid)
    configs = [word.removeprefix("--config=") for word in shared if word.startswith("--config=")]
    base = options.experiment or experiment_name([*configs, *(options.config or [])])
    if options.seeds and any(SEED in choice for choice in choices):
        raise UserError(f"--seeds is {options.seeds}, but {SEED} is among what is chosen already; leave one out")
    jobs = []
    for choice in choices:
        fixed = {option: value for option, value in choice.items() if option != SEED}
        every = (*shared, *(f"--config={config}" for config in options.config or []), *words, *option_words(fixed))
        seeds = [choice[SEED]] if SEED in choice else range(options.seeds or 1)
        jobs += [Job(name_of(base, choice), every, seed) for seed in seeds]
    return sorted(dict.fromkeys(jobs), key=lambda job: job.seed)


def table(outcomes: Sequence[Outcome]) -> str:
    """Markdown, one line for each experiment that has a result, in the order of the combinations."""
    lines = [
        "| experiment | data | seeds | parameters | train acc. | val. acc. | test acc. | certified CP-rank |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for experiment in dict.fromkeys(outcome.job.experiment for outcome in outcomes):
        results = [outcome.run.result for outcome in outcomes if outcome.job.experiment == experiment and outcome.run]
        if not results:
            continue
        metrics = [[r["metrics"][name] for r in results if name in r["metrics"]] for name in ACCURACIES]
        certified = [min(r["rank"]["certified"]) for r in results if "certified" in r["rank"]]
        cells = [
            experiment,
            ", ".join(sorted({r["dataset"] for r in results})),
            str(len(results)),
            f"{results[0]['parameters']:,}",
            *(percent(values) if values else "" for values in metrics),
            in_figures(min(certified)) if certified else "",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    options, words = arguments(sys.argv[1:])
    outcomes = make_runs(plan(options, words), options.jobs)
    runs = [str(outcome.run) for outcome in outcomes if outcome.run]
    if runs:
        print(table(outcomes))
        print(f"\npython -m ttlightning compare {shlex.join(runs)}")
    sys.exit(faults_of(outcomes))


if __name__ == "__main__":
    run_script(main)
