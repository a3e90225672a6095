"""One, two and four processes train the same network: nearly so by default, to the bit with microbatches."""

import csv
import json
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from ttlightning import Classifier, PatchDataModule, UserError
from ttlightning.data.sampler import Shard
from ttlightning.runs.checkpoints import SUMS_KEY
from ttlightning.runs.run import Run

SMALL = ("--config", "debug.yaml", "--data.dataset", "mnist", "--model.patch_dropout=0.1", "--data.batch_size=24",
         "--model.label_smoothing=0.1", "--trainer.log_every_n_steps=1", "--trainer.accelerator=cpu")  # fmt: skip
GLOO = "--trainer.strategy=ddp"


def losses(run) -> list[float]:
    return [float(row["train/loss_step"]) for row in csv.DictReader((run / "metrics.csv").open()) if row["lr"]]


def test_two_processes_train_the_network_of_one(command):
    command.finished(*SMALL)
    command.process("fit", *SMALL, GLOO, "--trainer.devices=2", "--data.steps_per_execution=3")
    alone, together = (command.folder / f"runs/debug/{n}" for n in (0, 1))
    assert losses(together) == pytest.approx(losses(alone), rel=1e-6)
    assert len(losses(alone)) == 8  # 180 images in batches of 24, the last one shorter
    one, two = (command.result(f"debug/{n}")["metrics"] for n in (0, 1))
    for key in ("train/loss", "val/loss", "test/loss"):
        assert two[key] == pytest.approx(one[key], rel=1e-5)
    assert two["test/acc"] == pytest.approx(one["test/acc"], abs=1 / 50 + 1e-9)
    assert json.loads((together / "provenance.json").read_text())["world_size"] == 2


@pytest.mark.slow
def test_microbatches_make_it_exact(command):
    """Four processes and one, bit by bit: every loss, every metric, the weights."""
    options = (*SMALL, "--data.microbatches=4", "--trainer.max_epochs=2")
    command("fit", *options, "--data.steps_per_execution=3")
    command.process("fit", *options, GLOO, "--trainer.devices=4")
    alone, together = (command.folder / f"runs/debug/{n}" for n in (0, 1))
    assert command.result("debug/0")["weights_sha256"] == command.result("debug/1")["weights_sha256"]
    assert losses(alone) == losses(together)
    assert command.result("debug/0")["metrics"] == command.result("debug/1")["metrics"]
    for name in ("confusion", "mistakes", "spectrum"):
        one, four = ((run / f"figures/{name}.csv").read_text() for run in (alone, together))
        assert one == four, name


def test_microbatches_follow_the_same_gradient(command):
    command.finished(*SMALL)
    command("fit", *SMALL, "--data.microbatches=8")
    assert losses(command.folder / "runs/debug/1") == pytest.approx(losses(command.folder / "runs/debug/0"), rel=1e-5)


@pytest.mark.parametrize(
    ("microbatches", "world", "message"), [(3, 1, "a power of two"), (2, 4, "a multiple of the 4")]
)
def test_microbatches_that_do_not_fit(monkeypatch, microbatches, world, message):
    monkeypatch.setattr(PatchDataModule, "_shard", lambda _: Shard(0, world))
    with pytest.raises(UserError, match=message):
        PatchDataModule("mnist5k", microbatches=microbatches).setup("fit")


class Alone:
    """As much of a trainer as loading a checkpoint asks for."""

    def __init__(self, rank: int, world: int) -> None:
        self.global_rank, self.world_size = rank, world


@pytest.mark.parametrize("world", [1, 2, 3])
def test_sums_of_an_epoch_are_kept_for_any_number_of_processes(world):
    saved = torch.tensor([[1.5, 2, 3], [0.25, 4, 5]], dtype=torch.float64)  # by two processes
    found = []
    for rank in range(world):
        model = Classifier(sites=4, patch_dim=4, classes=3)
        model.trainer = Alone(rank, world)
        model.on_load_checkpoint({SUMS_KEY: saved})
        found.append(model.metrics["train_metrics"].sums())
    assert torch.equal(torch.stack(found).sum(0), saved.sum(0))
    if world == 2:
        assert torch.equal(torch.stack(found), saved)


def test_many_runs_that_start_at_one_moment(tmp_path):
    """Sixteen threads ask at once; making the folder is what decides."""
    with ThreadPoolExecutor(16) as pool:
        made = list(pool.map(lambda _: Run.create(tmp_path, "eq").path, range(64)))
    assert sorted(int(path.name) for path in made) == list(range(64))
