"""Certificates of width: what honest ones say, on all formats and activations, and what forged ones are answered."""

import hashlib
import json
import time

import pytest
import torch
from kinds import FORMATS, random_format
from test_forged import forged

from ttlightning.commands.width import check_width
from ttlightning.networks.features import ACTIVATIONS, PatchFeatureMap
from ttlightning.networks.network import Network
from ttlightning.rank.certificates.width import width_certificate
from ttlightning.rank.statements import width_statement
from ttlightning.rank.verifier.claims import Rejected, check_claims
from ttlightning.rank.verifier.width import verify_width
from ttlightning.rank.width.images import mixed_scores, side_by_side, without_common
from ttlightning.runs.checkpoints import weights_sha256


class Case:
    """A network with random weights, random images, and the certificate of its width."""

    def __init__(self, kind, sites=4, activation="relu", constant=True, dtype=torch.float32, images=10, hidden=None):
        torch.manual_seed(0)
        features = PatchFeatureMap(3, 5, activation, constant, hidden)
        self.network = Network(features, random_format(kind, sites, 5, 4, classes=3), 0.13).to(dtype)
        self.patches = torch.rand(images, sites, 3, generator=torch.Generator().manual_seed(3))
        self.numbers = self.patches.numpy().astype("<f4").tobytes()
        self.state = self.network.state_dict()
        self.sha256 = weights_sha256(self.state)
        images_sha256 = hashlib.sha256(self.numbers).hexdigest()
        self.content = width_certificate(self.network, self.sha256, self.patches, images_sha256)

    def judge(self, content=None, state=None, numbers=None):
        """None if the certificate holds, else why it does not."""
        content = self.content if content is None else content
        state = self.state if state is None else state
        try:
            check_claims(content)
            verify_width(content, state, weights_sha256(state), self.numbers if numbers is None else numbers)
        except Rejected as why:
            return str(why)
        return None

    def with_units(self, units):
        permille, images = self.content["permille"], self.content["images"]
        said = width_statement(permille, units, images, self.content["activation"], self.content["pixel_mean"])
        return self.content | {"units_at_least": units, "statement": said}


def assert_right_and_tight(case):
    """It holds, and with one unit more it is rejected wherever that is false."""
    assert case.judge() is None
    features = case.network.double().embed(case.patches.double())
    matrix, _ = side_by_side(without_common(mixed_scores(case.network.format, features)))
    values = torch.linalg.svdvals(matrix)
    tails = values.square().flip(0).cumsum(0).flip(0).sqrt() / values.norm()
    for index, permille in enumerate(case.content["permille"]):
        units = case.content["units_at_least"]
        least = int((tails > permille / 1000).sum())
        assert units[index] in (least, least - int((tails / (permille / 1000) - 1).abs().min() < 1e-3))
        more = [*units[:index], *(max(u, least + 1) for u in units[index:])]
        if least < len(case.patches):
            assert "hidden units for" in case.judge(case.with_units(more))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sites", [2, 4, 8])
@pytest.mark.parametrize("kind", FORMATS)
def test_of_every_format(kind, sites, dtype):
    assert_right_and_tight(Case(kind, sites, dtype=dtype))


@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_of_every_activation(activation, constant):
    assert_right_and_tight(Case(FORMATS[1], 5, activation, constant))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("activation", ["relu", "gelu", "tanh"])
def test_of_features_with_a_hidden_layer(activation, dtype):
    case = Case(FORMATS[0], 4, activation, dtype=dtype, hidden=6)
    assert_right_and_tight(case)
    for name in ("features.hidden.weight", "features.hidden.bias"):
        less = {key: value for key, value in case.state.items() if key != name}
        assert case.judge(case.content | {"weights_sha256": weights_sha256(less)}, less) is not None
    same = case.state | {"features.hidden.weight": 0 * case.state["features.hidden.weight"]}  # for all images
    assert "hidden units for" in case.judge(case.content | {"weights_sha256": weights_sha256(same)}, same)


@pytest.mark.parametrize("kind", FORMATS)
def test_forged_ones_are_rejected_soon(kind):
    """Every field replaced, left out or added to: rejected in one line, or the honest certificate again."""
    case, rejected = Case(kind, images=4), 0
    for content in forged(case.content):
        if any(repr(content.get(name)) != repr(case.content[name]) for name in ("certificate", "version", "kind")):
            continue  # read_certificate has refused it, or it is of another kind
        started = time.perf_counter()
        why = case.judge(content)
        assert time.perf_counter() - started < 5
        if why is None:
            assert json.dumps(content, sort_keys=True) == json.dumps(case.content, sort_keys=True)
            continue
        rejected += 1
        assert why.isprintable()
        assert "\n" not in why
    assert rejected > 500


def test_other_weights_and_other_images():
    case = Case(FORMATS[0])
    one_bit = bytearray(case.numbers)
    one_bit[5] ^= 1
    assert "for other images" in case.judge(numbers=bytes(one_bit))
    moved = case.state | {"format.last": case.state["format.last"] * 1.5}
    assert "for other weights" in case.judge(state=moved)
    honest_hash = case.content | {"weights_sha256": weights_sha256(moved)}
    assert case.judge(honest_hash, moved) is None, "a factor of all scores changes no relative error"
    other = torch.rand(10, 4, 3, generator=torch.Generator().manual_seed(9)).numpy().astype("<f4").tobytes()
    claims = case.with_units([10] * 6) | {"images_sha256": hashlib.sha256(other).hexdigest()}
    assert "more than counting gives" in case.judge(claims, numbers=other)
    short = case.numbers[:-4]
    assert "the images are not" in case.judge(
        case.content | {"images_sha256": hashlib.sha256(short).hexdigest()}, numbers=short
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 3e38])
def test_pixels_that_are_no_numbers_or_huge(value):
    """Not finite: rejected. Huge: balls have no range to leave."""
    case = Case(FORMATS[0])
    patches = case.patches.clone()
    patches[3, 2, 1] = value
    numbers = patches.numpy().astype("<f4").tobytes()
    why = case.judge(case.content | {"images_sha256": hashlib.sha256(numbers).hexdigest()}, numbers=numbers)
    assert "not a number" in why if value != 3e38 else "more than counting gives" in why


def test_weights_without_scores_certify_nothing():
    """All scores equal for all classes: no unit is needed, and a claim of one is rejected."""
    case = Case(FORMATS[0])
    with torch.no_grad():
        case.network.format.last[:] = case.network.format.last[:, :, :1]
    state = case.network.state_dict()
    content = width_certificate(case.network, weights_sha256(state), case.patches, case.content["images_sha256"])
    assert content["units_at_least"] == [0] * 6
    assert case.judge(content, state) is None
    claims = case.with_units([1] * 6) | {"weights_sha256": weights_sha256(state)}
    assert "more than counting gives" in case.judge(claims, state)


def test_through_the_command(command, tmp_path):
    """certify --width on the run's own test set and on given pictures; verify; every mistake in one line."""
    command.finished("--config=debug.yaml", "--data.dataset=mnist")
    said = command("certify", "runs/debug/0", "--width=8").stdout
    assert "on the 8 x 8 images" in said
    file = command.folder / "runs/debug/0/rank/certificate-width-8.json"
    images = file.with_suffix(".images")
    assert command("verify", str(file)).stdout.startswith("holds")
    for words, why in (
        ("--width=8", "is left as it is"),
        ("--width=1", "images is 1, it must be at least 2"),
        ("--width=2000", "images is 2000, the limit is 1,024"),
        ("--width=60", "--width is 60, there are 50 images"),
        ("--width=8 --sampled=4", "--sampled is for a certificate of the rank"),
        ("--width=8 --features=true --output=b.json", "--features is for a certificate of the rank"),
        ("--images=[a.png]", "--images is for --width"),
        ("--width=8 --images=[a.png] --output=b.json", "a.png does not exist"),
    ):
        done = command("certify", "runs/debug/0", *words.split(), code=2)
        assert why in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
    assert not (command.folder / "b.images").exists()
    content, numbers = json.loads(file.read_text()), images.read_bytes()
    images.write_bytes(numbers[:-1])
    assert "REJECTED" in command("verify", str(file), code=1).stdout
    images.unlink()
    assert "cannot be read" in command("verify", str(file), code=2).stdout
    images.write_bytes(numbers)
    file.write_text(json.dumps(content | {"pixel_mean": content["pixel_mean"] + 0.5}))
    assert "REJECTED" in command("verify", str(file), code=1).stdout
    checkpoint = command.folder / "runs/debug/0/checkpoints/last.ckpt"
    for forgery, why in (
        ({"activation": "tanh"}, "activation is 'tanh', but should be 'relu'"),
        ({"sites": 2, "images": 16}, "sites is 2, but should be 4"),  # as many numbers
    ):
        with pytest.raises(Rejected, match=why):
            check_width(content | forgery, file, checkpoint)


def test_pictures_in_place_of_the_test_set(command):
    """The same pictures as the test set's first ones: the same certificate."""
    command.finished("--config=debug.yaml", "--data.dataset=mnist")
    [test_set] = command.data.rglob("t10k-images-idx3-ubyte*")
    command("certify", "runs/debug/0", "--width=8")
    command("certify", "runs/debug/0", "--width=8", f"--images=[{test_set}]", "--output=own.json")
    own = json.loads((command.folder / "own.json").read_text())
    theirs = json.loads((command.folder / "runs/debug/0/rank/certificate-width-8.json").read_text())
    assert own.pop("checkpoint") != theirs.pop("checkpoint")
    assert own == theirs
    assert command("verify", "own.json").stdout.startswith("holds")
