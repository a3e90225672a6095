"""The Triton kernels beside the torch path, in Triton's interpreter on a CPU: started by test_triton_chain.py.

Prints a line of JSON for each case: its sizes, and of every result the largest difference over the largest entry.
TRITON_INTERPRET=1 must stand in the environment before Triton is imported, hence a process of its own.
"""

import itertools
import json

import torch
from torch.utils.checkpoint import checkpoint

from ttlightning.formats.kernels.recurrence import chain_by_operations
from ttlightning.formats.kernels.scales import scale_by_power_of_two
from ttlightning.formats.kernels.torch_chain import TorchChain
from ttlightning.formats.kernels.triton_chain import TritonChain

NAMES = "mantissa", "features", "first", "interior", "last"


def results(chain: type, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    inputs = [p.detach().clone().requires_grad_() for p in inputs]
    mantissa, exponent = chain.apply(*inputs)
    weights = torch.linspace(-1, 2, mantissa.numel(), dtype=mantissa.dtype).view_as(mantissa)
    gradients = torch.autograd.grad((mantissa * weights).sum(), inputs)
    return [mantissa.detach(), *gradients, exponent * (mantissa != 0).any(1)]


def case(sites: int, equal: bool, rank: int, batch: int, dtype: torch.dtype, size: float) -> dict[str, object]:
    generator = torch.Generator().manual_seed(sites)
    distinct = min(1, sites - 2) if equal else sites - 2
    shapes = (batch, sites, 3), (3, rank), (distinct, 3, rank, rank), (3, rank, 4)
    inputs = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    inputs[2] *= size / rank**0.5
    found = results(TritonChain, [p.to(dtype) for p in inputs])
    expected = results(TorchChain, inputs)
    differences = {
        name: float((ours.double() - theirs).abs().max() / (theirs.abs().max() or 1)) if theirs.numel() else 0.0
        for name, ours, theirs in zip(NAMES, found, expected, strict=False)
    }
    again = results(TritonChain, [p.to(dtype) for p in inputs])
    return {
        "case": f"{sites} sites, {'equal' if equal else 'different'}, rank {rank}, batch {batch}, {dtype}, {size:g}",
        "double": dtype == torch.float64,
        "differences": differences,
        "same exponents": torch.equal(found[-1], expected[-1]),
        "same bits": all(torch.equal(a, b) for a, b in zip(found, again, strict=True)),
    }


def further(sites: int, dtype: torch.dtype) -> dict[str, object]:
    """A checkpoint, hooks that copy, and a penalty on the gradient, which plain operations say too."""
    generator = torch.Generator().manual_seed(sites)
    shapes = (3, sites, 3), (3, 4), (sites - 2, 3, 4, 4), (3, 4, 2)
    inputs = [torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes]

    def penalty(chain) -> tuple[torch.Tensor, ...]:
        mantissa, exponent = chain(*inputs)
        scores = scale_by_power_of_two(mantissa, exponent)
        slopes = torch.autograd.grad((scores / scores.detach().abs().max()).tanh().sum(), inputs, create_graph=True)
        return *slopes, *torch.autograd.grad(sum(slope.square().sum() for slope in slopes), inputs)

    expected = penalty(chain_by_operations)
    found = penalty(TritonChain.apply), penalty(lambda *p: checkpoint(TritonChain.apply, *p, use_reentrant=False))
    differences = [
        float((a - b).abs().max() / b.abs().max()) for each in found for a, b in zip(each, expected, strict=True)
    ]
    plain = torch.autograd.grad(TritonChain.apply(*inputs)[0].sum(), inputs)
    with torch.autograd.graph.saved_tensors_hooks(torch.clone, torch.clone):
        mantissa, _ = TritonChain.apply(*inputs)
    hooked = torch.autograd.grad(mantissa.sum(), inputs)
    recomputed, _ = checkpoint(TritonChain.apply, *inputs, use_reentrant=False)
    recomputed = torch.autograd.grad(recomputed.sum(), inputs)
    return {
        "case": f"further derivatives, {sites} sites, {dtype}",
        "double": dtype == torch.float64,
        "differences": {"largest": max(differences)},
        "same exponents": True,
        "same bits": all(
            torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(plain, hooked, recomputed, strict=True)
        ),
    }


def mixed(dtype: torch.dtype) -> dict[str, object]:
    """Sites of 1e-6 and of 1e6 by turns, eight at a time."""
    generator = torch.Generator().manual_seed(0)
    shapes = (3, 40, 3), (3, 4), (38, 3, 4, 4), (3, 4, 2)
    inputs = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    inputs[0] *= 10.0 ** torch.tensor([-6] * 10 + [6] * 20 + [-6] * 10).view(1, -1, 1)
    inputs = [p.to(dtype) for p in inputs]
    found, exponent = TritonChain.apply(*inputs)
    expected, other = chain_by_operations(*(p.double() for p in inputs))
    found = torch.ldexp(found.double(), (exponent - other).unsqueeze(1))
    return {
        "case": f"mixed sizes, {dtype}",
        "double": dtype == torch.float64,
        "differences": {"mantissa": float((found - expected).abs().max() / expected.abs().max())},
        "same exponents": True,
        "same bits": True,
    }


def main() -> None:
    cases = list(itertools.product((2, 3, 9, 20), (True, False), (1, 5), (3,), (torch.float32, torch.float64), (1.0,)))
    cases += [(40, True, 6, 2, torch.float32, size) for size in (1e-4, 1e4, 0.0)]
    cases += [(6, True, 16, 1, torch.float32, 1.0), (6, False, 3, 0, torch.float32, 1.0)]
    for sizes in cases:
        print(json.dumps(case(*sizes)), flush=True)
    for dtype in (torch.float32, torch.float64):
        for sites in (3, 9, 20):
            print(json.dumps(further(sites, dtype)), flush=True)
        print(json.dumps(mixed(dtype)), flush=True)


if __name__ == "__main__":
    main()
