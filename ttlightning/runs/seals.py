"""Checkpoint files that end with the SHA-256 of all bytes before it, so that a changed byte is noticed.

The file is a zip archive, as torch writes it, and the hash is the archive's comment, which other readers ignore. It
detects damage, not forgery: an attacker can write a new hash.
"""

import hashlib
import io
import zipfile
from typing import Final

LABEL: Final = b"ttlightning sha256 "
DIGITS: Final = 64

END: Final = b"PK\x05\x06"
"""An archive without a comment ends with this and 18 more bytes; the last two are 0, the length of the comment."""


class Damaged(ValueError):
    """The bytes were changed after they were written, or are no checkpoint."""


def seal(archive: bytes) -> bytes:
    """The archive with the comment ``ttlightning sha256`` and 64 digits: the hash of all bytes before the digits."""
    if archive[-22:-18] != END or archive[-2:] != b"\0\0":
        raise ValueError("not a zip archive without a comment")
    body = archive[:-2] + (len(LABEL) + DIGITS).to_bytes(2, "little") + LABEL
    return body + hashlib.sha256(body).hexdigest().encode()


def check_seal(content: bytes) -> None:
    """Raise ``Damaged`` if the bytes were changed after they were written.

    A file without a hash (version 0.1, another program) is checked by zip's CRC-32 of every part. Parts that are
    compressed or overlap are refused: torch writes none, and they let a small file fill the memory.
    """
    sealed = content[-DIGITS - len(LABEL) : -DIGITS] == LABEL
    if sealed and hashlib.sha256(content[:-DIGITS]).hexdigest().encode() != content[-DIGITS:]:
        raise Damaged("its SHA-256 is not the one that it ends with")
    if not sealed and (content[-22:-18] != END or content[-2:] != b"\0\0"):
        raise Damaged("it does not end like a checkpoint")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            parts = archive.infolist()
            if any(part.compress_type != zipfile.ZIP_STORED for part in parts):
                raise Damaged("it has compressed parts")
            if sum(part.file_size for part in parts) > len(content):
                raise Damaged("its parts are larger than the file")
            if not sealed and archive.testzip() is not None:
                raise Damaged("the CRC-32 of a part is another one than it says")
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError, OSError, UnicodeDecodeError) as fault:
        raise Damaged(f"it is no zip archive: {fault}") from fault
