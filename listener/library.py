"""How pynetdicom is set up for us, and what we ask of its objects. Knows no association's state."""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
import threading
import warnings
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, _config, evt
from pynetdicom.association import Association
from pynetdicom.dul import DULServiceProvider
from pynetdicom.pdu import A_ASSOCIATE_RQ

from ichor import metrics
from ichor.config import ListenerSettings
from ichor.store.filemeta import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from listener.classes import storage_classes
from listener.commitment_request import MOST_BYTES
from listener.pdu import MOST_COMMAND_BYTES

_LOG = logging.getLogger(__name__)

# DCMTK senders cap at 131072; larger ones were measured slower.
MAXIMUM_PDU = 131_072
# Of one object on the plain path, which gathers it in memory: enhanced CTs of 1000 frames have half of it.
_MOST_OBJECT_BYTES = 1 << 30
_RELEASE_TIMEOUT = 30.0
_GOODBYE_SECONDS = 2.0
_VERIFICATION = "1.2.840.10008.1.1"
_COMMITMENT = "1.2.840.10008.1.20.1"  # Storage Commitment Push Model
_C_STORE_RQ = 0x0001


def configure_library() -> None:
    # The library's own switch for what we need: any storage class, private and unknown ones, any transfer syntax.
    _config.UNRESTRICTED_STORAGE_SERVICE = True
    # Logs and warnings of the libraries show messages and, on errors, values of senders.
    _config.LOG_HANDLER_LEVEL = "none"
    for library in ("pynetdicom", "pydicom"):
        logging.getLogger(library).setLevel(logging.CRITICAL + 1)
    warnings.filterwarnings("ignore", module="pydicom")
    # A UID that is no UID is answered with a status; the library would abort the association.
    _config.VALIDATORS["UI"] = lambda _: (True, "")
    threading.excepthook = _thread_died


def _thread_died(arguments: threading.ExceptHookArgs) -> None:
    """As Python does, but for the library's threads: what they choke on is a sender's."""
    if isinstance(arguments.thread, Association | DULServiceProvider):
        metrics.LOOP_ERRORS.labels("receive").inc()
        _LOG.error("a thread of an association died: %s", arguments.exc_type.__name__)
    else:
        threading.__excepthook__(arguments)


def is_readable(request: bytes) -> bool:
    """The library will understand this A-ASSOCIATE-RQ PDU."""
    pdu = A_ASSOCIATE_RQ()
    try:
        pdu.decode(request)
        contexts = pdu.to_primitive().presentation_context_definition_list
        return all(context.abstract_syntax and context.transfer_syntax for context in contexts)
    except Exception:  # noqa: BLE001 - it raises anything on a malformed request
        return False


def say_goodbye(connection: socket.socket, answer: bytes) -> None:
    """Send, and give the peer a moment to close first: an early close would take the answer back."""
    with contextlib.suppress(OSError):
        connection.settimeout(_GOODBYE_SECONDS)
        connection.sendall(answer)
        if not isinstance(connection, ssl.SSLSocket):
            connection.shutdown(socket.SHUT_WR)
        connection.recv(65536)


def is_too_much(message: Any) -> bool:
    """A message under way that is longer than it can need, or, a C-STORE's, than is gathered in memory."""
    if message.encoded_command_set.tell() > MOST_COMMAND_BYTES:
        return True
    command = message.command_set
    if command is None:
        return False
    most = _MOST_OBJECT_BYTES if command.get("CommandField") == _C_STORE_RQ else MOST_BYTES
    return bool(message.data_set.tell() > most)


def complete(command: Dataset) -> None:
    """Give a C-STORE-RQ without a UID one that is none: the library would leave it without an answer, ours is 0xA900."""
    if command.get("CommandField") == _C_STORE_RQ:
        for keyword in ("AffectedSOPClassUID", "AffectedSOPInstanceUID"):
            if not command.get(keyword):
                setattr(command, keyword, "0")


def application_entity(settings: ListenerSettings) -> AE:
    ae = AE(ae_title=settings.ae_title)
    ae.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    ae.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    ae.maximum_pdu_size = MAXIMUM_PDU
    ae.maximum_associations = 1_000_000  # Admission counts
    ae.acse_timeout = _RELEASE_TIMEOUT
    ae.dimse_timeout = settings.network_timeout
    ae.network_timeout = settings.idle_timeout
    ae.add_supported_context(_VERIFICATION)
    ae.add_supported_context(_COMMITMENT, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
    # Storage classes that the library counts to other services (Media Storage Directory, Hanging Protocol, ...).
    mine = {str(context.abstract_syntax) for context in AllStoragePresentationContexts}
    for uid in storage_classes():
        if uid not in mine:
            ae.add_supported_context(uid, ALL_TRANSFER_SYNTAXES)
    return ae


def socket_of(association: Association) -> socket.socket | None:
    wrapper = association.dul.socket
    return wrapper.socket if wrapper is not None else None


def acknowledge_quickly(event: evt.Event) -> None:
    """Re-arm TCP_QUICKACK, which does not stick: a sender with Nagle's algorithm waits for this ACK, 40 ms each time."""
    raw = socket_of(event.assoc)
    if raw is not None and hasattr(socket, "TCP_QUICKACK"):
        with contextlib.suppress(OSError):  # closed meanwhile
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
