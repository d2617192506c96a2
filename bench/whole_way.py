"""Time from the last C-STORE response to the report in the destination (Debian's Orthanc), 40 x 512 x 512 head CT.

Goal: all but the network (stage infer) <= 1 s, median of five studies.
"""

from __future__ import annotations

import json
import shutil
import signal
import statistics
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import pydicom
from pydicom.uid import generate_uid

from bench._site import free_ports, get, start_ichor, start_orthanc, wait
from phantoms.ct_study import write_ct_head

GOAL_SECONDS = 1.0
RUNS = 5
OBJECTS = 4  # segmentation, map, report, text report


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
    rows, rests = [], []
    for run in range(RUNS + 1):
        paths, uid = _fresh_copy(folder / "head" / "dicom", folder / f"run{run}")
        _push(paths, ports["listener"])
        answered = time.time()
        arrived, all_there = _arrivals(uid, ports)
        study = get(f"http://127.0.0.1:{ports['console']}/api/v1/studies/{uid}")
        seconds = study["jobs"][-1]["seconds"]
        if run:  # the first one warms caches
            rows.append({"to report": arrived - answered, "to all": all_there - answered} | seconds)
            rests.append(arrived - answered - seconds["infer"])
    stages = sorted({stage for row in rows for stage in row})
    for stage in stages:
        values = [row.get(stage, 0.0) for row in rows]
        print(f"{stage:>10}: median {statistics.median(values):6.3f} s  (min {min(values):.3f}, max {max(values):.3f})")
    rest = statistics.median(rests)
    print(f"all but the network: median {rest:.3f} s, goal <= {GOAL_SECONDS:.1f} s")
    return 0 if rest <= GOAL_SECONDS else 1


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


def _arrivals(uid: str, ports: dict[str, int]) -> tuple[float, float]:
    """POSIX times when a report, and when all four objects (a series each), were seen in Orthanc."""
    patience = time.monotonic() + 60
    lookup = f"http://127.0.0.1:{ports['http']}/tools/find"
    query = json.dumps({"Level": "Series", "Expand": True, "Query": {"StudyInstanceUID": uid}}).encode()
    report = 0.0
    while time.monotonic() < patience:
        with urllib.request.urlopen(urllib.request.Request(lookup, data=query), timeout=10) as answer:
            modalities = [series["MainDicomTags"]["Modality"] for series in json.load(answer)]
        if "SR" in modalities and not report:
            report = time.time()
        if len(modalities) >= OBJECTS:
            return report, time.time()
        time.sleep(0.01)
    raise TimeoutError(f"no report in Orthanc for {uid} within 60 s")


if __name__ == "__main__":
    sys.exit(main())
