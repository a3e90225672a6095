r"""Initial cores of a tensor train.

The signal has to survive d products. Two initializations, with mode size n, TT-rank r and random part ``gain``:

``identity``  the slice of the last mode passes the state on unchanged, the other slices are small noise:
    F[n] = 1/sqrt(r) in every entry,  G_k[n] = 1,  every other F[i], G_k[i] ~ N(0, (gain/10)^2 / (n r)),  L ~ N(0, 1/r).
    With a constant last feature f[n] = 1 a site passes the state on and adds a small term of its own.

``rotation``  the same with a rotation R in place of the identity, G_k[n] = R: states 2j - 1 and 2j turn by 2 pi / P_j a
    site, with periods P_j spaced evenly in their logarithm from 4 to 1024. A term that site k adds reaches the end as
    R^(d-k), so the scores know from the start where in the chain it was added. This is for long chains of equal cores.

``gaussian``  every entry independent, the usual choice for a single layer:
    F ~ N(0, gain^2 / n),  G_k ~ N(0, gain^2 / (n r)),  L ~ N(0, gain^2 / (n r)).
    The variance of the state is multiplied by gain^2 |f|^2 / n at each site; for small features it vanishes.
"""

from collections.abc import Callable
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

PERIODS: Final = (2, 10)
"""Logarithms to base 2 of the shortest and the longest period of a rotation, in sites."""


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


def fill_rotation(first: First, interior: Interior, last: Last, gain: float) -> None:
    """Fill the cores in place: a rotation in the last mode's slice, noise elsewhere."""
    fill_identity(first, interior, last, gain)
    rank = first.shape[1]
    pairs = torch.arange(0, rank - 1, 2, device=first.device)
    periods = torch.logspace(*PERIODS, len(pairs), base=2, dtype=interior.dtype, device=first.device)
    for at, angle in zip(pairs.tolist(), 2 * torch.pi / periods, strict=True):
        sine, cosine = angle.sin(), angle.cos()
        turn = torch.stack([torch.stack([cosine, sine]), torch.stack([-sine, cosine])])
        interior[:, -1, at : at + 2, at : at + 2] = turn


INITIALIZATIONS: Final[dict[str, Callable[[First, Interior, Last, float], None]]] = {
    "identity": fill_identity,
    "rotation": fill_rotation,
    "gaussian": fill_gaussian,
}
