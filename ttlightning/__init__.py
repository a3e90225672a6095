"""Tensor-train networks as a lens on the expressive power of recurrent networks."""

from importlib.metadata import version

from ttlightning.classifier import Classifier
from ttlightning.data import PatchDataModule
from ttlightning.errors import UserError
from ttlightning.features import PatchFeatureMap
from ttlightning.formats import EqualCoreTensorTrain, ScoreTensor, TensorTrain

__version__ = version("ttlightning")
__all__ = [
    "Classifier",
    "EqualCoreTensorTrain",
    "PatchDataModule",
    "PatchFeatureMap",
    "ScoreTensor",
    "TensorTrain",
    "UserError",
]
