"""``predict`` takes images as users have them, and gives the probabilities of the scores."""

import numpy as np
import pytest
import torch
from kinds import FORMATS
from PIL import Image

from ttlightning import PatchFeatureMap, UserError
from ttlightning.data.patches import Patching
from ttlightning.errors import Fault
from ttlightning.networks.network import Network


def network(kind=FORMATS[0], shape=(1, 8, 8), **options) -> Network:
    torch.manual_seed(0)
    patching = Patching(4)
    sites, patch_dim = patching.shape(*shape)
    return Network(
        PatchFeatureMap(patch_dim, mode_size=5), kind(sites, 5, 3, rank=4), 0.25, patching, shape, **options
    ).eval()


def pixels(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", FORMATS)
def test_probabilities_are_the_softmax_of_the_scores(kind):
    model, images = network(kind), pixels(7, 1, 8, 8)
    found = model.predict(images)
    assert not found.requires_grad
    torch.testing.assert_close(found, model.score_images(images).softmax(-1))
    torch.testing.assert_close(found.sum(1), torch.ones(7))
    torch.testing.assert_close(model.predict(images, batch_size=2), found)
    assert model.predict(images[:0]).shape == (0, 3)


@pytest.mark.parametrize("channels", [1, 3])
def test_every_way_to_give_an_image_gives_the_same(channels):
    model, images = network(shape=(channels, 8, 8)), pixels(5, channels, 8, 8)
    expected, last = model.predict(images), images.movedim(1, -1)
    ways = [images.numpy(), last, last.numpy(), list(images), list(images.numpy()), images.numpy()[:, :, ::1]]
    ways += [[Image.fromarray(image) for image in (last if channels == 3 else last[..., 0]).numpy()]]
    if channels == 1:
        ways += [images[:, 0], images[:, 0].numpy()]
    for way in ways:
        assert torch.equal(model.predict(way), expected)
    for floats in (images / 255, (images / 255).double().numpy(), (last / 255).numpy()):
        torch.testing.assert_close(model.predict(floats), expected)
    one = [images[2], images[2].numpy(), last[2].numpy()] + ([images[2, 0]] if channels == 1 else [])
    for way in one:
        torch.testing.assert_close(model.predict(way), expected[2:3])
    turned = np.ascontiguousarray(images.numpy()[..., ::-1])[..., ::-1]  # strides below 0
    assert torch.equal(model.predict(turned), expected)


def test_points_are_floats_of_any_range():
    torch.manual_seed(0)
    kind, patching = FORMATS[0], Patching(1, repeat=2)
    model = Network(PatchFeatureMap(1, mode_size=3), kind(4, 3, 2, rank=2), 0.0, patching, (1, 2, 1), (), False)
    points = np.array([[3.0, -1.0], [0.5, 0.25]])
    expected = model.predict(torch.tensor(points).reshape(2, 1, 2, 1))
    assert expected.shape == (2, 2)
    assert torch.equal(model.predict(points), expected)
    with pytest.raises(UserError, match=r"images are torch\.uint8, and the network was trained on floats"):
        model.predict(points.astype(np.uint8))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.full((2, 3, 8, 8), 2.0), r"images have values from 2 to 2, floats must be in \[0, 1\]: divide by 255"),
        (torch.full((3, 8, 8), -0.1), "images have values from -0.1 to -0.1"),
        (torch.full((3, 8, 8), torch.nan), "images have values that are not finite"),
        (np.zeros((2, 3, 8, 8), dtype=np.int64), r"images are torch\.int64, they must be uint8, or floats in \[0, 1\]"),
        (np.zeros((2, 3, 8, 8), dtype=bool), r"images are torch\.bool"),
        (np.zeros((2, 3, 8, 9)), r"images have shape \(2, 3, 8, 9\), it must be \(3, 8, 8\) .* or \(8, 8, 3\)"),
        (np.zeros((8, 8)), r"images have shape \(8, 8\)"),
        ("digit.png", "a str is no array of numbers"),
        ([np.zeros((3, 8, 8)), np.zeros((3, 8, 9))], "a list is no array of numbers with one shape"),
    ],
)
def test_images_that_are_no_input_are_one_line(images, message):
    with pytest.raises(UserError, match=message) as fault:
        network(shape=(3, 8, 8)).predict(images)
    assert "\n" not in str(fault.value)


def test_channels_that_can_be_either_axis_are_refused():
    torch.manual_seed(0)
    model = Network(PatchFeatureMap(9, mode_size=3), FORMATS[0](3, 3, 2, rank=2), 0.0, Patching((1, 3)), (3, 3, 3))
    with pytest.raises(UserError, match="whose channels can be the first and the last axis"):
        model.predict(torch.zeros(2, 3, 3, 3))


@pytest.mark.parametrize("kind", FORMATS)
def test_a_score_that_is_not_finite_is_a_fault(kind):
    model = network(kind)
    with torch.no_grad():
        next(model.format.parameters()).fill_(torch.nan)
    with pytest.raises(Fault, match="scores of 4 of the 4 samples of a batch are not finite"):
        model.predict(pixels(4, 1, 8, 8))
