"""Scores in exact arithmetic: those of the formats, and their ranks against the literal matricization."""

import numpy as np
import pytest
import torch
from kinds import FORMATS, TREES, restore
from oracles import dense_canonical, dense_tree

from ttlightning import CanonicalPolyadic, HierarchicalTucker
from ttlightning.formats.bounds import generic_tree_rank
from ttlightning.rank.certificates.sampled import sampled_certificate
from ttlightning.rank.finite_field import PRIMES, PrimeField, rank_modulo
from ttlightning.rank.verifier.verification import verify


def integers(kind, sites, mode_size, rank, classes=2, seed=0):
    """Small integers for weights, none of them 0, and the whole tensor mod p: float64 rounds nothing."""
    torch.manual_seed(seed)
    format = kind(sites, mode_size, classes, rank)
    signs = {name: 2 * torch.randint(2, p.shape) - 1 for name, p in format.named_parameters()}
    state = {name: (sign * torch.randint(1, 4, sign.shape)).double() for name, sign in signs.items()}
    if kind is CanonicalPolyadic:
        whole = dense_canonical(state["factors"], state["weights"])
    else:
        levels = [*(state[f"nodes.{k}"] for k in range(len(state) - 2)), state["root"].unsqueeze(0)]
        places = [sites >> k for k in range(1, len(levels) + 1)]
        leaves = list(state["leaves"].expand(sites, -1, -1))
        whole = dense_tree(leaves, [list(v.expand(w, -1, -1, -1)) for v, w in zip(levels, places, strict=True)])
    assert whole.abs().max() < 2**53
    return state, whole.numpy().astype(np.int64) % PRIMES[0]


def literal_ranks(whole):
    """Of every class, the exact rank of all entries, odd sites against even ones."""
    sites = whole.ndim - 1
    moved = whole.transpose(sites, *range(0, sites, 2), *range(1, sites, 2))
    rows = int(np.prod(whole.shape[0:sites:2]))
    return [rank_modulo(each.reshape(rows, -1), PRIMES[0]) for each in moved]


@pytest.mark.parametrize(
    ("kind", "sites", "mode_size", "rank", "expected"),
    [
        (CanonicalPolyadic, 4, 4, 5, 5),
        (CanonicalPolyadic, 5, 4, 3, 3),
        (CanonicalPolyadic, 5, 2, 9, 4),
        (CanonicalPolyadic, 2, 8, 16, 8),
        *((kind, *sizes) for kind in TREES for sizes in ((2, 4, 3, 3), (4, 4, 3, 9), (4, 4, 5, 16), (8, 2, 3, 16))),
    ],
)
def test_sampled_ranks_reach_the_literal_one(kind, sites, mode_size, rank, expected):
    """As many vectors as modes: the sample is the whole matricization in another basis."""
    state, whole = integers(kind, sites, mode_size, rank)
    size = mode_size ** (sites // 2)
    found = sampled_certificate(restore(state, sites), "ab", size)
    assert found["cp_rank_at_least"] == literal_ranks(whole) == [expected] * 2
    if kind in TREES:
        assert expected == generic_tree_rank(mode_size, rank, sites)
    verify(found, state, "ab", sites)
    for smaller in (1, size // 2):
        assert (
            sampled_certificate(restore(state, sites), "ab", smaller)["cp_rank_at_least"]
            <= [min(smaller, expected)] * 2
        )


def test_low_ranks_of_other_formats_are_seen():
    """Two units that say the same are one; of a site whose slices are equal a pair tells nothing apart."""
    state, _ = integers(CanonicalPolyadic, 4, 4, 5)
    state["factors"][:, :, 1] = 2 * state["factors"][:, :, 0]
    assert sampled_certificate(restore(state, 4), "ab", 16)["cp_rank_at_least"] == [4, 4]
    state, whole = integers(HierarchicalTucker, 4, 4, 5)
    state["leaves"][0] = state["leaves"][0, :1].clone()
    found = sampled_certificate(restore(state, 4), "ab", 16)["cp_rank_at_least"]
    assert found == [4, 4]
    assert literal_ranks(whole) == [16, 16]


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("sites", [2, 4])
def test_exact_scores_are_the_scores(kind, sites):
    """Features of whole numbers and weights of 24 bits: what float64 finds, p times an integer beside the residue."""
    torch.manual_seed(0)
    format = kind(sites, 3, 2, 2).double()
    state = {name: (p.detach() * 8).round() for name, p in format.named_parameters()}
    format.load_state_dict(state)
    vectors = [np.arange(6, dtype=np.int64).reshape(2, 3) + site for site in range(sites)]
    exact = [*format.exact_scores(vectors, PrimeField(PRIMES[0]))]
    for index, choice in enumerate(np.ndindex(*[2] * sites)):
        features = torch.tensor(np.stack([vectors[s][c] for s, c in enumerate(choice)])).double()
        scores = format(features[None])[0].detach()
        assert [int(of_class[index]) for of_class in exact] == [int(s) % PRIMES[0] for s in scores]


def test_the_largest_residues_do_not_overflow():
    """Weights of p - 1, which is -1: every product and every sum at its largest."""
    p = PRIMES[0]
    for kind, sites in ((CanonicalPolyadic, 5), (HierarchicalTucker, 4)):
        format = kind(sites, 4, 2, 17).double()
        signed = {name: torch.full_like(q, -1) for name, q in format.state_dict().items()}
        state = {name: torch.full_like(q, p - 1) for name, q in signed.items()}
        vectors = [np.full((2, 4), p - 1, dtype=np.int64) for _ in range(sites)]
        found, same = (restore(each, sites).exact_scores(vectors, PrimeField(p)) for each in (state, signed))
        format.load_state_dict(signed)
        score = int(format(-torch.ones(1, sites, 4, dtype=torch.float64))[0, 0]) % p
        assert all((each == score).all() for each in [*found, *same])
        verify(sampled_certificate(restore(state, sites), "ab", 4), state, "ab", sites)
