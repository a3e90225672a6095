"""Data sets given in Python: whatever they are, the same images and labels are the same data, by their content."""

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, Subset, TensorDataset
from torchvision.datasets import MNIST
from torchvision.transforms import ToTensor

from ttlightning import PatchDataModule, UserError
from ttlightning.data.augmentation import Augmentation
from ttlightning.data.own import read_own

SAMPLES = 12


def pairs(channels: int = 1, samples: int = SAMPLES) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (samples, channels, 8, 6), dtype=torch.uint8, generator=generator)
    return images, torch.arange(samples) % 3


class Pictures(Dataset):
    """A map-style data set of PIL images."""

    classes = ("ant", "bee", "cat")

    def __init__(self, images, labels, transform=lambda image: image):
        self.images, self.labels, self.transform = images, labels, transform

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        array = self.images[index].movedim(0, -1).numpy()
        return self.transform(Image.fromarray(array.squeeze())), int(self.labels[index])


def hugging_face(images, labels, **names):
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["ant", "bee", "cat"])})
    pictures = [Image.fromarray(image.movedim(0, -1).numpy().squeeze()) for image in images]
    return datasets.Dataset.from_dict({"image": pictures, "label": labels.tolist()}, features=features)


@pytest.mark.parametrize("channels", [1, 3])
def test_every_source_of_the_same_images_is_the_same_data(channels):
    images, labels = pairs(channels)
    last = images.movedim(1, -1).contiguous()
    table = hugging_face(images, labels)
    sources = [
        (images, labels), (images.numpy(), labels.numpy()), (last.numpy(), labels.to(torch.int32)),
        (images / 255, labels), (images.numpy() / 255, labels.tolist()), TensorDataset(images, labels),
        Pictures(images, labels), Pictures(images, labels, ToTensor()),
        Subset(Pictures(images, labels), range(SAMPLES)),
        [{"image": image, "label": label} for image, label in zip(images, labels, strict=True)],
        table, table.with_format("torch"), table.with_format("numpy"),
    ]  # fmt: skip
    if channels == 1:
        sources += [(images[:, 0], labels), (last.numpy().squeeze(), labels)]
    found = [read_own("x", source, test=source) for source in sources]
    assert {own.images.sha256() for own in found} == {found[0].images.sha256()}
    assert {own.images.train.images.dtype for own in found} == {torch.uint8}
    assert {own.spec.shape for own in found} == {(channels, 8, 6)}
    named = [own.spec.names for own in found if own.spec.names]
    assert named == [("ant", "bee", "cat")] * 6
    assert read_own("x", (images + 1, labels), test=sources[0]).images.sha256() != found[0].images.sha256()


def test_a_data_set_of_torchvision_is_the_one_with_the_name(tmp_path, write_mnist):
    """The same content hash, split and batches."""
    root = write_mnist(tmp_path)
    options = {"patch_size": 7, "batch_size": 32, "validation": 0.1, "seed": 4}
    named = PatchDataModule("mnist", root, **options)
    given = PatchDataModule.from_datasets(MNIST(root, train=True), test_dataset=MNIST(root, train=False), **options)
    for data in (named, given):
        data.prepare_data()
        data.setup("fit")
    assert given.describe()["sha256"] == named.describe()["sha256"]
    for loader in ("train_dataloader", "val_dataloader", "test_dataloader"):
        batches = [list(getattr(data, loader)()) for data in (named, given)]
        for one, other in zip(*batches, strict=True):
            assert torch.equal(one.pixels, other.pixels)
            assert torch.equal(one.labels, other.labels)


def test_a_mapping_of_parts_and_a_validation_set_of_ones_own():
    parts = {part: pairs(samples=n) for part, n in (("train", 12), ("validation", 6), ("test", 9))}
    table = datasets.DatasetDict({part: hugging_face(*pair) for part, pair in parts.items()})
    one = PatchDataModule.from_datasets(table, patch_size=2)
    other = PatchDataModule.from_datasets(parts["train"], parts["validation"], parts["test"], patch_size=2, name="x")
    for data in (one, other):
        data.setup("fit")
        assert [data.describe()[part] for part in parts] == [12, 6, 9]
        assert torch.equal(data._validation[1], parts["validation"][1])
    assert one.describe()["sha256"] == other.describe()["sha256"]
    assert one.class_names == ("ant", "bee", "cat")
    assert other.class_names == ("0", "1", "2")
    with pytest.raises(UserError, match=r"validation is 0\.5, .* and the data have a validation set of their own"):
        PatchDataModule.from_datasets(table, patch_size=2, validation=0.5)


def test_floats_that_are_no_bytes_stay_floats():
    images, labels = pairs()
    for values, is_unit in ((images / 256, True), ((images / 255 - 0.5) / 0.2, False), (images.double() / 300, True)):
        data = PatchDataModule.from_datasets((values, labels), patch_size=2)
        data.setup("fit")
        assert data.state_dict()["unit_pixels"] is is_unit
        assert data.images.train.images.dtype == torch.float32
        torch.testing.assert_close(next(iter(data._train[0])), data.patching(values[:1].float())[0])
        with pytest.raises(UserError, match=r"data\.augmentation moves images, and own has floats that are no bytes"):
            PatchDataModule.from_datasets((values, labels), patch_size=2, augmentation=Augmentation(shift=1))
    points = PatchDataModule.from_datasets((np.array([[0.5, -2.0], [3.0, 1.0]]), [0, 1]), patch_size=1, name="plane")
    assert (points.sites, points.patch_dim, points.classes) == (2, 1, 2)
    with pytest.raises(UserError, match=r"data.dataset is plane: its samples are floats outside \[0, 1\]"):
        points.take_images(["x.png"])


def test_without_a_test_set_nothing_is_tested():
    data = PatchDataModule.from_datasets(pairs(), patch_size=2)
    data.setup("test")
    assert not data.has_test()
    with pytest.raises(UserError, match="data set own has no test images"):
        data.test_dataloader()


IMAGES, LABELS = pairs()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ((IMAGES.float(), LABELS), "images are whole numbers from 0 to 255 as floats: divide by the largest value"),
        ((IMAGES.to(torch.int64), LABELS), r"images are torch\.int64, they must be uint8"),
        ((torch.full((12, 8, 6), torch.nan), LABELS), "images have values that are not finite"),
        ((IMAGES, LABELS[:5]), "there are 12 images and 5 labels"),
        ((IMAGES, LABELS - 1), "labels lie from -1 to 1, they must be 0 or more"),
        ((IMAGES, LABELS.float()), r"labels are torch\.float32"),
        ((IMAGES, ["a"] * 12), "a list is no array of numbers"),
        ((torch.zeros(4, 1, 8, 3), LABELS[:4]), "whose channels can be the second and the last axis"),
        ((IMAGES[:0], LABELS[:0]), "there are no images"),
        ([(IMAGES[0], 0), (IMAGES[1, :, :5], 1)], r"image 1 has shape \(1, 5, 6\), the first has \(1, 8, 6\): resize"),
        ([(IMAGES[0], "a")], "a label is 'a', it must be a whole number"),
        ([(Image.new("CMYK", (6, 8)), 0)], "a picture has mode CMYK, or is transparent"),
        ([{"picture": IMAGES[0], "label": 0}], "has the keys picture, label: exactly one of them must be"),
        (iter([(IMAGES[0], 0)]), "it must be a pair .* of arrays, or a data set with a length and indices"),
        (torch.utils.data.DataLoader(TensorDataset(IMAGES, LABELS)), "give its data set"),
        ({"test": (IMAGES, LABELS)}, "the data set has the parts test, and none is called train"),
    ],
)
def test_data_that_cannot_be_read_are_one_line(source, message):
    with pytest.raises(UserError, match=message) as fault:
        PatchDataModule.from_datasets(source, patch_size=2)
    assert "\n" not in str(fault.value)


def test_parts_that_do_not_fit_together_are_one_line():
    other = torch.zeros(4, 1, 6, 6, dtype=torch.uint8), LABELS[:4]
    with pytest.raises(UserError, match=r"test images are torch\.uint8 of shape \(1, 6, 6\), those of train"):
        PatchDataModule.from_datasets((IMAGES, LABELS), test_dataset=other, patch_size=2)
    with pytest.raises(UserError, match="labels lie from 0 to 2, they must be 0 to 1, there are 2 classes"):
        PatchDataModule.from_datasets((IMAGES, LABELS), class_names=("a", "b"), patch_size=2)
    with pytest.raises(UserError, match="name is mnist, which a configuration would take for the data set"):
        PatchDataModule.from_datasets((IMAGES, LABELS), name="mnist", patch_size=2)
    with pytest.raises(UserError, match="root is for data sets with a name"):
        PatchDataModule.from_datasets((IMAGES, LABELS), root="data", patch_size=2)
