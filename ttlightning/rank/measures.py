r"""What a rank check measures of the weight tensors of a network, as plain numbers per class and per bond.

For every format:
  * ``measure_ranks``: a K x K sketch of the odd/even matricization of each class tensor, rows and columns scaled to
    norm 1, with its numerical rank, stable rank and entropy; the generic rank of the format beside it;
  * ``measure_width``: how wide a shallow network must be to stay within 10 % and 1 % of the scores on mixed images;
  * ``certify``: a lower bound on the CP-rank of every class tensor, counted modulo a prime. The staircase gives it for
    a tensor train. K x K exact scores give it for another format; they show at most K.
For tensor trains also:
  * ``measure_staircase``: the distance from a lower rank, by the singular values of the staircase's matrices T_m;
  * the TT-rank in use and the entropy at each bond.
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ttlightning.formats import ScoreTensor
from ttlightning.randomness import keyed_generator
from ttlightning.rank.bounds import ratio, shallow_parameters
from ttlightning.rank.certificates import Certificate
from ttlightning.rank.certificates.sampled import largest_grid, sampled_certificate
from ttlightning.rank.certificates.staircase import checkpoint_certificate
from ttlightning.rank.finite_field import PRIMES
from ttlightning.rank.limits import stated
from ttlightning.rank.spectrum import bond_spectra, entropy, numerical_rank, stable_rank
from ttlightning.rank.staircase import pair_matrix, pairs
from ttlightning.rank.unfolding import equilibrate, sketch
from ttlightning.rank.width.curve import curve_on_images

WIDTH_ERRORS = {"width_10_percent": 0.1, "width_1_percent": 0.01}
"""Entries of a record, and the relative root mean square error that they are for."""


def measure_ranks(format: ScoreTensor, sketch_size: int, bond_tolerance: float, seed: int) -> dict[str, Any]:
    """Sizes, generic rank, published bound; ranks and entropy of the sketch per class, of the bonds per bond.

    Args:
        format: the weight tensors.
        sketch_size: K.
        bond_tolerance: a singular value of a bond is in use if it exceeds this fraction of the bond's largest.
        seed: key of the sketch's random features.
    """
    values = _sketch_singular_values(format, sketch_size, seed)
    resolution = sketch_size * torch.finfo(values.dtype).eps
    record: dict[str, Any] = {
        "mode_size": format.mode_size,
        "rank": format.rank,
        "sites": format.sites,
        "sketch_size": sketch_size,
        "sketch_rank": numerical_rank(values, resolution).tolist(),
        "stable_rank": stable_rank(values).tolist(),
        "entropy": entropy(values).tolist(),
    }
    bounds = {"bound": format.generic_rank(), "bound_published": format.published_bound()}
    record |= {name: stated(bound) for name, bound in bounds.items() if bound is not None}
    if (cores := format.cores()) is not None:
        spectra = bond_spectra(cores)
        record["tt_rank"] = [int(numerical_rank(s, bond_tolerance)) for s in spectra]
        record["bond_entropy"] = [float(entropy(s)) for s in spectra]
    return record


def measure_staircase(format: ScoreTensor) -> dict[str, Any]:
    """Smallest singular value and condition of every T_m, in float64; empty without staircase or with a NaN weight.

    Of n > r^2 slices only r^2 are linearly independent, so the smallest singular value is number r min(n, r^2).
    """
    cores = format.staircase_cores()
    if cores is None or not all(p.isfinite().all() for p in cores):
        return {}
    distinct = cores.interior.detach().double().cpu().numpy()
    steps = pairs(format.sites)[: 1 if len(distinct) == 1 else None]
    if not steps:
        return {}
    sites = [distinct[min(k, len(distinct) - 1)] for k in range(format.sites - 2)]
    matrices = np.stack([pair_matrix(sites[even - 2], sites[odd - 2]) for even, odd in steps])
    values = np.linalg.svd(matrices, compute_uv=False)
    smallest = values[:, format.rank * min(format.mode_size, format.rank**2) - 1]
    limits = np.finfo(float)
    with np.errstate(over="ignore"):  # the largest float stands for the condition of a singular T: JSON has no inf
        condition = np.minimum(values[:, 0] / np.maximum(smallest, limits.tiny), limits.max)
    return {"smallest_singular_value": smallest.tolist(), "condition": condition.tolist()}


def measure_width(format: ScoreTensor, features: Float[Tensor, "images sites modes"]) -> dict[str, int]:
    """The least units of a shallow network that stays within an error of the scores on K x K mixed images.

    All classes together, without their mean over the classes, in float64 without a proof of the rounding errors. At
    most K units are seen. Empty if a score is not finite.
    """
    curve = curve_on_images(format, features, proven=False)
    if curve is None:
        return {}
    return {"width_images": len(features)} | {name: curve.width(eps) for name, eps in WIDTH_ERRORS.items()}


def measure_spectra(format: ScoreTensor, sketch_size: int, seed: int) -> tuple[str, dict[int, Float[Tensor, " size"]]]:
    """("bond", singular values at each bond, from 1), or ("class", those of each class's sketch) without bonds.

    Each list is scaled to a largest value of 1. The sketch is the one of ``measure_ranks`` with the same seed.
    """
    if (cores := format.cores()) is not None:
        return "bond", dict(enumerate(bond_spectra(cores), start=1))
    values = _sketch_singular_values(format, sketch_size, seed).cpu()
    return "class", dict(enumerate(values / values.amax(-1, keepdim=True)))


def certify(format: ScoreTensor, size: int) -> Certificate | None:
    """The certificate of the present weights, from one prime; None if a weight is not finite.

    A tensor train is certified by its staircase. Another format is certified from K x K scores; K is the largest power
    of two up to ``size`` that the modes allow.

    Raises:
        UserError: if the network is outside the table of limits, its weights have a type without exact images, or its
            format has no exact scores.
    """
    if not all(p.isfinite().all() for p in format.parameters()):
        return None
    if format.staircase_cores() is not None:
        return checkpoint_certificate(format, "", PRIMES[:1])
    return sampled_certificate(format, "", largest_grid(size, format.mode_size, format.sites))


def describe_certificate(certificate: Certificate, format: ScoreTensor) -> dict[str, Any]:
    """A check's record of its certificate: the bounds, and a number to compare them with."""
    certified = certificate["cp_rank_at_least"]
    if certificate["kind"] == "checkpoint":
        parameters = shallow_parameters(min(certified), format.mode_size, format.sites)
        return {"certified": certified, "shallow_over_chain": stated(parameters // format.parameter_count())}
    most = {"cp_rank_at_most": format.rank} if format.shallow else {}
    return {"certified": certified, "certified_size": certificate["size"]} | most


def summarize_ranks(record: dict[str, Any]) -> dict[str, float]:
    """The few numbers of a check that go to the loggers; an integer that no float can hold becomes inf."""

    def mean(values: list[float]) -> float:
        return sum(values) / len(values)

    summary = {
        "rank/sketch_rank": min(record["sketch_rank"]),
        "rank/stable_rank": mean(record["stable_rank"]),
        "rank/entropy": mean(record["entropy"]),
    }
    summary |= {f"rank/{name}": record[name] for name in ("bound", "bound_published") if name in record}
    if "certified" in record:
        summary["rank/certified"] = min(record["certified"])
    summary |= {f"rank/{name}": record[name] for name in ("width_images", *WIDTH_ERRORS) if name in record}
    if "condition" in record:
        summary["rank/smallest_singular_value"] = min(record["smallest_singular_value"])
        summary["rank/condition"] = max(record["condition"])
    if "tt_rank" in record:
        summary["rank/tt_rank_min"], summary["rank/tt_rank_max"] = min(record["tt_rank"]), max(record["tt_rank"])
        summary["rank/bond_entropy"] = mean(record["bond_entropy"])
    return {key: ratio(value, 1) if isinstance(value, int) else value for key, value in summary.items()}


def _sketch_singular_values(format: ScoreTensor, size: int, seed: int) -> Float[Tensor, "classes size"]:
    return torch.linalg.svdvals(equilibrate(sketch(format, size, keyed_generator(seed, "rank check"))))
