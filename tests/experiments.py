"""Training by a Trainer and its callbacks, without the command line: for laws about runs that stop and go on."""

import importlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Callback
from lightning.pytorch.loggers import Logger

from ttlightning import Classifier, PatchDataModule
from ttlightning.commands.configs import available_configs, find_config
from ttlightning.commands.studies import configuration
from ttlightning.data.augmentation import Augmentation
from ttlightning.data.sampler import Batch
from ttlightning.data.sequences import SEQUENCES
from ttlightning.runs.run import Run
from ttlightning.training.callbacks.last_checkpoint import LastCheckpoint
from ttlightning.training.callbacks.rank_check import RankCheck
from ttlightning.training.checkpoint_io import SafeCheckpointIO
from ttlightning.training.steps import KeptCheckpoints
from ttlightning.training.trainer import Trainer

EARLY = ("best/any.yaml", "debug.yaml", "eq.yaml")
"""Recipes that every change tries; the others are tried every night."""


def every_recipe(early: Sequence[str] = EARLY) -> list[Any]:
    """All shipped recipes, as parameters of a test; those that are not among ``early`` are marked nightly."""
    return [r if r in early else pytest.param(r, marks=pytest.mark.nightly) for r in available_configs()]


def small_data(recipe: str) -> tuple[str, ...]:
    """Options that give a recipe for digits, clothes or colour pictures the small dataset in MNIST's layout.

    A recipe whose last epochs have plain images has them after its first one, so that short runs have both.
    """
    data = yaml.safe_load(find_config(recipe).read_text())["data"]
    name = "mnist" if isinstance(data, str) else data["dataset"]  # a file beside it, which is for MNIST
    digits = "--data.dataset=mnist"
    known = {"mnist": (digits,), "mnist5k": (digits,), "fashion_mnist": (digits,)}
    plain = isinstance(data, dict) and "epochs" in data.get("augmentation", {})
    short = ("--data.augmentation.epochs=1",) if plain else ()
    return (*(known | {"cifar10": (digits, "--data.padding=2")}).get(name, ()), *short)


class Rows(Logger):
    """Every logged value by step and name. A value that is logged again replaces the first one."""

    name = version = "rows"

    def __init__(self) -> None:
        super().__init__()
        self.values: dict[tuple[int | None, str], float] = {}

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.values |= {(step, name): float(value) for name, value in metrics.items()}

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """A Trainer calls it; there is nothing to keep."""


def batch_size(batch: Batch) -> int:
    """Samples of a batch, for ThroughputMonitor."""
    return len(batch.labels)


class Experiment:
    """A configuration of ``fit``, and the objects that one process makes of it.

    Args:
        words: options of ``fit``.
        root: folder of the datasets.
    """

    def __init__(self, words: tuple[str, ...], root: Path) -> None:
        self.config = configuration(words)
        self.config["data"] |= {"root": root} if self.config["data"]["dataset"] in ("mnist", *SEQUENCES) else {}
        self.rows = Rows()

    def objects(self) -> tuple[PatchDataModule, Classifier]:
        """The data, which are not read yet, and the untrained network."""
        config, seed = self.config, self.config["seed_everything"]
        augmentation = config["data"]["augmentation"]
        data = PatchDataModule(
            **config["data"] | {"augmentation": augmentation and Augmentation(**augmentation)}, seed=seed
        )
        sizes = {name: getattr(data, name) for name in ("sites", "patch_dim", "classes")}
        steps = {name: getattr(data, name) for name in ("steps_per_execution", "microbatches")}
        parts = {name: made(value) for name, value in config["model"].items()}
        return data, Classifier(**parts | sizes | steps, seed=seed)

    def train(self, folder: Path, begin: Path | None = None, callbacks: Sequence[Callback] = ()) -> Trainer:
        """Make data, network and trainer; train from ``begin``, else from the checkpoint in ``folder``, to the end.

        ``callbacks`` come before those of the configuration.
        """
        config = self.config
        data, model = self.objects()
        data.prepare_data()
        kept = KeptCheckpoints(**config["checkpoint"] | {"dirpath": folder})
        asked = [*callbacks, *(made(callback)() for callback in config["trainer"]["callbacks"] or [])]
        checks = RankCheck(**config["rank_check"], seed=config["seed_everything"])
        options = {"enable_progress_bar": False, "accelerator": "cpu", "default_root_dir": folder, "logger": self.rows}
        options["plugins"] = [SafeCheckpointIO()]
        trainer = Trainer(
            **config["trainer"]
            | options
            | {"callbacks": [*asked, checks, kept, LastCheckpoint(**config["last_checkpoint"])]}
        )
        model.choose_steps(trainer, data)
        trainer.run = Run(folder)
        trainer.run.checks_file.parent.mkdir(parents=True, exist_ok=True)
        if begin is None and trainer.run.checkpoint.exists():
            begin = trainer.run.checkpoint
        trainer.fit(model, datamodule=data, ckpt_path=begin and str(begin), weights_only=True)
        return trainer


def made(value: Any) -> Any:
    """A factory for a class path with its arguments; any other value itself."""
    if not (isinstance(value, dict) and "class_path" in value):
        return value
    module, _, name = value["class_path"].rpartition(".")
    arguments = value.get("init_args") or {}
    if "scheduling" in arguments:  # epochs, which are text in a file
        arguments = arguments | {"scheduling": {int(epoch): n for epoch, n in arguments["scheduling"].items()}}
    return partial(getattr(importlib.import_module(module), name), **arguments)


def outcome(experiment: Experiment, trainer: Trainer, folder: Path) -> dict[str, Any]:
    """What a run must reach again: training state, logged values and ranks."""
    content = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    parts = ("epoch", "global_step", "state_dict", "optimizer_states", "lr_schedulers")
    [checks] = [callback for callback in trainer.callbacks if isinstance(callback, RankCheck)]
    return {part: content[part] for part in parts} | {"rows": experiment.rows.values, "ranks": checks.latest}


def assert_same(one: Any, other: Any, where: str = "") -> None:
    """Every number and tensor is the same to the bit; the first difference is named."""
    assert type(one) is type(other), where
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for name in one:
            assert_same(one[name], other[name], f"{where}/{name}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for index, pair in enumerate(zip(one, other, strict=True)):
            assert_same(*pair, f"{where}/{index}")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    else:
        assert one == other or (one != one and other != other), f"{where}: {one} and {other}"
