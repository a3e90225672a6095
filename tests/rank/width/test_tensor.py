"""Effective ranks: every format, against the singular values of the complete matricization."""

import pytest
import torch
from kinds import FORMATS, random_format
from tensor_ring import PlainTensorRing

from ttlightning.rank.unfolding import matricization
from ttlightning.rank.width.tensor import effective_ranks, second_moments, width_in_tensor


def from_singular_values(matrix: torch.Tensor) -> float:
    p = torch.linalg.svdvals(matrix).square()
    p = p / p.sum()
    return 1 / float(p.square().sum())


def root(moments: torch.Tensor) -> torch.Tensor:
    values, vectors = torch.linalg.eigh(moments)
    return (vectors * values.clamp_min(0).sqrt()) @ vectors.T


def weighted(matrices: torch.Tensor, metrics: torch.Tensor) -> torch.Tensor:
    """M^(1/2) of every odd site from the left, of every even site from the right."""
    odd, even = (torch.ones(1, 1).double() for _ in range(2))
    for site, metric in enumerate(metrics):
        odd, even = (odd, torch.kron(even, root(metric))) if site % 2 else (torch.kron(odd, root(metric)), even)
    return odd @ matrices @ even


@pytest.mark.parametrize("sites", [2, 4, 8])
@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("by_data", [False, True], ids=["plain", "data"])
def test_they_are_those_of_the_matricization(kind, sites, by_data):
    format = random_format(kind, sites, 2, 3, classes=3)
    metrics = None
    matrices = matricization(format)
    if by_data:
        features = torch.randn(9, sites, 2, generator=torch.Generator().manual_seed(2))
        metrics = second_moments(features)
        expected = torch.einsum("ksi,ksj->sij", features.double(), features.double()) / 9
        torch.testing.assert_close(metrics, expected)
        matrices = weighted(matrices, metrics)
    expected = [from_singular_values(each) for each in (*matrices, torch.cat([*matrices], 1))]
    torch.testing.assert_close(effective_ranks(format, metrics), expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize("kind", FORMATS)
def test_many_sites_stay_in_range(kind):
    """At d = 256 with entries of 10^30 as at 1: a common factor changes nothing."""
    format = random_format(kind, 256, 3, 2)
    before = effective_ranks(format)
    with torch.no_grad():
        next(format.parameters()).mul_(2.0**100)
    after = effective_ranks(format)
    assert all(1 <= r < float("inf") for r in before)
    torch.testing.assert_close(after, before, rtol=1e-9, atol=0)


def test_odd_numbers_of_sites():
    for kind in FORMATS[:3]:
        format = random_format(kind, 5, 2, 3)
        matrices = matricization(format)
        expected = [from_singular_values(each) for each in (*matrices, torch.cat([*matrices], 1))]
        torch.testing.assert_close(effective_ranks(format), expected, rtol=1e-9, atol=0)


def test_a_format_without_a_formula_has_none():
    assert effective_ranks(PlainTensorRing(4, 3, 2)) is None


def test_no_sum_of_fewer_products_is_within_the_error():
    """The bound against the least R of the singular values themselves."""
    matrix = matricization(random_format(FORMATS[0], 8, 3, 4))[0]
    squares = torch.linalg.svdvals(matrix).square()
    tails = 1 - squares.cumsum(0) / squares.sum()
    for eps in (0.9, 0.5, 0.1, 0.01):
        least = 1 + int((tails > eps**2).sum())
        assert width_in_tensor(from_singular_values(matrix), eps) <= least
