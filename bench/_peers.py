"""Receivers as processes on free ports, each in a fresh folder: Ichor as a site runs it, and its peers. Measures nothing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench._site import free_ports

_RUST = "0.10.1"
_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ichor-bench"


class Absent(Exception):
    """A peer that is not on this machine; says what would bring it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A receiver that answers."""

    port: int
    folder: Path
    process: subprocess.Popen[bytes]

    def processes(self) -> dict[int, str]:
        """Process ids and names of it and of its descendants."""
        return {pid: _command_line(pid) for pid in descendants(self.process.pid)}

    def pss(self) -> float:
        """MiB, what processes share counted once."""
        return sum(_rollup(pid, "Pss:") for pid in descendants(self.process.pid)) / 1024


@contextmanager
def serving(name: str, folder: Path, *, durability: str = "none") -> Iterator[Server]:
    """Start a receiver (a key of `PEERS`, or ``ichor``) in ``folder``, which must not exist; killed at the end.

    ``durability`` is Ichor's level; peers have theirs.
    """
    folder.mkdir(parents=True)
    (port,) = free_ports(1)
    command, env = _ichor(folder, port, durability) if name == "ichor" else _peer(name, folder, port)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, env=_environment(env), stdout=log, stderr=log)
    server = Server(port=port, folder=folder, process=process)
    try:
        _wait(server, name)
        yield server
    finally:
        kill(process)


def kill(process: subprocess.Popen[bytes]) -> None:
    """End a process and its descendants, and see them gone."""
    tree = descendants(process.pid)
    for pid in tree:
        _signal(pid)
    process.wait()
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}/cmdline").exists() and _command_line(pid) for pid in tree):
        if time.monotonic() > deadline:
            raise TimeoutError("a process does not end")
        time.sleep(0.01)


def descendants(pid: int) -> list[int]:
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            try:
                found += [int(child) for child in task.read_text().split()]
            except OSError:
                continue
    return found


def resident(pid: int, field: str) -> float:
    """MiB of a field of /proc/PID/status: ``VmRSS:`` now, ``VmHWM:`` its peak."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    return 0.0


# --- how each is started ----------------------------------------------------------------------------------------


def _ichor(folder: Path, port: int, durability: str) -> tuple[list[str], dict[str, str]]:
    settings = folder / "ichor.toml"
    settings.write_text(
        f'data = "{folder / "data"}"\n[listener]\nae_title = "ICHOR"\nport = {port}\ndurability = "{durability}"\n'
    )
    return [sys.executable, "-m", "ichor", "receive", "--config", str(settings)], {}


def _peer(name: str, folder: Path, port: int) -> tuple[list[str], dict[str, str]]:
    out = folder / "out"
    out.mkdir()
    if name in ("dcmtk", "dcmtk tuned", "dcmtk stock"):
        program = _found("storescp", "apt install dcmtk")
        command = [program, "-od", str(out)]
        if name == "dcmtk stock":
            return [*command, str(port)], {}
        tuned = ["+B", "-pdu", "131072"] if name == "dcmtk tuned" else []
        return [*command, "--fork", *tuned, str(port)], {"TCP_NODELAY": "1"}
    if name == "orthanc":
        # Built on DCMTK: without the variable it, too, would wait 40 ms for an ACK at each response.
        return [_found("Orthanc", "apt install orthanc"), _orthanc_settings(folder, port)], {"TCP_NODELAY": "1"}
    if name == "pynetdicom":
        return [sys.executable, "-m", "pynetdicom", "storescp", "-q", "-od", str(out), str(port)], {}
    if name == "rust":
        return [rust(), "-n", "-o", str(out), "-p", str(port)], {}
    raise ValueError(name)


def _orthanc_settings(folder: Path, port: int) -> str:
    # SyncStorageArea is not named: its default, true, syncs each file.
    settings = {
        "Name": "bench", "StorageDirectory": str(folder / "out"), "IndexDirectory": str(folder / "out"),
        "HttpServerEnabled": False, "DicomPort": port, "Plugins": [], "DicomAlwaysAllowStore": True,
    }  # fmt: skip
    path = folder / "orthanc.json"
    path.write_text(json.dumps(settings))
    return str(path)


def rust() -> str:
    """The program `dicom-storescp`, built once with cargo into a cache folder.

    Raises
    ------
    Absent
        When there is no cargo, or it cannot build it.
    """
    root = _CACHE / f"dicom-storescp-{_RUST}"
    program = root / "bin" / "dicom-storescp"
    if not program.exists():
        cargo = shutil.which("cargo") or shutil.which("cargo", path=str(Path.home() / ".cargo" / "bin"))
        if cargo is None:
            raise Absent("dicom-storescp: needs cargo (https://rustup.rs)")
        print(f"building dicom-storescp {_RUST} once, into {root}", flush=True)
        command = [cargo, "install", "--quiet", "--locked", "--version", _RUST, "--root", str(root), "dicom-storescp"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise Absent(f"dicom-storescp: cargo could not build it: {done.stderr.strip()[-200:]}")
    return str(program)


def missing(names: Sequence[str]) -> list[str]:
    """What must be installed for these peers."""
    wanted = {"dcmtk": ("storescp", "dcmtk"), "orthanc": ("Orthanc", "orthanc"), "storescu": ("storescu", "dcmtk")}
    return [
        package
        for program, package in (wanted[name] for name in names if name in wanted)
        if shutil.which(program, path=_path()) is None
    ]


def _found(program: str, how: str) -> str:
    path = shutil.which(program, path=_path())
    if path is None:
        raise Absent(f"{program}: {how}")
    return path


def _path() -> str:
    return os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin"


def _environment(more: dict[str, str]) -> dict[str, str]:
    # A setting of the shell must reach neither Ichor nor DCMTK.
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("ICHOR_", "PROMETHEUS_")) and k != "TCP_NODELAY"}
    return kept | more


def _wait(server: Server, name: str) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            tail = (server.folder / "log").read_text(errors="replace")[-500:]
            raise RuntimeError(f"{name} ended at once: {tail}")
        with socket.socket() as probe:
            probe.settimeout(1)
            if probe.connect_ex(("127.0.0.1", server.port)) == 0:
                time.sleep(0.3)  # it takes the probe's end in, off the clock
                return
        time.sleep(0.02)
    raise TimeoutError(f"{name} does not listen")


def _signal(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def _rollup(pid: int, field: str) -> float:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith(field):
                return float(line.split()[1])
    except OSError:
        return 0.0
    return 0.0
