r"""Certificates of width against error, for a trained network and given images.

The network is taken in exact arithmetic: x -> f = relu(A (x - m) + b), then the scores, with its weights as they are
and x the numbers of the patches. A computed feature differs from f by at most d = gamma_{q+3} (|A| (|x| + |m|) + |b|),
for patches of q numbers. What follows for a score is in ``rank/width/images.py``.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ttlightning.errors import UserError
from ttlightning.rank.certificates import Certificate
from ttlightning.rank.limits import out_of_range, refuse, unfit, width_excess
from ttlightning.rank.statements import heading, width_statement
from ttlightning.rank.width.curve import width_curve
from ttlightning.rank.width.images import gamma, mixed_scores, side_by_side, without_common

PERMILLE = (500, 200, 100, 50, 20, 10)
"""Errors that a certificate has a width for, in thousandths."""
ACTIVATIONS = ("relu", "identity")
"""Activations whose values are exact in rational arithmetic."""


def width_certificate(
    network: Any,
    sha256: str,
    patches: Float[Tensor, "images sites patch_dim"],
    images_sha256: str,
    permille: Sequence[int] = PERMILLE,
) -> Certificate:
    """The units that a shallow network needs to stay within each error of the network's scores on mixed images.

    Args:
        network: with ``features``, ``format`` and ``pixel_mean``.
        sha256: hash of all weights of the network, by ``runs.weights_sha256``.
        patches: of K images, float32 or float64.
        images_sha256: hash of the patches' numbers, float32, little-endian.
        permille: errors, root mean square as a fraction of the scores' own, in thousandths.

    Raises:
        UserError: if the network's arithmetic has no error bound, or a size is outside the table of ``limits.py``.
    """
    format, features, images = network.format, network.features, len(patches)
    activation = getattr(features, "activation", type(features).__name__)
    if activation not in ACTIVATIONS or format.roundings() is None:
        raise UserError(
            f"a width is certified for the package's formats and the activations {' and '.join(ACTIVATIONS)}, "
            f"not for {format.name} with {activation}"
        )
    weights = dict(network.named_parameters())
    mode_size, rank, sites = format.mode_size, format.rank, format.sites
    refuse(out_of_range(images=images, sites=sites, mode_size=mode_size, rank=rank, classes=format.classes))
    refuse(unfit(weights) or width_excess(weights, images, sites, mode_size, rank, format.classes))
    linear = features.linear
    found, error = exact_features(patches, linear.weight, linear.bias, network.pixel_mean, activation == "relu")
    if features.constant:
        found, error = (torch.cat([t, t.new_full((*t.shape[:2], 1), v)], 2) for t, v in ((found, 1.0), (error, 0.0)))
    curve = width_curve(*side_by_side(without_common(mixed_scores(format, found, error))))
    units = [curve.width(each / 1000) for each in permille]
    return heading("width", width_statement(permille, units, images), mode_size, rank, sites) | {
        "weights_sha256": sha256,
        "images": images,
        "images_sha256": images_sha256,
        "activation": activation,
        "constant": features.constant,
        "pixel_mean": network.pixel_mean,
        "permille": list(permille),
        "units_at_least": units,
    }


def exact_features(
    patches: Float[Tensor, "images sites patch_dim"],
    weight: Float[Tensor, "modes patch_dim"],
    bias: Float[Tensor, " modes"],
    pixel_mean: float,
    rectified: bool,
) -> tuple[Float[Tensor, "images sites modes"], Float[Tensor, "images sites modes"]]:
    """Features in float64, and a bound on the distance of each from the exact one."""
    x, a, b = patches.double(), weight.detach().double(), bias.detach().double()
    found = (x - pixel_mean) @ a.T + b
    error = 1.01 * gamma(x.shape[2] + 3) * ((x.abs() + abs(pixel_mean)) @ a.abs().T + b.abs())
    return (found.relu() if rectified else found), error
