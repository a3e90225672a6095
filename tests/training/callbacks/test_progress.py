"""The line of a run that is no better than equal scores."""

import pytest

FORMATS = ["TensorTrain", "EqualCoreTensorTrain", "CanonicalPolyadic", "HierarchicalTucker"]
FAST = ("--wandb.mode=disabled", "--rank_check.every_n_epochs=0", "--figures=false", "--test_after_fit=false")
INITIAL = "--model.format.init_args."


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("format", FORMATS)
def test_equal_scores_are_said_once(format, smoothing, command):
    """A loss of ln C, whatever the smoothing; not before the second epoch, because a first one may be slow."""
    start = (f"--model.format={format}", f"{INITIAL}rank=4", f"{INITIAL}initialization=gaussian", f"{INITIAL}gain=1e-3")
    still = ("--model.optimizer.lr=1e-12", f"--model.label_smoothing={smoothing}", "--trainer.max_epochs=3")
    lines = command("fit", "--config=debug.yaml", *start, *still, *FAST).stdout.splitlines()
    [where] = [number for number, line in enumerate(lines) if line.startswith("learned")]
    assert lines[where - 1].startswith("epoch 2/3   loss 2.3026")
    assert "nothing: the loss of equal scores is ln 10 = 2.3026." in lines[where]


@pytest.mark.parametrize("rate", [0.1, 0.3])
@pytest.mark.parametrize("recipe", ["eq.yaml", "tt.yaml"])
def test_exploding_scores_are_said_once(recipe, rate, command):
    """The losses are finite, and far above ln C."""
    rates = (f"--model.optimizer.lr={rate}", f"--model.scheduler.init_args.max_lr={rate}", "--data.batch_size=32")
    lines = command("fit", f"--config={recipe}", *rates, "--trainer.max_epochs=3", *FAST).stdout.splitlines()
    [where] = [number for number, line in enumerate(lines) if line.startswith("learned")]
    assert float(lines[where - 1].split()[3]) > 2.4


@pytest.mark.parametrize("recipe", ["eq.yaml", "baselines/mlp.yaml"])
def test_a_network_that_learns_says_nothing(recipe, command):
    words = ("--model.label_smoothing=0.3", "--data.batch_size=32", "--trainer.max_epochs=3", *FAST)
    said = command("fit", f"--config={recipe}", *words).stdout
    assert "epoch 3/3" in said
    assert "learned" not in said
