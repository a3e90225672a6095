"""Tensor formats: plain torch, usable without Lightning."""

from ttlightning.formats.base import ScoreTensor
from ttlightning.formats.tensor_train import EqualCoreTensorTrain, TensorTrain

__all__ = ["EqualCoreTensorTrain", "ScoreTensor", "TensorTrain"]
