"""The formats of the package in groups, their random weights, and a format from its weights."""

import pytest
import torch

from ttlightning.formats import (
    CanonicalPolyadic,
    EqualCoreTensorTrain,
    HierarchicalTucker,
    ScoreTensor,
    SharedHierarchicalTucker,
    TensorTrain,
)
from ttlightning.formats.kernels import native, torch_chain

CHAINS: list[type[ScoreTensor]] = [TensorTrain, EqualCoreTensorTrain]
TREES: list[type[ScoreTensor]] = [HierarchicalTucker, SharedHierarchicalTucker]
FORMATS = [*CHAINS, CanonicalPolyadic, *TREES]

needs_compiler = pytest.mark.skipif(native.kernel() is None, reason="this machine has no C compiler")


def random_format(kind: type[ScoreTensor], sites: int, mode_size: int, rank: int, classes: int = 2) -> ScoreTensor:
    """A format with Gaussian weights of seed 0."""
    torch.manual_seed(0)
    return kind(sites, mode_size, classes, rank, initialization="gaussian")


def weights_of(format: ScoreTensor, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """The parameters of a format by name."""
    return {name: parameter.detach().to(dtype) for name, parameter in format.named_parameters()}


def restore(weights: dict[str, torch.Tensor], sites: int) -> ScoreTensor:
    """The format whose parameters have these names and shapes, with these very tensors."""
    if "first" in weights:
        kind = TensorTrain if len(weights["interior"]) == sites - 2 else EqualCoreTensorTrain
        mode_size, rank, classes = weights["last"].shape
    elif "factors" in weights:
        kind, (_, mode_size, _), (rank, classes) = CanonicalPolyadic, weights["factors"].shape, weights["weights"].shape
    else:
        leaves, mode_size, rank = weights["leaves"].shape
        kind = HierarchicalTucker if leaves == sites else SharedHierarchicalTucker
        classes = weights["root"].shape[-1]
    with torch.device("meta"):
        format = kind(sites, mode_size, classes, rank).requires_grad_(False)
    format.load_state_dict(weights, assign=True)
    return format


KERNELS = [
    *((kind, kernel) for kind in CHAINS for kernel in ("native", "torch", "site by site", "segments", "scaled")),
    *((kind, kernel) for kind in TREES for kernel in ("native", "torch")),
    (CanonicalPolyadic, "torch"),
]
"""Formats, and the names of the kernels and of their variants that compute them on a CPU."""


def by_kernel(kind, kernel, monkeypatch):
    """The format, computed by this kernel until the test ends."""
    if kernel in ("torch", "site by site"):
        monkeypatch.setattr(native, "kernel", lambda: None)
        monkeypatch.setattr(torch_chain, "ARITHMETIC_PER_SITE", 1 << 40 if kernel == "torch" else 0)
    elif native.kernel() is None:
        pytest.skip("this machine has no C compiler")
    if kernel == "segments":
        monkeypatch.setattr(native, "SITES_FOR_SEGMENTS", 2)
    if kernel == "scaled":
        monkeypatch.setattr(kind, "scores", ScoreTensor.scores)  # through mantissas and exponents
    return kind


def made(kind, sites, dtype=torch.float64, mode_size=2, rank=3, classes=2, batch=3):
    """The format, and features; sizes for which nothing leaves the range."""
    sites = 1 << (sites.bit_length() - 1) if kind in TREES else sites
    torch.manual_seed(sites)
    format = kind(sites, mode_size, classes, rank=rank, initialization="gaussian", gain=1.3).to(dtype)
    return format, torch.randn(batch, sites, mode_size, dtype=dtype).requires_grad_()


def inputs_of(format, features):
    return [features, *(p for p in format.parameters() if p.numel())]
