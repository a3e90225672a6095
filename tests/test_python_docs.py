"""The code of docs/python.md runs as it stands; its Fabric loop trains as the Trainer does, also in two processes."""

import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import clean_environment, quiet_trainer

from ttlightning import Classifier, PatchDataModule
from ttlightning.runs.checkpoints import weights_sha256
from ttlightning.training.trainer import Trainer

BLOCKS = re.findall(r"```python\n(.*?)```", (Path(__file__).parents[1] / "docs/python.md").read_text(), re.DOTALL)
FABRIC, PLAIN = BLOCKS[-2:]
SAVE = """
if fabric.global_rank == 0:
    torch.save({"weights": model.state_dict(), "ranks": fabric.world_size}, "weights.pt")
"""


def executed(code: str, folder: Path) -> None:
    """Run a script in a process of its own, which must succeed."""
    (folder / "script.py").write_text(code)
    environment = clean_environment(WANDB_MODE="disabled", OMP_NUM_THREADS="1")
    command = [sys.executable, "script.py"]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_the_code_of_the_page_runs(tmp_path):
    checks = """
assert probabilities.shape == (5, 10)
assert again.verdict == "bitwise identical"
assert run.config["data"]["dataset"] == "own" and set(run.result["metrics"]) >= {"train/acc", "test/acc"}
assert (run.path / "rank/certificate.json").is_file()
"""
    executed("\n".join([*BLOCKS[:-2], checks, FABRIC, PLAIN]), tmp_path)


def test_loops_of_fabric_and_torch_train_as_the_trainer(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(FABRIC, names)
    data = PatchDataModule("mnist5k", patch_size=14, batch_size=100)
    model = Classifier(data.sites, data.patch_dim, data.classes, optimizer=partial(torch.optim.Adam, lr=1e-2))
    quiet_trainer(tmp_path, Trainer, max_epochs=2).fit(model, datamodule=data)
    assert weights_sha256(names["model"].module.state_dict()) == weights_sha256(model.state_dict())
    exec(PLAIN, names)
    for name, weights in names["model"].state_dict().items():
        torch.testing.assert_close(weights, model.state_dict()[name], rtol=1e-3, atol=1e-3)


@pytest.mark.slow
@pytest.mark.nightly
def test_two_processes_of_fabric_train_the_network_of_one(tmp_path):
    found = []
    for devices in (1, 2):
        (folder := tmp_path / str(devices)).mkdir()
        executed(FABRIC.replace("devices=1", f"devices={devices}") + SAVE, folder)
        found.append(torch.load(folder / "weights.pt"))
    assert [entry["ranks"] for entry in found] == [1, 2]
    for name, weights in found[0]["weights"].items():
        torch.testing.assert_close(found[1]["weights"][name], weights, rtol=1e-3, atol=1e-4)
