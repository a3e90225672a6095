"""Ranks of weight tensors: proven bounds and measurements. Bounds are imported without torch."""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from ttlightning.rank.bounds import (
    can_be_written,
    chain_parameters,
    cp_rank_bound_a24,
    cp_rank_bound_k18,
    generic_canonical_rank,
    generic_odd_even_rank,
    generic_tree_rank,
    in_figures,
    ratio,
    shallow_parameters,
)

if TYPE_CHECKING:
    from ttlightning.rank.spectrum import bond_spectra, entropy, numerical_rank, stable_rank
    from ttlightning.rank.unfolding import equilibrate, matricization, sketch

FILES: Final = {
    "bond_spectra": "spectrum",
    "entropy": "spectrum",
    "equilibrate": "unfolding",
    "matricization": "unfolding",
    "numerical_rank": "spectrum",
    "sketch": "unfolding",
    "stable_rank": "spectrum",
}
"""Functions that need torch: their file in this folder."""

__all__ = [
    "bond_spectra",
    "can_be_written",
    "chain_parameters",
    "cp_rank_bound_a24",
    "cp_rank_bound_k18",
    "entropy",
    "equilibrate",
    "generic_canonical_rank",
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


def __getattr__(name: str) -> Any:
    if name not in FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{FILES[name]}"), name)
