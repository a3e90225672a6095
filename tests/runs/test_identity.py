"""One table says what each key can change; every answer to "the same experiment?" reads it."""

import re
from pathlib import Path

import pytest
import yaml
from comparisons import config

from ttlightning import UserError
from ttlightning.commands.studies import configuration
from ttlightning.comparison.records import settings
from ttlightning.runs.beginning import makes_same_steps
from ttlightning.runs.identity import (
    ADDED_KEYS,
    KEYS,
    RENAMED_KEYS,
    SAME_GROUP,
    Changes,
    check_version,
    first_difference,
    flat,
    run_name,
    same_experiment,
    what_changes,
)


def changed(whole, key, value):
    """A copy with another value at ``a.b.c``."""
    first, _, rest = key.partition(".")
    return whole | {first: changed(whole.get(first) or {}, rest, value) if rest else value}


def test_every_key_of_the_table_is_one_of_fit():
    """But for what only W&B's configuration has, and the option that a configuration never holds."""
    whole = configuration(("--config=debug.yaml",))
    for key in (key for keys in KEYS.values() for key in keys if key not in ("config", "run", "provenance")):
        part = whole
        for name in key.split("."):
            assert name in part, key
            part = part[name]


@pytest.mark.parametrize(
    ("key", "run", "study", "steps", "group"),
    [
        ("figures", True, True, True, True),
        ("wandb.tags", True, True, True, True),
        ("ckpt_path", True, True, True, False),
        ("rank_check.every_n_epochs", False, False, True, True),
        ("data.root", False, False, True, True),
        ("experiment", False, False, True, True),
        ("trainer.devices", False, False, True, True),
        ("data.microbatches", False, False, True, True),
        ("trainer.limit_val_batches", False, False, True, False),
        ("trainer.max_epochs", False, False, True, False),
        ("seed_everything", False, True, False, True),
        ("data.dataset", False, False, False, True),
        ("model.optimizer.init_args.lr", False, False, False, False),
        ("trainer.gradient_clip_val", False, False, False, False),
    ],
)
def test_what_each_question_counts(key, run, study, steps, group):
    """Is it this run, a study's run for another seed, the same steps, the same group of a comparison?"""
    one = config()
    two = changed(one, key, "other")
    assert same_experiment(one, two) is run
    assert (first_difference(one, two) is None) is run
    assert (run_name(one, 0) == run_name(two, 0)) is study
    assert makes_same_steps(one, two) is steps
    assert (settings(one) == settings(two)) is group


def test_a_key_below_another_and_one_that_is_in_no_table():
    assert what_changes("wandb.tags") == Changes.NOTHING
    assert what_changes("data.rootless") == what_changes("model") == Changes.EXPERIMENT


def test_the_path_of_a_studys_run():
    assert re.fullmatch("7-[0-9a-f]{8}", run_name(config(), 7))
    assert run_name(dict(reversed(config().items())), 7) == run_name(config(), 7)


def test_a_run_of_version_0_1_is_compared_and_does_not_go_on():
    """Names of then and of now are one setting; to go on with such a run is refused in one line."""
    old, new = config(), config()
    old["model"] |= {"features": {"init_args": {"modes": 5}}}
    old["data"] |= {"virtual_devices": 2, "steps_per_call": 4}
    new["model"] |= {"features": {"init_args": {"mode_size": 5}}}
    new["data"] |= {"microbatches": 1, "steps_per_execution": 1}
    assert settings(old) == settings(new)
    assert settings(old)["features.mode_size"] == 5
    check_version(new, Path("x"))
    with pytest.raises(UserError, match=r"x is of version 0.1.*data.virtual_devices is called microbatches|modes is"):
        check_version(old, Path("x"))


OLD = yaml.safe_load((Path(__file__).parent / "config_of_0_1.yaml").read_text())
"""What 0.1 wrote for debug.yaml."""


def test_a_configuration_that_0_1_wrote_is_that_of_today():
    """A key that came later is no difference: it has its value of before in a run without it."""
    new = configuration(("--config=debug.yaml",))
    assert settings(OLD) == settings(new)
    for key, value in (("model.label_smoothing", 0.1), ("data.augmentation.flip", True), ("data.longest", 9)):
        assert settings(OLD) != settings(changed(new, key, value))


def test_every_key_that_came_after_0_1_has_its_value_of_before():
    """Else the runs of before and of after are two groups, and a study does not find its own."""
    new = flat(configuration(("--config=debug.yaml",)))
    known = {RENAMED_KEYS.get(key.rpartition(".")[2], key.rpartition(".")[2]) for key in flat(OLD)}
    added = {key for key in new if key.rpartition(".")[2] not in known and what_changes(key) not in SAME_GROUP}
    assert added == set(ADDED_KEYS)
    assert all(new[key] == value for key, value in ADDED_KEYS.items())


def test_a_study_finds_its_runs_after_a_key_was_added():
    whole = configuration(("--config=debug.yaml",))
    before = changed(whole, "model", {key: value for key, value in whole["model"].items() if key != "label_smoothing"})
    assert run_name(before, 3) == run_name(whole, 3)
    assert run_name(changed(whole, "model.label_smoothing", 0.1), 3) != run_name(whole, 3)
    assert first_difference(before, whole) is None
    assert first_difference(before, changed(whole, "model.label_smoothing", 0.1)) == "model.label_smoothing: 0.0"
