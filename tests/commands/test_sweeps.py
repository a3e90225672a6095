"""Sweep files: W&B's agent, the local grid and the command line mean the same by them."""

from pathlib import Path

import pytest
import yaml
from wandb.sdk.launch.sweeps import utils

from ttlightning import UserError
from ttlightning.commands.studies import configuration
from ttlightning.commands.sweeps import LONGEST_NAME, grid, name_of, option_words, read_sweep
from ttlightning.runs.run import check_experiment_name

SWEEPS = sorted((Path(__file__).parents[2] / "configs" / "sweeps").glob("*.yaml"))


def agents_words(file: Path, choice: dict) -> list[str]:
    """What `wandb agent` runs with this choice, by W&B's own code."""
    content = utils.load_sweep_config(str(file))
    filled = utils.create_sweep_command_args({"args": {option: {"value": value} for option, value in choice.items()}})
    filled |= {"env": ["/usr/bin/env"], "interpreter": ["python"]}
    words = []
    for word in utils.create_sweep_command(content["command"]):
        words += filled[word[2:-1]] if word.startswith("${") else [word]
    return words


@pytest.mark.parametrize("file", SWEEPS, ids=lambda file: file.stem)
def test_every_sweep_is_taken_by_fit(file, monkeypatch):
    """The first and the last choice: every option is one of fit, and arrives where it belongs."""
    sweep = read_sweep(f"sweeps/{file.name}", 5 if "random" in file.read_text() else None)
    for choice in (sweep.choices[0], sweep.choices[-1]):
        words = agents_words(file, choice)
        assert words[:5] == ["/usr/bin/env", "python", "-m", "ttlightning", "fit"]
        config = configuration(words[5:])
        assert config == configuration((*sweep.words, *option_words(choice)))
        for option, value in choice.items():
            entry = config
            for key in option.split("."):
                entry = entry[key]
            if option == "model.format":
                entry = entry["class_path"].removeprefix("ttlightning.")
            assert entry == value, option


@pytest.mark.parametrize("file", SWEEPS, ids=lambda file: file.stem)
def test_every_sweep_is_one_of_wandb(file):
    """What its server checks: a method, a metric that is logged and a goal, distributions with their ends."""
    content = yaml.safe_load(file.read_text())
    assert set(content) == {"project", "name", "method", "metric", "command", "parameters"}
    assert content["method"] in ("grid", "random", "bayes")
    assert content["metric"] == {"name": "val/acc", "goal": "maximize"}
    for how in content["parameters"].values():
        assert set(how) in ({"values"}, {"distribution", "min", "max"})
        if "distribution" in how:
            assert how["distribution"] in ("uniform", "log_uniform_values")
            assert 0 <= how["min"] < how["max"]


def test_random_choices_are_functions_of_their_number():
    few, many = (read_sweep("sweeps/search_eq.yaml", runs).choices for runs in (3, 50))
    assert many[:3] == few
    assert read_sweep("sweeps/search_eq.yaml", 3, key=1).choices != few
    rates = [choice["model.scheduler.init_args.max_lr"] for choice in many]
    assert len(set(rates)) > 40
    assert 5e-4 <= min(rates) < 1.5e-3 < 7e-3 < max(rates) <= 2e-2
    assert {choice["model.format.init_args.gain"] for choice in many} == {1.0, 3.0, 10.0, 30.0}


def test_integers_are_drawn_with_both_ends(tmp_path):
    file = tmp_path / "s.yaml"
    file.write_text("{method: random, command: [fit, '${args}'], parameters: {a: {min: 2, max: 4}, b: {value: x}}}")
    choices = read_sweep(str(file), 60).choices
    assert {choice["a"] for choice in choices} == {2, 3, 4}
    assert {choice["b"] for choice in choices} == {"x"}


def test_a_grid_of_options():
    found = grid({"model.format.init_args.rank": [4, 8], "data.patch_size": [[7, 7], 14], "data.order": ["snake"]})
    assert [tuple(choice.values()) for choice in found] == [
        (4, [7, 7], "snake"), (4, 14, "snake"), (8, [7, 7], "snake"), (8, 14, "snake"),
    ]  # fmt: skip
    assert grid({}) == [{}]
    assert option_words({"a": [7, 7], "b": None, "c": True, "d": "x", "e": 1e-5}) == (
        "--a=[7, 7]", "--b=null", "--c=true", "--d=x", "--e=1e-05",
    )  # fmt: skip


def test_names_are_folders_and_tell_choices_apart():
    rank = {"model.format.init_args.rank": 8, "seed_everything": 3}
    assert name_of("eq", rank) == "eq+rank-8"
    assert name_of("eq", {}) == "eq"
    assert (
        name_of("eq", {"b.lr": 1e-3, "a.lr": 2}) == name_of("eq", {"a.lr": 2, "b.lr": 1e-3}) == "eq+a.lr-2+b.lr-0.001"
    )
    awkward = [{"data.patch_size": value} for value in ([7, 7], "[7,7]", "7/7", "7 7", "x" * 300, "x" * 301)]
    names = [name_of("eq", choice) for choice in awkward]
    assert len(set(names)) == len(names)
    for name in names:
        assert check_experiment_name(name) == name
        assert len(name) <= LONGEST_NAME


@pytest.mark.parametrize(
    ("content", "runs", "message"),
    [
        ("[]", None, "it has no parameters"),
        ("{parameters: {a: {value: 1}}, method: grid}", None, "no command that ends in"),
        (
            "{parameters: {a: {min: 0, max: 1}}, method: grid, command: [fit, '${args}']}",
            None,
            "a is .*must have values",
        ),
        ("{parameters: {a: {value: 1}}, method: bayes, command: [fit, '${args}']}", 3, "'bayes', which needs W&B's"),
        ("{parameters: {a: {value: 1}}, method: grid, command: [fit, '${args}']}", 3, "is a grid"),
        ("{parameters: {a: {value: 1}}, method: random, command: [fit, '${args}']}", None, "--runs 20"),
        ("{parameters: {a: {mu: 1}}, method: random, command: [fit, '${args}']}", 1, "it must have values, or min"),
        ("{parameters: {a: {value: 1}}, method: grid, command: [fit, '${args_json}', '${args}']}", None, "args_json"),
    ],
)
def test_files_that_are_no_sweeps(tmp_path, content, runs, message):
    file = tmp_path / "sweep.yaml"
    file.write_text(content)
    with pytest.raises(UserError, match=message):
        read_sweep(str(file), runs)
