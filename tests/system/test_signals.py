"""A signal at any moment, to one process or to all: the exit code that queues a job again, one line, nothing lost."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import clean_environment, contents

from ttlightning import PatchDataModule
from ttlightning.commands import rerun
from ttlightning.system import signals
from ttlightning.training.callbacks import progress, run_directory
from ttlightning.training.callbacks.rank_check import RankCheck
from ttlightning.training.callbacks.run_directory import RunDirectory
from ttlightning.training.classifier import Classifier

LONG = (
    "--config=debug.yaml", "--data.dataset=mnist", "--data.batch_size=20", "--trainer.max_epochs=3",
    "--model.patch_dropout=0.2", "--trainer.log_every_n_steps=2",
)  # fmt: skip
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGUSR1: 143}


def descendants(parent: int) -> dict[int, str]:
    """Processes below this one, with their commands."""
    found = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            above = int(status.read_text().rpartition(")")[2].split()[1])
            command = (status.parent / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except (OSError, ValueError):  # gone meanwhile
            continue
        if above == parent:
            found |= {int(status.parent.name): command} | descendants(int(status.parent.name))
    return found


def wait_until(condition, seconds=200) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def python(code: str) -> "subprocess.Popen[str]":
    head = "import os, signal, subprocess, sys, time\nfrom ttlightning.system import signals\n"
    words = [sys.executable, "-c", head + code]
    return subprocess.Popen(words, env=clean_environment(), stdout=-1, stderr=-1, text=True)


# One process, at every moment


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("number", CODES)
def test_a_signal_during_the_imports(command, number, late):
    """As soon as it listens, or while Lightning is imported, which the first line says."""
    process = command.start("fit", "--config=debug.yaml", stdout=-1, stderr=-1)
    caught = Path(f"/proc/{process.pid}/status")

    def listens() -> bool:
        lines = (line.split() for line in caught.read_text().splitlines())
        return bool(int(next(words[1] for words in lines if words[0] == "SigCgt:"), 16) >> (signal.SIGUSR1 - 1) & 1)

    wait_until(listens)
    if late:
        assert "importing PyTorch Lightning" in process.stdout.readline()
    process.send_signal(number)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == CODES[number]
    assert errors == f"ttlightning: stopped by {number.name} before anything began\n"
    assert output == "" or (not late and output.endswith("importing PyTorch Lightning\n"))
    assert list(command.folder.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "chosen"),
    [(signal.SIGTERM, slice(None)), (signal.SIGINT, slice(2, 4)), (signal.SIGUSR1, slice(5, 7))],
)
def test_a_signal_at_every_stage_of_a_run(command, monkeypatch, number, chosen):
    """Where nothing was written nothing is; elsewhere the run goes on to the same bits, or it was at its end."""
    command.finished(*LONG)
    whole, count = contents(command.folder / "runs/debug/0"), 0
    stages = [
        (PatchDataModule, "setup", "", None),
        (RunDirectory, "_claim", "", "no checkpoint yet"),
        (run_directory, "open_wandb", "", "no checkpoint yet"),
        (Classifier, "validation_step", " after step 9 of epoch 1, with a checkpoint", "its last checkpoint"),
        (RankCheck, "on_train_end", " after training, with a checkpoint", "its last checkpoint"),
        (RankCheck, "on_fit_end", "", "its last checkpoint"),
        (Classifier, "test_step", "", "its last checkpoint"),
    ]
    for owner, name, where, kept in stages[chosen]:
        usual = getattr(owner, name)

        def stopped(*arguments, usual=usual, **words):
            os.kill(os.getpid(), number)
            return usual(*arguments, **words)

        with monkeypatch.context() as patch:
            patch.setattr(owner, name, stopped)
            done = command("fit", *LONG, code=CODES[number])
        last = done.stderr.splitlines()[-1]
        assert last.startswith(f"ttlightning: stopped by {number.name}{where}")
        assert "Traceback" not in done.stderr
        count += kept is not None
        run = command.folder / f"runs/debug/{count}"
        assert len(list(run.parent.iterdir())) == count + 1, name
        if kept:
            assert f"has {kept}; it goes on with: python -m ttlightning fit --ckpt_path runs/debug/{count}" in last
            command("fit", f"--ckpt_path=runs/debug/{count}")
            assert contents(run) == whole, name


def test_a_signal_while_the_result_is_written(command, monkeypatch):
    """Too late: the run ends as it would have."""
    usual = run_directory.write_json

    def stopped(path, content):
        if path.name == "result.json":
            os.kill(os.getpid(), signal.SIGTERM)
        usual(path, content)

    monkeypatch.setattr(run_directory, "write_json", stopped)
    done = command("fit", *LONG)
    assert done.stderr.endswith("SIGTERM: stopping when the result is written; once more stops at once\n")
    assert command.result("debug/0")["epochs"] == 3


def test_repeated_signals_count_once_and_a_later_one_ends_at_once():
    code = """
signals.listen()
signals.say_at_last(lambda: "all is well")
signals.hold("after this step")
for pause in (0, 0.3, 0.9):
    time.sleep(pause)
    os.kill(os.getpid(), signal.SIGTERM)
    print("still here", flush=True)
time.sleep(60)
"""
    process = python(code)
    output, errors = process.communicate(timeout=60)
    assert output.startswith("still here\nstill here\n")
    assert errors == (
        "ttlightning: SIGTERM: stopping after this step; once more stops at once\n"
        "ttlightning: stopped at once by another SIGTERM; all is well\n"
    )
    assert process.returncode == 143


def test_a_signal_during_a_long_call_of_a_library():
    code = """
import hashlib, threading
signals.NOT_REACHED = 0.3
signals.listen()
threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)
"""
    process = python(code)
    assert process.communicate(timeout=60) == ("", "ttlightning: stopped by SIGTERM\n")
    assert process.returncode == 143


def test_a_signal_while_python_ends():
    """After everything that was registered later has been done; what is registered earlier stands for Python's end."""
    code = """
import atexit
for pause in (0, 1.2):
    atexit.register(lambda pause=pause: (time.sleep(pause), os.kill(os.getpid(), signal.SIGTERM)))
signals.listen(importing=True)
with signals.listening():
    pass
sys.exit(130)
"""
    process = python(code)
    assert process.communicate(timeout=60) == ("", "")
    assert process.returncode == 130


def test_handlers_are_those_from_before(command):
    before = {number: signal.getsignal(number) for number in CODES}
    command("rank", "--help")
    assert {number: signal.getsignal(number) for number in CODES} == before
    assert signals.asked() is None


# Many processes


@pytest.mark.parametrize("number", CODES)
def test_rerun_passes_signals_on_once(number):
    code = f"""
import os, signal, sys, time
seen = []
signal.signal({int(number)}, lambda *_: seen.append(1))
os.kill(os.getppid(), {int(number)})
time.sleep(0.5)
sys.exit(10 * (os.getsid(0) == os.getpid()) + len(seen))
"""
    assert rerun.start(sys.executable, "-c", code) == 11


def test_children_of_a_killed_process_stop():
    code = """
child = "import time; from ttlightning.system import signals; signals.listen(); print(1, flush=True); time.sleep(60)"
subprocess.Popen([sys.executable, "-c", child], env=os.environ | signals.followed())
time.sleep(60)
"""
    process = python(code)
    assert process.stdout.readline() == "1\n"
    process.kill()
    errors = process.communicate(timeout=30)[1]  # until the child has let go of both
    assert f"the process that started this one ({process.pid}) is gone" in errors


def test_other_ranks_end_with_rank_zero():
    """It waits for it in vain, inside torch; no checkpoint can be written."""
    code = """
child = "from ttlightning.system import signals; import time; signals.NOT_REACHED = 0.2; signals.listen();"
child += "print(signals.is_launched_rank(), flush=True); signals.hold('later'); time.sleep(60)"
subprocess.Popen([sys.executable, "-c", child], env=os.environ | signals.followed() | {"LOCAL_RANK": "1"})
time.sleep(60)
"""
    process = python(code)
    assert process.stdout.readline() == "True\n"
    process.kill()
    assert process.communicate(timeout=30) == ("", "")


@pytest.mark.slow
@pytest.mark.nightly
def test_torchruns_agent_is_killed(command):
    """Its ranks do not train on as orphans: they stop at one step, with a checkpoint that goes on."""
    words = (*LONG, "--trainer.max_epochs=2000", "--trainer.devices=2", "--trainer.accelerator=cpu",
             "--trainer.enable_progress_bar=false")  # fmt: skip
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "ttlightning"]
    with (command.folder / "log").open("w") as log:
        environment = clean_environment(**command.environment)
        agent = subprocess.Popen([*launch, "fit", *words], cwd=command.folder, env=environment, stdout=log, stderr=log)
    wait_until((command.folder / "runs/debug/0/checkpoints/last.ckpt").exists)
    ranks = [number for number, line in descendants(agent.pid).items() if "-m ttlightning fit" in line]
    assert len(ranks) == 2
    agent.kill()
    agent.wait()
    wait_until(lambda: not any(map(is_alive, ranks)), 60)
    said = (command.folder / "log").read_text()
    assert "stopped by SIGTERM after step" in said
    assert "Traceback" not in said


# W&B's service is a process of its own


def test_training_continues_without_the_wandb_service(command, at_step):
    command.finished(*LONG)

    def kill_services():
        services = [number for number, line in descendants(os.getpid()).items() if "wandb-core" in line]
        assert services
        for number in services:
            os.kill(number, signal.SIGKILL)

    at_step(5, kill_services)
    command.environment["WANDB_MODE"] = "offline"
    done = command("fit", *LONG)
    assert contents(command.folder / "runs/debug/1") == contents(command.folder / "runs/debug/0")
    lines = [line for line in done.stderr.splitlines() if "W&B" in line]
    assert len(lines) == 1
    assert "its record of the run stops here" in lines[0]
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "everywhere", "options"),
    [
        (signal.SIGTERM, True, ("--trainer.max_epochs=3", "--rank_check.every_n_epochs=1")),
        pytest.param(signal.SIGINT, False, (), marks=pytest.mark.nightly),
    ],
)
def test_a_job_is_stopped_with_all_its_processes(command, tmp_path, number, everywhere, options):
    """The standard recipe in the middle of an epoch, its group or every process of it, W&B's service among them."""
    words = ("--config=eq.yaml", "--data.dataset=mnist5k", "--data.steps_per_execution=16", *options)
    (tmp_path / "srun").write_text("#!/bin/sh\n")  # a login node
    (tmp_path / "srun").chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    reader, writer = os.pipe()
    os.close(reader)  # `fit | head -1`: that nobody reads stops nothing either
    environment = {"WANDB_MODE": "offline", "PATH": path}
    streams = {"stdout": writer, "stderr": subprocess.PIPE}
    process = command.start("fit", *words, environment=environment, **streams, start_new_session=True)
    os.close(writer)
    wait_until((command.folder / "runs/eq/0/checkpoints/last.ckpt").exists)
    below = descendants(process.pid)
    assert any("wandb-core" in line for line in below.values())
    if everywhere:
        for other in below:
            os.kill(other, number)
    os.killpg(process.pid, number)
    errors = process.communicate(timeout=120)[1]
    assert process.returncode == CODES[number], errors
    assert f"stopped by {number.name} after step" in errors
    assert "goes on with: python -m ttlightning fit --ckpt_path runs/eq/0" in errors
    assert "Traceback" not in errors
    assert "srun" not in errors
    wait_until(lambda: not any(map(is_alive, below)), 30)
    if options:
        command("fit", "--ckpt_path=runs/eq/0")
        command("fit", *words)
        assert contents(command.folder / "runs/eq/0") == contents(command.folder / "runs/eq/1")


# What is shown


def test_the_first_epoch_after_a_resume_has_its_own_seconds(command, monkeypatch, at_step):
    clock = time.perf_counter
    monkeypatch.setattr(progress.time, "perf_counter", lambda: 1e6 + clock())
    at_step(12, lambda: os.kill(os.getpid(), signal.SIGTERM))
    command("fit", *LONG, code=143)
    done = command("fit", "--ckpt_path=runs/debug/0")
    lines = [line for line in done.stdout.splitlines() if line.startswith("epoch ")]
    assert [line.split()[1] for line in lines] == ["2/3", "3/3"]
    assert all(float(line.split()[-2]) < 600 for line in lines)


def test_predictions_are_written_whole(command, monkeypatch):
    command.finished(*LONG, "--trainer.max_epochs=1")
    usual = csv.writer

    def writer(file):
        os.kill(os.getpid(), signal.SIGTERM)
        return usual(file)

    monkeypatch.setattr(csv, "writer", writer)
    command("predict", "--ckpt_path=runs/debug/0", "--output=p.csv")
    assert len((command.folder / "p.csv").read_text().splitlines()) == 51


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
def test_on_a_terminal_a_signals_line_begins_below_the_bar():
    """In a file nothing is added."""
    import pty

    code = "import os; from ttlightning.system import signals; os.write(2, b'bar'); signals.say('x')"
    ours, theirs = pty.openpty()
    subprocess.run([sys.executable, "-c", code], stderr=theirs, check=True)
    os.close(theirs)
    assert os.read(ours, 100).decode().splitlines() == ["bar", "ttlightning: x"]
    os.close(ours)
    done = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, check=True)
    assert done.stderr == "barttlightning: x\n"
