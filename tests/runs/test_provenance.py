"""What a run says it was made from: enough to repeat it, and no secret."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ttlightning.runs.provenance import differences, provenance, unknown


def test_no_secret_in_anything_that_a_run_writes(command, tmp_path):
    """Key, password and home folder are searched for in every byte of the run directory, W&B's files included."""
    home = tmp_path / "home-of-ada"
    folder = home / "work"
    folder.mkdir(parents=True)
    data = home / "data"
    command.data.rename(data)
    secrets = {"WANDB_API_KEY": "0123456789abcdef0123456789abcdef01234567", "DB_PASSWORD": "correct-horse-battery"}
    environment = {"HOME": str(home), "TTLIGHTNING_DATA": "", "WANDB_MODE": ""} | secrets
    words = ("--config=debug.yaml", "--data.dataset=mnist", f"--data.root={data}")
    command.folder = folder
    done = command.process("fit", *words, "--wandb.tags=[correct-horse-battery]", **environment)
    assert [line for line in done.stderr.splitlines() if "masked" in line] == [
        "ttlightning: masked as *** in what this run writes: $DB_PASSWORD"
    ]
    for secret in (*secrets.values(), str(home)):
        assert secret not in done.stdout + done.stderr
        for file in (folder / "runs").rglob("*"):
            if file.is_file():
                assert secret.encode() not in file.read_bytes(), file
    run = folder / "runs/debug/0"
    assert yaml.safe_load((run / "config.yaml").read_text())["data"]["root"] == "~/data"
    assert "--data.root=~/data" in json.loads((run / "provenance.json").read_text())["argv"]
    command.environment |= {"HOME": str(home), "TTLIGHTNING_DATA": ""}
    command("fit", "--config", "runs/debug/0/config.yaml")  # ~ is found again
    assert command.result("debug/1")["weights_sha256"] == command.result("debug/0")["weights_sha256"]


def record() -> dict:
    return provenance({"name": "mnist5k", "sha256": "0" * 64, "train": 4000}, world_size=1).content


def test_what_a_record_says():
    found = record()
    assert set(found) == {
        "started", "argv", "git", "ttlightning", "packages", "requirements_lock_sha256", "image_digest", "python",
        "platform", "cpu", "gpus", "threads", "kernel", "world_size", "dataset", "source_sha256", "numerics",
    }  # fmt: skip
    assert len(found["requirements_lock_sha256"]) == 64
    assert set(found["packages"]) >= {"torch", "lightning", "numpy"}


@pytest.mark.parametrize(("name", "matters"), [("cpu", True), ("python", False), ("kernel", True)])
def test_one_difference(name, matters):
    now = record() | {name: "another"}
    [found] = differences(record(), now)
    assert (found.name, found.now, found.changes_bits) == (name, "another", matters)


def test_differences_come_by_importance():
    then, now = record(), record()
    now["dataset"]["sha256"] = "1" * 64
    now["packages"] |= {"torch": "9", "wandb": "9"}
    now |= {"python": "9", "started": "later", "argv": ["other"], "wandb": "id", "resumed": [{}]}
    found = differences(then, now)
    assert [d.name for d in found] == ["dataset.sha256", "packages.torch", "packages.wandb", "python"]
    assert [d.changes_bits for d in found] == [True, True, False, False]
    assert differences(then, then) == []


def test_what_an_older_version_did_not_record_is_unknown_and_no_difference(monkeypatch):
    monkeypatch.setenv("MKL_CBWR", "COMPATIBLE")
    now = record()
    then = {name: value for name, value in now.items() if name not in ("numerics", "source_sha256")}
    assert differences(then, now) == []
    assert set(unknown(then, now)) >= {"source_sha256", "numerics.instructions", "numerics.variables.MKL_CBWR"}
    assert unknown(now, now) == unknown(now, then) == []
    then = now | {"numerics": {name: value for name, value in now["numerics"].items() if name != "blas"}}
    assert (unknown(then, now), differences(then, now)) == (["numerics.blas"], [])


def test_a_variable_that_was_not_set_is_a_difference(monkeypatch):
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    without = record()
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "SSE41")
    with_it = record()
    for then, now, values in ((without, with_it, (None, "SSE41")), (with_it, without, ("SSE41", None))):
        [found] = differences(then, now)
        assert (found.name, found.then, found.now) == ("numerics.variables.ONEDNN_MAX_CPU_ISA", *values)
        assert found.changes_bits
        assert unknown(then, now) == []


def test_a_record_without_git_is_complete():
    now = record() | {"git": {"commit": "abc", "dirty_diff_sha256": None}}
    then = now | {"git": None}
    assert [(d.name, d.now) for d in differences(then, now)] == [("git.commit", "abc")]
    assert unknown(then, now) == unknown(now, then) == []


def test_the_cause_of_other_bits_is_named(monkeypatch):
    """In another process, torch was told to use fewer instructions."""
    monkeypatch.delenv("ATEN_CPU_CAPABILITY", raising=False)
    code = "import json, test_provenance; print(json.dumps(test_provenance.record()))"
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    environment = os.environ | {"ATEN_CPU_CAPABILITY": "default", "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    found = differences(json.loads(done.stdout), record())
    then = {d.name: d.then for d in found}
    assert then.pop("numerics.torch_capability") in ("DEFAULT", "NO AVX")  # the second until torch 2.8
    assert then == {
        "numerics.variables.ATEN_CPU_CAPABILITY": "default",
    }


def test_changed_processor_instructions_are_named():
    now, then = record(), record()
    now["numerics"]["instructions"], then["numerics"]["instructions"] = "amx_tile avx2 fma", "avx2 avx512f fma"
    [found] = differences(then, now)
    assert str(found) == "numerics.instructions: now without avx512f, also amx_tile"
    assert found.changes_bits


def test_a_package_in_only_one_record_is_a_difference():
    then, now = record(), record()
    del now["packages"]["mlxtend"]
    now["git"] = None
    names = {d.name: (d.then, d.now) for d in differences(then, now)}
    assert names["packages.mlxtend"] == (then["packages"]["mlxtend"], None)


def test_the_docker_image_records_its_revision(monkeypatch, tmp_path):
    """Where the package lies in no checkout, as in the Docker image."""
    package = tmp_path / "ttlightning" / "runs"
    package.mkdir(parents=True)
    monkeypatch.setattr("ttlightning.runs.provenance.__file__", str(package / "provenance.py"))
    assert record()["git"] is None
    monkeypatch.setenv("TTLIGHTNING_GIT_SHA", "abc")
    assert record()["git"] == {"commit": "abc", "dirty_diff_sha256": None}
    assert record()["requirements_lock_sha256"] is None
    assert Path(package).is_dir()
