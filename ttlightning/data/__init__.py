"""Images as chains of patches."""

from ttlightning.data.datamodule import PatchDataModule

__all__ = ["PatchDataModule"]
