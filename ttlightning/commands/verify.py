"""``verify``: check whether certificates hold."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.markup import escape

from ttlightning.commands.parser import VerbParser
from ttlightning.errors import UserError
from ttlightning.rank.verifier.claims import Rejected, check_claims, read_certificate
from ttlightning.rank.verifier.verification import verify
from ttlightning.runs.run import checkpoint_file
from ttlightning.system import signals
from ttlightning.system.output import say, terminal


def main(args: Sequence[str]) -> int:
    """Print one line for each file; return the worst exit code: 0 holds, 1 rejected, 2 cannot be judged."""
    parser = VerbParser(
        "verify",
        "Check certificates, one line for each. Exit code 0: all hold; 1: one is REJECTED, a claim of it is false; "
        "2: one is UNCHECKED, it is no certificate, or its network cannot be read.",
    )
    parser.add_argument("files", type=str, nargs="+", help="certificates")
    parser.add_argument("--checkpoint", type=Path | None, help="run or checkpoint that they are for, if it was moved")
    options = parser.parse_args(args)
    worst = 0
    for file in options.files:  # as text: the parser takes only paths in UTF-8
        code, line = judge(Path(file), options.checkpoint)
        say(line)
        worst = max(worst, code)
    return worst


def judge(file: Path, checkpoint: Path | None = None) -> tuple[int, str]:
    """The exit code and the line of one file."""
    started = time.perf_counter()
    try:
        content = read_certificate(file)
        check_claims(content)
        source = None if content["kind"] == "generic" else find_checkpoint(content, file, checkpoint)
        with terminal(stderr=True).status(escape(_plain(f"counting {file.name}"))):
            count(content, file, source)
    except Rejected as why:
        return 1, _plain(f"REJECTED  {file}: {why}")
    except UserError as why:
        return 2, _plain(f"UNCHECKED {file}: {why}")
    return 0, _plain(f"holds     {file} ({time.perf_counter() - started:.1f} s): {content['statement']}")


def count(content: dict[str, Any], file: Path, checkpoint: Path | None) -> None:
    """Count the claims again; ``checkpoint`` is that of the network, None for a generic certificate."""
    if checkpoint is None:
        verify(content)
        return
    with signals.importing():  # torch, which a generic certificate does without
        from ttlightning.commands.width import check_width
        from ttlightning.runs.trained_features import read_features
        from ttlightning.runs.trained_formats import read_format
    if content["kind"] == "width":
        check_width(content, file, checkpoint)
    else:
        format, sha256 = read_format(checkpoint)
        features = read_features(checkpoint) if "features" in content else None
        if "network_sites" in content and not format.any_length:
            raise Rejected(f"it is for {content['sites']} sites, and a {format.name} has {format.sites} only")
        verify(content, dict(format.named_parameters()), sha256, format.sites, features)


def find_checkpoint(content: dict[str, Any], file: Path, given: Path | None) -> Path:
    """The checkpoint of a certificate's network: ``given``, or the path in the certificate."""
    if given is None and "checkpoint" not in content:
        raise Rejected("checkpoint is missing")
    path = file.parent / str(content["checkpoint"]) if given is None else given
    try:
        if given is None and not path.exists():
            raise UserError(f"it is for the checkpoint {path}, which is not there; name it with --checkpoint")
        return checkpoint_file(path)
    except (OSError, RuntimeError) as fault:  # a name too long, a folder without permission, an unknown user
        raise UserError(f"the checkpoint {path} cannot be read: {getattr(fault, 'strerror', fault)}") from fault


def _plain(line: str) -> str:
    """The text as one line: characters that cannot be printed are escaped as in Python."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)
