"""The feature map."""

import pytest
import torch

from ttlightning import PatchFeatureMap, UserError
from ttlightning.networks.features import ACTIVATIONS


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("constant", [True, False])
def test_formula(activation, constant):
    torch.manual_seed(0)
    features = PatchFeatureMap(49, mode_size=5, activation=activation, constant=constant)
    patches = torch.rand(3, 16, 49)
    found = features(patches)
    learned = ACTIVATIONS[activation](patches @ features.linear.weight.T + features.linear.bias)
    assert found.shape == (3, 16, 5)
    torch.testing.assert_close(found[..., : learned.shape[-1]], learned)
    assert torch.equal(found[..., -1], torch.ones(3, 16)) == constant


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_formula_with_a_hidden_layer(activation):
    features = PatchFeatureMap(49, mode_size=5, activation=activation, hidden=7)
    assert [tuple(layer.weight.shape) for layer in features.layers()] == [(7, 49), (4, 7)]
    patches, sigma = torch.rand(3, 16, 49), ACTIVATIONS[activation]
    hidden = sigma(patches @ features.hidden.weight.T + features.hidden.bias)
    learned = sigma(hidden @ features.linear.weight.T + features.linear.bias)
    torch.testing.assert_close(features(patches), torch.cat([learned, torch.ones(3, 16, 1)], 2))
    assert features.patch_dim == 49
    assert features.formula() == f"{activation}(A {activation}(Hx + c) + b), the last one constant"


def test_a_hidden_layer_has_units():
    with pytest.raises(UserError, match="hidden is 0, it must be at least 1, or null"):
        PatchFeatureMap(49, hidden=0)


def test_the_map_is_shared_by_all_sites():
    features = PatchFeatureMap(4, mode_size=3)
    patches = torch.rand(2, 6, 4)
    order = torch.randperm(6)
    torch.testing.assert_close(features(patches[:, order]), features(patches)[:, order])


def test_unknown_activation():
    with pytest.raises(UserError, match=r"'sine'.*relu"):
        PatchFeatureMap(49, activation="sine")
