"""Certificates hold where they are true, and are rejected where anything in them was changed."""

import copy
import json

import numpy as np
import pytest
import torch
from kinds import CHAINS, TREES, random_format, restore, weights_of

from ttlightning import CanonicalPolyadic, EqualCoreTensorTrain, TensorTrain, UserError
from ttlightning.rank.certificates.sampled import grid, largest_grid, sampled_certificate
from ttlightning.rank.certificates.staircase import checkpoint_certificate, generic_certificate
from ttlightning.rank.finite_field import PRIMES
from ttlightning.rank.limits import LARGEST_FILE
from ttlightning.rank.unfolding import matricization
from ttlightning.rank.verifier.arithmetic import is_prime, rank_modulo
from ttlightning.rank.verifier.verification import NoCertificate, Rejected, read_certificate, verify


def weights(kind=TensorTrain, sites=6, mode_size=5, rank=3):
    return weights_of(random_format(kind, sites, mode_size, rank))


def certificates():
    state = weights()
    yield generic_certificate(5, 3, 8), None
    yield generic_certificate(3, 5, 7), None
    yield checkpoint_certificate(restore(state, 6), "ab"), state
    yield sampled_certificate(restore(state, 6), "ab", 16), state
    equal = weights(EqualCoreTensorTrain, 7)
    yield checkpoint_certificate(restore(equal, 7), "ab"), equal
    yield sampled_certificate(restore(equal, 7), "ab", 8, seed=3), equal
    shallow = weights(CanonicalPolyadic)
    yield sampled_certificate(restore(shallow, 6), "ab", 16, primes=PRIMES), shallow
    for kind in TREES:
        tree = weights(kind, 8)
        yield sampled_certificate(restore(tree, 8), "ab", 32), tree


CERTIFICATES = [*certificates()]


@pytest.mark.parametrize(("certificate", "state"), CERTIFICATES)
def test_true_certificates_hold(certificate, state, tmp_path):
    file = tmp_path / "certificate.json"
    file.write_text(json.dumps(certificate))
    verify(read_certificate(file), state, "ab")


def test_certificates_with_large_primes_hold():
    for primes in ([2**61 - 1, 2**61 - 31], [3, 2**31 + 11]):
        state = weights()
        verify(checkpoint_certificate(restore(state, 6), "ab", primes), state, "ab")
    verify(generic_certificate(5, 3, 8, primes=[2**61 - 1]))


@pytest.mark.parametrize("sites", [66, 101])
@pytest.mark.parametrize("kind", [TensorTrain, EqualCoreTensorTrain, CanonicalPolyadic])
def test_sampled_certificates_of_long_chains_hold(kind, sites):
    """More sites than a NumPy array has axes; most sites have one feature vector, the last ones two."""
    state = weights(kind, sites, mode_size=2)
    certificate = sampled_certificate(restore(state, sites), "ab", 16)
    assert certificate["cp_rank_at_least"] == ([3, 3] if kind is CanonicalPolyadic else [16, 16])
    verify(certificate, state, "ab", sites)
    state["last" if "last" in state else "weights"][..., 1] = 0
    with pytest.raises(Rejected, match="the rank of scores modulo"):
        verify(certificate, state, "ab", sites)


@pytest.mark.parametrize("mode_size", [2, 5, 12])
@pytest.mark.parametrize("kind", CHAINS)
@pytest.mark.parametrize("sites", [2, 3, 5, 6])
def test_checkpoint_certificates_of_all_shapes_hold(sites, mode_size, kind):
    """n < r, n <= r^2 and n > r^2; also with a slice that is zero."""
    state = weights(kind, sites, mode_size)
    for _ in range(2):
        verify(checkpoint_certificate(restore(state, sites), "ab"), state, "ab")
        if sites > 2:
            state["interior"][:, 0] = 0


def changed(certificate, **changes):
    return copy.deepcopy(certificate) | changes


GENERIC, CHECKPOINT, SAMPLED = (CERTIFICATES[i][0] for i in (0, 2, 3))
FORGERIES = {
    "rank raised everywhere": json.loads(json.dumps(GENERIC).replace("375", "376")),
    "pair rank claimed": changed(GENERIC, ranks=[GENERIC["ranks"][0] | {"pairs": [15, 15, 16]}] * 2),
    "even prime": changed(GENERIC, primes=[2]),
    "classes raised": changed(CHECKPOINT, cp_rank_at_least=[76, 76]),
    "class rank raised": changed(CHECKPOINT, ranks=[CHECKPOINT["ranks"][0] | {"last": [4, 4]}] * 2),
    "slices of text": changed(CHECKPOINT, slices=["01234"]),
    "sampled ranks": changed(SAMPLED, ranks=[[17, 16]]),
    "prime too large for a sample": changed(SAMPLED, primes=[2**61 - 1]),
}
"""Consistent changes of several values; rank/verifier/test_forged.py changes every single one."""


@pytest.mark.parametrize("name", FORGERIES)
def test_forgeries_are_rejected(name):
    with pytest.raises(Rejected):
        verify(FORGERIES[name], CERTIFICATES[2][1], "ab")


(SHALLOW, SHALLOW_STATE), (TREE, TREE_STATE) = CERTIFICATES[6:8]
OF_OTHER_FORMATS = {
    "units raised": (changed(SHALLOW, ranks=[[4, 4]] * 2, cp_rank_at_least=[4, 4]), SHALLOW_STATE),
    "units hidden": (changed(SHALLOW, statement=SHALLOW["statement"].split(" None")[0]), SHALLOW_STATE),
    "a chain's certificate for units": (changed(SAMPLED), SHALLOW_STATE),
    "a staircase of units": (changed(CHECKPOINT), SHALLOW_STATE),
    "a staircase of a tree": (changed(CHECKPOINT, sites=8), TREE_STATE),
    "units for a chain": (changed(SHALLOW), CERTIFICATES[2][1]),
    "rank raised": (changed(TREE, ranks=[[28, 28]], cp_rank_at_least=[28, 28]), TREE_STATE),
    "another seed": (changed(TREE, seed=1, ranks=[[27, 28]]), TREE_STATE),
    "half of a tree": (changed(TREE), {name: value for name, value in TREE_STATE.items() if name != "nodes.1"}),
    "nothing": (changed(TREE), {}),
    "not a number": (changed(TREE), TREE_STATE | {"root": TREE_STATE["root"] * float("nan")}),
    "no classes": (changed(TREE), TREE_STATE | {"root": TREE_STATE["root"][..., :0]}),
    "a root of zeros": (changed(TREE), TREE_STATE | {"root": torch.zeros_like(TREE_STATE["root"])}),
}


@pytest.mark.parametrize("name", OF_OTHER_FORMATS)
def test_forgeries_of_other_formats_are_rejected(name):
    certificate, state = OF_OTHER_FORMATS[name]
    with pytest.raises(Rejected):
        verify(certificate, state, "ab")


def test_another_number_of_equal_cores_is_rejected():
    """Its weights do not say how many sites there are: a true count of a longer chain is not one of this network."""
    state = weights(EqualCoreTensorTrain, 7)
    longer = sampled_certificate(restore(state, 9), "ab", 8)
    verify(longer, state, "ab")
    with pytest.raises(Rejected, match="is for 9 sites, the checkpoint has 7"):
        verify(longer, state, "ab", 7)


def test_changed_weights_are_rejected():
    """The hash of the file is right, the weights are not those that it was made from."""
    state = {name: value.clone() for name, value in CERTIFICATES[2][1].items()}
    state["interior"][0, :, :, 1] = state["interior"][0, :, :, 0]
    with pytest.raises(Rejected, match="counting gives"):
        verify(CHECKPOINT, state, "ab")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (json.dumps(GENERIC)[:-20], "not a whole JSON file"),
        ("", "not a whole JSON file"),
        ("[" * 100_000, "not a whole JSON file"),
        ("[1, 2]", "not a rank certificate"),
        ('{"metrics": {}}', "not a rank certificate"),
        (json.dumps(changed(GENERIC, version=3)), "of version 3, this program knows 4: certify again"),
        (json.dumps(changed(GENERIC, version=True)), "of version True"),
        (json.dumps(changed(GENERIC, version=[])), "of version a list of 0"),
        (json.dumps(changed(GENERIC, kind="magic\nholds")), r"unknown kind 'magic\\nholds'"),
        (json.dumps(changed(GENERIC, kind=["generic"])), "unknown kind"),
        (json.dumps(changed(GENERIC, seed=float("inf"))), "Infinity is no number"),
        ('{"seed": ' + "9" * 5000 + "}", "not a whole JSON file"),
        (" " * (LARGEST_FILE + 1), "larger than 67,108,864 bytes"),
        (json.dumps(GENERIC)[:-1] + ', "seed": 1}', "a name stands twice"),
    ],
)
def test_files_that_are_no_certificates(text, why, tmp_path):
    file = tmp_path / "file.json"
    file.write_text(text)
    with pytest.raises(NoCertificate, match=why):
        read_certificate(file)


def test_verification_needs_the_checkpoint(tmp_path):
    with pytest.raises(UserError, match="--checkpoint"):
        verify(CHECKPOINT)
    with pytest.raises(UserError, match="cannot be read"):
        read_certificate(tmp_path / "absent.json")


def test_a_sampled_certificate_sees_a_low_rank():
    """Equal slices: the tensor has rank 1 in disguise, whatever its sizes say."""
    state = weights()
    state["interior"][:] = state["interior"][:, :1].clone()
    state["first"][:] = state["first"][:1].clone()
    state["last"][:] = state["last"][:1].clone()
    certificate = sampled_certificate(restore(state, 6), "ab", 8)
    assert certificate["cp_rank_at_least"] == [1, 1]
    verify(certificate, state, "ab")
    staircase = checkpoint_certificate(restore(state, 6), "ab")["cp_rank_at_least"]
    assert max(staircase) <= 1


def test_sampled_ranks_stay_below_the_literal_one():
    state = weights(mode_size=4)
    format = TensorTrain(6, 4, 2, 3).double()
    format.load_state_dict(state)
    true = torch.linalg.matrix_rank(matricization(format)).tolist()
    for size in (1, 2, 4, 8, 16, 32, 64):
        found = sampled_certificate(restore(state, 6), "ab", size)["cp_rank_at_least"]
        assert all(f <= min(size, t) for f, t in zip(found, true, strict=True))
    assert found == true == [48, 48]


def test_sizes_beyond_the_limits_are_refused():
    with pytest.raises(UserError, match="the limit is 4,096"):
        sampled_certificate(restore(weights(CanonicalPolyadic, 16, 4), 16), "ab", 8192)
    with pytest.raises(UserError, match="T has 16,777,216 rows"):
        generic_certificate(4096, 4096, 4)


def test_impossible_grids_are_refused():
    assert grid(16, 17, 16) == [1] * 8 + [2] * 8
    with pytest.raises(UserError, match="power of two"):
        grid(12, 17, 16)
    with pytest.raises(UserError, match="the largest for 6 sites of mode size 3 is 8: each site"):
        grid(16, 3, 6)


@pytest.mark.parametrize("size", [1, 2, 3, 64, 100, 5000])
@pytest.mark.parametrize("mode_size", [1, 2, 3, 4, 17])
@pytest.mark.parametrize("sites", [2, 3, 5, 16])
def test_the_largest_grid_is_the_largest(size, mode_size, sites):
    found = largest_grid(size, mode_size, sites)
    assert found <= size
    counts = grid(found, mode_size, sites)
    assert np.prod(counts[0::2]) == np.prod(counts[1::2]) == found
    if 2 * found <= size:
        with pytest.raises(UserError):
            grid(2 * found, mode_size, sites)


def test_primes_and_elimination():
    found = [n for n in range(200) if is_prime(n)]
    assert found == [n for n in range(2, 200) if all(n % k for k in range(2, n))]
    assert is_prime(2**61 - 1)
    assert is_prime(2**61 - 31)
    assert is_prime(2**31 - 19)
    assert not is_prime(3215031751)  # a pseudoprime to the bases 2, 3, 5 and 7
    for p in (7, 2**31 - 1, 2**61 - 1):
        assert rank_modulo([[1, 2], [2, 4]], p) == 1
        assert rank_modulo([[1, 2], [2, 5]], p) == 2
        assert rank_modulo([], p) == 0
