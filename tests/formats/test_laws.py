"""Laws of every tensor format, against a dense oracle that shares no code with it."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kinds import FORMATS, TREES
from oracles import dense, dense_scores
from tensor_ring import PlainTensorRing, TensorRing

from ttlightning import CanonicalPolyadic, EqualCoreTensorTrain, HierarchicalTucker, ScoreTensor, TensorTrain, UserError
from ttlightning.testing import check_format

RANGES = {"sites": (2, 7), "mode_size": (1, 4), "classes": (1, 3), "rank": (1, 4)}
shapes = st.fixed_dictionaries({name: st.integers(*ends) for name, ends in RANGES.items()})
seeds = st.integers(0, 2**31)


def random_format(kind: type[ScoreTensor], shape: dict[str, int], seed: int) -> tuple[ScoreTensor, torch.Generator]:
    torch.manual_seed(seed)
    if kind in TREES:
        shape = shape | {"sites": 1 << (shape["sites"].bit_length() - 1)}
    format = kind(**shape, initialization="gaussian", gain=2.0).double()
    return format, torch.Generator().manual_seed(seed)


def random_features(format: ScoreTensor, generator: torch.Generator, batch: int = 3) -> torch.Tensor:
    return torch.randn(batch, format.sites, format.mode_size, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("kind", [*FORMATS, PlainTensorRing, TensorRing])
@pytest.mark.parametrize(
    ("sites", "mode_size", "classes", "rank"), [(2, 1, 1, 1), (2, 4, 3, 2), (4, 3, 2, 3), (7, 2, 2, 2), (8, 2, 3, 1)]
)
def test_every_law(kind, sites, mode_size, classes, rank):
    """The package's own formats, and one that only the tests have, by the test that users import."""
    sites = 8 if kind in TREES and sites == 7 else sites
    check_format(lambda *sizes: kind(*sizes, rank), sites, mode_size, classes, dense)


@pytest.mark.parametrize("kind", FORMATS)
@given(shape=shapes, seed=seeds)
def test_scores_are_those_of_the_dense_tensor(kind, shape, seed):
    format, generator = random_format(kind, shape, seed)
    features = random_features(format, generator)
    expected = dense_scores(dense(format), features)
    torch.testing.assert_close(format(features), expected, rtol=1e-10, atol=1e-12)


@given(shape=shapes, seed=seeds)
def test_equal_cores_are_different_cores_that_happen_to_be_equal(shape, seed):
    equal, generator = random_format(EqualCoreTensorTrain, shape, seed)
    different = TensorTrain(**shape).double()
    interior = equal.interior.expand(different.interior.shape).clone()
    different.load_state_dict({"first": equal.first, "interior": interior, "last": equal.last})
    features = random_features(equal, generator)
    assert torch.equal(equal(features), different(features))


@pytest.mark.parametrize("kind", TREES)
@pytest.mark.parametrize("at_once", [1, 2 * 9 * 5, 3 * 9 * 5])
def test_trees_in_pieces_are_whole(kind, at_once, monkeypatch):
    """One, two or three places at a time: what does not fit the cache is computed in parts, the last one smaller."""
    torch.manual_seed(0)
    format = kind(16, 2, 4, rank=3, initialization="gaussian").double()
    features = torch.randn(5, 16, 2, dtype=torch.float64, requires_grad=True)
    inputs = [features, *format.parameters()]

    def scores_and_gradients():
        scores = format(features)
        return [scores.detach(), *torch.autograd.grad(scores.square().sum(), inputs)]

    expected = scores_and_gradients()
    monkeypatch.setattr("ttlightning.formats.kernels.torch_tree.PAIRS_AT_ONCE", at_once)
    for found, right in zip(scores_and_gradients(), expected, strict=True):
        torch.testing.assert_close(found, right, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("kind", "expected"), [(TensorTrain, 3 * 4 + 5 * 3 * 16 + 3 * 4 * 10), (EqualCoreTensorTrain, 12 + 48 + 120)]
)
def test_parameter_count(kind, expected):
    assert kind(sites=7, mode_size=3, classes=10, rank=4).parameter_count() == expected


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("name", ["sites", "mode_size", "classes", "rank"])
def test_sizes_too_small(kind, name):
    sizes = {"sites": 4, "mode_size": 2, "classes": 2, "rank": 2} | {name: 0}
    with pytest.raises(UserError, match=f"{name} is 0"):
        kind(**sizes)


def test_features_of_another_shape_are_named():
    with pytest.raises(UserError, match=r"\(batch, 4, 2\).*got \(5, 4, 3\)"):
        TensorTrain(4, 2, 2, rank=2)(torch.zeros(5, 4, 3))


@given(shape=shapes, seed=seeds)
def test_shared_nodes_are_nodes_that_happen_to_be_equal(shape, seed):
    shared, generator = random_format(TREES[1], shape, seed)
    own, _ = random_format(HierarchicalTucker, shape, seed)
    state = own.state_dict()
    own.load_state_dict({name: tensor.expand(state[name].shape) for name, tensor in shared.state_dict().items()})
    features = random_features(shared, generator)
    torch.testing.assert_close(shared(features), own(features), rtol=1e-12, atol=1e-14)


@given(shape=shapes, seed=seeds)
def test_a_tree_of_superdiagonal_nodes_is_canonical(shape, seed):
    """HT contains CP at the same rank: the nodes multiply entry by entry, the root is diagonal."""
    tree, generator = random_format(HierarchicalTucker, shape, seed)
    shallow, _ = random_format(CanonicalPolyadic, shape | {"sites": tree.sites}, seed)
    with torch.no_grad():
        tree.leaves.copy_(shallow.factors)
        along = torch.arange(tree.rank)
        for node in tree.nodes:
            node.zero_()[:, along, along, along] = 1
        tree.root.zero_()[along, along] = shallow.weights
    features = random_features(tree, generator)
    torch.testing.assert_close(tree(features), shallow(features), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("sites", [3, 6, 49])
def test_trees_need_a_power_of_two_of_sites(sites):
    with pytest.raises(UserError, match=f"sites is {sites}, it must be a power of two"):
        HierarchicalTucker(sites, 2, 2)
