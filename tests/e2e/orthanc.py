"""Debian's Orthanc as a process with its data in a temporary folder; answers what it holds. Never ours to configure."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Orthanc:
    """``start`` returns when its REST answers. Objects survive ``stop`` and a new ``start``."""

    program: str
    folder: Path
    dicom_port: int
    http_port: int
    ae_title: str = "ORTHANC"
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        settings = {
            "Name": "test", "StorageDirectory": str(self.folder / "storage"), "Plugins": [],
            "DicomAet": self.ae_title, "DicomPort": self.dicom_port, "DicomCheckCalledAet": True,
            "DicomAlwaysAllowStore": True, "DicomAlwaysAllowEcho": True,
            "HttpPort": self.http_port, "RemoteAccessAllowed": False, "AuthenticationEnabled": False,
        }  # fmt: skip
        (self.folder / "orthanc.json").write_text(json.dumps(settings))
        with (self.folder / "orthanc.log").open("ab") as log:
            self.process = subprocess.Popen([self.program, str(self.folder / "orthanc.json")], stdout=log, stderr=log)
        deadline = time.monotonic() + 180
        while True:
            try:
                self.get("/system")
                return
            except OSError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError((self.folder / "orthanc.log").read_text(errors="replace")[-2000:]) from None
                time.sleep(0.05)

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(timeout=120)
            self.process = None

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}{path}", timeout=60) as answer:
            return json.loads(answer.read())

    def instances(self, study_instance_uid: str) -> list[dict[str, str]]:
        """Main tags of every instance of a study: SOPInstanceUID, SeriesInstanceUID, Modality, ID (Orthanc's own)."""
        found = []
        for study in self._find("Study", {"StudyInstanceUID": study_instance_uid}):
            for series_id in study["Series"]:
                series = self.get(f"/series/{series_id}")
                tags = {k: series["MainDicomTags"].get(k, "") for k in ("SeriesInstanceUID", "Modality")}
                for instance_id in series["Instances"]:
                    main = self.get(f"/instances/{instance_id}")["MainDicomTags"]
                    found.append(tags | {"SOPInstanceUID": main["SOPInstanceUID"], "ID": instance_id})
        return found

    def studies(self) -> list[str]:
        """Study Instance UIDs it holds."""
        return [self.get(f"/studies/{i}")["MainDicomTags"]["StudyInstanceUID"] for i in self.get("/studies")]

    def file(self, instance_id: str) -> bytes:
        """The stored DICOM file."""
        with urllib.request.urlopen(
            f"http://127.0.0.1:{self.http_port}/instances/{instance_id}/file", timeout=60
        ) as answer:
            return bytes(answer.read())

    def _find(self, level: str, query: dict[str, str]) -> list[dict[str, Any]]:
        body = json.dumps({"Level": level, "Query": query, "Expand": True}).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.http_port}/tools/find", data=body)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return list(json.loads(answer.read()))
