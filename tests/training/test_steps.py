"""Whatever looks at single steps sees them all, with the same bits; whatever fit reports is of the weights it keeps."""

import json
from pathlib import Path

import pytest
import torch
from conftest import assert_one_line
from experiments import Experiment, assert_same, outcome
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import LambdaCallback, LearningRateMonitor, Timer

from ttlightning.commands.studies import configuration
from ttlightning.runs.checkpoints import weights_sha256
from ttlightning.runs.identity import first_difference
from ttlightning.runs.run import Run
from ttlightning.training.steps import KeptCheckpoints, looks_at_steps, steps_of_a_run

SMALL = ("--config=debug.yaml", "--data.dataset=mnist", "--data.batch_size=10", "--trainer.max_epochs=3",
         "--model.patch_dropout=0.1", "--model.label_smoothing=0.1",
         "--figures=false", "--trainer.log_every_n_steps=5")  # fmt: skip
SCHEDULE = ("--model.scheduler=OneCycleLR", "--model.scheduler.max_lr=0.01", "--model.scheduler.total_steps=null")
SWA = ("--trainer.callbacks+=StochasticWeightAveraging", "--trainer.callbacks.swa_lrs=0.02",
       "--trainer.callbacks.swa_epoch_start=1")  # fmt: skip
EMA = ("--trainer.callbacks+=EMAWeightAveraging", "--trainer.callbacks.decay=0.9")


@pytest.fixture
def root(tmp_path, write_mnist):
    return write_mnist(tmp_path / "data")


def files(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.glob("*.ckpt"))


@pytest.mark.parametrize(
    "options",
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
        (*EMA, "--data.microbatches=2"),
        (*SWA, "--data.microbatches=2", "--trainer.gradient_clip_val=0.05", "--trainer.accumulate_grad_batches=2"),
        (
            "--model.optimizer=LBFGS",
            "--model.optimizer.max_iter=2",
            "--model.optimizer.lr=0.1",
            "--model.scheduler.cycle_momentum=false",
        ),
    ],
    ids=lambda options: "+".join(option.partition(".")[2] for option in (options[0], *options[-1:])),
)
def test_what_observes_steps_changes_no_bit_of_them(root, tmp_path, options):
    """With 4 steps per execution and with 1: the same weights, logged values and checkpoints."""
    results = []
    for steps in (1, 4):
        experiment = Experiment((*SMALL, *SCHEDULE, *options, f"--data.steps_per_execution={steps}"), root)
        folder = tmp_path / str(steps)
        trainer = experiment.train(folder)
        assert (trainer.lightning_module.looks_at_steps is not None) == (steps == 4)
        weights = trainer.lightning_module.state_dict()
        results.append(outcome(experiment, trainer, folder) | {"files": files(folder), "weights": weights})
    assert_same(*results)


def test_steps_share_an_execution_where_nothing_observes_them(root, tmp_path):
    results, batches = [], []
    for steps in (1, 4):
        experiment = Experiment((*SMALL, "--checkpoint.save_top_k=1", f"--data.steps_per_execution={steps}"), root)
        trainer = experiment.train(tmp_path / str(steps))
        assert trainer.lightning_module.looks_at_steps is None
        results.append(trainer.lightning_module.state_dict())
        batches.append(trainer.fit_loop.epoch_loop.batch_progress.current.completed)
    assert_same(*results)
    assert batches == [18, 5]


@pytest.mark.parametrize("option", ["--checkpoint.every_n_train_steps=7", "--checkpoint.every_n_epochs=1"])
@pytest.mark.parametrize("steps", [1, 4])
def test_every_checkpoint_exists_and_its_name_is_right(root, tmp_path, option, steps):
    words = (*SMALL, option, "--checkpoint.save_top_k=-1", f"--data.steps_per_execution={steps}")
    Experiment(words, root).train(tmp_path)
    written = []
    for file in tmp_path.glob("epoch=*.ckpt"):
        content = torch.load(file, weights_only=True)
        assert file.stem == f"epoch={content['epoch']}-step={content['global_step']}"
        written.append(content["global_step"])
    assert sorted(written) == list(range(7, 55, 7) if "steps" in option else (18, 36, 54))


@pytest.mark.parametrize(
    ("options", "validated"),
    [
        (EMA, [True, True, True]),
        (SWA, [True, True, True]),
        (("--trainer.check_val_every_n_epoch=2",), [False, True, False]),
        (("--trainer.val_check_interval=0.4",), [True, True, True]),
    ],
    ids=str,
)
def test_what_is_reported_is_of_the_weights_that_are_kept(command, options, validated):
    """Metrics, hash and certificate are those of last.ckpt; an epoch without validation shows none."""
    lines = command("fit", *SMALL, *options).stdout.splitlines()
    result = command.result("debug/0")
    checkpoint = torch.load(command.folder / "runs/debug/0/checkpoints/last.ckpt", weights_only=True)
    assert weights_sha256(checkpoint["state_dict"]) == result["weights_sha256"]
    assert any(f"test        {result['metrics']['test/acc']:.2%} right" in line for line in lines)
    assert ["val " in line for line in lines if line.startswith("epoch ")] == validated
    for verb, part in (("validate", "val"), ("test", "test")):
        assert str(result["metrics"][f"{part}/loss"])[:9] in command(verb, "--ckpt_path=runs/debug/0").stdout
    command("verify", "runs/debug/0/rank/certificate.json", "--checkpoint=runs/debug/0")
    checks = (command.folder / "runs/debug/0/rank/checks.jsonl").read_text().splitlines()
    assert result["rank"]["certified"] == json.loads(checks[-1])["certified"]


CYCLES = "StochasticWeightAveraging acts when an epoch starts"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((*SWA, "--last_checkpoint.every_n_steps=3"), CYCLES),
        (("--model.scheduler=ReduceLROnPlateau",), "--model.scheduler=lightning.pytorch.cli.ReduceLROnPlateau"),
    ],
)
def test_options_that_are_refused(command, options, message):
    assert_one_line(command("fit", *SMALL, *options, code=2).stderr, message)
    assert list(command.folder.iterdir()) == []


class Silent(Callback):
    """Looks at epochs only."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None: ...


@pytest.mark.parametrize("options", [
    ("--trainer.log_every_n_steps=0",),
    ("--trainer.plugins=LightningEnvironment",),
    ("--trainer.callbacks+=Timer", "--trainer.callbacks.duration=00:01:00:00"),
    ("--trainer.callbacks+=TQDMProgressBar", "--trainer.callbacks.refresh_rate=5"),
    ("--trainer.callbacks+=RichProgressBar", "--trainer.callbacks.leave=true"),
    ("--trainer.callbacks+=StochasticWeightAveraging", "--trainer.callbacks.swa_lrs=0.01"),
], ids=str)  # fmt: skip
def test_options_of_lightning_are_recorded(command, options):
    """The run can be repeated from config.yaml, which gives the same configuration."""
    command("fit", *SMALL, *options)
    file = command.folder / "runs/debug/0/config.yaml"
    again = configuration(("--config", str(file)))
    assert first_difference(Run(file.parent).config, again, ()) is None


def test_callbacks_that_observe_steps():
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
