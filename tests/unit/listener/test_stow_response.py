"""What a Store transaction is answered: statuses of table 10.5.3-1, the module of annex I, JSON and XML of it."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import pytest
from pydicom.dataset import Dataset

from listener.stow_response import JSON, XML, Outcome, http_status, module, preferred

STORED = Outcome("1.2.3", "1.2.3.1", 0x0000)
FAILED = Outcome("1.2.3", "1.2.3.2", 0xA900)
NAMELESS = Outcome("", "", 0xC000)
FULL = Outcome("1.2.3", "1.2.3.3", 0xA700)


@pytest.mark.parametrize(
    ("outcomes", "whole", "status"),
    [
        ([STORED, STORED], True, 200),
        ([STORED, FAILED], True, 202),
        ([STORED, NAMELESS], True, 202),
        ([STORED], False, 202),
        ([FAILED], True, 409),
        ([NAMELESS], True, 409),
        ([FULL, FULL], True, 503),
        ([FULL, FAILED], True, 409),
        ([FULL, STORED], True, 202),
        ([], True, 400),
        ([], False, 400),
        ([FAILED], False, 400),
    ],
)
def test_status_says_what_became_of_all(outcomes: list[Outcome], whole: bool, status: int) -> None:
    assert http_status(outcomes, whole=whole) == status


def test_module_names_what_was_stored_what_failed_and_counts_what_has_no_name() -> None:
    answer = Dataset.from_json(module([STORED, FAILED, NAMELESS], JSON, whole=True))
    assert "RetrieveURL" in answer
    assert answer.RetrieveURL in ("", None)  # type 2
    (stored,), (failed,), (other,) = (
        answer.ReferencedSOPSequence,
        answer.FailedSOPSequence,
        answer.OtherFailuresSequence,
    )
    assert (stored.ReferencedSOPClassUID, stored.ReferencedSOPInstanceUID) == ("1.2.3", "1.2.3.1")
    assert "RetrieveURL" in stored
    assert (failed.ReferencedSOPInstanceUID, failed.FailureReason) == ("1.2.3.2", 0xA900)
    assert other.FailureReason == 0xC000


def test_sequences_without_items_are_absent() -> None:
    assert set(json.loads(module([STORED], JSON, whole=True))) == {"00081190", "00081199"}
    assert set(json.loads(module([FAILED], JSON, whole=True))) == {"00081190", "00081198"}


def test_a_body_that_was_not_whole_counts_as_one_more_failure() -> None:
    answer = Dataset.from_json(module([STORED], JSON, whole=False))
    assert [item.FailureReason for item in answer.OtherFailuresSequence] == [0xC000]


def test_xml_is_the_native_model_of_the_same_module() -> None:
    outcomes = [STORED, FAILED, NAMELESS, STORED]
    root = ElementTree.fromstring(module(outcomes, XML, whole=True))
    space = "{http://dicom.nema.org/PS3.19/models/NativeDICOM}"
    assert root.tag == f"{space}NativeDicomModel"

    def read(node: ElementTree.Element) -> dict[str, object]:
        found: dict[str, object] = {}
        for attribute in node.findall(f"{space}DicomAttribute"):
            items = [read(item) for item in attribute.findall(f"{space}Item")]
            values: list[object] = [value.text for value in attribute.findall(f"{space}Value")]
            entry: dict[str, object] = {"vr": attribute.attrib["vr"]}
            if items or values:
                entry["Value"] = items or [int(str(v)) if entry["vr"] == "US" else v for v in values]
            found[attribute.attrib["tag"]] = entry
        return found

    assert read(root) == json.loads(module(outcomes, JSON, whole=True))
    (sequence,) = (found for found in root if found.attrib["keyword"] == "ReferencedSOPSequence")
    assert [item.attrib["number"] for item in sequence] == ["1", "2"]


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("", JSON),
        ("*/*", JSON),
        ("application/dicom+json", JSON),
        ("application/dicom+xml", XML),
        ("application/dicom+xml, */*;q=0.1", XML),
        ("application/dicom+xml;q=0.5, application/dicom+json", JSON),
        ("application/dicom+xml, application/dicom+json", JSON),
        ("text/html", JSON),
        ("application/dicom+xml;q=nonsense,,;;", XML),
    ],
)
def test_answer_is_json_unless_xml_is_preferred(accept: str, kind: str) -> None:
    assert preferred(accept) == kind
