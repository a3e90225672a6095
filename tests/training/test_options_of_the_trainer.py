"""Every option of Lightning's Trainer is honoured by ``fit``, or refused in one line.

scripts/lightning_table.py prints the table.
"""

import csv
import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import CommandLine, assert_one_line
from experiments import Experiment
from lightning.pytorch import Callback
from lightning.pytorch import Trainer as LightningTrainer
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

from ttlightning.runs.run import Run

SMALL = ("--config=debug.yaml", "--data.dataset=mnist", "--data.batch_size=10", "--trainer.max_epochs=3",
         "--data.steps_per_execution=4", "--figures=false")  # fmt: skip
STEPS = 18
"""Steps of an epoch."""


class Trial:
    """One run with an option, and the same run without."""

    def __init__(self, command: CommandLine, words: tuple[str, ...]) -> None:
        self.command = command
        self.plain = command.finished(*SMALL)
        self.shown = command("fit", *SMALL, *words, "--experiment=trial")
        self.run = Run(command.folder / "runs/trial/0")

    @property
    def steps(self) -> int:
        return self.command.steps("trial/0")

    def rows(self, column: str) -> list[dict[str, str]]:
        return [row for row in csv.DictReader(self.run.metrics_file.open()) if row.get(column)]

    def has_the_same_weights(self) -> bool:
        return self.run.result["weights_sha256"] == Run(self.plain).result["weights_sha256"]

    def weights_are(self, dtype: torch.dtype) -> bool:
        state = torch.load(self.run.checkpoint, weights_only=True)["state_dict"]
        return {weights.dtype for weights in state.values()} == {dtype}

    def has_profile(self) -> bool:
        [report] = [file.read_text() for file in self.command.folder.glob("fit-mine.txt")]
        [line] = [line for line in report.splitlines() if "run_training_batch" in line]
        return str(3 * STEPS) in line

    def validations(self) -> list[int]:
        """Steps at which a validation was logged."""
        return [int(row["step"]) for row in self.rows("val/acc")]


def same(trial: Trial) -> bool:
    return trial.has_the_same_weights()


Check = Callable[[Trial], bool]
MET_EARLY = ("--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=val/loss",
             "--trainer.callbacks.min_delta=99", "--trainer.callbacks.patience=1")  # fmt: skip

HONOURED: dict[str, tuple[tuple[str, ...], Check, str]] = {
    "accelerator": (("--trainer.accelerator=cpu",), same, "cpu: the same weights"),
    "strategy": (("--trainer.strategy=ddp", "--trainer.accelerator=cpu"), same, "ddp: the same weights"),
    "devices": (("--trainer.devices=1",), same, "1: the same weights; 2 and 4: tests of devices"),
    "num_nodes": (("--trainer.num_nodes=1",), same, "1: the same weights"),
    "precision": (("--trainer.precision=64-true",), lambda t: t.weights_are(torch.float64), "weights are float64"),
    "logger": (("--trainer.logger=CSVLogger", "--trainer.logger.save_dir=mine"),
               lambda t: len(list(t.command.folder.glob("mine/lightning_logs/version_0/metrics.csv"))) == 1,
               "a CSVLogger writes beside metrics.csv"),
    "callbacks": (MET_EARLY, lambda t: t.run.result["epochs"] == 2, "EarlyStopping; all others: their own rows"),
    "max_epochs": (("--trainer.max_epochs=2",), lambda t: t.steps == 2 * STEPS, "2 epochs of 18 steps"),
    "min_epochs": ((*MET_EARLY, "--trainer.min_epochs=3"), lambda t: t.run.result["epochs"] == 3,
                   "EarlyStopping waits for epoch 3"),
    "max_steps": (("--trainer.max_steps=7",), lambda t: t.steps == 7, "7 steps, within a call of 4"),
    "min_steps": ((*MET_EARLY, "--trainer.min_steps=54"), lambda t: t.steps == 54, "EarlyStopping waits for step 54"),
    "max_time": (("--trainer.max_time=00:00:00:00",), lambda t: t.steps == 0, "no time: no step"),
    "limit_train_batches": (("--trainer.limit_train_batches=5",), lambda t: t.steps == 15, "5 steps an epoch"),
    "limit_val_batches": (("--trainer.limit_val_batches=0",), lambda t: t.validations() == [], "0: no validation"),
    "limit_test_batches": (("--trainer.limit_test_batches=0",), lambda t: t.rows("test/acc") == [], "0: no test"),
    "overfit_batches": (("--trainer.overfit_batches=2",), lambda t: t.steps == 6, "the same 2 batches in each epoch"),
    "val_check_interval": (("--trainer.val_check_interval=6",),
                           lambda t: t.validations() == [*range(6, 3 * STEPS + 1, 6)], "a validation every 6 steps"),
    "check_val_every_n_epoch": (("--trainer.check_val_every_n_epoch=2",),
                                lambda t: t.validations() == [2 * STEPS, 3 * STEPS], "after epoch 2, and at the end"),
    "num_sanity_val_steps": (("--trainer.num_sanity_val_steps=2",),
                             lambda t: same(t) and len(t.validations()) == 3, "the same weights, no row of it"),
    "log_every_n_steps": (("--trainer.log_every_n_steps=6",),
                          lambda t: [int(row["step"]) for row in t.rows("lr")] == [*range(5, 3 * STEPS, 6)],
                          "a row every 6 steps"),
    "enable_checkpointing": (("--trainer.enable_checkpointing=false",),
                             lambda t: same(t) and not list(t.run.path.rglob("*.ckpt")), "no file; the same weights"),
    "enable_progress_bar": (("--trainer.enable_progress_bar=false",),
                            lambda t: same(t) and "epoch 1/3" not in t.shown.stdout, "no line of an epoch"),
    "enable_model_summary": (("--trainer.enable_model_summary=true",),
                             lambda t: same(t) and "PatchFeatureMap" in t.shown.stdout, "the table is printed"),
    "deterministic": (("--trainer.deterministic=false",), same, "false: the same weights on a CPU"),
    "benchmark": (("--trainer.benchmark=false",), same, "the same weights on a CPU"),
    "inference_mode": (("--trainer.inference_mode=false",), same, "the same weights"),
    "use_distributed_sampler": (("--trainer.use_distributed_sampler=true",), same,
                                "no effect: the DataModule gives each device its slice"),
    "profiler": (("--trainer.profiler=SimpleProfiler", "--trainer.profiler.dirpath=.",
                  "--trainer.profiler.filename=mine"),
                 lambda t: same(t) and t.has_profile(), "its report names every step"),
    "barebones": (("--trainer.barebones=true", "--trainer.max_epochs=1"),
                  lambda t: not t.run.path.exists() and "trainer.barebones nothing is written" in t.shown.stdout,
                  "trains, writes nothing and says so"),
    "plugins": (("--trainer.plugins=[LightningEnvironment, AsyncCheckpointIO]",),
                lambda t: same(t) and t.run.checkpoint.exists(), "two at once: the same weights, with a checkpoint"),
    "sync_batchnorm": (("--trainer.sync_batchnorm=true",), same, "no effect: the networks have no batch norm"),
    "reload_dataloaders_every_n_epochs": (("--trainer.reload_dataloaders_every_n_epochs=1",), same, "the same weights"),
    "default_root_dir": (("--trainer.default_root_dir=here", "--trainer.logger=true"),
                         lambda t: len(list(t.command.folder.glob("here/lightning_logs/version_0"))) == 1,
                         "Lightning's own logger writes there"),
    "enable_autolog_hparams": (("--trainer.enable_autolog_hparams=false",), same, "the same weights"),
    "fast_dev_run": (("--trainer.fast_dev_run=2",), lambda t: not t.run.path.exists(), "2 steps, no file"),
    "detect_anomaly": (("--trainer.detect_anomaly=true",), same, "the same weights"),
}  # fmt: skip

REFUSED: dict[str, tuple[tuple[str, ...], str]] = {
    "model_registry": (("--trainer.model_registry=x",), "trainer.model_registry is for uploads"),
    "strategy ddp_spawn": (("--trainer.strategy=ddp_spawn",), "starts processes by spawn"),
    "strategy fsdp on a CPU": (("--trainer.strategy=fsdp",), "requires a GPU accelerator"),
    "accelerator gpu without one": (("--trainer.accelerator=gpu",), "No supported gpu backend"),
    "a logger whose package is missing": (("--trainer.logger=TensorBoardLogger", "--trainer.logger.save_dir=mine"),
                                          "a package is missing"),
    "a profiler in barebones": (("--trainer.barebones=true", "--trainer.profiler=simple"), "Profiling can impact"),
    "a CheckpointIO of the user's": (("--trainer.plugins=lightning.pytorch.plugins.TorchCheckpointIO",),
                                     "ttlightning writes the checkpoints"),
    "a checkpoint callback without checkpoints": (("--trainer.enable_checkpointing=false",
                                                   "--trainer.callbacks+=ModelCheckpoint"), "has ModelCheckpoint"),
    "kept checkpoints without checkpoints": (("--trainer.enable_checkpointing=false", "--checkpoint.save_top_k=1"),
                                             "checkpoint.save_top_k is 1"),
    "steps of a checkpoint without checkpoints": (("--trainer.enable_checkpointing=false",
                                                   "--last_checkpoint.every_n_steps=3"), "every_n_steps is 3"),
    "a finder on two devices": (("--trainer.callbacks+=LearningRateFinder", "--trainer.devices=2",
                                 "--trainer.accelerator=cpu"), "searches on one device"),
    "a metric that does not exist": (("--model.scheduler=lightning.pytorch.cli.ReduceLROnPlateau",
                                      "--model.scheduler.monitor=val/loss", "--model.scheduler_interval=epoch",
                                      "--data.validation=0"), "nothing is validated"),
    "ReduceLROnPlateau with every step": (("--model.scheduler=torch.optim.lr_scheduler.ReduceLROnPlateau",),
                                          "set --model.scheduler_interval epoch"),
}  # fmt: skip

BY_HAND = {
    "gradient_clip_val": {"clip": lambda parameters: clip_grad_norm_(parameters, 0.05)},
    "gradient_clip_algorithm": {"clip": lambda parameters: clip_grad_value_(parameters, 0.001)},
    "accumulate_grad_batches": {"accumulated": 3},
}
OPTIONS_BY_HAND = {
    "gradient_clip_val": ("--trainer.gradient_clip_val=0.05",),
    "gradient_clip_algorithm": ("--trainer.gradient_clip_val=0.001", "--trainer.gradient_clip_algorithm=value"),
    "accumulate_grad_batches": ("--trainer.accumulate_grad_batches=3",),
}


@pytest.mark.parametrize("option", HONOURED)
def test_an_option_is_honoured(command, record_property, option):
    words, check, how = HONOURED[option]
    record_property("row", f"trainer.{option}")
    record_property("how", how)
    assert check(Trial(command, words))


@pytest.mark.parametrize("row", REFUSED)
def test_an_option_that_cannot_be_honoured_is_one_line(command, record_property, row):
    words, message = REFUSED[row]
    record_property("row", row if " " in row else f"trainer.{row}")
    record_property("how", "refused in one line; nothing is written")
    assert_one_line(command("fit", *SMALL, *words, code=2).stderr, message)
    assert list(command.folder.iterdir()) == []


def by_hand(data: Any, model: Any, clip: Any = lambda _: None, accumulated: int = 1) -> list[torch.Tensor]:
    """The weights after one epoch of a loop that knows neither Lightning nor this package's trainer."""
    parameters = list(model.parameters())
    optimizer = torch.optim.Adam(parameters, lr=0.01)
    for index, batch in enumerate(data.train_dataloader()):
        loss = torch.nn.functional.cross_entropy(model(batch.patches), batch.labels)
        (loss / accumulated).backward()
        if (index + 1) % accumulated == 0:
            clip(parameters)
            optimizer.step()
            optimizer.zero_grad()
    return [parameter.detach() for parameter in parameters]


@pytest.mark.parametrize("microbatches", [1, 2])
@pytest.mark.parametrize("option", BY_HAND)
def test_steps_are_those_of_a_loop_by_hand(command, record_property, option, microbatches):
    record_property("row", f"trainer.{option}, microbatches {microbatches}")
    record_property("how", "equals a loop by hand")
    words = (*SMALL, *OPTIONS_BY_HAND[option], "--trainer.max_epochs=1", f"--data.microbatches={microbatches}")
    experiment = Experiment(words, command.data)
    data, model = experiment.objects()
    data.prepare_data()
    data.setup("fit")
    data.steps_per_execution = 1
    expected = by_hand(data, model, **BY_HAND[option])
    trained = experiment.train(command.folder / "trained").lightning_module
    for weights, other in zip(trained.parameters(), expected, strict=True):
        assert torch.allclose(weights, other, atol=1e-6)


def test_limit_predict_batches(command, record_property):
    record_property("row", "trainer.limit_predict_batches")
    record_property("how", "one batch of 20 images is predicted")
    run = command.finished(*SMALL)
    words = ("--data.evaluation_batch_size=20", "--trainer.limit_predict_batches=1")
    command("predict", f"--ckpt_path={run}", *words)
    assert len((command.folder / "predictions.csv").read_text().splitlines()) == 21


def test_anomalies_are_detected_in_training(command, record_property):
    record_property("row", "trainer.detect_anomaly in a step")
    record_property("how", "torch looks for anomalies during the steps")

    class Looks(Callback):
        def on_before_backward(self, *_: Any) -> None:
            seen.append(torch.is_anomaly_enabled())

    seen: list[bool] = []
    words = (*SMALL, "--trainer.detect_anomaly=true", "--trainer.max_epochs=1")
    Experiment(words, command.data).train(command.folder / "run", callbacks=[Looks()])
    assert seen == [True] * STEPS


def test_every_option_has_a_row():
    options = set(inspect.signature(LightningTrainer.__init__).parameters) - {"self"}
    rows = {*HONOURED, *REFUSED, *BY_HAND, "limit_predict_batches"}
    assert options <= rows
