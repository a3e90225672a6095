"""Formats from bare weights, as the tests of certificates need them."""

import torch

from ttlightning.formats import (
    CanonicalPolyadic,
    EqualCoreTensorTrain,
    HierarchicalTucker,
    ScoreTensor,
    SharedHierarchicalTucker,
    TensorTrain,
)


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
