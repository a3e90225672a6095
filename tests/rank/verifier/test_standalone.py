"""scripts/verify_certificate.py, which shares no code with the package: it agrees with ``verify``; no file fools it."""

import ast
import json
import subprocess
import sys
import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kinds import CHAINS, FORMATS, TREES, random_format, restore, weights_of
from standalone import SCRIPT, alone, judged
from test_agreement import REAL, zeroed
from test_forged import JSON, KINDS, again, forged, made, places, replaced

from ttlightning import TensorTrain, UserError
from ttlightning.commands.verify import judge
from ttlightning.rank.certificates.sampled import largest_grid, sampled_certificate
from ttlightning.rank.certificates.staircase import checkpoint_certificate, generic_certificate
from ttlightning.runs.checkpoints import weights_sha256
from ttlightning.runs.safetensors import write_safetensors

SMALL = ("--config=debug.yaml", "--trainer.limit_train_batches=3", "--trainer.limit_val_batches=1")


def prepared(name, folder):
    """An honest certificate with its weights beside it."""
    content, weights = made(name, folder)
    if weights is not None:
        state = {f"format.{key}": value for key, value in weights.items()}
        own = content.get("network_sites", content["sites"])
        write_safetensors(folder / "network.safetensors", state, {"sites": str(own)})
    return content, weights, folder / "network.safetensors"


def is_honest(content, weights):
    """Whether it is what ``certify`` makes of the same inputs; the path of the checkpoint is of no use here."""
    content = content if weights is None else {"checkpoint": "network.ckpt"} | content
    return json.dumps(content, sort_keys=True) == json.dumps(again(content, weights), sort_keys=True)


def as_file(folder, header, body=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    file = folder / "weights.safetensors"
    file.write_bytes(len(text).to_bytes(8, "little") + text + body)
    return file


@pytest.mark.parametrize("which", ["nothing", "slice", "everything"])
@pytest.mark.parametrize("kind", FORMATS)
def test_it_holds_what_is_certified(kind, which, tmp_path):
    """Every format, type of weights and kind of certificate, odd numbers of sites, whole sites of zeros."""
    for sites in (2, 8) if kind in TREES else (2, 3, 6):
        for number, type in enumerate(REAL):
            weights = zeroed(weights_of(random_format(kind, sites, 3, 2), type), which)
            state = {f"format.{name}": value for name, value in weights.items()} | {
                "features.linear.bias": torch.arange(3.0, dtype=type),
                'a "name"\n': torch.tensor([True]),
                "steps": torch.tensor(7),
            }
            sha256 = weights_sha256(state)
            format = restore(weights, sites)
            found = [sampled_certificate(format, sha256, largest_grid(4, 3, sites), seed=number)]
            found += [checkpoint_certificate(format, sha256, [2**61 - 1, 3])] if kind in CHAINS else []
            for index, certificate in enumerate(found):
                file = tmp_path / f"{sites}-{number}-{index}.json"
                file.write_text(json.dumps(certificate))
                write_safetensors(file.with_suffix(".safetensors"), state, {"sites": str(sites)})
                assert judged(file)[0] == 0, judged(file)


@pytest.mark.parametrize("sizes", [(2, 2, 2), (3, 5, 9), (5, 3, 8), (9, 2, 7), (1, 1, 5), (4, 2, 20_000)])
def test_it_holds_what_is_generic(sizes, tmp_path):
    file = tmp_path / "generic.json"
    file.write_text(json.dumps(generic_certificate(*sizes, seed=3)))
    assert judged(file)[0] == 0
    file.write_text(json.dumps(generic_certificate(*sizes) | {"seed": 1}))
    assert judged(file)[0] == 0  # the ranks of almost every seed are the same
    other = generic_certificate(*sizes)
    other["ranks"][1]["first"] -= 1
    file.write_text(json.dumps(other))
    assert judged(file)[0] == 1


@pytest.mark.parametrize("name", KINDS)
def test_no_forgery_holds(name, tmp_path):
    """Every value replaced by others, left out, or of another kind: both verifiers say the same of each."""
    content, weights, place = prepared(name, tmp_path)
    file = tmp_path / "certificate.json"
    file.write_text(json.dumps(content))
    assert judged(file, place)[0] == 0
    answers = [0, 0, 0]
    for index, forgery in enumerate(forged(content)):
        if index % 7:  # of 1,500; test_forged.py has them all
            continue
        file.write_text(json.dumps(forgery))
        started = time.perf_counter()
        code, line = judged(file, place)
        assert time.perf_counter() - started < 5, line
        assert line.isascii()
        answers[code] += 1
        if code == 0:
            assert is_honest(forgery, weights)
        if index % 35 == 0 and "checkpoint" in forgery:  # which the other one reads
            assert (judge(file)[0] == 0) == (code == 0) or forgery["checkpoint"] != "network.ckpt", line
    assert answers[1] > 40
    assert answers[2] > 5
    assert answers[0] < 15


@pytest.mark.parametrize("name", ["generic, odd", "staircase, odd", "sampled units", "sampled tree"])
@given(data=st.data())
def test_any_value_at_any_place_is_one_line(name, data, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp()
    (folder / "network.safetensors").unlink(missing_ok=True)
    content, weights, place = prepared(name, folder)
    path = data.draw(st.sampled_from([path for path in places(content) if path]))
    changed = replaced(content, path, data.draw(JSON))
    file = folder / "any.json"
    file.write_text(json.dumps(changed))
    if judged(file, place)[0] == 0:
        assert is_honest(changed, weights)


@pytest.mark.parametrize("name", ["generic", "staircase", "sampled shared tree"])
@given(data=st.data())
def test_changed_bytes_are_one_line(name, data, tmp_path_factory):
    """In the certificate or in the weights: bytes replaced, the end cut off."""
    folder = tmp_path_factory.getbasetemp()
    (folder / "network.safetensors").unlink(missing_ok=True)
    content, weights, place = prepared(name, folder)
    text = json.dumps(content).encode()
    file, damaged = folder / "bytes.json", weights is not None and data.draw(st.booleans())
    changed = bytearray(place.read_bytes() if damaged else text)
    header = 8 + int.from_bytes(changed[:8], "little")  # has most to go wrong
    most = header if damaged and data.draw(st.booleans()) else len(changed)
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, most - 1))] = data.draw(st.integers(0, 255))
    changed = bytes(changed[: data.draw(st.sampled_from([len(changed), len(changed) - 1, most // 2]))])
    file.write_bytes(text if damaged else changed)
    other = place
    if damaged:
        other = folder / "other.safetensors"
        other.write_bytes(changed)
    code, line = judged(file, other)
    if code == 0 and not damaged:
        assert is_honest(json.loads(changed), weights)
    if code == 0 and damaged:  # only what is not in the hash has changed: the metadata, spaces, the order
        assert alone.Weights(other).sha256 == content["weights_sha256"], line


FIRST = {"dtype": "F32", "shape": [4, 3], "data_offsets": [0, 48]}


@pytest.mark.parametrize(
    ("header", "body", "why"),
    [
        (b"", b"", "is no safetensors file"),
        (b"[]", b"", "its header has not the form"),
        (b"[" * 100_000, b"", "is no safetensors file"),
        (b'{"a": 1, "a": 1}', b"", "a name stands twice"),
        (b'{"a": NaN}', b"", "NaN is no number"),
        (b'{"a": ' + b"9" * 5000 + b"}", b"", "5,000 digits"),
        (b'{"\xff": 1}', b"", "is no safetensors file"),
        ({"__metadata__": 3}, b"", "hash"),
        ({"format.first": FIRST}, b"", "is damaged: it has 0 bytes"),
        ({"format.first": FIRST}, bytes(49), "is damaged: it has 49 bytes"),
        ({"format.first": FIRST | {"dtype": "F8_E4M3"}}, bytes(48), "not the form"),
        ({"format.first": FIRST | {"dtype": ["F32"]}}, bytes(48), "not the form"),
        ({"format.first": FIRST | {"shape": [-4, -3]}}, bytes(48), "not the form"),
        ({"format.first": FIRST | {"shape": [4.0, 3]}}, bytes(48), "not the form"),
        ({"format.first": FIRST | {"shape": [True] * 9}}, bytes(48), "not the form"),
        ({"format.first": FIRST | {"shape": [2**40, 2**40]}}, bytes(48), "not the form"),
        ({"format.first": FIRST | {"data_offsets": [48, 0]}}, bytes(48), "not the form"),
        ({"format.first": FIRST | {"data_offsets": [2**70, 2**70 + 48]}}, bytes(48), "not the form"),
        ({"format.first": FIRST | {"data_offsets": [8, 56]}}, bytes(56), "overlap or leave gaps"),
        ({"format.first": FIRST, "b": FIRST}, bytes(48), "overlap or leave gaps"),
        ({"format.first": FIRST | {"more": 1}}, bytes(48), "not the form"),
        ({"format.first": 5}, bytes(48), "not the form"),
    ],
)
def test_damaged_weights_are_unchecked(header, body, why, tmp_path):
    file = tmp_path / "certificate.json"
    content, _, place = prepared("staircase", tmp_path)
    file.write_text(json.dumps(content))
    code, line = judged(file, as_file(tmp_path, header, body))
    if why == "hash":  # a whole file, of nothing
        assert (code, "other weights" in line) == (1, True), line
    else:
        assert (code, why in line) == (2, True), line
    for length in (2**63, 2**64 - 1, len(place.read_bytes()) - 7):
        other = tmp_path / "long.safetensors"
        other.write_bytes(length.to_bytes(8, "little") + place.read_bytes()[8:])
        assert "ends within its header" in judged(file, other)[1]
    assert "No such file" in judged(file, tmp_path / "absent.safetensors")[1]
    assert "Is a directory" in judged(file, tmp_path)[1]


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
@pytest.mark.parametrize("type", REAL)
def test_weights_without_a_rank_are_rejected(value, type, tmp_path):
    content, weights, _ = prepared("staircase", tmp_path)
    weights = {name: tensor.to(type) for name, tensor in weights.items()}
    weights["last"][-1, -1, -1] = value
    state = {f"format.{name}": tensor for name, tensor in weights.items()}
    file = tmp_path / "certificate.json"
    file.write_text(json.dumps(content | {"weights_sha256": weights_sha256(state)}))
    write_safetensors(file.with_suffix(".safetensors"), state, {})
    code, line = judged(file)
    assert (code, "a weight of format.last is infinite or not a number" in line) == (1, True), line
    state["format.last"] = state["format.last"].nan_to_num().int()
    file.write_text(json.dumps(content | {"weights_sha256": weights_sha256(state)}))
    write_safetensors(tmp_path / "whole.safetensors", state, {})
    assert "are int32, which has no rank" in judged(file, tmp_path / "whole.safetensors")[1]


def test_weights_of_other_sizes_are_rejected(tmp_path):
    content, weights, place = prepared("staircase", tmp_path)
    file, state = tmp_path / "certificate.json", {f"format.{name}": value for name, value in weights.items()}
    for number, (change, why) in enumerate(
        (
            ({"format.last": state["format.last"][:3]}, "is not what the weights are"),
            ({"format.more": torch.ones(1)}, "is not what the weights are"),
            ({"format.last": torch.ones(4, 3, 5)}, "it is for 2 classes, the weights are for 5"),
            ({"format.last": torch.ones(4, 3, 0)}, "is not what the weights are"),
            ({"format.last": torch.tensor(1.0)}, "is not what the weights are"),
        )
    ):
        changed = state | change
        file.write_text(json.dumps(content | {"weights_sha256": weights_sha256(changed)}))
        write_safetensors(tmp_path / f"{number}.safetensors", changed, {})
        code, line = judged(file, tmp_path / f"{number}.safetensors")
        assert (code, why in line) == (1, True), line
    file.write_text(json.dumps(content))
    write_safetensors(tmp_path / "sites.safetensors", state, {"sites": "7"})
    assert "the weights are for another number" in judged(file, tmp_path / "sites.safetensors")[1]
    assert judged(file, place)[0] == 0


@pytest.mark.parametrize(
    ("changes", "code", "why"),
    [
        ({"sites": 100_000, "mode_size": 100_000, "rank": 100_000}, 1, "statement is"),
        ({"mode_size": 10**9}, 1, "mode_size is 1000000000, not an integer from 1 to 100,000"),
        ({"seed": 2**63}, 1, "seed is"),
    ],
)
def test_sizes_are_checked_before_any_work(changes, code, why, tmp_path):
    file = tmp_path / "certificate.json"
    file.write_text(json.dumps(generic_certificate(4, 2, 6) | changes))
    started = time.perf_counter()
    found, line = judged(file)
    assert time.perf_counter() - started < 2
    assert (found, why in line) == (code, True), line


def test_what_takes_long_is_unchecked(tmp_path, capsys):
    """The cost is said before anything is counted, on the standard error stream."""
    file = tmp_path / "certificate.json"
    file.write_text(json.dumps(generic_certificate(12, 4, 6)))
    assert judged(file, limit=600)[0] == 0
    assert "products of residues, about" in capsys.readouterr().err
    code, line = judged(file, limit=0.001)
    assert (code, "the limit is 0 s: raise it with --limit" in line) == (2, True), line
    format = random_format(TensorTrain, 16, 4, 3)
    state = {f"format.{name}": value for name, value in weights_of(format).items()}
    content = sampled_certificate(format, weights_sha256(state), 64) | {"size": 4096}
    file.write_text(json.dumps(content))
    write_safetensors(file.with_suffix(".safetensors"), state, {})
    code, line = judged(file)
    assert (code, "numbers, the limit is 2^25" in line) == (2, True), line


def test_it_is_the_standard_library_alone(tmp_path):
    """No import of anything else; it runs without site-packages, from anywhere."""
    names = set()
    for node in ast.walk(ast.parse(SCRIPT.read_text())):
        names |= {alias.name for alias in node.names} if isinstance(node, ast.Import) else set()
        names |= {node.module} if isinstance(node, ast.ImportFrom) else set()
    assert names <= sys.stdlib_module_names
    assert "pickle" not in names
    (tmp_path / "a.json").write_text(json.dumps(generic_certificate(3, 2, 5)))
    (tmp_path / "b.json").write_text("{}")
    command = [sys.executable, "-I", "-S", str(SCRIPT), "a.json", "b.json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["holds", "UNCHECKED"]
    assert done.returncode == 2


def test_certify_writes_the_weights(command):
    command.finished(*SMALL, "--data.dataset=mnist5k")
    command("certify", "runs/debug/0", "--output=c.json", "--weights=c.safetensors")
    command("certify", "runs/debug/0", "--width=8", "--output=w.json", "--weights=w.safetensors")
    for name in ("c.json", "w.json"):
        code, line = judged(command.folder / name)
        assert code == 0, line
    refused = command("certify", "runs/debug/0", "--output=d.json", "--weights=c.safetensors", code=2).stderr
    assert "c.safetensors exists and is left as it is" in refused
    assert not (command.folder / "d.json").exists()
    refused = command("certify", "--mode_size=3", "--rank=2", "--sites=4", "--weights=d.safetensors", code=2).stderr
    assert "--weights is for a trained network" in refused


def test_safetensors_are_written_once(tmp_path):
    file = tmp_path / "x.safetensors"
    with pytest.raises(UserError, match="complex64, which safetensors has no name for"):
        write_safetensors(file, {"a": torch.ones(1, dtype=torch.complex64)}, {})
    assert not file.exists()
    write_safetensors(file, {"a": torch.ones(2, 3).T}, {"sites": "4"})
    with pytest.raises(UserError, match="exists and is left as it is"):
        write_safetensors(file, {}, {})
    assert alone.Weights(file).sha256 == weights_sha256({"a": torch.ones(2, 3).T})
