"""``rerun``: yes, the same bits; or no, and where not."""

import csv
import json
import shutil
import sys

import pytest
import torch
import yaml

from ttlightning.commands import rerun

SMALL = ("--config", "debug.yaml", "--data.dataset", "mnist", "--trainer.log_every_n_steps=1")


@pytest.fixture
def finished(command):
    """A finished run, and the command line."""
    command.finished(*SMALL)
    return command, command.folder / "runs/debug/0"


def change(file, edit):
    content = json.loads(file.read_text())
    edit(content)
    file.write_text(json.dumps(content))


def test_bitwise_identical(finished):
    command, run = finished
    done = command("rerun", "runs/debug/0")
    assert "verdict     bitwise identical: runs/debug/0 and runs/debug/1" in done.stdout
    again = run.parent / "1"
    record = json.loads((again / "rerun.json").read_text())
    assert (record["rerun_of"], record["verdict"]) == ("runs/debug/0", "bitwise identical")
    assert len(set(record["weights_sha256"])) == 1
    assert (run / "metrics.csv").read_bytes() == (again / "metrics.csv").read_bytes()
    assert yaml.safe_load((again / "config.yaml").read_text()) == yaml.safe_load((run / "config.yaml").read_text())


def test_identical_metrics(finished, rerun_in_this_process):
    """The weights are said to have been others."""
    command, run = finished
    change(run / "result.json", lambda result: result.update(weights_sha256="0" * 64))
    assert "verdict     identical metrics" in command("rerun", "runs/debug/0", code=3).stdout


def test_a_rerun_of_a_run_that_began_at_a_checkpoint(finished, rerun_in_this_process):
    command, _ = finished
    command("fit", "--ckpt_path=runs/debug/0", "--trainer.max_epochs=2")
    assert "bitwise identical: runs/debug/1 and runs/debug/2" in command("rerun", "runs/debug/1").stdout


def test_different(finished, rerun_in_this_process):
    """One loss was another, and so was torch."""
    command, run = finished
    rows = list(csv.DictReader((run / "metrics.csv").open()))
    rows[2]["train/loss_step"] = str(float(rows[2]["train/loss_step"]) * 1.25)
    with (run / "metrics.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    change(run / "provenance.json", lambda record: record["packages"].update(torch="0.1", wandb="0.1"))
    done = command("rerun", "runs/debug/0", code=1)
    assert f"different: first at step {rows[2]['step']}, at most 2.0e-01 relative, in train/loss_step" in done.stdout
    assert 'differs     packages.torch: "0.1" -> ' in done.stdout
    assert "what differed beforehand and can change the weights: packages.torch\n" in done.stdout


def test_an_interrupted_rerun(finished, monkeypatch):
    command, _ = finished
    monkeypatch.setattr(rerun, "start", lambda *_: 143)
    done = command("rerun", "runs/debug/0", code=143)
    assert "the rerun in runs/debug/1 ended with exit code 143" in done.stderr


@pytest.mark.parametrize(("ending", "code"), [("sys.exit(7)", 7), ("os.kill(os.getpid(), 9)", 137)])
def test_exit_codes_of_what_is_started(ending, code):
    assert rerun.start(sys.executable, "-c", f"import os, sys; {ending}") == code


def test_check_only_runs_nothing(finished):
    command, run = finished
    done = command("rerun", "--check_only", "runs/debug/0")
    assert "environment and data are as they were" in done.stdout
    change(run / "provenance.json", lambda record: record.update(python="2.7"))
    done = command("rerun", "--check_only", "runs/debug/0")
    assert "(changes no result)" in done.stdout
    file = command.data / "MNIST" / "raw" / "t10k-labels-idx1-ubyte"
    file.write_bytes(file.read_bytes()[:-1] + b"\x03")
    change(run / "provenance.json", lambda record: record.update(cpu="Pentium"))
    done = command("rerun", "--check_only", "runs/debug/0", code=1)
    lines = done.stdout.splitlines()
    assert [line.split()[1] for line in lines] == ["dataset.sha256:", "cpu:", "python:"]
    assert "(can change the weights)" in lines[0]
    assert [path.name for path in run.parent.iterdir()] == ["0"]


def test_a_record_of_an_older_version(finished):
    """What it does not speak of is said, and is no difference."""
    command, run = finished
    change(run / "provenance.json", lambda record: [record.pop(name) for name in ("numerics", "source_sha256")])
    lines = command("rerun", "--check_only", "runs/debug/0").stdout.splitlines()
    assert lines[0] == "environment and data are as they were, as far as they are recorded"
    assert lines[1].startswith("unknown     the run's provenance.json does not speak of source_sha256, numerics.instr")
    assert len(lines) == 2
    change(run / "provenance.json", lambda record: record.pop("dataset"))
    assert "is not what a run leaves: it has no dataset" in command("rerun", "runs/debug/0", code=2).stderr
    assert [path.name for path in run.parent.iterdir()] == ["0"]


@pytest.mark.parametrize(
    ("known", "silent", "said"),
    [
        (["a", "b"], ["c"], "what differed beforehand and can change the weights: a, b"),
        ([], ["c"], "what can have differed, and the run's provenance.json does not speak of: c"),
        ([], [], "nothing that is recorded and can change the weights differed: the cause is another"),
    ],
)
def test_the_cause_of_a_difference(known, silent, said):
    assert rerun.cause(known, silent) == said


def test_the_cause_is_named(finished, rerun_in_this_process):
    """By the check, and again beside a verdict."""
    command, run = finished

    def another_machine(record):
        record["numerics"] |= {"torch_capability": "OTHER", "variables": {"ATEN_CPU_CAPABILITY": "other"}}

    change(run / "provenance.json", another_machine)
    capability = torch.backends.cpu.get_cpu_capability()
    lines = command("rerun", "--check_only", "runs/debug/0", code=1).stdout.splitlines()
    assert [line for line in lines if "OPENBLAS" not in line] == [
        f'differs     numerics.torch_capability: "OTHER" -> "{capability}" (can change the weights)',
        'differs     numerics.variables.ATEN_CPU_CAPABILITY: "other" -> null (can change the weights)',
    ]
    change(run / "result.json", lambda result: result.update(weights_sha256="0" * 64))
    said = command("rerun", "runs/debug/0", code=3).stdout.splitlines()[-1]
    assert said.strip().startswith("what differed beforehand and can change the weights: numerics.torch_capability")


def test_moved_data_are_found(finished, tmp_path):
    """Data are known by their content: a folder that is not here is looked for where this machine keeps its own."""
    command, run = finished
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["data"]["root"] = "/another/machine/data"
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    assert "as they were" in command("rerun", "--check_only", "runs/debug/0").stdout
    shutil.copytree(command.data, tmp_path / "elsewhere")
    command.environment["TTLIGHTNING_DATA"] = str(tmp_path / "absent")
    assert (
        "as they were" in command("rerun", "--check_only", "runs/debug/0", "--root", str(tmp_path / "elsewhere")).stdout
    )


def test_runs_that_cannot_be_repeated(finished):
    command, run = finished
    assert "nowhere is not a run directory" in command("rerun", "nowhere", code=2).stderr
    (run / "result.json").rename(run / "kept.json")
    assert "runs/debug/0 is not finished" in command("rerun", "runs/debug/0", code=2).stderr
    (run / "kept.json").rename(run / "result.json")
    (run / "config.yaml").write_text("[]")
    assert "is no mapping of names to values" in command("rerun", "runs/debug/0", code=2).stderr
    (run / "provenance.json").unlink()
    assert [path.name for path in run.parent.iterdir()] == ["0"]
