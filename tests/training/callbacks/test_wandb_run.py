"""How runs are filed: tags, axes, and who chooses mode and identifier."""

import json
import os
from types import SimpleNamespace

import pytest
import wandb
from conftest import assert_one_line, read_wandb

from ttlightning import Classifier
from ttlightning.formats import CanonicalPolyadic, HierarchicalTucker, SharedHierarchicalTucker, TensorTrain
from ttlightning.runs.run import Run
from ttlightning.training.callbacks.wandb_run import LONGEST_TAG, WandbOptions, new_identifier, tags

TRAINER = SimpleNamespace(datamodule=SimpleNamespace(describe=lambda: {"name": "mnist5k"}))


class MyOwn(TensorTrain):
    """A format of the user's."""


@pytest.mark.parametrize(
    ("format", "kind"),
    [
        (TensorTrain, "different cores"),
        (CanonicalPolyadic, "shallow"),
        (HierarchicalTucker, "different nodes"),
        (SharedHierarchicalTucker, "equal nodes"),
        (MyOwn, "different cores"),
    ],
)
def test_tags_say_what_network_it_is(format, kind):
    module = Classifier(4, 9, 3, format=lambda *sizes: format(*sizes, rank=2), seed=7)
    mode_size = module.features.mode_size
    found = tags(TRAINER, module, ["mine", "r=2"])
    assert found == ["mine", "r=2", "mnist5k", format.__name__, kind, "d=4", f"n={mode_size}", "seed=7"]


def test_a_tag_that_is_too_long_is_cut_where_it_is_not_the_users():
    format = type("Long" * 30, (CanonicalPolyadic,), {})
    found = tags(TRAINER, Classifier(4, 9, 3, format=lambda *sizes: format(*sizes, rank=2)), [])
    assert max(map(len, found)) == LONGEST_TAG


def test_who_chooses_the_mode(monkeypatch):
    for name in ("WANDB_MODE", "WANDB_SWEEP_ID"):
        monkeypatch.delenv(name, raising=False)
    assert WandbOptions().chosen_mode() == "offline"
    monkeypatch.setenv("WANDB_SWEEP_ID", "s1")
    assert WandbOptions().chosen_mode() == "online"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert WandbOptions().chosen_mode() == "disabled"
    assert WandbOptions(mode="offline").chosen_mode() == "offline"


@pytest.mark.parametrize(
    ("given", "mode"), [("OFFLINE", "offline"), ("Disabled", "disabled"), ("online", "online"), ("DryRun", "offline")]
)
def test_the_mode_in_the_environment_may_be_in_capitals(monkeypatch, given, mode):
    """W&B reads the variable itself as well, and knows small letters only."""
    monkeypatch.setenv("WANDB_MODE", given)
    assert WandbOptions().chosen_mode() == mode
    assert os.environ["WANDB_MODE"] == mode


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("WANDB_MODE", "offlin", "WANDB_MODE is 'offlin', it must be one of offline, online, disabled"),
        ("WANDB_INIT_TIMEOUT", "soon", "WANDB_INIT_TIMEOUT is 'soon', it must be a number of seconds above 0"),
        ("WANDB_INIT_TIMEOUT", "-1", "WANDB_INIT_TIMEOUT is '-1'"),
    ],
)
def test_invalid_wandb_variables_are_refused(command, name, value, message):
    command.environment[name] = value
    assert_one_line(command("fit", "--config=debug.yaml", "--data.dataset=mnist", code=2).stderr, message)
    assert not list(command.folder.glob("runs/*/*"))


def test_settings_that_wandb_rejects_are_one_line(command, monkeypatch):
    """Found by W&B itself, when it begins."""
    monkeypatch.setattr(wandb, "init", lambda **_: wandb.Settings(quiet="perhaps"))
    done = command("fit", "--config=debug.yaml", "--data.dataset=mnist", code=2)
    assert_one_line(done.stderr, "W&B does not take its settings, look at the variables WANDB_*: quiet Input should be")
    assert not list(command.folder.glob("runs/*/*"))


def test_who_chooses_the_identifier(monkeypatch, tmp_path):
    monkeypatch.setenv("TTLIGHTNING_RUNS", str(tmp_path))
    monkeypatch.delenv("WANDB_RUN_ID", raising=False)
    assert len({new_identifier() for _ in range(9)}) == 9
    monkeypatch.setenv("WANDB_RUN_ID", "r1")
    assert new_identifier() == "r1"
    run = Run.create(tmp_path, "debug")
    run.config_file.write_text("{}")
    run.provenance_file.write_text(json.dumps({"wandb": "r1"}))
    with pytest.warns(UserWarning, match="WANDB_RUN_ID is r1, which .*debug/0 records under"):
        assert new_identifier() != "r1"


def test_wandbs_own_variables_and_the_options(monkeypatch):
    """An option wins over a variable, a variable over the default."""
    variables = {"PROJECT": "p", "ENTITY": "e", "NAME": "n", "RUN_GROUP": "g", "NOTES": "o", "JOB_TYPE": "j"}
    for name in variables:
        monkeypatch.delenv(f"WANDB_{name}", raising=False)
    defaults = {"project": "ttlightning", "entity": None, "name": "eq-0", "group": "eq", "notes": None,
                "job_type": "fit", "tags": ["t"]}  # fmt: skip
    assert WandbOptions().labels("eq", "0", ["t"]) == defaults
    for name, value in variables.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    of_variables = {"project": "p", "entity": "e", "name": "n", "group": "g", "notes": "o", "job_type": "j"}
    assert WandbOptions().labels("eq", "0", ["t"]) == defaults | of_variables
    options = {"project": "P", "entity": "E", "name": "N", "group": "G", "notes": "O"}
    assert WandbOptions(**options).labels("eq", "0", ["t"]) == defaults | of_variables | options


def test_a_record_has_the_labels_of_options_and_variables(command):
    """Read back from the offline record, written by the command."""
    command.environment |= {"WANDB_MODE": "offline", "WANDB_RUN_GROUP": "mine", "WANDB_TAGS": "a, b"}
    words = ("--config=debug.yaml", "--data.dataset=mnist", "--figures=false")
    command("fit", *words, "--wandb.name=first", "--wandb.project=digits", "--wandb.notes=a longer text")
    [log] = (command.folder / "runs/debug/0").glob("wandb/offline-run-*/*.wandb")
    _, records = read_wandb(log)
    [record] = [record["run"] for record in records if record["type"] == "run"]
    assert (record["display_name"], record["project"], record["run_group"], record["notes"]) == (
        "first", "digits", "mine", "a longer text"
    )  # fmt: skip
    assert record["tags"][:3] == ["a", "b", "mnist"]


def test_records_of_one_process_in_two_folders(command):
    """As in a notebook that changes its working directory: W&B's service stays where it was started."""
    command.environment["WANDB_MODE"] = "offline"
    for name in ("one", "two"):
        command.folder = command.folder.with_name(name)
        command.folder.mkdir()
        command("fit", "--config=debug.yaml", "--data.dataset=mnist", "--figures=false")
        assert len(list((command.folder / "runs/debug/0").glob("wandb/offline-run-*/*.wandb"))) == 1


@pytest.mark.parametrize("words", [("--wandb=false",), ("--wandb", "off")])
def test_one_switch_turns_wandb_off(command, words):
    command.environment["WANDB_MODE"] = "online"
    command("fit", "--config=debug.yaml", "--data.dataset=mnist", "--figures=false", *words)
    run = Run(command.folder / "runs/debug/0")
    assert run.config["wandb"]["mode"] == "disabled"
    assert not list(run.path.glob("wandb/*run*"))


@pytest.mark.slow
def test_a_sweeps_run_has_the_agents_identifier(command):
    """The environment is that of `wandb agent`; the record and the provenance have its identifier."""
    sweep = {"WANDB_SWEEP_ID": "s1", "WANDB_RUN_ID": "r1", "WANDB_MODE": "OffLine"}
    command.process("fit", "--config=debug.yaml", "--data.dataset=mnist", "--figures=false", **sweep)
    run = command.folder / "runs/debug/0"
    assert [log.name for log in run.glob("wandb/offline-run-*/*.wandb")] == ["run-r1.wandb"]
    assert json.loads((run / "provenance.json").read_text())["wandb"] == "r1"
