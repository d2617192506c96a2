"""kill -9 of any process at random points over a stream of studies: nothing acknowledged is lost, nothing doubled."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pydicom
import pytest
from e2e.site import Site
from e2e.stream import Modality, data_set_bytes, many_studies

from dicom_out.demo_pacs import DemoPacs


def processes(site: Site) -> list[int]:
    """The supervisor and its children."""
    assert site.process is not None
    pid = site.process.pid
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except FileNotFoundError:
        children = []
    return [pid, *map(int, children)]


def kill_many(site: Site, *, faults: int, studies: int, tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    folder = tmp_path / "in"
    folder.mkdir()
    paths = many_studies(folder, studies)
    with DemoPacs() as pacs:
        site.add_destination(0, name="pacs", ae_title=pacs.ae_title, port=pacs.port)
        site.start()
        finished = threading.Event()
        modality = Modality(paths, site.listener_port, finished)
        modality.start()
        for _ in range(faults):
            # The moment of the fault is the random variable of this test, not a wait for something.
            threading.Event().wait(chance.uniform(0.1, 1.5))
            victim = chance.choice(processes(site))
            assert site.process is not None
            os.kill(victim, signal.SIGKILL)
            if victim == site.process.pid:
                site.process.wait()
                site.start(wait=False)
        modality.join(timeout=600)
        assert finished.is_set(), "the modality could not send everything"
        site.wait_ready()
        by_study = {pydicom.dcmread(p[0], stop_before_pixels=True).StudyInstanceUID: p for p in paths}
        for uid in by_study:
            assert site.wait_study(uid)["state"] == "done"
        check_nothing_lost(site, by_study, modality.acknowledged, tmp_path / "out")
        check_nothing_doubled(site, by_study, pacs)


def check_nothing_lost(site: Site, studies: dict[str, list[Path]], acknowledged: set[Path], out: Path) -> None:
    assert acknowledged == {p for paths in studies.values() for p in paths}
    for uid, paths in studies.items():
        site.ichor("export", uid, "--out", str(out / uid))
        stored = sorted(data_set_bytes(p) for p in (out / uid).rglob("*.dcm"))
        assert stored == sorted(data_set_bytes(p) for p in paths)


def check_nothing_doubled(site: Site, studies: dict[str, list[Path]], pacs: DemoPacs) -> None:
    """One current result set a study: what another report names as its predecessor is not current."""
    for uid in studies:
        objects = [o for o in pacs.received.values() if o.StudyInstanceUID == uid]
        reports = [o for o in objects if o.SOPClassUID == "1.2.840.10008.5.1.4.1.1.88.34"]
        replaced = {
            item.ReferencedSOPInstanceUID
            for report in reports
            for study in report.get("PredecessorDocumentsSequence", [])
            for series in study.ReferencedSeriesSequence
            for item in series.ReferencedSOPSequence
        }
        current = [r for r in reports if r.SOPInstanceUID not in replaced]
        assert len(current) == 1, uid
        study = site.study(uid)
        assert study is not None
        inside = {r["sop_instance_uid"] for r in study["results"]}
        assert {o.SOPInstanceUID for o in objects} >= inside
        assert len({r["sop_instance_uid"] for r in study["results"]}) == len(study["results"])


def test_nothing_is_lost_or_doubled_under_kill(site: Site, tmp_path: Path) -> None:
    kill_many(site, faults=5, studies=4, tmp_path=tmp_path, seed=1)


@pytest.mark.soak
def test_nothing_is_lost_or_doubled_under_fifty_kills(site: Site, tmp_path: Path) -> None:
    kill_many(site, faults=50, studies=30, tmp_path=tmp_path, seed=2)


def test_results_wait_for_a_destination_that_is_away(site: Site, tmp_path: Path, free_port: Callable[[], int]) -> None:
    port = free_port()
    site.add_destination(0, name="pacs", ae_title="DEMOPACS", port=port)
    site.start()
    (tmp_path / "in").mkdir()
    (paths,) = many_studies(tmp_path / "in", 1)
    finished = threading.Event()
    modality = Modality([paths], site.listener_port, finished)
    modality.start()
    assert finished.wait(240), "the modality could not send everything"
    uid = pydicom.dcmread(paths[0], stop_before_pixels=True).StudyInstanceUID
    study = site.wait_study(uid, states=("sending",))
    deliveries = [d for r in study["results"] for d in r["deliveries"]]
    assert deliveries
    assert {d["state"] for d in deliveries} == {"pending"}
    with DemoPacs(port=port, ae_title="DEMOPACS") as pacs:
        study = site.wait_study(uid)
        assert study["state"] == "done"
        assert {r["sop_instance_uid"] for r in study["results"]} == set(pacs.received)
