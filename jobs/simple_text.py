"""CSV files on this machine's disk in which every line is one record, told from their bytes.

Such a file needs no scan by Spark to count its records, a fraction of whose time this takes, and `parse.plain` may read it as one
stream, which takes two thirds of the time that it needs line by line.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from transforms.arrays import Integers

PIECE = 1 << 20  # bytes: they stay in a core's cache between the looks at them
_LINE_FEED, _QUOTE, _SPACE, _FIRST_NOT_ASCII = 0x0A, 0x22, 0x20, 0x80


@dataclass(frozen=True)
class SimpleText:
    """What the bytes say. `first_line` comes without its line feed, in the file's encoding."""

    lines: int
    first_line: bytes


def read(path: str, *, delimiter: str, is_utf8: bool) -> SimpleText | None:
    """The lines of a file; None where a line may be no record, or where another look at the text is due.

    Lines end with a line feed and have no carriage return; none is blank, begins with white space, or is longer than two pieces.
    A value in quotes begins and ends next to a delimiter, on one line. UTF-8 is valid, without the character that stands for
    bytes that were not.

    Raises:
        OSError: the file cannot be read.
    """
    if len(delimiter) != 1 or not delimiter.isascii():
        return None
    lines, first_line = 0, b""
    for piece in _whole_lines(path):
        codes = np.frombuffer(piece, np.uint8)
        ends = np.flatnonzero(codes == _LINE_FEED)
        if not piece.endswith(b"\n") or b"\r" in piece:
            return None
        if codes[0] <= _SPACE or np.any(codes[ends[:-1] + 1] <= _SPACE):
            return None
        if b'"' in piece and not _is_quoted_well(codes, ends, ord(delimiter)):
            return None
        if is_utf8 and codes.max() >= _FIRST_NOT_ASCII and not _is_text(piece):
            return None
        first_line = first_line or piece.partition(b"\n")[0]
        lines += len(ends)
    return SimpleText(lines, first_line)


def _whole_lines(path: str) -> Iterator[bytes]:
    """The file in pieces that end with a line feed, which a last line may lack; one of more than two ends without and is the last."""
    rest = b""
    with open(path, "rb", buffering=0) as file:
        while piece := file.read(PIECE):
            lines, feed, rest = (rest + piece).rpartition(b"\n")
            if feed:
                yield lines + feed
            elif len(rest) > PIECE:
                yield rest
                return
    if rest:
        yield rest + b"\n"


def _is_quoted_well(codes: npt.NDArray[np.uint8], ends: Integers, delimiter: int) -> bool:
    """Whether quotes come in pairs on one line, and what stands before and after a pair is a delimiter, the line's end or another pair.

    Pairs that meet are a quote within a quoted value (RFC 4180). The last of `codes` is a line feed, which serves as the end
    before the first line.
    """
    quotes = np.flatnonzero(codes == _QUOTE)
    if len(quotes) % 2:
        return False
    opening, closing = quotes[::2], quotes[1::2]
    beside = np.array([delimiter, _LINE_FEED, _QUOTE], np.uint8)
    return bool(
        np.array_equal(np.searchsorted(ends, opening), np.searchsorted(ends, closing))
        and np.isin(codes[opening - 1], beside).all()
        and np.isin(codes[closing + 1], beside).all()
    )


def _is_text(piece: bytes) -> bool:
    try:
        return "\ufffd" not in piece.decode()
    except UnicodeDecodeError:
        return False
