r"""Initial cores of a tensor train.

The signal has to survive d products. Two initializations, with mode size n, TT-rank r and random part ``gain``:

``identity``  the slice of the last mode passes the state on unchanged, the other slices are small noise:
    F[n] = 1/sqrt(r) in every entry,  G_k[n] = 1,  every other F[i], G_k[i] ~ N(0, (gain/10)^2 / (n r)),  L ~ N(0, 1/r).
    With a constant last feature f[n] = 1 a site passes the state on and adds a small term of its own.

``gaussian``  every entry independent, the usual choice for a single layer:
    F ~ N(0, gain^2 / n),  G_k ~ N(0, gain^2 / (n r)),  L ~ N(0, gain^2 / (n r)).
    The variance of the state is multiplied by gain^2 |f|^2 / n at each site; for small features it vanishes.
"""

from collections.abc import Callable
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor


def gaussian(deviation: float, *shape: int) -> Tensor:
    """N(0, deviation^2) entries; a shape only on the meta device, where arithmetic imports torch._dynamo (1 s)."""
    return torch.empty(shape) if torch.empty(0).is_meta else deviation * torch.randn(shape)


First = Float[Tensor, "modes rank"]
Interior = Float[Tensor, "distinct modes rank rank"]
Last = Float[Tensor, "modes rank classes"]


def fill_identity(first: First, interior: Interior, last: Last, gain: float) -> None:
    """Fill the cores in place: identity in the last mode's slice, noise elsewhere."""
    mode_size, rank = first.shape
    noise = 0.1 * gain / (mode_size * rank) ** 0.5
    for core in (first, interior):
        core.normal_(std=noise)
    first[-1] = rank**-0.5
    interior[:, -1] = torch.eye(rank, dtype=interior.dtype, device=interior.device)
    last.normal_(std=rank**-0.5)


def fill_gaussian(first: First, interior: Interior, last: Last, gain: float) -> None:
    """Fill the cores in place with independent Gaussian entries."""
    mode_size, rank = first.shape
    first.normal_(std=gain / mode_size**0.5)
    interior.normal_(std=gain / (mode_size * rank) ** 0.5)
    last.normal_(std=gain / (mode_size * rank) ** 0.5)


INITIALIZATIONS: Final[dict[str, Callable[[First, Interior, Last, float], None]]] = {
    "identity": fill_identity,
    "gaussian": fill_gaussian,
}
