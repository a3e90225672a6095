"""Tensor-train networks as a lens on the expressive power of recurrent networks."""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ttlightning.errors import UserError
    from ttlightning.formats import (
        CanonicalPolyadic,
        EqualCoreTensorTrain,
        HierarchicalTucker,
        ScoreTensor,
        SharedHierarchicalTucker,
        TensorTrain,
    )
    from ttlightning.networks.features import PatchFeatureMap
    from ttlightning.runs.run import load
    from ttlightning.training.classifier import Classifier
    from ttlightning.training.datamodule import PatchDataModule

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
    "load",
]

_ROOMS = {
    "Classifier": "training.classifier",
    "PatchDataModule": "training.datamodule",
    "PatchFeatureMap": "networks.features",
    "UserError": "errors",
    "load": "runs.run",
}


def __getattr__(name: str) -> Any:
    """Import a class on first use: formats need no Lightning, and signals are handled before torch is imported."""
    if name in __all__:
        return getattr(import_module(f"ttlightning.{_ROOMS.get(name, 'formats')}"), name)
    if name in ("errors", "formats"):
        return import_module(f"ttlightning.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
