"""Every callback that Lightning ships does in ``fit`` what it promises; scripts/lightning_table.py prints the table.

Averages are compared with averages computed by hand, from weights that another callback records.
"""

import csv
import functools
import math
from typing import Any

import lightning.pytorch.callbacks as shipped
import pytest
import torch
from conftest import CommandLine, assert_one_line
from experiments import Experiment
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter, LambdaCallback, OnExceptionCheckpoint

from ttlightning import Classifier
from ttlightning.runs.run import Run

SMALL = ("--config=debug.yaml", "--data.dataset=mnist", "--data.batch_size=10", "--trainer.max_epochs=3",
         "--data.steps_per_execution=4", "--figures=false")  # fmt: skip
STEPS = 18
"""Steps of an epoch."""

BASES = {"BaseFinetuning", "BasePredictionWriter", "Callback", "Checkpoint", "ProgressBar"}
"""Classes for a user's own callbacks."""


class Recorder(Callback):
    """Records the weights after each step, before the callbacks that come after it, and the names of the hooks."""

    def __init__(self) -> None:
        self.weights: list[torch.Tensor] = []
        self.hooks: list[str] = []

    def on_train_batch_start(self, *_: Any) -> None:
        self.hooks.append("batch")

    def on_before_backward(self, *_: Any) -> None:
        self.hooks.append("backward")

    def on_before_optimizer_step(self, *_: Any) -> None:
        self.hooks.append("step")

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.hooks.append("end")
        self.weights.append(torch.cat([p.detach().flatten() for p in pl_module.parameters()]))


class EpochEnds(Callback):
    """Records the weights at the end of each epoch."""

    looks_at_steps = False

    def __init__(self) -> None:
        self.weights: list[torch.Tensor] = []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.weights.append(torch.cat([p.detach().flatten() for p in pl_module.parameters()]))


def with_callback(name: str, **options: Any) -> tuple[str, ...]:
    return (f"--trainer.callbacks+={name}", *(f"--trainer.callbacks.{key}={value}" for key, value in options.items()))


def rows(run: Run) -> list[dict[str, str]]:
    return list(csv.DictReader(run.metrics_file.open()))


def weights_of(file: Any) -> dict[str, torch.Tensor]:
    return torch.load(file, weights_only=True)["state_dict"]


def final_weights(folder: Any) -> torch.Tensor:
    return torch.cat([weights.flatten() for weights in weights_of(folder / "checkpoints/last.ckpt").values()])


def of_the_run(command: CommandLine, *words: str) -> Run:
    command("fit", *SMALL, *words)
    return Run(command.folder / "runs/debug/0")


def freezes_the_features(command: CommandLine) -> None:
    words = with_callback("BackboneFinetuning", unfreeze_backbone_at_epoch=2, verbose="false")
    run = of_the_run(command, *words, "--checkpoint.save_top_k=-1")
    files = [run.path / f"checkpoints/epoch={epoch}-step={STEPS * (epoch + 1)}.ckpt" for epoch in range(3)]
    frozen, same, free = (weights_of(file)["features.linear.weight"] for file in files)
    assert torch.equal(frozen, same)
    assert not torch.equal(same, free)
    cores = [weights_of(file)["format.interior"] for file in files[:2]]
    assert not torch.equal(*cores)


def finds_a_batch_size(command: CommandLine) -> None:
    run = of_the_run(command, *with_callback("BatchSizeFinder", max_val=64, steps_per_trial=1))
    assert run.config["data"]["batch_size"] == 64
    assert_recorded(command, run, {"data.batch_size": 64})


def finds_a_learning_rate(command: CommandLine) -> None:
    schedule = ("--model.scheduler=OneCycleLR", "--model.scheduler.max_lr=0.5", "--model.scheduler.total_steps=null")
    run = of_the_run(command, *with_callback("LearningRateFinder", num_training_steps=40), *schedule)
    rate = run.config["model"]["optimizer"]["init_args"]["lr"]
    assert 1e-8 < rate < 1
    assert rate != 0.01
    keys = ("model.optimizer.init_args.lr", "model.scheduler.init_args.max_lr")
    assert_recorded(command, run, dict.fromkeys(keys, rate))


def assert_recorded(command: CommandLine, run: Run, values: dict[str, float]) -> None:
    """config.yaml has the values and no callback, provenance names the search, and the run can be repeated."""
    assert run.config["trainer"]["callbacks"] is None
    assert run.provenance["searched"] == values
    command("fit", f"--config={run.config_file}", "--experiment=again")
    assert command.result("again/0")["weights_sha256"] == run.result["weights_sha256"]


def logs_the_device(command: CommandLine) -> None:
    run = of_the_run(command, *with_callback("DeviceStatsMonitor"), "--trainer.log_every_n_steps=5")
    values = [row for row in rows(run) if row.get("DeviceStatsMonitor.on_train_batch_end/cpu_percent")]
    assert [int(row["step"]) for row in values] == [*range(4, 3 * STEPS, 5)]


def stops_early(command: CommandLine) -> None:
    words = with_callback("EarlyStopping", monitor="val/loss", min_delta=99, patience=1)
    assert of_the_run(command, *words).result["epochs"] == 2


def accumulates(command: CommandLine) -> None:
    """Two batches make a step in epoch 0, one batch from epoch 1 on."""
    of_the_run(command, *with_callback("GradientAccumulationScheduler", scheduling="{0: 2, 1: 1}"))
    assert command.steps("debug/0") == STEPS // 2 + 2 * STEPS


def logs_the_learning_rate(command: CommandLine) -> None:
    words = ("--model.scheduler=ExponentialLR", "--model.scheduler.gamma=0.9", "--trainer.log_every_n_steps=1")
    run = of_the_run(command, *with_callback("LearningRateMonitor", logging_interval="step"), *words)
    rates = [float(row["lr-Adam"]) for row in rows(run) if row["lr-Adam"]]
    assert rates == pytest.approx([0.01 * 0.9**step for step in range(3 * STEPS)])


def keeps_checkpoints(command: CommandLine) -> None:
    words = with_callback("ModelCheckpoint", every_n_train_steps=20, save_top_k=-1, dirpath="kept")
    of_the_run(command, *words)
    assert sorted(file.name for file in (command.folder / "kept").iterdir()) == [
        "epoch=1-step=20.ckpt", "epoch=2-step=40.ckpt"
    ]  # fmt: skip


def prunes(command: CommandLine) -> None:
    """Half of the feature map's weights are 0 in the run's checkpoint, which ``test`` takes."""
    options = {"pruning_fn": "l1_unstructured", "amount": 0.5, "use_lottery_ticket_hypothesis": "false"}
    run = of_the_run(command, *with_callback("ModelPruning", **options))
    weights = weights_of(run.checkpoint)["features.linear.weight"]
    assert float((weights == 0).double().mean()) >= 0.5
    command("test", f"--ckpt_path={run.path}")


def shows_a_summary(command: CommandLine, name: str) -> None:
    shown = command.process("fit", *SMALL, *with_callback(name))  # a logger writes to stderr as it was at the import
    assert "PatchFeatureMap" in shown.stdout + shown.stderr


def shows_a_bar(command: CommandLine, name: str) -> None:
    """The user's bar replaces ours."""
    shown = command("fit", *SMALL, *with_callback(name))
    assert "Epoch 2" in shown.stdout + shown.stderr
    assert "epoch 1/3" not in shown.stdout


def detects_a_spike(command: CommandLine) -> None:
    words = (*with_callback("SpikeDetection", rtol=0.0001, warmup=3), "--model.optimizer.lr=0.3")
    message = "SpikeDetection stopped the run: Training spike detected in batch"
    assert_one_line(command("fit", *SMALL, *words, code=1).stderr, message)


def measures_throughput(command: CommandLine) -> None:
    words = with_callback("ThroughputMonitor", batch_size_fn="experiments.batch_size", window_size=3)
    run = of_the_run(command, *words, "--trainer.log_every_n_steps=6")
    samples = [
        float(row["train/device/samples_per_sec"]) for row in rows(run) if row.get("train/device/samples_per_sec")
    ]
    assert len(samples) >= 3 * STEPS // 6 - 1
    assert min(samples) > 0


def stops_in_time(command: CommandLine) -> None:
    of_the_run(command, *with_callback("Timer", duration="00:00:00:00", interval="step"))
    assert command.steps("debug/0") == 0


def averages(command: CommandLine, name: str) -> None:
    """The weights that are kept are the average, computed by hand from the weights after each step."""
    decay = {"EMAWeightAveraging": 0.9}.get(name)
    options = with_callback(name, **({"decay": decay} if decay else {}))
    recorder = Recorder()
    folder = command.folder / "average"
    experiment = Experiment((*SMALL, *options), command.data)
    experiment.train(folder, callbacks=[recorder])
    assert len(recorder.weights) == 3 * STEPS
    if decay:
        average = functools.reduce(lambda mean, new: decay * mean + (1 - decay) * new, recorder.weights)
    else:
        average = torch.stack(recorder.weights).mean(0)
    assert torch.allclose(final_weights(folder), average, atol=1e-6)


def averages_epochs(command: CommandLine) -> None:
    """SWA: the mean, computed by hand, of the weights with which the epochs from the second on begin."""
    ends = EpochEnds()
    words = with_callback("StochasticWeightAveraging", swa_lrs=0.02, swa_epoch_start=2, annealing_epochs=1)
    folder = command.folder / "average"
    Experiment((*SMALL, *words), command.data).train(folder, callbacks=[ends])
    mean = torch.stack(ends.weights[:2]).mean(0)
    assert torch.allclose(final_weights(folder), mean, atol=1e-6)


def calls_a_function(command: CommandLine) -> None:
    batches: list[int] = []
    counted = LambdaCallback(on_train_batch_end=lambda *arguments: batches.append(arguments[-1]))
    Experiment(SMALL, command.data).train(command.folder / "counted", callbacks=[counted])
    assert batches == [*range(STEPS)] * 3


def keeps_a_checkpoint_of_an_exception(command: CommandLine) -> None:
    class Breaks(Callback):
        def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            raise ArithmeticError

    kept = OnExceptionCheckpoint(command.folder, "broken")
    with pytest.raises(ArithmeticError):
        Experiment(SMALL, command.data).train(command.folder / "run", callbacks=[Breaks(), kept])
    assert torch.load(command.folder / "broken.ckpt", weights_only=True)["global_step"] == STEPS


CHECKS: dict[str, Any] = {
    "BackboneFinetuning": (freezes_the_features, "feature map frozen in epochs 0 and 1, free in epoch 2"),
    "BatchSizeFinder": (finds_a_batch_size, "config.yaml has the batch size; its run is repeated to the bit"),
    "DeviceStatsMonitor": (logs_the_device, "metrics.csv has the CPU's load at each logged step"),
    "EarlyStopping": (stops_early, "the run ends after two epochs"),
    "EMAWeightAveraging": (functools.partial(averages, name="EMAWeightAveraging"), "equals an average by hand"),
    "GradientAccumulationScheduler": (accumulates, "9 steps in epoch 0, 18 in epochs 1 and 2"),
    "LambdaCallback": (calls_a_function, "called after every step"),
    "LearningRateFinder": (finds_a_learning_rate, "config.yaml has the rate; its run is repeated to the bit"),
    "LearningRateMonitor": (logs_the_learning_rate, "metrics.csv has the rate of each step, by the schedule's formula"),
    "ModelCheckpoint": (keeps_checkpoints, "a file after every 20 steps"),
    "ModelPruning": (prunes, "half of the feature map's weights are 0 in the checkpoint"),
    "ModelSummary": (functools.partial(shows_a_summary, name="ModelSummary"), "the table is printed"),
    "OnExceptionCheckpoint": (keeps_a_checkpoint_of_an_exception, "its file has the step of the exception"),
    "RichModelSummary": (functools.partial(shows_a_summary, name="RichModelSummary"), "the table is printed"),
    "RichProgressBar": (functools.partial(shows_a_bar, name="RichProgressBar"), "the bar replaces ours"),
    "SpikeDetection": (detects_a_spike, "a rising loss ends the run in one line"),
    "StochasticWeightAveraging": (averages_epochs, "equals a mean by hand"),
    "ThroughputMonitor": (measures_throughput, "metrics.csv has samples per second"),
    "Timer": (stops_in_time, "the run ends when its time is over"),
    "TQDMProgressBar": (functools.partial(shows_a_bar, name="TQDMProgressBar"), "the bar replaces ours"),
    "WeightAveraging": (functools.partial(averages, name="WeightAveraging"), "equals a mean by hand"),
}  # fmt: skip


@pytest.mark.parametrize("name", CHECKS)
def test_a_callback_does_what_it_promises(command, record_property, name):
    check, how = CHECKS[name]
    record_property("row", f"callback {name}")
    record_property("how", how)
    check(command)


def test_a_rate_that_is_only_suggested_changes_nothing(command):
    words = with_callback("LearningRateFinder", num_training_steps=40, update_attr="false")
    shown = command("fit", *SMALL, *words).stdout
    assert "LearningRateFinder suggests" in shown
    run = Run(command.folder / "runs/debug/0")
    assert run.config["model"]["optimizer"]["init_args"]["lr"] == 0.01
    command("fit", *SMALL)
    assert command.result("debug/1")["weights_sha256"] == run.result["weights_sha256"]


@pytest.mark.parametrize("name", ["LearningRateFinder", "BatchSizeFinder"])
def test_a_finder_is_for_fit(command, name):
    run = command.finished(*SMALL)
    words = ("--trainer.callbacks+=" + name, f"--ckpt_path={run}")
    assert_one_line(command("test", *words, code=2).stderr, f"{name} searches for training: give it to fit")


def test_every_shipped_callback_is_tried():
    assert set(shipped.__all__) - BASES == set(CHECKS)


def test_a_callback_of_the_users_sees_every_step_in_order(command, record_property):
    record_property("row", "a callback of the user's own")
    record_property("how", "every hook of every step, in order")
    recorder = Recorder()
    Experiment(SMALL, command.data).train(command.folder / "run", callbacks=[recorder])
    assert recorder.hooks == ["batch", "backward", "step", "end"] * (3 * STEPS)


def test_a_prediction_writer_of_the_users_gets_every_batch(digits, tmp_path, record_property):
    record_property("row", "callback BasePredictionWriter")
    record_property("how", "gets the probabilities of all test images")

    class Writer(BasePredictionWriter):
        def write_on_batch_end(self, trainer, pl_module, prediction, *_: Any) -> None:
            written.append(prediction[0])

    written: list[torch.Tensor] = []
    model = Classifier(digits.sites, digits.patch_dim, digits.classes)
    options = {"logger": False, "enable_progress_bar": False, "accelerator": "cpu", "default_root_dir": tmp_path}
    Trainer(callbacks=[Writer("batch")], **options).predict(model, datamodule=digits)
    assert torch.cat(written).shape == (50, 10)
    assert math.isclose(float(torch.cat(written).sum()), 50, rel_tol=1e-5)
