"""Time from the last C-STORE response to the report in the destination (Debian's Orthanc), 40 x 512 x 512 head CT.

Goals, over five studies after one that warms caches: each report there within 6 s; all but the network (stage infer)
within 1 s, median; the worker's peak memory, from its start on, at most 3 GiB. Whatever models are installed serve.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import statistics
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

import pydicom
from pydicom.uid import generate_uid

from bench._peers import resident
from bench._site import free_ports, get, start_ichor, start_orthanc, wait
from phantoms.ct_study import write_ct_head

GOAL_REPORT_SECONDS = 6.0
GOAL_REST_SECONDS = 1.0
GOAL_MEMORY_MIB = 3 * 1024
RUNS = 5
PATIENCE_SECONDS = 120
STAGES = ("receive", "assemble", "queue", "volume", "infer", "measure", "encode", "send")


def main() -> int:
    program = shutil.which("Orthanc") or shutil.which("Orthanc", path="/usr/sbin")
    if program is None:
        print("Orthanc is not installed: apt install orthanc")
        return 1
    with tempfile.TemporaryDirectory(prefix="ichor-bench-") as temporary:
        folder = Path(temporary)
        ports = dict(zip(("listener", "console", "dicom", "http"), free_ports(4), strict=True))
        pacs = start_orthanc(program, folder, ports)
        server = start_ichor(folder, ports)
        try:
            wait(f"http://127.0.0.1:{ports['http']}/system")
            wait(f"http://127.0.0.1:{ports['console']}/readyz")
            return _measure(folder, ports)
        finally:
            for process in (server, pacs):
                process.send_signal(signal.SIGTERM)
                process.wait(timeout=20)


def _measure(folder: Path, ports: dict[str, int]) -> int:
    write_ct_head(folder / "head", seed=20_040, bleed=40.0, slices=40, series={"soft"})
    worker = int((folder / "data" / "run" / "work.ready").read_text())
    print(f"{os.cpu_count()} cores; a load of {os.getloadavg()[0]:.1f} from whatever else runs here")
    rows: list[dict[str, float]] = []
    for run in range(RUNS + 1):
        paths, uid = _fresh_copy(folder / "head" / "dicom", folder / f"run{run}")
        _push(paths, ports["listener"])
        answered = time.time()
        arrived, all_there, study = _arrivals(uid, ports)
        row = {"to report": arrived - answered, "to all": all_there - answered} | study["jobs"][-1]["seconds"]
        if run:
            rows.append(row | {"rest": row["to report"] - row["infer"]})
            continue
        counts = Counter(result["kind"] for result in study["results"])
        print("objects of a study: " + ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items())))
        print(f"the first study, not counted below: report after {row['to report']:.3f} s")
    return _report(rows, peak_mib=resident(worker, "VmHWM:"))


def _report(rows: list[dict[str, float]], *, peak_mib: float) -> int:
    known = {stage for row in rows for stage in row}
    for stage in sorted(known, key=lambda name: (name in STAGES and STAGES.index(name) + 1, name)):
        values = [row.get(stage, 0.0) for row in rows]
        print(f"{stage:>10}: median {statistics.median(values):6.3f} s  (min {min(values):.3f}, max {max(values):.3f})")
    latest = max(row["to report"] for row in rows)
    rest = statistics.median(row["rest"] for row in rows)
    met = True
    for what, value, goal, unit in (
        ("last response to report, the latest", latest, GOAL_REPORT_SECONDS, "s"),
        ("all but the network, median", rest, GOAL_REST_SECONDS, "s"),
        ("peak memory of the worker", peak_mib / 1024, GOAL_MEMORY_MIB / 1024, "GiB"),
    ):
        met &= value <= goal
        print(f"{what}: {value:.3f} {unit}; goal {goal:.1f} {unit} {'met' if value <= goal else 'MISSED'}")
    return 0 if met else 1


def _fresh_copy(source: Path, folder: Path) -> tuple[list[Path], str]:
    folder.mkdir()
    study, series = generate_uid(), generate_uid()
    paths = []
    for n, path in enumerate(sorted(source.rglob("*.dcm"))):
        item = pydicom.dcmread(path)
        item.StudyInstanceUID, item.SeriesInstanceUID = study, series
        item.SOPInstanceUID = item.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        paths.append(folder / f"{n:03d}.dcm")
        item.save_as(paths[-1], enforce_file_format=True)
    return paths, str(study)


def _push(paths: list[Path], port: int) -> None:
    from ichor.cli.push import push_files

    push_files(paths, to=f"ICHOR@127.0.0.1:{port}", calling_ae="BENCH")


def _arrivals(uid: str, ports: dict[str, int]) -> tuple[float, float, Any]:
    """POSIX times when a report, and when every object that the study yields, were seen in Orthanc; and the study."""
    patience = time.monotonic() + PATIENCE_SECONDS
    report = grown = 0.0
    before = 0
    while time.monotonic() < patience:
        there = _in_orthanc(uid, ports)
        now = time.time()
        if there.total() > before:
            before, grown = there.total(), now
        if there["SR"] and not report:
            report = now
        # Which objects there will be depends on the models installed: Ichor is asked, but not while the report is awaited.
        if report:
            study = get(f"http://127.0.0.1:{ports['console']}/api/v1/studies/{uid}")
            if study["state"] == "done" and there.total() == len(study["results"]):
                if not there["SEG"]:
                    raise SystemExit(f"the bleed was not found: {study['jobs'][-1]}")
                return report, grown, study
        time.sleep(0.01)
    raise TimeoutError(f"no report, or not all results, in Orthanc for {uid} within {PATIENCE_SECONDS} s")


def _in_orthanc(uid: str, ports: dict[str, int]) -> Counter[str]:
    """How many objects of each modality it holds of a study."""
    query = json.dumps({"Level": "Series", "Expand": True, "Query": {"StudyInstanceUID": uid}}).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{ports['http']}/tools/find", data=query)
    with urllib.request.urlopen(request, timeout=10) as answer:
        found = json.load(answer)
    there: Counter[str] = Counter()
    for series in found:
        there[series["MainDicomTags"]["Modality"]] += len(series["Instances"])
    return there


if __name__ == "__main__":
    sys.exit(main())
