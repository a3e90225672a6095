"""What is certified is verified: every format, type of weights and parity, with what is zero, and at the limits."""

import json
import math
from types import SimpleNamespace

import pytest
import torch
from kinds import CHAINS, FORMATS, TREES, random_format, restore, weights_of
from rich.console import Console
from tensor_ring import TensorRing
from torch import nn

from ttlightning import CanonicalPolyadic, EqualCoreTensorTrain, HierarchicalTucker, TensorTrain, UserError
from ttlightning.formats.bounds import generic_odd_even_rank
from ttlightning.rank.bounds import in_figures
from ttlightning.rank.certificates.files import write_certificate
from ttlightning.rank.certificates.sampled import largest_grid, sampled_certificate
from ttlightning.rank.certificates.staircase import checkpoint_certificate, generic_certificate
from ttlightning.rank.limits import LARGEST, LARGEST_BOUND
from ttlightning.rank.measures import measure_ranks
from ttlightning.rank.spectrum import entropy
from ttlightning.rank.unfolding import matricization
from ttlightning.rank.verifier.arithmetic import is_prime
from ttlightning.rank.verifier.verification import Rejected, read_certificate, verify
from ttlightning.runs.checkpoints import NETWORK_KEY, weights_sha256
from ttlightning.runs.files import read_json, write_json
from ttlightning.runs.run import Run
from ttlightning.training.callbacks import RankCheck
from ttlightning.training.callbacks.progress import describe_result, print_lines
from ttlightning.training.checkpoint_io import SafeCheckpointIO

REAL = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
SITE = {"interior", "factors", "leaves"}
END = {"last", "weights", "root"}


def certified(state, sites, mode_size=3):
    """Every kind of certificate that there is of these weights."""
    yield sampled_certificate(restore(state, sites), "ab", largest_grid(4, mode_size, sites))
    if "first" in state:
        yield checkpoint_certificate(restore(state, sites), "ab")


def zeroed(state, which):
    """The same with zeros: in one slice of all sites, in a whole site, in a class, everywhere."""
    state = {name: value.clone() for name, value in state.items()}
    for name, value in state.items():
        if which == "everything":
            value[:] = 0
        if which == "slice" and name in SITE:
            value[:, 0] = 0
        if which == "site" and name in SITE and len(value):
            value[-1] = 0
        if which == "class" and name in END:
            value[..., 0] = 0
    return state


@pytest.mark.parametrize("which", ["nothing", "slice", "site", "class", "everything"])
@pytest.mark.parametrize("kind", FORMATS)
def test_every_certificate_holds_and_is_true(kind, which, tmp_path):
    """Its bound is no more than the rank of the whole matricization."""
    for sites in (2, 4) if kind in TREES else (2, 3, 4, 5, 6):
        for type in REAL:
            state = zeroed(weights_of(random_format(kind, sites, 3, 2), type), which)
            exact = random_format(kind, sites, 3, 2).double()
            exact.load_state_dict(state)
            true = torch.linalg.matrix_rank(matricization(exact)).tolist()
            for index, certificate in enumerate(certified(state, sites)):
                file = tmp_path / f"{sites}-{index}-{type}.json"
                write_certificate(file, certificate)
                verify(read_certificate(file), state, "ab", sites)
                found = certificate["cp_rank_at_least"]
                assert all(0 <= bound <= rank for bound, rank in zip(found, true, strict=True))
                assert found == true or certificate["kind"] == "sampled" or which in ("slice", "site")
                if which == "everything" or (which == "class"):
                    assert found[0] == 0


@pytest.mark.parametrize("type", [torch.complex64, torch.complex128, torch.int64, torch.uint8, torch.bool])
@pytest.mark.parametrize("kind", [TensorTrain, CanonicalPolyadic, HierarchicalTucker])
def test_weights_that_are_not_real_are_refused(kind, type):
    state = weights_of(random_format(kind, 4, 3, 2))
    for certificate in certified(state, 4):
        with pytest.raises(Rejected, match=f"are {str(type).removeprefix('torch.')}, a certificate needs float16"):
            verify(certificate, {name: value.to(type) for name, value in state.items()}, "ab", 4)
    with pytest.raises(UserError, match=f"are {str(type).removeprefix('torch.')}, a certificate needs float16"):
        [*certified({name: value.to(type) for name, value in state.items()}, 4)]
    if kind is TensorTrain:
        with pytest.raises(UserError, match="a certificate needs float16"):
            checkpoint_certificate(restore({name: value.to(type) for name, value in state.items()}, 4), "ab")


@pytest.mark.parametrize("type", REAL)
def test_a_checkpoint_of_any_type_is_certified(command, type):
    format = random_format(EqualCoreTensorTrain, 5, 3, 2).to(type)
    state = {f"format.{name}": value for name, value in format.state_dict().items()}
    sizes = {"format": "EqualCoreTensorTrain", "sites": 5, "mode_size": 3, "classes": 2, "rank": 2}
    SafeCheckpointIO().save_checkpoint({"state_dict": state, NETWORK_KEY: sizes}, command.folder / "network.ckpt")
    command("certify", "network.ckpt", "--output=a.json")
    command("certify", "network.ckpt", "--output=b.json", "--sampled=4")
    lines = command("verify", "a.json", "b.json").stdout.splitlines()
    assert "CP-rank at least 9 each" in lines[0]
    assert "CP-rank at least 4 each" in lines[1]


@pytest.mark.parametrize(("name", "least"), [("mode_size", 1), ("rank", 1), ("sites", 2), ("seed", 0)])
def test_certificates_and_verifier_have_the_same_ranges(name, least):
    sizes = {"mode_size": 2, "rank": 2, "sites": 4, "seed": 0}
    honest = generic_certificate(**sizes)
    for value in (least, LARGEST[name]):
        verify(json.loads(json.dumps(generic_certificate(**sizes | {name: value}))))
    for value, why in ((least - 1, "must be at least"), (LARGEST[name] + 1, "the limit is")):
        with pytest.raises(UserError, match=f"{name} is {value}, .*{why}"):
            generic_certificate(**sizes | {name: value})
        with pytest.raises(Rejected, match=f"{name} is {value}, .*{why}"):
            verify(honest | {name: value})


LARGE = [(4096, 1, 2), (64, 64, 6), (65, 64, 6), (5000, 3, 8), (2, 5, 3)]


@pytest.mark.parametrize(("mode_size", "rank", "sites"), LARGE)
def test_certificates_and_verifier_have_the_same_limits(mode_size, rank, sites):
    """Of the larger ones without counting: what is refused is said in the same words."""
    claims = {"mode_size": mode_size, "rank": rank, "sites": sites}
    if mode_size * rank > 4096 and min(mode_size, rank) ** 2 * min(mode_size, rank) > 4096:
        with pytest.raises(UserError, match="T has 4,160 rows") as refused:
            generic_certificate(mode_size, rank, sites)
        with pytest.raises(Rejected) as rejected:
            verify(generic_certificate(2, 2, 4) | claims)
        assert str(refused.value) == str(rejected.value)
    elif mode_size * rank < 4096 or rank <= 3:
        verify(json.loads(json.dumps(generic_certificate(mode_size, rank, sites))))


def test_different_cores_that_take_hours_are_refused_before_they_are_counted():
    state = weights_of(random_format(TensorTrain, 8, 64, 64))
    primes = [p for p in range(2**31 - 1, 2**31 - 500, -2) if is_prime(p)][:8]
    with pytest.raises(UserError, match=r"would take about 1\.0 hours, the limit is 0\.6"):
        checkpoint_certificate(restore(state, 8), "ab", primes)


def test_bounds_longer_than_python_writes(tmp_path):
    """d = 8192, n = 16, r = 4: a rank of 4,932 digits; what is written down is 10^4000, which is a bound too."""
    format = random_format(EqualCoreTensorTrain, 8192, 16, 4)
    certificate = checkpoint_certificate(restore(weights_of(format), 8192), "ab")
    assert certificate["cp_rank_at_least"] == [LARGEST_BOUND] * 2
    assert "CP-rank at least 10^4000 each" in certificate["statement"]
    write_certificate(tmp_path / "certificate.json", certificate)
    verify(read_certificate(tmp_path / "certificate.json"), weights_of(format), "ab", 8192)
    with pytest.raises(Rejected, match="should be"):
        verify(certificate | {"cp_rank_at_least": [LARGEST_BOUND - 1] * 2}, weights_of(format), "ab", 8192)
    assert in_figures(generic_odd_even_rank(16, 4, 8192)) == "2.97e+4931"
    generic = generic_certificate(16, 4, 8192)
    verify(json.loads(json.dumps(generic)))
    assert "has CP-rank at least 10^4000 over" in generic["statement"]
    short = generic_certificate(16, 4, 6000)
    assert short["cp_rank_at_least"] == [4 * 16**2999]  # 3,612 digits
    found = measure_ranks(format, 2, 1e-6, 0)
    assert found["bound"] == LARGEST_BOUND
    assert found["bound_published"] == 3**4096
    write_json(tmp_path / "result.json", found)
    assert read_json(tmp_path / "result.json") == found


class Module(nn.Module):
    """As much of a classifier as the check looks at."""

    def __init__(self, format):
        super().__init__()
        self.format = format


def checked(format, folder):
    """The record that fit keeps at its end, and the module."""
    trainer = SimpleNamespace(
        is_global_zero=True, current_epoch=1, global_step=7, loggers=[], datamodule=None, run=Run(folder)
    )
    check, module = RankCheck(sketch_size=4), Module(format)
    check.on_fit_end(trainer, module)
    assert RankCheck().load_state_dict(check.state_dict()) is None  # it fits into a checkpoint, and is read again
    return check.latest, module


@pytest.mark.parametrize("sites", [4, 5])
@pytest.mark.parametrize("kind", CHAINS)
def test_fit_certifies_a_site_of_zeros(kind, sites, tmp_path):
    format = random_format(kind, sites, 3, 2)
    with torch.no_grad():
        format.interior[-1] = 0
        format.interior[0] *= 1e3  # the condition of a singular T is more than a float
    latest, module = checked(format, tmp_path)
    assert latest["certified"] == [0, 0]
    assert latest["entropy"] == [0, 0]
    assert json.loads(json.dumps(latest, allow_nan=False)) == latest
    verify(
        read_certificate(Run(tmp_path).certificate_file), weights_of(format), weights_sha256(module.state_dict()), sites
    )


def test_fit_of_long_chains_ends_with_a_certificate(tmp_path):
    latest, _ = checked(random_format(EqualCoreTensorTrain, 8192, 16, 4), tmp_path)
    assert latest["certified"] == [LARGEST_BOUND] * 2
    assert latest["bound"] == LARGEST_BOUND
    write_json(tmp_path / "result.json", {"rank": latest})
    assert read_json(tmp_path / "result.json")["rank"] == latest
    assert read_certificate(Run(tmp_path).certificate_file)["statement"] == latest["statement"]


def test_fit_says_why_a_network_has_no_certificate(tmp_path):
    file = Run(tmp_path).certificate_file
    file.parent.mkdir()
    file.write_text("of other weights")
    latest, _ = checked(random_format(CanonicalPolyadic, 2, 1, 100_001), tmp_path)
    assert latest["not_certified"] == "rank is 100001, the limit is 100,000"
    assert "certified" not in latest
    assert not file.exists()
    console = Console(width=100)
    with console.capture() as said:
        print_lines(console, describe_result({"metrics": {}, "rank": latest}, tmp_path))
    assert "certified   nothing: rank is 100001, the limit is 100,000" in said.get()


def test_fit_does_not_say_zero_times_the_parameters(tmp_path):
    latest, _ = checked(random_format(EqualCoreTensorTrain, 2, 2, 6), tmp_path)
    assert latest["shallow_over_chain"] == 0
    said = describe_result({"metrics": {}, "rank": latest}, tmp_path)["certified"]
    assert said.endswith("; a shallow network of this width has fewer parameters")


def test_the_entropy_of_nothing_is_zero():
    assert entropy(torch.zeros(2, 3)).tolist() == [0, 0]
    assert entropy(torch.tensor([[2.0, 2, 0], [0, 0, 0]])).tolist() == pytest.approx([math.log(2), 0])


def test_a_certificate_that_cannot_be_written_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="limit"):
        write_certificate(tmp_path / "c.json", {"bound": 10**5000})
    with pytest.raises(UserError, match="bytes, the limit is"):
        write_certificate(tmp_path / "c.json", {"text": "x" * 2**26})
    assert not [*tmp_path.iterdir()]


def test_a_format_without_an_entry_in_the_verifiers_table_is_not_rejected():
    """Nothing was counted, so nothing is known to be false."""
    ring = TensorRing(4, 3, 2)
    certificate = sampled_certificate(ring, "0" * 64, 4)
    with pytest.raises(UserError, match="no formula for a network with the parameters closing, ring"):
        verify(certificate, dict(ring.named_parameters()), "0" * 64, 4)
