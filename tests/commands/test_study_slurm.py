"""A study under SLURM, with stand-ins for sbatch and squeue; ``scripts/slurm_check.sh`` has the real ones."""

import pickle
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml
from comparisons import table_of, write_run

from ttlightning import UserError
from ttlightning.commands import fit_process, study_slurm
from ttlightning.commands.fit_process import IDLE_STOPS, Task
from ttlightning.commands.study_file import read_study
from ttlightning.runs.run import Run

submitit = pytest.importorskip("submitit")

SBATCH = """#!/bin/sh
cp "$1" "$CLUSTER/script"
tasks=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\)%.*/\\1/p' "$1")
for task in $(seq 0 "$tasks"); do echo "7_$task PENDING"; done > "$CLUSTER/queue"
echo "Submitted batch job 7"
"""
STUDY = {
    "config": "debug.yaml",
    "grid": {"model.format.init_args.rank": [2, 3]},
    "slurm": {"timeout_min": 30, "partition": "gpu"},
}


@pytest.fixture
def cluster(command, tmp_path, monkeypatch) -> Path:
    """A folder with the queue of a cluster; its sbatch only queues."""
    folder = tmp_path / "cluster"
    folder.mkdir()
    (folder / "queue").touch()
    for name, text in {"sbatch": SBATCH, "squeue": '#!/bin/sh\ncat "$CLUSTER/queue"\n', "srun": "#!/bin/sh\n"}.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    monkeypatch.setenv("CLUSTER", str(folder))
    monkeypatch.setattr(study_slurm, "SECONDS", 0.2)
    monkeypatch.setattr(study_slurm, "PATIENCE", 0.5)
    (command.folder / "mine.yaml").write_text(yaml.safe_dump(STUDY))
    return folder


def submitted(command) -> list[Task]:
    """The tasks in the order of the array."""
    files = sorted((command.folder / "runs/.slurm/mine").glob("7_*_submitted.pkl"))
    return [pickle.loads(file.read_bytes()).function for file in files]


def test_the_missing_runs_are_one_array(command, cluster):
    """Options reach sbatch; runs that end are reported, and a task without a result is named."""

    def work():
        while len(submitted(command)) < 2:
            time.sleep(0.05)
        write_run(command.folder / submitted(command)[0].path, rank=2, experiment="debug+rank-2")
        (cluster / "queue").write_text("8_0 RUNNING\n")  # of another study

    worker = threading.Thread(target=work)
    worker.start()
    done = command("study", "mine.yaml", "--launcher=slurm", "--jobs=1", code=1)
    worker.join()
    script = (cluster / "script").read_text()
    for line in ("array=0-1%1", "partition=gpu", "time=30", "signal=USR1@90", "requeue", "job-name=mine"):
        assert f"#SBATCH --{line}\n" in script
    assert [row["name"] for row in table_of(done.stdout)] == ["debug+rank-2"]
    log = "runs/.slurm/mine/7_1_0_log.err"
    fault = rf"debug\+rank-3, seed 0: task 7_1 has ended without a result: it left no log \(.*{log}\)"
    assert re.fullmatch(fault, done.stderr.splitlines()[-1])
    for task, rank in zip(submitted(command), (2, 3), strict=True):
        assert task.words == (
            "--run", str(task.path), "--experiment", f"debug+rank-{rank}", "--config=debug.yaml",
            f"--model.format.init_args.rank={rank}", "--seed_everything=0",
        )  # fmt: skip


def test_a_study_that_is_queued_is_watched(command, cluster, monkeypatch):
    """SIGINT ends the watching only; the same command submits nothing again."""

    def interrupted(*words):
        monkeypatch.setattr(study_slurm, "wait", lambda seconds, stopped: signal.raise_signal(signal.SIGINT))
        return command(*words, code=130).stderr.splitlines()

    words = ("study", "mine.yaml", "--launcher=slurm")
    assert interrupted(*words)[0] == "ttlightning: submitted 2 runs as job 7"
    (cluster / "script").unlink()
    last = interrupted(*words)
    assert len(last) == 1
    assert last[0].endswith("(scancel 7 ends them)")
    assert not (cluster / "script").exists()


@pytest.mark.parametrize(
    ("slurm", "options", "message"),
    [
        ({"partitoin": "gpu"}, {}, "submitit refuses the section slurm: .*slurm_partitoin"),
        ({"nodes": 2}, {}, "the section slurm has nodes"),
        ({"slurm_array_parallelism": 2}, {}, "--jobs says how many"),
        ({}, {"trainer.devices": 2}, "debug has 2 devices on 1 nodes"),
    ],
)
def test_what_a_study_under_slurm_cannot_do(cluster, tmp_path, monkeypatch, slurm, options, message):
    monkeypatch.setenv("TTLIGHTNING_RUNS", str(tmp_path / "runs"))
    (tmp_path / "x.yaml").write_text(yaml.safe_dump({"config": "debug.yaml", "options": options, "slurm": slurm}))
    with pytest.raises(UserError, match=message):
        study_slurm.submit_runs(read_study(str(tmp_path / "x.yaml")))
    assert not (cluster / "script").exists()


def test_without_slurm_it_is_one_line(command, monkeypatch):
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    (command.folder / "mine.yaml").write_text(yaml.safe_dump(STUDY))
    assert "needs SLURM's sbatch" in command("study", "mine.yaml", "--launcher=slurm", code=2).stderr


def test_a_task_that_makes_no_step_is_not_queued_for_ever(tmp_path, monkeypatch):
    """Its process gets SIGUSR1 and has ended when ``checkpoint`` returns; a step more begins the count anew."""
    steps = 5
    monkeypatch.setattr(fit_process, "_steps_of", lambda path: steps)

    def start(words, environment):
        code = "import signal, sys; signal.signal(signal.SIGUSR1, lambda *_: sys.exit(143)); print(flush=True)"
        code += "; signal.pause()"
        process = subprocess.Popen([sys.executable, "-c", code], text=True, stdout=-1, stderr=-1)
        process.stdout.readline()
        return process

    monkeypatch.setattr(fit_process, "start_fit", start)
    task, again = Task(tmp_path, ("--x",)), []
    for _ in range(IDLE_STOPS):
        timer = threading.Timer(0.3, lambda task=task: again.append(task.checkpoint()))
        timer.start()
        assert task() == "exit code 143"
        timer.join()
        task = again[-1] and again[-1].function
    assert [delayed and (delayed.function.words, delayed.function.idle) for delayed in again] == [
        (("--x",), 1), (("--x",), 2), None,
    ]  # fmt: skip
    task = Task(tmp_path, (), IDLE_STOPS - 1)
    threading.Timer(0.3, lambda: again.append(task.checkpoint())).start()
    found = iter([5, 6])
    monkeypatch.setattr(fit_process, "_steps_of", lambda path: next(found))
    task()
    while len(again) == IDLE_STOPS:
        time.sleep(0.01)
    assert again[-1].function.idle == 0


def test_a_task_of_a_finished_run_starts_nothing(tmp_path):
    write_run(tmp_path / "0")
    assert Run(tmp_path / "0").state == "finished"
    assert Task(tmp_path / "0", ("--config=none.yaml",))() == ""
