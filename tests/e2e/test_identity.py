"""A study re-sent with a corrected name and birth date: what the PACS holds in the end is right, and nothing is mixed.

Before, during and after its analysis, in every manner of sending; each case is a study of its own at one site, and all
cases of a test go on at the same time.
"""

from __future__ import annotations

import io
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import pydicom
import pytest
from e2e.orthanc import Orthanc
from e2e.sender import send
from e2e.site import Site
from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import generate_uid

from engines.catalogue import has_model
from ichor.reasons import Reason
from ichor.series.evidence import DEFAULT_QUIET
from phantoms.ct_study import write_ct_head
from pipelines.expansion import MODEL as EXPANSION_MODEL

OLD = ("Mistaken^Name", "19000101")
NEW = ("Corrected^Name", "19511123")
MOMENTS = ("before", "during", "after")
WAYS = ("wholly", "slice by slice", "interleaved", "half, then a stop")
STOP = DEFAULT_QUIET + 3.0  # longer than the quiet time after which a half-corrected study is looked at as it is
# Segmentation, Parametric Map, both reports; of what an installed classifier of expansion adds, only the overlay is new.
_ANSWER = {f"1.2.840.10008.5.1.4.1.1.{n}" for n in ("66.4", "30", "88.34", "88.11")}
_JUDGED = {"1.2.840.10008.5.1.4.1.1.7"} if has_model(EXPANSION_MODEL) else set()
_REPORTS = ("1.2.840.10008.5.1.4.1.1.88.34", "1.2.840.10008.5.1.4.1.1.88.11", "1.2.840.10008.5.1.4.1.1.88.33")


@dataclass(frozen=True)
class Case:
    moment: str
    way: str

    def __str__(self) -> str:
        return f"{self.moment}, {self.way}"


@dataclass
class Sent:
    """One study as files under either identity, in one order."""

    uid: str
    old: list[Path]
    new: list[Path]


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> list[FileDataset]:
    folder = tmp_path_factory.mktemp("head")
    write_ct_head(folder, seed=20_530, bleed=35.0, slices=32, matrix=256, series={"soft"})
    return [pydicom.dcmread(p) for p in sorted((folder / "dicom").rglob("*.dcm"))]


def study_of(head: Sequence[FileDataset], folder: Path) -> Sent:
    """The head as a new study, each slice written under the old and under the new identity."""
    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    made = Sent(study, [], [])
    for n, source in enumerate(head):
        item = deepcopy(source)
        item.StudyInstanceUID, item.SeriesInstanceUID, item.FrameOfReferenceUID = study, series, frame
        item.SOPInstanceUID = item.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        item.PatientID = "IDENTITY-1"
        for (item.PatientName, item.PatientBirthDate), kind, paths in ((OLD, "old", made.old), (NEW, "new", made.new)):
            path = folder / kind / f"{n:03d}.dcm"
            path.parent.mkdir(parents=True, exist_ok=True)
            item.save_as(path, enforce_file_format=True)
            paths.append(path)
    return made


def test_a_corrected_identity(site: Site, orthanc: Orthanc, head: list[FileDataset], tmp_path: Path) -> None:
    """The cases that differ most; `make soak` runs all."""
    correct(
        [
            Case("before", "slice by slice"),
            Case("during", "wholly"),
            Case("during", "half, then a stop"),
            Case("after", "interleaved"),
            Case("after", "half, then a stop"),
        ],
        site, orthanc, head, tmp_path,
    )  # fmt: skip


@pytest.mark.soak
def test_a_corrected_identity_at_every_moment_in_every_way(
    site: Site, orthanc: Orthanc, head: list[FileDataset], tmp_path: Path
) -> None:
    correct([Case(*c) for c in product(MOMENTS, WAYS)], site, orthanc, head, tmp_path)


def correct(cases: Sequence[Case], site: Site, orthanc: Orthanc, head: list[FileDataset], folder: Path) -> None:
    site.add_destination(0, name="pacs", ae_title=orthanc.ae_title, port=orthanc.dicom_port)
    site.start()
    turn = threading.Lock()
    studies = [study_of(head, folder / f"case-{n}") for n in range(len(cases))]

    def play(case: Case, sent: Sent) -> None:
        _Play(case, sent, site, orthanc, turn).run()

    with ThreadPoolExecutor(len(cases) + 1) as pool:
        ends = [pool.submit(play, *pair) for pair in zip(cases, studies, strict=True)]
        ends.append(pool.submit(only_one_slice, study_of(head, folder / "one"), site, orthanc))
        for ended in ends:
            ended.result()
    assert runs_of_the_network(site) == len(ends)


class _Play:
    """One case from its first slice to what the PACS holds in the end."""

    def __init__(self, case: Case, sent: Sent, site: Site, orthanc: Orthanc, turn: threading.Lock) -> None:
        self.case, self.sent, self.site, self.orthanc, self.turn = case, sent, site, orthanc, turn
        self.half = len(sent.old) // 2

    def run(self) -> None:
        {"before": self.before, "during": self.during, "after": self.after}[self.case.moment]()
        check_the_end(self.case, self.sent, self.site, self.orthanc)

    def before(self) -> None:
        self.send(self.sent.old[: self.half])
        self.correct()

    def during(self) -> None:
        # The worker is stopped while it is at this study, so that the correction surely comes meanwhile.
        with self.turn:
            self.send(self.sent.old)
            self.site.wait_study(self.sent.uid, states=("running",))
            with stopped_worker(self.site):
                state = (self.site.study(self.sent.uid) or {})["state"]
                assert state == "running", f"{self.case}: the analysis was over before the correction began ({state})"
                rest = self.begin()
                heard = self.site.study(self.sent.uid)
                assert heard is not None
        rest()

    def after(self) -> None:
        self.send(self.sent.old)
        study = self.site.wait_study(self.sent.uid)
        assert study["state"] == "done", f"{self.case}: {study['reason']}"
        assert set(identities(self.orthanc, self.sent.uid).values()) == {OLD}
        self.correct()

    def correct(self) -> None:
        self.begin()()

    def begin(self) -> Callable[[], None]:
        """Send what comes at once of the correction; what is left to do."""
        new = self.sent.new
        if self.case.way == "wholly":
            self.send(new)
        elif self.case.way == "slice by slice":
            for path in reversed(new[:-2]):
                self.send([path])
            return lambda: self.send(new[-2:])
        elif self.case.way == "interleaved":
            with ThreadPoolExecutor(3) as pool:
                list(pool.map(lambda part: self.send(new[part::3], calling=f"PACS{part}"), range(3)))
        else:
            self.send(new[: self.half])
            return self.stop_then_rest
        return lambda: None

    def stop_then_rest(self) -> None:
        """For longer than anything waits, half of the study has another name: nothing goes out, and it shows."""
        before = identities(self.orthanc, self.sent.uid)
        # The wait is what is tested here.
        time.sleep(STOP)
        if self.case.moment == "before":
            # All that comes of it now has the new name: a report may say that the rest is missing.
            since = identities(self.orthanc, self.sent.uid).items() - before.items()
            assert OLD not in dict(since).values()
        else:
            study = self.site.wait_study(self.sent.uid, states=("failed",))
            assert Reason.IDENTITY_MISMATCH in study["reason"], f"{self.case}: {study['reason']}"
            assert identities(self.orthanc, self.sent.uid) == before
        self.send(self.sent.new[self.half :])

    def send(self, paths: Sequence[Path], *, calling: str = "CT1") -> None:
        assert set(send(paths, self.site.listener_port, calling=calling)) == {0}, str(self.case)


@contextmanager
def stopped_worker(site: Site) -> Iterator[None]:
    pid = int((site.folder / "data" / "run" / "work.ready").read_text())
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def objects(orthanc: Orthanc, uid: str) -> list[Dataset]:
    return [pydicom.dcmread(io.BytesIO(orthanc.file(i["ID"]))) for i in orthanc.instances(uid)]


def whose(item: Dataset) -> tuple[str, str]:
    return str(item.PatientName), str(item.PatientBirthDate)


def identities(orthanc: Orthanc, uid: str) -> dict[str, tuple[str, str]]:
    """SOP Instance UID -> whose it is, of all that the PACS holds of a study."""
    return {str(item.SOPInstanceUID): whose(item) for item in objects(orthanc, uid)}


def check_the_end(case: Case, sent: Sent, site: Site, orthanc: Orthanc) -> None:
    uid = sent.uid

    def over() -> bool:
        # A sender that pauses for long has its study answered with what there is of it, and again when the rest came:
        # such a first end (reports that name missing slices) is not the one that is looked at.
        study = site.study(uid)
        if study is None or study["state"] != "done" or sum(s["instances"] for s in study["series"]) < len(sent.new):
            return False
        return {str(item.SOPClassUID) for item in objects(orthanc, uid) if whose(item) == NEW} >= _ANSWER

    site.until(over, timeout=600, what=lambda: f"{case}: {site.study(uid)}")
    study = site.study(uid)
    assert study is not None
    there = objects(orthanc, uid)
    for item in there:
        assert whose(item) in (OLD, NEW), f"{case}: {item.SOPInstanceUID} is of a mixed identity: {whose(item)}"
    replaced = {cited for item in there for cited in amended_by(item)}
    current = [item for item in there if item.SOPInstanceUID not in replaced]
    places = [(item.SOPClassUID, item.SeriesNumber, item.InstanceNumber) for item in current]
    assert len(set(places)) == len(places), f"{case}: {places}"
    classes = {str(item.SOPClassUID) for item in current}
    assert _ANSWER <= classes <= _ANSWER | _JUDGED, f"{case}: {classes}"
    assert {whose(item) for item in current} == {NEW}, str(case)
    old = {str(item.SOPInstanceUID) for item in there if whose(item) == OLD}
    assert replaced <= {str(item.SOPInstanceUID) for item in there}, f"{case}: amends what was never sent"
    assert old <= replaced, f"{case}: what has the old name is not amended"
    if case.moment == "before":
        # Where the sender paused for long before it corrected anything, reports said what was missing; nothing was measured.
        assert {str(i.SOPClassUID) for i in there if whose(i) == OLD} <= set(_REPORTS), str(case)
    else:
        assert bool(old) is (case.moment == "after"), f"{case}: {len(old)} objects under the old name"
    deliveries = {(r["sop_instance_uid"], d["state"], d["reason"]) for r in study["results"] for d in r["deliveries"]}
    assert {(s, why) for _, s, why in deliveries} <= {("sent", None), ("held", Reason.IDENTITY_MISMATCH.value)}, case
    assert {uid for uid, state, _ in deliveries if state == "sent"} == {str(i.SOPInstanceUID) for i in there}, case
    inferred = [j for j in study["jobs"] if j["seconds"].get("infer", 0.0) > 0.0]
    assert len(inferred) == 1, f"{case}: {study['jobs']}"


def amended_by(item: Dataset) -> Iterator[str]:
    """What a report names as its predecessors (PS3.3 C.17.2), or an image as those it was made in place of."""
    if item.SOPClassUID in _REPORTS:
        for study in item.get("PredecessorDocumentsSequence", []):
            for series in study.ReferencedSeriesSequence:
                yield from (str(r.ReferencedSOPInstanceUID) for r in series.ReferencedSOPSequence)
    else:
        yield from (str(r.ReferencedSOPInstanceUID) for r in item.get("ReferencedInstanceSequence", []))


def runs_of_the_network(site: Site) -> float:
    """How often the stage `infer` was measured, over all studies of the site."""
    _, text = site.request("/metrics")
    lines = [line for line in text.decode().splitlines() if line.startswith('ichor_stage_seconds_count{stage="infer"')]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


def only_one_slice(sent: Sent, site: Site, orthanc: Orthanc) -> None:
    """One slice alone comes under another name: no second analysis, nothing more goes out, and a person is told."""
    assert set(send(sent.old, site.listener_port)) == {0}
    first = site.wait_study(sent.uid)
    there = identities(orthanc, sent.uid)
    assert set(send(sent.new[5:6], site.listener_port)) == {0}
    second = site.wait_study(sent.uid, states=("failed",), revision=first["revision"] + 1)
    assert Reason.IDENTITY_MISMATCH in second["reason"]
    assert identities(orthanc, sent.uid) == there
