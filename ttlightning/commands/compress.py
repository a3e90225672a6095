"""``compress``: round a trained chain to a smaller TT-rank, and write a run that trains on."""

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from rich.console import Console
from rich.table import Table

from ttlightning.commands.parser import VerbParser
from ttlightning.errors import UserError
from ttlightning.runs.run import Run, check_experiment_name, checkpoint_file, runs_root
from ttlightning.runs.trust import OPTION, take_trusted
from ttlightning.system import signals
from ttlightning.system.output import print_whole
from ttlightning.system.paths import command, expanded

if TYPE_CHECKING:
    from ttlightning.formats import ScoreTensor
    from ttlightning.networks.network import Network

METRICS: Final = ("plain", "data")


class Line(NamedTuple):
    """A compressed network, and how near it is."""

    rank: int
    metric: str
    format: "ScoreTensor"
    relative_error: float
    """of the weight tensor, in its metric"""
    accuracy: float


def main(args: Sequence[str]) -> int:
    parser = VerbParser(
        "compress",
        "Round a trained tensor train to a smaller TT-rank. Prints accuracy and error against rank in two metrics, of "
        "the tensor and of the data, and writes a run, which fit --ckpt_path trains on.",
    )
    parser.add_argument("source", type=Path, help="a run directory or a checkpoint")
    parser.add_argument("--rank", type=int, required=True, help="TT-rank of the run that is written")
    parser.add_argument("--metric", type=Literal["plain", "data"], default="data", help="in which it is near")
    parser.add_argument("--to", type=Literal["equal", "different"] | None, help="kind of cores; default: as they are")
    parser.add_argument("--output", type=Path | None, help="directory of the run; default: a new one under runs/")
    parser.add_argument("--table", type=bool, default=True, help="false: only the rank that is written")
    parser.add_argument("--test", type=bool, default=False, help="true: accuracies are of the test set")
    parser.add_argument("--root", type=Path | None, help="folder of the data sets, if not that of the run")
    parser.add_argument(OPTION, type=str | None, help="class of the checkpoint's own, which may be imported")
    others, trusted = take_trusted(args)
    options = parser.parse_args(others)
    compress(
        options.source, options.rank, options.metric, options.to, options.output, options.table, options.test,
        options.root, trusted,
    )  # fmt: skip
    return 0


def compress(
    source: Path,
    rank: int,
    metric: str = "data",
    to: str | None = None,
    output: Path | None = None,
    table: bool = True,
    test: bool = False,
    root: Path | None = None,
    trusted: Sequence[str] = (),
) -> Run:
    """Write the run of the compressed network, and print the table; the run.

    Raises:
        UserError: also where the format has no rounding, or the data are not those of the run.
    """
    file = checkpoint_file(source)
    with signals.importing():  # Lightning, for the data
        from ttlightning.runs.checkpoints import weights_sha256
        from ttlightning.runs.compressed import Origin, read_trained, write_run
        from ttlightning.runs.trained_formats import weight_tensor_of
        from ttlightning.runs.trained_networks import read_network
    content, config = read_trained(file)
    run = _new_run(output)
    network = read_network(file, trusted)
    weight_tensor_of(network.format, file)
    to = to or next(iter(network.format.compressed_to), "different")
    network.format.check_compression(rank, to)
    data = _read_data(file, content, root, trusted)
    if data.has_lengths:
        raise UserError(f"{file} is for sequences of different lengths: a rounding is for one length, so there is none")
    started = time.perf_counter()
    with Console(stderr=True).status("rounding"):
        lines = _lines(network, data, _ranks(network.format.rank, rank) if table else [rank], to, metric, table, test)
    seconds = time.perf_counter() - started
    [chosen] = [line for line in lines if (line.rank, line.metric) == (rank, metric)]
    part = "test" if test else "val" if data.has_validation() else "train"
    _show(lines, part)
    run = run or Run.create(runs_root(), check_experiment_name(f"{config['experiment']}-rank{rank}"))
    origin = Origin(
        str(file), weights_sha256(content["state_dict"]), rank, metric, to, chosen.relative_error
    )  # fmt: skip
    metrics = {f"{part}/acc": chosen.accuracy}
    write_run(run, file, chosen.format, origin, data.describe(), metrics, seconds)
    print(f"compressed  {run} ({chosen.format.name}, TT-rank {rank}, {metric} metric, {seconds:.1f} s)")
    print(f"            trains on with: {command('fit', '--ckpt_path', run.path, '--trainer.max_epochs', '2')}")
    return run


def _new_run(output: Path | None) -> Run | None:
    """The run to write, if a place is named; ``UserError`` where something is there."""
    if output is None:
        return None
    run = Run(expanded(output))
    if run.state != "new":
        raise UserError(f"{run} holds a run and is left as it is; name another folder with --output")
    return run


def _ranks(trained: int, asked: int) -> list[int]:
    """1, 2, 4, ... up to the trained rank, and the one that is asked for."""
    powers = [2**k for k in range(trained.bit_length()) if 2**k < trained]
    return sorted({*powers, asked, trained})


def _read_data(file: Path, content: dict[str, Any], root: Path | None, trusted: Sequence[str]) -> Any:
    """The data module of the run, set up for training."""
    from ttlightning.runs.checkpoints import RUN_KEY
    from ttlightning.training.datamodule import PatchDataModule

    given = {} if root is None else {"root": root}
    data = PatchDataModule.load_from_checkpoint(file, trust=trusted, **given)
    data.prepare_data()
    data.setup("fit")
    described, before = data.describe(), content.get(RUN_KEY, {}).get("data_sha256")
    if before not in (None, described["sha256"]):
        raise UserError(
            f"{file} was trained on data of SHA-256 {before[:12]}..., {described['name']} here has "
            f"{described['sha256'][:12]}...; name the folder of those with --root"
        )
    return data


def _lines(
    network: "Network", data: Any, ranks: Iterable[int], to: str, metric: str, both: bool, test: bool
) -> list[Line]:
    """The compressed networks, and how near they are."""
    import torch

    from ttlightning.formats.rounding import relative_error, with_ridge
    from ttlightning.rank.width.tensor import second_moments

    format, made = network.format, []
    cores = [core.double() for core in format.cores()]
    with torch.no_grad():
        total, images = torch.zeros((), dtype=torch.float64), 0
        for batch in data.unaugmented_dataloader():
            total = total + second_moments(network.embed(batch.patches)) * len(batch.labels)
            images += len(batch.labels)
        metrics = {"plain": torch.eye(format.mode_size, dtype=torch.float64).expand(format.sites, -1, -1)}
        metrics["data"] = with_ridge(total / images)
        for rank in ranks:
            for name in METRICS if both else (metric,):
                small = format.compressed(rank, metrics[name], to)
                error = relative_error(cores, [core.double() for core in small.cores()], metrics[name])
                made.append(Line(rank, name, small, error, 0.0))
        scored = data.test_dataloader() if test else data.val_dataloader() or data.unaugmented_dataloader()
        right = torch.zeros(len(made), dtype=torch.int64)
        for batch in scored:
            features = network.embed(batch.patches)
            for number, line in enumerate(made):
                right[number] += (line.format.scaled_scores(features)[0].argmax(1) == batch.labels).sum()
    return [line._replace(accuracy=int(r) / len(scored.labels)) for line, r in zip(made, right, strict=True)]


def _show(lines: Sequence[Line], part: str) -> None:
    """Print the table: a line for each rank, two columns for each metric."""
    found = {(line.rank, line.metric): line for line in lines}
    names = list(dict.fromkeys(line.metric for line in lines))
    table = Table()
    for title in ("rank", "parameters", *(f"{name}: {part}/acc" for name in names), *(f"{n}: error" for n in names)):
        table.add_column(title, justify="right")
    for rank in dict.fromkeys(line.rank for line in lines):
        row = [found[rank, name] for name in names]
        numbers = [f"{line.accuracy:.4f}" for line in row] + [f"{line.relative_error:.1e}" for line in row]
        table.add_row(str(rank), f"{row[0].format.parameter_count():,}", *numbers)
    print_whole(table)
