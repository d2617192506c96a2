"""`ichor push` against a storage SCP of the library in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    MRImageStorage,
)
from pynetdicom import AE, AllStoragePresentationContexts, build_context, evt

from ichor.cli.push import Peer, parse_peer, push, push_files
from ichor.errors import ConfigError

ENCAPSULATED = (
    b"\xfe\xff\x00\xe0\x00\x00\x00\x00\xfe\xff\x00\xe0\x04\x00\x00\x00\xff\x4f\xff\xd9\xfe\xff\xdd\xe0\x00\x00\x00\x00"
)


@dataclass
class Archive:
    """A storage SCP: answers ``status`` by SOP Instance UID, keeps what came."""

    port: int = 0
    statuses: dict[str, int] = field(default_factory=dict)
    abort_at: str = ""
    abort_once: bool = False
    stored: list[tuple[str, str, bytes]] = field(default_factory=list)  # (SOP Instance UID, syntax, encoded)
    associations: int = 0
    calling: set[str] = field(default_factory=set)

    def on_store(self, event: Any) -> int:
        uid = str(event.request.AffectedSOPInstanceUID)
        if uid == self.abort_at:
            self.abort_at = "" if self.abort_once else uid
            event.assoc.abort()
            return 0x0000
        self.calling.add(str(event.assoc.requestor.ae_title))
        self.stored.append((uid, str(event.context.transfer_syntax), event.request.DataSet.getvalue()))
        return self.statuses.get(uid, 0x0000)

    def on_accepted(self, _: Any) -> None:
        self.associations += 1


SYNTAXES = [
    ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian,
    JPEG2000Lossless,
]  # fmt: skip


# Storage classes that the library serves, without those that the tests use by name.
CLASSES = [
    str(context.abstract_syntax)
    for context in AllStoragePresentationContexts
    if context.abstract_syntax not in (CTImageStorage, MRImageStorage)
][:127]


@pytest.fixture
def archive() -> Iterator[Archive]:
    made = Archive()
    entity = AE(ae_title="ARCHIVE")
    entity.supported_contexts = [build_context(uid, SYNTAXES) for uid in [CTImageStorage, *CLASSES]]
    server = entity.start_server(
        ("127.0.0.1", 0), block=False,
        evt_handlers=[(evt.EVT_C_STORE, made.on_store), (evt.EVT_ACCEPTED, made.on_accepted)],
    )  # fmt: skip
    assert server is not None
    made.port = server.socket.getsockname()[1]
    yield made
    server.shutdown()


def write(
    path: Path, uid: str, *, syntax: str = ExplicitVRLittleEndian, sop_class: str = CTImageStorage, meta: bool = True
) -> bytes:
    """An object whose encoding pydicom would not give again by itself; the encoded data set."""
    data_set = Dataset()
    data_set.SOPClassUID = sop_class
    data_set.SOPInstanceUID = uid
    data_set.StudyInstanceUID = data_set.SeriesInstanceUID = "1.2.3"
    data_set.SpecificCharacterSet = "ISO_IR 100"
    data_set.PatientName = "Grün^Jürgen"
    data_set.add_new(0x00091010, "UN", b"\x01\x02\x03\x04")
    if syntax == JPEG2000Lossless:
        data_set.add_new(0x7FE00010, "OB", ENCAPSULATED)
        data_set["PixelData"].is_undefined_length = True
    file_meta = FileMetaDataset()
    file_meta.MediaStorageSOPClassUID = sop_class
    file_meta.MediaStorageSOPInstanceUID = uid
    file_meta.TransferSyntaxUID = syntax
    path.parent.mkdir(parents=True, exist_ok=True)
    if not meta:
        buffer = DicomBytesIO()
        buffer.is_little_endian, buffer.is_implicit_VR = True, syntax == ImplicitVRLittleEndian
        write_dataset(buffer, data_set)
        path.write_bytes(buffer.getvalue())
        return buffer.getvalue()
    data_set.file_meta = file_meta
    dcmwrite(path, data_set, enforce_file_format=True)
    whole = path.read_bytes()
    start = 144 + int.from_bytes(whole[140:144], "little")
    if syntax == ExplicitVRLittleEndian:
        # A group length: legal, and lost by whoever encodes anew.
        whole = whole[:start] + b"\x08\x00\x00\x00UL\x04\x00\x2a\x00\x00\x00" + whole[start:]
        path.write_bytes(whole)
    return whole[start:]


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_the_encoded_data_set_arrives_byte_for_byte_in_its_own_syntax(
    archive: Archive, tmp_path: Path, syntax: str
) -> None:
    encoded = write(tmp_path / "a.dcm", "1.2.3.1", syntax=syntax)
    assert push(tmp_path, to=f"ARCHIVE@127.0.0.1:{archive.port}", calling_ae="SCANNER") == 0
    assert archive.stored == [("1.2.3.1", syntax, encoded)]
    assert archive.calling == {"SCANNER"}


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
def test_a_data_set_without_file_meta_information_is_sent_too(archive: Archive, tmp_path: Path, syntax: str) -> None:
    encoded = write(tmp_path / "IM0001", "1.2.3.1", syntax=syntax, meta=False)
    assert push(tmp_path, to=f"ARCHIVE@127.0.0.1:{archive.port}") == 0
    assert archive.stored == [("1.2.3.1", syntax, encoded)]


def test_a_folder_is_walked_and_what_is_no_object_is_skipped_and_counted(
    archive: Archive, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "b" / "deep" / "2", "1.2.3.2")
    write(tmp_path / "a" / "1.dcm", "1.2.3.1")
    write(tmp_path / "DICOMDIR", "1.2.3.9", sop_class="1.2.840.10008.1.3.10")
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "empty").touch()
    (tmp_path / "group8").write_bytes(b"\x08\x00 but not DICOM at all")
    assert push(tmp_path, to=f"ARCHIVE@127.0.0.1:{archive.port}") == 0
    assert [uid for uid, *_ in archive.stored] == ["1.2.3.1", "1.2.3.2"]
    out = capsys.readouterr().out
    assert "sent 2 of 2 objects" in out
    assert "1 DICOMDIR, 3 not DICOM" in out
    assert archive.associations == 1


def test_a_folder_that_cannot_be_read_is_named_and_makes_exit_1(
    archive: Archive, tmp_path: Path, capsys: pytest.CaptureFixture[str], closed: Callable[[Path], Path]
) -> None:
    write(tmp_path / "a" / "1.dcm", "1.2.3.1")
    write(tmp_path / "b" / "2.dcm", "1.2.3.2")
    shut = closed(tmp_path / "b")
    assert push(tmp_path, to=f"ARCHIVE@127.0.0.1:{archive.port}") == 1
    assert [uid for uid, *_ in archive.stored] == ["1.2.3.1"]
    out, err = capsys.readouterr()
    assert "sent 1 of 1 objects" in out
    assert err == f"failed: {shut}: this folder cannot be read: Permission denied\n"
    assert push(shut, to=f"ARCHIVE@127.0.0.1:{archive.port}") == 1
    assert "no DICOM object" not in capsys.readouterr().err


def test_failing_statuses_are_named_and_make_exit_1_while_warnings_do_not(
    archive: Archive, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for n in (1, 2, 3):
        write(tmp_path / f"{n}.dcm", f"1.2.3.{n}")
    archive.statuses = {"1.2.3.1": 0xB000, "1.2.3.2": 0xA700}
    assert push(tmp_path, to=f"ARCHIVE@127.0.0.1:{archive.port}") == 1
    captured = capsys.readouterr()
    assert "sent 2 of 3" in captured.out
    assert "1 of them were answered with a warning" in captured.out
    assert captured.err.count("\n") == 1
    assert "2.dcm" in captured.err
    assert "0xA700" in captured.err


def test_a_class_that_is_not_accepted_fails_alone(archive: Archive, tmp_path: Path) -> None:
    write(tmp_path / "1.dcm", "1.2.3.1", sop_class=MRImageStorage)
    write(tmp_path / "2.dcm", "1.2.3.2")
    result = push_files(sorted(tmp_path.iterdir()), to=f"ARCHIVE@127.0.0.1:{archive.port}", calling_ae="SCANNER")
    assert result.sent == 1
    assert [(f.path.name, "MR Image Storage" in f.reason) for f in result.failures] == [("1.dcm", True)]


def test_a_lost_association_costs_the_object_that_lost_it_and_no_other(archive: Archive, tmp_path: Path) -> None:
    for n in (1, 2, 3):
        write(tmp_path / f"{n}.dcm", f"1.2.3.{n}")
    archive.abort_at = "1.2.3.2"
    result = push_files(sorted(tmp_path.iterdir()), to=f"ARCHIVE@127.0.0.1:{archive.port}", calling_ae="SCANNER")
    assert result.sent == 2
    assert [f.path.name for f in result.failures] == ["2.dcm"]
    assert archive.associations == 3


def test_an_object_that_lost_its_association_once_is_sent_again(archive: Archive, tmp_path: Path) -> None:
    for n in (1, 2, 3):
        write(tmp_path / f"{n}.dcm", f"1.2.3.{n}")
    archive.abort_at, archive.abort_once = "1.2.3.2", True
    result = push_files(sorted(tmp_path.iterdir()), to=f"ARCHIVE@127.0.0.1:{archive.port}", calling_ae="SCANNER")
    assert (result.sent, result.failures, archive.associations) == (3, [], 2)


def test_more_than_128_contexts_are_split_over_associations(archive: Archive, tmp_path: Path) -> None:
    for n, uid in enumerate([*CLASSES, *CLASSES[:4]]):
        write(tmp_path / f"{n:03}.dcm", f"1.2.3.{n}", sop_class=uid, syntax=SYNTAXES[n // len(CLASSES)])
    result = push_files(sorted(tmp_path.iterdir()), to=f"ARCHIVE@127.0.0.1:{archive.port}", calling_ae="SCANNER")
    assert (result.sent, result.failures) == (131, [])
    assert archive.associations == 2


@pytest.mark.usefixtures("late_pause")
def test_a_thread_of_the_library_that_pauses_late_takes_no_response(
    archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ichor.cli.push._ANSWER_SECONDS", 20.0)
    for number in range(3):
        write(tmp_path / str(number), f"1.2.{number}")
    pushed = push_files(sorted(tmp_path.iterdir()), to=f"ARCHIVE@127.0.0.1:{archive.port}", calling_ae="T")
    assert (pushed.sent, pushed.failures, archive.associations) == (3, [], 1)
    assert [uid for uid, _, _ in archive.stored] == ["1.2.0", "1.2.1", "1.2.2"]


def test_nobody_there_fails_every_object(tmp_path: Path, free_port: Callable[[], int]) -> None:
    write(tmp_path / "1.dcm", "1.2.3.1")
    write(tmp_path / "2.dcm", "1.2.3.2")
    result = push_files(sorted(tmp_path.iterdir()), to=f"X@127.0.0.1:{free_port()}", calling_ae="SCANNER")
    assert [f.reason for f in result.failures] == ["no connection to the peer"] * 2


def test_damaged_file_meta_information_fails_that_file(archive: Archive, tmp_path: Path) -> None:
    (tmp_path / "1.dcm").write_bytes(bytes(128) + b"DICM" + b"\x02\x00\x00\x00UL\x04\x00\xff\xff\xff\xff garbage")
    write(tmp_path / "2.dcm", "1.2.3.2")
    result = push_files(sorted(tmp_path.iterdir()), to=f"ARCHIVE@127.0.0.1:{archive.port}", calling_ae="SCANNER")
    assert result.sent == 1
    assert [f.path.name for f in result.failures] == ["1.dcm"]


def test_an_empty_folder_is_exit_1_and_no_folder_is_wrong_use(archive: Archive, tmp_path: Path) -> None:
    assert push(tmp_path, to=f"ARCHIVE@127.0.0.1:{archive.port}") == 1
    with pytest.raises(ConfigError, match="nowhere"):
        push(tmp_path / "nowhere", to=f"ARCHIVE@127.0.0.1:{archive.port}")
    assert archive.associations == 0


def test_the_peer_is_parsed() -> None:
    assert parse_peer("ICHOR@10.0.0.1:104") == Peer("ICHOR", "10.0.0.1", 104)
    assert parse_peer("A B@[::1]:11112") == Peer("A B", "::1", 11112)
    assert parse_peer("A@B@host:1") == Peer("A@B", "host", 1)


@pytest.mark.parametrize(
    "text", ["", "ICHOR", "ICHOR@host", "host:104", "@host:104", "ICHOR@:104", "ICHOR@host:", "ICHOR@host:0",
             "ICHOR@host:65536", "ICHOR@host:1x", "ABCDEFGHIJKLMNOPQ@host:104", "ÄRZTE@host:104", "A\\B@host:104"],
)  # fmt: skip
def test_what_is_no_peer_is_wrong_use(text: str) -> None:
    with pytest.raises(ConfigError, match="AET@HOST:PORT") as caught:
        parse_peer(text)
    assert caught.value.exit_code == 2
