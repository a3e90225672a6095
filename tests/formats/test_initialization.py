"""Where the cores start."""

import pytest
import torch

from ttlightning import EqualCoreTensorTrain, TensorTrain


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
