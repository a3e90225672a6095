"""A configuration from elsewhere runs nothing: what it names is refused before it is imported."""

import json
import sys
import textwrap
from pathlib import Path

import pytest
import torch
import yaml
from conftest import assert_one_line

from ttlightning import Classifier, PatchDataModule, UserError
from ttlightning.runs.checkpoints import CONFIG_KEY
from ttlightning.runs.trust import DEEPEST, LONGEST, ForeignConfig, read_mapping, take_trusted

SMALL = ("--config=debug.yaml", "--data.dataset=mnist", "--figures=false", "--test_after_fit=false")
OWN = """
    import pathlib
    from lightning.pytorch import Callback
    from ttlightning.formats import EqualCoreTensorTrain

    pathlib.Path("imported").touch()

    class Touch(Callback):
        def __init__(self, anything: object = None, file: str = "made") -> None:
            pathlib.Path(file).touch()
            self.anything = anything

        def setup(self, trainer, pl_module, stage):
            pathlib.Path("set_up").write_text(type(self.anything).__name__)

    class OwnFormat(EqualCoreTensorTrain):
        pass

    def call(*args, **kwargs):
        pathlib.Path("called").touch()
"""
RUN = {"class_path": "subprocess.Popen", "init_args": {"args": "touch called", "shell": True}}


def own(name: str, **arguments: object) -> dict:
    return {"class_path": f"ownmodule.{name}", "init_args": arguments}


def rich(console: dict) -> list:
    return [{"class_path": "RichProgressBar", "init_args": {"console_kwargs": console}}]


@pytest.fixture
def folder(command, monkeypatch):
    """The command line's folder, with a module of the user's own in it, and nothing of it imported yet."""
    (command.folder / "ownmodule.py").write_text(textwrap.dedent(OWN))
    (command.folder / "part.yaml").write_text(yaml.safe_dump({"features": own("call")}))
    (command.folder / "whole.yaml").write_text(yaml.safe_dump({"model": {"features": own("call")}}))
    monkeypatch.syspath_prepend(str(command.folder))
    monkeypatch.delitem(sys.modules, "ownmodule", raising=False)
    yield command.folder
    sys.modules.pop("ownmodule", None)


@pytest.fixture
def checkpoint(command, folder):
    """A checkpoint of one step, and the way to one whose configuration is another."""
    command.finished(*SMALL, "--trainer.limit_train_batches=1", "--trainer.limit_val_batches=1")
    content = torch.load(folder / "runs/debug/0/checkpoints/last.ckpt", weights_only=True)

    def write(edit, name: str = "foreign.ckpt") -> str:
        config = yaml.safe_load(content[CONFIG_KEY])
        text = edit(config)
        text = yaml.safe_dump(config) if text is None else text
        torch.save(content | {CONFIG_KEY: text}, folder / name)
        return name

    write.config = yaml.safe_load(content[CONFIG_KEY])
    return write


def traces(folder: Path) -> set[str]:
    return {"imported", "made", "set_up", "called"} & {path.name for path in folder.iterdir()}


PLACES = [
    ("subprocess.Popen", lambda c: c["trainer"].update(callbacks=rich({"file": RUN}))),
    ("subprocess.Popen", lambda c: c["trainer"].update(callbacks=rich(RUN))),
    ("subprocess.Popen", lambda c: c["model"].update(optimizer=RUN)),
    ("subprocess.Popen", lambda c: c["model"]["optimizer"].update(dict_kwargs={"more": RUN})),
    ("subprocess.Popen", lambda c: c["trainer"].update(
        profiler={"class_path": "lightning.pytorch.profilers.PyTorchProfiler", "dict_kwargs": {"schedule": RUN}})),
    ("functools.partial", lambda c: c["model"].update(scheduler={"class_path": "functools.partial"})),
    ("torch.hub.load", lambda c: c["model"].update(format={"class_path": "torch.hub.load"})),
    ("os.system", lambda c: c["model"].update(
        scheduler={"class_path": "torch.optim.lr_scheduler.LambdaLR", "init_args": {"lr_lambda": "os.system"}})),
    ("builtins.exec", lambda c: c["trainer"].update(
        callbacks=[{"class_path": "LambdaCallback", "init_args": {"setup": "builtins.exec"}}])),
    ("ownmodule.call", lambda c: c["trainer"].update(
        callbacks=[{"class_path": "LambdaCallback", "init_args": {"setup": "ownmodule.call"}}])),
    ("ttlightning.commands.cli.os.system", lambda c: c["trainer"].update(
        callbacks=[{"class_path": "LambdaCallback", "init_args": {"setup": "ttlightning.commands.cli.os.system"}}])),
    ("ttlightning.commands.rerun.start", lambda c: c["trainer"].update(
        callbacks=[{"class_path": "LambdaCallback", "init_args": {"setup": "ttlightning.commands.rerun.start"}}])),
    ("ownmodule.Touch", lambda c: c["trainer"].update(callbacks=[own("Touch")])),
    ("ownmodule.Touch", lambda c: c["trainer"].update(callbacks=own("Touch"))),
    ("ownmodule.Touch", lambda c: c["trainer"].update(plugins=[own("Touch")])),
    ("ownmodule.Touch", lambda c: c["trainer"].update(logger=own("Touch"))),
    ("ownmodule.Touch", lambda c: c["trainer"].update(strategy=own("Touch"))),
    ("ownmodule.OwnFormat", lambda c: c["model"].update(format="ownmodule.OwnFormat")),
    ("ownmodule.call", lambda c: c.update(model="part.yaml")),
    ("ownmodule.call", lambda c: c.update(model=yaml.safe_dump({"features": own("call")}))),
    ("ownmodule.call", lambda c: c["model"].update(features=json.dumps(own("call")))),
    ("ownmodule.call", lambda c: c.update(config="whole.yaml")),
]  # fmt: skip


def test_a_checkpoints_configuration_names_only_what_is_listed(command, folder, checkpoint):
    """Values of any type, functions given as text, files beside, text inside of text, names seen through ours."""
    for name, edit in PLACES:
        done = command("test", "--ckpt_path", checkpoint(edit), code=2)
        assert_one_line(done.stderr, f"the configuration in foreign.ckpt names {name}, which would be run")
        assert f"--trust {name}" in done.stderr
        assert not traces(folder), name
        assert "ownmodule" not in sys.modules, name


def test_load_from_checkpoint_imports_only_what_is_listed(folder, checkpoint, monkeypatch):
    """The same places in the parts of network and data; other parts are not read."""
    monkeypatch.chdir(folder)
    data = [("ownmodule.call", lambda c: c["data"].update(augmentation=own("call")))]
    texts = [("ownmodule.call", lambda c, text=text: c["model"].update(features=text))
             for text in ("part.yaml", "ownmodule.call", yaml.safe_dump(own("call")))]  # fmt: skip
    for name, edit in (*PLACES, *data, *texts):
        file = checkpoint(edit)
        config = yaml.safe_load(torch.load(file, weights_only=True)[CONFIG_KEY])
        for part, kind in (("model", Classifier), ("data", PatchDataModule)):
            if config[part] != checkpoint.config[part]:
                with pytest.raises(UserError):
                    kind.load_from_checkpoint(file)
            assert not traces(folder), name
            assert "ownmodule" not in sys.modules, name
    file = checkpoint(lambda c: c["trainer"].update(callbacks=[own("Touch")]))
    assert isinstance(Classifier.load_from_checkpoint(file), Classifier)
    assert not traces(folder)


def test_what_is_listed_is_read(command, checkpoint):
    """All that this package and Lightning offer by name, at the places where it is usual."""

    def edit(config):
        config["model"]["scheduler"] = {"class_path": "OneCycleLR", "init_args": {"max_lr": 0.1, "total_steps": None}}
        config["model"]["optimizer"] = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}}
        names = {"EarlyStopping": {"monitor": "val/loss"}, "DeviceStatsMonitor": {}, "ModelSummary": {}, "Timer": {}}
        path = "lightning.pytorch.callbacks."
        config["trainer"]["callbacks"] = [{"class_path": path + n, "init_args": a} for n, a in names.items()]
        config["trainer"]["logger"] = {"class_path": "CSVLogger", "init_args": {"save_dir": "logs"}}
        config["trainer"]["profiler"] = {"class_path": "lightning.pytorch.profilers.SimpleProfiler"}
        config["trainer"]["strategy"] = {"class_path": "lightning.pytorch.strategies.SingleDeviceStrategy"}

    command("test", "--ckpt_path", checkpoint(edit))


@pytest.mark.parametrize("text", ["[1, 2]", "plain words", "? [a]\n: b", "a: !!python/object/apply:os.system [ls]",
                                  "a: &x [1]\nb: [*x, *x]", "a: " + "[" * (DEEPEST + 1) + "]" * (DEEPEST + 1),
                                  "a: " + "[" * 5000, "a: '" + "x" * LONGEST + "'", "a: [", "", "a: \x00"])  # fmt: skip
def test_a_configuration_that_is_no_plain_mapping_is_not_read(text):
    with pytest.raises(UserError, match=r"^the configuration in last\.ckpt ") as refused:
        read_mapping(text, Path("last.ckpt"))
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 250


def test_a_checkpoints_configuration_that_is_no_text_is_not_read(command, folder, checkpoint):
    for content in ([1], {"model": {}}, 5, b"a: 1"):
        done = command("test", "--ckpt_path", checkpoint(lambda config, content=content: content), code=2)
        assert_one_line(done.stderr, f"{CONFIG_KEY} is not text")
    bomb = "a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True))
    assert_one_line(command("test", "--ckpt_path", checkpoint(lambda config: bomb), code=2).stderr, "aliases")
    edit = lambda config: config["checkpoint"].update(dirpath="ftp://127.0.0.1:9/x")  # noqa: E731
    assert_one_line(command("test", "--ckpt_path", checkpoint(edit), code=2).stderr, "has the address ftp://")
    for type_ in (list, dict):
        with pytest.raises(UserError, match="must be text"):
            ForeignConfig(type_(), Path("x"))


def test_a_runs_configuration_names_only_what_is_listed(command, folder):
    """`rerun`, and `fit` from a directory that has no checkpoint yet: nothing is made, nothing is run."""
    command.finished(*SMALL)
    run = folder / "runs/debug/0"
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["trainer"]["callbacks"] = [own("Touch")]
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    refused = "runs/debug/0/config.yaml names ownmodule.Touch, which would be run"
    assert_one_line(command("rerun", "runs/debug/0", code=2).stderr, refused)
    (run / "checkpoints/last.ckpt").unlink()
    (run / "result.json").rename(run / "before.json")
    assert_one_line(command("fit", "--ckpt_path=runs/debug/0", code=2).stderr, refused)
    assert not traces(folder)
    assert [path.name for path in run.parent.iterdir()] == ["0"]
    (run / "config.yaml").write_text("- 1\n")
    assert_one_line(command("fit", "--ckpt_path=runs/debug/0", code=2).stderr, "no mapping")
    (run / "config.yaml").write_bytes(b"\xff\xfe")
    assert_one_line(command("fit", "--ckpt_path=runs/debug/0", code=2).stderr, "cannot be read as text")


def test_a_users_own_class_is_trusted_only_by_name(command, folder):
    """By an option or a config without more; from a run that has it by --trust, by naming it again, by --config."""
    words = ("--model.format=ownmodule.OwnFormat", "--trainer.callbacks+=ownmodule.Touch")
    command("fit", *SMALL, *words)
    assert traces(folder) == {"imported", "made", "set_up"}
    refused = command("test", "--ckpt_path=runs/debug/0", code=2).stderr
    assert_one_line(refused, ", which would be run: if you know what they are, add --trust ownmodule.")
    option = refused.split("add ")[-1].split()
    assert set(option[1].split(",")) == {"ownmodule.OwnFormat", "ownmodule.Touch"}
    command("test", "--ckpt_path=runs/debug/0", *option)
    command("test", "--ckpt_path=runs/debug/0", "--trust=ownmodule")
    command("test", "--ckpt_path=runs/debug/0", *words)
    command("test", "--config=runs/debug/0/config.yaml", "--ckpt_path=runs/debug/0")
    assert_one_line(command("test", "--ckpt_path=runs/debug/0", words[0], code=2).stderr, "names ownmodule.Touch")
    assert_one_line(command("test", "--ckpt_path=runs/debug/0", "--trust=os", code=2).stderr, "names ownmodule.")


def test_a_stopped_run_says_what_must_be_trusted(command, folder, monkeypatch):
    """The line that fit ends with is enough to go on."""
    from ttlightning.errors import Fault

    with monkeypatch.context() as patch:
        patch.setattr(
            "ttlightning.training.classifier.Classifier.on_train_epoch_end",
            lambda *_: (_ for _ in ()).throw(Fault("x")),
        )
        done = command("fit", *SMALL, "--model.format=ownmodule.OwnFormat", code=1)
    assert_one_line(done.stderr, "fit --ckpt_path runs/debug/0 --trust ownmodule.OwnFormat")
    command("fit", "--ckpt_path", "runs/debug/0", "--trust", "ownmodule.OwnFormat")
    assert (folder / "runs/debug/0/result.json").exists()


def test_a_run_goes_on_with_the_words_that_began_it(command, folder):
    """As a study does it: what the user names himself is trusted; the run directory alone is not."""
    words = ("fit", *SMALL, "--model.format=ownmodule.OwnFormat", "--run=a")
    command.killed(1, *words)
    refused = command("fit", "--run=a", code=2)
    assert_one_line(refused.stderr, "names ownmodule.OwnFormat, which would be run")
    command(*words)
    assert (command.folder / "a/result.json").exists()


def test_a_class_path_at_an_untyped_argument_stays_a_dictionary(command, folder):
    """No option here needs it: a class path at a place that takes anything stays what it is, a dict."""
    callback = own("Touch", anything=RUN | {"class_path": "ownmodule.call"})
    (folder / "mine.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": [callback]}}))
    command("fit", *SMALL, "--config=mine.yaml")
    assert traces(folder) == {"imported", "made", "set_up"}
    assert (folder / "set_up").read_text() in ("dict", "Namespace")
    refused = command("fit", *SMALL, "--model.optimizer=subprocess.Popen", code=2)
    assert_one_line(refused.stderr, "names subprocess.Popen")


def test_the_names_are_taken_out_of_the_command():
    assert take_trusted(["fit", "--trust", "a.B,c", "--x=1", "--trust=d"]) == (["fit", "--x=1"], ["a.B", "c", "d"])


@pytest.mark.parametrize("name", ["nowhere", "os.nothing", "jsonargparse", "a b", "", "-x"])
def test_names_that_cannot_be_trusted(command, name):
    assert_one_line(command("test", f"--trust={name}", "--ckpt_path=x", code=2).stderr, "--trust has")


def test_lightnings_hyper_parameters_import_nothing(command, folder, checkpoint):
    """GHSA-qqmf-gpg7-g8gw: an `_instantiator` in a checkpoint, which loads with weights_only."""
    content = torch.load(folder / "runs/debug/0/checkpoints/last.ckpt", weights_only=True)
    for key in ("hyper_parameters", "datamodule_hyper_parameters"):
        content[key] = {"_instantiator": "ownmodule.call", "_class_path": "ownmodule.Touch"}
        content[key.replace("parameters", "params_name")] = "kwargs"
    torch.save(content, folder / "foreign.ckpt")
    command("test", "--ckpt_path=foreign.ckpt")
    assert not traces(folder)
