"""Scores that no floating-point number holds: right predictions, or one line; never a wrong number."""

import csv
from functools import partial

import pytest
import torch
from conftest import assert_one_line, quiet_trainer

from ttlightning import Classifier, HierarchicalTucker, PatchFeatureMap, TensorTrain
from ttlightning.errors import Fault
from ttlightning.formats.kernels.scales import below_the_largest

OUT_OF_RANGE = [(TensorTrain, 1e12), (TensorTrain, 1e-12), (HierarchicalTucker, 1e6), (HierarchicalTucker, 1e-6)]


def scaled_classifier(data, kind, size):
    """Scores times ``size``, and what float64 says of their mantissas, which no size changes."""
    features, format = partial(PatchFeatureMap, mode_size=5), partial(kind, rank=4, initialization="gaussian")
    model = Classifier(data.sites, data.patch_dim, data.classes, features=features, format=format, seed=4)
    last = model.format.last if kind is TensorTrain else model.format.root
    with torch.no_grad():
        last.mul_(size)
        for p in model.format.parameters():
            if p is not last and p.ndim > 2:
                p.mul_(size)
    return model


@pytest.mark.parametrize(("kind", "size"), OUT_OF_RANGE)
def test_predictions_are_those_of_the_mantissas(kind, size, digits, tmp_path):
    """Scores of 1e+-100 and more, inf or 0 in float32: the class of the highest, and the softmax of real numbers."""
    model = scaled_classifier(digits, kind, size)
    probabilities = quiet_trainer(tmp_path).predict(model, datamodule=digits, output=tmp_path / "found.csv")
    with (tmp_path / "found.csv").open() as file:
        said = [int(row["predicted"]) for row in csv.DictReader(file)]
    with torch.no_grad():
        exact = torch.cat([model.double()(batch.patches) for batch in digits.test_dataloader()])
        lost = torch.cat([model.float()(batch.patches) for batch in digits.test_dataloader()])
    assert not lost.isfinite().all() or not lost.any()  # what is tried here
    assert exact.isfinite().all()
    assert said == exact.argmax(1).tolist()
    assert len(set(said)) > 1
    torch.testing.assert_close(probabilities, exact.softmax(1).float())


@pytest.mark.parametrize("size", [1e12, 1e-12])
def test_evaluation_is_that_of_the_mantissas_or_a_fault(size, digits, tmp_path):
    """Where a loss itself is out of range, one line names the samples."""
    model = scaled_classifier(digits, TensorTrain, size)
    if size > 1:
        with pytest.raises(Fault, match=r"test/loss is inf, scores of \d+ samples are out of range by step 0"):
            quiet_trainer(tmp_path).test(model, datamodule=digits, verbose=False)
        return
    [found] = quiet_trainer(tmp_path).test(model, datamodule=digits, verbose=False)
    batches = list(digits.test_dataloader())
    with torch.no_grad():
        exact = torch.cat([model.double()(batch.patches) for batch in batches])
    labels = torch.cat([batch.labels for batch in batches])
    assert found["test/acc"] == pytest.approx(float((exact.argmax(1) == labels).double().mean()))
    assert found["test/loss"] == pytest.approx(float(torch.nn.functional.cross_entropy(exact, labels)), rel=1e-5)


@pytest.mark.parametrize("lost", [float("nan"), float("inf")])
def test_what_is_not_finite_is_never_predicted(lost, digits, tmp_path):
    model = scaled_classifier(digits, TensorTrain, 1.0)
    with torch.no_grad():
        model.format.last[0, 0, 3] = lost
    with pytest.raises(
        Fault, match=r"scores of \d+ of the \d+ samples of a batch are not finite: nothing is predicted"
    ):
        quiet_trainer(tmp_path).predict(model, datamodule=digits, output=tmp_path / "found.csv")
    assert not (tmp_path / "found.csv").exists()
    for evaluate in ("validate", "test"):
        with pytest.raises(Fault, match=r"loss is nan, scores of \d+ samples are out of range"):
            getattr(quiet_trainer(tmp_path), evaluate)(model, datamodule=digits, verbose=False)


def test_softmax_and_order_survive_any_scale():
    generator = torch.Generator().manual_seed(0)
    mantissa = torch.randn(50, 7, generator=generator)
    for power in (-1000, -150, -30, 0, 30, 150, 1000):
        below = below_the_largest(mantissa, torch.full((50,), power, dtype=torch.int32))
        assert torch.equal(below.argmax(1), mantissa.argmax(1))
        expected = torch.ldexp(mantissa.double() - mantissa.double().amax(1, keepdim=True), torch.tensor(power))
        torch.testing.assert_close(below.double().softmax(1), expected.softmax(1), rtol=1e-4, atol=1e-12)


@pytest.mark.parametrize("verb", ["fit", "test"])
def test_a_precision_that_cannot_be_honoured_is_one_line(command, verb):
    """Before anything is written, by every verb; Lightning would replace float16 on a CPU by bfloat16."""
    words = [verb, "--config", "debug.yaml", "--trainer.accelerator", "cpu", "--trainer.precision"]
    for precision in ("bf16-true", "16-true", "transformer-engine", "transformer-engine-float16"):
        done = command(*words, precision, code=2)
        assert_one_line(done.stderr, f"trainer.precision is {precision}, tensor formats compute in float32 or float64")
    for precision in ("16-mixed", "16"):
        done = command(*words, precision, code=2)
        assert_one_line(done.stderr, f"trainer.precision is {precision}, which Lightning has on GPUs alone")
    assert not (command.folder / "runs").exists()


def test_mixed_precision_at_the_command_line(command):
    words = "fit", "--config", "debug.yaml", "--trainer.enable_progress_bar", "false"
    command(*words, "--trainer.precision", "bf16-mixed", "--data.microbatches", "2")
    assert command.result("debug/0")["metrics"]["test/acc"] > 0.2
