"""``export``: write a trained network to a file that other programs run."""

import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from ttlightning.commands.parser import VerbParser, check_new_file
from ttlightning.errors import UserError
from ttlightning.runs.files import write_whole
from ttlightning.runs.run import checkpoint_file, load, place_beside
from ttlightning.runs.trust import OPTION, take_trusted
from ttlightning.system import signals
from ttlightning.system.output import terminal


def main(args: Sequence[str]) -> int:
    parser = VerbParser(
        "export",
        "Write a trained network to a file that ONNX runtimes or torch alone run: uint8 images in, probabilities and "
        "predicted classes out. The file is run and compared with the network before it is kept.",
    )
    parser.add_argument("source", type=Path, help="a run directory or a checkpoint")
    parser.add_argument("--to", type=Literal["onnx", "pt2"], required=True, help="kind of the file")
    parser.add_argument("--output", type=Path | None, help="file to write; default: beside the checkpoint's run")
    parser.add_argument(OPTION, type=str | None, help="class of the checkpoint's own format, which may be imported")
    others, trusted = take_trusted(args)
    options = parser.parse_args(others)
    export(options.source, options.to, options.output, trusted)
    return 0


def export(source: Path, to: str, output: Path | None, trusted: Sequence[str]) -> Path:
    """Write the network to ``output``, or beside its run, and compare the two; the file's path."""
    file = checkpoint_file(source)
    output = output or place_beside(source, file).new_export(to)
    check_new_file(output, "--output")
    with signals.importing():  # torch takes a second
        from ttlightning.networks.deployed import KINDS, Deployed, images_to_check, largest_difference
        from ttlightning.runs.checkpoints import weights_sha256
    if to not in KINDS:
        raise UserError(f"to is {to!r}, it must be one of {', '.join(KINDS)}")
    network = load(file, trusted)
    metadata = {
        "classes": network.class_names,
        "shape": network.image_shape,
        "format": network.format.name,
        "weights_sha256": weights_sha256(network.state_dict()),
        "ttlightning": version("ttlightning"),
    }
    started = time.perf_counter()
    with terminal(stderr=True).status("exporting"), signals.importing():
        deployed = Deployed(network)
        made = KINDS[to](deployed, metadata)
        images = images_to_check(deployed.image_shape)
        difference = largest_difference(network, made.program, images)
    write_whole(output, made.content)
    seconds = time.perf_counter() - started
    print(f"checked      {len(images)} images by {made.reader}: probabilities differ by at most {difference:.1e}")
    print(f"exported     {output} ({len(made.content) / 1000:,.0f} kB, {seconds:.1f} s)")
    return output
