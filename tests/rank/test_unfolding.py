"""Matricizations and their sketches, from scores alone."""

import pytest
import torch
from oracles import dense_chain

from ttlightning import EqualCoreTensorTrain, TensorTrain, UserError
from ttlightning.formats.bounds import generic_odd_even_rank
from ttlightning.rank.spectrum import numerical_rank
from ttlightning.rank.unfolding import equilibrate, matricization, sketch


@pytest.mark.parametrize("sites", [2, 3, 4, 5, 6])
def test_rows_are_odd_sites_and_columns_even_ones(sites):
    torch.manual_seed(0)
    format = TensorTrain(sites, 3, 2, rank=2, initialization="gaussian")
    dense = dense_chain([core.double() for core in format.cores()])
    odd, even = range(0, sites, 2), range(1, sites, 2)
    expected = dense.permute(sites, *odd, *even).reshape(2, 3 ** len(odd), 3 ** len(even))
    torch.testing.assert_close(matricization(format), expected)


@pytest.mark.parametrize("kind", [TensorTrain, EqualCoreTensorTrain])
@pytest.mark.parametrize(("mode_size", "rank", "sites"), [(3, 2, 6), (2, 3, 7), (4, 2, 5), (2, 1, 6)])
def test_a_sketch_has_the_rank_of_what_it_sketches(kind, mode_size, rank, sites):
    torch.manual_seed(1)
    format = kind(sites, mode_size, 3, rank=rank, initialization="gaussian")
    values = torch.linalg.svdvals(sketch(format, 24, torch.Generator().manual_seed(0)))
    expected = min(24, generic_odd_even_rank(mode_size, rank, sites))
    assert numerical_rank(values, 1e-12).tolist() == [expected] * 3


def test_equilibration_scales_and_changes_no_rank():
    generator = torch.Generator().manual_seed(0)
    low = torch.randn(2, 9, 3, generator=generator).double() @ torch.randn(2, 3, 7, generator=generator).double()
    scaled = low * torch.logspace(-30, 30, 9, dtype=torch.float64).reshape(9, 1)
    found = equilibrate(scaled)
    assert numerical_rank(torch.linalg.svdvals(found), 1e-12).tolist() == [3, 3]
    assert numerical_rank(torch.linalg.svdvals(scaled), 1e-12).tolist() != [3, 3]
    torch.testing.assert_close(found.norm(dim=1), torch.ones(2, 7, dtype=torch.float64))
    ratio = found / scaled
    torch.testing.assert_close(ratio[:, :, 1] / ratio[:, :, 0], (ratio[:, :1, 1] / ratio[:, :1, 0]).expand(2, 9))
    assert torch.equal(equilibrate(torch.zeros(1, 3, 3)), torch.zeros(1, 3, 3))


@pytest.mark.parametrize("sites", [784, 785])
def test_long_chains_can_be_sketched(sites):
    format = EqualCoreTensorTrain(sites, 3, 2, rank=4, initialization="gaussian", gain=3.0)
    found = sketch(format, 8, torch.Generator().manual_seed(0))
    assert torch.isfinite(found).all()
    assert found.abs().max() > 1e-12
    assert torch.equal(found, sketch(format, 8, torch.Generator().manual_seed(0)))


def test_a_matricization_too_large_for_memory():
    with pytest.raises(UserError, match=r"4\.87e\+20 entries.*GiB.*sketch"):
        matricization(TensorTrain(16, 17, 10))
