"""The command line as a user meets it: processes, files, exit codes."""

import csv
import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from conftest import assert_one_line, file_contents, read_wandb

from ttlightning.runs.checkpoints import NETWORK_KEY, weights_sha256

SMALL = ("--config", "debug.yaml", "--data.dataset", "mnist")


def test_fit_from_an_empty_folder(command):
    """The README's command, on real digits that need no network: everything a run leaves behind."""
    done = command.process("fit", "--config", "debug.yaml", WANDB_MODE="", OMP_NUM_THREADS="")
    assert "3,600 train, 400 validation, 1,000 test" in done.stdout
    assert re.search(r"^test +[0-9.]+% right.*on mnist5k", done.stdout, re.M)
    assert re.search(r"^ranks +odd/even sketch 16 of 16, stable rank .*TT-rank 4 to 4 in use", done.stdout, re.M)
    assert re.search(r"^run +runs/debug/0", done.stdout, re.M)
    assert "Traceback" not in done.stderr
    run = command.folder / "runs" / "debug" / "0"
    inside = {path.name for path in run.iterdir()}
    assert inside == {
        "config.yaml", "provenance.json", "metrics.csv", "result.json", "checkpoints", "wandb", "rank", "figures",
    }  # fmt: skip

    result = command.result("debug/0")
    assert (result["experiment"], result["dataset"], result["seed"], result["epochs"]) == ("debug", "mnist5k", 0, 1)
    assert result["metrics"]["test/acc"] > 0.4
    assert {"train/loss", "train/acc", "val/loss", "val/acc", "test/loss"} <= set(result["metrics"])
    assert result["rank"]["bound"] == 20
    assert result["parameters"] == 4 * 197 + 5 * 4 + 5 * 16 + 5 * 4 * 10

    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert weights_sha256(checkpoint["state_dict"]) == result["weights_sha256"]
    config = (run / "config.yaml").read_text()
    assert checkpoint["ttlightning_config"] == config

    rows = list(csv.DictReader((run / "metrics.csv").open()))
    for column in ("train/loss", "train/acc", "val/acc", "test/acc", "lr", "rank/bound", "rank/stable_rank"):
        assert any(row[column] for row in rows), column

    provenance = json.loads((run / "provenance.json").read_text())
    assert provenance["dataset"]["name"] == "mnist5k"
    assert len(provenance["dataset"]["sha256"]) == 64
    assert provenance["threads"] == 1  # so small a network is slower on more
    assert provenance["argv"][1:] == ["fit", "--config", "debug.yaml"]
    assert provenance["packages"]["torch"] == torch.__version__.split("+")[0]

    checks = [json.loads(line) for line in (run / "rank" / "checks.jsonl").read_text().splitlines()]
    assert [check["epoch"] for check in checks] == [0, 1]

    [log] = run.glob("wandb/offline-run-*/*.wandb")
    summary, records = read_wandb(log)
    text = json.dumps(summary)
    for key in ("train/acc", "val/acc", "test/acc", "rank/bound", "lr"):
        assert key in text
    assert str(result["metrics"]["test/acc"])[:6] in text
    assert set(yaml.safe_load(config)) <= set(summary["config"])
    assert "EqualCoreTensorTrain" in text
    assert result["rank"]["statement"] in text
    assert result["weights_sha256"] in text
    assert '"debug-0"' in json.dumps(records)


def test_a_second_run_never_touches_the_first(command):
    command.finished(*SMALL)
    first = file_contents(command.folder / "runs/debug/0")
    command("fit", *SMALL)
    assert file_contents(command.folder / "runs/debug/0") == first
    assert command.result("debug/1")["weights_sha256"] == command.result("debug/0")["weights_sha256"]


def test_configs_compose_and_overrides_come_last(command):
    (command.folder / "more.yaml").write_text("model: {format: {class_path: TensorTrain, init_args: {rank: 2}}}")
    command("fit", *SMALL, "--config", "more.yaml", "--data.patch_size=7", "--data.order=snake")
    config = yaml.safe_load((command.folder / "runs/debug+more/0/config.yaml").read_text())
    assert config["model"]["format"]["class_path"].endswith("TensorTrain")
    assert (config["data"]["patch_size"], config["data"]["order"], config["data"]["dataset"]) == (7, "snake", "mnist")
    assert command.result("debug+more/0")["rank"]["sites"] == 16


def test_validate_test_and_predict_from_a_run_directory_alone(command):
    """The configuration comes from the checkpoint."""
    command.finished(*SMALL, "--checkpoint.save_top_k=1")
    metrics = command.result("debug/0")["metrics"]
    file = next((command.folder / "runs/debug/0/checkpoints").glob("epoch*.ckpt"))
    for verb, key, path in (("test", "test/acc", "runs/debug/0"), ("validate", "val/acc", file)):
        [found] = re.findall(rf"{key}\D+([0-9.]+)", command(verb, f"--ckpt_path={path}").stdout)
        assert float(found) == pytest.approx(metrics[key])
    command("predict", "--ckpt_path", "runs/debug/0", "--output", "p.csv")
    rows = list(csv.DictReader((command.folder / "p.csv").open()))
    assert len(rows) == 50
    accuracy = sum(row["label"] == row["predicted"] for row in rows) / len(rows)
    assert accuracy == pytest.approx(metrics["test/acc"])
    assert all(abs(sum(float(row[f"p{c}"]) for c in range(10)) - 1) < 1e-4 for row in rows)
    before = (command.folder / "p.csv").read_bytes()
    refused = command("predict", "--ckpt_path", "runs/debug/0", "--output", "p.csv", code=2)
    assert "p.csv exists" in refused.stderr
    assert (command.folder / "p.csv").read_bytes() == before
    assert [p.name for p in (command.folder / "runs/debug").iterdir()] == ["0"]


def test_without_the_data_and_without_network_it_trains_on_mnist5k_and_says_so(command, tmp_path):
    """The proxy's address leads nowhere: torchvision's download fails at once, on any machine."""
    nowhere = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
    absent = str(tmp_path / "absent")
    quick = ("--trainer.max_epochs=1", "--trainer.limit_train_batches=5")
    done = command.process("fit", "--config", "eq.yaml", *quick, TTLIGHTNING_DATA=absent, **nowhere)
    assert done.stderr.count("using mnist5k instead, and recording dataset: mnist5k") == 1
    assert command.result("eq/0")["dataset"] == "mnist5k"
    assert json.loads((command.folder / "runs/eq/0/provenance.json").read_text())["dataset"]["name"] == "mnist5k"
    command.environment |= {"TTLIGHTNING_DATA": absent} | nowhere
    refused = command("fit", "--config", "eq.yaml", "--data.offline_fallback=null", code=2)
    assert_one_line(refused.stderr, "cannot be downloaded")
    assert [p.name for p in (command.folder / "runs/eq").iterdir()] == ["0"]


CYCLE = ("--model.scheduler=OneCycleLR", "--model.scheduler.max_lr=0.1")
EPOCHS = ("--trainer.max_epochs=2", "--model.scheduler_interval=epoch")
TWO = ("--trainer.devices=2", "--trainer.accelerator=cpu")
EMA = "--trainer.callbacks+=EMAWeightAveraging"

MISTAKES = [
    (["fit", "--config", "equal.yaml"], "'equal.yaml' is not in"),
    (["fit", *SMALL, "--data.patchsize=7"], "did you mean data.patch_size"),
    (["fit", *SMALL, "--data.patch_size=5"], "patch_size 5 with stride 5"),
    (["fit", *SMALL, "--data.batch_size=large"], "large"),
    (["fit", *SMALL, "--data.batch_size=0"], "data.batch_size is 0"),
    (["fit", *SMALL, "--data.dataset=minst"], "minst"),
    (["fit", *SMALL, "--data.dataset=image_folder"], "train; name with --data.root the folder that has train/<class>/"),
    (["fit", *SMALL, "--data.dataset=circles"], "patch sizes that fit: 1, 2"),
    (["fit", *SMALL, "--data.repeat=0"], "repeat is 0, it must be at least 1"),
    (["fit", *SMALL, "--data.validation=1.5"], "data.validation is 1.5"),
    (["fit", *SMALL, "--model.format=TensorTran"], "EqualCoreTensorTrain, HierarchicalTucker"),
    (["fit", *SMALL, "--model.format=HierarchicalTucker", "--data.patch_size=4"], "sites is 49, it must be a power"),
    (["fit", *SMALL, "--model.format.rank=0"], "rank is 0, it must be at least 1"),
    (["fit", *SMALL, "--model.features.mode_size=1"], "mode_size is 1, it must be at least 2"),
    (["fit", *SMALL, "--model.patch_dropout=1"], "patch_dropout is 1"),
    (["fit", *SMALL, "--seed_everything=true"], "seed_everything"),
    (["fit", *SMALL, "--experiment=../elsewhere"], "experiment is '../elsewhere'"),
    (["fit", *SMALL, "--rank_check.sketch_size=0"], "rank_check.sketch_size is 0"),
    (["fit", *SMALL, "--trainer.accelerator=gpu", "--trainer.devices=999"], "gpu"),
    (["fit", *SMALL, "--data.steps_per_execution=0"], "data.steps_per_execution is 0"),
    (
        ["fit", *SMALL, "--data.augmentation.shift=-1"],
        "data.augmentation.shift is -1, it must be finite and at least 0",
    ),
    (["fit", "--config=toy/moons.yaml", "--data.augmentation.shift=1"], "moons has points: leave it out"),
    (["fit", *SMALL, EMA, EMA], "more than one stateful callback of type `EMAWeightAveraging`"),
    (["fit", *SMALL, "--model.optimizer.lr=-1"], "model.optimizer cannot be made: Invalid learning rate: -1"),
    (["fit", *SMALL, *CYCLE, "--model.scheduler.pct_start=7"], "model.scheduler cannot be made: Expected float"),
    (["fit", *SMALL, *CYCLE, "--model.scheduler.total_steps=2"], "has total_steps 2 and the run makes 3 steps"),
    (["fit", *SMALL, *CYCLE, *EPOCHS, "--model.scheduler.total_steps=1"], "total_steps 1 and the run makes 2 epochs"),
    (["fit", *SMALL, *TWO, "--trainer.strategy=ddp_spawn"], "starts processes by spawn"),
    (["fit", *SMALL, *TWO, "--trainer.strategy=ddp_fork"], "starts processes by fork"),
    (["fit", *SMALL, "--checkpoint.monitor=val/acc"], "add --checkpoint.save_top_k 1"),
    (["fit", *SMALL, "--checkpoint.every_n_train_steps=4"], "add --checkpoint.save_top_k 1"),
    (["fit", *SMALL, "--last_checkpoint.every_n_steps=0"], "last_checkpoint.every_n_steps is 0"),
    (["fit", *SMALL, f"--wandb.tags=[{'x' * 65}]"], "of 65 characters, W&B takes 1 to 64"),
    (["fit", *SMALL, "--ckpt_path=last"], "there is no run in runs/debug to go on with"),
    (["fit", "--config=best/eq.yaml", "--ckpt_path=last"], "there is no run in runs/best_eq to go on with"),
    (["fit", *SMALL, "--ckpt_path=nowhere.ckpt"], "no checkpoint at nowhere.ckpt"),
    (["test", *SMALL], "test needs trained weights"),
    (["validate", *SMALL, "--data.validation=0"], "data.validation is 0"),
    (["fit", *SMALL, "--trainer.callbacks+=X", "--trainer.callbacks.foo=3"], 'Parser key "trainer.callbacks"'),
    (["fit", *SMALL, "--data={a: &a [*a]}"], "cannot be read together (RecursionError: "),
    (
        ["fit", *SMALL, "--model.format.dict_kwargs.x=3"],
        "TensorTrain.__init__() got an unexpected keyword argument 'x'",
    ),
    (["fly"], "the first word is 'fly', it must be a verb: fit, "),
    (["ceritfy"], "completion; did you mean certify?"),
    ([], "the first word is '', it must be a verb"),
]


@pytest.mark.parametrize(("words", "message"), MISTAKES, ids=[" ".join(words[-1:]) or "none" for words, _ in MISTAKES])
def test_a_mistake_is_one_line_and_leaves_nothing_behind(command, words, message):
    assert_one_line(command(*words, code=2).stderr, message)
    assert list(command.folder.iterdir()) == []


def test_more_devices_than_the_batch_divides_into(command):
    done = command.process("fit", *SMALL, *TWO, "--trainer.strategy=ddp", "--data.batch_size=63", code=2)
    assert "data.batch_size is 63, the global batch; it must be a multiple of the 2 devices" in done.stderr
    assert not (command.folder / "runs").exists()


class Payload:
    """What a hostile checkpoint would run on being unpickled."""

    def __reduce__(self):
        return Path.touch, (Path("executed"),)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("truncated", "is not a whole checkpoint"),
        ("pickled", "holds pickled objects"),
        ("other", "is a checkpoint of another network: features.linear.weight is (9, 196) there and (4, 196) here"),
        ("tensor", "it has no state_dict"),
    ],
)
def test_checkpoints_that_cannot_be_used(command, damage, message):
    command.finished(*SMALL, *(("--model.features.mode_size=10",) if damage == "other" else ()))
    file = command.folder / "runs/debug/0/checkpoints/last.ckpt"
    if damage == "truncated":
        file.write_bytes(file.read_bytes()[:2000])
    elif damage == "pickled":
        torch.save({"state_dict": {}, "payload": Payload()}, file)
    elif damage == "tensor":
        torch.save(torch.zeros(3), file)
    (command.folder / "runs/debug/0/result.json").unlink()  # as if it had been stopped
    for verb in ("test", "fit"):
        done = command(verb, *SMALL, "--ckpt_path", "runs/debug/0", code=2)
        assert message in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
    assert not (command.folder / "executed").exists()
    assert [p.name for p in (command.folder / "runs/debug").iterdir()] == ["0"]


UNREACHABLE = {"WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_INIT_TIMEOUT": "3"}


@pytest.mark.parametrize(
    ("environment", "reason"), [({}, " (No API key configured"), (UNREACHABLE, "")], ids=["no account", "unreachable"]
)
def test_wandb_that_does_not_answer(command, environment, reason):
    """Nothing is left behind; offline, the run would have worked."""
    home = {"HOME": str(command.folder), "NETRC": str(command.folder / "netrc")}
    done = command.process("fit", *SMALL, WANDB_MODE="online", code=2, **environment, **home)
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ttlightning: ")
    assert f"W&B is online and does not answer{reason}" in last
    assert "use --wandb.mode offline" in last
    assert list((command.folder / "runs/debug").iterdir()) == []


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("fit --config=eq.yaml --data.virtual_devices=4", "virtual_devices is called microbatches"),
        ("fit --config=eq.yaml --data.steps_per_call=4", "steps_per_call is called steps_per_execution"),
        ("fit --config=old.yaml", "modes is called mode_size"),
        ("rank --modes=5", "modes is called mode_size"),
        ("rank --tt-rank 5", "tt-rank is called rank"),
        ("certify --order=5", "order is called sites"),
        ("compare --mixed-data runs/eq", "mixed-data is called mixed_data"),
        ("rerun --check-only runs/eq/0", "check-only is called check_only"),
    ],
)
def test_names_of_version_0_1(command, words, name):
    (command.folder / "old.yaml").write_text("model: {features: {modes: 5}}\n")
    errors = command(*words.split(), code=2).stderr
    assert_one_line(errors, f"; since version 0.2 {name}")
    assert errors.count("since version") == 1


def test_checkpoints_of_version_0_1(command):
    content = {"state_dict": {}, NETWORK_KEY: {"format": "TensorTrain", "modes": 5}}
    torch.save(content, command.folder / "old.ckpt")
    assert_one_line(command("certify", "old.ckpt", code=2).stderr, "old.ckpt was written by version 0.1")
