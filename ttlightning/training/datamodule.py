"""The DataModule: a data set as chains of patches, in splits, batches and shards."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from jaxtyping import Float
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from ttlightning.data.augmentation import Augmentation, AugmentedBatches
from ttlightning.data.cache import cache_folder
from ttlightning.data.datasets import (
    DatasetName,
    check_fallback,
    default_root,
    describe_dataset,
    fetch_dataset,
    read_dataset,
)
from ttlightning.data.images import Images, read_images
from ttlightning.data.own import Own
from ttlightning.data.patches import Order, Patching
from ttlightning.data.pixels import scaled
from ttlightning.data.rows import Rows
from ttlightning.data.sampler import Calls, EvaluationBatches, Shard, TrainingBatches, validation_split
from ttlightning.data.sequences import SEQUENCES, read_sequences
from ttlightning.data.splits import ImageDataset, Split
from ttlightning.data.windows import windows_of
from ttlightning.errors import UserError
from ttlightning.runs.checkpoints import check_classes
from ttlightning.system.paths import expanded
from ttlightning.training.from_checkpoint import DataFromCheckpoint
from ttlightning.training.from_datasets import DataFromDatasets

NONE: Final = Augmentation()


class PatchDataModule(DataFromCheckpoint, DataFromDatasets, LightningDataModule):
    """Images cut into patches, in memory as one tensor (samples, sites, patch_dim); indexing it gives a batch.

    With ``$TTLIGHTNING_CACHE``, the images are memory-mapped from the disk, and each batch is read and cut by itself.

    Args:
        dataset: name of the data set.
        root: folder of the data sets in torchvision's layout, or of the IDX files; for ``image_folder`` the folder of
            ``train/<class>/`` and ``test/<class>/`` with PNG and JPEG files of one size; for ``time_series`` and
            ``text`` the folder of the two files, see ``data/sequences.py``; default ``$TTLIGHTNING_DATA``, else
            ``data``.
        offline_fallback: data set to use, with a warning, if ``dataset`` is neither in ``root`` nor downloadable.
        patch_size: side of the square window, or its height and width, in pixels; of sequences [1, values].
        stride: step of the window; default the patch size.
        padding: zeros on every side of the image, in pixels.
        order: raster, snake or hilbert.
        repeat: how often the chain reads the patches: sites = repeat * windows.
        augmentation: how far training images are moved, turned and stretched, with new numbers in every epoch.
        batch_size: samples in a global batch, all devices together.
        steps_per_execution: most optimizer steps in one call of the trainer, whose own work takes about a millisecond
            a call. If a callback or an option looks at single steps, each step has its own call. The result is the
            same.
        microbatches: V, a power of two: compute as V devices would, on any number of devices that divides V. All these
            train the same network to the bit, with one thread each, by V small passes instead of a large one.
        evaluation_batch_size: samples that a device scores in one pass in validation, test and prediction.
        validation: share of the training samples held out for validation, chosen by the seed; 0 for none.
        longest: of sequences, the values that are kept of each, from its beginning, and the length of the chain;
            default all values of the longest sequence.
        seed: key of the permutations and of the validation split.

    Attributes:
        sites, patch_dim, classes: sizes for the network.
        shard: this process among several in a loop without a trainer, ``Shard(rank, world)``.

    Raises:
        UserError: patches do not tile the image, a size is out of range, data are missing or corrupt, or the validation
            share holds out none or all of the training samples.
    """

    def __init__(
        self,
        dataset: DatasetName = "mnist",
        root: Path | None = None,
        offline_fallback: DatasetName | None = None,
        patch_size: int | tuple[int, int] = 7,
        stride: int | tuple[int, int] | None = None,
        padding: int = 0,
        order: Order | tuple[Order, ...] = "raster",
        repeat: int = 1,
        augmentation: Augmentation = NONE,
        batch_size: int = 64,
        steps_per_execution: int = 1,
        microbatches: int = 1,
        evaluation_batch_size: int = 2000,
        validation: float = 0.0,
        longest: int | None = None,
        seed: int = 0,
        _own: Own | None = None,
    ) -> None:
        super().__init__()
        sizes = {"batch_size": batch_size, "evaluation_batch_size": evaluation_batch_size}
        for name, size in (sizes | {"steps_per_execution": steps_per_execution}).items():
            if size < 1:
                raise UserError(f"data.{name} is {size}, it must be at least 1")
        if microbatches < 1 or microbatches & (microbatches - 1):
            raise UserError(f"data.microbatches is {microbatches}, it must be a power of two")
        if not 0 <= validation < 1:
            raise UserError(f"data.validation is {validation}, a share of the training samples: at least 0 and below 1")
        self.root = default_root() if root is None else expanded(root)
        self.own, self.shard, self.longest = _own, Shard(), longest
        self.patching = Patching(patch_size, stride, padding, order, repeat)
        if dataset in SEQUENCES and _own is None:
            self.own = read_sequences(dataset, self.root, windows_of(self.patching), longest)
        elif longest is not None:
            raise UserError(f"data.longest is {longest}, which is for sequences, and {dataset} has none: leave it out")
        self.spec = describe_dataset(dataset, self.root) if self.own is None else self.own.spec
        if offline_fallback is not None:
            check_fallback(dataset, self.spec, offline_fallback, self.root)
        if augmentation and (self.spec.floats or dataset in SEQUENCES):
            has = "points" if self.spec.points else "sequences" if dataset in SEQUENCES else "floats that are no bytes"
            raise UserError(f"data.augmentation moves images, and {dataset} has {has}: leave it out")
        self.dataset, self.offline_fallback = dataset, offline_fallback
        self.batch_size, self.evaluation_batch_size = batch_size, evaluation_batch_size
        self.steps_per_execution, self.microbatches = steps_per_execution, microbatches
        self.validation, self.seed = validation, seed
        self.augmentation = augmentation
        self.sites, self.patch_dim = self.patching.shape(*self.spec.shape)
        self.classes = self.spec.classes
        self.images: ImageDataset | None = None
        self.own_images: Images | None = None

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes in the order of their numbers; classes without names have their numbers."""
        return self.spec.names or tuple(map(str, range(self.classes)))

    def take_images(self, paths: Sequence[Path]) -> Images:
        """Predict these files' images instead of the test set's."""
        if self.dataset in SEQUENCES:
            raise UserError(
                f"data.dataset is {self.dataset}, of sequences and not of pictures: predict writes those of the test "
                "file, and ttlightning.load(run).predict takes lists of others; leave --images out"
            )
        if not self.spec.unit_pixels:
            are = "points" if self.spec.points else "floats outside [0, 1]"
            raise UserError(f"data.dataset is {self.dataset}: its samples are {are}, no pictures; leave --images out")
        self.own_images = read_images([expanded(path) for path in paths], self.spec.shape)
        return self.own_images

    def prepare_data(self) -> None:
        """Download what is missing and fill the cache, on one process only."""
        if self.images is None and self.own_images is None and self.own is None:
            fetch_dataset(self.dataset, self.root, self.offline_fallback)
            if cache_folder() is not None:
                read_dataset(self.dataset, self.root, self.offline_fallback, say=self._say_what_is_read)

    def setup(self, stage: str) -> None:
        """Read the images, cut the patches, hold out the validation samples."""
        devices = self._shard().world
        if stage == "fit" and self.batch_size % devices:
            raise UserError(
                f"data.batch_size is {self.batch_size}, the global batch; "
                f"it must be a multiple of the {devices} devices"
            )
        if self.microbatches > 1 and self.microbatches % devices:
            raise UserError(f"data.microbatches is {self.microbatches}, it must be a multiple of the {devices} devices")
        if self.images is not None or self.own_images is not None:
            return
        if self.own:
            read = self.own.images
        else:
            read = read_dataset(self.dataset, self.root, self.offline_fallback, say=self._say_what_is_read)
        whole = read.train
        train, held_out = validation_split(len(whole.labels), self._held_out(len(whole.labels), stage), self.seed)
        self.images = read
        if read.name != self.dataset:
            self.spec = describe_dataset(read.name, self.root)
        if read.stored is not None:
            cut = None if self.augmentation else self.patching
            self._train = Rows(whole.images, train, cut), whole.labels[train], None
            self._validation = Rows(whole.images, held_out, self.patching), whole.labels[held_out], None
            self._test = Rows(read.test.images, None, self.patching), read.test.labels, None
            return
        kept = whole.chosen(train) if len(held_out) else whole
        self._train = self._chains(kept) if not self.augmentation else (kept.images, kept.labels, None)
        self._validation = self._chains(read.validation or whole.chosen(held_out))
        self._test = self._chains(read.test)

    def _say_what_is_read(self) -> None:
        if self.dataset == "image_folder":
            name = os.fsencode(self.root).decode(errors="backslashreplace")  # standard output may refuse other names
            rank_zero_only(print)(f"reading     the pictures under {name}", flush=True)

    def describe(self) -> dict[str, Any]:
        """Name (of the fallback if it was read), content hash and sizes of the data."""
        assert self.images is not None, "setup comes first"
        described = {
            "name": self.images.name,
            "sha256": self.images.sha256(),
            "train": len(self._train[1]),
            "validation": len(self._validation[1]),
            "test": len(self._test[1]),
            "sites": self.sites,
            "patch_dim": self.patch_dim,
        }
        if self.own is not None and self.own.cut is not None:
            each = [lengths for *_, lengths in (self._train, self._validation, self._test) if lengths is not None]
            shortest = min((int(lengths.min()) for lengths in each if len(lengths)), default=self.sites)
            described |= {"shortest": shortest, "cut": dict(self.own.cut)}
        return described | ({"classes": list(self.spec.names)} if self.spec.names else {})

    def state_dict(self) -> dict[str, Any]:
        """Entries of a checkpoint: names of the classes; channels, height and width of an image; their range."""
        return {
            "classes": list(self.class_names), "shape": list(self.spec.shape), "unit_pixels": self.spec.unit_pixels
        }  # fmt: skip

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        self.check_classes({type(self).__qualname__: state_dict}, "the checkpoint")

    def check_classes(self, checkpoint: Mapping[str, Any], source: object) -> None:
        """Raise ``UserError`` if a checkpoint's classes have other names than the data's; ``source`` is its file."""
        where = f"the data here, {self.dataset} under {self.root}; name with --data.root a folder with its classes"
        check_classes(checkpoint.get(type(self).__qualname__), self.class_names, source, where)

    def some_patches(self, count: int) -> Float[Tensor, "count sites patch_dim"]:
        """Patches in [0, 1] of up to ``count`` validation images; of training images, if none are held out.

        They are spread evenly over the images, whose order may be that of the classes, and are always the same.
        """
        held = self.has_validation()
        images = (self._validation if held else self._train)[0]
        chosen = images[torch.linspace(0, len(images) - 1, min(count, len(images))).long()]
        return scaled(self.patching(chosen) if self.augmentation and not held else chosen)

    @property
    def has_lengths(self) -> bool:
        """Whether the samples are sequences of different lengths."""
        return self.own is not None and self.own.images.train.lengths is not None

    def has_validation(self) -> bool:
        """Whether samples are held out."""
        return len(self._validation[1]) > 0

    def has_test(self) -> bool:
        """Whether there is a test set; only a data set that was given in Python can lack it."""
        return len(self._test[1]) > 0

    @property
    def batches(self) -> int:
        """Global batches in an epoch of training."""
        return -(-len(self._train[1]) // self.batch_size)

    def train_dataloader(self) -> TrainingBatches | Calls:
        same = self.trainer is not None and self.trainer.overfit_batches > 0
        images, labels, lengths = self._train
        inputs = images, labels, self.batch_size, self.seed, self._epoch, self._shard(), same, self._dtype(), lengths
        if self.augmentation:
            batches = AugmentedBatches(self.patching, self.augmentation, *inputs)
        else:
            batches = TrainingBatches(*inputs)
        return batches if self.steps_per_execution == 1 else Calls(batches, self.steps_per_execution)

    def unaugmented_dataloader(self) -> EvaluationBatches:
        """The training images as they are, in order, each once."""
        images, labels, lengths = self._train
        if self.augmentation:
            images = images.with_patches(self.patching) if isinstance(images, Rows) else self.patching(images)
        return self._evaluation(images, labels, lengths)

    def val_dataloader(self) -> EvaluationBatches | list[EvaluationBatches]:
        return self._evaluation(*self._validation) if self.has_validation() else []

    def test_dataloader(self) -> EvaluationBatches:
        if not self.has_test():
            raise UserError(f"data set {self.dataset} has no test images: give from_datasets a test_dataset")
        return self._evaluation(*self._test)

    def predict_dataloader(self) -> EvaluationBatches:
        if self.own_images is None:
            return self.test_dataloader()
        pixels = self.own_images.pixels
        return self._evaluation(self.patching(pixels), torch.full((len(pixels),), -1))

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Move the tensors of a batch; Lightning's search of nested collections costs more than the move."""
        if isinstance(batch, list):
            return [self.transfer_batch_to_device(part, device, dataloader_idx) for part in batch]
        pixels, labels = (tensor.to(device, non_blocking=True) for tensor in (batch.pixels, batch.labels))
        lengths = None if batch.lengths is None else batch.lengths.to(device, non_blocking=True)
        return batch._replace(pixels=pixels, labels=labels, lengths=lengths)

    def _chains(self, split: Split) -> tuple[Tensor, Tensor, Tensor | None]:
        """Patches, labels, and the sites of sequences of different lengths."""
        lengths = None if split.lengths is None else windows_of(self.patching).sites(split.lengths)
        return self.patching(split.images), split.labels, lengths

    def _evaluation(self, patches: Tensor, labels: Tensor, lengths: Tensor | None = None) -> EvaluationBatches:
        shard = self._shard()
        shards = shard.cut(max(self.microbatches, shard.world))
        return EvaluationBatches(patches, labels, self.evaluation_batch_size, shards, self._dtype(), lengths)

    def _held_out(self, samples: int, stage: str) -> int:
        """Number of training samples held out; fit and validate need some and not all if ``validation`` is set."""
        held_out = round(self.validation * samples)
        if stage in ("fit", "validate") and self.validation and not 0 < held_out < samples:
            raise UserError(
                f"data.validation is {self.validation}, of {samples} training samples that is {held_out}, which leaves "
                f"{'none to train on' if held_out else 'none to validate on'}; "
                f"use 0, or {1 / samples:.2g} to {1 - 1 / samples:.2g}"
            )
        return held_out

    def _epoch(self) -> int:
        return self.trainer.current_epoch if self.trainer else 0

    def _dtype(self) -> torch.dtype:
        """Type of the network's weights."""
        return self.trainer.lightning_module.dtype if self.trainer else torch.float32

    def _shard(self) -> Shard:
        return Shard(self.trainer.global_rank, self.trainer.world_size) if self.trainer else self.shard
