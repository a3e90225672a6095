"""A run that was stopped goes on to the bits of one that was not, whatever stopped it and wherever."""

import errno
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
import wandb
from conftest import Killed, clean_environment, contents, file_contents, kill, read_wandb

from ttlightning.runs.files import write_whole
from ttlightning.runs.run import Run
from ttlightning.training.classifier import Classifier
from ttlightning.training.loggers import MetricsTable
from ttlightning.training.restoring import _try_a_step

LONG = (
    "--config=debug.yaml", "--data.dataset=mnist", "--data.batch_size=20", "--trainer.max_epochs=3",
    "--model.patch_dropout=0.2", "--trainer.log_every_n_steps=2", "--rank_check.every_n_epochs=2",
)  # fmt: skip
FIGURES = 2
"""Rows that W&B has beside those of metrics.csv: objects after training, and after the test."""

STEPS_OF_AN_EPOCH = 9  # 180 training images


@pytest.mark.parametrize(
    ("options", "stops"),
    [
        (("--data.steps_per_execution=4", "--last_checkpoint.every_n_steps=4"), (7, 15, 22)),
        (("--last_checkpoint.every_n_steps=3", "--data.microbatches=2", "--model.scheduler=ExponentialLR",
          "--model.scheduler.gamma=0.9", "--model.scheduler_interval=epoch", "--data.augmentation.elastic=1",
          "--data.augmentation.epochs=2"), (10, 20)),
    ],
)  # fmt: skip
def test_killed_and_resumed_to_the_same_bits(command, options, stops):
    command.finished(*LONG, *options)
    words = ("fit", *LONG, *options)
    for stop in stops:
        command.killed(stop, *words)
        words = ("fit", "--ckpt_path=runs/debug/1")
    command(*words)
    whole, resumed = (contents(command.folder / f"runs/debug/{n}") for n in (0, 1))
    assert resumed == whole
    assert len(list((command.folder / "runs/debug").iterdir())) == 2
    provenance = json.loads((command.folder / "runs/debug/1/provenance.json").read_text())
    assert [entry["changed"] for entry in provenance["resumed"]] == [{}] * len(stops)


@pytest.mark.parametrize(
    ("number", "step"),
    [(signal.SIGTERM, 5), (signal.SIGINT, STEPS_OF_AN_EPOCH - 1), (signal.SIGTERM, 3 * STEPS_OF_AN_EPOCH - 1)],
)
def test_a_signal_stops_after_the_step_with_a_checkpoint(command, at_step, number, step):
    """In the middle of an epoch, at its last step, at the last of all."""
    command.finished(*LONG)
    at_step(step, lambda: os.kill(os.getpid(), number))
    before = signal.getsignal(number)
    done = command("fit", *LONG, code=128 + number)
    assert signal.getsignal(number) == before
    assert f"stopped by {signal.Signals(number).name} after step {step + 1} of epoch" in done.stderr
    assert "goes on with: python -m ttlightning fit --ckpt_path runs/debug/1" in done.stderr
    checkpoint = torch.load(command.folder / "runs/debug/1/checkpoints/last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == step + 1
    command("fit", "--config=debug.yaml", *LONG[1:], "--ckpt_path=last")
    assert contents(command.folder / "runs/debug/1") == contents(command.folder / "runs/debug/0")


def test_killed_after_training_but_before_the_result(command, monkeypatch):
    command.finished(*LONG)
    with monkeypatch.context() as patch:
        patch.setattr(Classifier, "test_step", lambda *_: kill())
        with pytest.raises(Killed):
            command("fit", *LONG)
    command("fit", "--ckpt_path=runs/debug/1")
    assert contents(command.folder / "runs/debug/1") == contents(command.folder / "runs/debug/0")


def test_a_process_killed_by_sigkill_resumes(command):
    """SIGKILL to a real process in the middle of training; and the same W&B run goes on."""
    words = (*LONG, "--trainer.max_epochs=10", "--last_checkpoint.every_n_steps=3")
    process = command.start("fit", *words, environment={"WANDB_MODE": "offline"}, stdout=-3, stderr=-3)
    run = command.folder / "runs/debug/0"
    deadline = time.monotonic() + 240
    while not (run / "checkpoints/last.ckpt").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGSTOP)  # not to end before it is killed
    refused = command("fit", "--ckpt_path=runs/debug/0", code=2)
    assert "runs/debug/0 is being written by another process" in refused.stderr
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (run / "result.json").exists()
    command.environment["WANDB_MODE"] = "offline"
    wandb.teardown()  # its service, if a test before has started it, lives in the folder of that test
    command("fit", "--ckpt_path=runs/debug/0")
    command.environment["WANDB_MODE"] = "disabled"
    command.finished(*words)
    assert contents(run) == contents(command.folder / "runs/debug/1")
    logs = list(run.glob("wandb/offline-run-*/*.wandb"))
    identifier = json.loads((run / "provenance.json").read_text())["wandb"]
    assert len(logs) >= 2
    assert {log.name for log in logs} == {f"run-{identifier}.wandb"}
    last = max(logs, key=lambda log: log.stat().st_mtime_ns)
    rows = sum("history" in record for record in read_wandb(last)[1])
    assert rows == (run / "metrics.csv").read_text().count("\n") - 1 + FIGURES


def test_a_finished_run_is_left_alone(command):
    command.finished(*LONG)
    before = file_contents(command.folder)
    for words in ((), LONG):
        done = command("fit", *words, "--ckpt_path=runs/debug/0", code=2)
        assert "runs/debug/0 is finished" in done.stderr
    assert file_contents(command.folder) == before


@pytest.mark.parametrize("name", ["SOAP", "Lion", "Shampoo", "AdaFactor", "Prodigy"])
def test_an_optimizer_of_another_package_goes_on_to_the_same_bits(command, name):
    """SOAP is that of docs/optimization.md. They keep lists of matrices, counts in groups, options in attributes."""
    pytest.importorskip("pytorch_optimizer", reason="of the extra bench")
    words = (*LONG, f"--model.optimizer=pytorch_optimizer.{name}", "--model.optimizer.lr=3e-3")
    trust = "--trust=pytorch_optimizer,torch.bfloat16,torch.dtype"
    command.finished(*words)
    command.killed(13, "fit", *words)
    command("fit", "--ckpt_path=runs/debug/1", trust)
    whole, resumed = (contents(command.folder / f"runs/debug/{n}") for n in (0, 1))
    assert resumed == whole


def test_a_trial_step_leaves_the_optimizer_as_it_is():
    """With attributes and hooks of its own, and a schedule that has wrapped its step."""

    class Counting(torch.optim.SGD):
        def __init__(self, parameters):
            super().__init__(parameters, lr=0.1)
            self.counts, self.watched = [0], self.param_groups[0]["params"]

        def step(self, closure=None):
            self.counts[0] += 1
            self.watched[0].data += self.counts[0]
            return super().step(closure)

    parameter = torch.nn.Parameter(torch.ones(2))
    optimizer = Counting([parameter])
    torch.optim.lr_scheduler.StepLR(optimizer, 1)
    calls = []
    optimizer.register_step_post_hook(lambda *_: calls.append(1))
    _try_a_step(optimizer)
    assert (optimizer.counts, calls, parameter.tolist(), parameter.grad) == ([0], [], [1.0, 1.0], None)
    optimizer.step()
    assert (optimizer.counts, bool(calls), parameter.tolist()) == ([1], True, [2.0, 2.0])
    optimizer.lock = threading.Lock()  # which nothing copies
    _try_a_step(optimizer)
    assert (optimizer.counts, parameter.tolist()) == ([1], [2.0, 2.0])


def test_a_run_without_a_checkpoint_and_another_configuration(command):
    command.killed(1, "fit", *LONG)
    done = command("fit", *LONG, "--seed_everything=5", "--ckpt_path=runs/debug/0", code=2)
    assert "runs/debug/0 was begun with another configuration, it has seed_everything: 0" in done.stderr


def test_another_configuration_makes_a_new_run(command):
    command.killed(12, "fit", *LONG)
    before = (command.folder / "runs/debug/0/metrics.csv").read_bytes()
    command("fit", *LONG, "--ckpt_path=runs/debug/0", "--trainer.max_epochs=2")
    assert command.result("debug/1")["epochs"] == 2
    assert (command.folder / "runs/debug/0/metrics.csv").read_bytes() == before


def test_a_loss_that_is_not_finite(command):
    """The last checkpoint holds weights from before, and the run says where it is."""
    done = command("fit", *LONG, "--model.optimizer.lr=1e30", "--last_checkpoint.every_n_steps=1", code=1)
    assert "ttlightning: " in done.stderr
    assert "try a smaller model.optimizer.lr" in done.stderr or "weights are no longer finite" in done.stderr
    assert "runs/debug/0 has" in done.stderr
    assert "Traceback" not in done.stderr
    for file in (command.folder / "runs/debug/0/checkpoints").glob("*.ckpt"):
        state = torch.load(file, weights_only=True)["state_dict"]
        assert all(tensor.isfinite().all() for tensor in state.values())
    assert not (command.folder / "runs/debug/0/result.json").exists()


def test_a_full_disk_is_one_line(command):
    """The kernel itself refuses: no file of this process may grow beyond 8 KiB, and a checkpoint is larger."""
    limit = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (8192, resource.RLIM_INFINITY));"
        "from ttlightning.commands.main import main; main(sys.argv[1:])"
    )
    words, environment = [sys.executable, "-c", limit, "fit", *LONG], clean_environment(**command.environment)
    done = subprocess.run(words, cwd=command.folder, env=environment, capture_output=True, text=True)
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 8192
    assert done.returncode == 1, done.stderr
    assert os.strerror(errno.EFBIG) in done.stderr
    assert "runs/debug/0 has no checkpoint yet; it goes on with" in done.stderr
    assert "Traceback" not in done.stderr
    assert list((command.folder / "runs/debug/0/checkpoints").iterdir()) == []
    command("fit", "--ckpt_path=runs/debug/0")
    command.finished(*LONG)
    assert contents(command.folder / "runs/debug/0") == contents(command.folder / "runs/debug/1")


def test_a_write_that_fails_leaves_the_older_file(tmp_path, monkeypatch):
    file = tmp_path / "last.ckpt"
    write_whole(file, b"older")

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            write_whole(file, b"newer")
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]
    assert file.read_bytes() == b"older"


def test_a_process_that_dies_while_it_writes_leaves_the_older_file(tmp_path):
    file = tmp_path / "last.ckpt"
    write_whole(file, b"older")
    dies = "import os; from pathlib import Path; from ttlightning.runs import files; os.fsync = lambda _: os._exit(9);"
    died = subprocess.run([sys.executable, "-c", dies + f"files.write_whole(Path({str(file)!r}), b'newer')"])
    assert died.returncode == 9
    assert file.read_bytes() == b"older"
    write_whole(file, b"newer")  # what the dead process left is not in the way
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]


def metrics_table(run: Path) -> MetricsTable:
    table = MetricsTable()
    table.begin(Run(run))
    return table


def test_the_table_keeps_its_first_rows(tmp_path):
    run = tmp_path / "debug" / "0"
    run.mkdir(parents=True)
    table = metrics_table(run)
    for step in range(4):
        table.log_metrics({"loss": 1 / (step + 3)}, step)
    two = (run / "metrics.csv").read_text()
    table.log_metrics({"acc": 0.5}, 4)
    whole = (run / "metrics.csv").read_text()

    again = metrics_table(run)
    again.keep(4)
    assert (run / "metrics.csv").read_text() == two
    assert again.rows == 4
    again.log_metrics({"acc": 0.5}, 4)
    assert (run / "metrics.csv").read_text() == whole
    metrics_table(run).keep(0)
    assert not (run / "metrics.csv").exists()
