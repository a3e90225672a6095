r"""The tree on a CPU without Python between the positions: tree_kernel.h, part of the library of native.py.

A node is a small matrix product for a block of samples, like a site of the chain, and the backward pass needs the
states and nothing else:

    Q[a, b] = sum_k B[a, b, k] p[k],
    dLoss/dleft[a] = sum_b right[b] Q[a, b],   dLoss/dright[b] = sum_a left[a] Q[a, b],
    dLoss/dB[a, b, k] = sum over samples of left[a] right[b] p[k].

Both passes together are three products per node, which is the minimum. Without gradients no state is kept longer than
its parent needs it. Threads share the samples in both passes, and the rows of the nodes for their gradients, so the
number of threads changes no bit of any result.
"""

import ctypes
import functools
import itertools
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from ttlightning.errors import UserError
from ttlightning.formats.kernels import native
from ttlightning.formats.kernels.derivatives import gradients
from ttlightning.formats.kernels.torch_tree import tree_by_operations

MOST_LEVELS: Final = 32
_Cores = ctypes.c_void_p * MOST_LEVELS


class _Arguments(ctypes.Structure):
    """The struct ``tree`` of tree_kernel.h, field by field."""

    _fields_ = [
        *((name, ctypes.c_int) for name in ("threads", "sites", "batch", "padded")),
        *((name, ctypes.c_int) for name in ("mode_size", "rank", "classes", "width")),
        *((name, ctypes.c_int) for name in ("levels", "shared", "keep", "plain")),
        *(("features", ctypes.c_void_p), ("cores", _Cores)),
        *((name, ctypes.c_void_p) for name in ("x", "h", "scales", "adjoints", "exponent", "scores", "dscores")),
        *(("dfeatures", ctypes.c_void_p), ("dcores", _Cores)),
    ]


class NativeTree(torch.autograd.Function):
    """(plain, differentiable, features, leaves, root, *nodes) -> (scores, exponent).

    The scores are to be multiplied by ``2**exponent``. If ``plain``, they are multiplied already, and the exponent is
    empty. ``differentiable``: whether gradients are enabled. A ``Function`` cannot see this inside ``forward``.
    """

    @staticmethod
    def forward(ctx: Any, plain: bool, differentiable: bool, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        features, root = inputs[0], inputs[2]
        keep = differentiable and any(ctx.needs_input_grad)
        plan = _plan(tuple(t.shape for t in inputs), features.dtype, keep)
        memory = torch.empty(plan.bytes_forward, dtype=torch.uint8, device="cpu")
        scores = torch.empty(features.shape[0], root.shape[2], dtype=features.dtype, device="cpu")
        exponent = torch.empty(0 if plain else len(features), dtype=torch.bool if plain else torch.int32, device="cpu")
        arguments, _contiguous = _arguments(plan, inputs, memory, exponent)
        arguments.scores = scores.data_ptr()
        arguments.threads = native.threads_for(plan.arithmetic)
        plan.forward(ctypes.byref(arguments))
        # No address outlives this call: hooks may pack, move or recompute saved tensors before the backward pass.
        if keep:
            ctx.save_for_backward(*inputs, exponent, memory)
        ctx.mark_non_differentiable(exponent)
        return scores, exponent

    @staticmethod
    def backward(ctx: Any, scores: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *gradients(ctx, scores, len(ctx.needs_input_grad) - 2, _backward, tree_by_operations)


def _backward(
    _: Any, scores: Tensor, inputs: tuple[Tensor, ...], others: tuple[Tensor, ...], exponent: Tensor
) -> tuple[Tensor, ...]:
    """The gradients of features, leaves, root and nodes. Saved tensors are read, never written."""
    kept, exponent, scores = others[0].contiguous(), exponent.contiguous(), scores.resolve_neg().contiguous()
    same = [t.ndim for t in inputs] == [3, 3, 3] + [4] * (len(inputs) - 3)
    same = same and all(t.dtype == scores.dtype and t.is_cpu for t in inputs)
    plan = _plan(tuple(t.shape for t in inputs), scores.dtype, True) if same else None
    if plan is None or kept.dtype != torch.uint8 or not kept.is_cpu or kept.numel() != plan.bytes_forward:
        raise UserError("a hook on saved tensors has given back other types, sizes or devices than it was given")
    arguments, contiguous = _arguments(plan, inputs, kept, exponent)
    adjoints = torch.empty(plan.bytes_backward, dtype=torch.uint8, device="cpu")
    slopes = [torch.empty_like(t, memory_format=torch.contiguous_format) for t in contiguous]
    arguments.dscores, arguments.adjoints = scores.data_ptr(), adjoints.data_ptr()
    arguments.dfeatures, arguments.dcores = slopes[0].data_ptr(), _addresses(slopes)
    arguments.threads = native.threads_for(2 * plan.arithmetic)
    plan.backward(ctypes.byref(arguments))
    return tuple(slopes)


def _arguments(
    plan: "_Plan", inputs: tuple[Tensor, ...], memory: Tensor, exponent: Tensor
) -> tuple[_Arguments, list[Tensor]]:
    """Sizes and addresses, and the contiguous inputs, which must live as long as the addresses are used."""
    contiguous = [t.resolve_neg().contiguous() for t in inputs]
    arguments = _Arguments.from_buffer_copy(plan.arguments)
    start = memory.data_ptr()
    arguments.x, arguments.h, arguments.scales = (start + offset for offset in plan.offsets_forward)
    arguments.plain = exponent.dtype != torch.int32
    arguments.exponent = start + plan.offset_exponent if arguments.plain else exponent.data_ptr()
    arguments.features, arguments.cores = contiguous[0].data_ptr(), _addresses(contiguous)
    return arguments, contiguous


def _addresses(tensors: list[Tensor]) -> Any:
    """Those of leaves, nodes and root, in this order, from (features, leaves, root, *nodes)."""
    _, leaves, root, *nodes = tensors
    return _Cores(*(t.data_ptr() for t in (leaves, *nodes, root)))


class _Plan(NamedTuple):
    """The part of a call that depends on shapes, type and ``keep`` alone."""

    arguments: bytes
    """``_Arguments`` as bytes, with sizes and without addresses."""
    bytes_forward: int
    offsets_forward: tuple[int, ...]
    """Offsets of x, h and scales in the forward memory, in bytes."""
    offset_exponent: int
    bytes_backward: int
    arithmetic: int
    """Multiply-adds of the forward pass."""
    forward: Callable[[Any], None]
    backward: Callable[[Any], None]


@functools.lru_cache(maxsize=256)
def _plan(shapes: tuple[torch.Size, ...], dtype: torch.dtype, keep: bool) -> _Plan:
    """Sizes of all memory. ``UserError`` if the shapes do not fit together, because the kernel trusts them."""
    listed = f"features and cores do not fit together: shapes {', '.join(str(tuple(s)) for s in shapes)}"
    if [len(shape) for shape in shapes[:3]] != [3, 3, 3]:
        raise UserError(listed)
    (batch, sites, mode_size), (distinct, *_), (rank, _, classes) = shapes[:3]
    levels = sites.bit_length()
    widths = [1 if distinct == 1 else sites >> level for level in range(1, levels - 1)]
    expected = [(distinct, mode_size, rank), (rank, rank, classes), *((width, rank, rank, rank) for width in widths)]
    if sites != 1 << (levels - 1) or distinct not in (1, sites) or [*map(tuple, shapes[1:])] != expected:
        raise UserError(listed)
    number = dtype.itemsize
    lanes = native.VECTORS // number
    padded, width = native.up(batch, lanes), native.up(max(rank, classes), lanes)
    states = 2 * sites - 2
    columns = [sites * mode_size, states * rank, states] if keep else [0, 0, 0]
    *offsets, end = itertools.accumulate((number * padded * size for size in columns), initial=0)
    arguments = _Arguments(
        sites=sites,
        batch=batch,
        padded=padded,
        mode_size=mode_size,
        rank=rank,
        classes=classes,
        width=width,
        levels=levels,
        shared=distinct == 1,
        keep=keep,
    )
    name = str(dtype).removeprefix("torch.")
    return _Plan(
        bytes(arguments),
        bytes_forward=end + 4 * padded,
        offsets_forward=tuple(offsets),
        offset_exponent=end,
        bytes_backward=number * (states + 1) * batch * width,
        arithmetic=batch * (sites * mode_size * rank + (sites - 2) * rank**3 + rank**2 * classes),
        forward=getattr(native.kernel(), f"tree_forward_{name}"),
        backward=getattr(native.kernel(), f"tree_backward_{name}"),
    )
