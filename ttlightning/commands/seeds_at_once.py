"""``fit --seeds_at_once S``: S runs of one configuration side by side, with the seeds s, ..., s + S - 1.

The libraries are imported once, then the process forks: each run is a process of its own, and computes what a single
``fit`` with its seed computes, to the bit. Its path follows from configuration and seed, as in a study. Finished runs
are kept, and runs that were begun go on, so a command that was stopped is given again as it was.
"""

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, NoReturn

from ttlightning.commands.arguments import experiment_name
from ttlightning.commands.studies import configuration, percent
from ttlightning.errors import UserError, exit_code
from ttlightning.runs.identity import run_name
from ttlightning.runs.run import Run, check_experiment_name, runs_root
from ttlightning.system import signals

OPTION: Final = "--seeds_at_once"
REFUSED: Final = {
    "--run": "each seed has a run directory of its own",
    "--ckpt_path": "runs that were begun go on by themselves",
}


Command = Callable[[Sequence[str]], None]


class Child(NamedTuple):
    """A forked process."""

    seed: int
    process: int
    output: int
    """descriptor from which its output is read"""


def is_asked(args: Sequence[str]) -> bool:
    """Whether the words of ``fit`` ask for several seeds; help and a printed configuration are the parser's."""
    options = {word.partition("=")[0] for word in args}
    return OPTION in options and not options & {"-h", "--help", "--print_config"}


def main(args: Sequence[str], command: Command) -> int:
    """Make the runs; 0 if all have a result, else the first exit code of those that have none.

    ``command`` runs one command of the package; each child calls it with the words of its ``fit``.
    """
    words, count = taken(args)
    for word in words:
        if (reason := REFUSED.get(option := word.partition("=")[0])) is not None:
            raise UserError(f"{option} is for a single run, and with {OPTION} {reason}: leave it out")
    if not hasattr(os, "fork"):
        raise UserError(f"{OPTION} needs a system that forks processes, which this one does not: start them one by one")
    config = configuration(words)
    check_for_one_process(config)
    experiment = check_experiment_name(config["experiment"] or experiment_name(configs_of(words)))
    config = configuration(("--experiment", experiment, *words))
    first = config["seed_everything"]
    runs = {seed: Run(runs_root() / experiment / run_name(config, seed)) for seed in range(first, first + count)}
    codes = make(command, runs, [*words, "--experiment", experiment])
    print(summary(runs))
    return next((code for code in codes if code), 0)


def taken(args: Sequence[str]) -> tuple[list[str], int]:
    """The words without the option, and its value."""
    kept: list[str] = []
    value = ""
    words = iter(args)
    for word in words:
        option, equals, after = word.partition("=")
        if option == OPTION:
            value = after if equals else next(words, "")
        else:
            kept.append(word)
    if not value.isdecimal() or not 1 <= int(value) <= 64:
        raise UserError(f"{OPTION} is {value!r}, it must be a number of runs from 1 to 64")
    return kept, int(value)


def check_for_one_process(config: dict[str, Any]) -> None:
    """Raise ``UserError`` where a run would start processes itself."""
    trainer = config["trainer"]
    for name in ("devices", "num_nodes"):
        if trainer[name] not in (1, "1"):
            raise UserError(
                f"trainer.{name} is {trainer[name]}, and {OPTION} trains each seed in one process: use 1, or start the "
                "seeds one by one"
            )


def configs_of(words: Sequence[str]) -> list[str]:
    """Values of ``--config``."""
    pairs = zip(words, [*words[1:], ""], strict=True)
    split = [(word.partition("="), after) for word, after in pairs]
    return [value or after for (option, _, value), after in split if option in ("--config", "-c")]


def make(command: Command, runs: dict[int, Run], words: Sequence[str]) -> list[int]:
    """Fork a process for every run that has no result, wait for all; their exit codes."""
    children: list[Child] = []
    asked: list[int] = []

    def stop(number: int) -> None:
        asked.append(number)
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child.process, number)

    with signals.given_to(stop):
        for seed, run in runs.items():
            if not asked and run.state != "finished":
                more = (f"--seed_everything={seed}", "--run", str(run), "--trainer.enable_progress_bar=false")
                children.append(start(command, seed, ["fit", *words, *more]))
        # Threads begin after the last fork: a process must not fork while another thread holds a lock.
        readers = [threading.Thread(target=show, args=(child.output, child.seed), daemon=True) for child in children]
        for thread in readers:
            thread.start()
        codes = [os.waitstatus_to_exitcode(os.waitpid(child.process, 0)[1]) for child in children]
        for thread in readers:
            thread.join()
    if asked:
        print("stopped; the same command goes on", file=sys.stderr)
        return [exit_code(signals.signal.Signals(asked[0]))]
    return [code if code >= 0 else 128 - code for code in codes]


def start(command: Command, seed: int, words: list[str]) -> Child:
    """Fork a process that runs one command."""
    sys.stdout.flush()
    sys.stderr.flush()
    reader, writer = os.pipe()
    process = os.fork()
    if not process:
        os.close(reader)
        run_as_child(command, words, writer)
    os.close(writer)
    return Child(seed, process, reader)


def run_as_child(command: Command, words: list[str], output: int) -> NoReturn:
    """The command in this forked process, which ends here; its output goes to the parent."""
    code = 1
    try:
        os.setsid()  # the terminal's Ctrl-C reaches the parent, which passes it on
        for number, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(output, number)
            errors = "surrogateescape" if name == "stdout" else "backslashreplace"
            setattr(sys, name, os.fdopen(number, "w", 1, encoding="utf-8", errors=errors, closefd=False))
        signals.begin_in_child()
        try:
            command(words)
            code = 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def show(reader: int, seed: int) -> None:
    """Print a child's output, each line with its seed."""
    with os.fdopen(reader, encoding="utf-8", errors="backslashreplace") as lines:
        for line in lines:
            print(f"seed {seed:<4}   {line.rstrip()}", flush=True)


def summary(runs: dict[int, Run]) -> str:
    """A line for each run with a result, and the mean accuracy over them."""
    return "\n".join(_summary(runs))


def _summary(runs: dict[int, Run]) -> Iterator[str]:
    accuracies = []
    for seed, run in runs.items():
        if run.state == "finished":
            accuracy = run.result["metrics"].get("test/acc")
            accuracies += [] if accuracy is None else [accuracy]
            shown = "" if accuracy is None else f"test/acc {accuracy:.4f}  "
            yield f"seed {seed:<4}   {shown}{Path(run)}"
    if len(accuracies) > 1:
        yield f"mean        test/acc {percent(accuracies)} %"
