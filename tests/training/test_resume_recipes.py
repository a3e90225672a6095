"""Every shipped recipe, stopped anywhere, goes on to the bits of a run that was not stopped."""

from pathlib import Path

import pytest
import yaml
from conftest import Killed, contents, kill
from lightning.pytorch import Callback, LightningModule, Trainer

from ttlightning.commands.configs import available_configs, find_config

STEPS_OF_AN_EPOCH = 18


AT_ENDS = "--last_checkpoint.every_n_steps=null"


def assert_same(run: Path, other: Path) -> None:
    """Everything of two runs but the times: what differs is named."""
    one, two = contents(run), contents(other)
    for name in one:
        assert one[name] == two[name], name


@pytest.mark.parametrize("steps_per_execution", [1, 4])
@pytest.mark.parametrize("recipe", available_configs())
def test_every_recipe_goes_on_to_the_same_bits(command, at_step, recipe, steps_per_execution):
    data = yaml.safe_load(find_config(recipe).read_text())["data"]
    words = ("fit", f"--config={recipe}", "--experiment=r", f"--data.steps_per_execution={steps_per_execution}",
             "--trainer.max_epochs=3", "--last_checkpoint.every_n_steps=4", "--figures=false", "--data.batch_size=10",
             "--trainer.log_every_n_steps=1", "--data.validation=0.1")  # fmt: skip
    if isinstance(data, str) or data["dataset"] in ("mnist", "mnist5k"):
        words += ("--data.dataset=mnist",)
    command(*words)
    again = words
    for stop in (7, STEPS_OF_AN_EPOCH + 6, STEPS_OF_AN_EPOCH + 13, 3 * STEPS_OF_AN_EPOCH - 1):
        at_step(stop, kill)
        with pytest.raises(Killed):
            command(*again)
        again = ("fit", "--ckpt_path=runs/r/1")
    command(*again)
    assert_same(command.folder / "runs/r/1", command.folder / "runs/r/0")


class AsksEarly(Callback):
    """A user's callback that wants to know the length of the run before it begins."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        assert trainer.estimated_stepping_batches == 3 * STEPS_OF_AN_EPOCH


@pytest.mark.parametrize(
    "options",
    [
        ("--model.scheduler=ExponentialLR", "--model.scheduler.gamma=0.7", "--model.scheduler_interval=epoch"),
        ("--model.scheduler=CosineAnnealingLR", "--model.scheduler.T_max=20"),
        ("--model.scheduler=OneCycleLR", "--model.scheduler.max_lr=0.01", "--model.scheduler.total_steps=null",
         "--model.scheduler_interval=epoch", "--data.augmentation.shift=2"),
        ("--trainer.accumulate_grad_batches=4", "--data.steps_per_execution=4"),
        ("--trainer.accumulate_grad_batches=3", "--trainer.gradient_clip_val=0.5"),
        ("--data.microbatches=2", "--model.scheduler=ExponentialLR", "--model.scheduler.gamma=0.7",
         "--model.scheduler_interval=epoch"),
        ("--trainer.val_check_interval=5", "--data.steps_per_execution=4"),
        ("--trainer.check_val_every_n_epoch=2", "--data.steps_per_execution=4"),
        ("--trainer.limit_train_batches=11", "--data.steps_per_execution=4"),
        ("--trainer.callbacks+=EMAWeightAveraging", "--data.steps_per_execution=4"),
        ("--trainer.callbacks+=StochasticWeightAveraging", "--trainer.callbacks.swa_lrs=0.01",
         "--data.steps_per_execution=4", AT_ENDS),
        ("--trainer.callbacks+=test_resume_recipes.AsksEarly", "--data.steps_per_execution=4"),
        ("--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=val/loss", "--data.steps_per_execution=4"),
        ("--trainer.callbacks+=GradientAccumulationScheduler", "--trainer.callbacks.scheduling={0: 2, 1: 3}",
         AT_ENDS),
    ],
    ids=lambda options: " ".join(word.partition(".")[2] for word in options),
)  # fmt: skip
def test_whatever_is_asked_of_the_trainer(command, at_step, options):
    """Checkpoints within epochs, schedules, accumulation, validation, and callbacks that have states of their own."""
    words = ("fit", "--config=debug.yaml", "--data.dataset=mnist", "--experiment=r", "--trainer.max_epochs=3",
             "--data.batch_size=10", "--data.validation=0.1", "--last_checkpoint.every_n_steps=1", "--figures=false",
             "--trainer.log_every_n_steps=1", "--model.patch_dropout=0.2", *options)  # fmt: skip
    command(*words)
    steps = command.steps("r/0")
    again = words
    for stop in (steps // 5, steps // 2, steps - 1):
        at_step(stop, kill)
        with pytest.raises(Killed):
            command(*again)
        again = ("fit", "--ckpt_path=runs/r/1", "--trust=test_resume_recipes.AsksEarly")
    command(*again)
    assert_same(command.folder / "runs/r/1", command.folder / "runs/r/0")


@pytest.mark.parametrize("kept", ["every_n_train_steps=7", "every_n_epochs=1"])
@pytest.mark.parametrize(
    "schedule",
    [
        ("MultiStepLR", "milestones=[1,2]", "epoch"),
        ("CosineAnnealingWarmRestarts", "T_0=2", "epoch"),
        ("OneCycleLR", "max_lr=0.02", "step"),
    ],
    ids=lambda schedule: schedule[0],
)
@pytest.mark.parametrize("validated", [1, 2])
def test_from_any_of_lightnings_own_checkpoints(command, kept, schedule, validated):
    """Of epochs or of steps: the schedule is where it was (not so in Lightning's reports 4655, 7637, 20495)."""
    name, option, interval = schedule
    words = ("fit", "--config=debug.yaml", "--data.dataset=mnist", "--experiment=r", "--trainer.max_epochs=3",
             "--data.batch_size=20", "--figures=false", "--data.steps_per_execution=4", f"--model.scheduler={name}",
             f"--model.scheduler.{option}", f"--model.scheduler_interval={interval}", "--checkpoint.save_top_k=-1",
             f"--checkpoint.{kept}", f"--trainer.check_val_every_n_epoch={validated}")  # fmt: skip
    if name == "OneCycleLR":
        words += ("--model.scheduler.total_steps=null",)
    command(*words)
    files = sorted((command.folder / "runs/r/0/checkpoints").glob("epoch=*.ckpt"))
    middle = [file for file in files if file.stem.startswith(("epoch=0", "epoch=1"))]
    assert middle
    for number, file in enumerate((middle[0], middle[-1]), start=1):
        command(*words, f"--ckpt_path={file}")
        assert command.result(f"r/{number}")["weights_sha256"] == command.result("r/0")["weights_sha256"], file.name
