"""Every recipe and option, stopped anywhere, goes on to the bits of a run that was not stopped.

The laws are tried with a Trainer and its callbacks (experiments.py). test_resume.py tries them through the command.
"""

from pathlib import Path

import pytest
from conftest import Killed, kill
from experiments import Experiment, assert_same, every_recipe, outcome, small_data
from lightning.pytorch import Callback, LightningModule, Trainer

STEPS_OF_AN_EPOCH = 18
AT_ENDS = "--last_checkpoint.every_n_steps=null"
SMALL = ("--data.batch_size=10", "--data.validation=0.1", "--trainer.max_epochs=3", "--trainer.log_every_n_steps=1")


@pytest.fixture
def root(tmp_path, write_mnist):
    return write_mnist(tmp_path / "data")


def finished(experiment: Experiment, folder: Path) -> dict:
    """What the experiment comes to when nothing stops it."""
    return outcome(experiment, experiment.train(folder), folder)


def stopped(experiment: Experiment, folder: Path, at_step, stops) -> dict:
    """What the experiment comes to when it is killed before each of these steps and goes on each time."""
    for stop in stops:
        at_step(stop, kill)
        with pytest.raises(Killed):
            experiment.train(folder)
    return finished(experiment, folder)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", every_recipe())
def test_every_recipe_goes_on_to_the_same_bits(root, tmp_path, at_step, recipe):
    """Killed in each epoch and before the last step, with one step a call and with four: one outcome."""
    often = ("--trainer.max_epochs=2", "--last_checkpoint.every_n_steps=4")
    words = (f"--config={recipe}", *SMALL, *often, *small_data(recipe))
    one, four = (f"--data.steps_per_execution={steps}" for steps in (1, 4))
    expected = finished(Experiment((*words, one), root), tmp_path / "whole")
    for steps, stops in (
        (one, (7, STEPS_OF_AN_EPOCH + 13)),
        (four, (STEPS_OF_AN_EPOCH + 6, 2 * STEPS_OF_AN_EPOCH - 1)),
    ):
        again = stopped(Experiment((*words, steps), root), tmp_path / steps, at_step, stops)
        assert_same(again, expected, steps)


PLATEAU = (
    "--model.scheduler=lightning.pytorch.cli.ReduceLROnPlateau", "--model.scheduler.monitor=val/loss",
    "--model.scheduler.patience=0", "--model.scheduler.threshold=0.5", "--model.scheduler_interval=epoch",
)  # fmt: skip


class AsksEarly(Callback):
    """A user's callback that asks for the length of the run before it begins."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        assert trainer.estimated_stepping_batches == 3 * STEPS_OF_AN_EPOCH


@pytest.mark.parametrize(
    "options",
    [
        ("--data.steps_per_execution=4", AT_ENDS),
        ("--last_checkpoint.every_n_steps=2",),
        ("--model.scheduler=ExponentialLR", "--model.scheduler.gamma=0.7", "--model.scheduler_interval=epoch"),
        ("--model.scheduler=CosineAnnealingLR", "--model.scheduler.T_max=20"),
        ("--model.scheduler=OneCycleLR", "--model.scheduler.max_lr=0.01", "--model.scheduler.total_steps=null",
         "--model.scheduler_interval=epoch", "--data.augmentation.shift=2"),
        ("--trainer.accumulate_grad_batches=4", "--data.steps_per_execution=4"),
        ("--trainer.accumulate_grad_batches=3", "--trainer.gradient_clip_val=0.5"),
        ("--data.microbatches=2", "--model.scheduler=ExponentialLR", "--model.scheduler.gamma=0.7",
         "--model.scheduler_interval=epoch"),
        ("--trainer.val_check_interval=5", "--data.steps_per_execution=4"),
        (*PLATEAU, "--trainer.val_check_interval=5"),
        (*PLATEAU, "--trainer.check_val_every_n_epoch=2", "--data.steps_per_execution=4"),
        ("--data.microbatches=2", "--trainer.accumulate_grad_batches=3", "--trainer.gradient_clip_val=0.5"),
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
def test_any_options_of_the_trainer_resume_to_the_same_bits(root, tmp_path, at_step, options):
    """Checkpoints within epochs, schedules, accumulation, validation, and callbacks with states of their own."""
    words = ("--config=debug.yaml", "--data.dataset=mnist", *SMALL, "--last_checkpoint.every_n_steps=1",
             "--model.patch_dropout=0.2", *options)  # fmt: skip
    expected = finished(Experiment(words, root), tmp_path / "whole")
    steps = expected["global_step"]
    stops = (steps // 5, steps // 2, steps - 1)
    assert_same(stopped(Experiment(words, root), tmp_path / "stopped", at_step, stops), expected)


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
def test_from_any_of_lightnings_own_checkpoints(root, tmp_path, kept, schedule, validated):
    """Of epochs or of steps: the schedule is where it was (not so in Lightning's reports 4655, 7637, 20495)."""
    name, option, interval = schedule
    words = ("--config=debug.yaml", "--data.dataset=mnist", "--trainer.max_epochs=3", "--data.batch_size=20",
             "--data.steps_per_execution=4", f"--model.scheduler={name}", f"--model.scheduler.{option}",
             f"--model.scheduler_interval={interval}", "--checkpoint.save_top_k=-1", f"--checkpoint.{kept}",
             f"--trainer.check_val_every_n_epoch={validated}")  # fmt: skip
    if name == "OneCycleLR":
        words += ("--model.scheduler.total_steps=null",)
    experiment = Experiment(words, root)
    expected = finished(experiment, tmp_path / "whole")
    middle = sorted(file for epoch in (0, 1) for file in (tmp_path / "whole").glob(f"epoch={epoch}*.ckpt"))
    assert middle
    for number, file in enumerate((middle[0], middle[-1])):
        folder = tmp_path / str(number)
        again = outcome(experiment, experiment.train(folder, begin=file), folder)
        assert_same(again["state_dict"], expected["state_dict"], file.name)
