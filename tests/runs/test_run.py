"""A run directory as an object: its state, its contents, its path."""

import json
import os

import pytest
from comparisons import write_run

from ttlightning import UserError
from ttlightning.runs.run import Run, runs_of, runs_root


def test_everything_of_a_finished_run(tmp_path):
    write_run(tmp_path / "eq" / "0", test=0.75, rank=7)
    run = Run.open(str(tmp_path / "eq" / "0"), finished=True)
    assert run.state == "finished"
    assert run.config["model"]["format"]["init_args"] == {"rank": 7}
    assert run.result["metrics"]["test/acc"] == 0.75
    assert run.provenance["dataset"]["name"] == "mnist"
    assert run.metrics[-1] == {"epoch": "2", "train/loss": "", "val/acc": "", "test/acc": "0.9"}
    run.certificate_file.parent.mkdir()
    run.certificate_file.write_text(json.dumps({"kind": "generic"}))
    assert run.certificate == {"kind": "generic"}


def test_runs_that_are_none_or_not_finished(tmp_path):
    with pytest.raises(UserError, match="is not a run directory: it has no config"):
        Run.open(tmp_path)
    run = Run(write_run(tmp_path / "0"))
    run.result_file.unlink()
    assert Run.open(run.path).state == "begun"
    with pytest.raises(UserError, match=r"is not finished, it has no result\.json; it goes on with: python -m"):
        Run.open(run.path, finished=True)
    run.metrics_file.write_bytes(b"\xff")
    with pytest.raises(UserError, match="cannot be read"):
        assert run.metrics


def test_the_newest_run_comes_first_whatever_it_is_called(tmp_path):
    for number, name in enumerate(("9", "0-0123abcd", "10", "notes")):
        write_run(tmp_path / "eq" / name)
        os.utime(tmp_path / "eq" / name / "config.yaml", ns=(0, number))
    (tmp_path / "eq" / "notes" / "config.yaml").unlink()
    write_run(tmp_path / "tt" / "0")
    assert [run.path.name for run in runs_of(tmp_path, "eq")] == ["10", "0-0123abcd", "9"]
    assert runs_of(tmp_path)[0].path == tmp_path / "tt" / "0"
    with pytest.raises(UserError, match=r"there is no run in .*none to go on with"):
        runs_of(tmp_path, "none")


def test_the_root_of_the_runs_may_begin_with_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TTLIGHTNING_RUNS", "~/my runs")
    assert runs_root() == tmp_path / "my runs"


def test_run_directories_count_up_and_are_claimed_one_at_a_time(tmp_path):
    (tmp_path / "eq" / "7").mkdir(parents=True)
    (tmp_path / "eq" / "notes").mkdir()
    assert Run.create(tmp_path, "eq").path == tmp_path / "eq" / "8"
    assert Run.create(tmp_path, "eq").path == tmp_path / "eq" / "9"
    assert Run.create(tmp_path, "tt").path == tmp_path / "tt" / "0"


def test_a_root_that_is_a_file(tmp_path):
    (tmp_path / "runs").write_text("not a folder")
    with pytest.raises(UserError, match="cannot make a run directory"):
        Run.create(tmp_path / "runs", "eq")


def test_logged_values_are_those_of_all_rows(tmp_path):
    """Epoch and text where a value was logged: rows that are short, or have other values, have none."""
    run = Run(tmp_path)
    run.metrics_file.write_text("epoch,a,b\n0,,0.5\n1,0.1,\n1,0.2\n2\n")
    assert run.logged(("b", "a", "c")) == {"b": [("0", "0.5")], "a": [("1", "0.1"), ("1", "0.2")]}
    assert run.logged(("b",))["b"] == [(row["epoch"], row["b"]) for row in run.metrics if row["b"]]
