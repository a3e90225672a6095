"""The curve is below the error of every sum of R products, and hardly below the best one."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ttlightning.rank.width.curve import width_curve


def random(rows: int, columns: int, seed: int, decay: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    left, right = (
        torch.randn(n, min(rows, columns), generator=generator, dtype=torch.float64) for n in (rows, columns)
    )
    return (left * decay ** torch.arange(left.shape[1])) @ right.T


def best_errors(matrix: torch.Tensor) -> torch.Tensor:
    """The error of the truncated SVD, computed as a difference of matrices."""
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    partial = [(left[:, :R] * values[:R]) @ right[:R] for R in range(len(values) + 1)]
    return torch.stack([(matrix - each).norm() for each in partial]) / matrix.norm()


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 12), st.integers(1, 40), st.integers(0, 9), st.sampled_from([1.0, 0.7, 0.1]), st.integers(-150, 150)
)
def test_the_curve_is_just_below_the_best_sums(rows, columns, seed, decay, power):
    """Also for matrices that are very small or very large."""
    matrix = random(rows, columns, seed, decay)
    errors = width_curve(matrix * 2.0**power).errors
    best = best_errors(matrix)
    best = torch.cat([best, best.new_zeros(max(0, len(errors) - len(best)))])
    assert len(errors) == rows + 1
    assert (errors <= best * (1 + 1e-12) + 1e-14).all()
    assert (errors >= best - 1e-5).all()
    assert (errors[1:] <= errors[:-1]).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 12), st.integers(2, 40), st.integers(0, 9), st.floats(1e-6, 0.5))
def test_errors_of_the_entries_are_taken_off(rows, columns, seed, size):
    """The curve of a spoiled matrix, which knows how much it is spoiled, holds for the right one."""
    matrix, noise = random(rows, columns, seed, 0.6), random(rows, columns, seed + 100, 1.0)
    noise *= size * matrix.norm() / noise.norm()
    errors = width_curve(matrix + noise, float(noise.norm())).errors
    best = best_errors(matrix)
    assert (errors[: len(best)] <= best + 1e-14).all()
    assert (errors[len(best) :] == 0).all()


def test_the_width_is_the_least_that_may_suffice():
    """Singular values 4, 2, 1: two products leave 1 of 21, and one leaves 5 of 21."""
    curve = width_curve(torch.diag(torch.tensor([2.0, 4.0, 1.0], dtype=torch.float64)))
    torch.testing.assert_close(
        curve.errors.square(), torch.tensor([21.0, 5.0, 1.0, 0.0]).double() / 21, atol=1e-9, rtol=0
    )
    assert [curve.width(eps) for eps in (1.1, 0.99, 0.5, 0.48, 0.22, 0.21, 1e-3)] == [0, 1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize(("matrix", "error"), [(torch.zeros(3, 4), 0.0), (torch.ones(3, 4) * 1e-3, 0.1)])
def test_of_a_matrix_within_its_error_nothing_is_known(matrix, error):
    curve = width_curve(matrix.double(), error)
    assert torch.equal(curve.errors, torch.zeros(4).double())
    assert curve.width(0.01) == 0
