"""``certify``: write a lower bound on a rank to a file that anyone can check."""

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from ttlightning.commands.parser import VerbParser, check_new_file
from ttlightning.errors import UserError
from ttlightning.rank.certificates import Certificate
from ttlightning.rank.certificates.features import with_features
from ttlightning.rank.certificates.files import write_certificate
from ttlightning.rank.certificates.lengths import with_length
from ttlightning.rank.certificates.sampled import sampled_certificate
from ttlightning.rank.certificates.staircase import checkpoint_certificate, generic_certificate
from ttlightning.rank.limits import out_of_range
from ttlightning.runs.run import Run, checkpoint_file, place_beside
from ttlightning.runs.trust import OPTION, take_trusted
from ttlightning.system import signals
from ttlightning.system.output import say


def main(args: Sequence[str]) -> int:
    parser = VerbParser("certify", "Certify the rank of a trained network, or of almost every tensor train.")
    parser.add_argument("source", type=Path | None, nargs="?", help="a run directory or a checkpoint")
    parser.add_argument("--mode_size", type=int | None, help="n, without a source")
    parser.add_argument("--rank", type=int | None, help="r")
    parser.add_argument("--sites", type=int | None, help="d")
    parser.add_argument(
        "--length", type=int | None, help="sites of the sequences, for equal cores; default: the longest"
    )
    parser.add_argument("--sampled", type=int | None, help="K: from K x K scores instead of the staircase")
    parser.add_argument("--width", type=int | None, help="K: the width within an error of the scores on K x K images")
    parser.add_argument("--images", type=list[Path], default=[], help="pictures for --width, not the run's test set")
    parser.add_argument("--seed", type=int, default=0, help="of the generic cores, or of the sampled features")
    parser.add_argument("--features", type=bool, default=False, help="true: also that its features are independent")
    parser.add_argument("--output", type=Path | None, help="file to write")
    parser.add_argument("--weights", type=Path | None, help="safetensors to write, for scripts/verify_certificate.py")
    parser.add_argument(OPTION, type=str | None, help="class of the checkpoint's own format, which may be imported")
    others, trusted = take_trusted(args)
    options = parser.parse_args(others)
    output, make = prepare(options, trusted)
    check_new_file(output, "--output")
    if options.weights is not None:
        if options.source is None:
            raise UserError("--weights is for a trained network: name a run directory or a checkpoint")
        check_new_file(options.weights, "--weights")
    started = time.perf_counter()
    with Console(stderr=True).status("counting"):
        certificate = make()
    seconds = time.perf_counter() - started
    write_certificate(output, certificate)
    if options.weights is not None:
        write_weights(checkpoint_file(options.source), options.weights, options.features)
    say(certificate["statement"])
    print(f"certificate  {output} ({seconds:.1f} s)")
    return 0


def write_weights(checkpoint: Path, file: Path, features: bool = False) -> None:
    """All weights of a checkpoint in a new safetensors file; its metadata name the sizes, and the activation."""
    from ttlightning.runs.checkpoints import NETWORK_KEY, read_checkpoint
    from ttlightning.runs.safetensors import write_safetensors
    from ttlightning.runs.trained_features import read_features

    content = read_checkpoint(checkpoint)
    metadata = {name: str(value) for name, value in content[NETWORK_KEY].items()}
    if features:
        metadata["activation"] = read_features(checkpoint).activation
    write_safetensors(file, content["state_dict"], metadata)


def prepare(options: Any, trusted: Sequence[str]) -> tuple[Path, Callable[[], Certificate]]:
    """The file to write, and the function that makes the certificate."""
    sizes = [options.mode_size, options.rank, options.sites]
    if reason := out_of_range(seed=options.seed):
        raise UserError(f"--{reason}")
    if options.source is None:
        if options.features:
            raise UserError("--features is for a trained network: name a run directory or a checkpoint")
        if None in sizes:
            raise UserError("certify needs a run directory or a checkpoint, or all of --mode_size, --rank and --sites")
        for name in ("sampled", "width", "length"):
            if getattr(options, name) is not None:
                raise UserError(f"--{name} is for a trained network: name a run directory or a checkpoint")
        n, r, d = sizes
        output = options.output or Path(f"generic-n{n}-r{r}-d{d}.json")
        return output, lambda: generic_certificate(n, r, d, options.seed)
    if sizes != [None] * 3:
        raise UserError("--mode_size, --rank and --sites are those of the checkpoint: leave them out")
    with signals.importing():  # torch, which a generic certificate does without
        from ttlightning.runs.trained_features import read_features
        from ttlightning.runs.trained_formats import read_format
    file = checkpoint_file(options.source)
    run = place_beside(options.source, file)
    if options.width is None and options.images:
        raise UserError("--images is for --width")
    if options.width is not None:
        return _prepare_width(options, file, run, trusted)
    features = read_features(file) if options.features else None
    format, sha256 = read_format(file, trusted)
    own = format.sites
    if options.length is not None:
        if reason := out_of_range(sites=options.length):
            raise UserError(f"--length: {reason}")
        if features is not None and options.length != format.sites:
            raise UserError("--features is for sequences of the network's own number of sites: leave --length out")
        format = format.of_length(options.length)
    if options.sampled is None and format.staircase_cores() is None:
        raise UserError(f"{file} holds no tensor train, which the staircase is for: use --sampled K, K = 16 or more")
    output = options.output or run.new_certificate_file("sampled", options.sampled, options.length)
    origin = _origin(file, output)

    def make() -> Certificate:
        found = count() | origin
        if features is not None:
            return with_features(found, *features)
        return found if own == format.sites else with_length(found, own)

    def count() -> Certificate:
        if options.sampled is None:
            return checkpoint_certificate(format, sha256)
        workers = os.cpu_count() or 1 if options.sampled >= 1024 else 1
        return sampled_certificate(format, sha256, options.sampled, options.seed, workers=workers)

    return output, make


def _prepare_width(
    options: Any, file: Path, run: Run, trusted: Sequence[str]
) -> tuple[Path, Callable[[], Certificate]]:
    for name in ("sampled", "features", "length"):
        if getattr(options, name):
            raise UserError(f"--{name} is for a certificate of the rank: leave --width out")
    with signals.importing():
        from ttlightning.commands.width import prepare_width
    output = options.output or run.new_certificate_file("width", options.width)
    count = prepare_width(file, options.width, options.images, output, trusted)
    return output, lambda: count() | _origin(file, output)


def _origin(checkpoint: Path, output: Path) -> Certificate:
    return {"checkpoint": Path(os.path.relpath(checkpoint, output.parent)).as_posix()}
