"""A fit that is given a checkpoint: goes on, goes on elsewhere, or begins with the weights; what it records is used."""

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from conftest import assert_one_line, contents, file_contents

from ttlightning import UserError
from ttlightning.commands.studies import configuration
from ttlightning.runs import beginning
from ttlightning.runs.beginning import makes_same_steps
from ttlightning.runs.identity import first_difference
from ttlightning.runs.run import Run

SMALL = ("--config=debug.yaml", "--data.dataset=mnist", "--data.batch_size=20", "--figures=false",
         "--trainer.log_every_n_steps=1")  # fmt: skip
SCHEDULE = ("--model.scheduler=OneCycleLR", "--model.scheduler.max_lr=0.01", "--model.scheduler.total_steps=null")
STEPS = 9  # 180 training images


def rates(command, run):
    with (command.folder / "runs" / run / "metrics.csv").open(newline="") as table:
        return [float(row["lr"]) for row in csv.DictReader(table) if row["lr"]]


def config(command, run):
    return Run(command.folder / "runs" / run).config


def runs(command):
    return sorted(path.name for path in (command.folder / "runs/debug").iterdir())


@pytest.mark.parametrize(
    "change",
    [
        ("--model.optimizer.init_args.lr=1e-4",),
        ("--model.optimizer.init_args.weight_decay=0.1",),
        ("--model.optimizer=SGD", "--model.optimizer.lr=1e-4"),
        ("--data.batch_size=30",),
        ("--seed_everything=5",),
        ("--model.patch_dropout=0.3",),
        ("--trainer.max_epochs=3", *SCHEDULE),
    ],
    ids=lambda change: change[0][2:],
)
def test_other_settings_begin_with_the_weights_and_nothing_else(command, change):
    """What is recorded is used: the run is that of a network that was given these weights and trained from scratch."""
    command.finished(*SMALL)
    done = command("fit", *SMALL, "--ckpt_path=runs/debug/0", *change)
    assert "begins      with the weights of runs/debug/0/checkpoints/last.ckpt; optimizer, schedule" in done.stdout
    recorded, result = config(command, "debug/1"), command.result("debug/1")
    assert result["epochs"] == recorded["trainer"]["max_epochs"]
    if recorded["model"]["scheduler"] is None:
        assert set(rates(command, "debug/1")) == {recorded["model"]["optimizer"]["init_args"]["lr"]}
    steps = -(-180 // recorded["data"]["batch_size"]) * result["epochs"]
    last = torch.load(command.folder / "runs/debug/1/checkpoints/last.ckpt", weights_only=True)
    assert last["global_step"] == steps
    assert result["weights_sha256"] != command.result("debug/0")["weights_sha256"]
    groups = last["optimizer_states"][0]["param_groups"][0]
    assert groups["weight_decay"] == recorded["model"]["optimizer"]["init_args"].get("weight_decay", 0)


def test_other_devices_and_more_epochs_go_on_with_everything(command):
    """Three epochs at once, or one and then two more with another number of steps a call: the same bits."""
    command.finished(*SMALL, "--trainer.max_epochs=3")
    command.finished(*SMALL, "--trainer.max_epochs=1")
    longer = ("--trainer.max_epochs=3", "--data.steps_per_execution=4", "--trainer.check_val_every_n_epoch=3")
    done = command("fit", *SMALL, "--ckpt_path=runs/debug/1", *longer)
    assert "begins " not in done.stdout
    assert command.result("debug/2")["weights_sha256"] == command.result("debug/0")["weights_sha256"]


def test_more_epochs_of_a_schedule_that_is_as_long_as_the_run(command):
    """A finished OneCycle run has no more steps to make: its weights begin a new run with a schedule of its own."""
    command.finished(*SMALL, *SCHEDULE)
    assert_one_line(command("fit", "--ckpt_path=runs/debug/0", code=2).stderr, "runs/debug/0 is finished")
    command("fit", "--ckpt_path=runs/debug/0", "--trainer.max_epochs=2")
    assert command.result("debug/1")["epochs"] == 2
    assert len(rates(command, "debug/1")) == 2 * STEPS


WEIGHTS = ("--config=debug.yaml", *SMALL[1:], "--model.optimizer.init_args.lr=1e-3", "--trainer.max_epochs=2")


@pytest.mark.parametrize(
    ("options", "stop"),
    [(WEIGHTS, 2), (WEIGHTS, STEPS + 2), (("--trainer.max_epochs=3",), 2 * STEPS + 2)],
    ids=["weights, before its first checkpoint", "weights", "state"],
)
def test_a_run_that_began_at_a_checkpoint_resumes_to_the_same_bits(command, options, stop):
    command.finished(*SMALL)
    words = ("fit", *options, "--ckpt_path=runs/debug/0")
    command(*words)
    command.killed(stop, *words)
    command("fit", "--ckpt_path=runs/debug/2")
    assert contents(command.folder / "runs/debug/2") == contents(command.folder / "runs/debug/1")
    assert runs(command) == ["0", "1", "2"]


def test_options_win_over_configs_wherever_they_stand(command):
    assert configuration(("--trainer.max_epochs=2", *SMALL))["trainer"]["max_epochs"] == 2
    command.finished(*SMALL)
    shown = command("test", "--ckpt_path=runs/debug/0", "--config=runs/debug/0/config.yaml").stdout
    assert str(command.result("debug/0")["metrics"]["test/loss"])[:9] in shown


def stopped(command, *options):
    """A run that was stopped after its last epoch, before its result was written."""
    run = Run(command.finished(*SMALL, "--trainer.max_epochs=2", *options))
    run.result_file.unlink()
    return run


def test_nothing_left_to_train(command):
    command.finished(*SMALL, "--trainer.max_epochs=2")
    for epochs in (1, 2):
        options = ("--trainer.check_val_every_n_epoch=3", f"--trainer.max_epochs={epochs}")
        done = command("fit", "--ckpt_path=runs/debug/0", *options, code=2)
        assert f"has 2 epochs behind it and trainer.max_epochs is {epochs}" in done.stderr
    assert runs(command) == ["0"]


def test_an_edited_config_is_refused(command):
    file = stopped(command).config_file
    file.write_text(file.read_text().replace("max_epochs: 2", "max_epochs: 5"))
    done = command("fit", "--ckpt_path=runs/debug/0", code=2)
    assert_one_line(done.stderr, "config.yaml says trainer.max_epochs: 5, which is not what the run's checkpoint")
    assert runs(command) == ["0"]


@pytest.mark.parametrize("options", [(), ("--trainer.max_epochs=3",)], ids=["in its directory", "in a new run"])
def test_changed_data_are_refused(command, options):
    run = stopped(command)
    file = command.data / "MNIST/raw/train-images-idx3-ubyte"
    content = bytearray(file.read_bytes())
    content[500] ^= 1
    file.write_bytes(content)
    done = command("fit", "--ckpt_path=runs/debug/0", *options, code=2)
    assert_one_line(done.stderr, "the data have changed: mnist has SHA-256")
    assert runs(command) == ["0"]
    assert "resumed" not in run.provenance


def test_last_is_the_newest_run_of_this_very_configuration(command):
    for seed in (0, 1):
        command.killed(2, "fit", *SMALL, f"--seed_everything={seed}", "--last_checkpoint.every_n_steps=1")
    command("fit", *SMALL, "--seed_everything=2", "--last_checkpoint.every_n_steps=1")
    again = ("fit", *SMALL, "--last_checkpoint.every_n_steps=1", "--ckpt_path=last")
    command(*again)
    assert command.result("debug/0")["seed"] == 0
    done = command(*again, "--seed_everything=3", code=2)
    assert "no run in runs/debug has this configuration: runs/debug/2 has seed_everything: 2" in done.stderr
    refused = command(*again, "--seed_everything=2", code=2)
    assert "runs/debug/2 is finished" in refused.stderr
    assert not (command.folder / "runs/debug/1/result.json").exists()
    said = command("test", *SMALL, "--ckpt_path=last", "--seed_everything=0").stdout
    assert str(command.result("debug/0")["metrics"]["test/loss"])[:9] in said
    assert runs(command) == ["0", "1", "2"]


def test_steps_per_execution_cannot_change_within_an_epoch(command):
    words = ("fit", *SMALL, "--data.steps_per_execution=4", "--last_checkpoint.every_n_steps=4")
    command.killed(5, *words)
    done = command(*words, "--ckpt_path=runs/debug/0", "--data.steps_per_execution=2", code=2)
    assert "lies within an epoch and was made with 4 steps in a call, here there are 2" in done.stderr
    assert runs(command) == ["0"]


def test_a_checkpoint_within_an_epoch_of_stochastic_weight_averaging(command):
    """SWA has set up its schedule when the epoch started: the rest of the epoch cannot be made without that."""
    words = ("fit", *SMALL, "--trainer.max_epochs=3", "--checkpoint.save_top_k=-1",
             "--checkpoint.every_n_train_steps=4",
             "--trainer.callbacks+=StochasticWeightAveraging", "--trainer.callbacks.swa_lrs=0.02")  # fmt: skip
    command(*words)
    [found] = (command.folder / "runs/debug/0/checkpoints").glob("epoch=*-step=12.ckpt")
    file = found.relative_to(command.folder)
    done = command(*words, f"--ckpt_path={file}", code=2)
    assert f"{file} lies within an epoch, and StochasticWeightAveraging acts when one starts" in done.stderr
    assert runs(command) == ["0"]


def test_a_run_at_a_path(command):
    """Made there, continued there to the same bits, and nothing is written where it must not be."""
    command("fit", *SMALL, "--run=a/b", "--trainer.max_epochs=2")
    whole = command.folder / "a/b"
    assert "run" not in yaml.safe_load((whole / "config.yaml").read_text())
    assert json.loads((whole / "result.json").read_text())["experiment"] == "debug"
    for words, stop in (((), 2), (("--last_checkpoint.every_n_steps=1",), STEPS + 4)):
        command.killed(stop, "fit", *SMALL, "--run", "c", "--trainer.max_epochs=2", *words)
        before = file_contents(command.folder)
        done = command("fit", *SMALL, "--run=c", "--trainer.max_epochs=3", *words, code=2)
        assert_one_line(done.stderr, "c was begun with another configuration, it has trainer.max_epochs: 2")
        assert file_contents(command.folder) == before
        again = ("--config=debug.yaml", *SMALL[1:], "--trainer.max_epochs=2", "--wandb.tags=[x]") if words else ()
        command("fit", "--run=c", *again, *words)
        mine, theirs = contents(command.folder / "c"), contents(whole)
        assert yaml.safe_load(mine.pop("config.yaml"))["wandb"]["tags"] == []
        assert theirs.pop("config.yaml")
        assert mine == theirs
        assert_one_line(command("fit", "--run=c", code=2).stderr, "c is finished, there is nothing to go on with")
        shutil.rmtree(command.folder / "c")
    assert not (command.folder / "runs").exists()
    (command.folder / "notes").mkdir()
    (command.folder / "notes/x").touch()
    assert_one_line(command("fit", *SMALL, "--run=notes", code=2).stderr, "notes holds files but no run")
    assert_one_line(command("test", *SMALL, "--run=a/b", code=2).stderr, "run")


def test_a_new_run_at_a_path_from_a_checkpoint(command):
    """The same words resume it; without the checkpoint they are those of another run."""
    command.finished(*SMALL)
    words = ("fit", *SMALL, "--run=b", "--ckpt_path=runs/debug/0", "--trainer.max_epochs=2")
    command.killed(STEPS + 2, *words)
    done = command("fit", *SMALL, "--run=b", "--trainer.max_epochs=2", code=2)
    start = "runs/debug/0/checkpoints/last.ckpt"
    assert_one_line(done.stderr, f"b was begun with another configuration, it has ckpt_path: {start}")
    command(*words)
    whole = Run(command.finished(*SMALL, "--trainer.max_epochs=2"))
    assert Run(command.folder / "b").result["weights_sha256"] == whole.result["weights_sha256"]
    done = command("fit", *SMALL, "--run=c", "--ckpt_path=runs/debug/0", code=2)
    assert_one_line(done.stderr, "nothing is left to train")
    assert not (command.folder / "c").exists()


def test_two_processes_in_one_directory(command):
    run = Run(command.folder / "a")
    run.path.mkdir()
    run.claim()
    done = command("fit", *SMALL, "--run=a", code=2)
    assert_one_line(done.stderr, "a is being written by another process; wait for it, or stop it first")
    run.lock.release()
    assert list(run.path.iterdir()) == []


@pytest.mark.parametrize(("ready", "end", "fits"), [(6, False, True), (7, False, False), (7, True, True)])
def test_a_checkpoint_between_accumulated_batches(ready, end, fits):
    progress = {"is_last_batch": end, "current": {"ready": ready}}
    content = {"loops": {"fit_loop": {"epoch_loop.batch_progress": progress}}}
    if fits:
        beginning.check_place(content, Path("x.ckpt"), 1, 3, None)
        return
    with pytest.raises(UserError, match="lies between batches whose gradients are accumulated"):
        beginning.check_place(content, Path("x.ckpt"), 1, 3, None)


BASE = {"seed_everything": 0, "model": {"scheduler": None}, "data": {"root": "a"}, "trainer": {"max_epochs": 2}}
CYCLE = {"model": {"scheduler": {"class_path": "OneCycleLR", "init_args": {"total_steps": None}}}}


@pytest.mark.parametrize(("first", "second", "alike"), [
    (BASE, BASE, True),
    (BASE, BASE | {"data": {"root": "b"}}, True),
    (BASE, BASE | {"trainer": {"max_epochs": 5}}, True),
    (BASE, BASE | {"seed_everything": 1}, False),
    (BASE, BASE | {"data": {"root": "a", "dataset": "kmnist"}}, False),
    (BASE, BASE | {"trainer": {"max_epochs": 2, "precision": "bf16-mixed"}}, False),
    (BASE | CYCLE, BASE | CYCLE, True),
    (BASE | CYCLE, BASE | CYCLE | {"trainer": {"max_epochs": 5}}, False),
    (BASE, BASE | CYCLE, False),
])  # fmt: skip
def test_which_configurations_train_alike(first, second, alike):
    assert makes_same_steps(first, second) is alike
    assert makes_same_steps(second, first) is alike


def test_the_first_difference():
    assert first_difference(BASE, BASE | {"ckpt_path": "x"}) is None
    assert first_difference(BASE | {"data": {"root": "a", "order": "snake"}}, BASE) == "data.order: snake"
    assert first_difference(BASE, BASE | {"test_after_fit": True}) == "test_after_fit: nothing"
    assert first_difference(BASE, BASE | {"figures": True}) is None
    assert beginning.NEWEST == "last"


def test_a_run_of_version_0_1_does_not_go_on(command):
    """Neither with its own configuration nor with one of this version; one line, nothing written."""
    run = Run(command.finished(*SMALL))
    run.result_file.rename(command.folder / "kept")
    run.config_file.write_text(run.config_file.read_text().replace("microbatches:", "virtual_devices:"))
    before = file_contents(run.path)
    refused = command("fit", "--run=runs/debug/0", code=2).stderr
    assert_one_line(refused, "virtual_devices is called microbatches")
    refused = command("fit", *SMALL, "--run=runs/debug/0", code=2).stderr
    assert_one_line(refused, "config.yaml is of version 0.1, which this version does not go on with")
    (command.folder / "kept").rename(run.result_file)
    assert_one_line(command("rerun", "runs/debug/0", code=2).stderr, "virtual_devices is called microbatches")
    assert file_contents(run.path) == before | {run.result_file: run.result_file.read_bytes()}
