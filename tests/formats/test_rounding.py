"""Rounding: against dense tensors, the classic bound, the identity at full rank, equal cores that stay equal."""

import pytest
import torch
from kinds import CHAINS, FORMATS, random_format

from ttlightning import CanonicalPolyadic, EqualCoreTensorTrain, TensorTrain, UserError
from ttlightning.formats.rounding import (
    equal_chain,
    fit_equal,
    project_equal,
    relative_error,
    round_chain,
    square_roots,
    with_ridge,
)

SIZES = [(2, 3, 4, 2), (3, 2, 5, 3), (4, 5, 3, 2), (5, 3, 3, 1)]
"""sites, mode size, TT-rank, smaller rank: n < r and n > r, an even and an odd number of sites"""


def dense(cores):
    """All entries, (n, ..., n, classes)."""
    tensor = torch.ones(1, dtype=cores[0].dtype)
    for core in cores:
        tensor = torch.tensordot(tensor, core, dims=1)
    return tensor


def random_metrics(sites, mode_size):
    factors = torch.randn(sites, 20, mode_size, dtype=torch.float64)
    return factors.mT @ factors / 20


def weighted(tensor, metrics):
    roots, _ = square_roots(metrics)
    for site, root in enumerate(roots):
        tensor = torch.tensordot(tensor, root, dims=([site], [0])).movedim(-1, site)
    return tensor


def float64_cores(format):
    return [core.detach().double() for core in format.cores()]


@pytest.mark.parametrize("kind", CHAINS)
@pytest.mark.parametrize(("sites", "mode_size", "rank", "smaller"), SIZES)
def test_the_error_is_that_of_the_dense_tensors_and_within_the_classic_bound(kind, sites, mode_size, rank, smaller):
    format = random_format(kind, sites, mode_size, rank, classes=3)
    cores = float64_cores(format)
    for metrics in (torch.eye(mode_size).double().expand(sites, -1, -1), random_metrics(sites, mode_size)):
        rounded = round_chain(cores, smaller, metrics)
        whole, part = weighted(dense(cores), metrics), weighted(dense(rounded.cores), metrics)
        error = float((whole - part).norm() / whole.norm())
        assert relative_error(cores, rounded.cores, metrics) == pytest.approx(error, rel=1e-6, abs=1e-9)
        assert error**2 <= rounded.discarded * (1 + 1e-9) + 1e-20
        best = 0.0  # no tensor of these ranks is nearer than the best matrix at the worst bond
        for bond in range(1, sites):
            matrix = whole.flatten(bond).flatten(0, bond - 1)
            assert torch.linalg.matrix_rank(part.flatten(bond).flatten(0, bond - 1), rtol=1e-9) <= smaller
            tail = torch.linalg.svdvals(matrix)[smaller:].norm() / whole.norm()
            best = max(best, float(tail))
        assert best * (1 - 1e-9) <= error <= best * (sites - 1) ** 0.5 * (1 + 1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", CHAINS)
@pytest.mark.parametrize(("sites", "mode_size", "rank", "smaller"), SIZES)
def test_the_full_rank_changes_no_score_and_a_smaller_one_is_what_it_says(kind, sites, mode_size, rank, smaller, dtype):
    format = random_format(kind, sites, mode_size, rank).to(dtype)
    before = {name: weight.clone() for name, weight in format.state_dict().items()}
    features, metrics = torch.randn(7, sites, mode_size, dtype=dtype), random_metrics(sites, mode_size)
    for to in ("different", "equal")[: 1 + (kind is EqualCoreTensorTrain)]:
        same = format.compressed(rank, metrics, to)
        torch.testing.assert_close(same(features), format(features))
        small = format.compressed(smaller, metrics, to)
        assert type(small) is (EqualCoreTensorTrain if to == "equal" else TensorTrain)
        assert (small.rank, small.sites, small.mode_size, small.classes) == (smaller, sites, mode_size, format.classes)
        assert small.first.dtype == small(features).dtype == dtype
        error = relative_error(float64_cores(format), float64_cores(small), metrics)
        assert 1e-4 < error < 1
    assert all(torch.equal(before[name], weight) for name, weight in format.state_dict().items())


def test_a_tensor_of_smaller_rank_is_found_again():
    """Both roundings of a chain that has rank 2 in a larger, mixed representation."""
    small = random_format(EqualCoreTensorTrain, 6, 4, 2, classes=3)
    basis = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64))[0]
    large = EqualCoreTensorTrain(6, 4, 3, rank=5)
    with torch.no_grad():
        for name, parameter in large.named_parameters():
            parameter.zero_()
            entries = tuple(slice(size) for size in dict(small.named_parameters())[name].shape)
            parameter[entries] = dict(small.named_parameters())[name]
    large = large.double()
    with torch.no_grad():
        large.first.copy_(large.first @ basis)
        large.interior.copy_(basis.T @ large.interior @ basis)
        large.last.copy_(torch.einsum("ba,nbc->nac", basis, large.last))
    metrics = random_metrics(6, 4)
    for to in ("different", "equal"):
        found = large.compressed(2, metrics, to)
        assert relative_error(float64_cores(small), float64_cores(found), metrics) < 1e-6


def test_the_fit_of_equal_cores_is_nearer_than_the_projection():
    format = random_format(EqualCoreTensorTrain, 5, 3, 6)
    parts = [format.first.detach().double(), format.interior[0].detach().double(), format.last.detach().double()]
    metrics = with_ridge(random_metrics(5, 3))
    chain = equal_chain(*parts, 5)
    start = project_equal(*parts, 3, metrics)
    errors = [relative_error(chain, equal_chain(*e, 5), metrics) for e in (start, fit_equal(chain, start, metrics))]
    assert errors[1] < errors[0] < 2
    assert errors[1] >= round_chain(chain, 3, metrics).discarded ** 0.5 / 2  # different cores quasi-optimally


def test_a_long_chain_stays_in_range():
    """300 sites, whose norm and environments no float64 holds."""
    format = random_format(TensorTrain, 300, 4, 5)
    cores = [core * 30 for core in float64_cores(format)]
    metrics = random_metrics(300, 4)
    rounded = round_chain(cores, 5, metrics)
    assert all(core.isfinite().all() for core in rounded.cores)
    assert relative_error(cores, rounded.cores, metrics) < 1e-9
    smaller = round_chain(cores, 2, metrics)
    assert relative_error(cores, smaller.cores, metrics) ** 2 <= smaller.discarded * (1 + 1e-9)


def test_zero_is_rounded_to_zero():
    cores = [torch.zeros_like(core) for core in float64_cores(random_format(TensorTrain, 3, 2, 2))]
    metrics = torch.eye(2).double().expand(3, -1, -1)
    assert all(not core.any() for core in round_chain(cores, 1, metrics).cores)


@pytest.mark.parametrize("kind", [kind for kind in FORMATS if kind not in CHAINS])
def test_what_has_no_rounding_says_so(kind):
    format = random_format(kind, 4, 3, 2)
    reason = "a nearest sum of fewer products need not exist" if kind is CanonicalPolyadic else "is no chain"
    with pytest.raises(UserError, match=reason):
        format.compressed(1, random_metrics(4, 3), "different")


def test_mistakes():
    different, equal = (random_format(kind, 4, 3, 2) for kind in (TensorTrain, EqualCoreTensorTrain))
    metrics = random_metrics(4, 3)
    with pytest.raises(UserError, match="which no rounding makes equal: use --to different"):
        different.compressed(1, metrics, "equal")
    for rank, message in ((3, "rank is 3, it must be at most 2"), (0, "rank is 0, it must be at least 1")):
        for format, to in ((different, "different"), (equal, "equal"), (equal, "different")):
            with pytest.raises(UserError, match=message):
                format.compressed(rank, metrics, to)
