"""The data set of a request for storage commitment, whole, cut, odd and hostile."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from unit.listener.commitment_data import CT, encoded, request

from listener import commitment_request
from listener.commitment_request import MOST_BYTES, MOST_OBJECTS, Asked, Malformed, TooLarge, read_request


@pytest.mark.parametrize("implicit", [False, True])
@pytest.mark.parametrize("undefined", [False, True])
def test_a_request_is_read_in_either_encoding_with_and_without_lengths(implicit: bool, undefined: bool) -> None:
    data = request("1.2.3.1", "1.2.3.2", "1.2.3.1")
    data.RetrieveAETitle = "ELSEWHERE"
    nested = Dataset()
    nested.ReferencedSOPInstanceUID = "9.9.9"  # of an item within an item: not the item's
    inner = Dataset()
    inner.add_new(0x00091010, "UN", b"secret")
    inner.TransactionUID = "9.9"
    nested.ReferencedSeriesSequence = [inner]
    data.ReferencedSOPSequence[0].ReferencedSOPSequence = [nested]
    data.ReferencedStudySequence = [nested]
    for sequence in (data["ReferencedSOPSequence"], data["ReferencedStudySequence"]):
        sequence.is_undefined_length = undefined
        for item in sequence.value:
            item.is_undefined_length_sequence_item = undefined
    assert read_request(encoded(data, implicit=implicit)) == Asked("1.2.9", ((CT, "1.2.3.1"), (CT, "1.2.3.2")))


@pytest.mark.parametrize(
    ("uids", "changes"),
    [
        ([], {}),
        (["../../etc"], {}),
        (["1.2.3.1", ""], {}),
        (["1." + "2" * 64], {}),
        (["1.2.3.1"], {"transaction": "not a UID"}),
        (["1.2.3.1"], {"transaction": ""}),
        (["1.2.3.1"], {"sop_class": ""}),
    ],
)
@pytest.mark.filterwarnings("ignore:Invalid value for VR UI", "ignore:The value length")
def test_what_lacks_a_valid_uid_is_malformed(uids: list[str], changes: dict[str, str]) -> None:
    with pytest.raises(Malformed) as caught:
        read_request(encoded(request(*uids, **changes)))
    assert "etc" not in str(caught.value)


def test_no_cut_of_a_request_is_one() -> None:
    whole = encoded(request("1.2.3.4.1", "1.2.3.4.2"))
    for length in range(len(whole)):
        with pytest.raises(Malformed):
            read_request(whole[:length])


def test_as_many_objects_as_are_allowed_are_read_and_one_more_is_too_large() -> None:
    one = encoded(request("1.2.3.10000"))
    start = one.index(b"\xfe\xff\x00\xe0")
    item = one[start:]
    sequence = b"\x08\x00\x99\x11SQ\0\0\xff\xff\xff\xff"
    head = one[: one.index(b"\x08\x00\x99\x11")]
    items = [item.replace(b"1.2.3.10000", f"1.2.3.{10000 + n}".encode()) for n in range(MOST_OBJECTS + 1)]
    end = b"\xfe\xff\xdd\xe0\0\0\0\0"
    assert len(read_request(head + sequence + b"".join(items[:-1]) + end).referenced) == MOST_OBJECTS
    with pytest.raises(TooLarge):
        read_request(head + sequence + b"".join(items) + end)
    # The same object again and again is one.
    assert len(read_request(head + sequence + item * (MOST_OBJECTS + 1) + end).referenced) == 1


@pytest.mark.parametrize(
    "data",
    [
        bytes(MOST_BYTES + 1),
        b"\x08\x00\x98\x11\0\0\0\0" * (MOST_BYTES // 8),  # elements without end
        b"\x08\x00\x40\x11\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\0\0\0\0" * (MOST_BYTES // 8 - 1),  # items without end
    ],
)
def test_what_would_take_memory_or_time_is_too_large(data: bytes) -> None:
    with pytest.raises(TooLarge):
        read_request(data)


def test_sequences_within_sequences_end_at_a_depth() -> None:
    deep = b"\x08\x00\x40\x11\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    with pytest.raises(Malformed, match="too deep"):
        read_request(deep * 10_000)


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_a_damaged_request_is_refused_or_names_valid_uids(data: st.DataObject) -> None:
    whole = bytearray(encoded(request("1.2.3.4.1", "1.2.3.4.2"), implicit=data.draw(st.booleans())))
    for _ in range(data.draw(st.integers(1, 6))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        asked = read_request(bytes(whole))
    except (Malformed, TooLarge):
        return
    named = [asked.transaction_uid, *(uid for pair in asked.referenced for uid in pair)]
    assert all(commitment_request.is_valid_uid(uid) for uid in named)
