r"""All weights of a network as a safetensors file, which can be read without torch and without pickle.

    8 bytes     N, the length of the header, little-endian
    N bytes     the header, JSON: {"__metadata__": {text: text}, name: {"dtype", "shape", "data_offsets": [start, end]}}
    the rest    the numbers, little-endian, one tensor after the other, in the order of the names

``scripts/verify_certificate.py`` reads the weights of a certificate from such a file.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from ttlightning.errors import UserError

TYPES: Final = {
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float32: "F32",
    torch.float64: "F64",
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.int16: "I16",
    torch.int32: "I32",
    torch.int64: "I64",
}
"""Types of tensors and their names in the header."""

NAMED: Final = {name: dtype for dtype, name in TYPES.items()}


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a file by name, and the texts of its header.

    Raises:
        UserError: if the file cannot be read, or its header does not describe the bytes after it.
    """
    try:
        content = path.read_bytes()
    except OSError as fault:
        raise UserError(f"{path} cannot be read: {fault.strerror}") from fault
    try:
        begin = 8 + int.from_bytes(content[:8], "little")
        header = json.loads(content[8:begin])
        metadata, state, at = header.pop("__metadata__", {}), {}, 0
        for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
            (start, end), dtype, shape = entry["data_offsets"], NAMED[entry["dtype"]], entry["shape"]
            size = math.prod(shape) * dtype.itemsize
            if start != at or end - start != size or not all(type(n) is int and n >= 0 for n in shape):
                raise ValueError(f"{name} is not {size} bytes after the tensor before it")
            numbers = bytearray(content[begin + start : begin + end])
            state[name] = (
                torch.frombuffer(numbers, dtype=dtype).reshape(shape) if size else torch.empty(shape, dtype=dtype)
            )
            at = end
        if begin + at != len(content):
            raise ValueError(f"{len(content) - begin - at} bytes belong to no tensor")
    except (ValueError, LookupError, TypeError, AttributeError, RuntimeError, RecursionError) as fault:
        reason = " ".join(str(fault).split())[:120]
        raise UserError(f"{path} is no whole safetensors file ({reason})") from fault
    return state, metadata


def write_safetensors(path: Path, state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a new file.

    Args:
        path: of the file.
        state: tensors by name.
        metadata: texts by name, for the header.

    Raises:
        UserError: if the file exists or cannot be written, or a tensor has a type that the file has no name for.
    """
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    pieces, end = [], 0
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        if tensor.dtype not in TYPES:
            raise UserError(f"{path} cannot be written: {name} is {tensor.dtype}, which safetensors has no name for")
        pieces.append(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
        start, end = end, end + len(pieces[-1])
        header[name] = {"dtype": TYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the numbers begin at a multiple of 8
    try:
        file = path.open("xb")
    except FileExistsError as fault:
        raise UserError(f"{path} exists and is left as it is; name another file") from fault
    except OSError as fault:
        raise UserError(f"{path} cannot be written: {fault.strerror}") from fault
    try:
        with file:
            file.write(len(text).to_bytes(8, "little") + text)
            for piece in pieces:
                file.write(piece)
    except OSError as fault:
        path.unlink(missing_ok=True)
        raise UserError(f"{path} cannot be written: {fault.strerror}") from fault
