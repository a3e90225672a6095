"""``rerun``: fit a finished run's configuration again, and say whether the result is the same, to the bit or at all.

The two runs are compared by the SHA-256 of their weights and by every logged value.
"""

import contextlib
import itertools
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from ttlightning.commands.parser import VerbParser
from ttlightning.errors import Fault, UserError
from ttlightning.runs.files import write_json
from ttlightning.runs.identity import SAME_RUN, Changes, first_difference
from ttlightning.runs.masking import refuse_masked
from ttlightning.runs.provenance import changes_bits, differences, provenance, unknown
from ttlightning.runs.run import Run, runs_root
from ttlightning.runs.trust import take_trusted, trusting
from ttlightning.system import signals
from ttlightning.system.output import printable
from ttlightning.system.paths import command, expanded

BITWISE: Final = "bitwise identical"
METRICS: Final = "identical metrics"
DIFFERENT: Final = "different"
EXIT_CODES: Final = {BITWISE: 0, METRICS: 3, DIFFERENT: 1}


class Comparison(NamedTuple):
    """The verdict on two runs of one configuration."""

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
    """0 where the weights are the same to the bit, 3 where only the metrics are, 1 where those differ.

    With ``--check_only``: 1 where something differs beforehand that can change the weights, else 0.
    """
    parser = VerbParser("rerun", "Run a finished run again and compare: exit code 0 bitwise, 3 metrics, 1 different.")
    parser.add_argument("run", type=Path, help="run directory, such as runs/eq/0")
    parser.add_argument("--check_only", action="store_true", help="compare environment and data; run nothing")
    parser.add_argument("--root", type=Path | None, help="folder of the data sets, if not that of the run")
    parser.add_argument("--trust", type=str | None, help="classes and modules that its configuration may name, a.B,c")
    words, names = take_trusted(args)
    options = parser.parse_args(words)
    if not options.check_only:
        try:
            return EXIT_CODES[run_again(options.run, options.root, names).verdict]
        except NotFinished as fault:
            print(f"ttlightning: {printable(str(fault))}", file=sys.stderr)
            return fault.exit_code
    with trusting(names):
        run = Run.open(options.run, finished=True)
        before = read_provenance(run)
        now = here(data_options(run, options.root), before, fetch=False)
        show(before, now)
        return int(any(difference.changes_bits for difference in differences(before, now)))


def check_configuration(run: Run) -> None:
    """Say where this version completes the run's configuration otherwise; ``UserError`` where it refuses it."""
    from ttlightning.commands.studies import configuration  # imports Lightning, which --check_only needs not

    refuse_masked(run.config, f"start it with it: {command('fit', '--config', run.config_file)} --{{}} ...")
    complete = configuration(("--run", str(run)))
    if (other := first_difference(run.config, complete, SAME_RUN | {Changes.RECORD})) is not None:
        line = f"differs     configuration: the run has {other} (this version completes it otherwise)"
        print(printable(line), flush=True)


class NotFinished(Fault):
    """The second run ended before its result."""

    def __init__(self, run: Run, exit_code: int) -> None:
        super().__init__(f"the rerun in {run} ended with exit code {exit_code}")
        self.exit_code = exit_code


def run_again(path: Path, root: Path | None = None, trusted: Sequence[str] = ()) -> Comparison:
    """Run the finished run at ``path`` again, saying what differs beforehand, and compare the two.

    Raises:
        UserError: no finished run, or its configuration is refused.
        NotFinished: the second run has no result.
    """
    with trusting(trusted):
        run = Run.open(path, finished=True)
        if run.is_compressed:
            raise UserError(f"{run} was compressed and not trained: compress its source again, {_source_of(run)}")
        data = data_options(run, root)
        check_configuration(run)
        before = read_provenance(run)
        show(before, here(data, before, fetch=True))
        return rerun(run, data["root"])


def _source_of(run: Run) -> str:
    """The command that compresses the source of a compressed run again."""
    origin = run.provenance["compressed"]
    return command("compress", *(str(origin["checkpoint"]), "--rank", str(origin["rank"]), "--metric", origin["metric"],
                                 "--to", origin["to"]))  # fmt: skip


def rerun(run: Run, root: str | None) -> Comparison:
    """Fit the run's configuration into a new run of its experiment, with the data in ``root``; compare the two."""
    again = Run.create(runs_root(), run.config["experiment"])
    options = ("--config", str(run.config_file), f"--data.root={root or 'null'}", "--run", str(again))
    code = start(sys.executable, "-m", "ttlightning", "fit", *options)
    if code:
        with contextlib.suppress(OSError):  # it is kept where fit has begun
            again.path.rmdir()
        raise NotFinished(again, code)
    outcome = compare(run, again)
    before, now = run.provenance, again.provenance
    changed, silent = differences(before, now), unknown(before, now)
    record = {
        "rerun_of": str(run),
        **outcome._asdict(),
        "weights_sha256": [run.result["weights_sha256"], again.result["weights_sha256"]],
        "differences": {d.name: [d.then, d.now] for d in changed},
        "unknown": silent,
    }
    write_json(again.rerun_file, record)
    print(f"verdict     {outcome}: {run} and {again}")
    if outcome.verdict != BITWISE:
        known = [difference.name for difference in changed if difference.changes_bits]
        print(f"            {cause(known, [name for name in silent if changes_bits(name)])}")
    return outcome


def cause(known: Sequence[str], silent: Sequence[str]) -> str:
    """The possible causes of other weights: entries that differ, else entries that the older record lacks."""
    if known:
        return f"what differed beforehand and can change the weights: {', '.join(known)}"
    if silent:
        return f"what can have differed, and the run's provenance.json does not speak of: {', '.join(silent)}"
    return "nothing that is recorded and can change the weights differed: the cause is another"


def start(*words: str) -> int:
    """Run a command in a session of its own, passing each signal on to it once; its exit code."""
    early: list[int] = []
    send: Callable[[int], None] = early.append
    with signals.given_to(lambda number: send(number)):
        process = subprocess.Popen(words, env=os.environ | signals.followed(), start_new_session=True)
        send = process.send_signal
        for number in early:
            send(number)
        code = process.wait()
    return code if code >= 0 else 128 - code


def data_options(run: Run, root: Path | None) -> dict[str, Any]:
    """The run's data options, with the folder ``root``, or where this machine keeps data if it lacks the run's folder.

    Raises:
        UserError: where the configuration is not that of a run.
    """
    config = run.config
    try:
        data = dict(config["data"])
        kept = data["root"]
    except (KeyError, TypeError, ValueError) as fault:
        raise UserError(f"{run.config_file} is not a run's configuration") from fault
    if root is not None:
        data["root"] = str(root)
    elif kept is not None and not os.path.isdir(os.path.expanduser(kept)):  # noqa: PTH111, PTH112, ~ may be nowhere
        data["root"] = None  # another machine's folder: data are known by their content
    return data


def read_provenance(run: Run) -> dict[str, Any]:
    """The provenance that a run recorded, in this version or an older one; ``UserError`` where it is not complete."""
    record = run.provenance
    kinds = {"dataset": dict, "world_size": int, "threads": int}
    if wrong := [name for name, kind in kinds.items() if not isinstance(record.get(name), kind)]:
        raise UserError(f"{run.provenance_file} is not what a run leaves: it has no {wrong[0]}")
    return record


def here(data: dict[str, Any], before: dict[str, Any], fetch: bool) -> dict[str, Any]:
    """The provenance that a rerun would have here; world size and threads follow from the configuration.

    Args:
        data: data options of the run.
        before: provenance of the run.
        fetch: whether to download data that are not here.
    """
    with signals.importing():
        import torch

        from ttlightning.data.datasets import default_root, describe_dataset, fetch_dataset, read_dataset
        from ttlightning.data.sequences import SEQUENCES, read_sequences
        from ttlightning.data.windows import windows_of_config
    root = expanded(data["root"]) if data["root"] else default_root()
    name, fallback = data["dataset"], data["offline_fallback"]
    if name in SEQUENCES:
        images, spec, _ = read_sequences(name, root, windows_of_config(data), data["longest"])
    else:
        if fetch:
            fetch_dataset(name, root, fallback)
        images = read_dataset(name, root, fallback, anew=True)
        spec = describe_dataset(images.name, root)
    dataset = before["dataset"] | {"name": images.name, "sha256": images.sha256()}
    if "classes" in dataset:
        dataset["classes"] = list(spec.names)
    record = provenance(dataset, before["world_size"]).content
    chosen = "OMP_NUM_THREADS" in os.environ or before["threads"] > 1  # one thread follows from the sizes
    return record | {"threads": torch.get_num_threads() if chosen else before["threads"]}


def show(before: dict[str, Any], now: dict[str, Any]) -> None:
    """Print a line for each difference, those that can change the weights first, and a line for unknown entries."""
    changed, silent = differences(before, now), unknown(before, now)
    if not changed:
        print("environment and data are as they were, as far as they are recorded")
    for difference in changed:
        effect = "can change the weights" if difference.changes_bits else "changes no result"
        print(printable(f"differs     {difference} ({effect})"), flush=True)
    if silent:
        print(f"unknown     the run's provenance.json does not speak of {', '.join(silent)}", flush=True)


def compare(first: Run, second: Run) -> Comparison:
    """The outcomes of two finished runs of one configuration, compared by metrics and weights."""
    one, two = first.result, second.result
    if different := list(_different_values(first, second)):
        _, name, largest = max(different, key=lambda entry: entry[2])
        return Comparison(DIFFERENT, different[0][0], name, largest)
    if one["metrics"] != two["metrics"]:
        return Comparison(DIFFERENT)
    return Comparison(BITWISE if one["weights_sha256"] == two["weights_sha256"] else METRICS)


def _different_values(first: Run, second: Run) -> Iterator[tuple[int, str, float]]:
    """(step, name, relative difference) of every value in the metrics of two runs that is not the same text."""
    for one, two in itertools.zip_longest(first.metrics, second.metrics, fillvalue={}):
        for name in sorted({*one, *two}):
            a, b = one.get(name) or "", two.get(name) or ""
            if a != b:
                yield int(float(one.get("step") or two["step"])), name, _relative(a, b)


def _relative(a: str, b: str) -> float:
    """|a - b| over the larger; infinite where one is missing or not finite."""
    if not a or not b or not (math.isfinite(float(a)) and math.isfinite(float(b))):
        return math.inf
    return abs(float(a) - float(b)) / max(abs(float(a)), abs(float(b)))
