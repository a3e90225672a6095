"""The verbs without a Trainer, as a user types them."""

import json

import pytest
import torch
from conftest import assert_one_line

from ttlightning.commands import WITH_TRAINER, WITHOUT_TRAINER
from ttlightning.rank.finite_field import PRIMES, PrimeField, rank_modulo
from ttlightning.rank.full_matricization import full_matricizations
from ttlightning.runs.trained_formats import read_format

SMALL = ("--config", "debug.yaml", "--trainer.limit_train_batches=3", "--trainer.limit_val_batches=1",
         "--data.dataset=mnist5k")  # fmt: skip


def test_rank_prints_three_bounds(command):
    done = command("rank", "--mode_size", "5", "--rank", "3", "--sites", "8")
    assert [word for word in done.stdout.replace("│", " ").split() if word.isdigit()][:6] == [
        "5", "3", "8", "81", "16", "375",
    ]  # fmt: skip


def test_rank_measures_draws_and_goes_on_where_it_was(command):
    words = ("rank", "--mode_size=2:4", "--rank=2,3", "--measure", "--output=t.csv")
    first = command(*words, "--sites=4")
    assert "already" not in first.stdout
    lines = (command.folder / "t.csv").read_text().splitlines()
    assert len(lines) == 7
    for line in lines[1:]:
        values = line.split(",")
        assert values[5] == values[6]  # generic and measured
    second = command(*words, "--sites=4,5", "--figure=f.png")
    assert "6 rows are in t.csv already" in second.stdout
    assert (command.folder / "t.csv").read_text().splitlines()[:7] == lines
    assert len((command.folder / "t.csv").read_text().splitlines()) == 13
    assert (command.folder / "f.png").read_bytes()[:4] == b"\x89PNG"


def test_files_of_others_are_left_alone(command):
    (command.folder / "mine.csv").write_text("a,b\n1,2\n")
    assert "is left as it is" in command("rank", "--output=mine.csv", code=2).stderr
    assert (command.folder / "mine.csv").read_text() == "a,b\n1,2\n"
    (command.folder / "mine.png").write_text("x")
    assert "is left as it is" in command("rank", "--figure=mine.png", code=2).stderr


def test_a_generic_certificate_from_making_to_forging(command):
    done = command("certify", "--mode_size", "5", "--rank", "3", "--sites", "8")
    assert "CP-rank at least 375" in done.stdout
    file = command.folder / "generic-n5-r3-d8.json"
    text = file.read_text()
    assert "is left as it is" in command("certify", "--mode_size=5", "--rank=3", "--sites=8", code=2).stderr
    assert command("verify", str(file)).stdout.startswith("holds")
    (command.folder / "forged.json").write_text(text.replace("375", "376"))
    both = command("verify", str(file), "forged.json", code=1)
    assert [line.split()[0] for line in both.stdout.splitlines()] == ["holds", "REJECTED"]
    (command.folder / "other.json").write_text("{}")
    words = ("verify", "absent.json", "forged.json", "other.json", str(file))
    lines = command(*words, code=2).stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["UNCHECKED", "REJECTED", "UNCHECKED", "holds"]
    assert "cannot be read: No such file" in lines[0]
    assert "not a rank certificate" in lines[2]


def test_a_run_is_certified(command):
    """fit leaves a certificate that holds; certify makes the same again; another network's is rejected."""
    command.finished(*SMALL)
    command.finished(*SMALL, "--seed_everything=1")
    run = command.folder / "runs" / "debug" / "0"
    result = json.loads((run / "result.json").read_text())
    made = json.loads((run / "rank" / "certificate.json").read_text())
    assert made["cp_rank_at_least"] == result["rank"]["certified"]
    assert made["weights_sha256"] == result["weights_sha256"]
    field = PrimeField(PRIMES[0])
    cores = [field.residues(core.transpose(0, 1)) for core in read_format(run / "checkpoints/last.ckpt").format.cores()]
    literal = [rank_modulo(matrix, PRIMES[0]) for matrix in full_matricizations(cores, PRIMES[0])]
    assert literal == made["cp_rank_at_least"] == [20] * 10  # trained weights, the whole matricization
    assert command("verify", "runs/debug/0/rank/certificate.json").stdout.startswith("holds")
    command("certify", "runs/debug/0", "--output=again.json")
    again = json.loads((command.folder / "again.json").read_text())
    assert again["cp_rank_at_least"] == made["cp_rank_at_least"]
    assert command("verify", "again.json").stdout.startswith("holds")
    assert "other weights" in command("verify", "again.json", "--checkpoint=runs/debug/1", code=1).stdout
    command("certify", "runs/debug/0", "--sampled=4")
    assert "CP-rank at least 4" in command("verify", "runs/debug/0/rank/certificate-sampled-4.json").stdout
    (run / "checkpoints" / "last.ckpt").rename(command.folder / "moved.ckpt")
    assert "name it with --checkpoint" in command("verify", "again.json", code=2).stdout
    assert command("verify", "again.json", "--checkpoint=moved.ckpt").stdout.startswith("holds")


@pytest.mark.parametrize(
    ("format", "certified", "said"),
    [
        ("CanonicalPolyadic", 4, "it cannot exceed 4, the units of this shallow network"),
        ("SharedHierarchicalTucker", 16, "seen in 16 x 16 scores, which show no more"),
    ],
)
def test_a_run_of_another_format_is_certified(command, format, certified, said):
    """From scores: fit leaves a certificate, certify makes larger ones, verify holds them against the checkpoint."""
    done = command("fit", *SMALL, f"--model.format={format}", "--model.format.rank=4")
    assert f"CP-rank of every class tensor >= {certified}; {said}" in " ".join(done.stdout.split())
    run = command.folder / "runs" / "debug" / "0"
    result = json.loads((run / "result.json").read_text())
    made = json.loads((run / "rank" / "certificate.json").read_text())
    assert made["kind"] == "sampled"
    assert made["statement"] == result["rank"]["statement"]
    assert made["cp_rank_at_least"] == result["rank"]["certified"] == [certified] * 10
    assert made["weights_sha256"] == result["weights_sha256"]
    assert command("verify", "runs/debug/0/rank/certificate.json").stdout.startswith("holds")
    refused = command("certify", "runs/debug/0", "--output=plain.json", code=2).stderr
    assert_one_line(refused, "use --sampled K")
    assert not (command.folder / "plain.json").exists()
    too_many = command("certify", "runs/debug/0", "--sampled=32", code=2).stderr
    assert "the largest for 4 sites of mode size 5 is 16" in too_many
    command("certify", "runs/debug/0", "--sampled=8", "--seed=5", "--output=eight.json")
    text = (command.folder / "eight.json").read_text()
    assert f"CP-rank at least {min(8, certified)} each" in command("verify", "eight.json").stdout
    (command.folder / "forged.json").write_text(text.replace(f"least {min(8, certified)} each", "least 9 each"))
    assert "REJECTED" in command("verify", "forged.json", code=1).stdout
    content = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    name = next(key for key in content["state_dict"] if key.startswith("format."))
    content["state_dict"][name] = -content["state_dict"][name]
    torch.save(content, command.folder / "turned.ckpt")
    assert "other weights" in command("verify", "eight.json", "--checkpoint=turned.ckpt", code=1).stdout
    content["ttlightning_network"]["format"] = "TensorTrain"
    torch.save(content, command.folder / "renamed.ckpt")
    verify = ("verify", "eight.json", "--checkpoint=renamed.ckpt")
    for words in (("certify", "renamed.ckpt"), ("certify", "renamed.ckpt", "--sampled=8"), verify):
        done = command(*words, code=2)
        assert "its weights are not those of the TensorTrain" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("rank --mode_size five", "--mode_size is 'five'"),
        ("rank --mode_size 0", "--mode_size is 0, it must be at least 1"),
        ("rank --sites 1", "--sites is 1, it must be at least 2"),
        ("rank --rank 5:2", "is empty"),
        ("rank --mode_size 5 --sites 30 --measure", "leave --measure out, or certify it"),
        ("rank --mode_size 17 --rank 16 --sites 9000", "over 4,000 digits"),
        ("rank --colour red", "colour"),
        ("rank --figure none/f.png", "none is not a folder"),
        ("certify", "needs a run directory or a checkpoint"),
        ("certify --mode_size=5", "needs a run directory or a checkpoint"),
        ("certify runs/none", "no checkpoint at runs/none"),
        ("certify --mode_size=5 --rank=3 --sites=8 --sampled=4", "name a run directory"),
        ("certify --mode_size=0 --rank=3 --sites=8", "mode_size is 0"),
        ("certify --mode_size=5 --rank=3 --sites=8 --seed=-1", "--seed is -1"),
        ("certify --mode_size=5 --rank=3 --sites=8 --seed=9223372036854775808", "--seed is 9223372036854775808"),
        ("certify --mode_size=5 --rank=3 --sites=1000000000000", "sites is 1000000000000, the limit is 100,000"),
        ("certify --mode_size=5 --rank=3 --sites=" + "9" * 5000, 'Parser key "sites"'),
        ("rank --mode_size 5 --sites 1000000000000", "--sites is 1000000000000, the limit is 100,000"),
        ("rank --mode_size " + "9" * 5000, "must be a number"),
        ("rank --mode_size 1:1000 --rank 1:1000 --sites 2:9", "ask for 8,000,000 rows"),
        ("rank --mode_size 17 --rank 16 --sites 800 --measure", "certify --mode_size 17 --rank 16 --sites 800"),
        ("rank --mode_size 9000 --rank 95 --sites 8 --measure", "in all; leave --measure out"),
        ("certify --mode_size=5 --rank=3 --sites=8 --output=none/c.json", "none is not a folder"),
    ],
)
def test_refused_in_one_line(command, words, why):
    assert_one_line(command(*words.split(), code=2).stderr, why)
    assert not list(command.folder.iterdir())


def test_ranks_beyond_any_float_are_drawn(command):
    command("rank", "--mode_size=17", "--rank=16", "--sites=2,800,3000", "--figure=f.png")
    assert (command.folder / "f.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("number", ["0", "-3", "9" * 5000, "x", "1" * 200_000])
def test_a_table_with_damaged_numbers_is_one_line(command, number):
    head = "mode_size,rank,sites,k18,a24,generic,measured,shallow_parameters,seed"
    (command.folder / "t.csv").write_text(f"{head}\n5,3,8,81,16,{number},,1.5,0\n")
    done = command("rank", "--mode_size=5", "--sites=8", "--output=t.csv", "--figure=f.png", code=2)
    assert_one_line(done.stderr, "t.csv cannot be read as a table")


def test_ranks_beyond_any_float_are_shown(command):
    assert "e+482" in command("rank", "--mode_size=17", "--rank=16", "--sites=784").stdout


def test_the_help_names_the_verbs(command):
    said = " ".join(command("--help", code=0).stdout.split())
    assert all(f" {verb} {text}" in said for verb, text in (WITH_TRAINER | WITHOUT_TRAINER).items())
