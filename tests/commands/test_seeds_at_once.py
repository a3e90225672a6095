"""Several seeds at once are the runs of several commands, to the bit; they stop and go on together."""

import os
import signal
import subprocess
import time

import pytest
from conftest import assert_one_line

from ttlightning.commands import seeds_at_once
from ttlightning.runs.run import Run

SMALL = ("--config", "debug.yaml", "--data.dataset", "mnist")


def runs_of(command) -> dict[int, Run]:
    return {int(path.name.partition("-")[0]): Run(path) for path in (command.folder / "runs/debug").glob("*-*")}


def test_they_are_the_runs_of_single_commands(command):
    """Each with its own directory; a finished one is kept, the same command makes the rest."""
    done = command("fit", *SMALL, "--seed_everything=5", "--seeds_at_once=2")
    single = Run(command.finished(*SMALL, "--seed_everything=6"))
    runs = runs_of(command)
    assert sorted(runs) == [5, 6]
    assert runs[6].result["weights_sha256"] == single.result["weights_sha256"]
    assert runs[6].result["metrics"] == single.result["metrics"]
    assert runs[5].result["weights_sha256"] != single.result["weights_sha256"]
    assert runs[5].result["seed"] == 5
    said = [line.split(maxsplit=2) for line in done.stdout.splitlines()]
    assert {tuple(words[:2]) for words in said} >= {("seed", "5"), ("seed", "6"), ("mean", "test/acc")}
    assert sum(words[:1] != ["seed"] and words[:1] != ["mean"] for words in said) <= 1  # that of the import
    assert "seeds_at_once" not in runs[5].config_file.read_text()
    times = {seed: run.result_file.stat().st_mtime_ns for seed, run in runs.items()}
    command("fit", *SMALL, "--seed_everything=5", "--seeds_at_once", "2")
    assert {seed: run.result_file.stat().st_mtime_ns for seed, run in runs_of(command).items()} == times


MISTAKES = [
    (["--seeds_at_once=0"], "--seeds_at_once is '0', it must be a number of runs from 1 to 64"),
    (["--seeds_at_once"], "--seeds_at_once is '', it must be a number of runs from 1 to 64"),
    (["--seeds_at_once=2", "--run=x"], "--run is for a single run, and with --seeds_at_once each seed has a run"),
    (["--seeds_at_once=2", "--ckpt_path=last"], "--ckpt_path is for a single run"),
    (["--seeds_at_once=2", "--trainer.devices=2"], "trainer.devices is 2, and --seeds_at_once trains each seed in one"),
    (["--seeds_at_once=2", "--data.batch_sizes=2"], "batch_sizes"),
]


@pytest.mark.parametrize(("words", "message"), MISTAKES)
def test_mistakes_leave_nothing_behind(command, words, message):
    assert_one_line(command("fit", *SMALL, *words, code=2).stderr, message)
    assert not (command.folder / "runs").exists()


def test_it_is_no_key_of_a_configuration(command):
    (command.folder / "own.yaml").write_text("seeds_at_once: 3\n")
    refused = command("fit", *SMALL, "--config=own.yaml", code=2)
    assert_one_line(refused.stderr, "seeds_at_once is in a configuration: give --seeds_at_once on the command line")


def test_a_run_that_fails_is_the_exit_code(command, monkeypatch):
    """Its line is said with its seed; the others have their results."""
    original = seeds_at_once.start

    def start(main, seed, words):
        return original(main, seed, [*words, "--data.batch_size=0"] if seed == 1 else words)

    monkeypatch.setattr(seeds_at_once, "start", start)
    done = command("fit", *SMALL, "--seeds_at_once=2", code=2)
    assert any(line.startswith("seed 1 ") and "batch_size is 0" in line for line in done.stdout.splitlines())
    assert sorted(seed for seed, run in runs_of(command).items() if run.state == "finished") == [0]


@pytest.mark.slow
@pytest.mark.nightly
def test_they_stop_and_go_on_together(command):
    """A signal stops all with checkpoints; the same command ends with the weights of runs that were not stopped."""
    words = ("fit", *SMALL, "--seeds_at_once=2", "--trainer.max_epochs=60")
    process = command.start(*words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while len(list((command.folder / "runs").glob("debug/*/checkpoints/last.ckpt"))) < 2:
        assert process.poll() is None
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGTERM)
    assert "the same command goes on" in process.communicate(timeout=120)[1]
    assert process.returncode == 143
    assert {run.state for run in runs_of(command).values()} == {"begun"}
    command(*words)
    whole = Run(command.finished(*SMALL, "--seed_everything=1", "--trainer.max_epochs=60"))
    assert runs_of(command)[1].result["weights_sha256"] == whole.result["weights_sha256"]
