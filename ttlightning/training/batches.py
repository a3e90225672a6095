r"""Batches of any loader as ``Batch``: (images, labels), (patches, labels), {"image": ..., "label": ...}, images alone.

A loader of the user gives each of W devices its own samples, so that a global batch has W times as many. Its random
numbers have the key (seed, epoch, number of the batch), and device w takes the w-th slice of them. The same loader with
the same seeds so trains to the same bits.
"""

from typing import Any, Literal

import torch
from jaxtyping import Real
from lightning.pytorch import LightningModule
from torch import Tensor

from ttlightning.data.arrays import as_images, as_tensor
from ttlightning.data.pairs import as_labels, pair_of
from ttlightning.data.sampler import Batch
from ttlightning.errors import UserError

Stage = Literal["train", "val", "test", "predict"]


def as_batches(model: LightningModule, batch: Any, batch_idx: int, stage: Stage) -> Any:
    """A batch of this package, or a list of them, as it is; a batch of another loader as ``Batch``, for ``Classifier``.

    uint8 is scaled to [0, 1] on the device; floats are taken as they are.

    Raises:
        UserError: a batch whose images, patches or labels do not fit the network.
    """
    if isinstance(batch, Batch) or (isinstance(batch, list) and batch and isinstance(batch[0], Batch)):
        return batch
    image, label = pair_of(batch)
    patches = _patches_of(model, as_tensor(image).to(model.device))  # numpy stays on the CPU
    if stage == "predict":
        labels = torch.full((len(patches),), -1)
    elif label is None:
        raise UserError("a batch has images and no labels: give pairs (images, labels)")
    else:
        labels = as_labels(label, len(patches), model.format.classes)
    if stage == "train" and batch_idx == 0 and model.unit_pixels:
        model.unit_pixels = not patches.is_floating_point() or bool(patches.min() >= 0 and patches.max() <= 1)
    world, rank = model.trainer.world_size, model.trainer.global_rank
    return Batch(
        patches, labels.to(patches.device), rank * len(patches), world * len(patches), model.trainer.current_epoch,
        batch_idx, model.dtype,
    )  # fmt: skip


def _patches_of(model: LightningModule, pixels: Tensor) -> Real[Tensor, "batch sites patch_dim"]:
    """The patches themselves, or those of images."""
    sites, patch_dim = model.format.sites, model.patch_dim
    if not pixels.is_floating_point() and pixels.dtype != torch.uint8:
        raise UserError(f"a batch of images is {pixels.dtype}, it must be uint8 or floats")
    is_patches = pixels.ndim == 3 and tuple(pixels.shape[1:]) == (sites, patch_dim)
    if model.patching is None or model.image_shape is None:
        if is_patches:
            return pixels
        raise UserError(
            f"a batch has shape {tuple(pixels.shape)}, and the network takes patches (batch, {sites}, {patch_dim}): "
            "for batches of images make it by Classifier.for_images"
        )
    if not is_patches:
        return model.patching(as_images(pixels, model.image_shape))
    if (sites, patch_dim) == model.image_shape[1:]:
        raise UserError(
            f"a batch has shape {tuple(pixels.shape)}, which can be images or patches: give images as "
            "(batch, channels, height, width)"
        )
    return pixels
