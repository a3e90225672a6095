"""Batches of any loader train, validate, test and predict, by Lightning's trainer and by this package's."""

import csv
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import clean_environment, quiet_trainer
from kinds import FORMATS
from lightning.pytorch import LightningDataModule
from lightning.pytorch import Trainer as LightningTrainer
from torch.utils.data import DataLoader, TensorDataset

import ttlightning
from ttlightning import Classifier, EqualCoreTensorTrain, PatchFeatureMap, UserError
from ttlightning.data.patches import Patching
from ttlightning.randomness import keep_mask
from ttlightning.runs.checkpoints import weights_sha256
from ttlightning.training.trainer import Trainer

SAMPLES, BATCH, EPOCHS = 40, 16, 2


def pairs() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (SAMPLES, 1, 8, 8), dtype=torch.uint8, generator=generator)
    return images, torch.randint(0, 3, (SAMPLES,), generator=generator)


def classifier(kind=EqualCoreTensorTrain, **options) -> Classifier:
    parts = {"features": partial(PatchFeatureMap, mode_size=4), "format": partial(kind, rank=3), "patch_dropout": 0.2}
    return Classifier.for_images((1, 8, 8), 3, 4, **parts | options)


def trained(model: Classifier, batches, folder, kind=LightningTrainer, **options) -> str:
    """SHA-256 of the weights after two epochs."""
    quiet_trainer(folder, kind, max_epochs=EPOCHS, **options).fit(model, batches)
    return weights_sha256(model.state_dict())


def by_hand(model: Classifier, patches: torch.Tensor, labels: torch.Tensor) -> str:
    """SHA-256 of the weights after the loop that the trainer should make: Adam on the mean loss, keyed dropout."""
    optimizer = torch.optim.Adam(model.parameters())
    for epoch in range(EPOCHS):
        for step, (x, y) in enumerate(zip(patches.split(BATCH), labels.split(BATCH), strict=True)):
            keep = keep_mask(len(y), model.format.sites, model.patch_dropout, model.seed, epoch, step)
            loss = torch.nn.functional.cross_entropy(model(x, keep), y, reduction="sum") * (1 / len(y))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return weights_sha256(model.state_dict())


class Batches:
    """A loader that is no loader of torch; a list would be a list of loaders to Lightning."""

    def __init__(self, batches: list) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self):
        return iter(self.batches)


class Own(LightningDataModule):
    """A user's data module, which gives pairs."""

    def train_dataloader(self):
        return DataLoader(TensorDataset(*pairs()), batch_size=BATCH)


@pytest.mark.parametrize("kind", FORMATS)
def test_every_kind_of_batch_trains_to_the_bits_of_a_loop_by_hand(kind, tmp_path):
    images, labels = pairs()
    patches = Patching(4)(images)
    columns = [{"image": image, "label": label} for image, label in zip(images, labels, strict=True)]
    sources = [
        TensorDataset(images, labels),
        TensorDataset(images[:, 0], labels[:, None]),
        TensorDataset(patches, labels),
    ]
    loaders = [DataLoader(source, batch_size=BATCH) for source in (*sources, columns)]
    scaled = patches * torch.tensor(1 / 255)
    expected = by_hand(classifier(kind), scaled, labels)
    for trainer in (LightningTrainer, Trainer):
        assert {trained(classifier(kind), loader, tmp_path, trainer) for loader in loaders} == {expected}
    assert trained(classifier(kind), Own(), tmp_path) == expected
    assert trained(classifier(kind), DataLoader(TensorDataset(scaled, labels), batch_size=BATCH), tmp_path) == expected


SCRIPT = """
import os
import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset
from test_batches import BATCH, EPOCHS, classifier, pairs

images, labels = (tensor[:32] for tensor in pairs())
model = classifier(patch_dropout=0.0)
off = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
trainer = Trainer(max_epochs=EPOCHS, accelerator="cpu", devices=2, strategy="ddp", use_distributed_sampler=False, **off)
data = TensorDataset(images, labels)
sampler = DistributedSampler(data, 2, int(os.environ.get("LOCAL_RANK", 0)), shuffle=False)
trainer.fit(model, DataLoader(data, batch_size=BATCH // 2, sampler=sampler))
if trainer.is_global_zero:
    torch.save(model.state_dict(), "weights.pt")
"""


@pytest.mark.slow
def test_two_processes_train_the_network_of_one(tmp_path):
    """Each takes every second sample, so that the batch of both is twice that of the loader."""
    (tmp_path / "script.py").write_text(SCRIPT)
    environment = clean_environment(PYTHONPATH=os.pathsep.join([str(Path(__file__).parent), *sys.path]))
    command = [sys.executable, "script.py"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    images, labels = (tensor[:32] for tensor in pairs())
    model = classifier(patch_dropout=0.0)
    trained(model, DataLoader(TensorDataset(images, labels), batch_size=BATCH), tmp_path)
    for name, weights in torch.load(tmp_path / "weights.pt").items():
        torch.testing.assert_close(weights, model.state_dict()[name], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("options", [{"steps_per_execution": 4}, {"microbatches": 2}])
def test_options_of_steps_hold_for_other_loaders(options, tmp_path):
    loader = DataLoader(TensorDataset(*pairs()), batch_size=BATCH)
    models = classifier(), classifier(**options)
    for model in models:
        trained(model, loader, tmp_path)
    one, other = (torch.cat([p.flatten() for p in model.parameters()]) for model in models)
    torch.testing.assert_close(one, other)


def test_a_schedule_of_the_whole_run_counts_the_batches_of_another_loader(tmp_path):
    cycle = partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=1e-2, total_steps=None)
    for kind, batches in ((LightningTrainer, Own()), (Trainer, DataLoader(TensorDataset(*pairs()), batch_size=BATCH))):
        trainer = quiet_trainer(tmp_path, kind, max_epochs=EPOCHS)
        trainer.fit(classifier(scheduler=cycle), batches)
        assert trainer.lr_scheduler_configs[0].scheduler.total_steps == EPOCHS * 3


@pytest.mark.parametrize("kind", [LightningTrainer, Trainer])
def test_other_loaders_validate_test_and_predict(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images, labels = pairs()
    loader, model = DataLoader(TensorDataset(images, labels), batch_size=BATCH), classifier()
    trainer = quiet_trainer(tmp_path, kind, max_epochs=1)
    trainer.fit(model, loader, loader)
    expected = (model.score_images(images).argmax(1) == labels).double().mean().item()
    assert trainer.validate(model, loader, verbose=False)[0]["val/acc"] == pytest.approx(expected)
    assert trainer.test(model, loader, verbose=False)[0]["test/acc"] == pytest.approx(expected)
    for number, source in enumerate((images, TensorDataset(images), TensorDataset(images, labels - 9))):
        output = {"output": tmp_path / f"{number}.csv"} if kind is Trainer else {}
        found = trainer.predict(model, DataLoader(source, batch_size=BATCH), **output)
        if kind is Trainer:
            rows = list(csv.DictReader((tmp_path / f"{number}.csv").open()))
            assert [(row["index"], int(row["predicted"])) for row in rows] == [
                (str(index), int(best)) for index, best in enumerate(found.argmax(1))
            ]
        else:
            found = torch.cat([probabilities for probabilities, _ in found])
        torch.testing.assert_close(found, model.predict(images))


def test_a_checkpoint_of_lightnings_trainer_is_loaded(tmp_path):
    """The network, and the class again; pixels that a transform has scaled are known to be such."""
    images, labels = pairs()
    standard = (images / 255 - 0.5) / 0.25
    for inputs in (images, standard):
        model = classifier()
        trainer = quiet_trainer(tmp_path, LightningTrainer, max_epochs=1)
        trainer.fit(model, DataLoader(TensorDataset(inputs, labels), batch_size=BATCH))
        trainer.save_checkpoint(tmp_path / "x.ckpt")
        for loaded in (ttlightning.load(tmp_path / "x.ckpt"), Classifier.load_from_checkpoint(tmp_path / "x.ckpt")):
            assert torch.equal(loaded.predict(inputs), model.predict(inputs))
            if inputs is standard:
                with pytest.raises(UserError, match="the network was trained on floats that are not in"):
                    loaded.predict(images)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ((torch.zeros(4, 1, 8, 8), torch.zeros(4)), r"labels are torch\.float32 of shape \(4,\), they must be whole"),
        ((torch.zeros(4, 1, 8, 8), torch.zeros(4, 3, dtype=torch.int64)), r"labels are torch\.int64 of shape \(4, 3\)"),
        ((torch.zeros(4, 1, 8, 8), torch.full((4,), 3)), "labels lie from 3 to 3, they must be 0 to 2"),
        ((torch.zeros(4, 1, 8, 8), torch.zeros(3, dtype=torch.int64)), "there are 4 images and 3 labels"),
        ((torch.zeros(4, 1, 8, 9), torch.zeros(4, dtype=torch.int64)), r"images have shape \(4, 1, 8, 9\)"),
        ((torch.zeros(4, 1, 8, 8, dtype=torch.int64), torch.zeros(4, dtype=torch.int64)), r"is torch\.int64"),
        (torch.zeros(4, 1, 8, 8), "a batch has images and no labels"),
        ((1, 2, 3), "a batch or sample has 3 parts"),
        ({"a": 1, "label": 2}, "has the keys a, label: exactly one of them must be one of image, images"),
        ({"image": 1, "img": 2, "label": 2}, "has the keys image, img, label: exactly one"),
    ],
)
def test_batches_that_do_not_fit_are_one_line(batch, message, tmp_path):
    with pytest.raises(UserError, match=message) as fault:
        quiet_trainer(tmp_path, LightningTrainer, max_epochs=1).fit(classifier(), Batches([batch]))
    assert "\n" not in str(fault.value)


def test_images_for_a_network_of_patches_are_one_line(tmp_path):
    loader = DataLoader(TensorDataset(*pairs()), batch_size=BATCH)
    with pytest.raises(UserError, match=r"takes patches \(batch, 4, 16\): .* Classifier\.for_images"):
        quiet_trainer(tmp_path, LightningTrainer, max_epochs=1).fit(Classifier(4, 16, 3), loader)
    images = DataLoader(TensorDataset(torch.zeros(8, 4, 16), torch.zeros(8, dtype=torch.int64)), batch_size=4)
    model = Classifier.for_images((1, 4, 16), 3, (4, 4), format=partial(EqualCoreTensorTrain, rank=2))
    with pytest.raises(UserError, match="which can be images or patches: give images as"):
        quiet_trainer(tmp_path, LightningTrainer, max_epochs=1).fit(model, images)


def test_numpy_batches_train(tmp_path):
    images, labels = (tensor.numpy() for tensor in pairs())
    parts = range(0, SAMPLES, BATCH)
    batches = Batches([(images[at : at + BATCH], labels[at : at + BATCH].astype(np.int32)) for at in parts])
    loader = DataLoader(TensorDataset(*pairs()), batch_size=BATCH)
    assert trained(classifier(), batches, tmp_path) == trained(classifier(), loader, tmp_path)
