"""A data module of data sets that are given in Python: arrays, data sets of torch, torchvision and Hugging Face."""

from collections.abc import Sequence
from typing import Any, Self

from ttlightning.data.datasets import is_named
from ttlightning.data.own import read_own
from ttlightning.errors import UserError


class DataFromDatasets:
    """``from_datasets`` of ``PatchDataModule``."""

    @classmethod
    def from_datasets(
        cls,
        train_dataset: Any,
        val_dataset: Any = None,
        test_dataset: Any = None,
        *,
        name: str = "own",
        class_names: Sequence[str] | None = None,
        **options: Any,
    ) -> Self:
        """The data module of data sets given in Python: splits, shards, augmentation and content hash as for any other.

            data = PatchDataModule.from_datasets((images, labels), test_dataset=(others, their_labels), patch_size=7)

        Args:
            train_dataset: arrays ``(images, labels)``, a map-style data set of torch or torchvision, or a ``Dataset``
                of Hugging Face; or its ``DatasetDict``, with parts train, validation and test. Each sample is read
                once. Bytes, and floats that are k / 255, are kept as bytes; other floats as they are.
            val_dataset: fixed validation set, instead of a share ``validation`` of the training samples.
            test_dataset: test set; without one nothing is tested.
            name: name of the data in what a run records.
            class_names: names of the classes; default those of the data set, if it has some.
            options: the other arguments of ``PatchDataModule``, such as ``patch_size`` and ``batch_size``.

        Raises:
            UserError: data that cannot be read, or a mistake in the options.
        """
        if is_named(name):
            raise UserError(f"name is {name}, which a configuration would take for the data set of this name")
        own = read_own(name, train_dataset, val_dataset, test_dataset, class_names)
        if own.images.validation is not None and options.get("validation"):
            raise UserError(
                f"validation is {options['validation']}, a share of the training samples, and the data have a "
                "validation set of their own: leave one of them out"
            )
        if wrong := sorted(options.keys() & {"dataset", "root", "offline_fallback"}):
            raise UserError(f"{wrong[0]} is for data sets with a name, and these are given: leave it out")
        return cls(name, **options, _own=own)
