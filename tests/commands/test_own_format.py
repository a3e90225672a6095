"""A format from outside the package, through the public command: training, checks, figures, certificates."""

import json

import pytest
import torch
from conftest import assert_one_line
from tensor_ring import TensorRing

SMALL = ("--config=debug.yaml", "--trainer.limit_train_batches=3", "--trainer.limit_val_batches=1",
         "--data.dataset=mnist", "--model.features.constant=true")  # fmt: skip
RING = "tensor_ring.TensorRing"


def test_a_tensor_ring_is_trained_checked_drawn_and_certified(command):
    done = command("fit", *SMALL, f"--model.format={RING}", "--model.format.width=3")
    assert "CP-rank of every class tensor >= " in done.stdout
    run = command.folder / "runs/debug/0"
    result, made = (json.loads((run / name).read_text()) for name in ("result.json", "rank/certificate.json"))
    assert made["kind"] == "sampled"
    assert made["rank"] == 3
    assert made["weights_sha256"] == result["weights_sha256"]
    assert made["cp_rank_at_least"] == result["rank"]["certified"]
    assert min(made["cp_rank_at_least"]) > 3
    assert "bound" not in result["rank"]
    assert result["rank"]["sketch_rank"]
    assert (run / "figures/spectrum.csv").read_text().startswith("class,number,singular_value\n")

    refused = command("certify", "runs/debug/0", "--sampled=16", "--output=again.json", code=2)
    assert_one_line(refused.stderr, f"names {RING}, which would be run: if you know what it is, add --trust {RING}")
    staircase = command("certify", "runs/debug/0", "--trust", RING, "--output=again.json", code=2)
    assert_one_line(staircase.stderr, "holds no tensor train, which the staircase is for: use --sampled K")
    assert not (command.folder / "again.json").exists()
    command("certify", "runs/debug/0", "--sampled=16", f"--trust={RING}", "--output=again.json")
    again = json.loads((command.folder / "again.json").read_text())
    assert {**again, "checkpoint": made["checkpoint"]} == made

    unchecked = command("verify", "again.json", code=2).stdout
    assert unchecked.startswith("UNCHECKED again.json: ")
    assert f"holds a {RING}, a format from outside this package, whose scores are not counted here" in unchecked
    command("validate", "--ckpt_path=runs/debug/0", f"--trust={RING}", "--wandb.mode=disabled")


def test_a_format_without_exact_scores_says_in_one_line_that_it_has_no_certificate(command):
    done = command("fit", *SMALL, "--model.format=tensor_ring.PlainTensorRing")
    reason = "PlainTensorRing has no method exact_scores, which a certificate is counted from"
    assert [line for line in done.stdout.splitlines() if reason in line] == [f"certified   nothing: {reason}"]
    run = command.folder / "runs/debug/0"
    assert json.loads((run / "result.json").read_text())["rank"]["not_certified"] == reason
    assert not (run / "rank/certificate.json").exists()
    assert (run / "figures/spectrum.png").exists()


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("json.JSONDecoder", "which is no ScoreTensor"),
        ("tensor_ring.Nothing", "--trust has tensor_ring.Nothing, which does not exist here"),
        ("no_such_module.Format", "--trust has no_such_module, which does not exist here"),
        ("TensorRing", "none of the formats of this version"),
    ],
)
def test_a_checkpoint_that_names_another_class_is_one_line(command, name, why):
    network = {"format": name, "sites": 4, "mode_size": 3, "classes": 2, "rank": 2}
    torch.save({"state_dict": {}, "ttlightning_network": network}, command.folder / "x.ckpt")
    assert_one_line(command("certify", "x.ckpt", "--sampled=4", f"--trust={name}", code=2).stderr, why)


@pytest.mark.parametrize(("rank", "width", "code"), [(2, 2, 0), (2, 3, 2), (3, 2, 2)])
def test_class_and_arguments_come_from_the_checkpoint_and_must_fit_its_weights(command, rank, width, code):
    state = {f"format.{name}": value for name, value in TensorRing(4, 4, 2, width=2).state_dict().items()}
    network = {"format": RING, "sites": 4, "mode_size": 4, "classes": 2, "rank": rank}
    config = f"model: {{format: {{class_path: {RING}, init_args: {{width: {width}}}}}}}"
    content = {"state_dict": state, "ttlightning_network": network, "ttlightning_config": config}
    torch.save(content, command.folder / "x.ckpt")
    done = command("certify", "x.ckpt", "--sampled=4", f"--trust={RING}", code=code)
    if code:
        assert_one_line(done.stderr, "x.ckpt is damaged: its weights are not those of the TensorRing(sites=4")
    else:
        assert "CP-rank at least 4 each" in done.stdout
