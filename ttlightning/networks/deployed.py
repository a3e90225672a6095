r"""A trained network as a program for other runtimes: uint8 images in, probabilities and classes out.

    images --pixels of each site, one table--> patches --network--> scores --softmax--> probabilities, largest -> class

``torch.export`` records the program for any number of images. ``.pt2`` is torch's own file of it; ONNX is read by
onnxruntime and others. Both hold weights, patches and scaling, and need nothing of this package.
"""

import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from ttlightning.data.pixels import scaled
from ttlightning.data.windows import is_sequence
from ttlightning.errors import UserError
from ttlightning.networks.network import Network

Images = UInt8[Tensor, "samples channels height width"]
Program = Callable[[Images], tuple[Tensor, Tensor]]

TOLERANCE: Final = 1e-5
"""Largest error of a probability, for scores of size 1 or less. It grows with the scores, whose rounding errors do."""
METADATA_FILE: Final = "metadata.json"
"""Name of the metadata inside a ``.pt2``."""


class Deployed(nn.Module):
    """Probabilities ``(samples, classes)``, and the first class with the highest score ``(samples)``, of images.

    The numbers are those of ``predict``. Where ``predict`` ends with a fault, because scores are not finite,
    the probabilities are NaN.

    Args:
        network: a network that ``ttlightning.load`` gives.

    Raises:
        UserError: the network has no patching.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        if network.patching is None or network.image_shape is None:
            raise UserError("this network has no patching: ttlightning.load gives one that can be exported")
        if is_sequence(network.image_shape) and network.format.any_length:
            raise UserError(
                "this network takes sequences of different lengths, and an exported program images of one size: "
                "ttlightning.load(run).predict takes them"
            )
        self.network, self.image_shape = network, network.image_shape
        pixels = torch.arange(1, 1 + torch.Size(self.image_shape).numel()).view(1, *self.image_shape)
        self.register_buffer("pixel_of_entry", network.patching(pixels)[0], persistent=False)
        """Pixel of each entry of each patch, (sites, patch_dim), counted from 1; 0 is padding."""

    def forward(self, images: Images) -> tuple[Float[Tensor, "samples classes"], Int[Tensor, " samples"]]:
        pixels = F.pad(scaled(images.flatten(1), next(self.network.format.parameters()).dtype), (1, 0))
        patches = pixels[:, self.pixel_of_entry.flatten()].unflatten(1, self.pixel_of_entry.shape)
        scores = self.network.below_the_largest(patches)
        return scores.softmax(-1), scores.argmax(-1)


class File(NamedTuple):
    """The content of an exported file, and the program that a reader makes of it."""

    content: bytes
    program: Program
    reader: str
    """Name and version of the runtime."""


def pt2(deployed: Deployed, metadata: Mapping[str, Any]) -> File:
    """A ``.pt2`` file with ``metadata.json`` inside: ``torch.export.load(file).module()`` runs it."""
    file = io.BytesIO()
    torch.export.save(_recorded(deployed), file, extra_files={METADATA_FILE: json.dumps(metadata)})
    content = file.getvalue()
    return File(content, torch.export.load(io.BytesIO(content)).module(), f"torch {torch.__version__}")


def onnx(deployed: Deployed, metadata: Mapping[str, Any]) -> File:
    """An ONNX file. Input ``images``, outputs ``probabilities`` and ``predicted``; metadata as its properties.

    Raises:
        UserError: a package is missing, or onnxruntime does not run the program.
    """
    try:
        import onnx as onnx_format
        import onnxruntime
        import onnxscript  # noqa: F401  torch writes ONNX with it
    except ModuleNotFoundError as missing:
        raise UserError(
            f"ONNX needs the package {missing.name}, which is not installed: pip install ttlightning[export]"
        ) from missing
    with _quiet():
        made = torch.onnx.export(
            _recorded(deployed),
            input_names=["images"],
            output_names=["probabilities", "predicted"],
            dynamo=True,
            verbose=False,
        )
        model = made.model_proto
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in metadata.items()}
    onnx_format.helper.set_model_props(model, texts)
    content = model.SerializeToString()
    try:
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    except Exception as fault:  # onnxruntime's exceptions have no common class
        reason = " ".join(str(fault).split())[:160]
        raise UserError(f"onnxruntime does not run this network ({reason}): use --to pt2") from fault

    def program(images: Images) -> tuple[Tensor, Tensor]:
        probabilities, predicted = session.run(None, {"images": images.numpy()})
        return torch.from_numpy(probabilities), torch.from_numpy(predicted)

    return File(content, program, f"onnxruntime {onnxruntime.__version__}")


KINDS: Final = {"onnx": onnx, "pt2": pt2}


@torch.no_grad()
def largest_difference(network: Network, program: Program, images: Images) -> float:
    """Largest difference between a program's probabilities and the network's own, in batches of 1, 2 and the rest.

    Raises:
        UserError: a difference above ``TOLERANCE`` times the size of the sample's scores, or another class.
    """
    largest = 0.0
    for part in images.split([1, 2, len(images) - 3]):
        patches = scaled(network.patching(part), next(network.format.parameters()).dtype)
        below, sizes = network.below_the_largest(patches), network(patches).abs().amax(1, keepdim=True)
        right, found = below.softmax(-1), program(part)
        allowed = TOLERANCE * sizes.nan_to_num(nan=1e3).clamp(1, 1e3)
        differences = (found[0] - right).abs().where(~(found[0].isnan() & right.isnan()), 0)
        behind = right.gather(1, below.argmax(1, keepdim=True)) - right.gather(1, found[1].unsqueeze(1))
        if not bool((differences <= allowed).all() and ((behind <= allowed) | behind.isnan()).all()):
            raise UserError(
                f"the exported program is wrong: probabilities differ by up to {float(differences.max()):.1e} from "
                "those of PyTorch, no file is written"
            )
        largest = max(largest, float(differences.max()))
    return largest


def images_to_check(shape: tuple[int, int, int]) -> Images:
    """32 images: a black one, a white one, and noise of every contrast."""
    noise = torch.randint(0, 256, (30, *shape), generator=torch.Generator().manual_seed(0))
    contrast = torch.linspace(0.03, 1, 30).view(-1, 1, 1, 1)
    plain = [torch.full((1, *shape), grey, dtype=torch.uint8) for grey in (0, 255)]
    return torch.cat([*plain, (noise * contrast).to(torch.uint8)])


def _recorded(deployed: Deployed) -> torch.export.ExportedProgram:
    images = torch.zeros(2, *deployed.image_shape, dtype=torch.uint8)
    samples = {0: torch.export.Dim("samples")}
    try:
        with _quiet():
            return torch.export.export(deployed.eval(), (images,), dynamic_shapes=(samples,))
    except Exception as fault:  # whatever a format of the user's own makes of tensors without memory
        reason = " ".join(str(fault).split())[:160]
        raise UserError(f"torch.export cannot record {deployed.network.format.name} ({reason})") from fault


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' own warnings and notes, which do not concern the user's network."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
