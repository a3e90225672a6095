"""``compress``: the table, the run that it writes, and every command that takes it."""

import json

import pytest
import torch
from conftest import assert_one_line, file_contents

from ttlightning import EqualCoreTensorTrain, TensorTrain, load
from ttlightning.runs.checkpoints import read_checkpoint, weights_sha256
from ttlightning.runs.run import Run

QUIET = ("--config", "debug.yaml", "--trainer.enable_progress_bar", "false", "--figures", "false")
SPLIT = ("--data.validation", "0.2")
DIFFERENT = (*QUIET, *SPLIT, "--model.format", "TensorTrain", "--model.format.rank", "4")
EQUAL = (*QUIET, *SPLIT, "--model.format", "EqualCoreTensorTrain", "--model.format.rank", "4")


def table_of(output):
    """rank: the other numbers of its line."""
    rows = [line.replace("│", " ").split() for line in output.splitlines() if line.startswith("│")]
    return {int(row[0]): [float(cell.replace(",", "")) for cell in row[1:]] for row in rows}


def test_a_compressed_run_is_taken_by_every_command(command):
    source = command.finished(*DIFFERENT)
    before = file_contents(source)
    done = command("compress", "runs/debug/0", "--rank", "2")
    assert file_contents(source) == before
    assert "compressed  runs/debug-rank2/0 (TensorTrain, TT-rank 2, data metric" in done.stdout
    table = table_of(done.stdout)
    assert list(table) == [1, 2, 4]
    assert all(table[rank][column] > table[4][column] for rank in (1, 2) for column in (3, 4))
    assert max(table[4][3:]) < 1e-5  # float32
    run = Run.open(command.folder / "runs/debug-rank2/0", finished=True)
    assert run.provenance["compressed"]["weights_sha256"] == command.result("debug/0")["weights_sha256"]
    assert run.provenance["compressed"]["relative_error"] == pytest.approx(table[2][4], rel=0.05)
    network = run.network()
    assert (type(network.format), network.format.rank) == (TensorTrain, 2)
    assert run.result["weights_sha256"] == weights_sha256(network.state_dict())
    assert run.result["metrics"] == {"val/acc": pytest.approx(table[2][2], abs=1e-4)}
    assert "val/acc" in command("validate", "--ckpt_path", "runs/debug-rank2/0").stdout
    command("predict", "--ckpt_path", "runs/debug-rank2/0")
    certificate = command("certify", "runs/debug-rank2/0", "--output", "c.json", "--sampled", "4")
    assert "certificate  c.json" in certificate.stdout
    assert command("verify", "c.json").returncode == 0
    compared = command("compare", "runs/debug/0", "runs/debug-rank2/0").stdout
    assert "debug-rank2" in compared
    refused = command("rerun", "runs/debug-rank2/0", code=2)
    assert_one_line(refused.stderr, "runs/debug-rank2/0 was compressed and not trained: compress its source again")
    again = command("compress", "runs/debug/0", "--rank", "2", "--output", "mine", "--table", "false")
    assert list(table_of(again.stdout)) == [2]
    assert Run.open(command.folder / "mine").result["weights_sha256"] == run.result["weights_sha256"]


def test_equal_cores_stay_equal_and_train_on(command):
    command.finished(*EQUAL)
    command("compress", "runs/debug/0", "--rank", "2", "--metric", "plain")
    run = Run.open(command.folder / "runs/debug-rank2/0", finished=True)
    assert type(run.network().format) is EqualCoreTensorTrain
    command("compress", "runs/debug/0", "--rank", "4", "--to", "different", "--output", "other", "--test", "true")
    other = Run.open(command.folder / "other")
    assert type(other.network().format) is TensorTrain
    assert list(other.result["metrics"]) == ["test/acc"]
    images = torch.randint(0, 256, (5, 28, 28), dtype=torch.uint8)
    before, after = load(command.folder / "runs/debug/0"), other.network()
    torch.testing.assert_close(after.score_images(images), before.score_images(images), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_a_compressed_network_trains_on_in_a_new_run(command):
    command.finished(*EQUAL)
    command("compress", "runs/debug/0", "--rank", "2", "--table", "false")
    run = Run.open(command.folder / "runs/debug-rank2/0", finished=True)
    words = ("--trainer.enable_progress_bar", "false", "--figures", "false")
    fine = command("fit", "--ckpt_path", "runs/debug-rank2/0", "--trainer.max_epochs", "1", *words)
    assert "begins      with the weights of runs/debug-rank2/0/checkpoints/last.ckpt" in fine.stdout
    trained = Run.open(command.folder / "runs/debug-rank2/1", finished=True)
    assert trained.result["epochs"] == 1
    assert trained.network().format.rank == 2
    assert trained.result["weights_sha256"] != run.result["weights_sha256"]
    command("fit", "--ckpt_path", "runs/debug-rank2/0", *words)  # by the recipe as it is: a new run, too
    assert (command.folder / "runs/debug-rank2/2/result.json").is_file()
    assert_one_line(command("fit", "--run", "runs/debug-rank2/0", code=2).stderr, "is finished")


@pytest.mark.slow
def test_a_killed_fine_tuning_goes_on_to_the_same_bits(command):
    command.finished(*EQUAL)
    command("compress", "runs/debug/0", "--rank", "2")
    words = ("fit", "--ckpt_path", "runs/debug-rank2/0", "--trainer.max_epochs", "2", "--trainer.enable_progress_bar",
             "false", "--figures", "false", "--run")  # fmt: skip
    command(*words, "whole")
    steps = read_checkpoint(command.folder / "whole/checkpoints/last.ckpt")["global_step"]
    command.killed(steps // 2 + 1, *words, "part")
    command("fit", "--ckpt_path", "part")
    shas = [
        json.loads((command.folder / run / "result.json").read_text())["weights_sha256"] for run in ("whole", "part")
    ]
    assert shas[0] == shas[1]


def test_mistakes_are_one_line_and_write_nothing(command):
    command.finished(*DIFFERENT)
    command.finished(*QUIET, "--model.format", "CanonicalPolyadic", "--model.format.rank", "3")
    command.finished(*QUIET, "--model.format", "LSTM", "--model.format.width", "4")
    for part in ("train", "test"):
        (command.folder / f"{part}.txt").write_text("one\taba\ntwo\tbbbab\n" * 8)
    text = ("--data.root", ".", "--data.batch_size", "8", "--data.validation", "0", "--trainer.max_epochs", "1")
    command("fit", "--config", "sequences/text.yaml", *text, "--figures", "false")
    before = file_contents(command.folder)
    for words, message in (
        (("runs/debug/2", "--rank", "2"), "holds a LSTM, which has no weight tensor"),
        (("runs/text/0", "--rank", "2"), "for sequences of different lengths"),
        (("runs/debug/0", "--rank", "5"), "rank is 5, it must be at most 4"),
        (("runs/debug/0", "--rank", "0"), "rank is 0, it must be at least 1"),
        (("runs/debug/0", "--rank", "2", "--to", "equal"), "no rounding makes equal: use --to different"),
        (("runs/debug/0", "--rank", "2", "--metric", "norm"), "norm"),
        (("runs/debug/0", "--rank", "2", "--output", "runs/debug/0"), "holds a run and is left as it is"),
        (("runs/debug/0", "--rank", "2", "--output", "runs"), "holds files but no run"),
        (("runs/debug/7", "--rank", "2"), "no checkpoint at runs/debug/7"),
        (("runs/debug/1", "--rank", "2"), "CanonicalPolyadic cannot be rounded"),
        (("runs/debug/0",), "rank"),
    ):
        assert_one_line(command("compress", *words, code=2).stderr, message)
    assert file_contents(command.folder) == before
