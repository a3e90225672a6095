"""The curve is below the error of every sum of R products, and hardly below the best one."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kinds import FORMATS, random_format

from ttlightning.rank.width import images
from ttlightning.rank.width.curve import curve_of_blocks, curve_on_images, width_curve


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


@settings(max_examples=30, deadline=None)
@given(
    st.integers(2, 9),
    st.lists(st.tuples(st.integers(1, 12), st.integers(-700, 700)), min_size=1, max_size=5),
    st.floats(0, 1e-3),
    st.integers(0, 9),
)
def test_blocks_of_columns_have_the_curve_of_the_matrix(rows, shapes, size, seed):
    """Each block with a power of two and an error of its own; those of 2^-700 do not count beside those of 2^700."""
    blocks = [random(rows, columns, seed + k, 0.5) for k, (columns, _) in enumerate(shapes)]
    top = max(exponent for _, exponent in shapes)
    whole = torch.cat([b * 2.0 ** max(e - top, -900) for b, (_, e) in zip(blocks, shapes, strict=True)], 1)
    errors = [size * float(b.norm()) for b in blocks]
    error = torch.tensor([each * 2.0 ** max(e - top, -900) for each, (_, e) in zip(errors, shapes, strict=True)])
    found = curve_of_blocks((b, each, e) for b, each, (_, e) in zip(blocks, errors, shapes, strict=True)).errors
    best = best_errors(whole)
    assert (found[: len(best)] <= best + 1e-14).all()
    right = width_curve(whole, float(error.norm())).errors
    torch.testing.assert_close(found, right, rtol=0.02, atol=1e-6)  # 1.01 times the errors


def test_a_block_that_is_not_finite_has_no_curve():
    assert (
        curve_of_blocks([(torch.ones(2, 2).double(), 0.0, 0), (torch.full((2, 1), torch.nan).double(), 0.0, 0)]) is None
    )


@pytest.mark.parametrize("kind", FORMATS)
def test_images_in_blocks_have_the_curve_of_all(kind, monkeypatch):
    format = random_format(kind, 8, 3, 4)
    features = torch.randn(11, 8, 3, generator=torch.Generator().manual_seed(1)).double()
    features[7:] *= 2.0**300  # blocks of different powers of two
    features[:, 0] *= 1.5
    whole = curve_on_images(format, features)
    monkeypatch.setattr(images, "SCORES_AT_ONCE", 11 * format.classes * 3)
    assert [each.scores.shape[2] for each in images.mixed_blocks(format, features)] == [3, 3, 3, 2]
    found = curve_on_images(format, features)
    torch.testing.assert_close(found.errors, whole.errors, rtol=1e-6, atol=1e-9)
    assert 0.99 < found.errors[0] <= 1
