"""Writing a certificate to a file."""

import json
from pathlib import Path

from ttlightning.errors import UserError
from ttlightning.rank.certificates import Certificate
from ttlightning.rank.limits import LARGEST_FILE


def write_certificate(path: Path, certificate: Certificate) -> None:
    """Write a new file; ``UserError`` if it exists, or the certificate is larger than the limit for reading."""
    text = json.dumps(certificate, indent=1) + "\n"
    if len(text) > LARGEST_FILE:
        raise UserError(f"the certificate has {len(text):,} bytes, the limit is {LARGEST_FILE:,}")
    try:
        file = path.open("x")
    except FileExistsError as fault:
        raise UserError(f"{path} exists and is left as it is; name another file with --output") from fault
    except OSError as fault:
        raise UserError(f"{path} cannot be written: {fault.strerror}") from fault
    try:
        with file:
            file.write(text)
    except OSError as fault:
        path.unlink(missing_ok=True)
        raise UserError(f"{path} cannot be written: {fault.strerror}") from fault
