"""Bounds against each other, against the papers' numbers and against literal matricizations."""

import math
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kinds import CHAINS, TREES
from tensor_ring import TensorRing

from ttlightning import CanonicalPolyadic, EqualCoreTensorTrain, TensorTrain
from ttlightning.formats.bounds import cp_rank_bound_a24, cp_rank_bound_k18, generic_odd_even_rank, generic_tree_rank
from ttlightning.rank.bounds import in_figures, ratio
from ttlightning.rank.spectrum import numerical_rank
from ttlightning.rank.unfolding import matricization


@pytest.mark.parametrize(
    ("mode_size", "rank", "sites", "expected"),
    [(5, 3, 8, (81, 16, 375)), (17, 16, 16, (16**8, 15**8, 16 * 17**7)), (64, 8, 16, (8**8, 7**8, 8 * 64**7))],
)
def test_numbers_of_the_papers(mode_size, rank, sites, expected):
    bounds = cp_rank_bound_k18, cp_rank_bound_a24, generic_odd_even_rank
    assert tuple(bound(mode_size, rank, sites) for bound in bounds) == expected


@given(mode_size=st.integers(1, 40), rank=st.integers(1, 40), sites=st.integers(2, 30))
def test_ours_is_never_below_the_published_ones(mode_size, rank, sites):
    ours = generic_odd_even_rank(mode_size, rank, sites)
    assert ours >= cp_rank_bound_k18(mode_size, rank, sites) >= cp_rank_bound_a24(mode_size, rank, sites) >= 1
    assert ours <= mode_size ** (sites // 2)


@given(mode_size=st.integers(1, 40), rank=st.integers(1, 40), pairs=st.integers(1, 15))
def test_the_generic_rank_of_trees_is_the_published_bound_of_chains(mode_size, rank, pairs):
    assert generic_tree_rank(mode_size, rank, 2 * pairs) == cp_rank_bound_k18(mode_size, rank, 2 * pairs)


@pytest.mark.parametrize("kind", CHAINS)
@pytest.mark.parametrize(
    ("mode_size", "rank", "sites"),
    [(n, r, d) for n in range(1, 5) for r in range(1, 4) for d in range(2, 7) if n**d <= 4096],
)
def test_random_tensors_have_the_generic_rank(kind, mode_size, rank, sites):
    """Odd d as well as even d, n above and below r and r^2, different and equal cores."""
    torch.manual_seed(mode_size + 10 * rank + 100 * sites)
    format = kind(sites, mode_size, 2, rank=rank, initialization="gaussian", gain=2.0)
    values = torch.linalg.svdvals(matricization(format))
    assert numerical_rank(values, 1e-11).tolist() == [generic_odd_even_rank(mode_size, rank, sites)] * 2


def test_numbers_of_any_size_can_be_shown():
    huge = generic_odd_even_rank(17, 16, 784)
    assert in_figures(6_565_418_768) == "6,565,418,768"
    assert [in_figures(10**n) for n in range(15, 400)] == [f"1.00e+{n}" for n in range(15, 400)]
    assert in_figures(12345 * 10**478) == "1.23e+482"
    assert in_figures(huge).endswith(f"e+{len(str(huge)) - 1}")
    assert ratio(huge, 3) == math.inf
    assert ratio(3, 2) == 1.5


def test_bounds_certificates_and_verifier_are_imported_without_torch():
    modules = "bounds", "full_matricization", "certificates.staircase", "certificates.sampled", "verifier.verification"
    code = (
        f"import sys; {'; '.join(f'import ttlightning.rank.{name}' for name in modules)}; print('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


def test_the_measures_need_neither_lightning_nor_torchvision_nor_scipy():
    heavy = "{'lightning', 'torchvision', 'scipy', 'wandb'}"
    code = f"import sys, ttlightning.rank.measures; print({heavy} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


@pytest.mark.parametrize(
    ("kind", "generic", "published"),
    [
        (TensorTrain, 3 * 4**3, 3**4),
        (EqualCoreTensorTrain, 3 * 4**3, 2**4),
        (CanonicalPolyadic, 3, None),
        *((kind, 3**4, None) for kind in TREES),
        (TensorRing, None, None),
    ],
)
def test_a_format_states_its_bounds(kind, generic, published):
    format = kind(8, 4, 2, 3)
    assert (format.generic_rank(), format.published_bound()) == (generic, published)
