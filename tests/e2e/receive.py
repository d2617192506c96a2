"""`ichor receive` as a site runs it, and what lies in its data folder. Not `serve`: no bus consumer, no page."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
from e2e.site import ICHOR
from pydicom.filereader import read_file_meta_info

from ichor.errors import CannotStart
from ichor.store import segments
from ichor.store.journal import JournalReader
from ichor.store.spool import FileSpool


class Receive:
    """The receiver in ``folder``, with its settings in a file; ``listener``, ``store`` and ``assemble`` are tables of them."""

    def __init__(
        self, folder: Path, port: int, *, listener: Mapping[str, object] | None = None,
        store: Mapping[str, object] | None = None, assemble: Mapping[str, object] | None = None,
    ) -> None:  # fmt: skip
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.port, self.data = folder, port, folder / "data"
        self.process: subprocess.Popen[bytes] | None = None
        self._under: tuple[str, ...] = ()
        lines = [f'data = "{self.data}"', "[listener]", f"port = {port}"]
        lines += [f"{key} = {_toml(value)}" for key, value in (listener or {}).items()]
        for name, table in (("store", store), ("assemble", assemble)):
            lines += [f"[{name}]", *(f"{key} = {_toml(value)}" for key, value in (table or {}).items())]
        self._settings = folder / "ichor.toml"
        self._settings.write_text("\n".join(lines) + "\n")

    def start(self, *, under: Sequence[str] = ()) -> None:
        """Start it (``under``: a command that runs it) and wait until it takes connections."""
        self._under = tuple(under)
        command = [*under, *ICHOR, "receive", "--config", str(self._settings)]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, env=_environment(), stdout=log, stderr=log)
        self.wait_ready()

    def wait_ready(self) -> None:
        self.until(self._listens, what="the port")

    def _listens(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            pytest.fail(f"receive ended with {self.process.returncode}:\n{self.log()[-3000:]}")
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def processes(self) -> list[int]:
        """Its process and all descendants."""
        assert self.process is not None
        found = [self.process.pid]
        for parent in found:
            for task in Path(f"/proc/{parent}/task").glob("*/children"):
                try:
                    found += [int(child) for child in task.read_text().split()]
                except OSError:
                    continue
        return found

    def kill(self) -> None:
        """SIGKILL to all of it, as a crash of the machine would; returns when all are gone."""
        if self.process is None:
            return
        tree = self.processes()
        for pid in tree:
            _kill(pid)
        self.process.wait()
        self.until(lambda: not any(_alive(pid) for pid in tree), what="the end of its processes")

    def receiving(self) -> dict[str, int]:
        """Ids of the receiving processes that are ready, by role: ``receive``, ``receive-2`` and so on."""
        found = {}
        for path in (self.data / "run").glob("receive*.ready"):
            with contextlib.suppress(FileNotFoundError, ValueError):  # gone meanwhile, or not written yet
                found[path.stem] = int(path.read_text())
        return found

    def kill_receiving(self, role: str = "receive") -> None:
        """SIGKILL to a process that holds associations; it is there again when this returns."""
        self.until(lambda: role in self.receiving(), what=role)
        pid = self.receiving()[role]
        _kill(pid)
        self.until(lambda: self.receiving().get(role, pid) != pid, what=f"{role} again")

    def stop(self) -> None:
        """SIGTERM, and its end: a clean one, or that of a machine too busy for it within the supervisor's seconds."""
        assert self.process is not None
        os.kill(self.processes()[1 if self._under else 0], signal.SIGTERM)  # under a command, ours is that one's child
        code = self.process.wait(timeout=120)
        assert code == 0 or (code == 1 and "did not drain in time" in self.log()), self.log()[-3000:]

    def until(self, true: Callable[[], bool], *, what: str, timeout: float = 240.0) -> None:
        deadline = time.monotonic() + timeout
        while not true():
            if time.monotonic() > deadline:
                pytest.fail(f"waited {timeout:.0f} s in vain for {what}\n--- log\n{self.log()[-3000:]}")
            time.sleep(0.01)

    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    def pss(self) -> float:
        """MiB of all its processes, what they share counted once."""
        total = 0
        for pid in self.processes():
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1])
        return total / 1024

    # --- what is there --------------------------------------------------------------------------------------------

    def export(self, uid: str, out: Path) -> dict[str, list[bytes]]:
        """`ichor export`: data sets of a study by SOP Instance UID, every version that is kept."""
        command = [*ICHOR, "export", uid, "--config", str(self._settings), "--out", str(out)]
        done = subprocess.run(command, env=_environment(), capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stdout + done.stderr
        kept: dict[str, list[bytes]] = {}
        for path in out.rglob("*.dcm"):
            name, data_set = data_set_of(path)
            kept.setdefault(name, []).append(data_set)
        return kept

    def beside(self, role: str) -> subprocess.Popen[bytes]:
        """Start another role with the same settings."""
        command = [*ICHOR, role, "--config", str(self._settings)]
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(command, env=_environment(), stdout=log, stderr=log)

    def ichor(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Another command with the same settings."""
        command = [*ICHOR, *arguments, "--config", str(self._settings)]
        return subprocess.run(command, env=_environment(), capture_output=True, text=True, timeout=600)

    def journalled(self, *studies: str) -> int:
        """Rows of these studies in the journal; 0 while it is not there yet."""
        try:
            reader = JournalReader(self.data / "journal.sqlite")
        except (CannotStart, OSError):
            return 0
        try:
            return sum(len(reader.by_study(study)) for study in studies)
        finally:
            reader.close()

    def torn(self) -> dict[str, int]:
        """Segments with bytes that belong to no whole object, and how many."""
        spool, found = FileSpool(self.data / "spool"), {}
        for segment, size in spool.segments():
            whole = sum(
                segments.end_of(segments.location_of(segment, offset, length), length) - offset
                for offset, length in spool.objects(segment)
            )
            if whole != size:
                found[segment] = size - whole
        return found

    def objects(self) -> int:
        """Whole objects in the spool, acknowledged or not."""
        spool = FileSpool(self.data / "spool")
        return sum(1 for segment, _ in spool.segments() for _ in spool.objects(segment))


def data_set_of(path: Path) -> tuple[str, bytes]:
    """SOP Instance UID, and what follows the File Meta Information: what a C-STORE carries."""
    meta = read_file_meta_info(path)
    return str(meta.MediaStorageSOPInstanceUID), path.read_bytes()[132 + 12 + meta.FileMetaInformationGroupLength :]


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)


def _environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith(("ICHOR_", "PROMETHEUS_"))}


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
