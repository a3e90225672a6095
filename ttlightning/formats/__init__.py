"""Tensor formats: plain torch, usable without Lightning. A format is imported when it is first named."""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from ttlightning.formats.base import ScoreFunction as ScoreFunction
    from ttlightning.formats.base import ScoreTensor as ScoreTensor
    from ttlightning.formats.canonical import CanonicalPolyadic as CanonicalPolyadic
    from ttlightning.formats.hierarchical import HierarchicalTucker as HierarchicalTucker
    from ttlightning.formats.hierarchical import SharedHierarchicalTucker as SharedHierarchicalTucker
    from ttlightning.formats.tensor_train import EqualCoreTensorTrain as EqualCoreTensorTrain
    from ttlightning.formats.tensor_train import TensorTrain as TensorTrain

FILES: Final = {
    "CanonicalPolyadic": "canonical",
    "EqualCoreTensorTrain": "tensor_train",
    "HierarchicalTucker": "hierarchical",
    "ScoreFunction": "base",
    "ScoreTensor": "base",
    "SharedHierarchicalTucker": "hierarchical",
    "TensorTrain": "tensor_train",
}
"""Class: its file in this folder."""

__all__ = list(FILES)

NAMES: Final = tuple(name for name in FILES if FILES[name] != "base")
"""The formats, without the interfaces that they share."""


if not TYPE_CHECKING:  # a type checker reports names that do not exist

    def __getattr__(name: str) -> Any:
        """Import a class on first use, so that ``formats.bounds`` and ``formats.modular`` do without torch."""
        if name not in FILES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{FILES[name]}"), name)
