"""``load_from_checkpoint`` of network and data, on what fit and what Lightning's own trainer have written."""

from functools import partial

import pytest
import torch
from conftest import quiet_trainer
from kinds import FORMATS
from lightning.pytorch import Trainer as LightningTrainer

import ttlightning
from ttlightning import Classifier, EqualCoreTensorTrain, PatchDataModule, PatchFeatureMap, UserError
from ttlightning.data.augmentation import Augmentation
from ttlightning.runs.checkpoints import CONFIG_KEY, read_checkpoint, weights_sha256
from ttlightning.training.checkpoint_io import SafeCheckpointIO
from ttlightning.training.descriptions import describe_data, describe_model

QUICK = ("--trainer.max_steps=2", "--figures=false", "--test_after_fit=false", "--rank_check.every_n_epochs=0")
SMALL = ("--config=debug.yaml", "--data.dataset=mnist", "--data.batch_size=10", *QUICK)
FULL = (
    *SMALL, "--model.scheduler=OneCycleLR", "--model.scheduler.max_lr=0.01", "--model.scheduler.total_steps=null",
    "--model.optimizer=AdamW", "--model.optimizer.betas=[0.8, 0.99]", "--model.patch_dropout=0.1",
    "--data.augmentation.shift=1", "--seed_everything=3", "--data.padding=0", "--data.order=snake",
)  # fmt: skip


class Doubled(PatchFeatureMap):
    """A feature map from outside the package."""


def test_network_and_data_of_a_run_come_back(command):
    run = command.finished(*FULL)
    images = torch.randint(0, 256, (5, 28, 28), dtype=torch.uint8)
    for path in (run, run / "checkpoints/last.ckpt"):
        model = Classifier.load_from_checkpoint(path)
        assert weights_sha256(model.state_dict()) == command.result("debug/0")["weights_sha256"]
        assert torch.equal(model.predict(images), ttlightning.load(path).predict(images))
        assert (model.seed, model.patch_dropout, model.scheduler_interval) == (3, 0.1, "step")
        assert all(parameter.requires_grad for parameter in model.parameters())
    data = PatchDataModule.load_from_checkpoint(run, root=command.data)
    assert data.augmentation == Augmentation(shift=1)
    assert (data.patching.order, data.patching.patch_size, data.batch_size, data.seed) == ("snake", 14, 10, 3)

    [group] = model.configure_optimizers.__self__.optimizer(model.parameters()).param_groups
    assert group["betas"] == (0.8, 0.99)
    trainer = quiet_trainer(command.folder, LightningTrainer, max_epochs=1)
    trainer.fit(model, datamodule=data)
    assert trainer.lr_scheduler_configs[0].scheduler.total_steps == data.batches


@pytest.mark.parametrize("kind", FORMATS)
def test_checkpoints_of_lightnings_trainer_come_back(kind, digits, tmp_path):
    """Weights, factories and data; and, from what was loaded, once more."""
    options = {"optimizer": partial(torch.optim.AdamW, lr=1e-3, betas=(0.8, 0.99)), "patch_dropout": 0.1, "seed": 7}
    parts = {"features": partial(PatchFeatureMap, mode_size=5), "format": partial(kind, rank=3)}
    model = Classifier(digits.sites, digits.patch_dim, digits.classes, **parts, **options)
    data, described = digits, describe_model(model)
    for number in range(2):
        trainer = quiet_trainer(tmp_path, LightningTrainer, max_epochs=1)
        trainer.fit(model, datamodule=data)
        trainer.save_checkpoint(file := tmp_path / f"{number}.ckpt")
        loaded, data = Classifier.load_from_checkpoint(file), PatchDataModule.load_from_checkpoint(file)
        assert weights_sha256(loaded.state_dict()) == weights_sha256(model.state_dict())
        assert describe_data(data) == describe_data(digits)
        assert (loaded.seed, data.seed) == (7, 4)
        for name, value in describe_model(loaded).items():
            before = described[name]
            if isinstance(value, dict):  # what is loaded names every argument
                assert value["class_path"] == before["class_path"]
                assert value["init_args"] == value["init_args"] | before["init_args"]
            else:
                assert value == before
        model, described = loaded, describe_model(loaded)


def test_arguments_that_are_given_win(command):
    run = command.finished(*SMALL)
    model = Classifier.load_from_checkpoint(run, patch_dropout=0.3, optimizer=torch.optim.SGD, map_location="cpu")
    assert (model.patch_dropout, model.optimizer) == (0.3, torch.optim.SGD)
    data = PatchDataModule.load_from_checkpoint(run, batch_size=20, dataset="mnist5k")
    assert (data.batch_size, data.dataset) == (20, "mnist5k")
    with pytest.raises(UserError, match=r"is a checkpoint of another network: format\.first is"):
        Classifier.load_from_checkpoint(run, format=partial(EqualCoreTensorTrain, rank=7))


def test_a_class_from_outside_is_imported_only_if_trusted(command):
    name = f"{__name__}.Doubled"
    command("fit", *SMALL, f"--model.features={name}", "--model.features.mode_size=5")
    run = command.folder / "runs/debug/0"
    with pytest.raises(UserError, match=rf"names {name}, which would be run: .* trust=\['{name}'\]"):
        Classifier.load_from_checkpoint(run)
    assert type(Classifier.load_from_checkpoint(run, trust=[name]).features) is Doubled


@pytest.mark.parametrize("name", ["os.system", "subprocess.Popen", "builtins.eval", "torch.nn.Linear"])
@pytest.mark.parametrize("part", ["optimizer", "features", "format"])
def test_a_foreign_checkpoint_runs_no_code(command, digits, tmp_path, name, part):
    """Neither by the configuration of a run nor by the arguments that Lightning's trainer stores."""
    model = Classifier(digits.sites, digits.patch_dim, digits.classes, format=partial(EqualCoreTensorTrain, rank=2))
    trainer = quiet_trainer(tmp_path, LightningTrainer, max_steps=1)
    trainer.fit(model, datamodule=digits)
    trainer.save_checkpoint(file := tmp_path / "x.ckpt")
    content = read_checkpoint(file)
    content["hyper_parameters"][part] = {"class_path": name, "init_args": {}}
    SafeCheckpointIO().save_checkpoint(content, file)
    with pytest.raises(UserError, match=f"names {name}, which would be run"):
        Classifier.load_from_checkpoint(file)


def test_what_cannot_be_loaded_is_one_line(command, tmp_path):
    run = command.finished(*SMALL)
    mistakes = [
        ({"hparams_file": "x.yaml"}, "hparams_file is x.yaml"),
        ({"weights_only": False}, "weights_only is False, which would let the file run code"),
        ({"map_location": "moon"}, "map_location is 'moon', it must be a device"),
    ]
    for options, message in mistakes:
        with pytest.raises(UserError, match=message):
            Classifier.load_from_checkpoint(run, **options)
    with pytest.raises(UserError, match="checkpoint_path is a bytes"):
        Classifier.load_from_checkpoint(b"x")
    with pytest.raises(UserError, match="no checkpoint at"):
        PatchDataModule.load_from_checkpoint(tmp_path / "absent.ckpt")
    content = read_checkpoint(run / "checkpoints/last.ckpt")
    for text, message in (("data: {}", "its configuration makes no network"), (None, "has no configuration")):
        if text is None:
            del content[CONFIG_KEY]
        else:
            content[CONFIG_KEY] = text
        SafeCheckpointIO().save_checkpoint(content, tmp_path / "x.ckpt")
        with pytest.raises(UserError, match=message):
            Classifier.load_from_checkpoint(tmp_path / "x.ckpt")
    with pytest.raises(UserError, match="does not say what data it was trained on"):
        PatchDataModule.load_from_checkpoint(tmp_path / "x.ckpt")


def test_factories_without_a_name_must_be_given_again(digits, tmp_path):
    model = Classifier(
        digits.sites, digits.patch_dim, digits.classes, format=partial(EqualCoreTensorTrain, rank=2),
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1),
    )  # fmt: skip
    trainer = quiet_trainer(tmp_path, LightningTrainer, max_steps=1)
    trainer.fit(model, datamodule=digits)
    trainer.save_checkpoint(file := tmp_path / "x.ckpt")
    with pytest.raises(UserError, match="has no configuration"):
        Classifier.load_from_checkpoint(file)
    loaded = Classifier.load_from_checkpoint(file, patch_dim=49, format=partial(EqualCoreTensorTrain, rank=2))
    assert weights_sha256(loaded.state_dict()) == weights_sha256(model.state_dict())
    with pytest.raises(UserError, match="which no configuration can name: give a class of a module"):
        describe_model(model)


def test_data_given_in_python_must_be_given_again(tmp_path):
    images = torch.randint(0, 256, (30, 8, 8), dtype=torch.uint8)
    source = images, torch.arange(30) % 3
    data = PatchDataModule.from_datasets(source, patch_size=4, name="mine", batch_size=10, order="snake")
    model = Classifier(data.sites, data.patch_dim, data.classes, format=partial(EqualCoreTensorTrain, rank=2))
    trainer = quiet_trainer(tmp_path, LightningTrainer, max_steps=1)
    trainer.fit(model, datamodule=data)
    trainer.save_checkpoint(file := tmp_path / "x.ckpt")
    with pytest.raises(UserError, match="data that were given in Python, called mine: give them again"):
        PatchDataModule.load_from_checkpoint(file)
    again = PatchDataModule.load_from_checkpoint(file, train_dataset=source)
    assert describe_data(again) == describe_data(data)
    with pytest.raises(UserError, match="was trained on other classes"):
        PatchDataModule.load_from_checkpoint(file, train_dataset=source, class_names=("a", "b", "c"))
    assert torch.equal(ttlightning.load(file).predict(images), model.predict(images))
