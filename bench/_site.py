"""Ichor and Orthanc as processes on free ports in a temporary folder, for benchmarks. Measures nothing."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any


def start_orthanc(program: str, folder: Path, ports: dict[str, int]) -> subprocess.Popen[bytes]:
    config = {
        "Name": "bench", "StorageDirectory": str(folder / "orthanc"), "IndexDirectory": str(folder / "orthanc"),
        "HttpPort": ports["http"], "DicomPort": ports["dicom"], "DicomAet": "ORTHANC", "Plugins": [],
        "RemoteAccessAllowed": False, "AuthenticationEnabled": False, "DicomAlwaysAllowStore": True,
    }  # fmt: skip
    path = folder / "orthanc.json"
    path.write_text(json.dumps(config))
    with (folder / "orthanc.log").open("wb") as log:
        return subprocess.Popen([program, str(path)], stdout=log, stderr=log)


def start_ichor(folder: Path, ports: dict[str, int]) -> subprocess.Popen[bytes]:
    settings = {k: v for k, v in os.environ.items() if not k.startswith(("ICHOR_", "PROMETHEUS_"))} | {
        "ICHOR_DATA": str(folder / "data"),
        "ICHOR_LISTENER__PORT": str(ports["listener"]),
        "ICHOR_CONSOLE__PORT": str(ports["console"]),
    }
    if "dicom" in ports:
        settings |= {
            "ICHOR_DESTINATIONS__0__NAME": "pacs",
            "ICHOR_DESTINATIONS__0__AE_TITLE": "ORTHANC",
            "ICHOR_DESTINATIONS__0__HOST": "127.0.0.1",
            "ICHOR_DESTINATIONS__0__PORT": str(ports["dicom"]),
        }
    with (folder / "serve.log").open("ab") as log:
        return subprocess.Popen([sys.executable, "-m", "ichor", "serve"], env=settings, stdout=log, stderr=log)


def wait(address: str) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except OSError:
            time.sleep(0.05)
    raise TimeoutError(address)


def get(address: str) -> Any:
    with urllib.request.urlopen(address, timeout=10) as answer:
        return json.load(answer)


def free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports
