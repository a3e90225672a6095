r"""The tree by torch's operations and a gradient written by hand: for GPUs, and for CPUs without a compiler.

A level is one batched product of all its positions, v[k] = sum_ab left[a] right[b] B[a, b, k], or several if the pairs
left[a] right[b] do not fit the cache. The backward pass computes the pairs again. The scale of each position is split
off first. The batch is the last axis in memory, and every operation runs along it.
"""

from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor

from ttlightning.formats.kernels.derivatives import gradients
from ttlightning.formats.kernels.scales import split_off_scales

PAIRS_AT_ONCE: Final = 1 << 18
"""Products left[a] right[b] in memory at once; more would not stay in the cache."""


class TorchTree(torch.autograd.Function):
    """(features, leaves, root, *nodes) -> (scores, exponent), to be multiplied by ``2**exponent``."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, leaves: Tensor, root: Tensor, *nodes: Tensor) -> tuple[Tensor, Tensor]:
        scores_BC, exponent, x_PnB, all_states, all_scales = _scores(features, leaves, root, *nodes)
        ctx.save_for_backward(features, leaves, root, *nodes, exponent, x_PnB, *all_states, *all_scales)
        ctx.mark_non_differentiable(exponent)
        return scores_BC, exponent

    @staticmethod
    def backward(ctx: Any, scores_BC: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        return gradients(ctx, scores_BC, len(ctx.needs_input_grad), _by_hand, tree_by_operations)


def _scores(
    features: Tensor, leaves: Tensor, root: Tensor, *nodes: Tensor
) -> tuple[Tensor, Tensor, Tensor, list[Tensor], list[Tensor]]:
    """Scores and exponents; for the backward pass also the features, the states and their scales."""
    x_PnB = features.permute(1, 2, 0).contiguous()
    states_PrB = torch.bmm(_cores(leaves, len(x_PnB)).transpose(1, 2), x_PnB)
    all_states, all_scales, all_exponents = [], [], []
    for node in (*nodes, root.unsqueeze(0)):
        scales, exponents = split_off_scales(states_PrB)
        all_states.append(states_PrB)
        all_scales.append(scales)
        all_exponents.append(exponents)
        cores_Ppk = _cores(node.flatten(1, 2), len(states_PrB) // 2)
        (states_PrB,) = _in_pieces(_up, states_PrB[0::2], states_PrB[1::2], cores_Ppk)
    exponent = torch.cat(all_exponents).sum((0, 1), dtype=torch.int32)
    return states_PrB[0].T.contiguous(), exponent, x_PnB, all_states, all_scales


def tree_by_operations(features: Tensor, leaves: Tensor, root: Tensor, *nodes: Tensor) -> tuple[Tensor, Tensor]:
    """(scores, exponent), composed of differentiable operations."""
    return _scores(features, leaves, root, *nodes)[:2]


def _by_hand(
    _: Any, scores_BC: Tensor, inputs: tuple[Tensor, ...], saved: tuple[Tensor, ...], *_exponent: Tensor
) -> tuple[Tensor, ...]:
    leaves, root, *nodes = inputs[1:]
    x_PnB, levels = saved[0], len(nodes) + 1
    all_states, all_scales = saved[1 : 1 + levels], saved[1 + levels :]
    adjoint_PkB, dnodes = scores_BC.T.contiguous().unsqueeze(0), []
    backwards = zip((*nodes, root.unsqueeze(0)), all_states, all_scales, strict=True)
    for node, states_PrB, scales in reversed([*backwards]):
        cores_Ppk = _cores(node.flatten(1, 2), len(adjoint_PkB))
        dcores, below = _in_pieces(_down, states_PrB[0::2], states_PrB[1::2], cores_Ppk, adjoint_PkB)
        dnodes.append(_of_distinct(dcores, len(node)).view_as(node))
        adjoint_PkB = below.view_as(states_PrB).mul_(scales)
    dleaves = _of_distinct(torch.bmm(x_PnB, adjoint_PkB.transpose(1, 2)), len(leaves))
    dx_PnB = torch.bmm(_cores(leaves, len(x_PnB)), adjoint_PkB)
    return dx_PnB.permute(2, 0, 1), dleaves, dnodes[0][0], *reversed(dnodes[1:])


def _up(left_PrB: Tensor, right_PrB: Tensor, cores_Ppk: Tensor) -> tuple[Tensor]:
    """The states of the parent nodes."""
    pairs_PrrB = left_PrB.unsqueeze(2) * right_PrB.unsqueeze(1)
    return (torch.bmm(cores_Ppk.transpose(1, 2), pairs_PrrB.flatten(1, 2)),)


def _down(left_PrB: Tensor, right_PrB: Tensor, cores_Ppk: Tensor, adjoint_PkB: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of the cores and of both children's states, (positions, 2, rank, batch)."""
    pairs_PrrB = left_PrB.unsqueeze(2) * right_PrB.unsqueeze(1)
    dcores_Ppk = torch.bmm(pairs_PrrB.flatten(1, 2), adjoint_PkB.transpose(1, 2))
    dpairs_PrrB = torch.bmm(cores_Ppk, adjoint_PkB).view_as(pairs_PrrB)
    positions, rank, batch = left_PrB.shape
    below = left_PrB.new_empty(positions, 2, rank, batch)
    torch.sum(torch.mul(dpairs_PrrB, right_PrB.unsqueeze(1), out=pairs_PrrB), 2, out=below[:, 0])
    torch.sum(dpairs_PrrB.mul_(left_PrB.unsqueeze(2)), 1, out=below[:, 1])
    return dcores_Ppk, below


def _in_pieces(function: Callable[..., tuple[Tensor, ...]], left_PrB: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
    """The function applied to as many positions at a time as fit the cache; the results are concatenated.

    A compiled or exported program takes batches of any size and has no pieces.
    """
    positions, rank, batch = left_PrB.shape
    if torch.compiler.is_compiling() or positions * rank * rank * batch <= PAIRS_AT_ONCE or positions == 1:
        return function(left_PrB, *others)
    step = max(1, PAIRS_AT_ONCE // (rank * rank * batch))
    pieces = zip(*(each.split(step) for each in (left_PrB, *others)), strict=True)
    return tuple(torch.cat(parts) for parts in zip(*(function(*piece) for piece in pieces), strict=True))


def _cores(distinct: Tensor, positions: int) -> Tensor:
    """One core for every position; a shared core is repeated."""
    return distinct.expand(positions, -1, -1)


def _of_distinct(gradient: Tensor, distinct: int) -> Tensor:
    """The gradient of the distinct cores: summed over the positions that share one."""
    return gradient if distinct == len(gradient) else gradient.sum(0, keepdim=True)
