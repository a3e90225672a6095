"""The batch scripts of configs/slurm, with stand-ins for SLURM and Python; scripts/slurm_check.sh has the real ones."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ttlightning.runs.beginning import steps_of

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "configs/slurm").glob("*.sbatch"))
STANDINS = {
    "python": 'echo "$STEPS"',
    "srun": 'echo "$@" >> calls; exit $CODE',
    "scontrol": 'echo scontrol "$@" >> calls',
}


@pytest.fixture(params=RECIPES, ids=lambda file: file.stem)
def start(request, tmp_path):
    """Start a recipe as SLURM does: exit code and calls, for the steps of its run, the end of fit, and its restarts."""
    for name, text in STANDINS.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    given = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "9", "RUN": "my runs/3", "RUNS": "my runs",
             "SLURM_ARRAY_JOB_ID": "8", "SLURM_ARRAY_TASK_ID": "3"}  # fmt: skip

    def start(steps: int, code: int, restarts: int) -> tuple[int, str]:
        (tmp_path / "calls").write_text("")
        more = {"STEPS": str(steps), "CODE": str(code), "SLURM_RESTART_COUNT": str(restarts)}
        words = ["bash", str(request.param), "--config", "a b.yaml"]
        done = subprocess.run(words, cwd=tmp_path, env=given | more, check=False)
        return done.returncode, (tmp_path / "calls").read_text()

    return start


def test_a_stopped_run_is_queued_again_and_other_ends_are_the_jobs(start, tmp_path):
    code, calls = start(-1, 143, 0)
    fit, requeue = calls.splitlines()
    assert (code, requeue) == (0, "scontrol requeue 9")
    assert fit.startswith("python -m ttlightning fit --config a b.yaml ")
    assert fit.endswith("--run my runs/3")
    for failure in (1, 2, 137):
        assert start(40, failure, 1) == (failure, f"{fit}\n")
    assert start(40, 0, 2) == (0, f"{fit}\n")
    (tmp_path / "my runs/3").mkdir()
    (tmp_path / "my runs/3/result.json").write_text("{}")
    assert start(40, 1, 3) == (0, "")


def test_the_third_stop_without_a_step_is_the_last(start):
    """Whether fit was stopped with a code or killed: a start without a code is seen by the next one."""
    for restarts, steps in enumerate((-1, -1, 5, 5, 5)):
        assert start(steps, 143 if restarts else 138, restarts)[1].endswith("requeue 9\n")
    assert start(5, 143, 5) == (1, "")
    assert start(5, 143, 0)[1].endswith("requeue 9\n")  # submitted anew


def test_steps_of_a_run_that_has_none(tmp_path):
    assert steps_of(tmp_path / "3") == -1


def test_the_recipes_differ_in_their_runs_only():
    """Each is a file that one may copy, so what they share is written in each."""
    texts = [file.read_text().partition('mkdir -p "$(dirname')[2].splitlines() for file in RECIPES]
    assert len(texts) == 3
    for lines in zip(*texts, strict=True):
        assert len({line for line in lines if not line.startswith("srun ")}) <= 1


@pytest.mark.nightly
@pytest.mark.skipif(
    not (shutil.which("slurmctld") and shutil.which("munged")) or os.geteuid() != 0,
    reason="needs root and the Debian packages slurm-wlm and munge",
)
def test_the_recipes_on_a_slurm_of_this_machine():
    words = (
        "--only",
        "one limits nodes",
        "--preemptions",
        "4",
        "--minutes",
        "4",
        "--fit",
        "--config debug.yaml --trainer.max_epochs 60",
    )
    done = subprocess.run(
        [ROOT / "scripts/slurm_check.sh", *words, "--python", sys.executable],
        env=os.environ | {"WANDB_MODE": "disabled"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    rows = [line.split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")][1:]
    assert done.returncode == 0, done.stdout + done.stderr
    assert [row[0].partition(" --")[0] for row in rows] == [
        "| one.sbatch", "| one.sbatch, a limit of 4 minutes", "| one.sbatch, no time for a step",
        "| one.sbatch, a mistake", "| two_nodes.sbatch",
    ]  # fmt: skip
    assert rows[0][1].startswith("4: TERM USR1 requeue power")
