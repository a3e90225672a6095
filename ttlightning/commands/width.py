"""``certify RUN --width K``: the images, and the certificate of width against error on them.

The patches of the images are written beside the certificate, float32, little-endian, so that anyone can count again.
"""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from ttlightning.errors import UserError
from ttlightning.rank.certificates import Certificate
from ttlightning.rank.limits import out_of_range
from ttlightning.rank.verifier.claims import Rejected, agree
from ttlightning.system.extras import needed_by


def images_beside(certificate: Path) -> Path:
    """The file of the images that belong to a certificate."""
    return certificate.with_suffix(".images")


def prepare_width(
    checkpoint: Path, images: int, given: Sequence[Path], output: Path, trusted: Sequence[str]
) -> Callable[[], Certificate]:
    """The function that makes the certificate and writes the images' patches beside it.

    Args:
        checkpoint: of the network.
        images: K, the first ones of the test set or of ``given``.
        given: files and folders of images, in place of the test set's.
        output: file of the certificate.
        trusted: classes that the checkpoint may name, as in ``--trust``.
    """
    from ttlightning.commands.parser import check_new_file
    from ttlightning.networks.features import PatchFeatureMap
    from ttlightning.rank.certificates.width import width_certificate
    from ttlightning.runs.checkpoints import weights_sha256
    from ttlightning.runs.trained_formats import weight_tensor_of
    from ttlightning.runs.trained_networks import read_network

    if reason := out_of_range(images=images):
        raise UserError(f"--width: {reason}")
    beside = images_beside(output)
    check_new_file(beside, "--output")
    network = read_network(checkpoint, trusted)
    weight_tensor_of(network.format, checkpoint)
    if type(network.features) is not PatchFeatureMap:
        raise UserError(f"a width is certified for PatchFeatureMap, {checkpoint} has {type(network.features).__name__}")
    patches = _of_files(network, given) if given else _of_test_set(checkpoint, images, trusted)
    if len(patches) < images:
        raise UserError(f"--width is {images}, there are {len(patches)} images")
    patches = patches[:images].float().contiguous()
    numbers = patches.numpy().astype("<f4").tobytes()

    def make() -> Certificate:
        sha256 = hashlib.sha256(numbers).hexdigest()
        certificate = width_certificate(network, weights_sha256(network.state_dict()), patches, sha256)
        with beside.open("xb") as file:
            file.write(numbers)
        return certificate

    return make


def check_width(content: dict[str, Any], file: Path, checkpoint: Path) -> None:
    """Count a certificate of width again; ``Rejected`` or ``UserError`` as ``verify``."""
    from ttlightning.networks.features import PatchFeatureMap
    from ttlightning.rank.verifier.width import verify_width
    from ttlightning.runs.checkpoints import read_checkpoint, weights_sha256
    from ttlightning.runs.trained_networks import read_network

    state = read_checkpoint(checkpoint)["state_dict"]
    network = read_network(checkpoint)
    if type(network.features) is not PatchFeatureMap:
        raise UserError(f"the features of {checkpoint} are not counted here")
    agree("activation", content, network.features.activation)
    agree("constant", content, network.features.constant)
    agree("pixel_mean", content, network.pixel_mean)
    agree("sites", content, network.format.sites)  # which the weights of equal cores do not determine
    beside = images_beside(file)
    expected = 4 * content["images"] * content["sites"] * network.features.patch_dim
    try:
        with beside.open("rb") as images:
            numbers = images.read(expected + 1)
    except OSError as fault:
        raise UserError(f"its images {beside} cannot be read: {fault.strerror}") from fault
    try:
        verify_width(content, state, weights_sha256(state), numbers)
    except MemoryError as fault:
        raise Rejected("its scores do not fit in memory") from fault


def _of_files(network: Any, paths: Sequence[Path]) -> torch.Tensor:
    from ttlightning.data.images import read_images
    from ttlightning.data.pixels import scaled

    return scaled(network.patching(read_images(paths, network.image_shape).pixels))


def _of_test_set(checkpoint: Path, images: int, trusted: Sequence[str]) -> torch.Tensor:
    with needed_by("ttlightning certify --width without --images"):
        from ttlightning.training.datamodule import PatchDataModule

    data = PatchDataModule.load_from_checkpoint(checkpoint, trust=trusted)
    if data.has_lengths:
        raise UserError(
            "a width is certified on samples whose odd and even sites can be mixed, and these are sequences of "
            "different lengths: leave --width out"
        )
    data.prepare_data()
    data.setup("test")
    parts: list[torch.Tensor] = []
    for batch in data.test_dataloader():
        parts.append(batch.patches)
        if sum(map(len, parts)) >= images:
            break
    return torch.cat(parts)
