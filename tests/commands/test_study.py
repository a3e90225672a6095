"""``study``: a file asks for runs, a table and a page are there at the end; a fault is named and stops nobody else."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from comparisons import Page, table_of, write_run

from ttlightning import UserError
from ttlightning.commands import studies
from ttlightning.commands.study import MARK
from ttlightning.commands.study_file import read_study
from ttlightning.commands.watching import epochs_of
from ttlightning.runs.run import Run

RANK = "model.format.init_args.rank"
GRID = {"config": "debug.yaml", "grid": {RANK: [2, 3]}, "seeds": 2}


def write(folder: Path, content: object) -> str:
    (folder / "mine.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return str(folder / "mine.yaml")


@pytest.fixture
def made(command, monkeypatch):
    """`start_fit` that leaves a made-up run behind, or ends with a fault; the words of each call."""
    calls = []

    def start(words, environment):
        calls.append(words)
        if f"--{RANK}=3" in words and "--seed_everything=1" in words:
            code = "import sys; sys.exit('ttlightning: rank 3 is wrong')"
        else:
            seed, rank = int(words[-1].rpartition("=")[2]), int(words[-2].rpartition("=")[2])
            write_run(command.folder / words[1], seed=seed, rank=rank, experiment=words[3])
            code = "pass"
        return subprocess.Popen([sys.executable, "-c", code], stdout=-3, stderr=-1, text=True)

    monkeypatch.setattr(studies, "start_fit", start)
    return calls


def test_every_run_is_made_once_and_a_fault_is_named(command, made):
    name = write(command.folder, GRID)
    done = command("study", name, "--jobs=2", code=1)
    assert len(made) == 4
    rows = table_of(done.stdout)
    assert [(row["name"], row["format.rank"], row["seeds"]) for row in rows] == [
        ("debug+rank-2", "2", "2"),
        ("debug+rank-3", "3", "1"),
    ]
    lines = done.stderr.splitlines()
    assert lines[-1] == "debug+rank-3, seed 1: ttlightning: rank 3 is wrong"
    assert sum("(4 of 4)" in line for line in lines) == 1
    page = command.folder / "runs" / "mine.html"
    assert "debug+rank-2" in " ".join(Page(page.read_text().removesuffix(MARK.format("mine"))).text)
    again = command("study", name, "--jobs=2", code=1)
    assert again.stdout == done.stdout
    assert len(made) == 5  # the fault's run only
    assert page.read_text().endswith(MARK.format("mine"))


def test_a_page_of_somebody_else_is_left(command, made):
    page = command.folder / "page.html"
    page.write_text("mine")
    done = command("study", write(command.folder, GRID), "--html=page.html", code=2)
    assert "no page of this study" in done.stderr
    assert (page.read_text(), made) == ("mine", [])


def test_jobs_of_a_study(tmp_path):
    """Every combination and every seed; the options of all before the choice, and a seed of each before the next."""
    content = {**GRID, "options": {"data.batch_size": 32}, "seeds": [0, 7], "experiment": "x", "slurm": {"mem_gb": 4}}
    study = read_study(write(tmp_path, content))
    assert (study.name, study.slurm) == ("mine", {"mem_gb": 4})
    assert [(job.experiment, job.seed) for job in study.jobs] == [
        ("x+rank-2", 0), ("x+rank-3", 0), ("x+rank-2", 7), ("x+rank-3", 7),
    ]  # fmt: skip
    assert study.jobs[0].words == ("--config=debug.yaml", "--data.batch_size=32", f"--{RANK}=2")
    several = read_study(write(tmp_path, {"config": ["debug.yaml", "eq.yaml"]}))
    assert several.jobs == [studies.Job("debug+eq", ("--config=debug.yaml", "--config=eq.yaml"), 0)]
    by_seed = read_study(write(tmp_path, {"config": "debug.yaml", "grid": {"seed_everything": [3, 4]}}))
    assert [(job.experiment, job.seed) for job in by_seed.jobs] == [("debug", 3), ("debug", 4)]


def test_a_sweep_is_a_study():
    grid, drawn = read_study("sweeps/rank_grid.yaml"), read_study("sweeps/search_eq.yaml", 3)
    assert len(grid.jobs) == len(set(grid.jobs)) == 24
    assert grid.jobs[0] == studies.Job(
        "eq+format-EqualCoreTensorTrain+rank-2",
        ("--config=eq.yaml", "--model.format=EqualCoreTensorTrain", f"--{RANK}=2"),
        0,
    )
    assert [job.seed for job in grid.jobs] == [0] * 8 + [1] * 8 + [2] * 8
    assert len(drawn.jobs) == 3
    assert read_study("studies/ranks.yaml").jobs[1].experiment == "eq+rank-8"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "is no study"),
        ({"confg": "eq.yaml"}, "has 'confg'"),
        ({}, "config is None"),
        ({"config": []}, r"config is \[\]"),
        ({"config": "eq.yaml", "seeds": 0}, "seeds is 0"),
        ({"config": "eq.yaml", "seeds": True}, "seeds is True"),
        ({"config": "eq.yaml", "seeds": [1, -1]}, r"seeds is \[1, -1\]"),
        ({"config": "eq.yaml", "grid": {"a": 4}}, "a is 4, below grid"),
        ({"config": "eq.yaml", "grid": [4]}, r"grid is \[4\]"),
        ({"config": "eq.yaml", "options": {"seed_everything": 4}}, "has seed_everything among its options"),
        ({"config": "eq.yaml", "options": {"ckpt_path": "last"}}, "has ckpt_path among its options"),
        ({"config": "eq.yaml", "options": {"a": 1}, "grid": {"a": [2]}}, "below options and below grid"),
        ({"config": "eq.yaml", "grid": {"seed_everything": [2]}, "seeds": 3}, "leave one out"),
    ],
)
def test_files_that_are_no_studies(tmp_path, content, message):
    with pytest.raises(UserError, match=message):
        read_study(write(tmp_path, content))
    with pytest.raises(UserError, match="--runs is 3"):
        read_study(write(tmp_path, GRID), 3)


def test_the_epochs_of_a_run_are_read_from_the_end_of_its_table(tmp_path):
    run = Run(tmp_path)
    assert epochs_of(run) == 0
    run.metrics_file.write_text("epoch,tr")
    assert epochs_of(run) == 0
    rows = "".join(f"{epoch},0.5\n" for epoch in range(1, 5000))
    run.metrics_file.write_text("epoch,loss\n" + rows)
    assert epochs_of(run) == 4999
    run.metrics_file.write_text("epoch,loss\n" + rows + "5000")  # a row that is being written
    assert epochs_of(run) == 4999


@pytest.mark.slow
def test_a_study_trains_and_goes_on(command):
    """Two networks of real runs; a second call makes none again."""
    words = ("study", write(command.folder, {**GRID, "seeds": 1, "options": {"figures": False}}), "--jobs=2")
    done = command(*words)
    assert [(row["name"], row["parameters"]) for row in table_of(done.stdout)] == [
        ("debug+rank-2", "918"),
        ("debug+rank-3", "998"),
    ]
    times = {file: file.stat().st_mtime_ns for file in command.folder.rglob("*.*") if file.suffix != ".html"}
    assert command(*words).stdout == done.stdout
    assert {file: file.stat().st_mtime_ns for file in command.folder.rglob("*.*") if file.suffix != ".html"} == times
