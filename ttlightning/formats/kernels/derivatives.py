r"""Two ways to contract and differentiate a format: by hand, or by operations.

By hand, an ``autograd.Function`` allocates its own memory and computes first derivatives only. By operations, the same
function is composed of torch's differentiable operations. This is slower, and correct in every other case:

    second derivatives                ``create_graph=True``: the gradient is computed again, by operations
    tensors without memory            fake, meta, functional, wrapped by ``torch.func``, or of a subclass
    recorded calls                    ``make_fx``, ``torch.compile``, ``torch.export``
    forward-mode derivatives

Both return (mantissa, exponent). Only the mantissa has a derivative.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch._ops import _len_torch_dispatch_stack_pre_dispatch
from torch.autograd import forward_ad

from ttlightning.errors import UserError
from ttlightning.formats.kernels.scales import LAYOUTS, scale_by_power_of_two

Result = TypeVar("Result")
Operations = Callable[..., tuple[Tensor, Tensor]]
"""(features, *cores) -> (mantissa, exponent), composed of differentiable operations."""


def contract(by_hand: Any, operations: Operations, *tensors: Tensor) -> tuple[Tensor, Tensor]:
    """(mantissa, exponent), by the ``autograd.Function`` if ``by_operations`` is False, else by operations."""
    return operations(*tensors) if by_operations(*tensors) else by_hand.apply(*tensors)


def by_operations(*tensors: Tensor) -> bool:
    """Whether a call with these features and cores must be composed of torch's operations.

    Raises:
        UserError: if types or devices differ, or the type is neither float32 nor float64; inside ``torch.jit.trace``,
            which does not know all of the operations.
    """
    _check_types(*tensors)
    if torch.compiler.is_compiling():
        return True
    if torch._C._get_tracing_state() is not None:
        raise UserError("torch.jit.trace cannot record a tensor format, use torch.export.export")
    if (
        torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack()
        or _len_torch_dispatch_stack_pre_dispatch()
        or forward_ad._current_level >= 0
    ):
        return True
    for tensor in tensors:
        kind = type(tensor)
        if kind is not Tensor and kind is not nn.Parameter:
            return True
        if not torch._C._has_storage(tensor) or torch._is_functional_tensor(tensor):
            return True
    return False


def _check_types(features: Tensor, *cores: Tensor) -> None:
    dtype, device = features.dtype, features.device
    for core in cores:
        if core.dtype != dtype:
            raise UserError(f"features are {dtype}, the cores {core.dtype}: bring both to one type")
        if core.device != device:
            raise UserError(f"features are on {device}, the cores on {core.device}")
    if dtype not in LAYOUTS:
        raise UserError(
            f"tensor formats compute in torch.float32 or torch.float64, got {dtype}: set trainer.precision "
            "to 32-true, bf16-mixed or 64-true"
        )


def gradients(
    ctx: Any, adjoint: Tensor, tensors: int, by_hand: Callable[..., tuple[Tensor, ...]], operations: Operations
) -> tuple[Tensor | None, ...]:
    """The gradients that ``backward`` returns for the first ``tensors`` inputs of ``forward``.

    ``forward`` must save, in this order: these inputs; the exponent that it returned, or a tensor that is not int32 if
    it returned the scores themselves; the tensors that ``by_hand(ctx, adjoint, inputs, others, exponent)`` takes.
    """
    saved = ctx.saved_tensors  # read once: activation checkpointing returns each tensor only once
    inputs, exponent, others = saved[:tensors], saved[tensors], saved[tensors + 1 :]
    with without_autocast(adjoint.device.type):
        if not torch.is_grad_enabled() and not by_operations(adjoint, *inputs):
            return by_hand(ctx, adjoint, inputs, others, exponent)
        graph = torch.is_grad_enabled()
        with torch.enable_grad():
            own = [t.view_as(t) for t in inputs]  # partial derivatives, even if one input depends on another
            mantissa, recomputed = operations(*own)
            returned = exponent if exponent.dtype == torch.int32 else 0
            mantissa = scale_by_power_of_two(mantissa, recomputed - returned)
            differentiable = [t for t in own if t.requires_grad]
            partial = iter(
                torch.autograd.grad(
                    mantissa, differentiable, adjoint, create_graph=graph, allow_unused=True, materialize_grads=True
                )
            )
        return tuple(next(partial) if t.requires_grad else None for t in own)


def without_autocast(device: str) -> AbstractContextManager[Any]:
    """A context in which every operation computes in the type of its arguments, whatever autocast is active."""
    return torch.autocast(device, enabled=False) if torch._C._is_any_autocast_enabled() else nullcontext()


def in_full_precision(method: Callable[..., Result]) -> Callable[..., Result]:
    """Decorator: inside autocast (bf16-mixed, 16-mixed), compute everything in the type of the cores."""

    @wraps(method)
    def computed(self: Any, features: Tensor, /, *others: Tensor) -> Result:
        if not torch._C._is_any_autocast_enabled():
            return method(self, features, *others)
        with without_autocast(features.device.type):
            return method(self, features.to(next(self.parameters()).dtype), *others)

    return computed
