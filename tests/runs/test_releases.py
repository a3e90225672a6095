"""Released weights: found by name, read as a checkpoint, refused in one line where a byte is another."""

import json
import re
import runpy
import shutil
from pathlib import Path

import pytest
import torch
from conftest import assert_one_line, file_contents

from ttlightning import UserError, load
from ttlightning.runs.checkpoints import read_checkpoint, weights_sha256
from ttlightning.runs.releases import FOLDER, INDEX, LARGEST, find_release, released_names, write_release
from ttlightning.runs.run import Run
from ttlightning.runs.safetensors import read_safetensors, write_safetensors

ROOT = Path(__file__).resolve().parents[2]
QUIET = ("--config", "debug.yaml", "--trainer.enable_progress_bar", "false", "--figures", "false")


@pytest.fixture
def released(command, tmp_path, monkeypatch):
    """The run, and the folder where it is released as ``best/small``."""
    run, folder = Run(command.finished(*QUIET)), tmp_path / "weights"
    write_release(folder, "best/small", run.checkpoint, "# a card\n")
    monkeypatch.setenv("TTLIGHTNING_WEIGHTS", str(folder))
    return run, folder


def test_a_released_network_is_that_of_the_run_for_every_command(command, released):
    run, folder = released
    images = torch.randint(0, 256, (5, 28, 28), dtype=torch.uint8)
    assert torch.equal(load("best/small").predict(images), run.network().predict(images))
    assert (folder / "best/small.md").read_text() == "# a card\n"
    before = file_contents(folder)
    tested = [
        next(line for line in command("test", "--ckpt_path", name).stdout.splitlines() if "test/acc" in line)
        for name in ("best/small", str(run))
    ]
    assert tested[0] == tested[1]
    assert file_contents(folder) == before


@pytest.mark.slow
def test_what_commands_make_of_released_weights_is_written_elsewhere(command, released):
    _, folder = released
    before = file_contents(folder)
    command("predict", "--ckpt_path", "best/small")
    command("certify", "best/small", "--sampled", "4")
    command("certify", "best/small", "--sampled", "4", "--output", "own.json")
    assert {"predictions.csv", "own.json"} <= {file.name for file in command.folder.iterdir()}
    assert len(list(command.folder.glob("certificate*.json"))) == 1
    assert command("verify", "own.json").returncode == 0
    fine = command("fit", "--ckpt_path", "best/small", "--trainer.enable_progress_bar", "false", "--figures", "false")
    assert "begins      with the weights of" in fine.stdout
    assert "compressed  small" in command("compress", "best/small", "--rank", "2", "--output", "small").stdout
    assert file_contents(folder) == before


def test_a_wrong_hash_an_unknown_name_and_a_damaged_file_are_one_line(command, released):
    _, folder = released
    file = folder / "best/small.safetensors"
    done = command("test", "--ckpt_path", "best/none", code=2)
    assert_one_line(done.stderr, "no checkpoint at best/none; name a .ckpt file or a run directory such as runs/eq/0")
    assert re.search(r"released weights: .*best/small", done.stderr)
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    done = command("test", "--ckpt_path", "best/small", code=2)
    assert_one_line(done.stderr, "small.safetensors is not what was released as best/small: its SHA-256 is")
    done = command("test", "--ckpt_path", str(file), code=2)
    assert_one_line(done.stderr, "small.safetensors is damaged: its weights are not those that its header names")
    file.unlink()
    assert_one_line(command("test", "--ckpt_path", "best/small", code=2).stderr, "cannot be read")
    (folder / INDEX).write_text("[1")
    assert_one_line(command("test", "--ckpt_path", "best/small", code=2).stderr, "index.json cannot be read")


def test_a_file_at_the_name_comes_first(command, released, monkeypatch):
    run, _ = released
    monkeypatch.chdir(command.folder)
    shutil.copytree(run.path, "best/small")
    assert load("best/small").format.rank == run.network().format.rank
    shutil.rmtree("best/small/checkpoints")
    with pytest.raises(UserError, match=r"no checkpoint at best/small/checkpoints/last.ckpt"):
        load("best/small")


def test_a_name_is_released_once_and_a_large_network_never(released, tmp_path):
    run, folder = released
    before = file_contents(folder)
    with pytest.raises(UserError, match="exists and is left as it is"):
        write_release(folder, "best/small", run.checkpoint, "another card")
    assert file_contents(folder) == before
    content = read_checkpoint(run.checkpoint)
    content["state_dict"]["more"] = torch.zeros(LARGEST // 4 + 1)
    torch.save(content, tmp_path / "large.ckpt")
    with pytest.raises(UserError, match="a released file has at most 1,000,000"):
        write_release(folder, "large", tmp_path / "large.ckpt", "")
    assert file_contents(folder) == before


def test_a_release_names_no_place_of_the_machine(released):
    run, folder = released
    text = (folder / "best/small.safetensors").read_bytes()
    assert str(run.path.parent).encode() not in text
    assert b"root: null" in text


def test_the_script_releases_runs_with_a_card(command, tmp_path, monkeypatch):
    run, folder = command.finished(*QUIET), tmp_path / "made"
    monkeypatch.setattr("sys.argv", ["make_weights.py", f"best/small={run}", "--output", str(folder)])
    runpy.run_path(str(ROOT / "scripts" / "make_weights.py"), run_name="__main__")
    result = json.loads((run / "result.json").read_text())
    index = json.loads((folder / INDEX).read_text())
    assert index["best/small"]["weights_sha256"] == result["weights_sha256"]
    card = (folder / "best/small.md").read_text()
    assert f"| test | {100 * result['metrics']['test/acc']:.2f} |" in card
    assert all(text in card for text in (result["weights_sha256"], "mnist5k", "EqualCoreTensorTrain", "seed 0"))
    assert str(run) not in card


def test_the_releases_of_the_package_are_whole_small_and_described():
    for name in released_names():
        file = find_release(name)
        entry = json.loads((FOLDER / INDEX).read_text())[name]
        assert weights_sha256(load(name).state_dict()) == entry["weights_sha256"]
        assert file.stat().st_size == entry["bytes"] < LARGEST
        card = file.with_suffix(".md").read_text()
        assert entry["weights_sha256"] in card
        assert all(f"**{part}" in card for part in ("Data", "Recipe", "Accuracy", "Limits", "Licence"))


def test_safetensors_are_read_as_written(tmp_path):
    state = {
        "a": torch.randn(2, 3), "b": torch.randn(4, dtype=torch.float64), "empty": torch.zeros(0, 3),
        "flag": torch.tensor([True, False]), "half": torch.randn(3).bfloat16(), "one": torch.tensor(7),
    }  # fmt: skip
    write_safetensors(tmp_path / "x.safetensors", state, {"text": "ä"})
    read, metadata = read_safetensors(tmp_path / "x.safetensors")
    assert metadata == {"text": "ä"}
    assert weights_sha256(read) == weights_sha256(state)


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff" * 20, b"\x02" + bytes(7) + b"[]", b"\x02" + bytes(7) + b"{}x", b"\x05" + bytes(7) + b'{"a"', b"\x09"],
)
def test_what_is_no_safetensors_file_is_one_line(tmp_path, content):
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(UserError, match="is no whole safetensors file"):
        read_checkpoint(tmp_path / "x.safetensors")


@pytest.mark.parametrize(("shape", "offsets"), [([-1, -2], [0, 8]), ([10**9], [0, 8]), ([2], [4, 12]), ([2.0], [0, 8])])
def test_a_forged_header_is_refused(tmp_path, shape, offsets):
    header = json.dumps({"a": {"dtype": "F32", "shape": shape, "data_offsets": offsets}}).encode()
    (tmp_path / "x.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(12))
    with pytest.raises(UserError, match="is no whole safetensors file"):
        read_safetensors(tmp_path / "x.safetensors")
