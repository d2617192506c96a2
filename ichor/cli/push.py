"""`ichor push`: a storage SCU for folders. Sends the encoded bytes as they lie in the files, never encodes anew."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydicom import dcmread
from pydicom.filereader import read_file_meta_info
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian, MediaStorageDirectoryStorage
from pynetdicom import AE, _config, evt
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext, build_context

from ichor.checkpoint import hold_while_sending
from ichor.errors import ConfigError
from ichor.store.filemeta import file_meta
from ichor.uids import is_valid_uid

# PS3.8 section 9.3.2.2: ids are the odd numbers up to 255.
_MOST_CONTEXTS = 128
_TOLD = 3  # files named for each cause of failure
_CONNECT_SECONDS = 10.0
_ANSWER_SECONDS = 60.0
_MAXIMUM_PDU = 131072

_Context = tuple[str, str]  # SOP class, transfer syntax


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is called."""

    ae_title: str
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Failure:
    """One object that the peer did not take, and why."""

    path: Path
    reason: str


@dataclass(slots=True)
class Pushed:
    """What came of it."""

    sent: int = 0
    warned: int = 0  # of these, answered with a warning
    directories: int = 0
    not_dicom: int = 0
    failures: list[Failure] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Object:
    path: Path
    context: _Context
    bare: str | None = None  # SOP Instance UID of a data set without File Meta Information


def push(folder: Path, *, to: str, calling_ae: str = "ICHOR-PUSH") -> int:
    """Send everything below ``folder`` and print what came of it; 0 when all was taken, else 1.

    Raises
    ------
    ConfigError
        When ``to`` is not ``AET@HOST:PORT``, or there is no such folder.
    """
    peer = parse_peer(to)
    if not folder.exists():
        raise ConfigError(f"{folder}: no such folder")
    started = time.monotonic()
    unread: list[Failure] = []
    result = push_files(_files_below(folder, unread), to=to, calling_ae=calling_ae)
    seconds = time.monotonic() - started
    for reason, paths in _by_reason([*unread, *result.failures]).items():
        for path in paths[:_TOLD]:
            print(f"failed: {path}: {reason}", file=sys.stderr)
        if len(paths) > _TOLD:
            print(f"failed: {len(paths) - _TOLD} more: {reason}", file=sys.stderr)
    total = result.sent + len(result.failures)
    print(f"sent {result.sent} of {total} objects to {peer.ae_title}@{peer.host}:{peer.port} in {seconds:.1f} s")
    if result.warned:
        print(f"{result.warned} of them were answered with a warning")
    if result.directories or result.not_dicom:
        print(f"skipped: {result.directories} DICOMDIR, {result.not_dicom} not DICOM")
    if not total and not unread:
        print(f"ichor push: no DICOM object below {folder}", file=sys.stderr)
    return 0 if total and not (unread or result.failures) else 1


def _by_reason(failures: Iterable[Failure]) -> dict[str, list[Path]]:
    told: dict[str, list[Path]] = {}
    for failure in failures:
        told.setdefault(failure.reason, []).append(failure.path)
    return told


def push_files(paths: Iterable[Path], *, to: str, calling_ae: str) -> Pushed:
    """Send files in their order, over as few associations as 128 presentation contexts each allow.

    Raises
    ------
    ConfigError
        When ``to`` is not ``AET@HOST:PORT``.
    """
    peer = parse_peer(to)
    result = Pushed()
    objects = list(_recognised(paths, result))
    for contexts in _portions(list(dict.fromkeys(item.context for item in objects))):
        _send([item for item in objects if item.context in contexts], contexts, peer, calling_ae, result)
    return result


def parse_peer(text: str) -> Peer:
    """``AET@HOST:PORT``; an IPv6 address in brackets.

    Raises
    ------
    ConfigError
        For anything else.
    """
    ae_title, at, address = text.rpartition("@")
    host, colon, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    title_fits = 1 <= len(ae_title.strip()) <= 16 and ae_title.isascii() and ae_title.isprintable()
    port_fits = port.isascii() and port.isdigit() and 1 <= int(port) <= 65535
    if not (at and colon and host and title_fits and "\\" not in ae_title and port_fits):
        raise ConfigError(f"--to {text}: AET@HOST:PORT, such as ICHOR@127.0.0.1:11112")
    return Peer(ae_title.strip(), host, int(port))


def _files_below(folder: Path, unread: list[Failure]) -> Iterator[Path]:
    """Files in their order; to ``unread`` come the folders that cannot be read."""
    if folder.is_file():
        yield folder
        return

    def fail(error: OSError) -> None:
        unread.append(Failure(Path(error.filename), f"this folder cannot be read: {error.strerror}"))

    for parent, folders, names in os.walk(folder, onerror=fail):
        folders.sort()
        yield from (Path(parent) / name for name in sorted(names))


def _recognised(paths: Iterable[Path], result: Pushed) -> Iterator[_Object]:
    for path in paths:
        try:
            with path.open("rb") as file:
                head = file.read(132)
        except OSError as error:
            result.failures.append(Failure(path, error.strerror or "cannot be read"))
            continue
        found = _with_meta(path) if head[128:] == b"DICM" else _bare(path, head)
        if found is None:
            result.not_dicom += 1
        elif isinstance(found, Failure):
            result.failures.append(found)
        elif found.context[0] == MediaStorageDirectoryStorage:
            result.directories += 1
        else:
            yield found


def _with_meta(path: Path) -> _Object | Failure:
    try:
        meta = read_file_meta_info(path)
        uids = [str(meta.get(k, "")) for k in ("MediaStorageSOPClassUID", "TransferSyntaxUID")]
        uids.append(str(meta.get("MediaStorageSOPInstanceUID", "")))
    except Exception as error:  # noqa: BLE001 - pydicom raises anything on damaged files; this one file failed
        return Failure(path, f"File Meta Information cannot be read ({type(error).__name__})")
    if uids[0] != MediaStorageDirectoryStorage and not all(is_valid_uid(uid) for uid in uids):
        return Failure(path, "File Meta Information lacks SOP class, SOP instance or transfer syntax")
    return _Object(path, (uids[0], uids[1]))


def _bare(path: Path, head: bytes) -> _Object | None:
    """A data set stored without preamble and File Meta Information, as old archives have them."""
    if head[:2] != b"\x08\x00":
        return None
    try:
        data_set = dcmread(path, force=True, stop_before_pixels=True, specific_tags=["SOPClassUID", "SOPInstanceUID"])
        sop_class, sop_instance = str(data_set.get("SOPClassUID", "")), str(data_set.get("SOPInstanceUID", ""))
        implicit, little = data_set.original_encoding
    except Exception:  # noqa: BLE001 - what pydicom cannot read and has no DICM mark is no DICOM object
        return None
    if not (little and is_valid_uid(sop_class) and is_valid_uid(sop_instance)):
        return None
    return _Object(path, (sop_class, ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian), sop_instance)


def _portions(contexts: Sequence[_Context]) -> Iterator[Sequence[_Context]]:
    for start in range(0, len(contexts), _MOST_CONTEXTS):
        yield contexts[start : start + _MOST_CONTEXTS]


def _send(
    objects: Sequence[_Object], contexts: Sequence[_Context], peer: Peer, calling_ae: str, result: Pushed
) -> None:
    """Send objects that share an association. A lost one is made anew; the object that lost it is tried once more."""
    # Send file contents from the end of the File Meta Information on, instead of decoding and encoding them.
    _config.STORE_SEND_CHUNKED_DATASET = True
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)  # every failure is told in the result
    entity = AE(ae_title=calling_ae)
    entity.connection_timeout = _CONNECT_SECONDS
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = _ANSWER_SECONDS
    entity.maximum_pdu_size = _MAXIMUM_PDU
    offered: list[PresentationContext] = [build_context(uid, syntax) for uid, syntax in contexts]
    left = list(objects)
    tried_again: set[Path] = set()
    while left:
        try:
            socket.getaddrinfo(peer.host, peer.port)
        except OSError as error:
            reason = f"the host cannot be found ({error.strerror})"
            result.failures += [Failure(item.path, reason) for item in left]
            return
        association = entity.associate(
            peer.host, peer.port, contexts=offered, ae_title=peer.ae_title, max_pdu=_MAXIMUM_PDU,
            evt_handlers=[(evt.EVT_CONN_OPEN, _send_at_once)],
        )  # fmt: skip
        if not association.is_established:
            reason = _why_not(association)
            result.failures += [Failure(item.path, reason) for item in left]
            return
        hold_while_sending(association)
        accepted = {(str(c.abstract_syntax), str(c.transfer_syntax[0])) for c in association.accepted_contexts}
        number, lost = 0, False
        while left and not lost and association.is_established:
            number = number % 65535 + 1
            item = left.pop(0)
            lost = not _store(association, item, number, accepted, result)
            if lost and item.path not in tried_again:
                # Sending twice is harmless: the receiver has it already, or never had it.
                tried_again.add(item.path)
                result.failures.pop()
                left.insert(0, item)
        if not lost and association.is_established:
            association.release()


def _send_at_once(event: evt.Event) -> None:
    # A command and its data set are two writes: Nagle's algorithm would hold the second until the first is answered.
    transport = event.assoc.dul.socket
    if transport is not None and transport.socket is not None:
        transport.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _store(association: Association, item: _Object, number: int, accepted: set[_Context], result: Pushed) -> bool:
    """Send one object; False when the association is of no more use."""
    if item.context not in accepted:
        uid, syntax = UID(item.context[0]), UID(item.context[1])
        result.failures.append(Failure(item.path, f"the peer does not accept {uid.name} in {syntax.name}"))
        return True
    try:
        with _part_10(item) as path:
            answer = association.send_c_store(path, msg_id=number)
    except (OSError, ValueError, RuntimeError) as error:
        result.failures.append(Failure(item.path, f"cannot be sent: {error}"))
        return association.is_established
    if "Status" not in answer:
        result.failures.append(Failure(item.path, "the association was lost before an answer"))
        # The library may still call it established for a moment, and would wait for an answer that cannot come.
        return False
    status = int(answer.Status)
    # PS3.4 table B.2-1 and PS3.7 annex C: 0xB000 to 0xBFFF and these are warnings, the object was taken.
    if status == 0x0000 or status >> 12 == 0xB or status in (0x0001, 0x0107, 0x0116):
        result.sent += 1
        result.warned += status != 0x0000
    else:
        result.failures.append(Failure(item.path, f"answered with status 0x{status:04X}"))
    return True


@contextlib.contextmanager
def _part_10(item: _Object) -> Iterator[Path]:
    """The object's file, or for a bare data set a temporary one that has File Meta Information."""
    if item.bare is None:
        yield item.path
        return
    with tempfile.NamedTemporaryFile(prefix="ichor-push-") as copy:
        sop_class, syntax = item.context
        copy.write(file_meta(sop_class_uid=sop_class, sop_instance_uid=item.bare, transfer_syntax_uid=syntax))
        copy.write(item.path.read_bytes())
        copy.flush()
        yield Path(copy.name)


def _why_not(association: Association) -> str:
    if association.is_rejected:
        answer = association.acceptor.primitive
        return f"association rejected: {getattr(answer, 'reason_str', 'no reason given')}"
    if association.acceptor.primitive is None:
        return "no connection to the peer"
    return "the peer accepts none of the classes and transfer syntaxes, or has aborted the association"
