r"""Shallow networks that imitate a trained one: distillation of its scores on mixed and on real images.

A mixed image (i, j) has the odd patches of image i and the even patches of image j. A shallow network of R units, with
a feature map f of its own, multiplies d inner products in each unit, so over K x K mixed images

    s[i, j, y] = sum_k c_ky u[i, k] v[j, k],   u[i, k] = prod over odd sites <a_sk, f(x_is)>,   v: over even sites,

and 2 K products of d/2 factors give K^2 scores. Everything is measured after the mean over the classes is taken out,
which changes no class probability:

    error = sqrt(sum over i, j, y (s - t)^2 / sum over i, j, y t^2),         t the scores of the network to imitate.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ttlightning.formats import CanonicalPolyadic
from ttlightning.networks.features import PatchFeatureMap
from ttlightning.networks.network import Network
from ttlightning.randomness import keyed_generator, keyed_global_generator

Patches = Float[Tensor, "images sites patch_dim"]
Grid = Float[Tensor, "rows columns classes"]


@dataclass(frozen=True)
class Recipe:
    """How an imitator is trained: Adam with a rate that falls to 0 along half a cosine."""

    steps: int = 2000
    side: int = 64
    """images on each side of a step's grid of mixed images; a step on real images has four times as many"""
    rate: float = 5e-3
    mode_size: int = 17


def centred(scores: Float[Tensor, "*batch classes"]) -> Float[Tensor, "*batch classes"]:
    """Scores without their mean over the classes."""
    return scores - scores.mean(-1, keepdim=True)


@torch.no_grad()
def relative_error(scores: Tensor, target: Tensor) -> float:
    """Root mean square of the difference over that of the target, both centred over the classes, the last axis."""
    target = centred(target.double())
    return float((centred(scores.double()) - target).norm() / target.norm())


def shallow_network(like: Network, patches: Patches, units: int, mode_size: int, seed: int) -> Network:
    """An untrained shallow network of ``units`` units for these patches and the classes of ``like``."""
    with keyed_global_generator(seed, "imitator", units):
        features = PatchFeatureMap(patches.shape[2], mode_size, "gelu")
        format = CanonicalPolyadic(patches.shape[1], mode_size, like.format.classes, units, gain=3)
    return Network(features, format, like.pixel_mean)


def grid_scores(shallow: Network, rows: Patches, columns: Patches) -> Grid:
    """Scores of the shallow network at all mixed images (odd patches of a row, even patches of a column)."""
    format = shallow.format
    odd, even = (
        torch.einsum("bsn,snk->bsk", shallow.embed(patches[:, parity::2]), format.factors[parity::2]).prod(1)
        for parity, patches in enumerate((rows, columns))
    )
    return torch.einsum("ik,kjc->ijc", odd, torch.einsum("jk,kc->kjc", even, format.weights))


def imitate_mixed(shallow: Network, patches: Patches, target: Grid, recipe: Recipe, seed: int) -> None:
    """Train on mixed images of ``patches``; ``target[i, j]`` are the scores at (i, j). Every step draws its images."""
    target, scale = _scaled(target)
    generator = keyed_generator(seed, "mixed images")

    def loss() -> Tensor:
        i, j = (torch.randperm(len(patches), generator=generator)[: recipe.side] for _ in range(2))
        return (centred(grid_scores(shallow, patches[i], patches[j])) - target[i][:, j]).square().mean()

    _descend(shallow, loss, recipe, scale)


def imitate_real(shallow: Network, patches: Patches, target: Tensor, recipe: Recipe, seed: int) -> None:
    """Train on real images; ``target[i]`` are the scores of image i."""
    target, scale = _scaled(target)
    generator = keyed_generator(seed, "real images")

    def loss() -> Tensor:
        i = torch.randint(len(patches), (4 * recipe.side,), generator=generator)
        return (centred(shallow(patches[i])) - target[i]).square().mean()

    _descend(shallow, loss, recipe, scale)


def _scaled(target: Tensor) -> tuple[Tensor, Tensor]:
    """The centred target with mean square 1, and the root mean square that it had."""
    target = centred(target)
    scale = target.square().mean().sqrt()
    return (target / scale).float(), scale.float()


def _descend(shallow: Network, loss: Callable[[], Tensor], recipe: Recipe, scale: Tensor) -> None:
    """Minimize ``loss`` of the scaled target, then give the weights of the sum the target's scale."""
    optimizer = torch.optim.Adam(shallow.parameters(), lr=recipe.rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.steps)
    for _ in range(recipe.steps):
        optimizer.zero_grad()
        loss().backward()
        torch.nn.utils.clip_grad_norm_(shallow.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        shallow.format.weights.mul_(scale)
    shallow.requires_grad_(False)
