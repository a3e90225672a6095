r"""The chain on a CPU without Python between the sites: chain_kernel.c, compiled on first use.

The same sums as in ``contraction.py``. Samples lie side by side in vectors; a site is a small matrix product whose
results stay in registers; the way back keeps the states and nothing else,

    Q_k[i] = G_k[i] p_k,   p_{k-1} = sum_i f_k[i] Q_k[i],   dLoss/df_k[i] = <h_{k-1}, Q_k[i]>,
    dLoss/dG_k[i] = sum over samples of f_k[i] h_{k-1} (x) p_k,

three products of a site's size in all, the least there is. Long chains keep the last state of every segment of about
sqrt(d) sites, and compute a segment's others again on the way back: O(sqrt(d)) states, for a fourth product.
Threads share the samples on the way there and back, and the rows of the cores for their gradients, so that their number
changes no bit of any result.

How the library is built and kept: native_library.py. Without a compiler, or with ``TTLIGHTNING_KERNEL=torch``, torch's
operations compute the chain, see ``contraction.py``.
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

VECTORS: Final = 64  # bytes of a block of samples
ARITHMETIC_PER_THREAD: Final = 2_000_000
"""Multiply-adds of a pass below which another thread costs more than it brings."""
SITES_FOR_SEGMENTS = 128
"""Sites from which on not all states are kept for the way back."""
KEEP_TWO, KEEP_ALL, KEEP_SEGMENTS = range(3)
_NO_EXPONENT: Final = torch.empty(0, dtype=torch.bool)
_TYPES: Final = {torch.float32: "float32", torch.float64: "float64"}


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


def serves(features: Tensor) -> bool:
    """Whether the compiled kernel computes the chain for such features."""
    return features.device.type == "cpu" and features.dtype in _TYPES and kernel() is not None


def kernel_name() -> str:
    """Which kernel computes on the CPU: ``native``, with its compiler, or ``torch``; whether GPUs have ``triton``."""
    name = "torch" if kernel() is None else f"native ({version(tuple(compiler_command() or ()))})"
    return f"{name}, triton on GPUs" if os.environ.get("TTLIGHTNING_KERNEL") == "triton" else name


def compiler_description() -> str | None:
    """Version of the compiler, and the command with all options, of the kernel in use; None without a kernel."""
    compiled, compiler = kernel(), compiler_command()
    if compiled is None or compiler is None:
        return None
    openmp = bool(ctypes.c_int.in_dll(compiled, "chain_has_openmp").value)
    return f"{version(tuple(compiler))}: {shlex.join(native_library.command(compiler, openmp))}"


class NativeChain(torch.autograd.Function):
    """(features, first, interior, last, differentiable) -> (scores, exponent), to be multiplied by ``2**exponent``.

    ``differentiable``: whether anybody may ask for gradients, which a function cannot see for itself.
    """

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, first: Tensor, interior: Tensor, last: Tensor, differentiable: bool
    ) -> tuple[Tensor, Tensor]:
        exponent = torch.empty(len(features), dtype=torch.int32, device="cpu")
        ctx.mark_non_differentiable(exponent)
        return _forward(ctx, features, first, interior, last, differentiable, exponent), exponent

    @staticmethod
    def backward(ctx: Any, scores: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        return *gradients(ctx, scores, 4, _backward, chain_by_operations), None


class NativeChainValues(torch.autograd.Function):
    """(features, first, interior, last, differentiable) -> the scores themselves."""

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, first: Tensor, interior: Tensor, last: Tensor, differentiable: bool
    ) -> Tensor:
        return _forward(ctx, features, first, interior, last, differentiable, None)

    @staticmethod
    def backward(ctx: Any, scores: Tensor) -> tuple[Tensor | None, ...]:
        return *gradients(ctx, scores, 4, _backward, chain_by_operations), None


def _forward(
    ctx: Any,
    features: Tensor,
    first: Tensor,
    interior: Tensor,
    last: Tensor,
    differentiable: bool,
    exponent: Tensor | None,
) -> Tensor:
    """The scores; where there is no place for the exponents, multiplied by their powers of two."""
    inputs = features, first, interior, last
    keep = KEEP_TWO
    if differentiable and any(ctx.needs_input_grad):
        keep = KEEP_ALL if features.shape[1] < SITES_FOR_SEGMENTS else KEEP_SEGMENTS
    plan = _plan(*(t.shape for t in inputs), features.dtype, keep)
    memory = torch.empty(plan.bytes_forward, dtype=torch.uint8, device="cpu")
    scores = torch.empty(features.shape[0], last.shape[2], dtype=features.dtype, device="cpu")
    arguments, _straight = _arguments(plan, inputs, memory, exponent)
    arguments.scores = scores.data_ptr()
    arguments.threads = _threads(plan.arithmetic)
    plan.forward(ctypes.byref(arguments))
    # No address outlives this call: what is saved may be packed, moved or computed anew before the way back.
    ctx.save_for_backward(*inputs, _NO_EXPONENT if exponent is None else exponent, memory)
    ctx.keep = keep
    return scores


def _backward(
    ctx: Any, scores: Tensor, inputs: tuple[Tensor, ...], others: tuple[Tensor, ...], exponent: Tensor
) -> tuple[Tensor, ...]:
    """The gradients of features and cores. What was saved is read, never written."""
    kept, exponent, scores = others[0].contiguous(), exponent.contiguous(), scores.resolve_neg().contiguous()
    same = [t.ndim for t in inputs] == [3, 2, 4, 3] and all(t.dtype == scores.dtype and t.is_cpu for t in inputs)
    plan = _plan(*(t.shape for t in inputs), scores.dtype, ctx.keep) if same else None
    if plan is None or kept.dtype != torch.uint8 or not kept.is_cpu or kept.numel() != plan.bytes_forward:
        raise UserError("a hook on saved tensors has given back other types, sizes or devices than it was given")
    arguments, straight = _arguments(plan, inputs, kept, exponent if exponent.dtype == torch.int32 else None)
    memory = torch.empty(plan.bytes_backward, dtype=torch.uint8, device="cpu")
    found = tuple(torch.empty_like(t, memory_format=torch.contiguous_format) for t in straight)
    arguments.dscores, arguments.carry = scores.data_ptr(), memory.data_ptr()
    arguments.adjoints = memory.data_ptr() + plan.offset_adjoints
    arguments.replayed = memory.data_ptr() + plan.offset_replayed
    arguments.dfeatures, arguments.dfirst, arguments.dinterior, arguments.dlast = (t.data_ptr() for t in found)
    arguments.threads = _threads(2 * plan.arithmetic)
    plan.backward(ctypes.byref(arguments))
    return found


def _arguments(
    plan: "_Plan", inputs: tuple[Tensor, ...], memory: Tensor, exponent: Tensor | None
) -> tuple[_Arguments, tuple[Tensor, ...]]:
    """Sizes and addresses, and the tensors that must live as long as these addresses are used."""
    straight = tuple(t.resolve_neg().contiguous() for t in inputs)
    arguments = _Arguments.from_buffer_copy(plan.arguments)
    place = memory.data_ptr()
    arguments.x, arguments.h, arguments.window, arguments.scales = (place + offset for offset in plan.offsets_forward)
    arguments.plain = exponent is None
    arguments.exponent = place + plan.offset_exponent if exponent is None else exponent.data_ptr()
    arguments.features, arguments.first, arguments.interior, arguments.last = (t.data_ptr() for t in straight)
    return arguments, straight


class _Plan(NamedTuple):
    """What depends on the shapes alone."""

    arguments: bytes
    """Of ``_Arguments``: the sizes, without a pointer."""
    bytes_forward: int
    offsets_forward: tuple[int, ...]
    """Of x, h, window and scales, in bytes."""
    offset_exponent: int
    bytes_backward: int
    offset_adjoints: int
    offset_replayed: int
    arithmetic: int
    """Multiply-adds of the way there."""
    forward: Callable[[Any], None]
    backward: Callable[[Any], None]


@functools.lru_cache(maxsize=256)
def _plan(
    features: torch.Size, first: torch.Size, interior: torch.Size, last: torch.Size, dtype: torch.dtype, keep: int
) -> _Plan:
    """``UserError`` where the shapes do not fit together: the kernel reads memory by them."""
    batch, sites, mode_size = features
    rank, distinct, classes = first[1], interior[0], last[-1]
    fits = first[0] == mode_size and last[:2] == first and distinct in (min(1, sites - 2), sites - 2)
    if not fits or interior[1:] != (mode_size, rank, rank):
        shapes = ", ".join(str(tuple(shape)) for shape in (features, first, interior, last))
        raise UserError(f"features and cores do not fit together: shapes {shapes}")
    number = dtype.itemsize
    lanes = VECTORS // number
    segment = max(2, math.isqrt(sites)) if keep == KEEP_SEGMENTS else sites
    states = {KEEP_TWO: 2, KEEP_ALL: sites - 1, KEEP_SEGMENTS: (sites - 1) // segment}[keep]
    padded, width = _up(batch, lanes), _up(max(rank, classes), lanes)
    # The last segment may be followed by the last site, the first begins with the first one.
    adjoints = min(sites, 2 * segment + 2) if keep == KEEP_SEGMENTS else sites
    window = segment if keep == KEEP_SEGMENTS else 0
    columns = [sites * mode_size, states * rank, window * rank, sites - 1]
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
        bytes_forward=end + 4 * padded,
        offsets_forward=tuple(offsets),
        offset_exponent=end,
        bytes_backward=number * (rank * padded * (1 + window) + adjoints * batch * width),
        offset_adjoints=number * rank * padded * (1 + window),
        offset_replayed=number * rank * padded,
        arithmetic=batch * sites * mode_size * rank**2,
        forward=getattr(kernel(), f"chain_forward_{_TYPES[dtype]}"),
        backward=getattr(kernel(), f"chain_backward_{_TYPES[dtype]}"),
    )


def _threads(arithmetic: int) -> int:
    return max(1, min(torch.get_num_threads(), arithmetic // ARITHMETIC_PER_THREAD))


@functools.cache
def kernel() -> ctypes.CDLL | None:
    """The compiled kernel; None where ``TTLIGHTNING_KERNEL`` is ``torch``, or the machine cannot compile or load one.

    Raises:
        UserError: where ``TTLIGHTNING_KERNEL`` is none of ``native``, ``torch`` and ``triton``; where it is ``native``
            and there is no compiler, or no folder to load a library from; where the compiler fails, or is told to break
            the rules of floating-point arithmetic.
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


def _up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
