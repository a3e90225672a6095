"""Whatever looks at single steps sees them all, with the same bits; whatever fit reports is of the weights it keeps."""

import json

import pytest
import torch
from conftest import CommandLine
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import LambdaCallback, LearningRateMonitor, Timer

from ttlightning.runs.checkpoints import weights_sha256
from ttlightning.training.steps import KeptCheckpoints, looks_at_steps, steps_of_a_run

SMALL = ("--config=debug.yaml", "--data.dataset=mnist", "--data.batch_size=10", "--trainer.max_epochs=3",
         "--model.patch_dropout=0.1", "--figures=false", "--trainer.log_every_n_steps=5")  # fmt: skip
SCHEDULE = ("--model.scheduler=OneCycleLR", "--model.scheduler.max_lr=0.01", "--model.scheduler.total_steps=null")
SWA = ("--trainer.callbacks+=StochasticWeightAveraging", "--trainer.callbacks.swa_lrs=0.02",
       "--trainer.callbacks.swa_epoch_start=1")  # fmt: skip
EMA = ("--trainer.callbacks+=EMAWeightAveraging", "--trainer.callbacks.decay=0.9")


def kept(command: CommandLine, run: str) -> dict:
    return torch.load(command.folder / "runs" / run / "checkpoints/last.ckpt", weights_only=True)


@pytest.mark.parametrize(
    "asked",
    [
        EMA,
        SWA,
        ("--trainer.callbacks+=LearningRateMonitor", "--trainer.callbacks.logging_interval=step"),
        ("--checkpoint.every_n_train_steps=7", "--checkpoint.save_top_k=-1"),
        ("--trainer.gradient_clip_val=0.05",),
        ("--trainer.accumulate_grad_batches=2",),
        ("--trainer.val_check_interval=7",),
        ("--trainer.limit_train_batches=9",),
        ("--trainer.profiler=simple",),
        ("--trainer.max_time=00:01:00:00",),
        ("--trainer.profiler=pytorch", "--trainer.max_epochs=1"),
        ("--trainer.callbacks+=GradientAccumulationScheduler", "--trainer.callbacks.scheduling={0: 2, 1: 1}"),
    ],
    ids=lambda asked: asked[0].partition(".")[2],
)
def test_steps_that_share_a_call_are_those_that_do_not(command, asked):
    """With 4 steps a call and with 1: the same weights, the same table, the same checkpoints."""
    files = []
    for number, steps in enumerate((1, 4)):
        done = command("fit", *SMALL, *SCHEDULE, *asked, f"--data.steps_per_execution={steps}")
        assert ("each in a call of its own, for " in done.stdout) == (steps == 4)
        files.append(sorted(p.name for p in (command.folder / f"runs/debug/{number}/checkpoints").iterdir()))
    one, four = command.result("debug/0"), command.result("debug/1")
    assert one["weights_sha256"] == four["weights_sha256"]
    assert one["metrics"] == four["metrics"]
    assert files[0] == files[1]
    tables = [(command.folder / f"runs/debug/{n}/metrics.csv").read_text() for n in (0, 1)]
    assert tables[0] == tables[1]


def test_steps_share_a_call_where_nobody_looks(command):
    for steps in (1, 4):
        done = command("fit", *SMALL, "--checkpoint.save_top_k=1", f"--data.steps_per_execution={steps}")
        assert "in a call of its own" not in done.stdout
    assert command.result("debug/0")["weights_sha256"] == command.result("debug/1")["weights_sha256"]
    calls = [kept(command, f"debug/{n}")["loops"]["fit_loop"]["epoch_loop.batch_progress"] for n in (0, 1)]
    assert [progress["current"]["completed"] for progress in calls] == [18, 5]


@pytest.mark.parametrize("asked", ["--checkpoint.every_n_train_steps=7", "--checkpoint.every_n_epochs=1"])
@pytest.mark.parametrize("steps", [1, 4])
def test_every_checkpoint_that_is_asked_for_is_there_and_is_what_its_name_says(command, asked, steps):
    command("fit", *SMALL, asked, "--checkpoint.save_top_k=-1", f"--data.steps_per_execution={steps}")
    found = {}
    for file in (command.folder / "runs/debug/0/checkpoints").glob("epoch=*.ckpt"):
        content = torch.load(file, weights_only=True)
        assert file.stem == f"epoch={content['epoch']}-step={content['global_step']}"
        found[content["global_step"]] = content["epoch"]
    wanted = range(7, 55, 7) if "steps" in asked else (18, 36, 54)
    assert sorted(found) == list(wanted)


@pytest.mark.parametrize("steps", [1, 4])
def test_fast_dev_run_trains_and_validates_one_batch(command, steps):
    done = command("fit", *SMALL, "--trainer.fast_dev_run=true", f"--data.steps_per_execution={steps}")
    assert "val " in done.stdout
    assert not (command.folder / "runs").exists()


@pytest.mark.parametrize("asked", [EMA, SWA, (), ("--trainer.check_val_every_n_epoch=2",),
                                   ("--trainer.val_check_interval=0.4",)], ids=str)  # fmt: skip
def test_what_is_reported_is_of_the_weights_that_are_kept(command, asked):
    done = command("fit", *SMALL, *asked)
    result, checkpoint = command.result("debug/0"), kept(command, "debug/0")
    assert weights_sha256(checkpoint["state_dict"]) == result["weights_sha256"]
    assert f"test        {result['metrics']['test/acc']:.2%} right" in done.stdout
    for verb, part in (("validate", "val"), ("test", "test")):
        said = command(verb, "--ckpt_path=runs/debug/0").stdout
        assert str(result["metrics"][f"{part}/loss"])[:9] in said
    command("verify", "runs/debug/0/rank/certificate.json", "--checkpoint=runs/debug/0")
    checks = (command.folder / "runs/debug/0/rank/checks.jsonl").read_text().splitlines()
    assert result["rank"]["certified"] == json.loads(checks[-1])["certified"]


def test_an_old_validation_is_not_shown_as_a_new_one(command):
    lines = command("fit", *SMALL, "--trainer.check_val_every_n_epoch=2").stdout.splitlines()
    epochs = [line for line in lines if line.startswith("epoch ")]
    assert ["val " in line for line in epochs] == [False, True, False]


@pytest.mark.parametrize("name", ["BatchSizeFinder", "LearningRateFinder"])
def test_a_setting_that_no_config_would_record(command, name):
    done = command("fit", *SMALL, f"--trainer.callbacks+={name}", code=2)
    assert f"{name} replaces a setting by one that no config records" in done.stderr
    assert not (command.folder / "runs").exists()


@pytest.mark.parametrize("asked", [("--trainer.gradient_clip_val=1",), ("--trainer.accumulate_grad_batches=2",), SWA])
def test_microbatches_make_their_own_backward_pass(command, asked):
    done = command("fit", *SMALL, *asked, "--data.microbatches=2", code=2)
    assert "needs the backward pass that Lightning makes, and data.microbatches is 2" in done.stderr
    assert not (command.folder / "runs").exists()


def test_checkpoints_within_epochs_beside_what_acts_when_epochs_start(command):
    done = command("fit", *SMALL, *SWA, "--last_checkpoint.every_n_steps=3", code=2)
    assert "StochasticWeightAveraging acts when an epoch starts" in done.stderr
    assert not (command.folder / "runs").exists()


@pytest.mark.parametrize("name", ["ReduceLROnPlateau", "torch.optim.lr_scheduler.ReduceLROnPlateau"])
def test_a_schedule_that_follows_a_metric(command, name):
    done = command("fit", *SMALL, f"--model.scheduler={name}", code=2)
    assert "model.scheduler is ReduceLROnPlateau, which follows a metric" in done.stderr
    assert not (command.folder / "runs").exists()


class Silent(Callback):
    """Looks at epochs only."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None: ...


@pytest.mark.parametrize("asked", [
    ("--trainer.log_every_n_steps=0",),
    ("--trainer.plugins=LightningEnvironment",),
    ("--trainer.callbacks+=Timer", "--trainer.callbacks.duration=00:01:00:00"),
        ("--trainer.callbacks+=TQDMProgressBar", "--trainer.callbacks.refresh_rate=5"),
        ("--trainer.callbacks+=RichProgressBar", "--trainer.callbacks.leave=true"),
    ("--trainer.callbacks+=StochasticWeightAveraging", "--trainer.callbacks.swa_lrs=0.01"),
], ids=str)  # fmt: skip
def test_what_a_lightning_user_has_in_a_config(command, asked):
    """It works, and config.yaml holds it: the run can be repeated from it."""
    command("fit", *SMALL, *asked)
    command("fit", "--config=runs/debug/0/config.yaml")
    assert command.result("debug/0")["weights_sha256"] == command.result("debug/1")["weights_sha256"]


def test_who_looks():
    assert looks_at_steps(Timer("00:01:00:00"))
    assert looks_at_steps(LearningRateMonitor())
    assert looks_at_steps(LambdaCallback(on_after_backward=lambda *_: None))
    assert looks_at_steps(KeptCheckpoints(every_n_train_steps=5))
    assert not looks_at_steps(KeptCheckpoints(monitor="val/acc"))
    assert not looks_at_steps(LambdaCallback(on_train_end=lambda *_: None))
    assert not looks_at_steps(Silent())


@pytest.mark.parametrize(("options", "steps"), [
    ({"max_epochs": 3}, 30), ({"max_epochs": 3, "limit_train_batches": 4}, 12), ({"max_steps": 7}, 7),
    ({"max_epochs": 3, "limit_train_batches": 0.25}, 6), ({"max_epochs": 3, "accumulate_grad_batches": 4}, 9),
    ({"max_epochs": 2, "max_steps": 50}, 20), ({"max_epochs": 1, "overfit_batches": 2}, 2),
])  # fmt: skip
def test_steps_of_a_run(tmp_path, options, steps):
    trainer = Trainer(default_root_dir=tmp_path, logger=False, enable_checkpointing=False, accelerator="cpu", **options)
    assert steps_of_a_run(trainer, 10) == steps
