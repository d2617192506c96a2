"""A modality that speaks DICOM by hand, and the data sets it sends. Not pynetdicom: the receiver's test oracle."""

from __future__ import annotations

import socket
import struct
import warnings
from collections.abc import Sequence
from typing import Any

from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset

CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
IMPLICIT = "1.2.840.10008.1.2"
BIG_ENDIAN = "1.2.840.10008.1.2.2"


class Rejected(Exception):
    """A-ASSOCIATE-RJ: (result, source, reason)."""


class Scu:
    """A service class user of a few dozen lines: sends exactly the bytes it is given, also wrong ones."""

    def __init__(
        self, port: int, *, called: str = "ICHOR", calling: str = "CT1",
        contexts: Sequence[tuple[str, Sequence[str]]] = ((CT, (EXPLICIT,)),), longest: int = 16384,
    ) -> None:  # fmt: skip
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        items = self._item(0x10, b"1.2.840.10008.3.1.1.1")
        for number, (abstract, syntaxes) in enumerate(contexts):
            body = struct.pack(">BBBB", 2 * number + 1, 0, 0, 0) + self._item(0x30, abstract.encode())
            body += b"".join(self._item(0x40, syntax.encode()) for syntax in syntaxes)
            items += self._item(0x20, body)
        items += self._item(0x50, self._item(0x51, struct.pack(">I", longest)) + self._item(0x52, b"1.2.3.4.5"))
        head = struct.pack(">HH16s16s32x", 1, 0, called.ljust(16).encode(), calling.ljust(16).encode())
        self.pdu(1, head + items)
        kind, body = self.read()
        if kind == 3:
            raise Rejected(tuple(body[1:4]))
        assert kind == 2, kind
        self.accepted: dict[int, str] = {}  # context id -> transfer syntax
        self.results: dict[int, int] = {}
        position = 68
        while position + 4 <= len(body):
            item, length = body[position], struct.unpack_from(">H", body, position + 2)[0]
            if item == 0x21:
                number, result = body[position + 4], body[position + 6]
                self.results[number] = result
                if result == 0:
                    self.accepted[number] = body[position + 12 : position + 4 + length].decode()
            position += 4 + length

    def store(
        self, data_set: bytes, *, sop_class: str | None = CT, sop_instance: str | None, context: int = 1,
        priority: int = 2, pdv: int = 16_000,
    ) -> int:  # fmt: skip
        """C-STORE; the status answered."""
        self.send_store(
            data_set, sop_class=sop_class, sop_instance=sop_instance, context=context, priority=priority, pdv=pdv
        )
        return self.status()

    def send_store(
        self, data_set: bytes, *, sop_class: str | None, sop_instance: str | None, context: int = 1,
        priority: int = 2, pdv: int = 16_000,
    ) -> None:  # fmt: skip
        self._store_command(context, sop_class, sop_instance, priority)
        for start in range(0, max(len(data_set), 1), pdv):
            part = data_set[start : start + pdv]
            self._pdv(context, 2 if start + pdv >= len(data_set) else 0, part)

    def send_part_of_store(self, data_set: bytes, length: int, *, sop_instance: str, pdv: int = 16_000) -> None:
        """The command and the first bytes of the data set, without its end."""
        self._store_command(1, CT, sop_instance, 2)
        for start in range(0, length, pdv):
            self._pdv(1, 0, data_set[start : min(start + pdv, length)])

    def _store_command(self, context: int, sop_class: str | None, sop_instance: str | None, priority: int) -> None:
        elements = self._us(0x0100, 1) + self._us(0x0110, 7) + self._us(0x0700, priority) + self._us(0x0800, 1)
        if sop_class is not None:
            elements = self._ui(0x0002, sop_class) + elements
        if sop_instance is not None:
            elements += self._ui(0x1000, sop_instance)
        self._pdv(context, 3, struct.pack("<HHII", 0, 0, 4, len(elements)) + elements)

    def echo(self, context: int) -> int:
        elements = self._ui(0x0002, "1.2.840.10008.1.1") + self._us(0x0100, 0x30) + self._us(0x0110, 1)
        elements += self._us(0x0800, 0x0101)
        self._pdv(context, 3, struct.pack("<HHII", 0, 0, 4, len(elements)) + elements)
        return self.status()

    def status(self) -> int:
        kind, body = self.read()
        assert kind == 4, f"PDU type {kind} where a response should be"
        command, position = body[6:], 0
        while position < len(command):
            _, element, length = struct.unpack_from("<HHI", command, position)
            if element == 0x0900:
                return int(struct.unpack_from("<H", command, position + 8)[0])
            position += 8 + length
        raise AssertionError("a response without a status")

    def release(self) -> None:
        self.pdu(5, bytes(4))
        kind, _ = self.read()
        assert kind == 6
        self.socket.close()

    def abort(self) -> None:
        self.pdu(7, bytes(4))
        self.socket.close()

    def pdu(self, kind: int, body: bytes) -> None:
        self.socket.sendall(struct.pack(">BBI", kind, 0, len(body)) + body)

    def read(self) -> tuple[int, bytes]:
        kind, _, length = struct.unpack(">BBI", self._exactly(6))
        return kind, self._exactly(length)

    def _exactly(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            more = self.socket.recv(length - len(data))
            if not more:
                raise ConnectionError("closed")
            data += more
        return data

    def _pdv(self, context: int, control: int, data: bytes) -> None:
        self.pdu(4, struct.pack(">IBB", len(data) + 2, context, control) + data)

    @staticmethod
    def _item(kind: int, body: bytes) -> bytes:
        return struct.pack(">BBH", kind, 0, len(body)) + body

    @staticmethod
    def _us(element: int, value: int) -> bytes:
        return struct.pack("<HHIH", 0, element, 2, value)

    @staticmethod
    def _ui(element: int, value: str) -> bytes:
        encoded = value.encode() + b"\0" * (len(value) % 2)
        return struct.pack("<HHI", 0, element, len(encoded)) + encoded


def encode(dataset: Dataset, syntax: str = EXPLICIT) -> bytes:
    """The data set's bytes, without preamble and file meta."""
    out = DicomBytesIO()
    out.is_implicit_VR, out.is_little_endian = syntax == IMPLICIT, syntax != BIG_ENDIAN
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # UIDs that are none are meant
        write_dataset(out, dataset)
    return out.getvalue()


def image(
    sop: str = "1.2.3.4.1", *, study: str | None = "1.2.3", series: str | None = "1.2.3.4", sop_class: str = CT,
    pixels: bytes | None = bytes(range(200)) * 4, **more: Any,
) -> Dataset:  # fmt: skip
    """A small CT image with a sequence before its Study Instance UID; not measurable, but a data set."""
    warnings.filterwarnings("ignore", message="Invalid value for VR UI")
    dataset = Dataset()
    dataset.SOPClassUID = sop_class
    dataset.SOPInstanceUID = sop
    dataset.Modality = "CT"
    reference = Dataset()
    reference.StudyInstanceUID = "9.9.9"  # an item's UIDs are not the object's
    reference.ReferencedSOPInstanceUID = "9.9.9.9"
    dataset.ReferencedStudySequence = [reference, reference]
    dataset.PatientName = "Secret^Name"
    dataset.PatientID = "SECRET-ID"
    if study is not None:
        dataset.StudyInstanceUID = study
    if series is not None:
        dataset.SeriesInstanceUID = series
    if pixels is not None:
        dataset.Rows, dataset.Columns, dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 20, 20, 16, 16, 15
        dataset.PixelRepresentation, dataset.SamplesPerPixel = 1, 1
        dataset.PhotometricInterpretation = "MONOCHROME2"
        dataset.add_new(0x7FE00010, "OW", pixels)
    for keyword, value in more.items():
        setattr(dataset, keyword, value)
    return dataset
