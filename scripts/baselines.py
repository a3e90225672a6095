r"""Tensor networks beside what would be taken instead, at equal parameters: accuracy, time, certified rank, width.

    python scripts/baselines.py [--data mnist fashion_mnist=FOLDER "CIFAR-10 (JPEG)=FOLDER"] [--groups best large small]
        [--configs best/eq.yaml baselines/cnn.yaml ...] [--seeds 5] [--jobs 1] [--rounds 25]
        [--output results/baselines] [--update] [--finished] [--quick] [options of fit]

--data: a data set's name, a name and the folder that has it, or a title and a folder with train/<class> and
test/<class>. A group has a reference. The networks of configs/baselines/ get the largest width, or rank, within its
parameters on each data set, its augmentation, batches, smoothing of labels and mean pixel. In the group "best", whose
reference is the recipe of the data set, the shallow network and the tree are this recipe with another format. Other
configs of --configs are run as they are; {data} in their names stands for the word of the data set in best/. Every run
trains on all training images: what was chosen was chosen before, on validation splits. A run that has a result in
$TTLIGHTNING_RUNS is not made again, and a stopped one goes on.

The table has mean and 95 % interval (Student's t) over the seeds, and the medians of the seconds of training, without
rank checks, and of the images per second in batches of 1,000 on one thread, of seed 0. Of networks with a weight
tensor it has the smallest certified CP-rank, and the units that a shallow network needs within 10 % on mixed images.
Writes OUTPUT.json and .md. --update keeps the other rows of an OUTPUT.json that the same machine and torch have made.
--finished makes no run: the table is of those that are there. --quick: one epoch on 4,000 digits, two networks, one
seed.
"""

import argparse
import hashlib
import json
import statistics
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ttlightning.commands.studies import (
    Job,
    Outcome,
    configuration,
    configurations_of,
    faults_of,
    make_runs,
    percent,
    run_of,
)
from ttlightning.data.datasets import describe_dataset, is_named
from ttlightning.data.patches import Patching
from ttlightning.errors import UserError
from ttlightning.rank.bounds import in_figures
from ttlightning.runs.files import read_json, write_json, write_whole
from ttlightning.runs.machine import cpu_name
from ttlightning.runs.run import Run
from ttlightning.system.output import run_script

SIZED = tuple(f"baselines/{name}.yaml" for name in ("logistic", "mlp", "cnn", "lstm", "shallow", "tree"))
GROUPS = {
    "best": ("best/{data}_tt.yaml", ("best/{data}_eq.yaml", *SIZED)),
    "large": ("best/eq.yaml", ("best/tt.yaml", *SIZED[1:])),
    "small": ("eq.yaml", SIZED),
}
"""Name: the reference, and the networks beside it."""
RECIPES = {"mnist": "mnist", "fashion_mnist": "fashion", "cifar10": "cifar", "CIFAR-10 (JPEG)": "cifar"}
"""Title of the data: the word for it in the names of best/."""
COLOURS = ("--data.patch_size=8",)
"""For images of 32 x 32, which patches of 7 do not tile."""
QUICK = ("--trainer.max_epochs=1", "--data.batch_size=200")
IMAGES = 1000


class Data(NamedTuple):
    """Images by the name in the table."""

    title: str
    options: tuple[str, ...]
    shape: tuple[int, int, int]
    classes: int


class Entry(NamedTuple):
    """A network on a data set."""

    data: Data
    group: str
    config: str
    words: tuple[str, ...]
    """of ``fit``"""

    @property
    def experiment(self) -> str:
        data = "".join(c for c in self.data.title.lower() if c.isalnum())
        return f"baselines_{data}_{self.group}_{self.config.removesuffix('.yaml').replace('/', '_')}"


def read_data(entries: list[str]) -> list[Data]:
    """The data of ``--data``; ``UserError`` for a folder that is none."""
    found = []
    for entry in entries:
        title, equals, folder = entry.partition("=")
        named = is_named(title) and title != "image_folder"
        if not named and not Path(folder, "train").is_dir():
            raise UserError(f"--data has {entry!r}: it must be a data set, NAME=FOLDER, or TITLE=FOLDER with train/")
        name = title if named else "image_folder"
        spec = describe_dataset(name, Path(folder))
        options = (f"--data.dataset={name}", "--data.offline_fallback=null", "--data.validation=0")
        root = (f"--data.root={folder}",) if equals else ()
        small = spec.shape[1:] == (28, 28)
        found.append(Data(title, (*options, *root, *(() if small else COLOURS)), spec.shape, spec.classes))
    return found


def parameters(config: dict[str, Any], data: Data, **size: int) -> int:
    """Parameters of the network of a configuration on this data, with another width or rank."""
    model = config["model"]
    geometry = {name: config["data"][name] for name in ("patch_size", "stride", "padding", "order", "repeat")}
    sites, patch_dim = Patching(**geometry).shape(*data.shape)
    with torch.device("meta"):
        features = _class(model["features"])(patch_dim, **_arguments(model["features"]))
        arguments = _arguments(model["format"]) | size
        format = _class(model["format"])(sites, features.mode_size, data.classes, **arguments)
    return sum(p.numel() for part in (features, format) for p in part.parameters())


def widest(count: Callable[[int], int], budget: int) -> int:
    """The largest size with at most ``budget`` parameters, and 1 if none has so few."""
    low, high = 1, 2
    while count(high) <= budget:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if count(middle) <= budget else (low, middle)
    return low


def words_of(config: str, reference: str, group: str, base: tuple[str, ...]) -> tuple[str, ...]:
    """Options of a network of configs/baselines/ beside a reference.

    In the group "best", a network with a weight tensor is the reference with another format; a tree reads its own
    patches, because its sites must be a power of two. Any other network has the images, labels and batches of the
    reference.
    """
    own, whole = configuration(("--config", config, *base)), configuration(("--config", reference, *base))
    if group == "best" and "Pixels" not in own["model"]["features"]["class_path"]:
        same = {"model.format": own["model"]["format"]}
        if config.endswith("tree.yaml"):
            same |= {f"data.{name}": own["data"][name] for name in ("patch_size", "stride", "padding")}
        config = reference
    else:
        same = {f"data.{name}": whole["data"][name] for name in ("augmentation", "batch_size")}
        same |= {f"model.{name}": whole["model"][name] for name in ("pixel_mean", "label_smoothing")}
    return ("--config", config, *base, *(f"--{name}={json.dumps(value)}" for name, value in same.items()))


def plan(data: list[Data], groups: list[str], configs: list[str] | None, more: tuple[str, ...]) -> list[Entry]:
    """The networks of each group on each data set, or those of ``configs``."""
    entries = []
    for each in data:
        for group in groups:
            reference, others = GROUPS[group]
            if group == "best" and each.title not in RECIPES:
                raise UserError(f"there is no recipe best/ of {each.title}; there is one of {', '.join(RECIPES)}")
            base = (*each.options, *more)
            named = [c.format(data=RECIPES.get(each.title)) for c in (reference, *(configs or (reference, *others)))]
            budget = parameters(configuration(("--config", named[0], *base)), each)
            for config in named[1:]:
                words = words_of(config, named[0], group, base) if config in SIZED else ("--config", config, *base)
                if config.endswith("cnn.yaml"):
                    words += (f"--model.format.init_args.channels={each.shape[0]}",)
                content = configuration(words)
                own = _arguments(content["model"]["format"])
                size = next((name for name in ("width", "rank") if name in own), None)
                if config in SIZED and size is not None:
                    value = widest(lambda w, c=content, d=each, s=size: parameters(c, d, **{s: w}), budget)
                    words += (f"--model.format.init_args.{size}={value}",)
                entries.append(Entry(each, group, config, words))
    return entries


@torch.no_grad()
def images_per_second(run: Run, rounds: int) -> float:
    """Of the trained network on patches in memory: the median over the rounds."""
    network = run.network()
    patches = network.patching(torch.randint(0, 256, (IMAGES, *network.image_shape), dtype=torch.uint8)) / 255
    threads, seconds = torch.get_num_threads(), []
    torch.set_num_threads(1)
    try:
        for _ in range(rounds + 1):
            started = time.perf_counter()
            network(patches)
            seconds.append(time.perf_counter() - started)
    finally:
        torch.set_num_threads(threads)
    return IMAGES / statistics.median(seconds[1:])


def collect(entries: list[Entry], outcomes: list[Outcome], rounds: int) -> list[dict[str, Any]]:
    """A row for each network with a result."""
    rows = []
    for entry in entries:
        runs = [outcome.run for outcome in outcomes if outcome.job.experiment == entry.experiment and outcome.run]
        if not runs:
            continue
        results = [run.result for run in runs]
        ranks = [result["rank"] for result in results if result["rank"]]
        rows.append(
            {"data": entry.data.title, "group": entry.group, "config": entry.config}
            | {"parameters": results[0]["parameters"], "seeds": [r["seed"] for r in results]}
            | {name: [r["metrics"][f"{name}/acc"] for r in results] for name in ("train", "test")}
            | {"seconds": [r["seconds"] - r["rank_check_seconds"] for r in results]}
            | {"images_per_second": images_per_second(runs[0], rounds)}
            | {"certified": [str(min(rank["certified"])) for rank in ranks if "certified" in rank]}
            | {"width_10_percent": [rank["width_10_percent"] for rank in ranks if "width_10_percent" in rank]}
            | {"width_images": next((rank["width_images"] for rank in ranks if "width_images" in rank), None)}
            | {"weights_sha256": [r["weights_sha256"] for r in results]}
            | {"result_sha256": [hashlib.sha256(run.result_file.read_bytes()).hexdigest() for run in runs]}
        )
    return rows


def rows_before(file: Path, about: dict[str, str]) -> list[dict[str, Any]]:
    """The rows of a table that the same machine and torch have made.

    Raises:
        UserError: there is no such file, or another machine or torch has made it.
    """
    if not file.is_file():
        raise UserError(f"--update: there is no {file}")
    before = read_json(file)
    for name, value in about.items():
        if before.get(name) != value:
            raise UserError(
                f"--update: {file} is of the {name} {before.get(name)}, this is {value}: use another --output"
            )
    return before["rows"]


def merged(before: list[dict[str, Any]], rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """New rows take the places of those of the same network on the same data; others come last."""
    return list({(row["data"], row["group"], row["config"]): row for row in (*before, *rows)}.values())


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown, a line for each network on each data set."""
    lines = [
        "| data | config | parameters | seeds | train acc. | test acc. | training, s | images/s | certified CP-rank "
        "| width at 10 % |",
        "|---" * 10 + "|",
    ]
    for row in rows:
        widths = row["width_10_percent"]
        cells = [
            row["data"],
            row["config"],
            f"{row['parameters']:,}",
            str(len(row["seeds"])),
            percent(row["train"]),
            percent(row["test"]),
            f"{statistics.median(row['seconds']):,.0f}",
            f"{row['images_per_second']:,.0f}",
            f">= {in_figures(min(map(int, row['certified'])))}" if row["certified"] else "no weight tensor",
            f"{statistics.median(widths):g} of {row['width_images']}" if widths else "",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--data", nargs="+", default=["mnist", "fashion_mnist"], metavar="NAME[=FOLDER]")
    parser.add_argument("--groups", nargs="+", default=list(GROUPS), choices=GROUPS)
    parser.add_argument("--configs", nargs="+", help="of fit; default: those of the groups")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side")
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--output", type=Path, default=Path("results/baselines"))
    parser.add_argument("--update", action="store_true", help="keep the other rows of OUTPUT.json")
    parser.add_argument("--finished", action="store_true", help="make no run")
    parser.add_argument("--quick", action="store_true")
    options, more = parser.parse_known_args()
    if options.quick:
        options.data, options.groups, options.seeds, options.rounds = ["mnist5k"], ["small"], 1, 2
        options.configs, more = ["eq.yaml", "baselines/cnn.yaml"], [*QUICK, *more]
    file, about = options.output.with_suffix(".json"), {"machine": cpu_name(), "torch": torch.__version__}
    before = rows_before(file, about) if options.update else []
    words = ("--rank_check.every_n_epochs=0", "--figures=false", "--wandb.mode=disabled", *more)
    entries = plan(read_data(options.data), options.groups, options.configs, words)
    jobs = [Job(entry.experiment, entry.words, seed) for seed in range(options.seeds) for entry in entries]
    if options.finished:
        configurations = configurations_of(jobs)
        jobs = [job for job in jobs if run_of(job, configurations[job[:2]]).state == "finished"]
    outcomes = make_runs(jobs, options.jobs)
    rows = merged(before, collect(entries, outcomes, options.rounds))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, about | {"rows": rows})
    write_whole(options.output.with_suffix(".md"), table(rows).encode())
    print(table(rows), end="")
    sys.exit(faults_of(outcomes))


def _class(part: dict[str, Any]) -> Any:
    module, _, name = part["class_path"].rpartition(".")
    return getattr(import_module(module), name)


def _arguments(part: dict[str, Any]) -> dict[str, Any]:
    return dict(part.get("init_args") or {})


if __name__ == "__main__":
    run_script(main)
