"""Tensor formats: plain torch, usable without Lightning."""

from ttlightning.formats.base import ScoreTensor
from ttlightning.formats.canonical import CanonicalPolyadic
from ttlightning.formats.hierarchical import HierarchicalTucker, SharedHierarchicalTucker
from ttlightning.formats.tensor_train import EqualCoreTensorTrain, TensorTrain

__all__ = [
    "CanonicalPolyadic",
    "EqualCoreTensorTrain",
    "HierarchicalTucker",
    "ScoreTensor",
    "SharedHierarchicalTucker",
    "TensorTrain",
]
