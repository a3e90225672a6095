"""What the package does without the packages of its extras: everything but training, and one line where it cannot."""

import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import assert_one_line, clean_environment

import ttlightning
from ttlightning.errors import MissingExtra, UserError
from ttlightning.system.extras import EXTRA_OF, needed_by

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ALONE = """
import importlib.machinery, sys

class WithoutExtras(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in ABSENT else super().find_spec(name, path, target)

ABSENT = set({absent}.split())
sys.meta_path[:] = [WithoutExtras if finder is importlib.machinery.PathFinder else finder for finder in sys.meta_path]
"""
"""A process that has none of the packages of the extras, as after ``pip install ttlightning``."""
ABSENT = " ".join([*EXTRA_OF, "lightning_fabric", "lightning_utilities", "pytorch_lightning", "pandas", "jaxlib"])
COMMANDS = """
import contextlib, io, json
from ttlightning.commands.main import main

for words in json.loads(sys.argv[1]):
    output, errors, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        try:
            main(words)
        except SystemExit as end:
            code = end.code or 0
    print(json.dumps([code, output.getvalue(), errors.getvalue()]))
"""
"""Prints exit code, output and errors of each command, called one after the other."""


def alone(folder: Path, code: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Python code in a process without the extras."""
    command = [sys.executable, "-c", ALONE.replace("{absent}", repr(ABSENT)) + code, *map(str, words)]
    environment = clean_environment(OMP_NUM_THREADS="1", PYTHONPATH=str(ROOT))
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


def names_of(requirements: list[str]) -> set[str]:
    return {re.match(r"[A-Za-z0-9._-]+", line)[0] for line in requirements}


def test_the_table_of_extras_is_that_of_pyproject():
    distribution = {name: found[0].lower().replace("_", "-") for name, found in packages_distributions().items()}
    for extra in ("train", "export", "report", "slurm", "bench"):
        ours = {distribution[name] for name, its in EXTRA_OF.items() if its == extra}
        assert ours == names_of(PROJECT["optional-dependencies"][extra])
    assert not {distribution[name] for name in EXTRA_OF} & names_of(PROJECT["dependencies"])


FORMATS = """
import numpy, torch, ttlightning
from ttlightning import formats
from ttlightning.rank.unfolding import matricization

for name in sorted(formats.NAMES):
    kind = getattr(ttlightning, name)
    weights = kind(4, 3, 2, rank=2, initialization="gaussian").double()
    weights(torch.randn(5, 4, 3).double()).sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in weights.parameters())
    assert 1 <= torch.linalg.matrix_rank(matricization(weights)[0]) <= 9
network = ttlightning.load(sys.argv[1])
scores = network.score_images(torch.zeros(2, *network.image_shape, dtype=torch.uint8))
numpy.save("scores.npy", scores.numpy())
try:
    ttlightning.Classifier
except ImportError as reason:
    assert isinstance(reason, ttlightning.UserError)
    assert "pip install 'ttlightning[train]'" in str(reason), reason
else:
    raise AssertionError("a Classifier without Lightning")
assert not set(ABSENT) & set(sys.modules)
"""


def test_formats_ranks_and_trained_networks_need_no_extra(command):
    """Scores, gradients and ranks of every format, and the same scores from a run as with the extras."""
    run = command.finished("--config=debug.yaml")
    done = alone(command.folder, FORMATS, run)
    assert done.returncode == 0, done.stderr
    network = ttlightning.load(run)
    scores = network.score_images(torch.zeros(2, *network.image_shape, dtype=torch.uint8))
    assert np.array_equal(np.load(command.folder / "scores.npy"), scores.numpy())


def ended(folder: Path, commands: list[list[str]]) -> list[tuple[int, str, str]]:
    """How each command ends in a process without the extras: exit code, output, errors."""
    done = alone(folder, COMMANDS, json.dumps(commands))
    assert done.returncode == 0, done.stderr
    return [tuple(json.loads(line)) for line in done.stdout.splitlines()]


def test_commands_that_need_no_extra(command):
    run = str(command.finished("--config=debug.yaml").relative_to(command.folder))
    commands = [
        ["--help"],
        ["rank", "--mode_size=2:3", "--measure"],
        ["certify", "--mode_size=3", "--rank=2", "--sites=8", "--output=generic.json"],
        ["certify", run, "--output=run.json"],
        ["verify", "generic.json", "run.json"],
        ["compare", run],
    ]
    for words, (code, output, errors) in zip(commands, ended(command.folder, commands), strict=True):
        assert (code, errors) == (0, ""), words
        assert output, words
    certificate = json.loads((command.folder / "run.json").read_text())
    assert certificate["weights_sha256"] == command.result("debug/0")["weights_sha256"]


NEED = [
    ("fit --config=eq.yaml", "fit needs the package lightning"),
    ("predict --ckpt_path=runs/debug/0", "predict needs the package lightning"),
    ("rerun runs/debug/0", "rerun needs the package lightning"),
    ("rerun runs/debug/0 --check_only", "rerun needs the package torchvision"),
    ("rank --figure=a.png", "rank needs the package matplotlib"),
    ("compare runs/debug/0 --html=a.html", "compare needs the package jinja2"),
    ("compare --wandb=a/b", "compare needs the package wandb"),
]


def test_a_command_without_its_extra_is_one_line(command):
    """And the completion of the verbs without a trainer is printed, with a line about what it lacks."""
    command.finished("--config=debug.yaml")
    *refused, (code, output, errors) = ended(
        command.folder, [*(words.split() for words, _ in NEED), ["completion", "bash"]]
    )
    for (words, message), (its_code, _, line) in zip(NEED, refused, strict=True):
        assert its_code == 2, words
        assert_one_line(line, f"{message}, which is not installed: pip install 'ttlightning[train]'")
    assert not (command.folder / "a.png").exists()
    assert code == 0
    assert_one_line(errors, "left out: the completion of fit, validate, test and predict needs the package lightning")
    assert "certify) options=" in output
    assert "fit) options=" not in output


def test_builds_that_do_not_go_together_are_one_line():
    """A torch for the CPU beside torchvision's usual build, whose operators cannot be loaded."""
    message = r"^fit needs torch and torchvision of one build, and torch .* --torch-backend cpu"
    with pytest.raises(UserError, match=message), needed_by("fit"):
        raise RuntimeError("operator torchvision::nms does not exist")
    with pytest.raises(RuntimeError, match="another fault"), needed_by("fit"):
        raise RuntimeError("another fault")


def test_packages_of_others_are_missing_as_ever():
    with pytest.raises(ModuleNotFoundError) as other, needed_by("fit"):
        import package_of_the_user  # noqa: F401
    assert not isinstance(other.value, UserError)
    with pytest.raises(MissingExtra, match=r"fit needs the package onnx, .*ttlightning\[export\]"), needed_by("fit"):
        raise ModuleNotFoundError(name="onnx.helper")
