"""The Triton kernels beside the torch path, in Triton's interpreter on a CPU: started by test_triton_chain.py.

Prints a line of JSON for each case: its sizes, and of every result the largest difference over the largest entry.
TRITON_INTERPRET=1 must stand in the environment before Triton is imported, hence a process of its own.
"""

import itertools
import json

import torch

from ttlightning.formats.contraction import TorchChain
from ttlightning.formats.triton_chain import TritonChain

NAMES = "mantissa", "features", "first", "interior", "last"


def results(chain: type, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    inputs = [p.detach().clone().requires_grad_() for p in inputs]
    mantissa, exponent = chain.apply(*inputs)
    weights = torch.linspace(-1, 2, mantissa.numel(), dtype=mantissa.dtype).view_as(mantissa)
    gradients = torch.autograd.grad((mantissa * weights).sum(), inputs)
    return [mantissa.detach(), *gradients, exponent]


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


def main() -> None:
    cases = list(itertools.product((2, 3, 9, 20), (True, False), (1, 5), (3,), (torch.float32, torch.float64), (1.0,)))
    cases += [(40, True, 6, 2, torch.float32, size) for size in (1e-4, 1e4, 0.0)]
    cases += [(6, True, 16, 1, torch.float32, 1.0), (6, False, 3, 0, torch.float32, 1.0)]
    for sizes in cases:
        print(json.dumps(case(*sizes)), flush=True)


if __name__ == "__main__":
    main()
