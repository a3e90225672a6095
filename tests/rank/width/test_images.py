"""Scores on mixed images: every format, against the dense tensor in extended precision."""

from itertools import product

import numpy as np
import pytest
import torch
from kinds import FORMATS, random_format, weights_of
from oracles import dense
from tensor_ring import PlainTensorRing

from ttlightning.rank.width.images import mixed_scores, side_by_side, without_common


def features_of(images: int, sites: int, mode_size: int) -> torch.Tensor:
    return torch.randn(images, sites, mode_size, generator=torch.Generator().manual_seed(1))


def in_extended_precision(format, features) -> np.ndarray:
    """[y, i, j] from the entries of the dense tensor, with the 64 bits of an x87 number where the machine has them."""
    weights = dense(format.double()).detach().numpy().astype(np.longdouble)
    features = features.double().numpy().astype(np.longdouble)
    rows = []
    for i, j in product(range(len(features)), repeat=2):
        rest = weights
        for site in range(format.sites):
            rest = np.tensordot(features[j if site % 2 else i, site], rest, axes=1)
        rows.append(rest)
    return np.stack(rows, axis=1).reshape(-1, len(features), len(features))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sites", [2, 4, 8])
@pytest.mark.parametrize("kind", FORMATS)
def test_the_scores_are_the_dense_tensors_within_the_proven_error(kind, sites, dtype):
    format = random_format(kind, sites, 3, 4).to(dtype)
    features = features_of(5, sites, 3)
    scores, error, _ = mixed_scores(format, features)
    right = in_extended_precision(format, features)
    scale = 2.0 ** np.round(np.log2(np.abs(scores.numpy()).max() / float(np.abs(right).max())))
    distance = np.linalg.norm((scores.numpy() - scale * right).astype(float), axis=(1, 2))
    assert (distance <= error.numpy()).all()
    assert (error <= 1e-9 * scores.flatten(1).norm(dim=1)).all()


@pytest.mark.parametrize("power", [-20, 20])
@pytest.mark.parametrize("sites", [32, 256])
@pytest.mark.parametrize("kind", FORMATS)
def test_many_sites_and_sizes_out_of_range(kind, sites, power):
    """Scores that no float holds are those of a plain call, over one power of two."""
    format, features = random_format(kind, sites, 3, 4), features_of(4, sites, 3) * 10.0**power
    scores = mixed_scores(format, features).scores
    mixed = features.double().unsqueeze(1).repeat(1, 4, 1, 1)
    mixed[:, :, 1::2] = features.double()[:, 1::2]
    right, exponents = format.double().scaled_scores(mixed.flatten(0, 1))
    expected = torch.ldexp(right, (exponents - exponents.max()).unsqueeze(1)).T.reshape(2, 4, 4)
    torch.testing.assert_close(scores / scores.norm(), expected / expected.norm(), rtol=1e-9, atol=1e-12)
    assert 0.5 <= scores.abs().max() < 1


@pytest.mark.parametrize("kind", FORMATS)
def test_a_function_common_to_all_classes_is_taken_out(kind):
    mixed = mixed_scores(random_format(kind, 4, 3, 4), features_of(6, 4, 3))
    rest = without_common(mixed)
    torch.testing.assert_close(rest.scores.sum(0), torch.zeros(6, 6).double(), rtol=0, atol=1e-12)
    difference = mixed.scores[0] - mixed.scores[1]
    torch.testing.assert_close(rest.scores[0] - rest.scores[1], difference)
    assert (rest.error > mixed.error).all()
    together, error = side_by_side(rest)
    assert torch.equal(together[2], rest.scores[:, 2].flatten())
    assert error >= float(rest.error.max())


def test_a_format_of_unknown_arithmetic_has_scores_and_no_error():
    torch.manual_seed(0)
    ring, features = PlainTensorRing(5, 3, 2), features_of(4, 5, 3)
    mixed = mixed_scores(ring, features)
    assert mixed.error is None
    assert without_common(mixed).error is None
    assert side_by_side(mixed)[1] is None
    right = in_extended_precision(ring, features).astype(float)
    ratio = mixed.scores.numpy() / right
    np.testing.assert_allclose(ratio, ratio[0, 0, 0], rtol=1e-6)


@pytest.mark.parametrize("kind", FORMATS)
def test_the_format_keeps_its_weights_and_type(kind):
    format = random_format(kind, 4, 3, 4)
    before = {name: value.clone() for name, value in weights_of(format).items()}
    mixed_scores(format, features_of(3, 4, 3))
    assert all(p.dtype == torch.float32 for p in format.parameters())
    assert all(torch.equal(before[name], value) for name, value in weights_of(format).items())
