r"""A curriculum over the rank: does a chain that grows while it is trained end better than one that is as wide at once?

A chain of rank r is embedded in one of rank R > r exactly, as a layer is widened in Net2Net (Chen et al. 2016,
arXiv 1511.05641): the state x' of the wide chain repeats entries of x,

    x'_j = x_{m(j)},   G'[i]_{jk} = w_j G[i]_{m(j) m(k)},   sum of w_j over m(j) = l is 1 for every l,

with m(j) = j below r, m(j) at random above, and random positive w. The scores are the same, and the copies are not:
their weights w differ, so that their gradients do.

    python scripts/rank_growth.py [--dataset fashion_mnist=FOLDER] [--from_rank 16] [--epochs 1 2] [--seeds 1]
        [--jobs 2] [--output results/rank_growth] [--quick] [options of fit]

The recipe is best/any.yaml with plain labels and augmented images in all epochs. Three ways: its own rank for all
epochs at once; the small rank for the first epochs, grown to that of the recipe, for the other epochs, with a schedule
of its own; and, to see what the new schedule does, the recipe's own rank in the same two parts. Accuracies are of the
validation split. Runs that are there are not made again. Writes OUTPUT.json and .md.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from optimization_study import RECIPE
from torch import Tensor

from ttlightning.commands.studies import Job, configuration, make_runs, percent, require
from ttlightning.errors import UserError
from ttlightning.randomness import keyed_generator
from ttlightning.runs.compressed import Origin, write_run
from ttlightning.runs.files import write_json
from ttlightning.runs.run import Run, runs_root
from ttlightning.system.output import run_script

QUIET = ("--rank_check.every_n_epochs=0", "--figures=false", "--wandb.mode=disabled", "--test_after_fit=false")
RANK = "--model.format.init_args.rank"


def grown(chain: Any, rank: int, seed: int) -> Any:
    """The chain as one of a larger rank, with the same scores: the formula on top."""
    generator = keyed_generator(seed, "growth")
    copies = torch.randint(chain.rank, (rank - chain.rank,), generator=generator)
    source = torch.cat((torch.arange(chain.rank), copies))
    share = torch.rand(rank, generator=generator) + 0.5
    share /= torch.zeros(chain.rank).index_add(0, source, share)[source]

    def rows(core: Tensor) -> Tensor:
        return core[..., source, :] * share[:, None]

    wide = type(chain)(chain.sites, chain.mode_size, chain.classes, rank=rank)
    with torch.no_grad():
        wide.first.copy_(chain.first[..., source])
        wide.interior.copy_(rows(chain.interior)[..., source])
        wide.last.copy_(rows(chain.last))
    return wide


def widened(source: Run, rank: int) -> Run:
    """The run of the grown chain, which ``fit --ckpt_path`` trains on; made once."""
    run = Run(runs_root() / f"{source.path.parent.name}-grown" / f"{source.result['weights_sha256'][:8]}-rank{rank}")
    if run.state != "finished":
        chain = grown(source.network().format, rank, source.config["seed_everything"])
        origin = Origin(str(source.checkpoint), source.result["weights_sha256"], rank, "plain", "grown", 0.0)
        data = source.provenance["dataset"]
        write_run(run, source.checkpoint, chain, origin, data, source.result["metrics"], 0.0)
    return run


def rows_of(data: tuple[str, ...], small: int, epochs: list[int], seeds: int, jobs: int | None) -> list[dict[str, Any]]:
    """The three ways, with the runs of each."""

    def made(name: str, count: int, *words: tuple[str, ...]) -> list[Run]:
        of_seed = words or ((),) * seeds
        plan = [
            Job(
                f"growth_{data[0].partition('=')[2]}_{name}",
                (*RECIPE, *data, *QUIET, f"--trainer.max_epochs={count}", *of_seed[seed]),
                seed,
            )
            for seed in range(seeds)
        ]
        return require(make_runs(plan, jobs))

    first, then = epochs
    rank = configuration((*RECIPE, *data))["model"]["format"]["init_args"]["rank"]
    if not 1 <= small <= rank:
        raise UserError(f"--from_rank is {small}, it must be from 1 to {rank}, the rank of the recipe")
    if min(epochs) < 1:
        raise UserError(f"--epochs is {first} {then}, both must be at least 1")
    whole = made(f"whole_{first + then}", first + then)
    halves = made(f"first_{first}", first)
    narrow = made(f"narrow_{small}_{first}", first, *((f"{RANK}={small}",),) * seeds)
    begin = [[(f"--ckpt_path={widened(run, rank)}",) for run in runs] for runs in (halves, narrow)]
    again = made(f"again_{first}_{then}", then, *begin[0])
    after = made(f"grown_{small}_{first}_{then}", then, *begin[1])
    ways = {
        f"rank {rank}, {first + then} epochs": whole,
        f"rank {rank}, {first} epochs, then {then}": again,
        f"rank {small}, {first} epochs; rank {rank}, {then}": after,
    }
    return [
        {"way": way, "val": [run.result["metrics"]["val/acc"] for run in runs]}
        | {"train": [run.result["metrics"]["train/acc"] for run in runs]}
        | {"weights_sha256": [run.result["weights_sha256"] for run in runs]}
        for way, runs in ways.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--dataset", default="mnist", metavar="NAME[=FOLDER]")
    parser.add_argument("--from_rank", type=int, default=16)
    parser.add_argument("--epochs", type=int, nargs=2, default=[1, 2])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--jobs", type=int)
    parser.add_argument("--output", type=Path, default=Path("results/rank_growth"))
    parser.add_argument("--quick", action="store_true")
    options, more = parser.parse_known_args()
    if options.quick:
        options.dataset, options.from_rank, options.epochs = "mnist5k", 2, [1, 1]
        more = [f"{RANK}=4", "--model.features.hidden=8", "--model.features.mode_size=5", *more]
    name, equals, folder = options.dataset.partition("=")
    data = (f"--data.dataset={name}", *([f"--data.root={folder}"] if equals else []), *more)
    rows = rows_of(data, options.from_rank, options.epochs, options.seeds, options.jobs)
    table = "| way | validation | train |\n|---|---|---|\n"
    table += "".join(f"| {row['way']} | {percent(row['val'])} | {percent(row['train'])} |\n" for row in rows)
    print(table, end="")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    about = {"dataset": name, "seeds": options.seeds, "torch": torch.__version__}
    write_json(options.output.with_suffix(".json"), about | {"rows": rows})
    options.output.with_suffix(".md").write_text(table)


if __name__ == "__main__":
    run_script(main)
