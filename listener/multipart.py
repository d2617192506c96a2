"""Takes a multipart body apart as it comes, in any pieces (RFC 2046 section 5.1). Knows no HTTP and no DICOM.

Memory is bounded whatever comes: content is handed on at once, and nothing but an unfinished delimiter or the headers
of one part is kept.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from email.message import Message
from email.utils import collapse_rfc2231_value
from enum import Enum, auto
from typing import Protocol

_MOST_PREAMBLE = 4096
_MOST_HEADERS = 16_384
_MOST_PADDING = 64
_MOST_TYPE = 1024
# RFC 2046 section 5.1.1: bcharsnospace, with spaces inside.
_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,\-./:=? ]{0,69}[0-9A-Za-z'()+_,\-./:=?]")
_LINE_END = re.compile(rb"[ \t]*\r\n")
_LINE_END_BEGUN = re.compile(rb"[ \t]*\r?")


class Malformed(Exception):
    """The body is no multipart with this boundary; the text holds nothing of it."""


class Parts(Protocol):
    """What the parts of one body are told to, in order."""

    def begin(self, headers: Mapping[str, str]) -> None:
        """A part's headers, names in lower case; of two with one name the last."""

    def content(self, data: memoryview) -> None:
        """The next bytes of that part, never none; nothing is kept of them here."""

    def end(self) -> None:
        """That part was whole."""


class _State(Enum):
    PREAMBLE = auto()
    HEADERS = auto()
    CONTENT = auto()
    EPILOGUE = auto()


class MultipartReader:
    """Push parser: `feed` what came, `close` at the end of the body. One thread.

    Parameters
    ----------
    boundary
        As the Content-Type says it.
    parts
        Told of each part; what it raises comes out of `feed`, and the reader is of no more use.
    """

    def __init__(self, boundary: str, *, parts: Parts) -> None:
        self._delimiter = b"\r\n--" + boundary.encode("ascii")
        self._parts = parts
        self._state = _State.PREAMBLE
        # The first delimiter needs no line before it.
        self._held = b"\r\n"
        # Bytes at the start of what is held that are no content: the line end behind the headers, which may also be
        # the one that begins a delimiter.
        self._skip = 2
        self._preamble = 0

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the body.

        Raises
        ------
        Malformed
            When they make no sense.
        """
        if self._held:
            data = self._held + data
            self._held = b""
        position = 0
        while position < len(data) and self._state is not _State.EPILOGUE:
            step = self._headers if self._state is _State.HEADERS else self._content
            after = step(data, position)
            if after is None:
                return
            position = after

    def close(self) -> None:
        """The body is over: Malformed when its last delimiter has not come."""
        if self._state is not _State.EPILOGUE:
            raise Malformed("the body ends before its last boundary")

    def _content(self, data: bytes, position: int) -> int | None:
        """Hand on what stands before the next delimiter; the place behind it, None when it has not come."""
        search = position
        while True:
            found = data.find(self._delimiter, search)
            if found < 0:
                kept = self._start_of_delimiter(data, position)
                self._hand_on(data, position, kept)
                self._held = data[kept:]
                return None
            behind = self._behind(data, found + len(self._delimiter))
            if behind is None:
                self._hand_on(data, position, found)
                self._held = data[found:]
                return None
            last, after = behind
            if after:
                break
            search = found + 1  # a line that only begins like a delimiter
        self._hand_on(data, position, found)
        if self._state is _State.CONTENT:
            self._parts.end()
        self._state = _State.EPILOGUE if last else _State.HEADERS
        self._skip = 0
        return after

    def _behind(self, data: bytes, position: int) -> tuple[bool, int] | None:
        """(is it the last delimiter, the place behind its line or 0 when it is none); None: more must come."""
        if data.startswith(b"--", position):
            return True, position + 2
        line = _LINE_END.match(data, position, position + _MOST_PADDING + 2)
        if line is not None:
            return False, line.end()
        rest = data[position : position + _MOST_PADDING + 2]
        undecided = rest == b"-" or (len(rest) < _MOST_PADDING + 2 and _LINE_END_BEGUN.fullmatch(rest) is not None)
        return None if undecided else (False, 0)

    def _start_of_delimiter(self, data: bytes, position: int) -> int:
        """Where a delimiter begins that the end of ``data`` cuts; its length when there is none."""
        start = data.find(b"\r", max(position, len(data) - len(self._delimiter) + 1))
        while start >= 0 and not self._delimiter.startswith(data[start:]):
            start = data.find(b"\r", start + 1)
        return start if start >= 0 else len(data)

    def _hand_on(self, data: bytes, start: int, end: int) -> None:
        skipped = min(self._skip, end - start)
        self._skip -= skipped
        start += skipped
        if end <= start:
            return
        if self._state is _State.CONTENT:
            self._parts.content(memoryview(data)[start:end])
            return
        self._preamble += end - start
        if self._preamble > _MOST_PREAMBLE:
            raise Malformed("the body does not begin with its boundary")

    def _headers(self, data: bytes, position: int) -> int | None:
        """Read a part's headers; the place of the line end behind them, None when they have not all come."""
        if data.startswith(b"\r\n", position):
            end = position
        else:
            end = data.find(b"\r\n\r\n", position, position + _MOST_HEADERS)
            if end < 0:
                if len(data) - position >= _MOST_HEADERS:
                    raise Malformed("the headers of a part are too long")
                self._held = data[position:]
                return None
            end += 2
        self._parts.begin(_fields(data[position:end]))
        self._state = _State.CONTENT
        self._skip = 2
        return end


def _fields(block: bytes) -> dict[str, str]:
    lines: list[str] = []
    for line in block.decode("latin-1").split("\r\n"):
        if line[:1] in (" ", "\t") and lines:
            lines[-1] += line
        elif line:
            lines.append(line)
    fields = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon:
            raise Malformed("a header of a part cannot be read")
        fields[name.strip().lower()] = value.strip()
    return fields


def media_type(header: str) -> tuple[str, dict[str, str]]:
    """Type and parameters of a Content-Type (RFC 9110 section 8.3.1), names and type in lower case."""
    message = Message()
    message["content-type"] = "".join(c if c.isprintable() else " " for c in header[:_MOST_TYPE])
    parameters = message.get_params() or []
    return message.get_content_type(), {name.lower(): collapse_rfc2231_value(value) for name, value in parameters[1:]}


def is_boundary(text: str) -> bool:
    """True for what RFC 2046 section 5.1.1 allows."""
    return _BOUNDARY.fullmatch(text) is not None
