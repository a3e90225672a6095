"""The network as a plain module: patches or images to scores."""

import pytest
import torch

from ttlightning import EqualCoreTensorTrain, PatchFeatureMap, UserError
from ttlightning.data.patches import Patching
from ttlightning.data.pixels import scaled
from ttlightning.networks.network import Network


def network(**options) -> Network:
    torch.manual_seed(0)
    return Network(PatchFeatureMap(49, mode_size=5), EqualCoreTensorTrain(16, 5, 10, rank=4), **options)


def test_scores_are_features_through_the_format():
    model, patches = network(pixel_mean=0.25), torch.rand(3, 16, 49)
    expected = model.format(model.features(patches - 0.25))
    assert torch.equal(model(patches), expected)
    torch.testing.assert_close(model(patches.double()), expected)


def test_a_dropped_patch_has_the_mean_everywhere():
    model, patches = network(pixel_mean=0.25), torch.rand(2, 16, 49)
    keep = torch.ones(2, 16, dtype=torch.bool)
    keep[1, 3] = False
    blank = patches.clone()
    blank[1, 3] = 0.25
    torch.testing.assert_close(model(patches, keep), model(blank))
    assert not torch.allclose(model(patches, keep)[1], model(patches)[1])


def test_differences_to_the_largest_score():
    model, patches = network(), torch.rand(3, 16, 49)
    scores = model(patches)
    assert torch.equal(model.below_the_largest(patches), scores - scores.amax(1, keepdim=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_images_are_cut_and_scaled(dtype):
    model = network(pixel_mean=0.25, patching=Patching(7, order="snake"), image_shape=(1, 28, 28)).to(dtype)
    images = torch.randint(0, 256, (5, 1, 28, 28), dtype=torch.uint8)
    patches = Patching(7, order="snake")(images)
    scores = model.score_images(images)
    assert scores.dtype == dtype
    assert torch.equal(scores, model(scaled(patches, dtype)))
    torch.testing.assert_close(scores, model.score_images(images.to(dtype) / 255))
    torch.testing.assert_close(scores, model.score_images(images, batch_size=2))


def test_patches_of_bytes_are_refused():
    with pytest.raises(UserError, match=r"patches are torch.uint8, they must be floats in \[0, 1\]"):
        network()(torch.zeros(2, 16, 49, dtype=torch.uint8))


def test_images_that_the_network_does_not_take():
    with pytest.raises(UserError, match="has no patching"):
        network().score_images(torch.zeros(2, 1, 28, 28))
    model = network(patching=Patching(7), image_shape=(1, 28, 28))
    for shape in ((28,), (2, 28, 14), (2, 3, 28, 28), (2, 1, 14, 56), (1, 2, 1, 28, 28)):
        with pytest.raises(UserError, match=r"it must be \(1, 28, 28\) .* without channels \(28, 28\)"):
            model.score_images(torch.zeros(shape))
