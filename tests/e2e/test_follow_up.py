"""Two head CTs of one patient, in either order: the later one's report compares, cites and shows the earlier."""

from __future__ import annotations

import io
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom
import pytest
from e2e.orthanc import Orthanc
from e2e.site import Site

from phantoms.ct_study import Truth, write_ct_head, write_follow_up


@dataclass(frozen=True)
class Pair:
    """A patient's two studies on disk."""

    first: Path
    second: Path
    truth: tuple[Truth, Truth]

    @property
    def uids(self) -> tuple[str, str]:
        return self.truth[0].study_instance_uid, self.truth[1].study_instance_uid


def pair(folder: Path, *, seed: int) -> Pair:
    first, second = folder / f"{seed}-first", folder / f"{seed}-second"
    one = write_ct_head(first, seed=seed, bleed=25.0, slices=32, matrix=256, series={"soft"})
    return Pair(first, second, (one, write_follow_up(second, first=first, seed=3, slices=40, series={"soft"})))


def test_the_later_study_is_compared_in_whatever_order_they_come(
    site: Site, orthanc: Orthanc, peer: Callable[[str, str], str], tmp_path: Path
) -> None:
    checker = peer("dciodvfy", "dicom3tools")
    site.add_destination(0, name="pacs", ae_title=orthanc.ae_title, port=orthanc.dicom_port)
    site.start()
    in_order, reversed_ = pair(tmp_path, seed=20_614), pair(tmp_path, seed=20_612)

    site.push(in_order.first)
    site.wait_study(in_order.uids[0])
    site.push(in_order.second)
    assert len(check(in_order, site, orthanc, revision=1)["jobs"]) == 1

    site.push(reversed_.second)
    alone = site.wait_study(reversed_.uids[1])
    assert not [m for m in alone["jobs"][-1]["measurements"] if m["name"].startswith("haematoma_growth")]
    site.push(reversed_.first)
    later = check(reversed_, site, orthanc, revision=2)
    # What went out first is amended, and named by what amends it.
    before = {r["sop_instance_uid"] for r in alone["results"] if r["kind"] == "report"}
    (report,) = [r for r in current(later, "report") if r["sop_instance_uid"] not in before]
    stored = reports(orthanc, later["study_instance_uid"])[report["sop_instance_uid"]]
    named = [
        reference.ReferencedSOPInstanceUID
        for study in stored.PredecessorDocumentsSequence
        for series in study.ReferencedSeriesSequence
        for reference in series.ReferencedSOPSequence
    ]
    assert set(named) == before

    # Nothing was computed twice: four heads, four runs of the network.
    metrics = site.request("/metrics")[1].decode()
    runs = [line for line in metrics.splitlines() if line.startswith('ichor_stage_seconds_count{stage="infer"')]
    assert sum(float(line.rpartition(" ")[2]) for line in runs) == 4

    for uid in (in_order.uids[1], reversed_.uids[1]):
        for instance in orthanc.instances(uid):
            file = tmp_path / f"{instance['SOPInstanceUID']}.dcm"
            file.write_bytes(orthanc.file(instance["ID"]))
            said = subprocess.run([checker, str(file)], capture_output=True, text=True, timeout=60).stderr
            errors = [line for line in said.splitlines() if line.startswith("Error")]
            assert not errors, f"{instance['Modality']}: {errors}"


def check(sent: Pair, site: Site, orthanc: Orthanc, *, revision: int) -> dict[str, Any]:
    """The later study's answer: growth, citations, a picture of both; the earlier one's says nothing of it."""
    earlier, later = sent.uids
    first, study = site.wait_study(earlier), site.wait_study(later, revision=revision)
    assert (first["state"], study["state"], first["revision"]) == ("done", "done", 1)
    assert len(first["jobs"]) == 1
    numbers = {m["name"]: m["value"] for m in study["jobs"][-1]["measurements"]}
    before = {m["name"]: m["value"] for m in first["jobs"][-1]["measurements"]}
    assert numbers["haematoma_growth"] == pytest.approx(numbers["haematoma_volume"] - before["haematoma_volume"])
    percent = 100 * numbers["haematoma_growth"] / before["haematoma_volume"]
    assert numbers["haematoma_growth_percent"] == pytest.approx(percent)
    assert "haematoma_growth" not in before
    assert any("h earlier" in image["caption"] for image in study["images"])

    (report,) = current(study, "report")
    stored = reports(orthanc, later)[report["sop_instance_uid"]]
    cited = {
        (evidence.StudyInstanceUID, reference.ReferencedSOPInstanceUID)
        for evidence in stored.PertinentOtherEvidenceSequence
        for series in evidence.ReferencedSeriesSequence
        for reference in series.ReferencedSOPSequence
    }
    assert {uid for uid, _ in cited} == {earlier}
    assert {uid for _, uid in cited} >= {r["sop_instance_uid"] for r in first["results"]}
    text = reports(orthanc, later)[current(study, "text_report")[0]["sop_instance_uid"]].to_json()
    assert "xpansion by the rule" in text
    assert sum(r["kind"] == "overlay" for r in study["results"]) >= 1
    page = site.request(f"/studies/{later}")[1].decode()
    assert f'href="/studies/{earlier}"' in page
    return study


def current(study: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    """The newest of a kind: the current revision's come first."""
    found = [r for r in study["results"] if r["kind"] == kind]
    return found[:1]


def reports(orthanc: Orthanc, uid: str) -> dict[str, pydicom.Dataset]:
    return {
        i["SOPInstanceUID"]: pydicom.dcmread(io.BytesIO(orthanc.file(i["ID"])))
        for i in orthanc.instances(uid)
        if i["Modality"] == "SR"
    }
