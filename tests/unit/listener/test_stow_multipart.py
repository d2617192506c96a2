"""A multipart body in any pieces: the parts that it says, or that it is none; never more kept than a delimiter."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from listener.multipart import Malformed, MultipartReader, is_boundary, media_type


class Kept:
    """Parts as they were told; checks that they were told in order."""

    def __init__(self) -> None:
        self.parts: list[tuple[dict[str, str], bytes]] = []
        self.largest = 0
        self._open: tuple[dict[str, str], list[bytes]] | None = None

    def begin(self, headers: Mapping[str, str]) -> None:
        assert self._open is None
        self._open = (dict(headers), [])

    def content(self, data: memoryview) -> None:
        assert self._open is not None
        assert len(data) > 0
        self.largest = max(self.largest, len(data))
        self._open[1].append(bytes(data))

    def end(self) -> None:
        assert self._open is not None
        headers, pieces = self._open
        self._open = None
        self.parts.append((headers, b"".join(pieces)))


def read(body: bytes, cuts: Sequence[int] = (), *, boundary: str = "b") -> list[tuple[dict[str, str], bytes]]:
    kept = Kept()
    reader = MultipartReader(boundary, parts=kept)
    edges = [0, *sorted(cut for cut in cuts if 0 < cut < len(body)), len(body)]
    for start, end in itertools.pairwise(edges):
        reader.feed(body[start:end])
    reader.close()
    return kept.parts


def body_of(contents: Sequence[bytes], *, boundary: str = "b", padding: str = "") -> bytes:
    mark = f"--{boundary}".encode()
    parts = b"".join(
        mark + padding.encode() + b"\r\nContent-Type: application/dicom\r\n\r\n" + content + b"\r\n"
        for content in contents
    )
    return parts + mark + b"--\r\n"


# Content that is full of what a delimiter is made of.
TRICKY = st.lists(
    st.sampled_from([b"\r", b"\n", b"\r\n", b"--", b"-", b"b", b"\r\n--", b"\r\n-", b" ", b"\0", b"x" * 50]),
    max_size=12,
).map(b"".join)


def is_plain(content: bytes) -> bool:
    """The content holds no delimiter of its own, also not with the line end before or behind it."""
    return b"\r\n--b" not in b"\r\n" + content + b"\r\n"


@given(st.lists(TRICKY.filter(is_plain), min_size=1, max_size=4), st.lists(st.integers(1, 400), max_size=20))
def test_any_pieces_give_the_parts_that_were_sent(contents: list[bytes], cuts: list[int]) -> None:
    body = body_of(contents)
    parts = read(body, cuts)
    assert [content for _, content in parts] == contents
    assert all(headers == {"content-type": "application/dicom"} for headers, _ in parts)


@given(
    st.lists(st.one_of(TRICKY, st.sampled_from([b"--b", b"--b--", b"--b\r\n", b"a: b\r\n\r\n"])), max_size=8).map(
        b"".join
    )
)
@example(b"--b\r\n\r\n--b--")
@example(b"--b\r\n\r\n--b \t\r\n\r\nx\r\n--bb\r\n--b-\r\n--b--")
def test_whatever_comes_byte_by_byte_and_at_once_are_judged_alike(body: bytes) -> None:
    def judged(cuts: Sequence[int]) -> object:
        try:
            return read(body, cuts)
        except Malformed as error:
            return str(error)

    assert judged(range(len(body))) == judged(())


@pytest.mark.parametrize(
    ("body", "contents"),
    [
        (b"--b\r\n\r\n\r\n--b--", [b""]),  # an empty part
        (b"--b\r\n\r\n--b--", [b""]),  # whose line end is the delimiter's
        (b"\r\n--b\r\n\r\nx\r\n--b--", [b"x"]),
        (b"to be ignored\r\n--b\r\n\r\nx\r\n--b--\r\nand this", [b"x"]),
        (b"--b  \t\r\n\r\nx\r\n--b--", [b"x"]),  # transport padding
        (b"--b\r\n\r\nx\r\n--bb\r\ny\r\n--b--", [b"x\r\n--bb\r\ny"]),  # a line that begins like a delimiter
        (b"--b\r\n\r\nx--b\r\n--b--", [b"x--b"]),
        (b"--b--", []),
        (b"--b\r\n\r\n1\r\n--b\r\nA: 1\r\nB:2\r\n  3\r\n\r\n2\r\n--b--", [b"1", b"2"]),
    ],
)
def test_bodies_that_rfc_2046_allows(body: bytes, contents: list[bytes]) -> None:
    assert [content for _, content in read(body)] == contents


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "ends before its last boundary"),
        (b"--b\r\n\r\nx", "ends before its last boundary"),
        (b"--b\r\n\r\nx\r\n--b\r\n", "ends before its last boundary"),
        (b"--c\r\n\r\nx\r\n--c--", "ends before its last boundary"),
        (b"x" * 5000, "does not begin with its boundary"),
        (b"--b\r\n" + b"A: b\r\n" * 5000, "headers of a part are too long"),
        (b"--b\r\nno colon\r\n\r\nx\r\n--b--", "header of a part cannot be read"),
    ],
)
def test_what_is_no_multipart_is_said_to_be_none(body: bytes, reason: str) -> None:
    with pytest.raises(Malformed, match=reason):
        read(body)


def test_content_is_handed_on_at_once_and_not_gathered() -> None:
    kept = Kept()
    reader = MultipartReader("b", parts=kept)
    reader.feed(b"--b\r\n\r\n")
    for _ in range(100):
        reader.feed(bytes(1000))
        assert len(reader._held) == 0
    reader.feed(b"\r\n--b")
    assert len(reader._held) == 5
    reader.feed(b"--")
    reader.close()
    assert kept.parts == [({}, bytes(100_000))]
    assert kept.largest == 1000


@pytest.mark.parametrize(
    ("header", "kind", "boundary"),
    [
        ('multipart/related; type="application/dicom"; boundary=abc', "multipart/related", "abc"),
        ('Multipart/Related;BOUNDARY="a b=c";type=application/dicom', "multipart/related", "a b=c"),
        ("nonsense", "text/plain", None),
        ("", "text/plain", None),
        ("multipart/related; boundary=x\r\nSet-Cookie: y", "multipart/related", "x  Set-Cookie: y"),
    ],
)
def test_media_types_are_taken_apart(header: str, kind: str, boundary: str | None) -> None:
    said, parameters = media_type(header)
    assert (said, parameters.get("boundary")) == (kind, boundary)


@given(st.text(max_size=200))
def test_any_content_type_can_be_looked_at(header: str) -> None:
    kind, _ = media_type(header)
    assert kind.count("/") == 1


@pytest.mark.parametrize(
    ("text", "valid"), [("b", True), ("x" * 70, True), ("x" * 71, False), ("", False), ("a ", False), ("a\r\n", False)]
)
def test_boundaries_are_of_the_characters_and_length_of_rfc_2046(text: str, valid: bool) -> None:
    assert is_boundary(text) is valid
