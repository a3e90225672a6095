"""A trained network back from its run: the scores of the commands to the bit, without Lightning."""

import csv
import functools
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import CommandLine
from experiments import every_recipe, small_data
from kinds import FORMATS

import ttlightning
from ttlightning import Classifier, PatchDataModule, PatchFeatureMap, UserError
from ttlightning.data.datasets import read_dataset
from ttlightning.runs.checkpoints import CONFIG_KEY, read_checkpoint, weights_sha256
from ttlightning.runs.run import Run
from ttlightning.training.checkpoint_io import SafeCheckpointIO
from ttlightning.training.trainer import Trainer

QUICK = ("--trainer.max_steps=2", "--figures=false", "--test_after_fit=false", "--rank_check.every_n_epochs=0")
SMALL = ("--config=debug.yaml", "--data.dataset=mnist", "--data.batch_size=10", *QUICK)


class Doubled(PatchFeatureMap):
    """A feature map from outside the package."""

    def forward(self, patches):
        return super().forward(2 * patches)


@pytest.fixture
def tested(monkeypatch) -> list[torch.Tensor]:
    """What every ``test_step`` of the command returns."""
    outputs: list[torch.Tensor] = []
    usual = Classifier.test_step

    def test_step(self, batch, batch_idx):
        outputs.append(usual(self, batch, batch_idx))
        return outputs[-1]

    monkeypatch.setattr(Classifier, "test_step", test_step)
    return outputs


@pytest.mark.parametrize("recipe", every_recipe())
def test_scores_of_every_recipe_are_those_of_test_and_predict(command: CommandLine, tested, monkeypatch, recipe):
    """From pixels as data/ reads them, against the differences and probabilities of the commands, to the bit."""
    toy, rows = recipe.startswith("toy"), recipe in ("sequences/series.yaml", "sequences/text.yaml")
    words = () if toy or rows else (*small_data(recipe), "--data.batch_size=8")
    command("fit", f"--config={recipe}", "--experiment=r", *QUICK, *words)
    command("test", "--ckpt_path=runs/r/0")
    predicted = []
    usual = Trainer.predict

    @functools.wraps(usual)
    def predict(*args, **options):
        predicted.append(usual(*args, **options))

    monkeypatch.setattr(Trainer, "predict", predict)
    command("predict", "--ckpt_path=runs/r/0", "--output=p.csv")

    run = command.folder / "runs/r/0"
    network = ttlightning.load(run)
    monkeypatch.setenv("TTLIGHTNING_DATA", str(command.data))
    data = PatchDataModule.load_from_checkpoint(run)
    test = data.own.images.test if rows else read_dataset(data.dataset, command.data).test
    images = test.images
    if rows:
        images = [image[0, 0, :length] for image, length in zip(images, test.lengths.tolist(), strict=True)]
    scores = network.score_images(images)
    assert not network.training
    assert torch.equal(scores - scores.amax(1, keepdim=True), torch.cat(tested))
    assert torch.equal(network.predict(images), predicted[0])
    assert weights_sha256(network.state_dict()) == command.result("r/0")["weights_sha256"]
    assert network.class_names == data.class_names
    for again in (ttlightning.load(run / "checkpoints/last.ckpt"), Run.open(run).network()):
        assert torch.equal(again.score_images(images), scores)


@pytest.mark.slow
@pytest.mark.parametrize("kind", FORMATS)
def test_predict_gives_what_the_command_writes(command, kind):
    """Every format, from bytes and from the floats that they are."""
    command("fit", *SMALL, f"--model.format={kind.__name__}", "--model.format.rank=3")
    command("predict", "--ckpt_path=runs/debug/0", "--output=p.csv")
    images = read_dataset("mnist", command.data).test.images
    network = ttlightning.load(command.folder / "runs/debug/0")
    rows = list(csv.DictReader((command.folder / "p.csv").read_text().splitlines()))
    found = network.predict(images[:, 0].numpy())
    assert [[row[f"p{c}"] for c in range(10)] for row in rows] == [[f"{p:.6g}" for p in row] for row in found.tolist()]
    torch.testing.assert_close(network.predict(images.double() / 255), found)


def test_weights_keep_their_type(command):
    command("fit", *SMALL, "--trainer.precision=64-true")
    network = ttlightning.load(command.folder / "runs/debug/0")
    assert {weight.dtype for weight in network.parameters()} == {torch.float64}
    assert network.score_images(torch.zeros(2, 1, 28, 28, dtype=torch.uint8)).dtype == torch.float64


def test_load_imports_no_lightning_and_draws_no_random_number(command):
    command.finished(*SMALL)
    code = (
        "import sys, torch, ttlightning\n"
        "before = torch.get_rng_state()\n"
        "network = ttlightning.load('runs/debug/0')\n"
        "assert torch.equal(before, torch.get_rng_state())\n"
        "print(network.score_images(torch.zeros(3, 1, 28, 28, dtype=torch.uint8)).shape)\n"
        "print([m for m in ('lightning', 'torchvision', 'wandb', 'scipy', 'sklearn') if m in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=command.folder, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["torch.Size([3, 10])", "[]"]


def changed(command: CommandLine, change) -> Path:
    """A copy of a run's checkpoint with other contents, sealed anew."""
    content = read_checkpoint(Run(command.finished(*SMALL)).checkpoint)
    change(content)
    file = command.folder / "other.ckpt"
    SafeCheckpointIO().save_checkpoint(content, file)
    return file


def replace(old: str, new: str):
    """A change of the configuration's text."""
    return lambda content: content.update({CONFIG_KEY: content[CONFIG_KEY].replace(old, new)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content["state_dict"].update({"format.first": torch.zeros(1, 5, 3)}), "format.first is"),
        (replace("mode_size: 5", "mode_size: 50000"), "a checkpoint of another network: features.linear.weight is"),
        (replace("patch_size: 14", "patch_size: 7"), "16 patches, 4 sites"),
        (lambda content: content.update({CONFIG_KEY: "data: {}"}), "makes no network"),
        (lambda content: content["PatchDataModule"].pop("shape"), "does not say what images it is for"),
        (lambda content: content.pop(CONFIG_KEY), "has no configuration"),
        (replace("ttlightning.PatchFeatureMap", "ttlightning.runs.files.write_whole"), "which is no Module"),
    ],
)
def test_a_checkpoint_that_was_changed_is_refused(command, change, message):
    with pytest.raises(UserError, match=message) as fault:
        ttlightning.load(changed(command, change), trust=["ttlightning.runs.files"])
    assert "\n" not in str(fault.value)


def test_a_damaged_and_a_missing_checkpoint_are_refused(command, tmp_path):
    command.finished(*SMALL)
    file = command.folder / "runs/debug/0/checkpoints/last.ckpt"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match="is not a whole checkpoint"):
        ttlightning.load(command.folder / "runs/debug/0")
    with pytest.raises(UserError, match="no checkpoint at"):
        ttlightning.load(tmp_path)


def test_a_class_from_outside_is_imported_only_if_trusted(command, monkeypatch):
    name = f"{__name__}.Doubled"
    command("fit", *SMALL, f"--model.features={name}", "--model.features.mode_size=5")
    with pytest.raises(UserError, match=rf"names {name}, which would be run: .* trust=\['{name}'\]"):
        ttlightning.load(command.folder / "runs/debug/0")
    network = ttlightning.load(command.folder / "runs/debug/0", trust=[name])
    assert type(network.features) is Doubled
