"""A study under SLURM: the missing runs as one array, by submitit, watched until the last one has ended.

submitit writes the batch script, keeps the tasks' logs, and queues a task again when SLURM announces its end. The runs
know how far they are. The queue is asked by ``squeue``, which needs no accounting; a task that is no longer in it has
ended. The tasks of a study are noted in ``<runs>/.slurm/<study>/tasks.json``, so that the same command, given again
while they are queued, watches them and submits only what is missing.
"""

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from ttlightning.commands.fit_process import Task
from ttlightning.commands.studies import Job, Outcome, configurations_of, run_of, words_of_run
from ttlightning.commands.study_file import Study
from ttlightning.commands.watching import Watch
from ttlightning.errors import Fault, UserError, exit_code
from ttlightning.runs.files import read_json, write_json
from ttlightning.runs.run import Run, runs_root
from ttlightning.system import signals
from ttlightning.system.extras import needed_by
from ttlightning.system.lock import Lock

SHARED: Final = ("timeout_min", "mem_gb", "cpus_per_task", "gpus_per_node", "stderr_to_stdout")
"""Parameters of submitit that all its launchers have; the others begin with ``slurm_``."""
OURS: Final = ("nodes", "tasks_per_node", "name", "job_name", "array_parallelism", "max_num_timeout")
"""What this module sets."""
SECONDS_BEFORE: Final = 90
"""Seconds before the end of a task at which SLURM announces it, unless the study says otherwise."""
SECONDS: Final = 5.0
"""Time between two questions to SLURM."""
PATIENCE: Final = 30.0
"""Seconds until a result is visible that another node has written."""
NO_LIMIT: Final = 10_000
"""Times that submitit queues a task again: ``Task`` knows when it is of no use."""


def submit_runs(study: Study, side_by_side: int | None = None) -> list[Outcome]:
    """Submit the missing runs, and wait for the outcomes, in order.

    Ctrl-C, SIGTERM and SIGUSR1 end the watching; the tasks go on.

    Args:
        side_by_side: most tasks that run at a time; default: as many as SLURM gives.

    Raises:
        UserError: no SLURM here, an option that submitit or ``fit`` does not know, or runs of several processes.
    """
    if shutil.which("sbatch") is None:
        raise UserError("--launcher slurm needs SLURM's sbatch, which is not on this machine; leave --launcher out")
    if side_by_side is not None and side_by_side < 1:
        raise UserError(f"--jobs is {side_by_side}, it must be at least 1")
    configurations = configurations_of(study.jobs)
    for (experiment, _), config in configurations.items():
        check_single(experiment, config)
    folder = runs_root() / ".slurm" / study.name
    folder.mkdir(parents=True, exist_ok=True)
    executor = executor_of(study, folder, side_by_side)
    runs = {job: run_of(job, configurations[job[:2]]) for job in study.jobs}
    lock = Lock(folder / ".lock")
    lock.acquire(wait=True)
    try:
        tasks = submit_missing(runs, executor, folder / "tasks.json")
    finally:
        lock.release()
    epochs = {job: configurations[job[:2]]["trainer"]["max_epochs"] for job in study.jobs}
    return watch(runs, tasks, epochs, folder)


def check_single(experiment: str, config: Mapping[str, Any]) -> None:
    """``UserError`` where a run asks for several processes, which a task does not have."""
    trainer = config["trainer"]
    if trainer["num_nodes"] != 1 or str(trainer["devices"]) not in ("1", "auto"):
        raise UserError(
            f"{experiment} has {trainer['devices']} devices on {trainer['num_nodes']} nodes: a study under SLURM makes "
            "runs of one process; for several see configs/slurm/two_nodes.sbatch"
        )


def executor_of(study: Study, folder: Path, side_by_side: int | None) -> Any:
    """submitit's executor with the study's section ``slurm``."""
    with needed_by("study --launcher slurm"):
        import submitit
    if name := next((name for name in study.slurm if name.removeprefix("slurm_") in OURS), None):
        raise UserError(
            f"the section slurm has {name}, which the study sets itself: --jobs says how many run at a time"
        )
    asked = {name if name in SHARED or name.startswith("slurm_") else f"slurm_{name}": value
             for name, value in study.slurm.items()}  # fmt: skip
    try:
        executor = submitit.AutoExecutor(folder, cluster="slurm", slurm_max_num_timeout=NO_LIMIT)
        # SLURM signals all processes of a task. After SIGUSR1 fit stops with a checkpoint; submitit's own default,
        # SIGUSR2, would end it without one.
        given = {"requeue": True, "signal": f"USR1@{asked.pop('slurm_signal_delay_s', SECONDS_BEFORE)}"}
        asked["slurm_additional_parameters"] = given | asked.get("slurm_additional_parameters", {})
        asked["slurm_setup"] = ["export SUBMITIT_PREEMPT_SIGNAL=USR1", *asked.get("slurm_setup", [])]
        executor.update_parameters(name=study.name, **asked)
        if side_by_side is not None:
            executor.update_parameters(slurm_array_parallelism=side_by_side)
    except (ValueError, NameError, TypeError, AssertionError, RuntimeError) as fault:
        raise UserError(f"submitit refuses the section slurm: {' '.join(str(fault).split())}") from fault
    return executor


def submit_missing(runs: Mapping[Job, Run], executor: Any, file: Path) -> dict[str, str]:
    """Submit what is neither finished nor queued, as one array; the id of every run's task, by its path."""
    noted: dict[str, str] = read_json(file) if file.is_file() else {}
    if (queued := tasks_in_queue()) is None:
        raise Fault("squeue does not answer, so nobody knows which runs are queued already; try again later")
    tasks = {path: task for path, task in noted.items() if task in queued}
    missing = [(job, run) for job, run in runs.items() if run.state != "finished" and str(run) not in tasks]
    if missing:
        with executor.batch():
            array = [executor.submit(Task(run.path, words_of_run(job, run))) for job, run in missing]
        tasks |= {str(run): task.job_id for (_, run), task in zip(missing, array, strict=True)}
        write_json(file, tasks)
        print(f"ttlightning: submitted {len(missing)} runs as job {array[0].job_id.partition('_')[0]}", file=sys.stderr)
    return tasks


def tasks_in_queue() -> dict[str, str] | None:
    """Id and state of this user's tasks that are queued or running; None where SLURM does not answer."""
    asked = subprocess.run(
        ["squeue", "--noheader", "--array", "--me", "--format=%i %T"], capture_output=True, text=True, check=False
    )
    return dict(line.split(maxsplit=1) for line in asked.stdout.splitlines()) if asked.returncode == 0 else None


def watch(
    runs: Mapping[Job, Run], tasks: Mapping[str, str], epochs: Mapping[Job, int | None], folder: Path
) -> list[Outcome]:
    """Report every run that ends, until all have ended."""
    progress, started = Watch(len(runs)), time.perf_counter()
    outcomes: dict[Job, Outcome] = {}
    stopped: list[signal.Signals] = []
    with signals.given_to(lambda number: stopped.append(signal.Signals(number))), progress.shown():
        while not stopped:
            queued = tasks_in_queue()
            for job, run in runs.items():
                if job in outcomes:
                    continue
                task = tasks.get(str(run), "")
                state = run.state
                if state != "finished" and (queued is None or task in queued):
                    if state == "begun" and queued and queued[task] == "RUNNING":
                        progress.begin(run, str(job), epochs[job])
                    continue
                fault = "" if state == "finished" else fault_of_task(run, task, folder)
                outcomes[job] = Outcome(job, None if fault else run, fault)
                progress.end(run, str(job), fault, time.perf_counter() - started)
            if len(outcomes) == len(runs):
                return [outcomes[job] for job in runs]
            wait(SECONDS, stopped)
    jobs = " ".join(sorted({task.partition("_")[0] for task in tasks.values()}))
    print(
        f"stopped watching by {stopped[0].name}; the runs go on under SLURM, and the same command watches them again "
        f"(scancel {jobs} ends them)",
        file=sys.stderr,
    )
    sys.exit(exit_code(stopped[0]))


def wait(seconds: float, stopped: list[signal.Signals]) -> None:
    """Sleep, but not longer than a signal lets."""
    end = time.monotonic() + seconds
    while not stopped and time.monotonic() < end:
        time.sleep(0.2)


def fault_of_task(run: Run, task: str, folder: Path) -> str:
    """Why a task that has ended left no result: what it returned, else the end of its log; nothing if it did leave one.

    A result that another node has written may be visible only after some seconds.
    """
    import submitit

    end = time.monotonic() + PATIENCE
    job = submitit.SlurmJob(folder, task)
    while time.monotonic() < end and run.state != "finished":
        if job.paths.result_pickle.is_file():
            try:
                return job.result() or f"task {task} has ended, but {run} has no result"
            except submitit.core.utils.FailedJobError as fault:
                return str(fault).strip().splitlines()[-1]
        time.sleep(0.5)
    if run.state == "finished":
        return ""
    log = job.paths.stderr
    lines = log.read_text(errors="replace").splitlines() if log.is_file() else []
    last = next((line.strip() for line in reversed(lines) if line.strip()), "it left no log")
    return f"task {task} has ended without a result: {last} ({log})"
