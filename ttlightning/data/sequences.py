r"""Sequences of different lengths from files: time series, and text as bytes.

    time_series   NAME_TRAIN.tsv, NAME_TEST.tsv (.txt, .csv)   label, then values; NaN behind the last value is filling
                  NAME_TRAIN.ts, NAME_TEST.ts                  a header, then values:label; one variable
    text          train.txt, test.txt (.tsv)                   label<TAB>text, one document a line, UTF-8

What becomes of them is in windows.py.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal, NamedTuple, get_args

import numpy as np
import torch
from jaxtyping import Real

from ttlightning.data.own import Own
from ttlightning.data.reading import entries, is_folder, read_file
from ttlightning.data.splits import ImageDataset, Spec, Split
from ttlightning.data.windows import Windows, as_rows
from ttlightning.errors import UserError

SequenceName = Literal["time_series", "text"]
SEQUENCES: Final = get_args(SequenceName)
LARGEST: Final = 1 << 33
"""Bytes of all sequences in memory, filled to the longest; more is refused."""


class Line(NamedTuple):
    """A sequence and its label as they stand in a file."""

    label: str
    values: Real[np.ndarray, " values"]
    where: str
    """file and line, for messages"""


def read_sequences(name: str, root: Path, windows: Windows, longest: int | None = None) -> Own:
    """The training and the test set of a folder.

    Args:
        name: ``time_series`` or ``text``.
        root: the folder, with one pair of files.
        windows: what becomes a site.
        longest: values that are kept of a sequence, and the length of the network's chain; None: the longest sequence.

    Raises:
        UserError: missing files or several pairs; a line that is no sequence, one of a single window, or a label in the
            test file that the training file does not have; more than fits in memory. With the file and the line.
    """
    if longest is not None and longest < windows.fewest:
        raise UserError(
            f"data.longest is {longest}, it must be at least {windows.fewest}: two windows of {windows.size}"
        )
    read, ends, suffixes = KINDS[name]
    train, test = (_lines(file, read, windows) for file in find_pair(root, ends, suffixes))
    lengths = [len(line.values) for line in (*train, *test)]
    most = max(lengths) if longest is None else longest
    width = windows.filled(most)
    if (needed := width * len(lengths) * (1 if name == "text" else 4)) > LARGEST:
        raise UserError(
            f"{len(lengths):,} sequences of {most:,} values are {needed / 1e9:.0f} GB: cut them with --data.longest"
        )
    labels = sorted({line.label for line in train}, key=_order)
    if len(labels) < 2:
        raise UserError(
            f"{train[0].where.rpartition(', line')[0]} has one label, {labels[0]!r}: there is nothing to tell apart"
        )
    number = {label: index for index, label in enumerate(labels)}
    is_text = name == "text"
    splits = [_split(part, number, most, width) for part in (train, test)]
    if len({*windows.sites(torch.tensor([*(min(n, most) for n in lengths), width])).tolist()}) == 1:
        splits = [Split(split.images, split.labels) for split in splits]
    cut = {
        "train": sum(len(line.values) > most for line in train),
        "test": sum(len(line.values) > most for line in test),
    }
    spec = Spec((1, 1, width), len(labels), names=tuple(labels), floats=not is_text, unit_pixels=is_text)
    return Own(ImageDataset(name, *splits), spec, cut)


def find_pair(root: Path, ends: tuple[str, str], suffixes: tuple[str, ...]) -> list[Path]:
    """The training and the test file of the one data set in a folder."""
    if not is_folder(root):
        raise UserError(f"{root} is no folder: name with --data.root the one that has the files")
    files = [file for file in sorted(entries(root)) if file.suffix.lower() in suffixes]
    begin = [file for file in files if file.stem.endswith(ends[0])]
    wanted = f"*{ends[0]}{suffixes[0]}"
    if len(begin) != 1:
        there = ", ".join(file.name for file in begin[:3]) or "none"
        raise UserError(
            f"{root} must have one file {wanted}, it has {len(begin)} ({there}): name another with --data.root"
        )
    test = begin[0].with_name(begin[0].stem.removesuffix(ends[0]) + ends[1] + begin[0].suffix)
    if not test.is_file():
        raise UserError(f"{begin[0]} is there, but its test set {test} is not")
    return [begin[0], test]


def _split(lines: list[Line], number: dict[str, int], most: int, width: int) -> Split:
    for line in lines:
        if line.label not in number:
            raise UserError(f"{line.where}: the label {line.label!r:.40} is not in the training file")
    rows = as_rows([line.values[:most] for line in lines], width)
    labels = torch.tensor([number[line.label] for line in lines], dtype=torch.int64)
    return Split(rows.images, labels, rows.lengths)


def _lines(file: Path, read: Callable[[bytes], tuple[str, np.ndarray]], windows: Windows) -> list[Line]:
    content = read_file(file)
    rows = content.split(b"\n")
    while rows and not rows[-1].strip():
        rows.pop()
    first = 0
    if file.suffix.lower() == ".ts":
        read, first = _ts_series, next((i for i, row in enumerate(rows, 1) if row.strip().lower() == b"@data"), 0)
        if not first:
            raise UserError(f"{file} has no line @data, behind which a file of this kind has its series")
        if any(row.lower().split()[:2] == [b"@targetlabel", b"true"] for row in rows[:first]):
            raise UserError(f"{file} has targets instead of classes (@targetlabel true): only classes are read")
    if not rows[first:]:
        raise UserError(f"{file} has no sequences")
    lines = []
    for count, row in enumerate(rows[first:], start=first + 1):
        where = f"{file}, line {count}"
        try:
            label, values = read(row.removesuffix(b"\r"))
        except ValueError as fault:
            raise UserError(f"{where}: {fault}") from fault
        if len(values) < windows.fewest:
            raise UserError(
                f"{where}: a sequence of {len(values)} values; it must have {windows.fewest} or more, two windows of "
                f"{windows.size}"
            )
        lines.append(Line(label, values, where))
    return lines


def _series(row: bytes) -> tuple[str, np.ndarray]:
    """Label and values of a line; separators are tabs, spaces or commas."""
    words = row.replace(b",", b" ").split()
    if not words:
        raise ValueError("it is empty, it must be a label and values")
    label, *values = _numbers(words)
    if not np.isfinite(label):
        raise ValueError("its label is not finite")
    return _whole(label), _known(np.array(values))


def _ts_series(row: bytes) -> tuple[str, np.ndarray]:
    """Values and label of a line of a .ts file; ? is a missing value."""
    series, colon, label = row.strip().rpartition(b":")
    if not colon or not label.strip():
        raise ValueError("it must be values, a colon and a label")
    if b":" in series or b"(" in series:
        raise ValueError("it has several variables, or times beside the values; only series of one variable are read")
    values = _numbers([b"nan" if word == b"?" else word for word in series.replace(b",", b" ").split()])
    try:
        name = _whole(float(label))
    except ValueError:
        name = label.decode().strip()
    return name, _known(np.array(values))


def _numbers(words: list[bytes]) -> list[float]:
    try:
        return [float(word) for word in words]
    except ValueError as fault:
        raise ValueError(f"{' '.join(str(fault).split())[:80]}") from fault


def _whole(label: float) -> str:
    """1.0 and 1 are one label."""
    return str(int(label)) if label.is_integer() else str(label)


def _known(values: np.ndarray) -> Real[np.ndarray, " values"]:
    """The values without the filling, in float32."""
    known = np.flatnonzero(~np.isnan(values))
    values = values[: known[-1] + 1] if len(known) else values[:0]
    with np.errstate(over="ignore"):
        narrow = values.astype(np.float32)
    if not np.isfinite(narrow).all():
        place = int(np.flatnonzero(~np.isfinite(narrow))[0]) + 1
        raise ValueError(f"value {place} is {values[place - 1]}; only NaN behind the last value is filling")
    return narrow


def _document(row: bytes) -> tuple[str, np.ndarray]:
    """Label and bytes of a line."""
    label, tab, text = row.partition(b"\t")
    if not tab or not label.strip():
        raise ValueError("it must be a label, a tab and text")
    return label.decode().strip(), np.frombuffer(text, np.uint8)


def _order(label: str) -> tuple[int, float, str]:
    """Numbers by their size, then words."""
    try:
        return 0, float(label), label
    except ValueError:
        return 1, 0.0, label


KINDS: Final = {
    "time_series": (_series, ("_TRAIN", "_TEST"), (".tsv", ".txt", ".csv", ".ts")),
    "text": (_document, ("train", "test"), (".txt", ".tsv")),
}
"""Reader of a line, ends of the names of the two files, and their suffixes."""
