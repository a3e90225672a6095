r"""Certificates of width against error, for a trained network and given images.

The network is taken in exact arithmetic: x -> f = sigma(A (x - m) + b), then the scores, with its weights as they are
and x the numbers of the patches. The features are computed as balls, and rounded to float64 with a bound on the rest.
What that means for a score, and the rounding of the scores, is in ``rank/width/images.py``.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
from flint import arb, arb_mat, ctx
from jaxtyping import Float
from torch import Tensor

from ttlightning.errors import UserError
from ttlightning.rank.certificates import Certificate
from ttlightning.rank.limits import out_of_range, refuse, unfit, width_excess
from ttlightning.rank.statements import heading, width_statement
from ttlightning.rank.width.curve import WidthCurve, curve_on_images

PERMILLE = (500, 200, 100, 50, 20, 10)
"""Errors that a certificate has a width for, in thousandths."""
IMAGES_AT_ONCE: Final = 256
"""Images whose features are balls at a time."""
ACTIVATIONS: Final[dict[str, Callable[[Any], Any]]] = {
    "relu": lambda z: z.nonnegative_part(),
    "gelu": lambda z: z * (1 + (z / arb(2).sqrt()).erf()) / 2,
    "sigmoid": lambda z: 1 / (1 + (-z).exp()),
    "tanh": lambda z: z.tanh(),
    "softplus": lambda z: (1 + z.exp()).log(),
    "cos": lambda z: z.cos(),
    "identity": lambda z: z,
}
"""Of a ball: a ball that holds the values at all of its numbers."""


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
    format, features, images = network.format.weight_tensor(), network.features, len(patches)
    activation: str = getattr(features, "activation", "")
    known = activation in ACTIVATIONS and bool(getattr(features, "layers", list)())
    if format is None or not known or format.roundings() is None:
        raise UserError(
            "a width is certified for the formats and the feature map of this package, not for "
            f"{network.format.name} with {type(features).__name__}"
        )
    weights = dict(network.named_parameters())
    mode_size, rank, sites = format.mode_size, format.rank, format.sites
    refuse(out_of_range(images=images, sites=sites, mode_size=mode_size, rank=rank, classes=format.classes))
    refuse(unfit(weights) or width_excess(weights, images, sites, mode_size, rank, format.classes))
    curve = proven_curve(network, patches)
    if curve is None:
        raise UserError("a score on the mixed images is infinite or not a number: there is no width to certify")
    units = [curve.width(each / 1000) for each in permille]
    return heading(
        "width", width_statement(permille, units, images, activation, network.pixel_mean), mode_size, rank, sites
    ) | {
        "weights_sha256": sha256,
        "images": images,
        "images_sha256": images_sha256,
        "activation": activation,
        "constant": features.constant,
        "pixel_mean": network.pixel_mean,
        "permille": list(permille),
        "units_at_least": units,
    }


def proven_curve(network: Any, patches: Float[Tensor, "images sites patch_dim"]) -> WidthCurve | None:
    """The curve of a network of known arithmetic on mixed images, for any K; None if a score is not finite."""
    features = network.features
    layers = [(layer.weight, layer.bias) for layer in features.layers()]
    parts = [
        exact_features(part, layers, network.pixel_mean, features.activation) for part in patches.split(IMAGES_AT_ONCE)
    ]
    found, error = (torch.cat(each) for each in zip(*parts, strict=True))
    if features.constant:
        found, error = (torch.cat([t, t.new_full((*t.shape[:2], 1), v)], 2) for t, v in ((found, 1.0), (error, 0.0)))
    return curve_on_images(network.format, found, error)


def exact_features(
    patches: Float[Tensor, "images sites patch_dim"],
    layers: Sequence[tuple[Float[Tensor, "outputs inputs"], Float[Tensor, " outputs"]]],
    pixel_mean: float,
    activation: str,
) -> tuple[Float[Tensor, "images sites modes"], Float[Tensor, "images sites modes"]]:
    """Features in float64, and a bound on the distance of each from the exact one; from balls of 128 bits.

    Args:
        layers: weight and bias of every layer of the feature map.
    """
    before, ctx.prec = ctx.prec, 128
    try:
        mean, of_balls = arb(pixel_mean), ACTIVATIONS[activation]
        balls = [[arb(x) - mean for x in row] for row in patches.flatten(0, 1).double().tolist()]
        for weight, bias in layers:
            products = (arb_mat(balls) * arb_mat(weight.detach().double().T.tolist())).tolist()
            added = [arb(b) for b in bias.detach().double().tolist()]
            balls = [[of_balls(z + b) for z, b in zip(row, added, strict=True)] for row in products]
        found = [[float(f.mid()) for f in row] for row in balls]
        error = [[1.01 * float(f.rad()) + 2.0**-51 * abs(float(f.mid())) for f in row] for row in balls]
    finally:
        ctx.prec = before
    shape = (*patches.shape[:2], len(added))
    return torch.tensor(found, dtype=torch.float64).view(shape), torch.tensor(error, dtype=torch.float64).view(shape)
