r"""The width that stays within an error of the whole tensor, from sums of powers of the singular values.

    R(eps) >= (1 - eps^2)^2 R_2,        R_2 = 1 / sum_k p_k^2 = tr(P P^T)^2 / tr((P P^T)^2)

If R products leave at most eps^2 of the squares, the R largest p_k sum to at least 1 - eps^2, and by Cauchy-Schwarz
their squares to at least (1 - eps^2)^2 / R. Without metric the error is in the Frobenius norm of the tensor. With M_k,
the second moments of the features at site k, it is the mean square error over images whose patches are independent.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from ttlightning.formats import ScoreTensor
from ttlightning.rank.in_float64 import in_float64


def second_moments(features: Float[Tensor, "images sites modes"]) -> Float[Tensor, "sites modes modes"]:
    """M_k = mean of f_k f_k^T over the images, in float64."""
    by_site = features.detach().double().transpose(0, 1)
    return by_site.transpose(1, 2) @ by_site / len(features)


def effective_ranks(
    format: ScoreTensor, metrics: Float[Tensor, "sites modes modes"] | None = None
) -> list[float] | None:
    """R_2 of the odd/even matricization of every class, and of all classes side by side; None without a formula.

    Args:
        format: the weight tensors.
        metrics: M_k of every site; None: the plain metric.
    """
    if metrics is None:
        metrics = torch.eye(format.mode_size, dtype=torch.float64).expand(format.sites, -1, -1)
    moments = in_float64(format, "spectral_moments", metrics)
    if moments is None:
        return None
    traces, squares = moments
    return (traces.square() / squares).tolist()


def width_in_tensor(effective_rank: float, eps: float) -> float:
    """(1 - eps^2)^2 R_2, a lower bound on the units that stay within ``eps``, a fraction of the tensor's norm."""
    return (1 - eps**2) ** 2 * effective_rank
