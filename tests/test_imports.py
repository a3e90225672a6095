"""What importing this package leaves as it was, for programs that use it as a library."""

import logging
import os
import subprocess
import sys
import warnings

import pytest
import torch
from conftest import quiet_trainer
from lightning.pytorch import Callback

from ttlightning import Classifier, PatchDataModule
from ttlightning.training.quiet import LOGGERS, quiet_libraries

STATE = """
import logging, os, pkgutil, warnings
import importlib
for name in ("lightning.pytorch.cli", "torchvision", "wandb", "jsonargparse", "torchmetrics", "sklearn.datasets",
             "matplotlib.figure", "matplotlib.collections", "rich.console", "flint", "jaxtyping", "filelock", "jinja2",
             "torch.utils.cpp_extension", "wandb.plot"):
    importlib.import_module(name)
import torch, yaml
from jsonargparse._common import parsing_settings
from jsonargparse.typing import registered_type_handlers

def state():
    levels = {name: logger.level for name, logger in logging.root.manager.loggerDict.items()
              if isinstance(logger, logging.Logger)}
    return {"filters": list(warnings.filters), "format": warnings.formatwarning, "show": warnings.showwarning,
            "levels": levels | {"root": logging.root.level}, "environment": dict(os.environ),
            "threads": torch.get_num_threads(), "dtype": torch.get_default_dtype(),
            "yaml": dict(yaml.SafeDumper.yaml_multi_representers), "jsonargparse": dict(parsing_settings),
            "types": list(registered_type_handlers),
            "random": torch.get_rng_state().tolist(), "deterministic": torch.are_deterministic_algorithms_enabled()}

before = state()
import ttlightning
for name in ttlightning.__all__:
    getattr(ttlightning, name)
modules = [module.name for module in pkgutil.walk_packages(ttlightning.__path__, "ttlightning.")]
for name in modules:
    if not name.endswith(("__main__", "triton_chain")):
        importlib.import_module(name)
after = state()
after["levels"] = {name: level for name, level in after["levels"].items() if name in before["levels"]}
for name in before:
    assert before[name] == after[name], (name, before[name], after[name])
print(len(modules))
"""


def test_importing_every_module_leaves_the_process_as_it_was():
    """Warning filters, logging levels, environment, settings of torch, yaml and jsonargparse, random numbers."""
    done = subprocess.run([sys.executable, "-c", STATE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 60


def test_quiet_libraries_ends_with_its_block(monkeypatch):
    def state():
        levels = [logging.getLogger(name).level for name in LOGGERS]
        return list(warnings.filters), levels, dict(os.environ)

    def block():
        with quiet_libraries():
            warnings.warn("Checkpoint directory x exists and is not empty", stacklevel=1)
            warnings.warn("another", stacklevel=1)
            assert os.environ["WANDB_SILENT"] == "true"
            assert logging.getLogger(LOGGERS[0]).level == logging.WARNING
            raise KeyError

    monkeypatch.delenv("WANDB_SILENT", raising=False)
    before = state()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises(KeyError):
            block()
    assert [str(warning.message) for warning in caught] == ["another"]
    assert state() == before


@pytest.mark.parametrize("ends", [False, True])
def test_fit_puts_the_variable_of_the_gpu_check_back(monkeypatch, tmp_path, ends):
    """Without a GPU, ``fit`` takes it away, for the time of the fit only, also if the fit ends by an exception."""
    name, seen = "PYTORCH_NVML_BASED_CUDA_CHECK", []

    class Look(Callback):
        def on_train_start(self, *_):
            seen.append(os.environ.get(name))
            if ends:
                raise KeyError(name)

    monkeypatch.setenv(name, "1")
    trainer = quiet_trainer(tmp_path, max_steps=1, callbacks=[Look()])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    data = PatchDataModule("moons", patch_size=1)
    try:
        trainer.fit(Classifier(data.sites, data.patch_dim, data.classes), datamodule=data)
    except KeyError:
        assert ends
    assert seen == [None]
    assert os.environ[name] == "1"
