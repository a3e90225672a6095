"""A checkpoint file in which a changed byte is noticed: it ends with the SHA-256 of all that comes before.

The file is a zip archive, as torch writes it, and the hash stands in the archive's comment, which every other reader
passes over. It tells damage, not forgery: whoever changes a file on purpose can write a new hash.
"""

import hashlib
import io
import zipfile
from typing import Final

WORDS: Final = b"ttlightning sha256 "
DIGITS: Final = 64

END: Final = b"PK\x05\x06"
"""An archive without a comment ends with this and 18 bytes more, the last two of them 0, the comment's length."""


class Damaged(ValueError):
    """These bytes are not those that were written, or are no checkpoint's."""


def seal(archive: bytes) -> bytes:
    """The archive with a comment, ``ttlightning sha256`` and 64 digits, which hash everything before them."""
    if archive[-22:-18] != END or archive[-2:] != b"\0\0":
        raise ValueError("not a zip archive without a comment")
    body = archive[:-2] + (len(WORDS) + DIGITS).to_bytes(2, "little") + WORDS
    return body + hashlib.sha256(body).hexdigest().encode()


def check_seal(content: bytes) -> None:
    """Raise ``Damaged`` where the bytes are not as they were written.

    A file without a hash, of version 0.1 or of another program, has the CRC-32 that zip keeps of every part: that is
    checked instead. Parts that are compressed or overlap are refused, torch writes none: they are how a small file
    fills a memory.
    """
    sealed = content[-DIGITS - len(WORDS) : -DIGITS] == WORDS
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
