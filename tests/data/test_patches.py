"""Images to chains of patches."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ttlightning import UserError
from ttlightning.data.patches import Patching, visiting_order


@given(
    size=st.integers(1, 5),
    stride=st.integers(1, 4),
    steps=st.tuples(st.integers(0, 4), st.integers(0, 4)),
    channels=st.integers(1, 3),
    padding=st.integers(0, 2),
    seed=st.integers(0, 1000),
)
def test_against_torch_unfold(size, stride, steps, channels, padding, seed):
    """The reference is nn.functional.unfold, which vectorises in the same order."""
    height, width = (size + stride * s - 2 * padding for s in steps)
    if min(height, width) < 1:
        return
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (2, channels, height, width), generator=generator, dtype=torch.uint8)
    patches = Patching(size, stride, padding)(images)
    expected = torch.nn.functional.unfold(images.float(), size, stride=stride, padding=padding).transpose(1, 2)
    assert patches.dtype == torch.uint8
    assert torch.equal(patches.float(), expected)
    assert Patching(size, stride, padding).shape(channels, height, width) == tuple(patches.shape[1:])


def test_the_papers_patches():
    """[K18, Fig. 2]: a 7 x 7 window on a digit gives 16 sites of 49 pixels."""
    image = torch.arange(784, dtype=torch.int32).remainder(251).to(torch.uint8).reshape(1, 1, 28, 28)
    patches = Patching(7)(image)
    assert patches.shape == (1, 16, 49)
    assert torch.equal(patches[0, 5].reshape(7, 7), image[0, 0, 7:14, 7:14])


def test_rectangular_windows():
    assert Patching((14, 4))(torch.zeros(1, 1, 28, 28, dtype=torch.uint8)).shape == (1, 14, 56)


@pytest.mark.parametrize("order", ["raster", "columns", "snake", "hilbert"])
@pytest.mark.parametrize("side", [1, 2, 4, 8, 16])
def test_orders_visit_every_window_once(order, side):
    assert sorted(visiting_order(order, side, side).tolist()) == list(range(side * side))


@pytest.mark.parametrize(("order", "rows", "columns"), [("snake", 3, 5), ("snake", 4, 4), ("hilbert", 8, 8)])
def test_neighbours_in_the_chain_are_neighbours_in_the_image(order, rows, columns):
    index = visiting_order(order, rows, columns)
    row, column = index // columns, index % columns
    assert ((row.diff().abs() + column.diff().abs()) == 1).all()


def test_columns_are_the_rows_of_the_transposed_image():
    images = torch.rand(3, 1, 28, 28)
    turned = Patching(7)(images.mT).unflatten(2, (7, 7)).mT.flatten(2)
    assert torch.equal(Patching(7, order="columns")(images), turned)


def test_several_orders_are_read_one_after_the_other():
    images = torch.rand(3, 2, 12, 16)
    both = Patching(4, order=["raster", "columns"], repeat=2)
    assert both.shape(2, 12, 16) == (48, 32)
    parts = [Patching(4, order=order)(images) for order in ("raster", "columns")]
    assert torch.equal(both(images), torch.cat(2 * parts, 1))
    assert hash(both) == hash(Patching(4, order=("raster", "columns"), repeat=2))


def test_an_order_permutes_the_sites():
    images = torch.randint(0, 256, (3, 1, 28, 28), dtype=torch.uint8)
    raster, snake = Patching(7)(images), Patching(7, order="snake")(images)
    assert torch.equal(snake, raster[:, visiting_order("snake", 4, 4)])
    assert not torch.equal(snake, raster)


def test_the_chain_reads_its_patches_twice():
    images = torch.randint(0, 256, (3, 1, 28, 28), dtype=torch.uint8)
    once, twice = (Patching(7, order="snake", repeat=repeat) for repeat in (1, 2))
    assert torch.equal(twice(images), torch.cat([once(images)] * 2, dim=1))
    assert twice.shape(1, 28, 28) == (32, 49)


def test_points_stay_floats():
    points = torch.randn(5, 1, 2, 1)
    assert torch.equal(Patching(1, repeat=2)(points), points.reshape(5, 2, 1)[:, [0, 1, 0, 1]])


@pytest.mark.parametrize(
    ("patching", "message"),
    [
        (Patching(5), r"patch_size 5 .* height 28.* = 23 must be a multiple of 5.*fit: 1, 2, 4, 7"),
        (Patching(8, stride=3), r"patch_size 8 with stride 3.* = 20 must be a multiple of 3"),
        (Patching(30), r"patch_size 30"),
        (Patching(0), "at least 1"),
        (Patching(7, padding=-1), "padding -1"),
        (Patching(4, order="hilbert"), "hilbert needs a square grid.* 7 x 7; use snake"),
        (Patching(4, order="zigzag"), "zigzag"),
        (Patching(4, order=("raster", "zigzag")), "zigzag"),
        (Patching(4, order=()), "order is empty"),
        (Patching(7, repeat=0), "repeat is 0, it must be at least 1"),
    ],
)
def test_patches_that_do_not_fit(patching, message):
    with pytest.raises(UserError, match=message):
        patching.shape(1, 28, 28)
