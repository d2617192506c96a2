"""Storage commitment with peers that ask for it: Debian's Orthanc, and a sender that is not there for the report."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from e2e.orthanc import Orthanc
from e2e.sender import send
from e2e.site import Site
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE, build_role, evt
from requestor import associate
from unit.listener.modality import CT, EXPLICIT, encode, image

from ichor.store.filemeta import file_meta

SOP_CLASS = "1.2.840.10008.1.20.1"
SOP_INSTANCE = "1.2.840.10008.1.20.1.1"
SOPS = tuple(f"1.2.3.4.{n}" for n in range(1, 4))
UNKNOWN = "1.2.3.4.99"


def part10(sop: str) -> bytes:
    head = file_meta(sop_class_uid=CT, sop_instance_uid=sop, transfer_syntax_uid=EXPLICIT)
    return bytes(head) + encode(image(sop))


@dataclass
class OrthancUser:
    """Orthanc as the user of the service; Ichor is its modality ``ichor``."""

    orthanc: Orthanc

    def call(self, method: str, path: str, body: Any) -> Any:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        url = f"http://127.0.0.1:{self.orthanc.http_port}{path}"
        with urllib.request.urlopen(urllib.request.Request(url, data=data, method=method), timeout=60) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def send_all(self, site: Site) -> None:
        self.call("PUT", "/modalities/ichor", {"AET": "ICHOR", "Host": "127.0.0.1", "Port": site.listener_port})
        held = [self.call("POST", "/instances", part10(sop))["ID"] for sop in SOPS]
        self.call("POST", "/modalities/ichor/store", held)

    def ask(self, *sops: str) -> str:
        """The Transaction UID."""
        named = [{"SOPClassUID": CT, "SOPInstanceUID": sop} for sop in sops]
        answer = self.call("POST", "/modalities/ichor/storage-commitment", {"DicomInstances": named})
        return str(answer["ID"])

    def report(self, site: Site, transaction: str) -> dict[str, Any]:
        """The report, once it has come."""
        found: dict[str, Any] = {}

        def there() -> bool:
            found.update(self.orthanc.get(f"/storage-commitment/{transaction}"))
            return bool(found["Status"] != "Pending")

        site.until(there, timeout=240, what=lambda: f"a report: {found}")
        return found


def told(report: dict[str, Any]) -> tuple[str, set[str], dict[str, int]]:
    """Status, committed SOP Instance UIDs, failed ones with their reasons."""
    committed = {item["SOPInstanceUID"] for item in report.get("Success", ())}
    return report["Status"], committed, {i["SOPInstanceUID"]: i["FailureReason"] for i in report.get("Failures", ())}


def knows(site: Site, *, title: str, port: int) -> None:
    prefix = "ICHOR_SENDERS__0__"
    site.env |= {prefix + "AE_TITLE": title, prefix + "HOST": "127.0.0.1", prefix + "PORT": str(port)}


def test_orthanc_is_told_what_is_committed_and_what_was_never_here(site: Site, orthanc: Orthanc) -> None:
    knows(site, title=orthanc.ae_title, port=orthanc.dicom_port)
    site.env["ICHOR_LISTENER__COMMITMENT"] = "true"
    site.start()
    user = OrthancUser(orthanc)
    user.send_all(site)
    assert told(user.report(site, user.ask(*SOPS))) == ("Success", set(SOPS), {})
    partly = user.report(site, user.ask(SOPS[0], UNKNOWN))
    assert told(partly) == ("Failure", {SOPS[0]}, {UNKNOWN: 0x0112})


def test_orthanc_is_told_by_ichor_receive_alone(site: Site, orthanc: Orthanc) -> None:
    knows(site, title=orthanc.ae_title, port=orthanc.dicom_port)
    site.env["ICHOR_LISTENER__COMMITMENT"] = "true"
    site.command = "receive"  # a process that refuses to import numpy
    site.start(wait=False)
    roles = [site.folder / "data" / "run" / f"{role}.ready" for role in ("receive", "relay")]
    site.until(lambda: all(role.exists() for role in roles), timeout=240, what="both roles")
    user = OrthancUser(orthanc)
    user.send_all(site)
    assert told(user.report(site, user.ask(*SOPS, UNKNOWN))) == ("Failure", set(SOPS), {UNKNOWN: 0x0112})


def test_orthanc_is_told_that_nothing_is_committed_while_it_is_off(site: Site, orthanc: Orthanc) -> None:
    knows(site, title=orthanc.ae_title, port=orthanc.dicom_port)
    site.start()
    user = OrthancUser(orthanc)
    user.send_all(site)
    assert told(user.report(site, user.ask(*SOPS))) == ("Failure", set(), dict.fromkeys(SOPS, 0x0110))


def test_orthanc_is_refused_at_once_where_no_report_can_go(site: Site, orthanc: Orthanc) -> None:
    site.start()
    user = OrthancUser(orthanc)
    user.send_all(site)
    with pytest.raises(urllib.error.HTTPError):
        user.ask(*SOPS)
    assert "status=0x0110" in site.log()


def test_a_report_comes_though_all_of_ichor_was_killed_after_the_decision(
    site: Site, free_port: Callable[[], int], tmp_path: Path
) -> None:
    port = free_port()
    knows(site, title="CT1", port=port)
    site.env["ICHOR_LISTENER__COMMITMENT"] = "true"
    site.start()
    (tmp_path / "one.dcm").write_bytes(part10(SOPS[0]))
    assert send([tmp_path / "one.dcm"], site.listener_port) == [0x0000]
    assert ask(site.listener_port, SOPS[0], UNKNOWN) == 0x0000
    site.until(lambda: "not reported, again in" in site.log(), timeout=240, what="an attempt in vain")
    site.kill()

    reports: list[Dataset] = []

    def take(event: evt.Event) -> tuple[int, None]:
        reports.append(event.event_information)
        return 0x0000, None

    entity = AE(ae_title="CT1")
    entity.add_supported_context(SOP_CLASS, scu_role=True, scp_role=True)
    server = entity.start_server(("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_N_EVENT_REPORT, take)])
    try:
        assert reports == []
        site.start()
        site.until(lambda: bool(reports), timeout=240, what="the report")
    finally:
        server.shutdown()
    (report,) = reports
    assert report.TransactionUID == "1.2.9.1"
    assert [item.ReferencedSOPInstanceUID for item in report.ReferencedSOPSequence] == [SOPS[0]]
    assert [(i.ReferencedSOPInstanceUID, i.FailureReason) for i in report.FailedSOPSequence] == [(UNKNOWN, 0x0112)]


def ask(port: int, *sops: str) -> int:
    """N-ACTION of a sender; the status."""
    request = Dataset()
    request.TransactionUID = "1.2.9.1"
    items = []
    for sop in sops:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = CT, sop
        items.append(item)
    request.ReferencedSOPSequence = items
    entity = AE(ae_title="CT1")
    entity.add_requested_context(SOP_CLASS, ExplicitVRLittleEndian)
    association = associate(entity, port, ext_neg=[build_role(SOP_CLASS, scu_role=True)])
    assert association.is_established
    status, _ = association.send_n_action(request, 1, SOP_CLASS, SOP_INSTANCE)
    association.release()
    return int(status.Status)
