"""The three paths of the chain on a GPU, for scripts/gpu.py: exactness, repeatability, speed.

  torch     torch's operations, site by site, with a gradient written by hand
  compiled  ``torch.compile`` of the whole network, with CUDA graphs
  triton    two kernel launches for all sites

On a CPU (``--dry_run``) the compiled path is traced and not compiled, and Triton runs in its interpreter.
"""

import contextlib
import itertools
import os
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, Final
from unittest import mock

import torch
from benchmark import CLASSES, KINDS, Network, batch_of
from benchmark_peer import MODES_OF_PEER, Case, peer_chain
from torch import Tensor, nn
from torch.nn import functional as F

from ttlightning.formats.kernels import dispatch, native
from ttlightning.formats.kernels.torch_chain import TorchChain

PATHS: Final = ("torch", "compiled", "triton")
MOST_SITES_TO_COMPILE: Final = 64
"""The compiler unrolls the sites; beyond this number it takes minutes."""
LIMITS: Final = {torch.float32: 3e-5, torch.float64: 1e-13}
"""Largest difference over the largest entry."""


@contextlib.contextmanager
def chain_path(path: str, device: torch.device) -> Iterator[None]:
    """Inside, chains are computed by this path: on a GPU by ``TTLIGHTNING_KERNEL``, on a CPU in its place."""
    if device.type == "cuda":
        with mock.patch.dict(os.environ, {"TTLIGHTNING_KERNEL": "triton" if path == "triton" else "torch"}):
            yield
        return
    chain = TorchChain
    if path == "triton":
        from ttlightning.formats.kernels.triton_chain import TritonChain as chain
    with (
        mock.patch.object(native, "kernel", return_value=None),
        mock.patch.object(dispatch, "torch_or_triton", return_value=chain),
    ):
        yield


def made(case: Case, kind: str, dtype: torch.dtype, device: torch.device) -> tuple[nn.Module, Tensor, Tensor]:
    """Network, patches and labels of a case, the same numbers on every device and in every type."""
    mode_size, rank, _, sites = case
    torch.manual_seed(0)
    network = Network(mode_size, KINDS[kind](sites, mode_size, CLASSES, rank)).to(device, dtype)
    patches, labels = batch_of(case)
    return network, patches.to(device, dtype), labels.to(device)


def as_path(network: nn.Module, path: str, device: torch.device) -> Callable[[Tensor], Tensor]:
    """The network as this path calls it."""
    if path != "compiled":
        return network
    options = {"mode": "reduce-overhead"} if device.type == "cuda" else {"backend": "aot_eager"}
    return torch.compile(network, fullgraph=True, dynamic=False, **options)


def outcome(network: nn.Module, call: Callable[[Tensor], Tensor], patches: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Scores, and the gradients of the loss, in double precision on the CPU."""
    scores = call(patches)
    gradients = torch.autograd.grad(F.cross_entropy(scores, labels), list(network.parameters()), allow_unused=True)
    names = [name for name, _ in network.named_parameters()]
    found = {"scores": scores} | {name: g for name, g in zip(names, gradients, strict=True) if g is not None}
    return {name: value.detach().cpu().double() for name, value in found.items()}


def paths_of(case: Case) -> list[str]:
    return [path for path in PATHS if path != "compiled" or case[3] <= MOST_SITES_TO_COMPILE]


def exactness(cases: list[Case], device: torch.device) -> dict[str, Any]:
    """Every path beside float64 on the CPU, and beside itself a second time; ``right`` if all is within the limits."""
    rows = []
    for case, kind, dtype in itertools.product(cases, KINDS, LIMITS):
        with chain_path("torch", torch.device("cpu")):
            network, patches, labels = made(case, kind, torch.float64, torch.device("cpu"))
            expected = outcome(network, network, patches, labels)
        for path in paths_of(case):
            torch.compiler.reset()
            with chain_path(path, device):
                network, patches, labels = made(case, kind, dtype, device)
                call = as_path(network, path, device)
                first, second = (outcome(network, call, patches, labels) for _ in range(2))
            differences = {
                name: float((first[name] - value).abs().max() / value.abs().max().clamp(min=1e-30))
                for name, value in expected.items()
                if value.numel()
            }
            rows.append({
                "case": case, "kind": kind, "dtype": str(dtype), "path": path, "differences": differences,
                "within": max(differences.values()) <= LIMITS[dtype],
                "same_bits_again": all(torch.equal(first[name], second[name]) for name in first),
            })  # fmt: skip
    return {"rows": rows, "right": all(row["within"] and row["same_bits_again"] for row in rows)}


def step_of(
    network: nn.Module, call: Callable[[Tensor], Tensor], patches: Tensor, labels: Tensor
) -> Callable[[], None]:
    """A training step that ends when the device has."""
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-5, fused=True)

    def train() -> None:
        loss = F.cross_entropy(call(patches), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if patches.is_cuda:
            torch.cuda.synchronize()

    return train


def speed(cases: list[Case], device: torch.device, repeats: int) -> dict[str, Any]:
    """Milliseconds of a training step: our paths, TensorKrowch in its fastest mode, and JAX if it has this device."""
    rows = []
    for case, kind in itertools.product(cases, KINDS):
        row: dict[str, Any] = {"case": case, "kind": kind, "ms": {}, "faults": {}}
        steps: dict[str, tuple[Callable[[], None], str]] = {}
        torch.compiler.reset()
        for path in paths_of(case):
            with chain_path(path, device), _noted(row, path):
                network, patches, labels = made(case, kind, torch.float32, device)
                step = step_of(network, as_path(network, path, device), patches, labels)
                step()
                steps[path] = step, path
        for mode in MODES_OF_PEER:
            with _noted(row, f"tensorkrowch {mode}"):
                network, patches, labels = _peer(case, kind, mode, device)
                step = step_of(network, network, patches, labels)
                step()
                steps[f"tensorkrowch {mode}"] = step, "torch"
        if _jax_has(device):
            from benchmark_jax import WAYS, make_jax_steps

            network, patches, labels = made(case, kind, torch.float32, torch.device("cpu"))
            for way in WAYS:
                with _noted(row, f"jax {way}"):
                    step = make_jax_steps(network, patches, labels, way)[0]
                    step()
                    steps[f"jax {way}"] = step, "torch"
        times: dict[str, list[float]] = {name: [] for name in steps}
        for _ in range(repeats):
            for name, (step, path) in steps.items():
                with chain_path(path, device):
                    started = time.perf_counter()
                    step()
                    times[name].append(1e3 * (time.perf_counter() - started))
        row["ms"] = {name: statistics.median(values) for name, values in times.items()}
        row["fastest"] = min(row["ms"], key=row["ms"].__getitem__)
        rows.append(row)
    return {"rows": rows, "jax": _jax_has(device), "right": not any(row["faults"] for row in rows)}


@contextlib.contextmanager
def _noted(row: dict[str, Any], name: str) -> Iterator[None]:
    """A rival that fails is recorded with its fault, and the others are measured."""
    try:
        yield
    except Exception as fault:
        row["faults"][name] = f"{type(fault).__name__}: {fault}"[:300]


def _peer(case: Case, kind: str, mode: tuple[bool, bool], device: torch.device) -> tuple[nn.Module, Tensor, Tensor]:
    """TensorKrowch's network on the device."""
    chain = peer_chain(case, kind, *mode, traced=False)
    network = Network(case[0], chain).to(device)
    with torch.no_grad():
        chain.trace(torch.zeros(1, case[3], case[0], device=device))
    patches, labels = batch_of(case)
    return network, patches.to(device), labels.to(device)


def _jax_has(device: torch.device) -> bool:
    """Whether JAX computes on the same device as torch. Its package for a CPU is not compared with a GPU."""
    try:
        import jax
    except ModuleNotFoundError:
        return False
    return jax.default_backend() == ("gpu" if device.type == "cuda" else "cpu")
