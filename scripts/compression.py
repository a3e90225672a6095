"""Accuracy against rank of one compressed network, without and with fine tuning, beside networks trained at that rank.

    python scripts/compression.py [--configs eq.yaml tt.yaml] [--ranks 1 2 4 8] [--seeds 3] [--jobs 2]

For every config and seed: the network of the config, compressed to each rank in the plain metric and in the data's
(``compress``), with equal cores also to different ones; fine tuning of the data metric's result by the config's own
recipe in --epochs epochs; and the config with that rank from the start. Accuracies are of the validation images, means
over the seeds with 95 % intervals (Student's t). Runs that are there are not made again. Writes OUTPUT.json, .md and
.png. --quick: debug.yaml, one rank.
"""

import argparse
import json
import sys
from pathlib import Path

from matplotlib.figure import Figure

from ttlightning.commands.compress import compress
from ttlightning.commands.studies import Job, make_runs, percent, require
from ttlightning.comparison.statistics import estimate
from ttlightning.runs.machine import cpu_name
from ttlightning.runs.run import Run, runs_root
from ttlightning.system.output import run_script

QUICK = ["--configs=debug.yaml", "--ranks=2", "--seeds=1", "--epochs=1"]
WITHOUT_TEST = "--test_after_fit=false"
VALIDATION = "--data.validation=0.1"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configs", nargs="+", default=["eq.yaml", "tt.yaml"])
    parser.add_argument("--ranks", nargs="+", type=int, default=[1, 2, 4, 8])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=2, help="of fine tuning")
    parser.add_argument("--jobs", type=int)
    parser.add_argument("--output", type=Path, default=Path("results/compression"))
    parser.add_argument("--quick", action="store_true")
    return parser.parse_args([*QUICK, *sys.argv[1:]] if "--quick" in sys.argv else None)


def compressed(source: Run, rank: int, metric: str, to: str) -> Run:
    """The compressed run, at a path that follows from the weights; made once."""
    place = f"{source.result['weights_sha256'][:8]}-rank{rank}-{metric}-{to}"
    run = Run(runs_root() / f"{source.path.parent.name}-compressed" / place)
    if run.state != "finished":
        compress(source.path, rank, metric, to, run.path, table=False)
    return run


def study(config: str, options: argparse.Namespace) -> list[dict]:
    """A record for each way and rank: the accuracies of the seeds, and what identifies the networks."""
    name, seeds, words = f"compression_{Path(config).stem}", range(options.seeds), ("--config", config, VALIDATION)
    whole = require(make_runs([Job(name, (*words, WITHOUT_TEST), seed) for seed in seeds], options.jobs))
    kinds = whole[0].network().format.compressed_to
    ways: dict[tuple[str, int], list[Run]] = {("trained", whole[0].network().format.rank): whole}
    for rank in options.ranks:
        for metric, to in (("plain", kinds[0]), *(("data", kind) for kind in kinds)):
            ways[f"{metric}, {to}", rank] = [compressed(run, rank, metric, to) for run in whole]
    jobs = {}
    for rank in options.ranks:
        fresh = (*words, WITHOUT_TEST, f"--model.format.init_args.rank={rank}")
        jobs["trained", rank] = [Job(f"{name}_rank{rank}", fresh, seed) for seed in seeds]
        for kind in kinds:
            starts = ways[f"data, {kind}", rank]
            fine = (f"--trainer.max_epochs={options.epochs}", WITHOUT_TEST)
            jobs[f"data, {kind}, tuned", rank] = [
                Job(f"{name}_rank{rank}_{kind}_tuned", (f"--ckpt_path={start}", *fine), seed)
                for seed, start in zip(seeds, starts, strict=True)
            ]
    made = iter(require(make_runs([job for several in jobs.values() for job in several], options.jobs)))
    ways |= {key: [next(made) for _ in several] for key, several in jobs.items()}
    return [record(config, way, rank, runs) for (way, rank), runs in ways.items()]


def record(config: str, way: str, rank: int, runs: list[Run]) -> dict:
    results = [run.result for run in runs]
    errors = [run.provenance["compressed"]["relative_error"] for run in runs if run.is_compressed]
    return {
        "config": config,
        "way": way,
        "rank": rank,
        "dataset": results[0]["dataset"],
        "parameters": results[0]["parameters"],
        "val/acc": [result["metrics"]["val/acc"] for result in results],
        "relative_error": errors,
        "weights_sha256": [result["weights_sha256"] for result in results],
    }


def table(records: list[dict], options: argparse.Namespace) -> str:
    """Markdown: a line for each way, a column for each rank; in brackets the relative error of the compression."""
    ranks = sorted({entry["rank"] for entry in records})
    lines = [f"| config | way | {' | '.join(f'r = {rank}' for rank in ranks)} |", "|---" * (2 + len(ranks)) + "|"]
    for config in options.configs:
        chosen = [entry for entry in records if entry["config"] == config]
        for way in sorted({entry["way"] for entry in chosen}):
            of_rank = {entry["rank"]: entry for entry in chosen if entry["way"] == way}
            cells = [_cell(of_rank[rank]) if rank in of_rank else "" for rank in ranks]
            lines.append(f"| {config} | {way} | {' | '.join(cells)} |")
        sizes = {}
        for kind in sorted({_kind(entry) for entry in chosen}):
            of_rank = {entry["rank"]: entry["parameters"] for entry in chosen if _kind(entry) == kind}
            if of_rank.items() - sizes.items():  # not those of the config's own cores once more
                cells = [f"{of_rank[rank]:,}" if rank in of_rank else "" for rank in ranks]
                lines.append(f"| {config} | parameters{kind} | {' | '.join(cells)} |")
            sizes = of_rank
    return "\n".join(lines) + "\n"


def _cell(entry: dict) -> str:
    errors = entry["relative_error"]
    return percent(entry["val/acc"]) + (f" ({sum(errors) / len(errors):.2g})" if errors else "")


def _kind(entry: dict) -> str:
    """The cores of a compressed network, where they may differ from those of the config."""
    return ", different" if "different" in entry["way"] else ""


def figure(records: list[dict], configs: list[str], file: Path) -> None:
    drawing = Figure(figsize=(5 * len(configs), 4), layout="constrained")
    colours = {way: f"C{index}" for index, way in enumerate(sorted({e["way"] for e in records} - {"trained"}))}
    for axes, config in zip(drawing.subplots(1, len(configs), sharey=True, squeeze=False)[0], configs, strict=True):
        chosen = [entry for entry in records if entry["config"] == config]
        for way in dict.fromkeys(entry["way"] for entry in chosen):
            points = sorted((e for e in chosen if e["way"] == way), key=lambda e: e["rank"])
            means = [100 * estimate(e["val/acc"]).mean for e in points]
            style = "--" if way == "trained" else "-" if "tuned" in way else ":"
            axes.plot([e["rank"] for e in points], means, style, color=colours.get(way, "k"), marker="o", label=way)
        axes.set(xscale="log", title=config, xlabel="TT-rank")
        ticks = sorted({entry["rank"] for entry in chosen})
        axes.set_xticks(ticks, [str(tick) for tick in ticks], minor=False)
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    drawing.axes[0].set_ylabel("validation accuracy, %")
    drawing.savefig(file, dpi=150)


def main() -> None:
    options = arguments()
    records = [entry for config in options.configs for entry in study(config, options)]
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.with_suffix(".json").write_text(json.dumps({"cpu": cpu_name(), "records": records}, indent=1) + "\n")
    text = table(records, options)
    options.output.with_suffix(".md").write_text(text)
    figure(records, options.configs, options.output.with_suffix(".png"))
    print(text)


if __name__ == "__main__":
    run_script(main)
