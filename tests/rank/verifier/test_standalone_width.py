"""scripts/verify_certificate.py on certificates of width: its arithmetic, what it holds, forgeries of all fields."""

import json
import time

import pytest
import torch
from flint import arb, ctx
from kinds import FORMATS
from standalone import alone, judged
from test_forged import forged
from test_forged_width import Case

from ttlightning.networks.features import ACTIVATIONS
from ttlightning.rank.verifier.width import _activated
from ttlightning.runs.safetensors import write_safetensors


@pytest.fixture
def precise():
    before, ctx.prec = ctx.prec, 2000
    yield
    ctx.prec = before


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_its_functions_are_right(activation, precise):
    """Within 2^-250, beside balls of 2,000 bits: near 0, near the largest argument of a series, beyond it, huge."""
    values = [0.0, 2.0**-900, 1e-30, 1e-5, 0.3, 1.0, 3.14159, 5.5, 16.999999, 17.0, 17.000001, 30.0, 511.9, 512.1, 1e6]
    generator = torch.Generator().manual_seed(0)
    values += (20 * torch.randn(40, generator=generator, dtype=torch.float64)).tolist()
    for value in [*values, *(-each for each in values)]:
        numerator, denominator = value.as_integer_ratio()
        found = alone.activated(numerator * alone.ONE // denominator, activation)
        distance = abs(arb(found) / arb(alone.ONE) - _activated(arb(value), activation))
        if activation == "gelu" and abs(value) > 17:
            assert distance < arb(2) ** -207
        else:
            assert distance < arb(2) ** -250, value
        assert distance < arb(2) ** -alone.FEATURE


def saved(case, folder, content=None):
    """The certificate, its images and its weights in files."""
    file = folder / "c.json"
    file.write_text(json.dumps(case.content if content is None else content))
    file.with_suffix(".images").write_bytes(case.numbers)
    if not file.with_suffix(".safetensors").exists():
        write_safetensors(file.with_suffix(".safetensors"), case.state, {"sites": str(case.content["sites"])})
    return file


def assert_it_holds_and_not_more(case, folder):
    file = saved(case, folder)
    code, line = judged(file)
    assert code == 0, line
    units = case.content["units_at_least"]
    for index in range(len(units)):
        more = case.with_units([*units[:index], *(max(u, units[index] + 1) for u in units[index:])])
        if max(more["units_at_least"]) <= len(case.patches):
            said, expected = judged(saved(case, folder, more)), case.judge(more)
            assert (said[0] == 0) == (expected is None), said[1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sites", [2, 4, 8])
@pytest.mark.parametrize("kind", FORMATS)
def test_of_every_format(kind, sites, dtype, tmp_path):
    assert_it_holds_and_not_more(Case(kind, sites, dtype=dtype, images=8), tmp_path)


@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_of_every_activation(activation, constant, tmp_path):
    assert_it_holds_and_not_more(Case(FORMATS[1], 5, activation, constant, images=6), tmp_path)


@pytest.mark.parametrize("kind", FORMATS)
def test_no_forgery_holds(kind, tmp_path):
    """Each answer is one line, and only the honest certificate holds; so says the other verifier."""
    case, answers = Case(kind, images=4), [0, 0, 0]
    for index, content in enumerate(forged(case.content)):
        if index % 5:
            continue
        started = time.perf_counter()
        code, line = judged(saved(case, tmp_path, content))
        assert time.perf_counter() - started < 5
        assert line.isascii()
        answers[code] += 1
        if code == 0:
            expected = {"checkpoint": "network.ckpt"} | case.content
            assert json.dumps({"checkpoint": "network.ckpt"} | content, sort_keys=True) == json.dumps(
                expected | {"checkpoint": content.get("checkpoint", "network.ckpt")}, sort_keys=True
            )
    assert answers[1] > 80
    assert answers[2] > 5


def test_images_that_are_others_or_absent(tmp_path):
    case = Case(FORMATS[0], images=4)
    file = saved(case, tmp_path)
    images = file.with_suffix(".images")
    for numbers, code, why in (
        (case.numbers[:-4], 1, "the images are not 4 of 4 patches of 3 numbers"),
        (case.numbers[4:] + case.numbers[:4], 1, "for other images"),
        (b"", 1, "the images are not"),
    ):
        images.write_bytes(numbers)
        found, line = judged(file)
        assert (found, why in line) == (code, True), line
    images.unlink()
    code, line = judged(file)
    assert (code, "No such file" in line) == (2, True), line


def test_the_cost_is_said_before_anything_is_counted(tmp_path, capsys):
    case = Case(FORMATS[0], images=6)
    file = saved(case, tmp_path)
    assert judged(file)[0] == 0
    assert "36 scores in exact arithmetic with error bounds, about" in capsys.readouterr().err
    code, line = judged(file, limit=0.001)
    assert (code, "the limit is 0 s: raise it with --limit" in line) == (2, True), line


def test_weights_that_are_infinite_or_of_other_sizes(tmp_path):
    case = Case(FORMATS[0], images=4)
    for number, (name, value, why) in enumerate(
        (
            ("features.linear.weight", case.state["features.linear.weight"] * float("inf"), "infinite or not a number"),
            ("features.linear.weight", case.state["features.linear.weight"][:-1], "no feature map of 5 features"),
            ("features.linear.bias", case.state["features.linear.bias"][:-1], "no feature map of 5 features"),
            ("format.last", case.state["format.last"][:-1], "is not what the weights are"),
            ("format.last", case.state["format.last"][..., :0], "is not what the weights are"),
        )
    ):
        state = case.state | {name: value}
        (folder := tmp_path / str(number)).mkdir()
        write_safetensors(folder / "c.safetensors", state, {})
        from_file = alone.Weights(folder / "c.safetensors").sha256
        code, line = judged(saved(case, folder, case.content | {"weights_sha256": from_file}))
        assert (code, why in line) == (1, True), line


def test_scores_that_are_the_same_for_all_classes(tmp_path):
    """No unit is needed, which holds. Whether a claim of one is false, error bounds cannot say."""
    case = Case(FORMATS[0], images=4)
    case.state["format.last"][:] = case.state["format.last"][:, :, :1].clone()
    write_safetensors(tmp_path / "c.safetensors", case.state, {})
    sha256 = alone.Weights(tmp_path / "c.safetensors").sha256
    assert judged(saved(case, tmp_path, case.with_units([0] * 6) | {"weights_sha256": sha256}))[0] == 0
    code, line = judged(saved(case, tmp_path, case.with_units([1] * 6) | {"weights_sha256": sha256}))
    assert (code, "too small beside their terms" in line) == (2, True), line
