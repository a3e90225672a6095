"""The LightningModule: what it computes, what it injects, and a loss curve that every change must reproduce."""

import json
import math
from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import quiet_trainer
from lightning.pytorch import Callback, Trainer
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR, ReduceLROnPlateau

from ttlightning import Classifier, EqualCoreTensorTrain, PatchDataModule, PatchFeatureMap, TensorTrain, UserError
from ttlightning.training.metrics import LossAndAccuracy

GOLDEN = Path(__file__).with_name("golden_losses.json")
ADAM = partial(torch.optim.AdamW, lr=2e-2)
CYCLE = partial(OneCycleLR, max_lr=2e-2, total_steps=None)


def classifier(data: PatchDataModule, kind=EqualCoreTensorTrain, **options) -> Classifier:
    options = {"features": partial(PatchFeatureMap, mode_size=5), "format": partial(kind, rank=4), "seed": 4} | options
    return Classifier(data.sites, data.patch_dim, data.classes, **options)


def in_calls(root: Path, steps: int, validation: float = 0.0, **options) -> tuple[PatchDataModule, Classifier]:
    """Data and network with ``steps`` optimizer steps per call."""
    data = PatchDataModule(
        "mnist", root, patch_size=7, batch_size=32, seed=4, steps_per_execution=steps, validation=validation
    )
    return data, classifier(data, steps_per_execution=steps, **options)


def train(model: Classifier, data: PatchDataModule, folder: Path, **options) -> list[float]:
    """Losses of every step, in float64: machines agree on them to many digits."""
    losses: list[float] = []
    step = model.training_step

    def recorded(batch, batch_idx):
        loss = step(batch, batch_idx)
        losses.append(float(loss.detach()))
        return loss

    model.training_step = recorded
    quiet_trainer(folder, Trainer, **options).fit(model.double(), datamodule=data)
    return losses


@pytest.mark.parametrize("kind", [TensorTrain, EqualCoreTensorTrain])
def test_golden_loss_curve(kind, digits, tmp_path):
    """Eight epochs of the whole pipeline: data, permutation, dropout, initialization, contraction, optimizer, schedule.

    The file was written by this test (delete it to write it anew, with the reason in the commit).
    """
    model = classifier(digits, kind, optimizer=ADAM, scheduler=CYCLE, patch_dropout=0.1)
    found = train(model, digits, tmp_path, max_epochs=8)
    golden = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    if kind.__name__ not in golden:
        GOLDEN.write_text(json.dumps(golden | {kind.__name__: found}, indent=1) + "\n")
        pytest.fail(f"{GOLDEN.name} had no curve for {kind.__name__}: written, look at it and run again")
    assert found == pytest.approx(golden[kind.__name__], rel=1e-9)
    assert found[-1] < 0.8 * found[0]


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not(digits, tmp_path):
    weights = []
    for seed in (4, 4, 5):
        model = classifier(digits, seed=seed, patch_dropout=0.2)
        torch.manual_seed(len(weights))  # nothing may depend on the global generator
        quiet_trainer(tmp_path, Trainer, max_epochs=1).fit(model, datamodule=digits)
        weights.append(torch.cat([p.flatten() for p in model.parameters()]))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_metrics_are_those_of_a_direct_computation(digits, tmp_path):
    model = classifier(digits)
    trainer = quiet_trainer(tmp_path, Trainer)
    [found] = trainer.test(model, datamodule=digits, verbose=False)
    scores = torch.cat([model(batch.patches) for batch in digits.test_dataloader()])
    labels = torch.cat([batch.labels for batch in digits.test_dataloader()])
    assert found["test/acc"] == pytest.approx((scores.argmax(1) == labels).double().mean().item())
    assert found["test/loss"] == pytest.approx(torch.nn.functional.cross_entropy(scores, labels).item(), rel=1e-5)


def test_metrics_do_not_depend_on_how_samples_are_batched():
    generator = torch.Generator().manual_seed(0)
    scores, labels = torch.randn(100, 4, generator=generator), torch.randint(4, (100,), generator=generator)
    losses = torch.nn.functional.cross_entropy(scores, labels, reduction="none")
    found = []
    for size in (100, 7):
        metric = LossAndAccuracy()
        for part in zip(losses.split(size), scores.split(size), labels.split(size), strict=True):
            metric.update(part[0].sum(), *part[1:])
        found.append(metric.compute())
    assert found[0]["acc"] == found[1]["acc"]
    assert found[0]["loss"].item() == pytest.approx(found[1]["loss"].item(), rel=1e-6)
    assert found[0]["loss"].item() == pytest.approx(losses.mean().item(), rel=1e-6)


@pytest.mark.parametrize("microbatches", [1, 2])
def test_total_steps_are_filled_in(digits, tmp_path, microbatches):
    model = classifier(digits, scheduler=CYCLE, microbatches=microbatches)
    trainer = quiet_trainer(tmp_path, Trainer, max_epochs=3, limit_val_batches=0)
    trainer.fit(model, datamodule=digits)
    assert trainer.lr_scheduler_configs[0].scheduler.total_steps == 3 * 6
    assert trainer.global_step == 3 * 6


def test_any_schedule_can_be_injected(digits, tmp_path):
    sgd, cosine = partial(torch.optim.SGD, lr=0.1), partial(CosineAnnealingLR, T_max=2)
    model = classifier(digits, optimizer=sgd, scheduler=cosine, scheduler_interval="epoch")
    trainer = quiet_trainer(tmp_path, Trainer, max_epochs=2, limit_val_batches=0)
    trainer.fit(model, datamodule=digits)
    assert isinstance(trainer.optimizers[0], torch.optim.SGD)
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("steps", [1, 4])
def test_a_schedule_follows_a_metric(tmp_path, write_mnist, steps):
    """The rate is what torch's schedule makes of the validation losses, one after each epoch."""
    plateau = partial(ReduceLROnPlateau, factor=0.5, patience=0, threshold=0.5)
    data, model = in_calls(
        write_mnist(tmp_path), steps, validation=0.1, optimizer=ADAM, scheduler=plateau, scheduler_interval="epoch"
    )
    losses: list[float] = []

    class Losses(Callback):
        def on_validation_end(self, trainer, pl_module) -> None:
            losses.append(float(trainer.callback_metrics["val/loss"]))

    options = {"max_epochs": 5, "num_sanity_val_steps": 0, "callbacks": [Losses()]}
    trainer = quiet_trainer(tmp_path, Trainer, **options)
    trainer.fit(model, datamodule=data)
    alone = ADAM([torch.nn.Parameter(torch.zeros(1))])
    expected = plateau(alone)
    for loss in losses:
        expected.step(loss)
    assert len(losses) == 5
    assert alone.param_groups[0]["lr"] < ADAM.keywords["lr"]
    assert trainer.optimizers[0].param_groups[0]["lr"] == alone.param_groups[0]["lr"]


def test_parts_follow_a_scaled_loss(digits, tmp_path):
    """float16 and accumulation scale the loss: the gradient of microbatches has the same factor."""
    digits.microbatches = 2
    model = classifier(digits, microbatches=2)

    class Scaled(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
            found = []
            for scale in (1, 1024):
                pl_module.zero_grad()
                loss, _ = pl_module.training_loss(batch)
                pl_module.backward(loss * scale)
                found.append(torch.cat([p.grad.flatten() for p in pl_module.parameters()]))
            assert torch.equal(1024 * found[0], found[1])
            checked.append(batch_idx)

    checked: list[int] = []
    quiet_trainer(tmp_path, Trainer, max_epochs=1, callbacks=[Scaled()]).fit(model, datamodule=digits)
    assert checked == [*range(6)]


@pytest.mark.parametrize("option", ["patch_dropout", "label_smoothing"])
@pytest.mark.parametrize("value", [-0.1, 1.0, math.nan])
def test_shares_out_of_range(digits, option, value):
    with pytest.raises(UserError, match=f"{option} is {value}"):
        classifier(digits, **{option: value})


@pytest.mark.parametrize("microbatches", [1, 2])
def test_smoothed_labels_are_in_the_loss_of_training_and_no_other(digits, tmp_path, microbatches):
    """Against the formula: the log-probabilities weighted by 1 - s + s / C and s / C."""
    model = classifier(digits, label_smoothing=0.3, microbatches=microbatches, optimizer=partial(torch.optim.SGD, lr=0))
    trainer = quiet_trainer(tmp_path, Trainer, max_epochs=1)
    trainer.fit(model, datamodule=digits)
    found = trainer.callback_metrics["train/loss"].item()

    def losses(batches):
        scores, labels = zip(*((model(batch.patches), batch.labels) for batch in batches), strict=True)
        logarithms = -torch.cat(scores).double().log_softmax(1)
        right = logarithms.gather(1, torch.cat(labels)[:, None]).mean().item()
        return right, logarithms.mean(1).mean().item()

    right, every = losses(digits.train_dataloader())
    assert found == pytest.approx(0.7 * right + 0.3 * every, rel=1e-5)
    [tested] = trainer.test(model, datamodule=digits, verbose=False)
    assert tested["test/loss"] == pytest.approx(losses(digits.test_dataloader())[0], rel=1e-5)


@pytest.mark.parametrize("interval", ["step", "epoch"])
def test_steps_in_one_call_are_the_same_steps(interval, tmp_path, write_mnist):
    """However many steps a call makes: the same bits, schedule, metrics and count of steps."""
    found, root = [], write_mnist(tmp_path)
    for steps in (1, 2, 5, 100):
        data, model = in_calls(
            root, steps, optimizer=ADAM, scheduler=CYCLE, scheduler_interval=interval, patch_dropout=0.1
        )
        trainer = quiet_trainer(tmp_path, Trainer, max_epochs=3)
        trainer.fit(model, datamodule=data)
        weights = torch.cat([p.flatten() for p in model.parameters()])
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        found.append((weights, trainer.global_step, rate, trainer.callback_metrics))
    (weights, steps, rate, metrics), *others = found
    assert steps == 3 * len(data.train_dataloader().batches)
    for other in others:
        assert torch.equal(other[0], weights)
        assert other[1:3] == (steps, rate)
        assert other[3]["train/acc"] == metrics["train/acc"]
        assert float(other[3]["train/loss"]) == pytest.approx(float(metrics["train/loss"]), rel=1e-6)


def test_max_steps_ends_within_a_call(tmp_path, write_mnist):
    data, model = in_calls(write_mnist(tmp_path), 5, scheduler=CYCLE)
    trainer = quiet_trainer(tmp_path, Trainer, max_steps=7)
    trainer.fit(model, datamodule=data)
    assert trainer.global_step == 7
    assert trainer.lr_scheduler_configs[0].scheduler.total_steps == 7


def test_total_steps_need_an_end_of_the_run(tmp_path, write_mnist):
    data, model = in_calls(write_mnist(tmp_path), 5, scheduler=CYCLE)
    with pytest.raises(UserError, match="a schedule with total_steps: null needs"):
        quiet_trainer(tmp_path, Trainer, max_epochs=-1).fit(model, datamodule=data)
