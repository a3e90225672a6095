"""Callbacks find the run at the trainer; where there is none, they work and write nothing."""

import csv
import json
import time

import pytest
from conftest import quiet_trainer
from lightning.pytorch import Trainer as LightningTrainer

from ttlightning import PatchDataModule
from ttlightning.training.callbacks import RankCheck, RunFigures
from ttlightning.training.callbacks.last_checkpoint import LastCheckpoint
from ttlightning.training.classifier import Classifier
from ttlightning.training.trainer import Trainer, run_of


def test_without_a_run_nothing_is_written(tmp_path, monkeypatch, write_mnist):
    data, empty = write_mnist(tmp_path / "data"), tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    for kind in (LightningTrainer, Trainer):
        check = RankCheck(sketch_size=4)
        callbacks = [check, RunFigures(), LastCheckpoint()]
        trainer = quiet_trainer(empty, kind, max_epochs=1, callbacks=callbacks, enable_checkpointing=True)
        model, module = Classifier(16, 49, 10), PatchDataModule("mnist", data, batch_size=32)
        trainer.fit(model, datamodule=module)
        trainer.test(model, datamodule=module, verbose=False)
        assert run_of(trainer) is None
        assert check.latest["certified"]
    assert list(empty.iterdir()) == []


@pytest.mark.parametrize("steps", [1, 4])
def test_a_fast_dev_run_validates_and_leaves_nothing(command, steps):
    words = ("fit", "--config=debug.yaml", "--data.dataset=mnist", "--trainer.fast_dev_run=true", "--run=a")
    shown = command(*words, f"--data.steps_per_execution={steps}").stdout
    assert "val " in shown
    assert ("each in a call of its own, for " in shown) == (steps == 4)
    assert list(command.folder.iterdir()) == []


def test_kept_checkpoints_lie_in_the_run_whatever_loggers_the_user_has(command):
    """By Lightning's own rule: beside the files of the first logger, which is the run's table."""
    own = ("--trainer.logger=CSVLogger", "--trainer.logger.save_dir=own")
    command("fit", "--config=debug.yaml", "--data.dataset=mnist", "--run=a", "--checkpoint.save_top_k=1", *own)
    names = sorted(file.name for file in (command.folder / "a/checkpoints").iterdir())
    assert names == ["epoch=0-step=3.ckpt", "last.ckpt"]
    [table] = (command.folder / "own").rglob("metrics.csv")
    assert [row for row in csv.DictReader(table.open()) if row["test/acc"]]
    assert not list((command.folder / "own").rglob("*.ckpt"))


def test_seconds_count_every_check_of_ranks(command, monkeypatch):
    """Also the first one, which comes before the first step."""
    measure, now, ahead = RankCheck._check, time.perf_counter, []

    def slow(check, *arguments, **options):
        measure(check, *arguments, **options)
        ahead.append(100)
        check.seconds += 100

    monkeypatch.setattr(RankCheck, "_check", slow)
    monkeypatch.setattr(time, "perf_counter", lambda: now() + sum(ahead))
    command("fit", "--config=debug.yaml", "--data.dataset=mnist", "--run=a")
    result = json.loads((command.folder / "a/result.json").read_text())
    assert len(ahead) >= 2
    assert result["rank_check_seconds"] > 100 * len(ahead)
    assert 0 < result["seconds"] - result["rank_check_seconds"] < 90
