"""A head CT pushed by Debian's storescu comes back into Debian's Orthanc, in the same study."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from e2e.orthanc import Orthanc
from e2e.site import Site

from engines.catalogue import has_model
from phantoms.ct_study import write_ct_head
from pipelines.expansion import MODEL as EXPANSION_MODEL


def storescu(program: str, folder: Path, port: int, *, called: str = "ICHOR") -> None:
    subprocess.run(
        [program, "-aec", called, "+sd", "+r", "127.0.0.1", str(port), str(folder / "dicom")],
        check=True, capture_output=True, timeout=240,
    )  # fmt: skip


def test_storescu_to_orthanc(site: Site, orthanc: Orthanc, peer: Callable[[str, str], str], tmp_path: Path) -> None:
    program = peer("storescu", "dcmtk")
    write_ct_head(tmp_path / "head", seed=20_001, bleed=30.0, slices=30)
    truth = json.loads((tmp_path / "head" / "truth.json").read_text())
    site.add_destination(0, name="pacs", ae_title=orthanc.ae_title, port=orthanc.dicom_port)
    site.start()
    storescu(program, tmp_path / "head", site.listener_port)
    uid = truth["study_instance_uid"]
    study = site.wait_study(uid)
    assert study["state"] == "done"

    (job,) = study["jobs"]
    (soft,) = (s["series_instance_uid"] for s in truth["series"] if "ncct_head" in s["roles"])
    assert job["input_series"] == [soft] or job["input_series"] == soft
    volume = next(m["value"] for m in job["measurements"] if m["name"] == "haematoma_volume")
    assert volume == pytest.approx(sum(lesion["volume_ml"] for lesion in truth["lesions"]), rel=0.3)

    there = orthanc.instances(uid)
    assert {i["SOPInstanceUID"] for i in there} == {r["sop_instance_uid"] for r in study["results"]}
    kinds = Counter(r["kind"] for r in study["results"])
    overlays = kinds.pop("overlay", 0)
    # With a classifier of expansion installed: its attention as a second map and on each of the slices it looked at.
    judged = any(m["name"] == "expansion_probability" for m in job["measurements"])
    assert judged == has_model(EXPANSION_MODEL)
    assert kinds == {"segmentation": 1, "parametric_map": 1 + (overlays > 0), "report": 1, "text_report": 1}
    assert overlays <= (3 if judged else 0)
    modalities = Counter(i["Modality"] for i in there)
    assert (modalities["SEG"], modalities["SR"]) == (1, 2)
    assert all(d["state"] == "sent" for r in study["results"] for d in r["deliveries"])

    by_uid = {s["series_instance_uid"]: s for s in study["series"]}
    assert by_uid[soft]["roles"] == ["ncct_head"]
    assert all(s["complete"] for s in by_uid.values())
    assert np.all([s["reason"] for uid, s in by_uid.items() if uid != soft])


def test_the_real_philips_phantom_is_answered_no_brain_found(site: Site, real_data: Callable[[str], Path]) -> None:
    folder = real_data("ct_head_phantom_philips_28x5mm")
    site.start()
    site.push(folder)
    (study,) = _one(site)
    assert study["state"] == "done"
    (series,) = [s for s in study["series"] if s["roles"]]
    assert series["grade"] == "regular"
    assert series["instances"] == 28
    (job,) = study["jobs"]
    assert job["state"] == "done"
    assert "no brain found" in job["reason"]
    assert job["measurements"] == []


def _one(site: Site) -> list[dict]:
    site.until(lambda: len(site.request("/api/v1/studies")[1]) == 1, timeout=240, what="one study")
    uid = site.request("/api/v1/studies")[1][0]["study_instance_uid"]
    return [site.wait_study(uid)]


def test_a_stat_ae_title_makes_the_study_stat(site: Site, tmp_path: Path) -> None:
    site.env["ICHOR_LISTENER__STAT_AE_TITLES"] = '["ICHOR_STAT"]'
    site.start()
    write_ct_head(tmp_path / "head", seed=20_002, bleed="none", slices=20, matrix=128, series={"soft"})
    site.push(tmp_path / "head", called="ICHOR_STAT")
    assert _one(site)[0]["priority"] == "STAT"
    refused = site.ichor("push", str(tmp_path / "head"), "--to", f"WRONG@127.0.0.1:{site.listener_port}", check=False)
    assert refused.returncode == 1
