"""Tensor-train networks as a lens on the expressive power of recurrent networks."""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

from ttlightning import formats
from ttlightning.errors import UserError
from ttlightning.system.extras import needed_by

if TYPE_CHECKING:
    from ttlightning.commands.functions import certify as certify
    from ttlightning.commands.functions import compare as compare
    from ttlightning.commands.functions import export as export
    from ttlightning.commands.functions import fit as fit
    from ttlightning.commands.functions import fit_model as fit_model
    from ttlightning.commands.functions import predict as predict
    from ttlightning.commands.functions import rerun as rerun
    from ttlightning.commands.functions import test as test
    from ttlightning.commands.functions import validate as validate
    from ttlightning.commands.functions import verify as verify
    from ttlightning.formats import CanonicalPolyadic as CanonicalPolyadic
    from ttlightning.formats import EqualCoreTensorTrain as EqualCoreTensorTrain
    from ttlightning.formats import HierarchicalTucker as HierarchicalTucker
    from ttlightning.formats import ScoreFunction as ScoreFunction
    from ttlightning.formats import ScoreTensor as ScoreTensor
    from ttlightning.formats import SharedHierarchicalTucker as SharedHierarchicalTucker
    from ttlightning.formats import TensorTrain as TensorTrain
    from ttlightning.networks.features import ByteFeatureMap as ByteFeatureMap
    from ttlightning.networks.features import PatchFeatureMap as PatchFeatureMap
    from ttlightning.networks.features import Pixels as Pixels
    from ttlightning.runs.run import load as load
    from ttlightning.training.classifier import Classifier as Classifier
    from ttlightning.training.datamodule import PatchDataModule as PatchDataModule

FILES: Final = (
    dict.fromkeys(formats.FILES, "formats")
    | {
        "Classifier": "training.classifier",
        "PatchDataModule": "training.datamodule",
        "ByteFeatureMap": "networks.features",
        "PatchFeatureMap": "networks.features",
        "Pixels": "networks.features",
        "load": "runs.run",
    }
    | dict.fromkeys(
        ("fit", "fit_model", "validate", "test", "predict", "rerun", "compare", "certify", "verify", "export"),
        "commands.functions",
    )
)
"""Class or function that needs torch: its module in this package."""

__version__ = version("ttlightning")
__all__ = ["UserError", *FILES]


if not TYPE_CHECKING:  # a type checker reports names that do not exist

    def __getattr__(name: str) -> Any:
        """Import a class on first use, so that signals are handled before torch is imported.

        Raises:
            MissingExtra: if the class needs Lightning or another package of an extra that is not installed.
        """
        if name not in FILES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        with needed_by(f"{__name__}.{name}"):
            return getattr(import_module(f"{__name__}.{FILES[name]}"), name)
