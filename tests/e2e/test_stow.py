"""STOW-RS in a whole site, with a client that others wrote: stored, assembled, exported byte-identical, memory flat."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import struct
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pydicom
import pytest
from dicomweb_client.api import DICOMwebClient
from e2e.receive import Receive
from e2e.site import Site
from e2e.trace import STRACE, Call, _Disk, parse
from unit.listener.modality import CT, EXPLICIT, encode, image

from ichor.store.filemeta import file_meta
from ichor.store.journal import JournalReader
from ichor.store.spool import FileSpool

TYPE = 'multipart/related; type="application/dicom"; boundary=b'


@dataclass
class Door:
    """`ichor receive` with STOW-RS on ``port``."""

    receive: Receive
    port: int

    def pid(self) -> int:
        """The process that serves it now."""
        ready, found = self.receive.data / "run" / "stow.ready", ""

        def there() -> bool:
            nonlocal found
            with contextlib.suppress(FileNotFoundError):  # the process that it names has just died
                found = ready.read_text().strip()
            return found.isdigit()

        self.receive.until(there, what="the STOW role")
        return int(found)

    def post(self, content: bytes | Iterator[bytes], **headers: str) -> httpx.Response:
        fields = {"Content-Type": TYPE} | {name.replace("_", "-"): value for name, value in headers.items()}
        url = f"http://127.0.0.1:{self.port}/dicom-web/studies"
        return httpx.post(url, content=content, headers=fields, timeout=120)


@pytest.fixture
def door(tmp_path: Path, free_port: Callable[[], int]) -> Iterator[Door]:
    port = free_port()
    receive = Receive(tmp_path / "receive", free_port(), listener={"stow.port": port})
    receive.start()
    yield Door(receive, port)
    receive.kill()


def data_set(path: Path) -> bytes:
    with path.open("rb") as file:
        pydicom.filereader.read_preamble(file, force=False)
        pydicom.filereader._read_file_meta_info(file)
        return file.read()


def test_a_study_that_a_dicomweb_client_stores_goes_the_whole_way(
    site: Site, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    port = free_port()
    site.env["ICHOR_LISTENER__STOW__PORT"] = str(port)
    site.start()
    site.ichor("phantom", "ct-head", "--seed", "7", "--slices", "8", "--out", str(tmp_path / "phantom"))
    paths = sorted((tmp_path / "phantom" / "dicom").rglob("*.dcm"))
    objects = [pydicom.dcmread(path) for path in paths]
    study = str(objects[0].StudyInstanceUID)
    client = DICOMwebClient(f"http://127.0.0.1:{port}/dicom-web")

    answer = client.store_instances(objects, study_instance_uid=study)

    named = {item.ReferencedSOPInstanceUID for item in answer.ReferencedSOPSequence}
    assert named == {found.SOPInstanceUID for found in objects}
    assert "FailedSOPSequence" not in answer
    told = site.wait_study(study)
    assert sum(series["instances"] for series in told["series"]) == len(objects)
    # The client wrote each object anew: what it sent is what its library makes of it.
    site.ichor("export", study, "--out", str(tmp_path / "exported"))
    exported = {
        pydicom.dcmread(p, stop_before_pixels=True).SOPInstanceUID: p for p in (tmp_path / "exported").rglob("*.dcm")
    }
    for found in objects:
        written = tmp_path / "written.dcm"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pydicom.dcmwrite(written, found)
        assert data_set(exported[found.SOPInstanceUID]) == data_set(written)


def body(number: int, pixels: bytes) -> bytes:
    sop = f"1.2.3.4.{number}"
    head = file_meta(sop_class_uid=CT, sop_instance_uid=sop, transfer_syntax_uid=EXPLICIT)
    return b"--b\r\n\r\n" + head + encode(image(sop, pixels=pixels)) + b"\r\n"


def resident(pid: int) -> int:
    """Most bytes that were resident since the last look."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no such line")


def test_memory_stays_flat_while_an_object_of_500_mb_comes_in(door: Door) -> None:
    pid = door.pid()
    assert door.post(body(1, bytes(4_000_000)) + b"--b--").status_code == 200
    Path(f"/proc/{pid}/clear_refs").write_text("5")  # VmHWM begins anew
    before = resident(pid)
    size, piece = 500_000_000, os.urandom(1_000_000)
    head = body(2, b"").removesuffix(b"\r\n")
    head = head[: head.rindex(struct.pack("<HH", 0x7FE0, 0x0010))] + struct.pack(
        "<HH2sHI", 0x7FE0, 0x10, b"OW", 0, size
    )

    def pieces() -> Iterator[bytes]:
        yield head
        for _ in range(size // len(piece)):
            yield piece
        yield b"\r\n--b--"

    response = door.post(pieces(), Content_Length=str(len(head) + size + 7))
    assert response.status_code == 200
    assert resident(pid) - before <= 16 << 20


def test_what_was_answered_survives_a_kill_in_the_middle_of_the_next_request(door: Door) -> None:
    pid = door.pid()
    sent = [body(number, bytes(34_000)) for number in range(1, 21)]
    assert door.post(b"".join(sent) + b"--b--").status_code == 200

    def pieces() -> Iterator[bytes]:
        yield body(21, bytes(34_000))
        yield body(22, bytes(3_000_000))[:-1000]
        os.kill(pid, signal.SIGKILL)
        yield bytes(10_000_000)

    with pytest.raises(httpx.HTTPError):
        door.post(pieces())
    door.receive.until(lambda: door.pid() != pid, what="the STOW role again")
    reader = JournalReader(door.receive.data / "journal.sqlite", receipts=door.receive.data / "receipts")
    rows = {row.stored.sop_instance_uid: row.stored for row in reader.by_study("1.2.3")}
    spool = FileSpool(door.receive.data / "spool")
    for number, part in enumerate(sent, start=1):
        with spool.open(rows[f"1.2.3.4.{number}"].location) as file:
            assert file.read() == part.removeprefix(b"--b\r\n\r\n").removesuffix(b"\r\n")
    assert "1.2.3.4.22" not in rows
    assert door.post(body(22, bytes(34_000)) + b"--b--").status_code == 200


SENDERS, EACH = 3, 6
_NAMED = re.compile(rb'"00081155": {"vr": "UI", "Value": \["([0-9.]+)"]}')


def answered(calls: list[Call], data: Path) -> tuple[int, list[str]]:
    """How many objects were answered as stored, and what of them was not on the medium when the answer was sent."""
    disk, named, missing = _Disk(calls, data), 0, []
    for call in calls:
        if call.path.startswith("socket:") and call.data.startswith(b"HTTP/1.1 200 "):
            uids = [uid.decode() for uid in _NAMED.findall(call.data)]
            named += len(uids)
            missing += [f"{uid}: {what}" for uid in uids for what in disk.missing(uid, before=call.began)]
    return named, missing


@pytest.mark.parametrize("level", ["instance", "association", "none"])
def test_an_answer_is_sent_when_what_it_names_is_synced_unless_nothing_ever_is(
    tmp_path: Path, free_port: Callable[[], int], peer: Callable[[str, str], str], level: str
) -> None:
    port = free_port()
    receive = Receive(tmp_path / "site", free_port(), listener={"durability": level, "stow.port": port})
    door = Door(receive, port)
    try:
        receive.start(under=[peer("strace", "strace"), *STRACE, "-o", str(tmp_path / "trace")])
        door.pid()

        def send(sender: int) -> None:
            parts = [body(sender * 100 + n, bytes(700_000 if n == EACH - 1 else 2_000)) for n in range(EACH)]
            statuses.append(door.post(b"".join(parts) + b"--b--").status_code)

        statuses: list[int] = []
        threads = [threading.Thread(target=send, args=(number,)) for number in range(1, SENDERS + 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        receive.stop()
    finally:
        receive.kill()
    assert statuses == [200] * SENDERS
    with (tmp_path / "trace").open() as lines:
        named, missing = answered(parse(lines), receive.data)
    assert named == SENDERS * EACH
    if level != "none":
        assert missing == []
    else:
        assert len({what.partition(":")[0] for what in missing}) == named
