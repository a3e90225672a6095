r"""Chains of different lengths with equal interior cores, on the kernels for chains of one length.

    F(x_1) G(x_2) ... G(x_{L-1}) L(x_L)  =  F(x_1) E ... E G(x_2) ... G(x_{L-1}) L(x_L),      X(x) = sum_i x[i] X[i]

E is the identity, as the slice of a mode that the cores get in addition: G[n+1] = 2^j 1, and the sites that fill a
short sequence have the feature 2^-j there and 0 elsewhere. They stand behind the first site, so that the last core is
at the last site of every sequence. They multiply the state by 1 and add zeros: this is exact. 2^j is half of the power
of two above the largest entry of G where a kernel splits the size of the cores off, so that E does not change it.

On a CPU the samples are sorted by length and cut into groups, and a group has the sites of its longest sequence. The
kernel computes ``TOGETHER`` samples side by side in its vectors, so a smaller group would save nothing. A group of one
length needs no E. scripts/sequence_speed.py measures the groups beside one group, and beside a call for each length.
"""

from collections.abc import Sequence
from typing import Final

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from ttlightning.errors import UserError
from ttlightning.formats.kernels import native
from ttlightning.formats.kernels.derivatives import by_operations
from ttlightning.formats.kernels.dispatch import chain_scores
from ttlightning.formats.kernels.scales import scales_of

TOGETHER: Final = 16
"""Samples of float32 in 64 bytes, a block of the compiled kernel."""
WASTE: Final = 1.1
"""A group goes on beyond ``TOGETHER`` samples while its longest sequence is at most this factor longer."""


def chain_scores_of_lengths(
    features: Float[Tensor, "batch sites modes"],
    lengths: Int[Tensor, " batch"],
    first: Float[Tensor, "modes rank"],
    interior: Float[Tensor, "one modes rank rank"],
    last: Float[Tensor, "modes rank classes"],
) -> tuple[Float[Tensor, "batch classes"], Int[Tensor, " batch"]]:
    """Scores of the first ``lengths[b]`` sites of sample b, as mantissa and exponent; see ``dispatch.chain_scores``.

    Raises:
        UserError: as ``chain_scores``; a length below 2 or above ``sites``.
    """
    cores = first, interior, last
    if by_operations(features, *cores):  # a program that is recorded or mapped cannot depend on the lengths
        return chain_scores(*_filled(features, lengths, *cores, _size_of(interior)))
    check_lengths(lengths, len(features), features.shape[1])
    is_native = features.device.type == "cpu" and native.kernel() is not None
    size = torch.ones_like(_size_of(interior)) if is_native else _size_of(interior)
    each = lengths.tolist()
    if features.device.type != "cpu":
        return chain_scores(*_filled(features[:, : max(each, default=2)], lengths, *cores, size))
    groups = group_by_length(each)
    if len(groups) < 2:
        return _scores_of_group(features, lengths, each, cores, size)
    parts = []
    for group in groups:
        index = torch.tensor(group, device="cpu")
        parts.append(_scores_of_group(features[index], lengths[index], [each[i] for i in group], cores, size))
    back = torch.tensor([i for group in groups for i in group], device="cpu").argsort()
    mantissas, exponents = zip(*parts, strict=True)
    return torch.cat(mantissas)[back], torch.cat(exponents)[back]


def check_lengths(lengths: Tensor, samples: int, sites: int) -> None:
    """Raise ``UserError`` unless there is a whole number from 2 to ``sites`` for each sample."""
    if lengths.shape != (samples,) or lengths.is_floating_point() or lengths.dtype == torch.bool:
        raise UserError(
            f"lengths are {lengths.dtype} of shape {tuple(lengths.shape)}, they must be whole numbers of shape "
            f"({samples},), one for each sample"
        )
    if samples and not 2 <= int(lengths.min()) <= int(lengths.max()) <= sites:
        raise UserError(
            f"lengths lie from {int(lengths.min())} to {int(lengths.max())}, they must be at least 2 and at most "
            f"{sites}, the number of sites"
        )


def group_by_length(lengths: Sequence[int]) -> list[list[int]]:
    """Indices of the samples in groups of similar lengths, the longest first."""
    groups: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if groups and (len(groups[-1]) < TOGETHER or lengths[groups[-1][0]] <= WASTE * lengths[index]):
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


def _scores_of_group(
    features: Tensor, lengths: Tensor, each: Sequence[int], cores: tuple[Tensor, Tensor, Tensor], size: Tensor
) -> tuple[Tensor, Tensor]:
    longest = max(each, default=2)
    inside = features[:, :longest]
    if min(each, default=2) == longest:
        first, interior, last = cores
        return chain_scores(inside, first, interior[: longest - 2], last)
    return chain_scores(*_filled(inside, lengths, *cores, size))


def _filled(
    features: Tensor, lengths: Tensor, first: Tensor, interior: Tensor, last: Tensor, size: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Features and cores with one mode more; every sequence has all sites."""
    sites, mode_size = features.shape[1:]
    if sites == 2:
        return features, first, interior[:0], last
    site = torch.arange(sites, device=features.device)
    gaps = sites - lengths.to(site.dtype).unsqueeze(1)
    is_filling = (site > 0) & (site <= gaps)
    source = torch.where(site == 0, 0, (site - gaps).clamp(min=0))
    taken = features.gather(1, source.unsqueeze(2).expand(-1, -1, mode_size))
    taken = torch.where(is_filling.unsqueeze(2), 0, taken)
    filling = torch.where(is_filling, 1 / size, 0).to(features.dtype).unsqueeze(2)
    identity = size * torch.eye(interior.shape[-1], dtype=interior.dtype, device=interior.device)
    return (
        torch.cat([taken, filling], 2),
        F.pad(first, (0, 0, 0, 1)),
        torch.cat([interior, identity[None, None]], 1),
        F.pad(last, (0, 0, 0, 0, 0, 1)),
    )


def _size_of(interior: Tensor) -> Tensor:
    """2^j, a tensor without dimensions; 1 for a chain of two sites, which has no interior core."""
    if not interior.numel():
        return interior.new_ones(())
    return (0.5 / scales_of(interior, (0, 1, 2, 3))[0]).reshape(()).detach()
