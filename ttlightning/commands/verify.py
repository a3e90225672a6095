"""``verify``: does a certificate hold?"""

import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from ttlightning.checkpoints import TrainedNetwork, checkpoint_file, read_network
from ttlightning.commands.parser import VerbParser
from ttlightning.errors import UserError
from ttlightning.rank.verification import Rejected, read_certificate, verify


def main(args: Sequence[str]) -> int:
    """0 where every certificate holds, 1 where one is rejected."""
    parser = VerbParser("verify", "Check certificates; exit code 1 where one does not hold.")
    parser.add_argument("files", type=Path, nargs="+", help="certificates")
    parser.add_argument("--checkpoint", type=Path | None, help="run or checkpoint that they speak of, if it was moved")
    options = parser.parse_args(args)
    rejected = 0
    for file in options.files:
        started = time.perf_counter()
        try:
            content = read_certificate(file)
            network = find_network(content, file, options.checkpoint)
            with Console(stderr=True).status(f"counting {escape(file.name)}"):
                if network is None:
                    verify(content)
                else:
                    verify(content, network.weights, network.sha256, network.sites)
        except Rejected as why:
            rejected += 1
            print(f"REJECTED  {file}: {why}")
        else:
            print(f"holds     {file} ({time.perf_counter() - started:.1f} s): {content['statement']}")
    return int(rejected > 0)


def find_network(content: dict[str, object], file: Path, given: Path | None) -> TrainedNetwork | None:
    """The network that a certificate speaks of: as given, or where the certificate says it lies."""
    if content["kind"] == "generic":
        return None
    if given is None:
        if not isinstance(content.get("checkpoint"), str):
            raise Rejected("checkpoint is missing")
        given = file.parent / str(content["checkpoint"])
        if not given.exists():
            raise UserError(f"{file} speaks of the checkpoint {given}, which is not there; name it with --checkpoint")
    return read_network(checkpoint_file(given))
