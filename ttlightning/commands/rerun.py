"""``rerun``: run a finished run again, and say whether it came out the same, to the bit or at all.

A new run is made from the old one's ``config.yaml``. The two are compared by what is in their directories: the SHA-256
of the weights, and every value in ``metrics.csv``.
"""

import contextlib
import csv
import itertools
import math
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
import yaml
from jsonargparse import Namespace

from ttlightning.commands.parser import VerbParser
from ttlightning.data.datasets import DatasetName, default_root, describe_dataset, fetch_dataset, read_dataset
from ttlightning.errors import UserError
from ttlightning.runs.files import read_json, write_json
from ttlightning.runs.masking import refuse_masked
from ttlightning.runs.provenance import changes_bits, differences, provenance, unknown
from ttlightning.runs.run import create_run_directory, runs_root
from ttlightning.runs.trust import config_text, option_for, read_mapping, take_trusted, trusting
from ttlightning.system import signals
from ttlightning.system.paths import command, expanded

BITWISE: Final = "bitwise identical"
METRICS: Final = "identical metrics"
DIFFERENT: Final = "different"
EXIT_CODES: Final = {BITWISE: 0, METRICS: 3, DIFFERENT: 1}


class Comparison(NamedTuple):
    """How two runs of one configuration came out."""

    verdict: str
    step: int | None = None
    """first step at which a logged value differs"""
    value: str = ""
    """name of the value that differs most"""
    largest: float = 0.0
    """that difference, relative to the larger of the two"""

    def __str__(self) -> str:
        if self.verdict != DIFFERENT:
            return self.verdict
        if self.step is None:
            return "different: the runs logged different things"
        return f"different: first at step {self.step}, at most {self.largest:.1e} relative, in {self.value}"


def main(args: Sequence[str]) -> int:
    """0 where the weights are the same to the bit, 3 where only the metrics are, 1 where those differ."""
    parser = VerbParser("rerun", "Run a finished run again and compare: exit code 0 bitwise, 3 metrics, 1 different.")
    parser.add_argument("run", type=Path, help="run directory, such as runs/eq/0")
    parser.add_argument("--check_only", action="store_true", help="compare environment and data; run nothing")
    parser.add_argument("--root", type=Path | None, help="folder of the data sets, if not that of the run")
    parser.add_argument("--trust", type=str | None, help="classes and modules that its configuration may name, a.B,c")
    words, names = take_trusted(args)
    options = parser.parse_args(words)
    with trusting(names):
        return check(options) if options.check_only else rerun(options, names)


def check(options: Namespace) -> int:
    """Compare what the run was made from with what is here; 1 where something differs that can change the weights."""
    run: Path = options.run
    config, _ = read_run(run, options.root)
    before = read_provenance(run)
    now = here(config, before, fetch=False)
    show(before, now)
    return int(any(difference.changes_bits for difference in differences(before, now)))


def rerun(options: Namespace, trusted: Sequence[str] = ()) -> int:
    """Run again in a new directory, and compare."""
    from ttlightning.commands.studies import check_config  # needs the command line, which needs this

    run: Path = options.run
    config, result = read_run(run, options.root)
    refuse_masked(config, f"start it with it: {command('fit', '--config', run / 'config.yaml')} --{{}} ...")
    check_config(yaml.safe_dump(config, sort_keys=False), run / "config.yaml")
    before = read_provenance(run)
    show(before, here(config, before, fetch=True))
    again = create_run_directory(runs_root(), config["experiment"])
    (again / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    # The directory is one whose run was stopped before it began: fit fills it.
    trust = option_for(trusted).split()
    code = start(sys.executable, "-m", "ttlightning", "fit", "--ckpt_path", str(again), *trust)
    if code:
        print(f"ttlightning: the rerun in {again} ended with exit code {code}", file=sys.stderr)
        return code
    outcome = compare(run, again)
    now = read_json(again / "provenance.json")
    changed, silent = differences(before, now), unknown(before, now)
    record = {
        "rerun_of": str(run),
        **outcome._asdict(),
        "weights_sha256": [result["weights_sha256"], read_json(again / "result.json")["weights_sha256"]],
        "differences": {d.name: [d.then, d.now] for d in changed},
        "unknown": silent,
    }
    write_json(again / "rerun.json", record)
    print(f"verdict     {outcome}: {run} and {again}")
    if outcome.verdict != BITWISE:
        print(
            f"            {cause([d.name for d in changed if d.changes_bits], [n for n in silent if changes_bits(n)])}"
        )
    return EXIT_CODES[outcome.verdict]


def cause(known: Sequence[str], silent: Sequence[str]) -> str:
    """Why the weights can have come out otherwise, as far as the two records say."""
    if known:
        return f"what differed beforehand and can change the weights: {', '.join(known)}"
    if silent:
        return f"what can have differed, and the run's provenance.json does not speak of: {', '.join(silent)}"
    return "nothing that is recorded and can change the weights differed: the cause is another"


def start(*words: str) -> int:
    """Exit code of a command in a session of its own, to which the signals that come here are passed on, each once."""
    early: list[int] = []
    process: subprocess.Popen[bytes] | None = None

    def pass_on(number: int) -> None:
        if process is None:
            early.append(number)
        else:
            process.send_signal(number)

    with signals.given_to(pass_on):
        process = subprocess.Popen(words, env=os.environ | signals.followed(), start_new_session=True)
        for number in early:
            process.send_signal(number)
        code = process.wait()
    return code if code >= 0 else 128 - code


def read_run(run: Path, root: Path | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Configuration and result of a finished run, the data looked for in ``root`` or where this machine has them.

    Raises:
        UserError: where the run is not finished, or is no run.
    """
    if not (run / "config.yaml").is_file():
        raise UserError(f"{run} is not a run directory: it has no config.yaml; name one such as runs/eq/0")
    if not (run / "result.json").is_file():
        raise UserError(
            f"{run} is not finished, it has no result.json; it goes on with: {command('fit', '--ckpt_path', run)}"
        )
    try:
        config = read_mapping(config_text(run / "config.yaml"), run / "config.yaml")
        place = config["data"]["root"]
    except (KeyError, TypeError) as fault:
        raise UserError(f"{run / 'config.yaml'} is not a run's configuration") from fault
    if root is not None:
        config["data"]["root"] = str(root)
    elif place is not None and not os.path.isdir(os.path.expanduser(place)):  # noqa: PTH111, PTH112, ~ may be nowhere
        config["data"]["root"] = None  # another machine's folder: data are known by their content
    return config, read_json(run / "result.json")


def read_provenance(run: Path) -> dict[str, Any]:
    """What a run says it was made from, of this version or an older one; ``UserError`` where it does not say it."""
    record = read_json(run / "provenance.json")
    kinds = {"dataset": dict, "world_size": int, "threads": int}
    if wrong := [name for name, kind in kinds.items() if not isinstance(record.get(name), kind)]:
        raise UserError(f"{run / 'provenance.json'} is not what a run leaves: it has no {wrong[0]}")
    return record


def here(config: dict[str, Any], before: dict[str, Any], fetch: bool) -> dict[str, Any]:
    """The provenance that a rerun would have here; what follows from the configuration is as before.

    Args:
        fetch: whether to download data that are not here.
    """
    data = config["data"]
    root = expanded(data["root"]) if data["root"] else default_root()
    name: DatasetName = data["dataset"]
    fallback: DatasetName | None = data["offline_fallback"]
    if fetch:
        fetch_dataset(name, root, fallback)
    images = read_dataset(name, root, fallback)
    dataset = before["dataset"] | {"name": images.name, "sha256": images.sha256()}
    if "classes" in dataset:
        dataset["classes"] = list(describe_dataset(images.name, root).names)
    record = provenance(dataset, before["world_size"])
    chosen = "OMP_NUM_THREADS" in os.environ or before["threads"] > 1  # one thread follows from the sizes
    return record | {"threads": torch.get_num_threads() if chosen else before["threads"]}


def show(before: dict[str, Any], now: dict[str, Any]) -> None:
    """A line for each difference, what can change the weights first; a line for what cannot be compared."""
    found, silent = differences(before, now), unknown(before, now)
    if not found:
        print("environment and data are as they were, as far as they are recorded")
    for difference in found:
        effect = "can change the weights" if difference.changes_bits else "changes no result"
        print(f"differs     {difference} ({effect})", flush=True)
    if silent:
        print(f"unknown     the run's provenance.json does not speak of {', '.join(silent)}", flush=True)


def compare(first: Path, second: Path) -> Comparison:
    """How two finished runs of one configuration came out."""
    one, two = (read_json(run / "result.json") for run in (first, second))
    different = list(_different_values(first / "metrics.csv", second / "metrics.csv"))
    same_metrics = not different and one["metrics"] == two["metrics"]
    if same_metrics:
        same_weights = one["weights_sha256"] == two["weights_sha256"]
        return Comparison(BITWISE if same_weights else METRICS)
    if not different:
        return Comparison(DIFFERENT)
    name, largest = max(((name, size) for _, name, size in different), key=lambda entry: entry[1])
    return Comparison(DIFFERENT, different[0][0], name, largest)


def _different_values(first: Path, second: Path) -> Iterator[tuple[int, str, float]]:
    """(step, name, relative difference) of every value in two tables that is not the same text."""
    with contextlib.ExitStack() as files:
        tables = (csv.DictReader(files.enter_context(path.open(newline=""))) for path in (first, second))
        for one, two in itertools.zip_longest(*tables, fillvalue={}):
            for name in sorted({*one, *two}):
                a, b = one.get(name) or "", two.get(name) or ""
                if a != b:
                    yield int(float(one.get("step") or two["step"])), name, _relative(a, b)


def _relative(a: str, b: str) -> float:
    """|a - b| over the larger; infinite where one is missing or not finite."""
    if not a or not b or not (math.isfinite(float(a)) and math.isfinite(float(b))):
        return math.inf
    return abs(float(a) - float(b)) / max(abs(float(a)), abs(float(b)))
