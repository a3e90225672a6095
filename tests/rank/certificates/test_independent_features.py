"""Features that are certified to be linearly independent: against their values at random patches, and forgeries."""

import json

import pytest
import torch
from kinds import random_format, weights_of
from standalone import judged

from ttlightning import PatchFeatureMap, TensorTrain, UserError
from ttlightning.rank.certificates.features import with_features
from ttlightning.rank.certificates.sampled import sampled_certificate
from ttlightning.rank.certificates.staircase import checkpoint_certificate
from ttlightning.rank.statements import ANALYTIC
from ttlightning.rank.verifier.verification import Rejected, verify
from ttlightning.runs.checkpoints import weights_sha256
from ttlightning.runs.safetensors import write_safetensors

FORMAT = random_format(TensorTrain, 4, 5, 3)


def network(activation, change=None, type=torch.float32):
    """Format weights, features as the verifier takes them, all weights."""
    torch.manual_seed(0)
    map = PatchFeatureMap(6, 5, activation).to(type)
    weight, bias = map.linear.weight.detach().clone(), map.linear.bias.detach().clone()
    if change is not None:
        change(weight, bias)
    state = {f"format.{name}": value for name, value in weights_of(FORMAT).items()}
    state |= {"features.linear.weight": weight, "features.linear.bias": bias}
    return (activation, True, weight, bias), state


def equal(weight, bias):
    weight[2] = weight[1]
    bias[2] = bias[1]


def opposite(weight, bias):
    weight[2] = -weight[1]
    bias[2] = -bias[1]


def constant(weight, bias):
    weight[3] = 0


def doubled(weight, bias):
    weight[2] = 2 * weight[1]
    bias[2] = 2 * bias[1]


def shifted(weight, bias):
    weight[2] = weight[1]
    bias[2] = bias[1] + 0.25


@pytest.mark.parametrize("kind", ["checkpoint", "sampled"])
@pytest.mark.parametrize("activation", [*ANALYTIC, "relu"])
def test_independent_features_are_certified(activation, kind, tmp_path):
    """At random patches their values have full rank, and so say both verifiers."""
    features, state = network(activation)
    _, _, weight, bias = features
    map = PatchFeatureMap(6, 5, activation).double()
    map.linear.load_state_dict({"weight": weight, "bias": bias})
    values = map(4 * torch.randn(2000, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    assert torch.linalg.matrix_rank(values.detach()) == 5
    sha256 = weights_sha256(state)
    plain = checkpoint_certificate(FORMAT, sha256) if kind == "checkpoint" else sampled_certificate(FORMAT, sha256, 4)
    found = with_features(plain, *features)
    assert f"Its 5 features, {activation}(A x + b) and 1, are linearly independent" in found["statement"]
    verify(found, weights_of(FORMAT), sha256, 4, features)
    file = tmp_path / "c.json"
    file.write_text(json.dumps(found))
    write_safetensors(file.with_suffix(".safetensors"), state, {"activation": activation})
    assert judged(file)[0] == 0
    with pytest.raises(UserError, match="they are needed too"):
        verify(found, weights_of(FORMAT), sha256, 4)
    for lie in (
        None, True, [], {}, {"activation": activation}, {"activation": "identity", "constant": True},
        {"activation": activation, "constant": False}, {"activation": activation, "constant": 1},
        {"activation": [activation], "constant": True}, found["features"] | {"more": 1},
        {"activation": "cos" if activation != "cos" else "tanh", "constant": True},
    ):  # fmt: skip
        forged = found | {"features": lie}
        file.write_text(json.dumps(forged))
        assert judged(file)[0] == 1, lie
        with pytest.raises(Rejected):
            verify(forged, weights_of(FORMAT), sha256, 4, features)
    for forged in (plain | {"statement": found["statement"]}, found | {"statement": plain["statement"]}):
        file.write_text(json.dumps(forged))
        assert judged(file)[0] == 1
        with pytest.raises(Rejected):
            verify(forged, weights_of(FORMAT), sha256, 4, features)


@pytest.mark.parametrize("type", [torch.float16, torch.float64])
@pytest.mark.parametrize(
    ("activation", "change", "independent"),
    [
        *((each, change, False) for each in ("gelu", "relu") for change in (equal, opposite, constant)),
        ("gelu", shifted, False),  # they are independent, but the criterion does not see it
        ("gelu", doubled, True),
        ("relu", shifted, True),
        ("relu", doubled, False),
    ],
)
def test_dependent_features_are_refused_by_all_three(activation, change, independent, type, tmp_path):
    good, _ = network(activation, None, type)
    features, state = network(activation, change, type)
    sha256 = weights_sha256(state)
    plain = checkpoint_certificate(FORMAT, sha256)
    forged = with_features(plain, *good)
    file = tmp_path / "c.json"
    file.write_text(json.dumps(forged))
    write_safetensors(file.with_suffix(".safetensors"), state, {})
    if independent:
        assert with_features(plain, *features) == forged
        verify(forged, weights_of(FORMAT), sha256, 4, features)
        assert judged(file)[0] == 0
        return
    with pytest.raises(UserError, match="leave --features out"):
        with_features(plain, *features)
    with pytest.raises(Rejected, match=r"may depend on each other|is constant"):
        verify(forged, weights_of(FORMAT), sha256, 4, features)
    code, line = judged(file)
    assert (code, "may depend" in line or "is constant" in line) == (1, True), line


def test_what_has_no_criterion_is_refused():
    features, state = network("gelu")
    plain = checkpoint_certificate(FORMAT, weights_sha256(state))
    with pytest.raises(UserError, match="no criterion for the independence of features identity"):
        with_features(plain, "identity", *features[1:])
    with pytest.raises(UserError, match="infinite or not a number"):
        with_features(plain, *features[:2], features[2] * float("inf"), features[3])
    with pytest.raises(UserError, match="bounds are below 2"):
        with_features(plain | {"cp_rank_at_least": [1, 0]}, *features)


def test_a_bound_below_two_says_nothing():
    weights = {name: torch.zeros_like(value) for name, value in weights_of(FORMAT).items()}
    format = random_format(TensorTrain, 4, 5, 3)
    format.load_state_dict(weights)
    zero = checkpoint_certificate(format, "ab")
    assert zero["statement"].endswith("at least 0 each, which says nothing: every tensor but 0 has CP-rank at least 1.")
    verify(zero, weights, "ab", 4)
    weights = weights_of(random_format(TensorTrain, 4, 5, 3))
    weights["last"][..., 0] = 0
    format.load_state_dict(weights)
    assert "CP-rank at least 0, 15, class by class, over" in checkpoint_certificate(format, "ab")["statement"]


def test_certify_says_that_features_are_independent(command):
    words = ("--config=debug.yaml", "--trainer.limit_train_batches=3", "--trainer.limit_val_batches=1")
    command.finished(*words, "--data.dataset=mnist5k")
    command("certify", "runs/debug/0", "--features=true", "--output=f.json", "--weights=f.safetensors")
    assert "features, " in command("verify", "f.json").stdout
    assert judged(command.folder / "f.json")[0] == 0
    code, line = judged(command.folder / "f.json")
    assert (code, "linearly independent on" in line) == (0, True), line
    refused = command("certify", "--mode_size=3", "--rank=2", "--sites=4", "--features=true", code=2).stderr
    assert "--features is for a trained network" in refused


def test_features_with_a_hidden_layer_are_not_counted(command, tmp_path):
    """A(x) of the last layer alone would be independent: certificate and verifiers look at the whole map."""
    features, state = network("gelu")
    state["features.hidden.weight"] = torch.eye(6)
    found = with_features(checkpoint_certificate(FORMAT, weights_sha256(state)), *features)
    file = tmp_path / "c.json"
    file.write_text(json.dumps(found))
    write_safetensors(file.with_suffix(".safetensors"), state, {"activation": "gelu"})
    code, line = judged(file)
    assert (code, "more than one layer" in line) == (1, True), line
    run = command.finished("--config=debug.yaml", "--model.features.hidden=6", "--data.order=[snake,columns]")
    for words in (("certify", run, "--features=true"), ("certify", run, "--weights=w.safetensors", "--features=true")):
        assert "hidden layer, whose independence is not counted" in command(*words, code=2).stderr
    assert not list(run.rglob("*.safetensors"))
