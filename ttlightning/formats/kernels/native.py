r"""The chain on a CPU without Python between the sites: chain_kernel.c, compiled on first use.

The sums are those of dispatch.py. Samples lie side by side in vectors, and a site is a small matrix product whose
results stay in registers. The backward pass needs the states and nothing else:

    Q_k[i] = G_k[i] p_k,   p_{k-1} = sum_i f_k[i] Q_k[i],   dLoss/df_k[i] = <h_{k-1}, Q_k[i]>,
    dLoss/dG_k[i] = sum over samples of f_k[i] h_{k-1} (x) p_k,

Both passes together are three products per site, which is the minimum. Long chains keep only the last state of every
segment of about sqrt(d) sites, and the backward pass computes the other states of a segment again: O(sqrt(d)) states
for a fourth product. Threads share the samples in both passes, and the rows of the cores for their gradients, so the
number of threads changes no bit of any result.

native_library.py builds and keeps the library. Without a compiler, or with ``TTLIGHTNING_KERNEL=torch``,
torch_chain.py computes the chain instead.
"""

import ctypes
import functools
import itertools
import math
import os
import shlex
import warnings
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from ttlightning.errors import UserError
from ttlightning.formats.kernels import native_library
from ttlightning.formats.kernels.derivatives import gradients
from ttlightning.formats.kernels.native_library import compiler_command, version
from ttlightning.formats.kernels.recurrence import chain_by_operations

VECTORS: Final = 64  # bytes per block of samples
ARITHMETIC_PER_THREAD: Final = 2_000_000
"""Multiply-adds per pass and thread below which another thread costs more than it saves."""
SITES_FOR_SEGMENTS = 128
"""From this number of sites on, only the last state of each segment is kept for the backward pass."""
KEEP_TWO, KEEP_ALL, KEEP_SEGMENTS = range(3)


class _Arguments(ctypes.Structure):
    """The struct ``chain`` of chain_kernel.h, field by field."""

    _fields_ = [
        *((name, ctypes.c_int) for name in ("threads", "sites", "batch", "padded")),
        *((name, ctypes.c_int) for name in ("mode_size", "rank", "classes", "distinct", "width")),
        *((name, ctypes.c_void_p) for name in ("features", "first", "interior", "last")),
        *((name, ctypes.c_void_p) for name in ("x", "h", "scales", "adjoints", "exponent", "scores", "dscores")),
        *((name, ctypes.c_void_p) for name in ("dfeatures", "dfirst", "dinterior", "dlast")),
        *((name, ctypes.c_void_p) for name in ("window", "replayed", "carry")),
        *((name, ctypes.c_int) for name in ("keep", "segment", "plain", "from_site", "to_site", "replay")),
    ]


def kernel_name() -> str:
    """The CPU kernel, ``native`` with its compiler or ``torch``; and ``triton on GPUs`` if it is asked for."""
    name = "torch" if kernel() is None else f"native ({version(tuple(compiler_command() or ()))})"
    return f"{name}, triton on GPUs" if os.environ.get("TTLIGHTNING_KERNEL") == "triton" else name


def compiler_description() -> str | None:
    """Compiler version and command with all options of the kernel in use; None without a compiled kernel."""
    compiled, compiler = kernel(), compiler_command()
    if compiled is None or compiler is None:
        return None
    openmp = bool(ctypes.c_int.in_dll(compiled, "chain_has_openmp").value)
    return f"{version(tuple(compiler))}: {shlex.join(native_library.command(compiler, openmp))}"


class NativeChain(torch.autograd.Function):
    """(features, first, interior, last, plain, differentiable) -> (scores, exponent).

    The scores are to be multiplied by ``2**exponent``. If ``plain``, they are multiplied already, and the exponent is
    empty. ``differentiable``: whether gradients are enabled. A ``Function`` cannot see this inside ``forward``.
    """

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, first: Tensor, interior: Tensor, last: Tensor, plain: bool, differentiable: bool
    ) -> tuple[Tensor, Tensor]:
        inputs, ctx.keep = (features, first, interior, last), KEEP_TWO
        if differentiable and any(ctx.needs_input_grad):
            ctx.keep = keep_for_gradients(features.shape[1])
        scores, exponent, memory = forward(inputs, plain, ctx.keep)
        # No address outlives this call: hooks may pack, move or recompute saved tensors before the backward pass.
        ctx.save_for_backward(*inputs, exponent, memory)
        ctx.mark_non_differentiable(exponent)
        return scores, exponent

    @staticmethod
    def backward(ctx: Any, scores: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        return *gradients(ctx, scores, 4, _by_hand, chain_by_operations), None, None


def _by_hand(
    ctx: Any, scores: Tensor, inputs: tuple[Tensor, ...], others: tuple[Tensor, ...], exponent: Tensor
) -> tuple[Tensor, ...]:
    return backward(ctx.keep, scores, inputs, others[0], exponent)


def keep_for_gradients(sites: int) -> int:
    """The states that the forward pass keeps for the backward pass."""
    return KEEP_ALL if sites < SITES_FOR_SEGMENTS else KEEP_SEGMENTS


def forward(inputs: tuple[Tensor, ...], plain: bool, keep: int) -> tuple[Tensor, Tensor, Tensor]:
    """Scores, exponent and the memory with the states that are kept."""
    features, _, _, last = inputs
    plan = _plan(*(t.shape for t in inputs), features.dtype, keep)
    memory = torch.empty(plan.bytes_forward, dtype=torch.uint8, device="cpu")
    scores = torch.empty(features.shape[0], last.shape[2], dtype=features.dtype, device="cpu")
    exponent = torch.empty(0 if plain else len(features), dtype=torch.bool if plain else torch.int32, device="cpu")
    arguments, _contiguous = _arguments(plan, inputs, memory, exponent)
    arguments.scores = scores.data_ptr()
    arguments.threads = threads_for(plan.arithmetic)
    plan.forward(ctypes.byref(arguments))
    return scores, exponent, memory


def backward(
    keep: int, scores: Tensor, inputs: tuple[Tensor, ...], memory: Tensor, exponent: Tensor
) -> tuple[Tensor, ...]:
    """The gradients of features and cores. Saved tensors are read, never written."""
    kept, exponent, scores = memory.contiguous(), exponent.contiguous(), scores.resolve_neg().contiguous()
    same = [t.ndim for t in inputs] == [3, 2, 4, 3] and all(t.dtype == scores.dtype and t.is_cpu for t in inputs)
    plan = _plan(*(t.shape for t in inputs), scores.dtype, keep) if same else None
    if plan is None or kept.dtype != torch.uint8 or not kept.is_cpu or kept.numel() != plan.bytes_forward:
        raise UserError("a hook on saved tensors has given back other types, sizes or devices than it was given")
    arguments, contiguous = _arguments(plan, inputs, kept, exponent)
    adjoints = torch.empty(plan.bytes_backward, dtype=torch.uint8, device="cpu")
    slopes = tuple(torch.empty_like(t, memory_format=torch.contiguous_format) for t in contiguous)
    arguments.dscores, arguments.carry = scores.data_ptr(), adjoints.data_ptr()
    arguments.adjoints = adjoints.data_ptr() + plan.offset_adjoints
    arguments.replayed = adjoints.data_ptr() + plan.offset_replayed
    arguments.dfeatures, arguments.dfirst, arguments.dinterior, arguments.dlast = (t.data_ptr() for t in slopes)
    arguments.threads = threads_for(2 * plan.arithmetic)
    plan.backward(ctypes.byref(arguments))
    return slopes


def _arguments(
    plan: "_Plan", inputs: tuple[Tensor, ...], memory: Tensor, exponent: Tensor
) -> tuple[_Arguments, tuple[Tensor, ...]]:
    """Sizes and addresses, and the contiguous inputs, which must live as long as the addresses are used."""
    contiguous = tuple(t.resolve_neg().contiguous() for t in inputs)
    arguments = _Arguments.from_buffer_copy(plan.arguments)
    start = memory.data_ptr()
    arguments.x, arguments.h, arguments.window, arguments.scales = (start + offset for offset in plan.offsets_forward)
    arguments.plain = exponent.dtype != torch.int32
    arguments.exponent = start + plan.offset_exponent if arguments.plain else exponent.data_ptr()
    arguments.features, arguments.first, arguments.interior, arguments.last = (t.data_ptr() for t in contiguous)
    return arguments, contiguous


class _Plan(NamedTuple):
    """The part of a call that depends on shapes, type and ``keep`` alone."""

    arguments: bytes
    """``_Arguments`` as bytes, with sizes and without addresses."""
    bytes_forward: int
    offsets_forward: tuple[int, ...]
    """Offsets of x, h, window and scales in the forward memory, in bytes."""
    offset_exponent: int
    bytes_backward: int
    offset_adjoints: int
    offset_replayed: int
    arithmetic: int
    """Multiply-adds of the forward pass."""
    forward: Callable[[Any], None]
    backward: Callable[[Any], None]


@functools.lru_cache(maxsize=256)
def _plan(
    features: torch.Size, first: torch.Size, interior: torch.Size, last: torch.Size, dtype: torch.dtype, keep: int
) -> _Plan:
    """Sizes of all memory. ``UserError`` if the shapes do not fit together, because the kernel trusts them."""
    batch, sites, mode_size = features
    rank, distinct, classes = first[1], interior[0], last[-1]
    fits = first[0] == mode_size and last[:2] == first and distinct in (min(1, sites - 2), sites - 2)
    if not fits or interior[1:] != (mode_size, rank, rank):
        shapes = ", ".join(str(tuple(shape)) for shape in (features, first, interior, last))
        raise UserError(f"features and cores do not fit together: shapes {shapes}")
    number = dtype.itemsize
    lanes = VECTORS // number
    segment = _segment(sites, keep)
    padded, width = up(batch, lanes), up(max(rank, classes), lanes)
    # The first site precedes the first segment, and the last site may follow the last segment.
    adjoints = min(sites, 2 * segment + 2) if keep == KEEP_SEGMENTS else sites
    window = segment if keep == KEEP_SEGMENTS else 0
    columns = _columns(sites, mode_size, rank, keep)
    *offsets, end = itertools.accumulate((number * padded * size for size in columns), initial=0)
    arguments = _Arguments(
        sites=sites,
        batch=batch,
        padded=padded,
        mode_size=mode_size,
        rank=rank,
        classes=classes,
        distinct=distinct,
        width=width,
        keep=keep,
        segment=segment,
    )
    return _Plan(
        bytes(arguments),
        bytes_forward=bytes_forward(batch, sites, mode_size, rank, dtype, keep),
        offsets_forward=tuple(offsets),
        offset_exponent=end,
        bytes_backward=number * (rank * padded * (1 + window) + adjoints * batch * width),
        offset_adjoints=number * rank * padded * (1 + window),
        offset_replayed=number * rank * padded,
        arithmetic=batch * sites * mode_size * rank**2,
        forward=getattr(kernel(), f"chain_forward_{str(dtype).removeprefix('torch.')}"),
        backward=getattr(kernel(), f"chain_backward_{str(dtype).removeprefix('torch.')}"),
    )


def bytes_forward(batch: int, sites: int, mode_size: int, rank: int, dtype: torch.dtype, keep: int) -> int:
    """Size of the forward memory: numbers, and an exponent of four bytes, for each sample."""
    numbers = dtype.itemsize * sum(_columns(sites, mode_size, rank, keep))
    return up(batch, VECTORS // dtype.itemsize) * (numbers + 4)


def _columns(sites: int, mode_size: int, rank: int, keep: int) -> list[int]:
    """Numbers for each sample in the forward memory: features, states, window and scales."""
    segment = _segment(sites, keep)
    states = {KEEP_TWO: 2, KEEP_ALL: sites - 1, KEEP_SEGMENTS: (sites - 1) // segment}[keep]
    window = segment if keep == KEEP_SEGMENTS else 0
    return [sites * mode_size, states * rank, window * rank, sites - 1]


def _segment(sites: int, keep: int) -> int:
    return max(2, math.isqrt(sites)) if keep == KEEP_SEGMENTS else sites


def threads_for(arithmetic: int) -> int:
    """Threads that a pass with so many multiply-adds pays for."""
    return max(1, min(torch.get_num_threads(), arithmetic // ARITHMETIC_PER_THREAD))


@functools.cache
def kernel() -> ctypes.CDLL | None:
    """The compiled kernel; None if ``TTLIGHTNING_KERNEL`` is ``torch`` or the machine cannot compile or load one.

    Raises:
        UserError: if ``TTLIGHTNING_KERNEL`` is none of ``native``, ``torch`` and ``triton``; if it is ``native`` and
            there is no compiler, or no folder to load a library from; if the compiler fails, or has an option that
            breaks floating-point arithmetic.
    """
    wanted = os.environ.get("TTLIGHTNING_KERNEL", "")
    if wanted not in ("", "native", "torch", "triton"):
        raise UserError(f"TTLIGHTNING_KERNEL is {wanted!r}, it must be native, torch or triton (which is for GPUs)")
    if wanted == "torch":
        return None
    compiler = compiler_command()
    lack = "no C compiler (CC, cc, gcc or clang)"
    if compiler is not None:
        try:
            return native_library.load(compiler)
        except OSError as fault:
            lack = f"no folder to load a compiled kernel from ({fault})"
    if wanted == "native":
        raise UserError(f"TTLIGHTNING_KERNEL is native, but this machine has {lack}")
    warnings.warn(f"{lack} on this machine: training on the CPU takes several times as long", stacklevel=2)
    return None


def up(number: int, multiple: int) -> int:
    """The least multiple that is no smaller."""
    return -(-number // multiple) * multiple
