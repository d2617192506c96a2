"""What an strace says of durability: which responses were sent before what they promise was on the medium.

An object is on the medium when its segment is synced, or when the log is that carries its bytes behind its receipt. Order
is that of the trace's lines: a sync counts for a write when it began after the write had returned, and for a
response when it returned before the response was begun. Knows spool and receipts by their folders only.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

# What `Call.parse` understands; strings in hexadecimal, long enough for an object's UIDs.
STRACE = (
    "-f", "--seccomp-bpf", "-y", "-xx", "-s", "4096", "-e", "signal=none",
    "-e", "trace=openat,creat,mkdir,mkdirat,rename,renameat,renameat2,link,linkat,write,writev,pwrite64,pwritev,"
    "pwritev2,sendto,sendmsg,fsync,fdatasync,sync,syncfs,ftruncate,unlink,unlinkat",
)  # fmt: skip

_LINE = re.compile(r"(\d+) +(\w+)\((.*)")
_RESUMED = re.compile(r"(\d+) +<\.\.\. (\w+) resumed>(.*)")
_RESULT = re.compile(r"\) += (-?\d+)")
_DESCRIPTOR = re.compile(r"(?:-?\d+|AT_FDCWD)<((?:\\x[0-9a-f]{2})*)>")
_STRING = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
_WRITES = {"write", "writev", "pwrite64", "pwritev", "pwritev2"}
_SYNCS = {"fsync", "fdatasync"}
_SENDS = {"sendto", "sendmsg", "write", "writev"}
_RELEASE_RP = b"\x06\x00\x00\x00\x00\x04"  # PS3.8 9.3.7


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One system call: who, what, between which lines of the trace, on which paths, with which bytes."""

    thread: int
    name: str
    began: int
    ended: int
    result: int
    path: str  # of its first descriptor
    strings: tuple[bytes, ...]
    creates: bool

    @property
    def data(self) -> bytes:
        return b"".join(self.strings)


def parse(lines: Iterable[str]) -> list[Call]:
    """The finished calls of a trace made with `STRACE`, in the order in which they began."""
    calls: list[Call] = []
    waiting: dict[int, tuple[int, str, str]] = {}
    for number, line in enumerate(lines):
        if resumed := _RESUMED.match(line):
            began = waiting.pop(int(resumed[1]), None)
            if began is not None:
                calls += _call(int(resumed[1]), began[1], began[0], number, began[2] + resumed[3])
        elif started := _LINE.match(line):
            if started[3].rstrip().endswith("<unfinished ...>"):
                waiting[int(started[1])] = number, started[2], started[3].rpartition("<unfinished")[0]
            else:
                calls += _call(int(started[1]), started[2], number, number, started[3])
    return sorted(calls, key=lambda call: call.began)


def _call(thread: int, name: str, began: int, ended: int, rest: str) -> list[Call]:
    results = _RESULT.findall(rest)
    if not results:
        return []  # it never returned
    path = _DESCRIPTOR.search(rest)
    return [
        Call(
            thread=thread, name=name, began=began, ended=ended, result=int(results[-1]),
            path=_bytes(path[1]).decode(errors="replace") if path else "",
            strings=tuple(_bytes(text) for text in _STRING.findall(rest)), creates="O_CREAT" in rest,
        )
    ]  # fmt: skip


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """How many answers were looked at, and what each one promised too early."""

    answers: int
    violations: tuple[str, ...]


def at_responses(calls: Sequence[Call], data: Path, *, of: Collection[str]) -> Verdict:
    """Level ``instance``: what each C-STORE response with Success promises was durable when it was sent.

    ``of``: SOP Instance UIDs to look at; the receiver also tries itself when it starts, elsewhere.
    """
    disk = _Disk(calls, data)
    answers = [(call, uid) for call in calls if (uid := stored_uid(call)) in of]
    found = [f"{uid}: {what}" for call, uid in answers for what in disk.missing(uid, before=call.began)]
    return Verdict(answers=len(answers), violations=tuple(found))


def at_releases(calls: Sequence[Call], data: Path, *, of: Collection[str]) -> Verdict:
    """Level ``association``: everything that was stored was durable when the release was answered."""
    disk = _Disk(calls, data)
    answered: dict[str, list[str]] = {}
    releases, found = 0, []
    for call in calls:
        if (uid := stored_uid(call)) in of:
            answered.setdefault(call.path, []).append(uid)
        elif call.name in _SENDS and call.path.startswith("socket:") and call.data.startswith(_RELEASE_RP):
            stored = answered.pop(call.path, [])
            releases += bool(stored)
            for uid in stored:
                found += [f"{uid}: {what}" for what in disk.missing(uid, before=call.began)]
    return Verdict(answers=releases, violations=tuple(found))


def at_removals(calls: Sequence[Call], data: Path, *, of: Collection[str]) -> Verdict:
    """What a log file carried was on the medium in the spool when that file was deleted; its objects are counted."""
    disk = _Disk(calls, data)
    found, objects = [], 0
    for call in calls:
        if call.name in ("unlink", "unlinkat") and call.result >= 0:
            path = call.strings[0].decode(errors="replace")
            for uid in disk.told_in(path, of=of, before=call.began):
                objects += 1
                found += [f"{uid}: {what}" for what in disk.missing_in_spool(uid, before=call.began)]
    return Verdict(answers=objects, violations=tuple(found))


def stored_uid(call: Call) -> str:
    """The SOP Instance UID of a C-STORE response with Success; empty when this call sends none."""
    if call.name not in _SENDS or not call.path.startswith("socket:") or call.data[:1] != b"\x04":
        return ""
    # PS3.7 E.1, implicit VR little endian: Command Field (0000,0100) 8001H, Status (0000,0900) 0000H.
    if b"\0\0\0\x01\x02\0\0\0\x01\x80" not in call.data or b"\0\0\0\x09\x02\0\0\0\0\0" not in call.data:
        return ""
    _, tag, rest = call.data.partition(b"\0\0\0\x10")
    return rest[4 : 4 + int.from_bytes(rest[:4], "little")].rstrip(b"\0").decode() if tag else ""


class _Disk:
    """Writes, syncs and new entries below the data folder."""

    def __init__(self, calls: Sequence[Call], data: Path) -> None:
        self._data = str(data)
        done = [call for call in calls if call.result >= 0]
        self._writes = {
            part: [c for c in done if c.name in _WRITES and c.path.startswith(f"{data}/{part}/")]
            for part in ("spool", "receipts")
        }
        self._syncs: dict[str, list[Call]] = {}
        for call in done:
            if call.name in _SYNCS:
                self._syncs.setdefault(call.path, []).append(call)
        self._entries: dict[str, Call] = {}  # path -> the call that first made it
        for call in done:
            made = _made(call)
            if made.startswith(self._data):
                self._entries.setdefault(made, call)

    def missing(self, uid: str, *, before: int) -> list[str]:
        """What of an object, or of its receipt, was not on the medium when line ``before`` was reached."""
        found, written = [], {}
        for part, writes in self._writes.items():
            first = [c for c in writes if c.ended < before and uid.encode() in c.data]
            if first:
                written[part] = first[-1]
            else:
                found.append(f"nothing was written to {part}")
        if len(written) == len(self._writes) and self._carries(written["receipts"], written["spool"]):
            del written["spool"]
        for part, first in written.items():
            # The rest of a long object has no UID: it is what the same thread wrote to the same segment next.
            rest = [first] if part == "receipts" else [
                c for c in self._writes[part]
                if c.path == first.path and c.thread == first.thread and first.began <= c.began < before
            ]  # fmt: skip
            if not self._synced(first.path, after=max(c.ended for c in rest), before=before):
                found.append(f"{part}: {Path(first.path).name} was not synced")
            found += [f"{part}: {entry}" for entry in self._new_entries(first.path, before=before)]
        return found

    def told_in(self, path: str, *, of: Collection[str], before: int) -> list[str]:
        """Objects with a receipt in that file of the log."""
        records = [c for c in self._writes["receipts"] if c.path == path and c.ended < before]
        return [uid for uid in of if any(uid.encode() in c.data for c in records)]

    def missing_in_spool(self, uid: str, *, before: int) -> list[str]:
        """What of an object was not on the medium in its segment when line ``before`` was reached."""
        written = [c for c in self._writes["spool"] if c.ended < before and uid.encode() in c.data]
        if not written:
            return ["nothing was written to spool"]
        found = self._new_entries(written[-1].path, before=before)
        if not self._synced(written[-1].path, after=written[-1].ended, before=before):
            found.insert(0, f"{Path(written[-1].path).name} was not synced")
        return found

    def _carries(self, receipt: Call, stored: Call) -> bool:
        """Did the log get, before the receipt, all that was written to the segment but for the footer at its end?"""
        parts, length = stored.strings[:-1], stored.result - len(stored.strings[-1])
        return any(
            call.strings == parts and call.result == length
            for call in self._writes["receipts"]
            if call.path == receipt.path and call.thread == receipt.thread and call.ended < receipt.began
        )

    def _new_entries(self, path: str, *, before: int) -> list[str]:
        found = []
        for entry in (Path(path), *Path(path).parents):
            if not str(entry).startswith(self._data):
                break
            made = self._entries.get(str(entry))
            if made is not None and not self._synced(str(entry.parent), after=made.ended, before=before):
                found.append(f"the entry of {entry.name} was not synced")
        return found

    def _synced(self, path: str, *, after: int, before: int) -> bool:
        return any(after < sync.began and sync.ended < before for sync in self._syncs.get(path, []))


def _made(call: Call) -> str:
    """The path of the entry that a call makes, or empty."""
    if call.name in ("rename", "renameat", "renameat2", "link", "linkat"):
        return call.strings[-1].decode(errors="replace") if call.strings else ""
    makes = call.name in ("mkdir", "mkdirat", "creat") or (call.name == "openat" and call.creates)
    return call.strings[0].decode(errors="replace") if makes and call.strings else ""
