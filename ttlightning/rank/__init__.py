"""Ranks of weight tensors: what is proven of them, and what is measured."""

from ttlightning.rank.bounds import (
    can_be_written,
    chain_parameters,
    cp_rank_bound_a24,
    cp_rank_bound_k18,
    generic_odd_even_rank,
    generic_tree_rank,
    in_figures,
    ratio,
    shallow_parameters,
)
from ttlightning.rank.spectrum import bond_spectra, entropy, numerical_rank, stable_rank
from ttlightning.rank.unfolding import equilibrate, matricization, sketch

__all__ = [
    "bond_spectra",
    "can_be_written",
    "chain_parameters",
    "cp_rank_bound_a24",
    "cp_rank_bound_k18",
    "entropy",
    "equilibrate",
    "generic_odd_even_rank",
    "generic_tree_rank",
    "in_figures",
    "matricization",
    "numerical_rank",
    "ratio",
    "shallow_parameters",
    "sketch",
    "stable_rank",
]
