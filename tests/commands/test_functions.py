"""The verbs as functions of Python: what the commands do, and a program around them that goes on as it was."""

import csv
import json
import os
import random
import signal
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import contents, empty_picture
from kinds import FORMATS
from lightning.pytorch import Callback
from matplotlib.figure import Figure

import ttlightning
from ttlightning import Classifier, EqualCoreTensorTrain, PatchDataModule, PatchFeatureMap, UserError
from ttlightning.commands import rerun
from ttlightning.commands.main import main
from ttlightning.comparison.tables import markdown
from ttlightning.errors import Fault
from ttlightning.rank.verifier.claims import Rejected
from ttlightning.system import signals

SMALL = {"data.dataset": "mnist", "data.batch_size": 10, "trainer": {"max_epochs": 1, "max_steps": 6}}
SHORT = {"trainer": SMALL["trainer"], "figures": False, "test_after_fit": False}


@pytest.fixture
def folder(command, monkeypatch) -> Path:
    """A notebook's working directory, with the small data set."""
    monkeypatch.chdir(command.folder)
    for name, value in command.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(Figure, "savefig", empty_picture)
    return command.folder


def state() -> list:
    """What a command must leave to its program as it was."""
    names = ("PL_GLOBAL_SEED", "CUBLAS_WORKSPACE_CONFIG", signals.PARENT, "WANDB_SILENT")
    return [
        [signal.getsignal(number) for number in signals.SIGNALS], signals._listener,
        torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist(),  # noqa: NPY002
        torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark,
        {name: os.environ.get(name) for name in names},
    ]  # fmt: skip


def objects(kind=EqualCoreTensorTrain, data=None, **options) -> tuple[Classifier, PatchDataModule]:
    """Network and data of debug.yaml, with the small data set."""
    data = data or PatchDataModule("mnist", patch_size=14, validation=0.1, batch_size=10)
    parts = {"features": partial(PatchFeatureMap, mode_size=5), "format": partial(kind, rank=4)}
    adam = partial(torch.optim.Adam, lr=1e-2)
    return Classifier(data.sites, data.patch_dim, data.classes, **parts | {"optimizer": adam} | options), data


@pytest.mark.slow
def test_every_verb_in_a_notebook(folder, command, rerun_in_this_process):
    """Five lines; the same files as by the commands, and the process as it was."""
    torch.set_num_threads(2)
    before = state()
    run = ttlightning.fit("debug.yaml", SMALL)
    assert ttlightning.test(run) == pytest.approx(
        metrics := {k: v for k, v in run.result["metrics"].items() if "test" in k}
    )
    assert ttlightning.validate(str(run)).keys() == {"val/loss", "val/acc"}
    found = ttlightning.predict(run, output="p.csv")
    assert state() == before
    torch.set_num_threads(1)

    command("fit", "--config=debug.yaml", "--data.dataset=mnist", "--data.batch_size=10", "--trainer.max_steps=6")
    assert contents(run.path) == contents(Path("runs/debug/1"))
    rows = list(csv.DictReader(Path("p.csv").read_text().splitlines()))
    assert [row["p3"] for row in rows] == [f"{p:.6g}" for p in found[:, 3].tolist()]
    assert sum(row["label"] == row["predicted"] for row in rows) / len(rows) == pytest.approx(metrics["test/acc"])

    verdict = ttlightning.rerun(run)
    assert verdict.verdict == rerun.BITWISE
    table = markdown(ttlightning.compare([run, "runs/debug/1"]))
    assert table == command("compare", "runs/debug/0", "runs/debug/1").stdout
    certificate = ttlightning.certify(run, "c.json")
    assert ttlightning.verify("c.json") == certificate["statement"] == ttlightning.certify(run)["statement"]
    command("export", "runs/debug/0", "--to=pt2", "--output=command.pt2")
    assert ttlightning.export(run, "pt2", "function.pt2") == Path("function.pt2")
    sizes = [Path(f"{name}.pt2").stat().st_size for name in ("command", "function")]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.01)
    with pytest.raises(UserError, match="to is 'pdf', it must be one of onnx, pt2"):
        ttlightning.export(run, "pdf", "x.pdf")
    forged = certificate | {"cp_rank_at_least": [bound + 1 for bound in certificate["cp_rank_at_least"]]}
    Path("c.json").write_text(json.dumps(forged))
    with pytest.raises(Rejected, match=r"REJECTED  c\.json"):
        ttlightning.verify("c.json")


def test_a_mistake_is_an_exception_and_the_program_goes_on(folder):
    before = state()
    mistakes = [
        (lambda: ttlightning.fit("debug.yaml", {"data.patch_size": 5}), "patch_size 5 with stride 5"),
        (lambda: ttlightning.fit("absent.yaml"), "config 'absent.yaml' is not in"),
        (lambda: ttlightning.fit("debug.yaml", {"trainer.callbacks": [Callback()]}), "trainer.callbacks is .*Callback"),
        (lambda: ttlightning.fit("debug.yaml", {"model.form": 3}), "model.form"),
        (lambda: ttlightning.test("runs/absent/0"), "no checkpoint at"),
        (lambda: ttlightning.compare("runs/absent"), "runs/absent"),
        (lambda: ttlightning.certify("runs/absent/0"), "no checkpoint at"),
        (lambda: ttlightning.rerun("runs/absent/0"), "is not a run directory"),
        (lambda: ttlightning.verify("absent.json"), "absent.json"),
    ]
    for call, message in mistakes:
        with pytest.raises(UserError, match=message):
            call()
    assert state() == before
    assert not Path("runs").exists()
    with pytest.raises(Fault, match="the training loss is"):
        ttlightning.fit("debug.yaml", SMALL | {"model.optimizer.lr": 1e30, "trainer.log_every_n_steps": 1})
    assert state() == before


def test_a_rerun_that_does_not_end_is_a_fault(folder, command, monkeypatch):
    command.finished("--config=debug.yaml", "--data.dataset=mnist", "--data.batch_size=10", "--trainer.max_steps=6")
    monkeypatch.setattr(rerun, "start", lambda *_: 9)
    with pytest.raises(Fault, match="the rerun in runs/debug/1 ended with exit code 9"):
        ttlightning.rerun("runs/debug/0")


@pytest.mark.parametrize("given", [pytest.param(False, marks=pytest.mark.slow), True])
def test_ctrl_c_is_a_keyboard_interrupt_after_a_checkpoint(folder, at_step, given):
    """The run goes on to the bits of one that was not stopped, by ``fit`` and by ``fit_model``."""

    def begin(**where):
        return (
            ttlightning.fit_model(*objects(), SHORT, **where)
            if given
            else ttlightning.fit("debug.yaml", SMALL | SHORT, **where)
        )

    whole, before = begin(run="runs/whole"), state()
    at_step(3, lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt, match="stopped by SIGINT after step 4") as stop:
        begin(run="runs/stopped")
    assert "it goes on with" in "".join(stop.value.__cause__.__notes__)
    assert state() == before
    went_on = begin(run="runs/stopped")
    assert went_on.result["weights_sha256"] == whole.result["weights_sha256"]


def test_a_fit_off_the_main_thread(folder):
    runs, before = [], state()
    thread = threading.Thread(target=lambda: runs.append(ttlightning.fit("debug.yaml", SMALL | SHORT)))
    thread.start()
    thread.join()
    assert runs[0].result["epochs"] == 1
    assert state() == before


@pytest.mark.slow
@pytest.mark.parametrize("kind", FORMATS)
def test_objects_make_the_run_of_their_config(folder, kind):
    """``fit_model`` leaves the directory that ``fit`` with its config.yaml makes again, to the bit."""
    one = ttlightning.fit_model(*objects(kind, patch_dropout=0.1), {"trainer": SMALL["trainer"]}, experiment="mine")
    other = ttlightning.fit(one.config_file, experiment="mine")
    assert contents(one.path) == contents(other.path)
    assert one.provenance["dataset"] == other.provenance["dataset"]
    assert one.config["model"]["patch_dropout"] == 0.1


def test_objects_that_no_config_repeats_are_refused(folder):
    class Mine(Classifier):
        pass

    model, data = objects()
    other, _ = objects(seed=3)
    trained, _ = objects()
    with torch.no_grad():
        trained.features.linear.bias.add_(1)
    mistakes = [
        ((objects(optimizer=lambda p: torch.optim.SGD(p, lr=1))[0], data), {}, "model.optimizer is <function"),
        ((other, data), {}, "seed is 3 in the network and 0 in the data"),
        ((trained, data), {}, "the weights of the network are not those that its arguments and seed 0 give"),
        ((model, PatchDataModule("mnist", patch_size=7)), {}, r"are \(4, 196, 10\) in the network and \(16, 49, 10\)"),
        ((Mine(4, 196, 10), data), {}, "which config.yaml can describe, got Mine and PatchDataModule"),
        ((model, data), {"data.patch_size": 7}, "data.patch_size is an argument of the network or of the data"),
        ((model, data), {"trainer.callbacks": [Callback()]}, "which no config.yaml can hold"),
    ]
    for pair, options, message in mistakes:
        with pytest.raises(UserError, match=message):
            ttlightning.fit_model(*pair, options)
    assert not Path("runs").exists()


def test_data_given_in_python_make_a_run(folder, command, at_step):
    """Recorded by content; config.yaml says that no command can repeat it, and Python goes on with it."""
    images = torch.randint(0, 256, (40, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    source = images, torch.arange(40) % 3

    def begin(**options):
        data = PatchDataModule.from_datasets(source, name="mine", patch_size=4, batch_size=8, **options)
        return ttlightning.fit_model(*objects(data=data), {"trainer.max_epochs": 1}, experiment="own", run="runs/own/0")

    at_step(3, lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt) as stop:
        begin()
    assert "ttlightning.fit_model(model, data, run='runs/own/0')" in "".join(stop.value.__cause__.__notes__)
    with pytest.raises(UserError, match=r"begun with another configuration, it has data\.order"):
        begin(order="snake")
    run = begin()
    assert run.provenance["dataset"]["name"] == run.config["data"]["dataset"] == run.result["dataset"] == "mine"
    assert "test/acc" not in run.result["metrics"]
    assert torch.equal(ttlightning.load(run).predict(images), Classifier.load_from_checkpoint(run).predict(images))
    for words in (
        ["test", "--ckpt_path=runs/own/0"],
        ["fit", "--config=runs/own/0/config.yaml"],
        ["rerun", "runs/own/0"],
    ):
        refused = command(*words, code=2).stderr
        assert "data that were given in Python are read again by Python only" in refused


def test_main_is_not_changed_by_a_call_before(folder, command):
    """The command line in the same process still listens, and ends with exit codes."""
    ttlightning.fit("debug.yaml", SMALL | SHORT)
    with pytest.raises(SystemExit) as end:
        main(["test", "--ckpt_path=runs/absent/0"])
    assert end.value.code == 2
