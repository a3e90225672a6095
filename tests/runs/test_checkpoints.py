"""A checkpoint that is damaged or forged: the same content, or one line that refuses it; never another value."""

import copy
import io
import json
import shutil
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import assert_one_line

from ttlightning import UserError
from ttlightning.formats import EqualCoreTensorTrain
from ttlightning.runs.checkpoints import NETWORK_KEY, RUN_KEY, SUMS_KEY, read_checkpoint
from ttlightning.runs.seals import Damaged, check_seal, seal
from ttlightning.runs.trained_formats import read_format
from ttlightning.training.checkpoint_io import SafeCheckpointIO
from ttlightning.training.restoring import CheckpointConnector

SMALL = ("--config=debug.yaml", "--data.dataset=mnist", "--figures=false")
FLIPS = 300


def network(**sizes: int) -> dict:
    return {"format": "EqualCoreTensorTrain"} | {"sites": 4, "mode_size": 5, "rank": 2, "classes": 3} | sizes


def content() -> dict:
    """What fit writes, of a small network."""
    torch.manual_seed(0)
    state = {f"format.{name}": value.data for name, value in EqualCoreTensorTrain(4, 5, 3, rank=2).named_parameters()}
    return {
        "epoch": 1,
        "global_step": 60,
        "pytorch-lightning_version": "2.6.6",
        "state_dict": state,
        "loops": {"fit_loop": {}},
        "callbacks": {},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.randn(5, 2)}}, "param_groups": [{"lr": 0.01}]}],
        "lr_schedulers": [],
        "ttlightning_config": "model: {}\n",
        NETWORK_KEY: network(),
        RUN_KEY: {"rows": 3, "metrics": {"val/acc": 0.5}, "seconds": 2.0},
        SUMS_KEY: torch.zeros(1, 3, dtype=torch.float64),
    }


def same(one: object, two: object) -> bool:
    """Equal in type and to the bit."""
    if isinstance(one, dict) and isinstance(two, dict):
        return list(one) == list(two) and all(same(one[key], two[key]) for key in one)
    if isinstance(one, list) and isinstance(two, list):
        return len(one) == len(two) and all(map(same, one, two))
    if isinstance(one, torch.Tensor):
        return isinstance(two, torch.Tensor) and one.dtype == two.dtype and torch.equal(one, two)
    return type(one) is type(two) and one == two


def read_or_line(file):
    """The content, or the line that refuses it; any other exception fails the test."""
    try:
        return read_checkpoint(file)
    except UserError as refused:
        return str(refused)


@pytest.fixture
def file(tmp_path):
    SafeCheckpointIO().save_checkpoint(content(), tmp_path / "last.ckpt")
    return tmp_path / "last.ckpt"


def test_sealed_checkpoints_are_read_by_torch_and_zip(file):
    for found in (read_checkpoint(file), SafeCheckpointIO().load_checkpoint(file)):
        assert same(found, content())
    for options in ({}, {"mmap": True}):
        assert same(torch.load(file, weights_only=True, **options), content())
    with zipfile.ZipFile(file) as archive:
        assert archive.testzip() is None
        assert archive.comment.startswith(b"ttlightning sha256 ")


@pytest.mark.parametrize("sealed", [True, False], ids=["sealed", "of version 0.1"])
def test_no_flipped_byte_changes_a_value(file, sealed):
    """At random places, at every place of the last 200, and of the first; with the hash none is passed over."""
    whole = file.read_bytes()
    if not sealed:
        old = io.BytesIO()
        torch.save(content(), old)
        whole = old.getvalue()
    generator = np.random.default_rng(0)
    places = {*generator.integers(0, len(whole), FLIPS).tolist(), *range(len(whole) - 200, len(whole)), *range(100)}
    passed = 0
    for place in places:
        changed = bytearray(whole)
        changed[place] ^= 1 << int(generator.integers(8))
        file.write_bytes(changed)
        found = read_or_line(file)
        passed += not isinstance(found, str)
        assert "\n" not in found if isinstance(found, str) else same(found, content()), place
    assert passed == 0 if sealed else passed < len(places) / 2


def test_cut_and_lengthened_files(file):
    whole = file.read_bytes()
    for damaged in (whole[:-1], whole[: len(whole) // 2], whole[:22], b"", whole + b"\0", whole[1:], whole * 2):
        file.write_bytes(damaged)
        with pytest.raises(UserError, match="is not a whole checkpoint"):
            read_checkpoint(file)


def test_torchs_older_formats_are_not_read(file):
    """CVE-2025-32434: before torch 2.6 their reader unpickled whatever it met, weights_only or not."""
    torch.save(content(), file, _use_new_zipfile_serialization=False)
    with pytest.raises(UserError, match="it does not end like a checkpoint"):
        read_checkpoint(file)


def test_archives_that_grow_are_refused():
    for compression in (zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED):
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", compression) as archive:
            archive.writestr("data", bytes(10_000))
            if compression == zipfile.ZIP_STORED:  # a second name for the same bytes, as overlapping bombs have
                again = copy.copy(archive.filelist[0])
                again.filename = again.orig_filename = "more"
                archive.filelist.append(again)
        for content in (packed.getvalue(), seal(packed.getvalue())):
            with pytest.raises(Damaged, match=r"compressed|larger than the file"):
                check_seal(content)
    with pytest.raises(ValueError, match="not a zip"):
        seal(b"PK")


COUNTED = {"fit_loop": {"epoch_progress": {"total": {"ready": "x"}}}}
WRONG = (None, -5, 1.5, "x", [1], {"a": 1}, torch.zeros(2), True, 10**30, {"a": {"b": [1]}}, {1: torch.zeros(2)})
MAY_BE_ANY_DICT = ("loops", "callbacks")
COUNT = 10**30
VALID = {"epoch": COUNT, "global_step": COUNT, "optimizer_states": [1], "lr_schedulers": [1], "ttlightning_config": "x"}


@pytest.mark.parametrize("name", [name for name in content() if name != NETWORK_KEY])
def test_entries_of_another_kind_are_refused(tmp_path, name):
    """Each entry that is read, with values of every kind in its place."""
    for value in WRONG:
        is_fine = (isinstance(value, dict) and name in MAY_BE_ANY_DICT) or (name in VALID and same(value, VALID[name]))
        torch.save(content() | {name: value}, tmp_path / "x.ckpt")
        if is_fine:
            assert same(read_checkpoint(tmp_path / "x.ckpt")[name], value)
            continue
        with pytest.raises(UserError, match=f"its {name} is not ") as refused:
            read_checkpoint(tmp_path / "x.ckpt")
        assert "\n" not in str(refused.value)
    torch.save(content() | {"loops": COUNTED}, tmp_path / "x.ckpt")
    with pytest.raises(UserError, match="its loops is not "):
        read_checkpoint(tmp_path / "x.ckpt")


@pytest.mark.parametrize(
    "tensor", [torch.zeros(1).expand(10**12), torch.zeros(3, 3).to_sparse(), torch.zeros(3, device="meta")]
)
def test_tensors_without_storage_are_refused(tmp_path, tensor):
    torch.save(content() | {"state_dict": {"x": tensor}}, tmp_path / "x.ckpt")
    with pytest.raises(UserError, match=r"its state_dict is not|is not a whole"):
        read_checkpoint(tmp_path / "x.ckpt")


@pytest.mark.parametrize("value", [*WRONG[:8], network(sites=0), network(rank=10**18), network(mode_size=0),
                                   network(sites=-1), network(sites=2), network(rank=3), network(classes=10**9),
                                   network() | {"format": "HierarchicalTucker", "sites": 2**60},
                                   network() | {"format": "os"}, network() | {"format": ["x"]}])  # fmt: skip
def test_networks_that_are_not_those_of_the_weights_are_refused(tmp_path, value):
    """At once, whatever sizes they claim."""
    torch.save(content(), tmp_path / "x.ckpt")
    assert read_format(tmp_path / "x.ckpt").format.sites == 4
    torch.save(content() | {NETWORK_KEY: value}, tmp_path / "x.ckpt")
    with pytest.raises(UserError) as refused:
        read_format(tmp_path / "x.ckpt")
    assert "\n" not in str(refused.value)


@pytest.fixture
def finished(command):
    command.finished(*SMALL)
    return command, command.folder / "runs/debug/0/checkpoints/last.ckpt"


def test_every_command_notices_a_changed_weight(finished):
    """fit, validate, test, predict, certify, and verify of the run's certificate: one line each, nothing written."""
    command, file = finished
    whole = file.read_bytes()
    weights = read_checkpoint(file)["state_dict"]["features.linear.weight"]
    place = whole.index(weights.numpy().tobytes()) + 400
    file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    before = {path: path.stat().st_mtime_ns for path in command.folder.rglob("*")}
    for words in (
        ("fit", "--ckpt_path=runs/debug/0"),
        ("fit", *SMALL, "--ckpt_path=runs/debug/0", "--trainer.max_epochs=2"),
        ("validate", "--ckpt_path=runs/debug/0"),
        ("test", *SMALL, "--ckpt_path=runs/debug/0"),
        ("predict", "--ckpt_path=runs/debug/0"),
        ("certify", "runs/debug/0", "--sampled=8", "--output=c.json"),
    ):
        refused = command(*words, code=2)
        assert_one_line(refused.stderr, "last.ckpt is not a whole checkpoint (its SHA-256 is not the one")
    unchecked = command("verify", "runs/debug/0/rank/certificate.json", code=2).stdout
    assert unchecked.startswith("UNCHECKED runs/debug/0/rank/certificate.json: ")
    assert "last.ckpt is not a whole checkpoint (its SHA-256 is not the one" in unchecked
    assert {path: path.stat().st_mtime_ns for path in command.folder.rglob("*")} == before


def test_lightnings_own_checkpoints_are_sealed(command):
    command("fit", *SMALL, "--checkpoint.save_top_k=1")
    files = list((command.folder / "runs/debug/0/checkpoints").glob("*.ckpt"))
    assert len(files) == 2
    for file in files:
        changed = bytearray(file.read_bytes())
        changed[len(changed) // 2] ^= 1
        with pytest.raises(Damaged):
            check_seal(bytes(changed))


STATES = [
    ("pytorch-lightning_version", None),
    ("loops", {}),
    ("loops", {"fit_loop": {"epoch_progress": {}}}),
    ("optimizer_states", []),
    ("optimizer_states", [5]),
    ("optimizer_states", [{"state": {}, "param_groups": []}]),
    ("lr_schedulers", None),
    ("optimizer_states", "another exp_avg"),
    ("optimizer_states", "no betas"),
    ("callbacks", {"RankCheck": 5}),
    ("callbacks", {"RankCheck": {"seconds": [1], "latest": "{}", "lines": 0}}),
    ("callbacks", {"RankCheck": {"seconds": 1.0, "latest": "5", "lines": 0}}),
]


def test_forged_states_of_optimizers_and_callbacks_are_refused(finished):
    """Lightning and torch meet them deep inside: one line, and no run is begun."""
    command, file = finished
    whole = torch.load(file, weights_only=True)
    for name, value in STATES:
        forged = copy.deepcopy(whole)
        if value == "another exp_avg":
            forged[name][0]["state"][0]["exp_avg"] = torch.zeros(7)
        elif value == "no betas":
            del forged[name][0]["param_groups"][0]["betas"]
        elif value is None:
            del forged[name]
        else:
            forged[name] = value
        torch.save(forged, command.folder / "forged.ckpt")
        refused = command("fit", "--ckpt_path=forged.ckpt", "--trainer.max_epochs=2", "--experiment=new", code=2)
        assert_one_line(refused.stderr, "does not fit what is to go on from it, or was changed: ")
        assert json.loads((command.folder / "runs/debug/0/result.json").read_text())["epochs"] == 1
        assert not list(command.folder.glob("runs/new/*/result.json"))
        shutil.rmtree(command.folder / "runs/new", ignore_errors=True)


def test_optimizers_and_schedules_keep_their_kinds():
    """torch puts whatever a state says into groups and attributes, methods among them."""
    optimizer = torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=0.1)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=10)
    trainer = SimpleNamespace(optimizers=[optimizer], lr_scheduler_configs=[SimpleNamespace(scheduler=scheduler)])
    trainer.strategy = SimpleNamespace(load_optimizer_state_dict=lambda _: None)
    connector = CheckpointConnector(trainer)

    def restore(group, schedule):
        optimizer_state, schedule_state = copy.deepcopy((optimizer.state_dict(), scheduler.state_dict()))
        optimizer_state["param_groups"][0] |= group
        states = {"optimizer_states": [optimizer_state], "lr_schedulers": [schedule_state | schedule]}
        connector._loaded_checkpoint = states
        connector.restore_optimizers()
        connector.restore_lr_schedulers()

    restore({"lr": 0.5, "fused": True}, {"last_epoch": 3})
    schedules = torch.optim.lr_scheduler
    for other in (
        schedules.LambdaLR(optimizer, lambda step: 0.5),
        schedules.MultiStepLR(optimizer, [2, 5]),
        schedules.ReduceLROnPlateau(optimizer),
        schedules.CosineAnnealingWarmRestarts(optimizer, 3),
        schedules.SequentialLR(optimizer, [schedules.ExponentialLR(optimizer, 0.9)] * 2, [3]),
        schedules.CyclicLR(optimizer, 0.1, 0.2, cycle_momentum=False),
    ):
        trainer.lr_scheduler_configs[0].scheduler, own = other, copy.deepcopy(other.state_dict())
        connector._loaded_checkpoint = {"lr_schedulers": [own]}
        connector.restore_lr_schedulers()
    trainer.lr_scheduler_configs[0].scheduler = scheduler
    for name, value in {"lr": "x", "betas": 5, "max_momentum": None, "weight_decay": {}}.items():
        with pytest.raises(TypeError, match=name):
            restore({name: value}, {})
    wrong = {"step": 5, "total_steps": "x", "_last_lr": 5, "last_epoch": [1], "_schedule_phases": [{}]}
    for name, value in wrong.items():
        with pytest.raises(TypeError, match=name):
            restore({}, {name: value})
    with pytest.raises(TypeError, match="optimizer"):
        restore({}, {"optimizer": 5})


def test_only_checkpoints_are_removed(tmp_path):
    """A forged state of ModelCheckpoint names what it removes: with `..`, what lies anywhere."""
    (tmp_path / "run").mkdir()
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers" / "kept.txt").touch()
    (tmp_path / "old.ckpt").touch()
    (tmp_path / "link.ckpt").symlink_to(tmp_path / "papers")
    for name in ("run/../papers", "papers/kept.txt", "link.ckpt", "run"):
        with pytest.raises(UserError, match="is no checkpoint of this run"):
            SafeCheckpointIO().remove_checkpoint(str(tmp_path / name))
    SafeCheckpointIO().remove_checkpoint(str(tmp_path / "old.ckpt"))
    SafeCheckpointIO().remove_checkpoint(str(tmp_path / "old.ckpt"))
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["kept.txt", "link.ckpt", "papers", "run"]


def test_the_function_in_the_state_of_swalr_is_left_out(tmp_path):
    """Some versions of torch have it there; the constructor sets it again. Every other value stays."""
    own = {"swa_lrs": [0.1], "last_epoch": 3, "anneal_func": print}
    states = {
        "StochasticWeightAveraging": {"n_averaged": 2, "scheduler_state": own},
        "Other": {"anneal_func": 1},
        "x": 3,
    }
    written = content() | {"lr_schedulers": [own, {"last_epoch": 4}], "callbacks": states}
    SafeCheckpointIO().save_checkpoint(written, tmp_path / "last.ckpt")
    read = read_checkpoint(tmp_path / "last.ckpt")
    kept = {"swa_lrs": [0.1], "last_epoch": 3}
    assert read["lr_schedulers"] == [kept, {"last_epoch": 4}]
    average = {"n_averaged": 2, "scheduler_state": kept}
    assert read["callbacks"] == {"StochasticWeightAveraging": average, "Other": {"anneal_func": 1}, "x": 3}
    assert written["lr_schedulers"][0] is own
    assert own["anneal_func"] is print
