r"""The chain: scores of a tensor train, by the kernel that serves the machine.

    h_1[b]  = sum_i   f_1[i] F[i, b]
    h_k[b]  = sum_a,i h_{k-1}[a] f_k[i] G_k[i, a, b]          k = 2 .. d-1
    s[y]    = sum_a,i h_{d-1}[a] f_d[i] L[i, a, y]            [K18, Sec. 3.2]

Four kernels compute these sums:

    recurrence.py     differentiable operations, for transforms, tracing and derivatives of derivatives
    native.py         compiled C, for a CPU with a C compiler; under ``torch.compile`` as an operator, operators.py
    torch_chain.py    torch's operations and a gradient written by hand, for GPUs and for CPUs without a compiler
    triton_chain.py   Triton, for GPUs, with ``TTLIGHTNING_KERNEL=triton``

The state is never normalised, because normalising would make the map nonlinear. Each kernel splits powers of two off
the state and counts them in an integer, see scales.py. Where plain arithmetic stays in range, the scores agree with it
to the last bit. Where it would overflow or underflow (d = 784, or sites of very different sizes), the scores are still
right. scripts/benchmark.py measures the kernels.
"""

import os
from typing import Final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ttlightning.errors import UserError
from ttlightning.formats.kernels import native
from ttlightning.formats.kernels.derivatives import by_operations
from ttlightning.formats.kernels.exporting import is_exporting
from ttlightning.formats.kernels.recurrence import chain_by_operations
from ttlightning.formats.kernels.scales import scale_by_power_of_two
from ttlightning.formats.kernels.torch_chain import TorchChain

ARITHMETIC_FOR_THREADS: Final = 16_000_000
"""Multiply-adds of a pass, batch * sites * modes * rank^2. From this number on, a second CPU thread pays."""


def chain_scores(
    features: Float[Tensor, "batch sites modes"],
    first: Float[Tensor, "modes rank"],
    interior: Float[Tensor, "distinct modes rank rank"],
    last: Float[Tensor, "modes rank classes"],
) -> tuple[Float[Tensor, "batch classes"], Int[Tensor, " batch"]]:
    """Scores as ``mantissa * 2**exponent``, with one exponent per sample.

    ``interior`` holds one core for each of the ``sites - 2`` interior sites, or a single core that all sites share.

    Raises:
        UserError: if types, devices or shapes do not fit together, or if the kernel that ``TTLIGHTNING_KERNEL`` names
            is not available.
    """
    if by_operations(features, first, interior, last):
        if torch.compiler.is_dynamo_compiling() and not is_exporting() and features.device.type == "cpu":
            from ttlightning.formats.kernels.operators import chain, is_served  # imports torch's compiler

            if is_served():
                keep = native.keep_for_gradients(features.shape[1]) if torch.is_grad_enabled() else native.KEEP_TWO
                return chain(features, first, interior, last, keep)[:2]
        return chain_by_operations(features, first, interior, last)
    if features.device.type == "cpu" and native.kernel() is not None:
        return native.NativeChain.apply(features, first, interior, last, False, torch.is_grad_enabled())
    return torch_or_triton(features, first.shape[1]).apply(features, first, interior, last)


def chain_values(features: Tensor, *cores: Tensor) -> Float[Tensor, "batch classes"]:
    """``mantissa * 2**exponent`` of ``chain_scores``; a score out of the type's range becomes 0 or inf."""
    if by_operations(features, *cores) or features.device.type != "cpu" or native.kernel() is None:
        return scale_by_power_of_two(*chain_scores(features, *cores))
    return native.NativeChain.apply(features, *cores, True, torch.is_grad_enabled())[0]


def torch_or_triton(features: Tensor, rank: int) -> type[torch.autograd.Function]:
    """``TritonChain`` on a GPU if ``TTLIGHTNING_KERNEL`` asks for it and the rank fits, else ``TorchChain``."""
    if not features.is_cuda or os.environ.get("TTLIGHTNING_KERNEL") != "triton":
        return TorchChain
    try:
        from ttlightning.formats.kernels.triton_chain import LARGEST_RANK, TritonChain
    except ModuleNotFoundError as missing:
        raise UserError("TTLIGHTNING_KERNEL is triton, but the package triton is not installed") from missing
    return TritonChain if rank <= LARGEST_RANK else TorchChain
