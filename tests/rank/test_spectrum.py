"""Singular values at the bonds, against those of the dense tensor."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import dense_chain

from ttlightning import EqualCoreTensorTrain, TensorTrain
from ttlightning.rank.spectrum import bond_spectra, entropy, numerical_rank, stable_rank


@pytest.mark.parametrize("kind", [TensorTrain, EqualCoreTensorTrain])
@given(sites=st.integers(2, 6), mode_size=st.integers(1, 3), rank=st.integers(1, 4), seed=st.integers(0, 1000))
def test_bonds_have_the_singular_values_of_the_dense_tensor(kind, sites, mode_size, rank, seed):
    torch.manual_seed(seed)
    format = kind(sites, mode_size, 2, rank=rank, initialization="gaussian")
    dense = dense_chain([core.double() for core in format.cores()])
    spectra = bond_spectra(format.cores())
    assert len(spectra) == sites - 1
    for bond, found in enumerate(spectra, start=1):
        expected = torch.linalg.svdvals(dense.reshape(mode_size**bond, -1))
        expected = expected / expected[0]
        common = min(len(found), len(expected))
        torch.testing.assert_close(found[:common], expected[:common], rtol=1e-8, atol=1e-10)
        assert (expected[common:] < 1e-10).all()


def test_the_tt_rank_in_use():
    """Two of five states are cut off by zeroing what leads to them."""
    format = TensorTrain(6, 4, 3, rank=5, initialization="gaussian")
    format.interior.data[2, :, :, 3:] = 0
    used = [int(numerical_rank(s, 1e-9)) for s in bond_spectra(format.cores())]
    assert used == [4, 5, 5, 3, 5]


def test_long_and_zero_chains():
    long = EqualCoreTensorTrain(784, 3, 10, rank=4, initialization="gaussian", gain=0.01)
    assert all(torch.isfinite(s).all() and s[0] == 1 for s in bond_spectra(long.cores()))
    zero = TensorTrain(4, 2, 2, rank=3)
    for parameter in zero.parameters():
        parameter.data.zero_()
    assert [int(numerical_rank(s, 1e-9)) for s in bond_spectra(zero.cores())] == [0, 0, 0]


def test_stable_rank_and_entropy():
    flat = torch.ones(3, 8, dtype=torch.float64)
    assert stable_rank(flat).tolist() == pytest.approx([8] * 3)
    assert entropy(flat).tolist() == pytest.approx([math.log(8)] * 3)
    single = torch.tensor([2.0, 0.0, 0.0])
    assert stable_rank(single) == 1
    assert entropy(single) == 0
    two = torch.tensor([2.0, 1.0], dtype=torch.float64)
    assert stable_rank(two) == pytest.approx(1.25)
    assert entropy(two) == pytest.approx(-0.8 * math.log(0.8) - 0.2 * math.log(0.2))
