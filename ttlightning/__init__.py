"""Tensor-train networks as a lens on the expressive power of recurrent networks."""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from ttlightning.errors import UserError
from ttlightning.features import PatchFeatureMap
from ttlightning.formats import (
    CanonicalPolyadic,
    EqualCoreTensorTrain,
    HierarchicalTucker,
    ScoreTensor,
    SharedHierarchicalTucker,
    TensorTrain,
)

if TYPE_CHECKING:
    from ttlightning.classifier import Classifier
    from ttlightning.data.datamodule import PatchDataModule

__version__ = version("ttlightning")
__all__ = [
    "CanonicalPolyadic",
    "Classifier",
    "EqualCoreTensorTrain",
    "HierarchicalTucker",
    "PatchDataModule",
    "PatchFeatureMap",
    "ScoreTensor",
    "SharedHierarchicalTucker",
    "TensorTrain",
    "UserError",
]

_NEEDS_LIGHTNING = {"Classifier": "ttlightning.classifier", "PatchDataModule": "ttlightning.data.datamodule"}


def __getattr__(name: str) -> Any:
    """Import what needs Lightning when it is asked for: formats and ranks are a library without it."""
    if name in _NEEDS_LIGHTNING:
        return getattr(import_module(_NEEDS_LIGHTNING[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
