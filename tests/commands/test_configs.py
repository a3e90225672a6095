"""Every config parses, instantiates and takes a step; what they promise in their comments holds."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import ttlightning
from ttlightning import EqualCoreTensorTrain, PatchFeatureMap, Pixels, TensorTrain, UserError, formats
from ttlightning.commands.configs import available_configs, find_config
from ttlightning.data.patches import Patching
from ttlightning.networks import baselines

CONFIGS = Path(__file__).parents[2] / "configs"
EXPERIMENTS = sorted(
    f.relative_to(CONFIGS).as_posix()
    for f in CONFIGS.rglob("*.yaml")
    if not {"parts", "studies", "sweeps"} & set(f.parts)
)


def test_the_protocol_of_a24_is_the_same_for_both_columns():
    """They differ in the format alone, and say so: Adam 5e-4, batch 64, 20 epochs, all training images."""
    equal, different = (yaml.safe_load((CONFIGS / "paper" / f"a24_{k}.yaml").read_text()) for k in ("eq", "tt"))
    assert equal["model"]["format"].pop("class_path") == EqualCoreTensorTrain.__name__
    assert different["model"]["format"].pop("class_path") == TensorTrain.__name__
    assert equal == different
    data = yaml.safe_load((CONFIGS / "parts" / "mnist_a24.yaml").read_text())
    optimizer = equal["model"]["optimizer"]
    assert (optimizer["class_path"], optimizer["init_args"]["lr"]) == ("Adam", 5e-4)
    assert (data["batch_size"], data["validation"], equal["trainer"]["max_epochs"]) == (64, 0.0, 20)
    assert "scheduler" not in equal["model"]


@pytest.mark.parametrize("name", ["eq", "tt"])
def test_the_best_configs_keep_to_their_limits(name):
    """20 epochs, 200,000 parameters; their comments say how many."""
    text = (CONFIGS / "best" / f"{name}.yaml").read_text()
    config = yaml.safe_load(text)
    data, mode_size = config["data"], config["model"]["features"]["mode_size"]
    sites, pixels = Patching(data["patch_size"], data["stride"], data.get("padding", 0)).shape(1, 28, 28)
    kind = {"eq": EqualCoreTensorTrain, "tt": TensorTrain}[name]
    assert config["model"]["format"]["class_path"] == kind.__name__
    weights = kind(sites, mode_size, 10, **config["model"]["format"]["init_args"])
    parameters = weights.parameter_count() + sum(p.numel() for p in PatchFeatureMap(pixels, mode_size).parameters())
    assert parameters <= 200_000
    assert config["trainer"]["max_epochs"] <= 20
    assert f"it has {parameters:,}" in text


@pytest.mark.parametrize("name", ["logistic", "mlp", "cnn", "lstm", "shallow", "tree"])
def test_the_baselines_are_as_large_as_they_say_and_no_larger_than_the_best_equal_cores(name):
    """Within the parameters of best/eq.yaml, and one unit more would exceed them."""
    text = (CONFIGS / "baselines" / f"{name}.yaml").read_text()
    config = yaml.safe_load(text)
    data, features, format = config["data"], config["model"]["features"], config["model"]["format"]
    patching = Patching(data["patch_size"], data.get("stride"), data.get("padding", 0))
    sites, pixels = patching.shape(1, 28, 28)

    def parameters(more: int = 0) -> int:
        arguments = dict(format.get("init_args", {}))
        arguments |= {size: arguments[size] + more for size in ("width", "rank") if size in arguments}
        kind = features.get("class_path")
        made = Pixels(pixels) if kind == "Pixels" else PatchFeatureMap(pixels, features["mode_size"])
        weights = getattr(ttlightning, format["class_path"], None) or getattr(baselines, format["class_path"])
        weights = weights(sites, made.mode_size, 10, **arguments)
        return sum(p.numel() for part in (made, weights) for p in part.parameters())

    assert f": {parameters():,} parameters on images of 28 x 28" in text
    assert parameters() <= 47_488
    assert name == "logistic" or parameters(1) > 47_488


def test_a_bare_name_is_looked_up_here_then_in_configs_then_in_the_package(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_config("eq.yaml") == CONFIGS / "eq.yaml"
    assert find_config("paper/a24_eq.yaml") == CONFIGS / "paper" / "a24_eq.yaml"
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "eq.yaml").write_text("trainer: {max_epochs: 3}")
    assert find_config("eq.yaml") == Path("configs/eq.yaml")
    (tmp_path / "eq.yaml").write_text("trainer: {max_epochs: 4}")
    assert find_config("eq.yaml") == Path("eq.yaml")
    assert find_config(str(tmp_path / "eq.yaml")) == tmp_path / "eq.yaml"


def test_a_name_that_is_nowhere_lists_what_there_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert available_configs() == EXPERIMENTS
    with pytest.raises(UserError, match=r"'equal.yaml' is not in .*; there is: .*best/tt.yaml, .*debug.yaml, eq.yaml"):
        find_config("equal.yaml")


def test_what_is_not_yaml(tmp_path):
    (tmp_path / "broken.yaml").write_text("a: [")
    (tmp_path / "binary.yaml").write_bytes(os.urandom(64) + b"\xff")
    for name in ("broken.yaml", "binary.yaml"):
        with pytest.raises(UserError, match=f"{name} is not YAML"):
            find_config(str(tmp_path / name))


def test_every_format_is_known_by_its_name_in_a_new_process():
    """In a process of its own: other tests import formats."""
    code = f"""
from ttlightning.commands.main import main
for name in {sorted(formats.NAMES)}:
    try:
        main(["fit", "--config=debug.yaml", f"--model.format={{name}}", "--model.format.rank=2", "--print_config"])
    except SystemExit as end:
        assert not end.code, name
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name in formats.NAMES:
        assert f"class_path: ttlightning.{name}" in done.stdout
