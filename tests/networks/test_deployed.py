"""A network as a program of its own: the probabilities of the network, for every way to cut an image into patches."""

import pytest
import torch

from ttlightning import EqualCoreTensorTrain, PatchFeatureMap, UserError
from ttlightning.data.patches import Patching
from ttlightning.data.pixels import scaled
from ttlightning.networks.deployed import Deployed, images_to_check, largest_difference
from ttlightning.networks.network import Network

SHAPE = (3, 8, 8)
PATCHINGS = [
    Patching(4),
    Patching(2, order="hilbert"),
    Patching(2, order="snake"),
    Patching((4, 2), stride=(2, 2), padding=1),
    Patching(4, repeat=2),
]


def network_of(patching, gain=1.0, **others):
    torch.manual_seed(0)
    sites, patch_dim = patching.shape(*SHAPE)
    features = PatchFeatureMap(patch_dim, 5, "gelu")
    format = EqualCoreTensorTrain(sites, 5, 4, rank=3, gain=gain)
    return Network(features, format, 0.2, patching, SHAPE, ("a", "b", "c", "d"), **others)


@pytest.mark.parametrize("patching", PATCHINGS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_deployed_network_cuts_the_images_itself(patching, dtype):
    network = network_of(patching).to(dtype).eval()
    images = images_to_check(SHAPE)
    probabilities, predicted = Deployed(network)(images)
    scores = network(scaled(patching(images), dtype))
    torch.testing.assert_close(probabilities, scores.softmax(1))
    assert torch.equal(predicted, scores.argmax(1))
    assert largest_difference(network, Deployed(network), images) == 0


def test_scores_out_of_range_are_nan():
    network = network_of(Patching(4))
    network.features.linear.bias.data.fill_(float("inf"))
    probabilities, _ = Deployed(network)(images_to_check(SHAPE))
    assert probabilities.isnan().all()
    assert largest_difference(network, Deployed(network), images_to_check(SHAPE)) == 0


@pytest.mark.parametrize(
    "wrong",
    [
        lambda p, k: (p + torch.tensor([2e-5, -2e-5, 0, 0]), k),
        lambda p, k: (p, (k + 1) % 4),
        lambda p, k: (p.where(torch.arange(len(p)).unsqueeze(1) > 0, float("nan")), k),
        lambda p, k: (p.roll(1, 0), k.roll(1, 0)),
    ],
    ids=["a probability", "a class", "not a number", "another sample"],
)
def test_a_program_that_differs_is_refused(wrong):
    network = network_of(Patching(4), gain=10.0)
    deployed = Deployed(network)
    with pytest.raises(UserError, match="the exported program is wrong: probabilities differ by up to"):
        largest_difference(network, lambda images: wrong(*deployed(images)), images_to_check(SHAPE))


def test_a_network_without_patching_has_no_images():
    network = Network(PatchFeatureMap(4, 5), EqualCoreTensorTrain(4, 5, 4, rank=3))
    with pytest.raises(UserError, match="this network has no patching"):
        Deployed(network)
