"""``verify``: does a certificate hold?"""

import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from ttlightning.commands.parser import VerbParser
from ttlightning.errors import UserError
from ttlightning.rank.verifier.claims import Rejected, check_claims, read_certificate
from ttlightning.rank.verifier.verification import verify
from ttlightning.runs.checkpoints import TrainedNetwork, checkpoint_file, read_network


def main(args: Sequence[str]) -> int:
    """A line for each file; the exit code is that of the worst: 0 holds, 1 rejected, 2 cannot be judged."""
    parser = VerbParser(
        "verify",
        "Check certificates, a line for each. Exit code 0: all hold; 1: one is REJECTED, it claims what is not so; "
        "2: one is UNCHECKED, it is no certificate, or what it speaks of cannot be read.",
    )
    parser.add_argument("files", type=str, nargs="+", help="certificates")
    parser.add_argument("--checkpoint", type=Path | None, help="run or checkpoint that they speak of, if it was moved")
    options = parser.parse_args(args)
    worst = 0
    for file in options.files:  # as text: the parser's paths must be UTF-8
        code, line = judge(Path(file), options.checkpoint)
        print(line, flush=True)
        worst = max(worst, code)
    return worst


def judge(file: Path, checkpoint: Path | None = None) -> tuple[int, str]:
    """What is to be said of one file, and its exit code."""
    started = time.perf_counter()
    try:
        content = read_certificate(file)
        check_claims(content)
        network = find_network(content, file, checkpoint)
        with Console(stderr=True).status(escape(_plain(f"counting {file.name}"))):
            if network is None:
                verify(content)
            else:
                verify(content, network.weights, network.sha256, network.sites)
    except Rejected as why:
        return 1, _plain(f"REJECTED  {file}: {why}")
    except UserError as why:
        return 2, _plain(f"UNCHECKED {file}: {why}")
    return 0, _plain(f"holds     {file} ({time.perf_counter() - started:.1f} s): {content['statement']}")


def find_network(content: dict[str, object], file: Path, given: Path | None) -> TrainedNetwork | None:
    """The network that a certificate speaks of: as given, or where the certificate says it lies."""
    if content["kind"] == "generic":
        return None
    if given is None and "checkpoint" not in content:
        raise Rejected("checkpoint is missing")
    place = file.parent / str(content["checkpoint"]) if given is None else given
    try:
        if given is None and not place.exists():
            raise UserError(f"it speaks of the checkpoint {place}, which is not there; name it with --checkpoint")
        found = checkpoint_file(place)
    except (OSError, RuntimeError) as fault:  # a name that is too long, a folder that is closed, nobody's home
        raise UserError(f"the checkpoint {place} cannot be read: {getattr(fault, 'strerror', fault)}") from fault
    return read_network(found)


def _plain(line: str) -> str:
    """One line, whatever a file is called or holds: what cannot be printed is written as Python does."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)
