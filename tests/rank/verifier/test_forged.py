"""Forged certificates: whatever stands in the file, one answer in one line, soon; "holds" only where it is true."""

import ast
import copy
import json
import random
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kinds import random_format, restore, weights_of

import ttlightning
from ttlightning import CanonicalPolyadic, EqualCoreTensorTrain, HierarchicalTucker, TensorTrain
from ttlightning.commands.verify import judge
from ttlightning.rank.certificates.lengths import with_length
from ttlightning.rank.certificates.sampled import sampled_certificate
from ttlightning.rank.certificates.staircase import checkpoint_certificate, generic_certificate
from ttlightning.rank.verifier.claims import Rejected, check_claims
from ttlightning.runs.checkpoints import NETWORK_KEY, weights_sha256
from ttlightning.training.checkpoint_io import SafeCheckpointIO

KINDS = {
    "generic": (None, 6),
    "generic, odd": (None, 7),
    "staircase": (TensorTrain, 6),
    "staircase, odd": (EqualCoreTensorTrain, 5),
    "absorbed ends": (TensorTrain, 6),
    "absorbed ends, odd": (EqualCoreTensorTrain, 7),
    "two sites": (TensorTrain, 2),
    "sampled chain": (EqualCoreTensorTrain, 5),
    "length 8": (EqualCoreTensorTrain, 5),
    "length 2": (EqualCoreTensorTrain, 5),
    "sampled length 7": (EqualCoreTensorTrain, 5),
    "sampled units": (CanonicalPolyadic, 4),
    "sampled tree": (HierarchicalTucker, 4),
    "sampled shared tree": (ttlightning.SharedHierarchicalTucker, 8),
}


def made(name, folder):
    """An honest certificate, and its weights; the checkpoint beside the place where it will lie."""
    kind, sites = KINDS[name]
    if kind is None:
        return generic_certificate(4, 2, sites), None
    rank = 6 if name.startswith("absorbed") else 3
    weights = weights_of(random_format(kind, sites, 4, rank))
    state = {f"format.{key}": value for key, value in weights.items()}
    network = {"format": kind.__name__, "sites": sites, "mode_size": 4, "classes": 2, "rank": rank}
    SafeCheckpointIO().save_checkpoint({"state_dict": state, NETWORK_KEY: network}, folder / "network.ckpt")
    sha256, format = weights_sha256(state), restore(weights, sites)
    if "length" in name:
        format = format.of_length(int(name.split()[-1]))
    found = sampled_certificate(format, sha256, 4) if "sampled" in name else checkpoint_certificate(format, sha256)
    if "length" in name:
        found = with_length(found, sites)
    return found | {"checkpoint": "network.ckpt"}, weights


def again(content, weights):
    """The certificate as the one who makes them makes it from the same inputs: what may hold."""
    if content["kind"] == "generic":
        return generic_certificate(*(content[name] for name in ("mode_size", "rank", "sites", "seed", "primes")))
    sites, sha256, primes = content["sites"], content["weights_sha256"], content["primes"]
    own = content.get("network_sites", sites)
    format = restore(weights, own).of_length(sites)
    if content["kind"] == "sampled":
        found = sampled_certificate(format, sha256, content["size"], content["seed"], primes)
    else:
        found = checkpoint_certificate(format, sha256, primes) | {"slices": content["slices"]}
    found = found if own == sites else with_length(found, own)
    return found | {"checkpoint": content["checkpoint"]}


def places(value, path=()):
    """Every value in a JSON value, by the names and numbers that lead to it; of long lists the ends."""
    yield path
    inside = value.items() if isinstance(value, dict) else [*enumerate(value)] if isinstance(value, list) else ()
    for name, each in [*inside][:: max(1, len(inside) - 1) if isinstance(value, list) else 1]:
        yield from places(each, (*path, name))


def at(content, path):
    for name in path:
        content = content[name]
    return content


def replaced(content, path, value):
    content = copy.deepcopy(content)
    at(content, path[:-1])[path[-1]] = value
    return content


def lies(value):
    """Other values for one: of other types, off by one, huge, negative, nested, rearranged."""
    yield from (None, True, False, 0, -1, 1, 2, 10**6, 2**31, 2**63, 2**64, -(2**70), 10**300, 10**4200)
    yield from (0.5, -0.0, 1e300, "", "0", "1" * 5000, [], {}, [[]], [0], {"a": 1}, [10**9] * 1000, [{}])
    yield from ("\x00", "a\nholds b", "\ud800", "\x1b[2J", "/etc/passwd", "~root/x", "~", ".", "../" * 3000, "x" * 5000)
    if isinstance(value, int):
        yield from (value + 1, value - 1, -value, 2 * value, float(value), str(value), [value])
    if isinstance(value, str):
        yield from (value + " ", value.upper(), value[:-1], [value])
    if isinstance(value, list):
        yield from (value[:-1], [*value, *value[-1:]], value[::-1], value * 2, dict.fromkeys("ab", value), [value])
    if isinstance(value, dict):
        yield from (value | {"more": 1}, [*value], [*value.values()])


def forged(content):
    """Every value of a certificate replaced, every one left out, each followed by itself again."""
    for path in places(content):
        if path:
            for lie in lies(at(content, path)):
                yield replaced(content, path, lie)
            less = copy.deepcopy(content)
            del at(less, path[:-1])[path[-1]]
            yield less
    yield content | {"remark": "and more"}
    yield content | {"checkpoint": "network.ckpt", "kind": "generic"}
    for kind in ("generic", "checkpoint", "sampled"):
        yield content | {"kind": kind}


@pytest.mark.parametrize("name", KINDS)
def test_a_forged_certificate_is_one_line(name, tmp_path):
    content, weights = made(name, tmp_path)
    file = tmp_path / "certificate.json"
    answers = {0: 0, 1: 0, 2: 0}
    file.write_text(json.dumps(content))
    assert judge(file)[0] == 0
    for index, forgery in enumerate(forged(content)):
        file = tmp_path / f"{index}.json"
        file.write_text(json.dumps(forgery))
        started = time.perf_counter()
        code, line = judge(file)
        assert time.perf_counter() - started < 10, line
        assert line.split()[0] == ("holds", "REJECTED", "UNCHECKED")[code]
        assert line.isascii()
        assert line.isprintable()
        answers[code] += 1
        if code == 0:  # as text: 1, 1.0 and true are not the same
            assert json.dumps(forgery, sort_keys=True) == json.dumps(again(forgery, weights), sort_keys=True)
    assert answers[1] > 300
    assert answers[2] > 40
    assert answers[0] < 60


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)


@pytest.mark.parametrize("name", ["generic, odd", "staircase, odd", "sampled units"])
@given(data=st.data())
def test_any_value_at_any_place_is_rejected_or_has_its_form(name, data, tmp_path_factory):
    content, _ = made(name, tmp_path_factory.getbasetemp())
    path = data.draw(st.sampled_from([path for path in places(content) if path and path != ("kind",)]))
    answer = "for the count to judge"
    try:
        check_claims(replaced(content, path, data.draw(JSON)))
    except Rejected as why:  # and no other exception
        answer = str(why)
    assert answer.isascii()
    assert len(answer) < 300


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"sites": 100_000, "mode_size": 100_000, "rank": 100_000}, "T has 10,000,000,000 rows"),
        ({"mode_size": 10**9}, "mode_size is 1000000000, the limit is 100,000"),
        ({"sites": 10**12}, "sites is 1000000000000, the limit is 100,000"),
        ({"mode_size": 64, "rank": 64, "primes": [2**61 - 1]}, "would take about 0.8 hours, the limit is 0.6"),
        (
            {"mode_size": 64, "rank": 64, "primes": [2**64 - 59, 2**64 - 83, 2**64 - 95, 2**64 - 179]},
            "would take about 3.1 hours",
        ),
        ({"seed": 2**63}, "seed is 9223372036854775808, the limit is"),
        ({"sites": 8}, "cp_rank_at_least is 32, but should be 128"),
        ({"sites": 100_000}, "cp_rank_at_least is 32, but should be an integer of 13,288 bits"),
    ],
)
def test_sizes_in_a_certificate_are_checked_before_any_work(changes, why, tmp_path):
    file = tmp_path / "certificate.json"
    file.write_text(json.dumps(generic_certificate(4, 2, 6) | changes))
    started = time.perf_counter()
    code, line = judge(file)
    assert time.perf_counter() - started < 2
    assert (code, why in line) == (1, True), line


@pytest.mark.parametrize("kind", ["generic", "staircase", "sampled tree"])
def test_unusual_json_is_read_or_refused(kind, tmp_path):
    content, _ = made(kind, tmp_path)
    file, text = tmp_path / "certificate.json", json.dumps(content)
    for old, new, code in (
        ('"mode_size": 4', '"mode_size": 4e400', 1),
        ('"mode_size": 4', '"mode_size": ' + "[" * 100_000 + "]" * 100_000, 2),
        ('"mode_size": 4', '"mode_size": ' + "[" * 900 + "]" * 900, 1),
        ('"mode_size": 4', '"\\u006dode_size": 4', 0),
        ('"kind"', '"kind\\u0000"', 2),
    ):
        assert old in text
        file.write_text(text.replace(old, new))
        assert judge(file)[0] == code, new[:40]
    file.write_bytes(text.encode("utf-16"))
    assert judge(file)[0] == 0
    file.write_bytes(text.encode() + b"\xff")
    assert judge(file)[0] == 2


def test_the_path_of_the_checkpoint_is_checked(tmp_path):
    content, _ = made("staircase", tmp_path)
    file, network = tmp_path / "certificate.json", tmp_path / "network.ckpt"
    for place in (5, None, "", ".", "/etc/passwd", "~/network.ckpt", "~root/x", "a\nb", "x" * 5000, ["a"]):
        file.write_text(json.dumps(content | {"checkpoint": place}))
        code, line = judge(file, network)
        assert code == 1
        assert "REJECTED" in line
        assert "checkpoint is" in line
    file.write_text(json.dumps(content | {"checkpoint": "../checkpoints/last.ckpt"}))
    assert judge(file, network)[0] == 0
    assert judge(file)[0] == 2
    file.write_text(json.dumps(content | {"checkpoint": "y" * 4000}))
    assert "cannot be read: File name too long" in judge(file)[1]
    for place, why in (("y" * 4000, "File name too long"), ("~nobody-of-this-name/x", "no user has that name")):
        code, line = judge(file, Path(place))
        assert (code, why in line) == (2, True), line


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[NETWORK_KEY].update(sites=10**18),
        lambda content: content[NETWORK_KEY].update(sites=100_000, mode_size=100_000, rank=100_000, classes=100_000),
        lambda content: content[NETWORK_KEY].update(mode_size=-1),
        lambda content: content["state_dict"].update({"format.last": torch.zeros(1).expand(10**6, 10**6)}),
        lambda content: content["state_dict"].update({"format.last": 3}),
        lambda content: content["state_dict"].update({"format.last": torch.eye(3).to_sparse()}),
        lambda content: content.update(state_dict={}),
    ],
)
def test_a_checkpoint_that_claims_more_than_it_has(damage, tmp_path):
    content, _ = made("staircase", tmp_path)
    network = torch.load(tmp_path / "network.ckpt", weights_only=True)
    damage(network)
    SafeCheckpointIO().save_checkpoint(network, tmp_path / "network.ckpt")
    file = tmp_path / "certificate.json"
    file.write_text(json.dumps(content))
    code, line = judge(file)
    assert code == 2
    assert line.startswith("UNCHECKED")


def test_a_damaged_checkpoint_is_one_line(tmp_path):
    """Bytes of its pickled part changed, and others: what the unpickler makes of them is no traceback."""
    content, _ = made("staircase", tmp_path)
    file, whole = tmp_path / "certificate.json", (tmp_path / "network.ckpt").read_bytes()
    file.write_text(json.dumps(content))
    place, draw = whole.index(b"data.pkl"), random.Random(0)
    for index in range(400):
        damaged = bytearray(whole)
        damaged[place + draw.randrange(1200) if index % 4 else draw.randrange(len(whole))] = draw.randrange(256)
        network = tmp_path / f"{index}.ckpt"
        network.write_bytes(damaged[: draw.randrange(len(whole))] if index % 20 == 0 else damaged)
        code, line = judge(file, network)
        assert line.split()[0] == ("holds", "REJECTED", "UNCHECKED")[code]
        assert line.isprintable()
    network.write_bytes(whole)
    assert judge(file, network)[0] == 0


def test_unprintable_file_names_are_escaped(command):
    names = ["[red].json", "a\nholds b.json", "\udcff.json", "[bold]é.json"]
    for name in names:
        (command.folder / name).write_text(json.dumps(generic_certificate(3, 2, 4)))
    lines = command("verify", *names).stdout.splitlines()
    assert [line.split(" (")[0] for line in lines] == [
        "holds     [red].json",
        "holds     a\\nholds b.json",
        "holds     \\udcff.json",
        "holds     [bold]é.json",
    ]


def test_checking_shares_no_arithmetic_with_making():
    """Of this package, the modules that check import one another, the table of limits and the wording only."""
    checking = {
        "ttlightning.rank.verifier." + name
        for name in ("claims", "arithmetic", "scores", "verification", "independence")
    }
    shared = {"ttlightning.rank.limits", "ttlightning.rank.statements", "ttlightning.errors"}
    for module in checking | shared:
        file = Path(ttlightning.__file__).parent.joinpath(*module.split(".")[1:]).with_suffix(".py")
        for node in ast.walk(ast.parse(file.read_text())):
            names = [node.module] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert {name for name in names if name.startswith("ttlightning")} <= checking | shared, module
