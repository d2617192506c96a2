"""No Success before object, receipt and new directory entries are on the medium: shown by a trace of system calls.

kill -9 alone would prove nothing here: the page cache survives it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from e2e.receive import Receive
from e2e.trace import STRACE, Call, Verdict, at_releases, at_removals, at_responses, parse
from unit.listener.modality import Scu, encode, image

SENDERS, SERIES, EACH = 3, 2, 5
UIDS = {f"1.2.826.{s}.{r}.{n}.77" for s in range(SENDERS) for r in range(SERIES) for n in range(EACH)}
SMALL = {f"1.2.826.9.0.{n}.77" for n in range(5_000)}
DATA = Path("/site/data")


@pytest.fixture
def traced(
    tmp_path: Path, free_port: Callable[[], int], peer: Callable[[str, str], str]
) -> Iterator[Callable[..., list[Call]]]:
    """``traced(level)``: the system calls of a receiver at that level of durability while three senders send.

    ``turning``: one alone, until the first file of its log is gone.
    """
    started: list[Receive] = []

    def run(level: str, *, turning: bool = False) -> list[Call]:
        receiver = Receive(tmp_path / "site", free_port(), listener={"durability": level})
        started.append(receiver)
        file = tmp_path / "trace"
        receiver.start(under=[peer("strace", "strace"), *STRACE, "-o", str(file)])
        if turning:
            send_until_log_turned(receiver)
        else:
            threads = [threading.Thread(target=send, args=(receiver.port, number)) for number in range(SENDERS)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        receiver.stop()
        with file.open() as lines:
            return parse(lines)

    yield run
    for receiver in started:
        receiver.kill()


def send(port: int, number: int) -> None:
    scu = Scu(port, calling=f"CT{number}")
    for series in range(SERIES):
        for n in range(EACH):
            uid = f"1.2.826.{number}.{series}.{n}.77"
            # Every fifth is longer than one write.
            pixels = bytes(400_000) if n == EACH - 1 else bytes(2_000)
            data = encode(image(uid, study=f"1.2.826.{number}", series=f"1.2.826.{number}.{series}", pixels=pixels))
            assert scu.store(data, sop_instance=uid) == 0
    scu.release()


def send_until_log_turned(receiver: Receive) -> None:
    """Small objects, which only the log makes durable, until its first file is gone.

    The next file is there a while after something is carried, and what follows goes to it.
    """
    scu = Scu(receiver.port)
    uids = iter(sorted(SMALL))

    def store() -> None:
        uid = next(uids)
        assert scu.store(encode(image(uid, study="1.2.826.9", series="1.2.826.9.0")), sop_instance=uid) == 0

    store()
    (first,) = (path for path in (receiver.data / "receipts").glob("*-000001.routine.log") if path.stat().st_size)

    def gone() -> bool:
        store()
        time.sleep(0.05)
        return not first.exists()

    receiver.until(gone, what="the first file of the log to go")
    scu.release()


def test_success_is_sent_when_object_receipt_and_entries_are_synced(
    traced: Callable[..., list[Call]], tmp_path: Path
) -> None:
    calls, data = traced("instance"), tmp_path / "site" / "data"
    assert at_responses(calls, data, of=UIDS) == Verdict(answers=len(UIDS), violations=())
    # It is the log that carries the small ones: without its syncs they are promised in vain.
    unsynced = [call for call in calls if not (call.name == "fdatasync" and call.path.startswith(f"{data}/receipts/"))]
    assert len(at_responses(unsynced, data, of=UIDS).violations) == len(UIDS)
    # All of them but the long ones: these are promised in vain without the syncs of the spool.
    logged = [c for c in calls if c.name not in ("fsync", "fdatasync") or not c.path.startswith(f"{data}/spool")]
    short = {uid for uid in UIDS if not uid.endswith(f".{EACH - 1}.77")}
    assert at_responses(logged, data, of=short) == Verdict(answers=len(short), violations=())
    assert len(at_responses(logged, data, of=UIDS - short).violations) >= len(UIDS - short)


def test_a_release_is_answered_when_the_association_is_synced(
    traced: Callable[..., list[Call]], tmp_path: Path
) -> None:
    verdict = at_releases(traced("association"), tmp_path / "site" / "data", of=UIDS)
    assert verdict == Verdict(answers=SENDERS, violations=())


def test_a_log_is_deleted_when_the_spool_has_what_it_carried(traced: Callable[..., list[Call]], tmp_path: Path) -> None:
    calls, data = traced("instance", turning=True), tmp_path / "site" / "data"
    verdict = at_removals(calls, data, of=SMALL)
    assert verdict.violations == ()
    assert verdict.answers > 0
    # It is these syncs that let the files go.
    unsynced = [c for c in calls if c.name not in ("fsync", "fdatasync") or not c.path.startswith(f"{data}/spool")]
    found = {v.partition(":")[0] for v in at_removals(unsynced, data, of=SMALL).violations}
    assert len(found) == verdict.answers


def test_the_check_finds_what_a_receiver_without_syncs_promises(
    traced: Callable[..., list[Call]], tmp_path: Path
) -> None:
    verdict = at_responses(traced("none"), tmp_path / "site" / "data", of=UIDS)
    assert verdict.answers == len(UIDS)
    for part in ("spool", "receipts"):
        unsynced = {v.partition(":")[0] for v in verdict.violations if f": {part}:" in v}
        assert len(unsynced) == verdict.answers, verdict.violations[:5]


# --- the check itself: one step left out or out of order is found -----------------------------------------------

UID = "1.2.3.4.5"
RESPONSE = b"\x04\0" + bytes(10)
RESPONSE += (
    b"\0\0\0\x01\x02\0\0\0\x01\x80" + b"\0\0\0\x09\x02\0\0\0\0\0" + b"\0\0\0\x10\x0a\0\0\0" + UID.encode() + b"\0"
)
SEGMENT, RECEIPTS = f"{DATA}/spool/1.2/1.3/w-0.seg", f"{DATA}/receipts/w-0.routine.log"


def hexed(data: bytes | str) -> str:
    raw = data.encode() if isinstance(data, str) else data
    return "".join(f"\\x{byte:02x}" for byte in raw)


def made(path: str) -> str:
    return f'7 openat(AT_FDCWD<{hexed("/")}>, "{hexed(path)}", O_WRONLY|O_CREAT|O_EXCL, 0640) = 5<{hexed(path)}>'


def wrote(path: str, *parts: bytes, result: int = 0) -> str:
    parts = parts or (UID.encode(),)
    vector = ", ".join(f'{{iov_base="{hexed(part)}", iov_len={len(part)}}}' for part in parts)
    return f"7 writev(5<{hexed(path)}>, [{vector}], {len(parts)}) = {result or sum(map(len, parts))}"


def synced(path: str) -> str:
    return f"7 fdatasync(5<{hexed(path)}>) = 0"


SENT = f'7 sendto(9<{hexed("socket:[44]")}>, "{hexed(RESPONSE)}", {len(RESPONSE)}, 0, NULL, 0) = {len(RESPONSE)}'
WHOLE = [
    made(SEGMENT), wrote(SEGMENT), wrote(SEGMENT, b"pixels"), synced(SEGMENT), synced(f"{DATA}/spool/1.2/1.3"),
    wrote(RECEIPTS), synced(RECEIPTS), SENT,
]  # fmt: skip


OBJECT = (UID.encode(), b"pixels")
CARRIED = [
    made(SEGMENT), made(RECEIPTS), synced(f"{DATA}/receipts"), wrote(SEGMENT, *OBJECT, b"footer"),
    wrote(RECEIPTS, *OBJECT), wrote(RECEIPTS, b"head", b"body " + UID.encode()), synced(RECEIPTS), SENT,
]  # fmt: skip


@pytest.mark.parametrize("lines", [WHOLE, CARRIED])
def test_the_check_is_content_with_the_right_order(lines: list[str]) -> None:
    assert at_responses(parse(lines), DATA, of={UID}) == Verdict(answers=1, violations=())


@pytest.mark.parametrize(("lines", "left_out"), [(WHOLE, 3), (WHOLE, 4), (WHOLE, 6), (CARRIED, 2), (CARRIED, 6)])
def test_the_check_finds_each_sync_that_is_left_out_or_late(lines: list[str], left_out: int) -> None:
    rest = [line for n, line in enumerate(lines) if n != left_out]
    assert len(at_responses(parse(rest), DATA, of={UID}).violations) == 1
    assert len(at_responses(parse([*rest, lines[left_out]]), DATA, of={UID}).violations) == 1


@pytest.mark.parametrize(
    "carrying",
    [
        wrote(RECEIPTS, b"head"),
        wrote(RECEIPTS, OBJECT[0]),
        wrote(RECEIPTS, OBJECT[0], b"others"),
        wrote(RECEIPTS, *OBJECT, result=8),
        wrote(f"{RECEIPTS}.other", *OBJECT),
    ],
)
def test_the_check_finds_what_the_log_carries_in_part(carrying: str) -> None:
    lines = [*CARRIED[:4], carrying, *CARRIED[5:]]
    violations = at_responses(parse(lines), DATA, of={UID}).violations
    assert f"{UID}: spool: w-0.seg was not synced" in violations


def test_the_check_counts_no_sync_that_failed_or_began_before_the_write_returned() -> None:
    for lines, wrong in ((WHOLE, 3), (CARRIED, 2)):
        failed = [
            line.replace("= 0", "= -1 EIO (Input/output error)") if "fdatasync" in line else line for line in lines
        ]
        assert len(at_responses(parse(failed), DATA, of={UID}).violations) == wrong
    overlapping = [
        WHOLE[0], WHOLE[1], f"8 fdatasync(5<{hexed(SEGMENT)}> <unfinished ...>", WHOLE[2], "8 <... fdatasync resumed>) = 0",
        *WHOLE[4:],
    ]  # fmt: skip
    assert at_responses(parse(overlapping), DATA, of={UID}).violations == (f"{UID}: spool: w-0.seg was not synced",)


def test_the_check_finds_a_log_that_is_deleted_before_its_segments_are_synced() -> None:
    entry = made(SEGMENT.replace("/w-0.seg", "")).replace("openat", "mkdirat")
    removed = f'7 unlink("{hexed(RECEIPTS)}") = 0'
    lines = [entry, *CARRIED, synced(SEGMENT), synced(f"{DATA}/spool/1.2/1.3"), synced(f"{DATA}/spool/1.2"), removed]
    assert at_removals(parse(lines), DATA, of={UID}) == Verdict(answers=1, violations=())
    for left_out in (-4, -3, -2):
        rest = [line for line in lines if line is not lines[left_out]]
        assert len(at_removals(parse(rest), DATA, of={UID}).violations) == 1
        assert len(at_removals(parse([*rest, lines[left_out]]), DATA, of={UID}).violations) == 1


def test_the_check_counts_the_sync_of_another_thread() -> None:
    lines = [f"8{line[1:]}" if "fdatasync" in line else line for line in WHOLE]
    assert at_responses(parse(lines), DATA, of={UID}).violations == ()
