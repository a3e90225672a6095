r"""The compiled chain as operators of torch, so that ``torch.compile`` sees one call and not a graph of every site.

    ttlightning::chain(features, first, interior, last, keep) -> (mantissa, exponent, memory)
    ttlightning::chain_backward(adjoint, features, first, interior, last, exponent, memory, keep) -> four gradients

Both have a shape for tensors without memory. ``keep`` says which states the forward pass leaves in ``memory``; its
values are in native.py. Outside ``torch.compile`` a format calls the kernel directly, which costs less.
``torch.export`` records operations instead, because an exported program must run without this package.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ttlightning.errors import UserError
from ttlightning.formats.kernels import native
from ttlightning.formats.kernels.derivatives import gradients
from ttlightning.formats.kernels.recurrence import chain_by_operations


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def is_served() -> bool:
    """Whether the operators serve a call on a CPU that ``torch.compile`` records; transforms need operations."""
    return (
        not torch._C._are_functorch_transforms_active()
        and forward_ad._current_level < 0
        and native.kernel() is not None
    )


@torch.library.custom_op("ttlightning::chain", mutates_args=(), device_types="cpu")
def chain(features: Tensor, first: Tensor, interior: Tensor, last: Tensor, keep: int) -> tuple[Tensor, Tensor, Tensor]:
    """Mantissa (batch, classes), exponent (batch), and the memory that ``chain_backward`` reads."""
    _check_kernel()
    return native.forward((features, first, interior, last), False, keep)


@chain.register_fake
def _(features: Tensor, first: Tensor, interior: Tensor, last: Tensor, keep: int) -> tuple[Tensor, Tensor, Tensor]:
    batch, sites, mode_size = features.shape
    size = native.bytes_forward(batch, sites, mode_size, first.shape[1], features.dtype, keep)
    return (
        features.new_empty(batch, last.shape[2]),
        features.new_empty(batch, dtype=torch.int32),
        features.new_empty(size, dtype=torch.uint8),
    )


@torch.library.custom_op("ttlightning::chain_backward", mutates_args=(), device_types="cpu")
def chain_backward(
    adjoint: Tensor,
    features: Tensor,
    first: Tensor,
    interior: Tensor,
    last: Tensor,
    exponent: Tensor,
    memory: Tensor,
    keep: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the features and of the three cores, for the gradient of the mantissa."""
    _check_kernel()
    dx, dfirst, dinterior, dlast = native.backward(keep, adjoint, (features, first, interior, last), memory, exponent)
    return dx, dfirst, dinterior, dlast


@chain_backward.register_fake
def _(adjoint: Tensor, *inputs: Any) -> tuple[Tensor, ...]:
    return tuple(torch.empty_like(t, memory_format=torch.contiguous_format) for t in inputs[:4])


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    *tensors, ctx.keep = inputs
    _, exponent, memory = output
    ctx.save_for_backward(*tensors, exponent, memory)
    ctx.mark_non_differentiable(exponent, memory)


def _backward(ctx: Any, adjoint: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    if torch.is_grad_enabled():  # the gradient will be differentiated
        return *gradients(ctx, adjoint, 4, _not_by_hand, chain_by_operations), None
    return *chain_backward(adjoint, *ctx.saved_tensors, ctx.keep), None


def _not_by_hand(*_: Any) -> tuple[Tensor, ...]:
    raise AssertionError("gradients are enabled, so they are computed by operations")


chain.register_autograd(_backward, setup_context=_save)


def _check_kernel() -> None:
    if native.kernel() is None:
        raise UserError("ttlightning::chain needs the compiled kernel: a C compiler, and TTLIGHTNING_KERNEL unset")
