"""Pixels as floats."""

import pytest
import torch

from ttlightning.data.pixels import scaled


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_grey_is_its_share_of_255(dtype):
    greys = torch.arange(256, dtype=torch.uint8)
    found = scaled(greys, dtype)
    assert found.dtype == dtype
    assert found[0] == 0
    assert found[-1] == 1
    torch.testing.assert_close(found, torch.linspace(0, 1, 256, dtype=dtype))
    assert torch.equal(greys, torch.arange(256, dtype=torch.uint8))


def test_coordinates_stay():
    points = torch.randn(5, 2)
    assert torch.equal(scaled(points), points)
    assert scaled(points, torch.float64).dtype == torch.float64
