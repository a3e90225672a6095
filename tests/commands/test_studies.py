"""Many runs: each made once, those that were begun go on, a fault stops nobody else."""

import math
import os
import signal
import statistics
import subprocess
import sys
import threading
import time

import pytest
import yaml

from ttlightning import UserError
from ttlightning.commands import studies
from ttlightning.commands.studies import Job, configuration, make_runs, percent
from ttlightning.runs.identity import Changes, first_difference, run_name
from ttlightning.runs.run import Run, runs_root

WORDS = ("--config=debug.yaml",)


@pytest.fixture
def fits(tmp_path, monkeypatch):
    """`start_fit` that starts a small Python process: it writes config.yaml and result.json, or ends with a fault."""
    monkeypatch.setenv("TTLIGHTNING_RUNS", str(tmp_path / "runs"))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    calls = []

    def start(words, environment):
        calls.append((tuple(words), dict(environment)))
        if any("fail" in word for word in words):
            code = "import sys; print('noise'); sys.exit('ttlightning: something is wrong')"
        else:
            code = finish(words, result=True)
        return subprocess.Popen([sys.executable, "-c", code], stdout=-3, stderr=-1, text=True)

    monkeypatch.setattr(studies, "start_fit", start)
    start.calls = calls
    return start


def finish(words, result: bool) -> str:
    """Python that leaves the run of these words behind."""
    assert words[0] == "--run"
    code = f"import pathlib; d = pathlib.Path({words[1]!r}); d.mkdir(parents=True, exist_ok=True); "
    code += f"(d / 'config.yaml').write_text({yaml.safe_dump(configuration(words))!r}); "
    return code + ("(d / 'result.json').write_text('{}')" if result else "")


def begin(experiment: str, seed: int) -> Run:
    """The run of a job, begun."""
    name = run_name(configuration(("--experiment", experiment, *WORDS)), seed)
    path = runs_root() / experiment / name
    exec(finish(("--run", str(path), "--experiment", experiment, *WORDS, f"--seed_everything={seed}"), result=False))
    return Run(path)


def test_each_run_is_made_once(fits, tmp_path, capsys):
    jobs = [Job("a", WORDS, 0), Job("a", WORDS, 1), Job("b", (*WORDS, "--model.format.init_args.rank=3"), 0)]
    first = make_runs(jobs, 2)
    assert [outcome.run.path.relative_to(tmp_path / "runs").parts[0] for outcome in first] == ["a", "a", "b"]
    assert len({outcome.run.path for outcome in first}) == 3
    assert [outcome.run.path.name[:2] for outcome in first] == ["0-", "1-", "0-"]
    assert len(fits.calls) == 3
    assert [outcome.run.path for outcome in make_runs(jobs, 2)] == [outcome.run.path for outcome in first]
    assert len(fits.calls) == 3
    assert "b, seed 0: there" in capsys.readouterr().err
    assert make_runs([]) == make_runs([], 2) == []
    other = make_runs([Job("a", (*WORDS, "--data.batch_size=32"), 0)], 1)  # the same name, another configuration
    assert other[0].run.path not in [outcome.run.path for outcome in first]
    assert len(fits.calls) == 4
    assert not list((tmp_path / "runs").glob(".*"))


def test_what_changes_no_result_makes_no_other_run(fits):
    [first] = make_runs([Job("a", WORDS, 0)], 1)
    [second] = make_runs([Job("a", (*WORDS, "--wandb.tags=[x]", "--figures=false"), 0)], 1)
    assert first.run.path == second.run.path
    assert len(fits.calls) == 1


def test_a_study_resumes_its_runs(fits):
    begun = begin("a", 4)
    [outcome] = make_runs([Job("a", WORDS, 4)], 1)
    assert outcome.run.path == begun.path
    again = ("--run", str(begun), "--experiment", "a", *WORDS, "--seed_everything=4")
    assert [words for words, _ in fits.calls] == [again]


def test_a_study_waits_for_a_run_of_another_process(fits):
    begun = begin("a", 0)
    begun.claim()

    def end():
        begun.result_file.write_text("{}")
        begun.lock.release()

    threading.Timer(0.3, end).start()
    [outcome] = make_runs([Job("a", WORDS, 0)], 1)
    assert outcome.run.path == begun.path
    assert fits.calls == []


def test_two_studies_at_once_make_a_run_once(fits, tmp_path):
    found = []
    configuration(WORDS)  # the parser is made once, for both
    both = [threading.Thread(target=lambda: found.extend(make_runs([Job("a", WORDS, 0)], 1))) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert len(fits.calls) == 1
    assert found[0].run.path == found[1].run.path


def test_a_fault_is_reported_and_the_others_go_on(fits):
    bad, good = make_runs([Job("fail", WORDS, 0), Job("b", WORDS, 0)], 1)
    assert (bad.run, bad.fault) == (None, "ttlightning: something is wrong")
    assert good.run is not None


def test_an_option_that_fit_does_not_have_runs_nothing(fits):
    with pytest.raises(UserError, match=r"did you mean model\.format"):
        make_runs([Job("a", WORDS, 0), Job("b", (*WORDS, "--model.formt=x"), 0)], 1)
    assert fits.calls == []


def test_the_cores_are_shared(fits, monkeypatch):
    monkeypatch.setattr(studies, "_cores", lambda: 8)
    make_runs([Job("a", WORDS, seed) for seed in range(4)], 3)
    assert [place for _, place in fits.calls] == [{"OMP_NUM_THREADS": "2"}] * 4
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    make_runs([Job("b", WORDS, 0)], 3)
    assert fits.calls[-1][1] == {}


def test_a_gpu_for_each_run(fits, monkeypatch):
    monkeypatch.setattr(studies, "_gpus", lambda: ["0", "GPU-5"])
    make_runs([Job("a", WORDS, seed) for seed in range(5)])
    places = [place["CUDA_VISIBLE_DEVICES"] for _, place in fits.calls]
    assert sorted(places[:2]) == ["0", "GPU-5"]
    assert set(places) == {"0", "GPU-5"}
    with pytest.raises(UserError, match="--jobs is 3, it must be from 1 to 2, one for each GPU"):
        make_runs([Job("b", WORDS, 0)], 3)
    make_runs([Job("c", (*WORDS, "--trainer.accelerator=cpu"), 0)], 3)
    assert "CUDA_VISIBLE_DEVICES" not in fits.calls[-1][1]


def test_the_gpus_that_the_environment_leaves(monkeypatch):
    monkeypatch.setattr(studies.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(studies.torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert studies._gpus() == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, 5")
    assert studies._gpus() == ["3", "5"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 143)])
def test_a_signal_reaches_the_runs_and_begins_no_other(fits, monkeypatch, capsys, number, code):
    started = []

    def start(words, environment):
        ends = f"signal.signal({int(number)}, lambda *_: sys.exit({code}))"
        lines = f"import signal, sys; {ends}; print(flush=True); signal.pause()"
        process = subprocess.Popen([sys.executable, "-c", lines], stdout=-1, stderr=-1, text=True)
        process.stdout.readline()
        started.append(process)
        return process

    monkeypatch.setattr(studies, "start_fit", start)
    pid = os.getpid()

    def interrupt():
        while not started:
            time.sleep(0.01)
        time.sleep(0.2)
        os.kill(pid, number)

    threading.Thread(target=interrupt).start()
    with pytest.raises(SystemExit) as stop:
        make_runs([Job("a", WORDS, seed) for seed in range(3)], 1)
    assert stop.value.code == code
    assert [process.returncode for process in started] == [code]
    assert capsys.readouterr().err == f"stopped by {number.name}: 0 of 3 have a result; the same command goes on\n"


def test_the_configuration_and_the_path_are_those_of_the_run(command, monkeypatch):
    """The words of a job, and config.yaml of the run that they make; in a process, made once."""
    monkeypatch.setenv("TTLIGHTNING_RUNS", str(command.folder / "runs"))
    for name, value in command.environment.items():
        monkeypatch.setenv(name, value)
    [outcome] = make_runs([Job("x", (*WORDS, "--data.dataset=mnist"), 2)])
    assert outcome.fault == ""
    ours = configuration(("--experiment=x", *WORDS, "--data.dataset=mnist", "--seed_everything=5"))
    assert outcome.run.path == command.folder / "runs" / "x" / run_name(ours, 2)
    assert first_difference(outcome.run.config, ours, {Changes.SEED}) is None
    assert outcome.run.config["seed_everything"] == outcome.run.result["seed"] == 2
    assert outcome.run.result["experiment"] == "x"
    assert sorted(file.name for file in (command.folder / "runs").rglob(".*")) == []


def test_percent():
    """Student's t of four degrees of freedom has its 97.5 % point at 2.776 (any table)."""
    values = [0.97, 0.98, 0.985, 0.99, 0.975]
    assert percent(values) == f"98.00 ± {100 * 2.7764 * statistics.stdev(values) / math.sqrt(5):.2f}" == "98.00 ± 0.98"
    assert percent([0.5]) == "50.00"
