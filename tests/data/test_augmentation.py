"""Augmentation: exact where it can be, and the same numbers on any number of devices and after any stop."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from ttlightning.data.augmentation import Augmentation, AugmentedBatches
from ttlightning.data.patches import Patching
from ttlightning.data.sampler import Shard, TrainingBatches
from ttlightning.errors import UserError

IMAGES = torch.randint(0, 256, (40, 2, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(40)
PATCHING = Patching(4)
EVERYTHING = Augmentation(shift=1, rotation=20.0, scaling=0.2, shear=0.1, elastic=0.5)


def batches(augmentation: Augmentation, epoch: int = 0, shard: Shard | None = None, size: int = 16) -> AugmentedBatches:
    return AugmentedBatches(PATCHING, augmentation, IMAGES, LABELS, size, 3, lambda: epoch, shard or Shard())


def test_without_any_size_it_is_the_images_themselves():
    assert not Augmentation()
    maps = Augmentation().maps(len(IMAGES), 8, 8, torch.Generator())
    assert torch.equal(Augmentation()(IMAGES, maps), IMAGES)


@given(st.integers(0, 4), st.sampled_from([(8, 8), (28, 28), (28, 31), (32, 32)]), st.integers(0, 1000))
def test_a_shift_moves_whole_pixels_and_black_comes_in(most, size, seed):
    height, width = size
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (10, 2, height, width), dtype=torch.uint8, generator=generator)
    maps = Augmentation(shift=most).maps(len(images), height, width, generator)
    moved = Augmentation(shift=most)(images, maps)
    pixels = (maps[:, :, 2] * torch.tensor([width / 2, height / 2])).round().int()
    assert pixels.abs().max() <= most
    for image, (across, down), found in zip(images, pixels.tolist(), moved, strict=True):
        expected = F.pad(image, (4, 4, 4, 4))[:, 4 + down : 4 + down + height, 4 + across : 4 + across + width]
        assert torch.equal(found, expected)


def test_every_shift_is_drawn():
    maps = Augmentation(shift=2).maps(1000, 8, 8, torch.Generator().manual_seed(0))
    assert (maps[:, :, 2] * 4).round().int().unique().tolist() == [-2, -1, 0, 1, 2]


def test_a_quarter_turn():
    turn = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0]]).expand(len(IMAGES), 2, 3)
    assert torch.equal(EVERYTHING(IMAGES, turn), torch.rot90(IMAGES, 1, (2, 3)))


@given(st.floats(0, 90), st.floats(0, 0.9), st.floats(0, 1))
def test_maps_stay_within_their_sizes(rotation, scaling, shear):
    maps = Augmentation(rotation=rotation, scaling=scaling).maps(50, 8, 8, torch.Generator().manual_seed(1))
    across = maps[:, 0, 0].hypot(maps[:, 1, 0])
    assert (across - 1).abs().max() <= scaling + 1e-5
    angle = torch.atan2(maps[:, 1, 0], maps[:, 0, 0]) * 180 / math.pi
    assert angle.abs().max() <= rotation + 1e-3
    sheared = Augmentation(shear=shear).maps(50, 8, 8, torch.Generator().manual_seed(1))
    assert sheared[:, 0, 1].abs().max() <= shear


def test_every_second_image_is_mirrored_and_the_other_numbers_stay():
    flip = Augmentation(flip=True)
    assert flip
    maps = flip.maps(40, 8, 8, torch.Generator().manual_seed(1))
    mirrored = maps[:, 0, 0] == -1
    assert 10 < mirrored.sum() < 30
    expected = torch.where(mirrored[:, None, None, None], IMAGES.flip(3), IMAGES)
    assert torch.equal(flip(IMAGES, maps), expected)
    sizes = {"shift": 2, "rotation": 20.0, "scaling": 0.2, "shear": 0.1}
    one, other = (
        Augmentation(**sizes, flip=flip).maps(40, 8, 8, torch.Generator().manual_seed(2)) for flip in (False, True)
    )
    signs = other[:, :1, 0] / one[:, :1, 0]
    assert set(signs.flatten().tolist()) == {-1.0, 1.0}
    assert torch.equal(other[:, :, 0], one[:, :, 0] * signs)
    assert torch.equal(other[:, :, 1:], one[:, :, 1:])


@pytest.mark.parametrize("size", [(8, 8), (28, 31)])
def test_equal_displacements_at_all_knots_are_a_shift(size):
    images = torch.randint(0, 256, (6, 2, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    still = Augmentation(elastic=1.0).maps(6, *size, torch.Generator())
    across, down = 2, -1
    bends = torch.tensor([2 * across / size[1], 2 * down / size[0]]).view(1, 2, 1, 1).expand(6, 2, 5, 5)
    moved = still.clone()
    moved[:, :, 2] = bends[:, :, 0, 0]
    bend = Augmentation(elastic=1.0)
    assert torch.equal(bend(images, still, bends), bend(images, moved))


def test_displacements_have_their_size_in_pixels_and_the_maps_stay():
    sizes = {"shift": 2, "rotation": 20.0, "scaling": 0.2, "shear": 0.1, "flip": True}
    assert Augmentation(elastic=1.0)
    one, other = (
        Augmentation(**sizes, elastic=elastic).maps(40, 8, 8, torch.Generator().manual_seed(2)) for elastic in (0, 1.5)
    )
    assert torch.equal(one, other)
    assert Augmentation(**sizes).bends(40, 8, 8, torch.Generator()) is None
    bends = Augmentation(elastic=1.5).bends(500, 20, 40, torch.Generator().manual_seed(1))
    pixels = bends * torch.tensor([40 / 2, 20 / 2]).view(2, 1, 1)
    torch.testing.assert_close(pixels.std((0, 2, 3)), torch.tensor([1.5, 1.5]), rtol=0.03, atol=0)
    assert pixels.mean().abs() < 0.05


@pytest.mark.parametrize("world", [2, 3, 4])
def test_devices_see_the_slices_of_one_batch(world):
    alone = list(batches(EVERYTHING))
    shared = [list(batches(EVERYTHING, shard=Shard(rank, world))) for rank in range(world)]
    for step, whole in enumerate(alone):
        assert torch.equal(torch.cat([device[step].patches for device in shared]), whole.patches)


def test_the_samples_of_an_epoch_are_those_without_augmentation():
    plain = TrainingBatches(PATCHING(IMAGES), LABELS, 16, 3, lambda: 0, Shard())
    for one, two in zip(plain, batches(EVERYTHING), strict=True):
        assert torch.equal(one.labels, two.labels)
        assert one.patches.shape == two.patches.shape
        assert not torch.equal(one.patches, two.patches)


def test_every_epoch_and_step_has_its_own():
    same = IMAGES[:1].expand_as(IMAGES)
    first, second = (
        AugmentedBatches(PATCHING, EVERYTHING, same, LABELS, 20, 3, lambda epoch=epoch: epoch, Shard())
        for epoch in (0, 1)
    )
    seen = [batch.patches for batch in (*first, *second)]
    assert all(not torch.equal(a, b) for i, a in enumerate(seen) for b in seen[:i])


@pytest.mark.parametrize("world", [1, 2])
def test_the_epochs_after_the_augmented_ones_have_the_images_as_they_are(world):
    """And those before have the images that they have without an end."""
    ending = replace(EVERYTHING, epochs=2)
    for rank in range(world):
        shard = Shard(rank, world)
        for epoch in range(4):
            plain = TrainingBatches(PATCHING(IMAGES), LABELS, 16, 3, lambda epoch=epoch: epoch, shard)
            right = batches(EVERYTHING, epoch, shard) if epoch < 2 else plain
            for one, two in zip(right, batches(ending, epoch, shard), strict=True):
                assert torch.equal(one.patches, two.patches)
                assert torch.equal(one.labels, two.labels)


def test_a_stopped_epoch_goes_on_with_the_same_images():
    whole = list(batches(EVERYTHING))
    resumed = batches(EVERYTHING)
    resumed.load_state_dict({"epoch": 0, "given": 1})
    rest = list(resumed)
    assert len(rest) == len(whole) - 1
    assert all(torch.equal(a.patches, b.patches) for a, b in zip(whole[1:], rest, strict=True))


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"shift": -1}, "shift is -1"),
        ({"rotation": -0.5}, "rotation is -0.5"),
        ({"scaling": 1.0}, "scaling is 1.0"),
        ({"elastic": -0.1}, "elastic is -0.1"),
        ({"elastic": math.inf}, "elastic is inf"),
        ({"shear": math.nan}, "shear is nan"),
        ({"epochs": 0}, "epochs is 0, it must be at least 1, or null"),
        ({"epochs": 2}, "epochs is 2, and the augmentation changes no image: use --data.augmentation.epochs null"),
    ],
)
def test_sizes_out_of_range(sizes, message):
    with pytest.raises(UserError, match=message):
        Augmentation(**sizes)
