"""Where the cores start."""

import pytest
import torch

from ttlightning import EqualCoreTensorTrain, HierarchicalTucker, SharedHierarchicalTucker, TensorTrain


@pytest.mark.parametrize("kind", [TensorTrain, EqualCoreTensorTrain])
def test_identity_passes_the_state_on(kind):
    """With the constant feature alone, every chain length gives the same scores."""
    scores = []
    for sites in (2, 3, 16, 200):
        torch.manual_seed(0)
        format = kind(sites, 5, 10, rank=6)
        last = torch.linspace(-1, 1, 5 * 6 * 10).reshape(5, 6, 10)
        format.last.data.copy_(last)
        features = torch.zeros(1, sites, 5)
        features[..., -1] = 1
        scores.append(format(features))
    for other in scores[1:]:
        torch.testing.assert_close(other, scores[0])


@pytest.mark.parametrize("rank", [1, 2, 7, 16])
@pytest.mark.parametrize("kind", [TensorTrain, EqualCoreTensorTrain])
def test_rotation_turns_the_state(kind, rank):
    """Its slice is orthogonal, with periods from 4 to 1024 sites, and a single state of an odd rank stays."""
    format = kind(5, 3, 2, rank=rank, initialization="rotation", gain=0.0).double()
    for core in format.interior[:, -1]:
        torch.testing.assert_close(core @ core.T, torch.eye(rank, dtype=torch.float64), rtol=0, atol=1e-6)
        angles = torch.linalg.eigvals(core).angle().abs()
        turning = angles[angles > 1e-6]
        assert len(turning) == rank // 2 * 2
        if rank > 3:
            expected = 2 * torch.pi / torch.tensor([1024.0, 4.0], dtype=torch.float64)
            torch.testing.assert_close(torch.stack([turning.min(), turning.max()]), expected, rtol=1e-4, atol=0)
    assert (format.interior[:, :-1] == 0).all()


@pytest.mark.parametrize("gain", [0.5, 2.0])
def test_gain_is_the_size_of_the_random_part(gain):
    torch.manual_seed(0)
    identity = TensorTrain(30, 9, 10, rank=16, gain=gain)
    assert identity.interior[:, :-1].std().item() == pytest.approx(0.1 * gain / (9 * 16) ** 0.5, rel=0.02)
    assert torch.equal(identity.interior[:, -1], torch.eye(16).expand(28, 16, 16))
    gaussian = TensorTrain(30, 9, 10, rank=16, initialization="gaussian", gain=gain)
    assert gaussian.interior.std().item() == pytest.approx(gain / (9 * 16) ** 0.5, rel=0.02)
    assert gaussian.first.std().item() == pytest.approx(gain / 9**0.5, rel=0.2)


def test_gaussian_signal_dies_where_identity_lives():
    """The measurement behind the default: relu features of size 0.2, sixteen sites."""
    torch.manual_seed(0)
    features = 0.2 * torch.rand(64, 16, 17)
    features[..., -1] = 1
    identity = TensorTrain(16, 17, 10, rank=16)(features)
    gaussian = TensorTrain(16, 17, 10, rank=16, initialization="gaussian")(0.2 * torch.rand(64, 16, 17))
    assert identity.std() > 0.01
    assert gaussian.std() < 1e-6


@pytest.mark.parametrize("kind", [HierarchicalTucker, SharedHierarchicalTucker])
@pytest.mark.parametrize("rank", [1, 3, 16])
def test_the_vectors_of_a_tree_start_with_norm_1_at_every_depth(kind, rank):
    """With the constant feature alone and without noise: the root's diagonal is N(0, 1/r) in the scale of ones."""
    for sites in (4, 16, 64):
        torch.manual_seed(0)
        format = kind(sites, 5, 20_000, rank=rank, gain=0.0).double()
        features = torch.zeros(1, sites, 5, dtype=torch.float64)
        features[..., -1] = 1
        vector = features[0] @ format.leaves
        torch.testing.assert_close(vector.norm(dim=-1), torch.ones_like(vector[..., 0]))
        scores = format(features)
        assert scores.std().item() == pytest.approx(1, rel=0.05)
        torch.testing.assert_close(scores[0], torch.einsum("aac->c", format.root) / rank, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rank", [8, 32])
def test_the_first_steps_of_adam_do_not_throw_a_tree_off(rank):
    """In the scale of ones the loss of rank 32 exceeded 100 (scripts/tree_start.py)."""
    torch.manual_seed(0)
    format = HierarchicalTucker(16, 5, 10, rank, gain=3.0)
    features, labels = torch.randn(32, 16, 5) * 0.3, torch.arange(32) % 10
    features[..., -1] = 1
    optimizer = torch.optim.Adam(format.parameters(), lr=1e-3)
    losses = []
    for _ in range(20):
        loss = torch.nn.functional.cross_entropy(format(features), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert max(losses) < 2 * losses[0]
    assert losses[-1] < losses[0]
