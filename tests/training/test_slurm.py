"""Under SLURM: nothing is begun from what another job left behind, and wrong numbers of tasks are one line."""

import os
import shutil
import signal

import pytest
from conftest import assert_one_line

SMALL = ("--config=debug.yaml", "--data.dataset=mnist", "--data.batch_size=20")
ONE_TASK = {
    "SLURM_NTASKS": "1", "SLURM_NTASKS_PER_NODE": "1", "SLURM_NNODES": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0", "SLURM_JOB_ID": "123456", "SLURM_JOB_NAME": "train", "SLURM_STEP_ID": "0",
}  # fmt: skip


def test_slurm_jobs_ignore_checkpoints_in_the_working_directory(command):
    """Neither by fit, nor by the test that ends it; and the same of an OnExceptionCheckpoint's file."""
    command.finished(*SMALL)
    command("fit", *SMALL, "--seed_everything=1", "--trainer.max_epochs=2")
    shutil.copy(command.folder / "runs/debug/1/checkpoints/last.ckpt", command.folder / "hpc_ckpt_1.ckpt")
    shutil.copy(command.folder / "hpc_ckpt_1.ckpt", command.folder / "on_exception.ckpt")
    command.environment |= ONE_TASK
    callback = ("--trainer.callbacks+=OnExceptionCheckpoint", "--trainer.callbacks.dirpath=.")
    for number, words in ((2, ()), (3, callback)):
        command("fit", *SMALL, *words)
        here, there = (command.result(f"debug/{n}") for n in (number, 0))
        assert here["weights_sha256"] == there["weights_sha256"]
        assert here["metrics"] == there["metrics"]
        assert here["epochs"] == 1


def test_usr1_leaves_nothing_in_the_working_directory_and_queues_nothing(command, at_step, tmp_path):
    (tmp_path / "scontrol").write_text(f"#!/bin/sh\ntouch {tmp_path}/queued\n")
    (tmp_path / "scontrol").chmod(0o755)
    command.environment |= ONE_TASK | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    before = signal.getsignal(signal.SIGUSR1)
    at_step(3, lambda: os.kill(os.getpid(), signal.SIGUSR1))
    done = command("fit", *SMALL, code=143)
    assert "stopped by SIGUSR1 after step 4 of epoch 1, with a checkpoint" in done.stderr
    assert [path.name for path in command.folder.iterdir()] == ["runs"]
    assert not (tmp_path / "queued").exists()
    assert signal.getsignal(signal.SIGUSR1) == before
    command("fit", "--ckpt_path=runs/debug/0")
    command.finished(*SMALL)
    assert command.result("debug/0")["weights_sha256"] == command.result("debug/1")["weights_sha256"]


@pytest.mark.parametrize(
    ("variables", "options", "message"),
    [
        ({"SLURM_NTASKS": "4", "SLURM_NTASKS_PER_NODE": ""}, (), "submit with --ntasks-per-node instead of --ntasks"),
        ({"SLURM_NTASKS": "4", "SLURM_NTASKS_PER_NODE": "4"}, (), "another number of processes (tasks: 4"),
        ({}, ("--trainer.devices=2",), "submit with --nodes=1 --ntasks-per-node=2"),
        (
            {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "1", "SLURM_NNODES": "2"},
            ("--trainer.devices=2",),
            "(tasks: 2, on each node: 1, nodes: 2) than the trainer, 2 on each of 1 nodes",
        ),
        (
            {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_PROCID": ""},
            ("--trainer.devices=2",),
            "SLURM_PROCID is not set: several processes under SLURM must be started by srun",
        ),
        ({"SLURM_NTASKS": "x"}, (), "SLURM_NTASKS is 'x', it must be a number"),
        ({}, ("--trainer.plugins+=SLURMEnvironment",), "set its auto_requeue to false"),
    ],
)
def test_wrong_numbers_of_tasks_are_one_line(command, variables, options, message):
    """As srun and sbatch set them, an empty one taken away."""
    for name, value in (ONE_TASK | variables).items():
        if value:
            command.environment[name] = value
    done = command("fit", *SMALL, "--trainer.accelerator=cpu", *options, code=2)
    assert_one_line(done.stderr, message)
    assert not (command.folder / "runs").exists()


def test_one_process_of_a_batch_script_with_several_tasks(command):
    """Started without srun it is the only one."""
    command.environment |= ONE_TASK | {"SLURM_NTASKS": "4", "SLURM_NTASKS_PER_NODE": "4"}
    del command.environment["SLURM_STEP_ID"]
    command("fit", *SMALL)
    assert command.result("debug/0")["epochs"] == 1
