"""Valid messages of every kind, made in code, with marks. No case draws from anything else."""

from __future__ import annotations

import io
import struct
import zlib
from functools import cache
from typing import NamedTuple

from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian
from unit.listener.commitment_data import encoded
from unit.listener.commitment_data import request as commitment_request
from unit.listener.modality import BIG_ENDIAN, CT, EXPLICIT, IMPLICIT, encode, image
from unit.listener.requests import identity, item, request

from ichor.store.filemeta import file_meta
from phantoms.series import FORMS, Encoding, scenes
from phantoms.series.files import write_object

from .marks import Mark, Message, joined, message, of_associate, of_data_set, of_part10, p_data, pdv

MR = "1.2.840.10008.5.1.4.1.1.4"
DEFLATED = "1.2.840.10008.1.2.1.99"
ECHO = "1.2.840.10008.1.1"
CONTEXTS = {1: EXPLICIT, 3: IMPLICIT, 5: BIG_ENDIAN, 7: DEFLATED}  # presentation context -> transfer syntax


class DataSet(NamedTuple):
    """A data set, the UID of its instance and its transfer syntax."""

    message: Message
    sop_instance: str
    syntax: str


def deflated(data: bytes) -> bytes:
    squeeze = zlib.compressobj(1, wbits=-zlib.MAX_WBITS)
    return squeeze.compress(data) + squeeze.flush()


@cache
def data_sets() -> tuple[DataSet, ...]:
    """Small objects in every encoding."""
    found = []
    for number, syntax in enumerate((EXPLICIT, EXPLICIT, IMPLICIT, BIG_ENDIAN, EXPLICIT, IMPLICIT)):
        sop = f"1.2.3.4.{number}"
        made = image(sop, pixels=bytes(40), PatientComments="x" * 300 if number % 2 else "")
        if number >= 4:
            made["ReferencedStudySequence"].is_undefined_length = True
            for one in made.ReferencedStudySequence:
                one.is_undefined_length_sequence_item = True
        data = encode(made, syntax)
        marked = of_data_set(data, implicit=syntax == IMPLICIT, big=syntax == BIG_ENDIAN)
        found.append(DataSet(marked, sop, syntax))
    sop = "1.2.3.4.9"
    found.append(DataSet(message(deflated(encode(image(sop))), ()), sop, DEFLATED))
    return tuple(found)


@cache
def associate_requests() -> tuple[Message, ...]:
    many = b"".join(
        item(
            0x20,
            bytes((2 * n + 3, 0, 0, 0)) + item(0x30, CT.encode()) + b"".join(item(0x40, s.encode()) for s in CONTEXTS.values()),
        )
        for n in range(40)
    )  # fmt: skip
    roles = item(0x54, struct.pack(">H", len(CT)) + CT.encode() + b"\x01\x01")
    extended = item(0x56, struct.pack(">H", len(CT)) + CT.encode() + b"\x02\0\0\0\0\0")
    common = item(
        0x57, struct.pack(">H", len(CT)) + CT.encode() + struct.pack(">H", 7) + b"1.2.840" + struct.pack(">H", 0)
    )
    made = (
        request(),
        request(user=identity(2, b"SECRET-NAME", b"SECRET-CODE", wants_answer=True), called=b"STAT"),
        request(user=item(0x53, struct.pack(">HH", 1, 1)) + roles + extended + common + item(0x55, b"NAME")),
        request(more=many),
        request(called=b"OTHER"),
    )
    return tuple(map(of_associate, made))


def element(number: int, value: bytes) -> Message:
    head = struct.pack("<HHI", 0, number, len(value))
    return joined(message(head, [Mark("tag", 0, 4, "<"), Mark("length", 4, 4, "<")]), value)


def number(element_: int, value: int) -> Message:
    made = element(element_, struct.pack("<H", value))
    return message(made.data, [*made.marks, Mark("code", 8, 2, "<")])


def padded(uid: str) -> bytes:
    return uid.encode() + bytes(len(uid) % 2)


def command(
    field: int, *, sop_class: str = CT, sop_instance: str = "", message_id: int = 7, has_data_set: bool = True,
    priority: int = 0,
) -> Message:  # fmt: skip
    elements = [element(0x0002, padded(sop_class)), number(0x0100, field), number(0x0110, message_id)]
    elements += [number(0x0700, priority), number(0x0800, 0x0001 if has_data_set else 0x0101)]
    if sop_instance:
        elements.append(element(0x1000, padded(sop_instance)))
    body = joined(*elements)
    return joined(element(0, struct.pack("<I", len(body.data))), body)


@cache
def commands() -> tuple[Message, ...]:
    return (
        command(1, sop_instance="1.2.3.4.0"),
        command(1, sop_instance="1.2.3.4." + "1" * 56, priority=1),
        command(0x30, sop_class=ECHO, has_data_set=False),
        command(0x20),
        command(0x0FFF, has_data_set=False),
        command(0x8001, has_data_set=False),
        command(0x130, sop_class="1.2.840.10008.1.20.1", sop_instance="1.2.840.10008.1.20.1.1"),
    )


def store(one: DataSet, *, context: int, message_id: int, pieces: int = 1) -> Message:
    """C-STORE-RQ and data set, in one PDU or several."""
    asked = pdv(context, 3, command(1, sop_instance=one.sop_instance, message_id=message_id))
    data = one.message
    if pieces == 1:
        return joined(p_data(asked), p_data(pdv(context, 2, data)))
    size = len(data.data) // pieces + 1
    parts = [data.data[at : at + size] for at in range(0, len(data.data), size)]
    values = [pdv(context, 2 if part is parts[-1] else 0, part) for part in parts]
    return p_data(asked, *values) if pieces % 2 else joined(p_data(asked), *(p_data(value) for value in values))


RELEASE = message(b"\x05\0\0\0\0\x04\0\0\0\0", [Mark("code", 0, 1, ">"), Mark("length", 2, 4, ">")])
ABORT = message(b"\x07\0\0\0\0\x04\0\0\0\0", [Mark("code", 0, 1, ">"), Mark("length", 2, 4, ">")])
ECHO_REQUEST = p_data(pdv(1, 3, command(0x30, sop_class=ECHO, has_data_set=False)))


@cache
def turns() -> tuple[Message, ...]:
    """What a conversation is made of."""
    by_syntax = {syntax: context for context, syntax in CONTEXTS.items()}
    stores = [
        store(one, context=by_syntax[one.syntax], message_id=n + 1, pieces=pieces)
        for n, one in enumerate(data_sets())
        for pieces in (1, 2, 3)
    ]
    split = command(1, sop_instance="1.2.3.4.0").data
    in_two = joined(p_data(pdv(1, 1, split[:30]), pdv(1, 3, split[30:])), p_data(pdv(1, 2, data_sets()[0].message)))
    foreign = joined(
        p_data(pdv(1, 3, commands()[6])), p_data(pdv(1, 2, commitment_requests()[0]))
    )  # a data set of a message that is the library's
    return (*stores, in_two, foreign, ECHO_REQUEST)


@cache
def commitment_requests() -> tuple[Message, ...]:
    few, many = commitment_request("1.2.3.4.0", "1.2.3.4.1"), commitment_request(*(f"1.2.3.{n}" for n in range(60)))
    made = [
        of_data_set(encoded(one, implicit=implicit), implicit=implicit)
        for one in (few, many)
        for implicit in (False, True)
    ]
    few["ReferencedSOPSequence"].is_undefined_length = True
    for one in few.ReferencedSOPSequence:
        one.is_undefined_length_sequence_item = True
    return (*made, of_data_set(encoded(few)))


BOUNDARY = "b0undary"


@cache
def bodies() -> tuple[Message, ...]:
    """Multipart bodies of one to three DICOM files."""
    parts = []
    for one in data_sets():
        head = file_meta(sop_class_uid=CT, sop_instance_uid=one.sop_instance, transfer_syntax_uid=one.syntax)
        start = head.index(b"DICM") + 4
        file = joined(head[:start], of_data_set(head[start:]), one.message)
        parts.append(joined(f"--{BOUNDARY}\r\n".encode(), b"Content-Type: application/dicom\r\n\r\n", file, b"\r\n"))
    end = f"--{BOUNDARY}--".encode()
    bare = joined(b"preamble\r\n", parts[0], f"--{BOUNDARY} \t\r\n\r\n".encode(), b"no file\r\n", end)
    return tuple(
        message(m.data, [*m.marks, *(Mark("code", at, 1, ">") for at in _all(m.data, b"--b0"))])
        for m in (*(joined(part, end) for part in parts), joined(*parts[:3], end), bare)
    )


def _all(data: bytes, text: bytes) -> list[int]:
    found, at = [], data.find(text)
    while at >= 0:
        found.append(at)
        at = data.find(text, at + 1)
    return found


@cache
def stow_requests() -> tuple[Message, ...]:
    made = []
    for body in bodies():
        head = (
            "POST /dicom-web/studies HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/related; "
            f'type="application/dicom"; boundary={BOUNDARY}\r\n'
        ).encode()
        made.append(joined(head, f"Content-Length: {len(body.data)}\r\n\r\n".encode(), body))
        half = len(body.data) // 2
        made.append(
            joined(
                head, b"Transfer-Encoding: chunked\r\n\r\n", f"{half:x}\r\n".encode(), body.data[:half], b"\r\n",
                f"{len(body.data) - half:x}\r\n".encode(), body.data[half:], b"\r\n0\r\n\r\n",
            )
        )  # fmt: skip
    return tuple(message(m.data, [*m.marks, *(Mark("code", at, 1, ">") for at in _all(m.data, b"\r\n"))]) for m in made)


class StoredFile(NamedTuple):
    message: Message
    syntax: str
    sop_class: str


@cache
def files() -> tuple[StoredFile, ...]:
    """Part 10 files of scanners' dialects in every encoding, and of the small objects."""
    encodings = (
        Encoding(), Encoding(undefined_lengths=True), Encoding(transfer_syntax=ImplicitVRLittleEndian),
        Encoding(transfer_syntax=ExplicitVRBigEndian),
    )  # fmt: skip
    found = []
    forms = ("classic-siemens", "classic-ge", "mosaic-siemens", "tiled-uih", "enhanced-philips", "enhanced-siemens")
    for form in forms:
        scan = scenes.plain() if form.startswith("enhanced") else scenes.diffusion(b_values=(0.0, 1000.0))
        made = FORMS[form].data_sets(scan, name=form)[-1]
        made.PatientName, made.PatientID = "Secret^Name", "SECRET-ID"
        for how in encodings:
            sink = io.BytesIO()
            write_object(made, sink, encoding=how)  # type: ignore[arg-type]
            implicit, big = how.transfer_syntax == ImplicitVRLittleEndian, how.transfer_syntax == ExplicitVRBigEndian
            marked = of_part10(sink.getvalue(), implicit=implicit, big=big)
            found.append(StoredFile(marked, str(how.transfer_syntax), str(made.SOPClassUID)))
    for one in data_sets():
        head = file_meta(sop_class_uid=CT, sop_instance_uid=one.sop_instance, transfer_syntax_uid=one.syntax)
        found.append(StoredFile(joined(head, one.message), one.syntax, CT))
    return tuple(found)
