"""Does the fast path work with the library that is installed? Tried at start on a connection to ourselves.

It stands on names that pynetdicom does not promise: where one is gone, or anything is answered otherwise than expected,
the plain path serves. Stores nothing.
"""

from __future__ import annotations

import logging
import socket
import struct

from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.pdu import A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import A_ASSOCIATE, ImplementationClassUIDNotification, MaximumLengthNotification
from pynetdicom.presentation import PresentationContext, build_context
from pynetdicom.transport import AddressInformation

from ichor import metrics
from ichor.store.filemeta import IMPLEMENTATION_CLASS_UID
from listener import fast_path, pdu
from listener.connection import AdmittedSocket
from listener.reception import SUCCESS, Origin, StoreCommand

_LOG = logging.getLogger(__name__)
_PATIENCE = 5.0  # seconds
_LONGEST = 16_384  # bytes of a PDU
_VERIFICATION = "1.2.840.10008.1.1"
_CLASS = "1.2.840.10008.5.1.4.1.1.7"  # Secondary Capture Image Storage
_INSTANCE, _STUDY, _SERIES = "2.25.1", "2.25.2", "2.25.3"
_RELEASE_RQ, _RELEASE_RP = b"\x05\x00\x00\x00\x00\x04" + bytes(4), b"\x06\x00\x00\x00\x00\x04" + bytes(4)


def is_fast_path_usable() -> bool:
    """Try it, once per process; the metric says what came out."""
    try:
        reason = _try()
    except Exception as error:  # noqa: BLE001 - a library of another version raises anything
        reason = type(error).__name__
    usable = not reason
    for path in ("fast", "plain"):
        metrics.RECEIVE_PATH.labels(path).set(float((path == "fast") == usable))
    if not usable:
        _LOG.warning("the plain receive path serves, which is slower: the fast one failed its trial (%s)", reason)
    return usable


class _Nowhere:
    """A reception, and its arrival, that keeps the bytes of the last object in memory, and counts nothing."""

    is_held = False  # what is fed is copied

    def __init__(self) -> None:
        self.data = b""
        self.ended = 0

    def begin(self, command: StoreCommand, origin: Origin) -> _Nowhere:  # noqa: ARG002
        self.data = b""
        return self

    def feed(self, part: memoryview) -> None:
        self.data += part

    def flush(self) -> None:
        """Nothing is held."""

    def end(self) -> int:
        self.ended += 1
        return SUCCESS

    def cut(self) -> None:
        self.data = b""


def _try() -> str:
    """One association: a C-ECHO, a C-STORE in two PDUs, both once more, a release. What was wrong; empty: nothing.

    The library accepts an association before it says so to us: it is in our hands once the first C-ECHO was answered.
    """
    nowhere = _Nowhere()
    ours, theirs = socket.socketpair()
    ours.settimeout(_PATIENCE)
    ended: list[str] = []
    association = _acceptor(theirs, nowhere, ended)
    try:
        association.start()
        ours.sendall(_request())
        if _read(ours)[:1] != b"\x02":
            return "no association"
        data_set = _data_set()
        command = _command(_CLASS, 0x0001, 7, instance=_INSTANCE)
        for _ in range(2):
            ours.sendall(pdu.pdata(3, 3, _command(_VERIFICATION, 0x0030, 8)))
            if struct.pack("<HHIH", 0, 0x0900, 2, SUCCESS) not in _read(ours):
                return "another answer to a C-ECHO"
            ours.sendall(pdu.pdata(1, 3, command) + pdu.pdata(1, 0, data_set[:50]))
            ours.sendall(pdu.pdata(1, 2, data_set[50:]))
            if _read(ours) != pdu.store_response(1, pdu.read_command(command), SUCCESS):
                return "another answer to a C-STORE"
            if nowhere.data != data_set:
                return "other bytes stored"
        ours.sendall(_RELEASE_RQ)
        if _read(ours) != _RELEASE_RP:
            return "another answer to a release"
        association.join(_PATIENCE)
        if association.is_alive() or ended != ["released"] or nowhere.ended != 2:
            return "another end"
        return ""
    finally:
        ours.close()
        association.join(_PATIENCE)


def _acceptor(connection: socket.socket, nowhere: _Nowhere, ended: list[str]) -> Association:
    ae = AE("TRIAL")
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = _PATIENCE
    association = Association(ae, "acceptor")
    association.set_socket(AdmittedSocket(association, connection, request=b"", longest=_LONGEST + 6))
    association.acceptor.maximum_length = _LONGEST
    association.acceptor.ae_title = "TRIAL"
    association.acceptor.address_info = association.requestor.address_info = AddressInformation("127.0.0.1", 0)
    association.acceptor.implementation_class_uid = ae.implementation_class_uid
    association.acceptor.supported_contexts = _contexts()
    origin = Origin(association="trial", calling_ae="TRIAL", called_ae="TRIAL")

    def accepted(event: evt.Event) -> None:
        fast_path.install(event.assoc, reception=nowhere, origin=origin, network_timeout=_PATIENCE)

    association.bind(evt.EVT_ACCEPTED, accepted)
    association.bind(evt.EVT_C_ECHO, lambda _: SUCCESS)
    association.bind(evt.EVT_C_STORE, lambda _: 0xC000)  # the plain path, which is not on trial
    association.bind(evt.EVT_RELEASED, lambda _: ended.append("released"))
    association.bind(evt.EVT_ABORTED, lambda _: ended.append("aborted"))
    association.daemon = association.dul.daemon = True
    return association


def _contexts() -> list[PresentationContext]:
    contexts = [build_context(_CLASS, [ExplicitVRLittleEndian]), build_context(_VERIFICATION, [ImplicitVRLittleEndian])]
    for number, context in enumerate(contexts):
        context.context_id = 2 * number + 1
    return contexts


def _request() -> bytes:
    primitive = A_ASSOCIATE()
    primitive.application_context_name = "1.2.840.10008.3.1.1.1"
    primitive.calling_ae_title = primitive.called_ae_title = "TRIAL"
    length, implementation = MaximumLengthNotification(), ImplementationClassUIDNotification()
    length.maximum_length_received = _LONGEST
    implementation.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    primitive.user_information = [length, implementation]
    primitive.presentation_context_definition_list = _contexts()
    request = A_ASSOCIATE_RQ()
    request.from_primitive(primitive)
    return bytes(request.encode())


def _command(sop_class: str, field: int, number: int, *, instance: str = "") -> bytes:
    elements = _element(0x0002, _padded(sop_class)) + _element(0x0100, struct.pack("<H", field))
    elements += _element(0x0110, struct.pack("<H", number)) + _element(0x0700, bytes(2))
    elements += _element(0x0800, struct.pack("<H", 0x0001 if instance else pdu.NO_DATA_SET))
    elements += _element(0x1000, _padded(instance)) if instance else b""
    return _element(0x0000, struct.pack("<I", len(elements))) + elements


def _element(element: int, value: bytes) -> bytes:
    return struct.pack("<HHI", 0, element, len(value)) + value


def _data_set() -> bytes:
    uids = ((0x0008, 0x0016, _CLASS), (0x0008, 0x0018, _INSTANCE), (0x0020, 0x000D, _STUDY), (0x0020, 0x000E, _SERIES))
    return b"".join(
        struct.pack("<HH2sH", group, element, b"UI", len(_padded(uid))) + _padded(uid) for group, element, uid in uids
    )


def _padded(uid: str) -> bytes:
    return uid.encode() + bytes(len(uid) % 2)


def _read(connection: socket.socket) -> bytes:
    """A whole PDU."""
    data = b""
    size = 6
    while len(data) < size:
        more = connection.recv(size - len(data))
        if not more:
            raise ConnectionError
        data += more
        if len(data) == 6:
            size += struct.unpack(">I", data[2:])[0]
    return data
