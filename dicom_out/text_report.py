"""The readable report: Basic Text SR in the order a radiologist reads. Says nothing that findings do not say.

Answer first, then the numbers, then what was not assessed, then who made it. Lines are short: viewers do not wrap.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable

from highdicom.sr import (
    CodeContentItem,
    CodedConcept,
    ContainerContentItem,
    ContentSequence,
    LanguageOfContentItemAndDescendants,
    ObservationContext,
    RelationshipTypeValues,
    TextContentItem,
)
from pydicom.sr.codedict import codes
from pydicom.uid import BasicTextSRStorage

from dicom_out.codes import plain, procedure
from dicom_out.context import RESEARCH_NOTICE, ResultContext
from dicom_out.document import encode_document, observer, title_of
from ichor.encoding import EncodedObject
from ichor.types import FindingGroup, Findings, Measurement

KIND = "text_report"
_WIDTH = 100

_TITLE = CodedConcept("18748-4", "LN", "Diagnostic Imaging Report")


def encode_text_report(context: ResultContext, *, others: Iterable[EncodedObject]) -> EncodedObject:
    """One text report; ``others`` are the objects of the same result set."""
    root = title_of(_TITLE, "2000")
    content = ContentSequence()
    content.extend(LanguageOfContentItemAndDescendants(CodedConcept("eng", "RFC5646", "English")))
    content.append(
        CodeContentItem(
            name=codes.DCM.ProcedureReported,
            value=procedure(context.sources[0].modality),
            relationship_type=RelationshipTypeValues.HAS_CONCEPT_MOD,
        )
    )
    content.extend(ObservationContext(observer_device_context=observer(context)))
    findings = context.findings
    for heading, name, lines in (
        (codes.LN.Impressions, codes.DCM.Impression, _impression(findings)),
        (codes.LN.Findings, codes.DCM.Finding, numbers(findings)),
        (codes.LN.Summary, codes.DCM.Finding, [f"Not assessed: {what}" for what in findings.not_assessed]),
        (codes.LN.CurrentProcedureDescriptions, codes.DCM.ProcedureDescription, _provenance(context)),
    ):
        section = _section(CodedConcept.from_code(heading), CodedConcept.from_code(name), lines)
        if section is not None:
            content.append(section)
    root.ContentSequence = content
    return encode_document(context, root, kind=KIND, sop_class_uid=BasicTextSRStorage, also=others)


def _impression(findings: Findings) -> list[str]:
    first, *others = answer(findings)
    return [first, RESEARCH_NOTICE, *others]


def answer(findings: Findings) -> list[str]:
    """The summary, with the reason where nothing was analysed."""
    lines = list(findings.summary)
    if findings.outcome == "not_analysed" and findings.reason and not any(findings.reason in line for line in lines):
        lines.insert(0, f"Not analysed: {findings.reason}.")
    return lines or {"found": ["Findings below."], "none": ["None found."]}.get(findings.outcome, ["Not analysed."])


def numbers(findings: Findings) -> list[str]:
    """One line per measurement and statement, lesions first, totals last."""
    lines: list[str] = []
    for group in findings.groups:
        lines.extend(f"{_name(group)}: {_number(m)}" for m in group.measurements)
        lines.extend(f"{_name(group)}: {statement.text}" for statement in group.statements)
    lines.extend(f"Total: {_number(m)}" for m in totals_of(findings))
    return lines


def totals_of(findings: Findings) -> tuple[Measurement, ...]:
    """Measurements of the whole study, without those that a group has said already."""
    if findings.outcome == "not_analysed":
        return ()
    known = {(m.name, m.value) for group in findings.groups for m in group.measurements}
    return tuple(m for m in findings.measurements if (m.name, m.value) not in known)


def _name(group: FindingGroup) -> str:
    where = [c.meaning for c in (group.laterality, group.site) if c is not None]
    return group.tracking_id + (f" ({', '.join(where)})" if where else "")


def _number(measurement: Measurement) -> str:
    value = measurement.value * measurement.report_scale
    unit = measurement.report_unit or measurement.unit
    # One decimal where a tenth matters, none where it would be false precision.
    digits = 0 if unit == "%" else 1 if abs(value) >= 1 else 2
    shown = f"{value:.{digits}f}" + ("" if unit == "1" else f" {unit}")
    return f"{measurement.code.meaning} {shown}" + (f" ({measurement.method})" if measurement.method else "")


def _provenance(context: ResultContext) -> list[str]:
    lines = [f"This report amends the report {o.sop_instance_uid}." for o in context.amended(KIND)]
    lines += [f"Compared with the report {instance}." for _, instance in context.compared]
    count = len(context.sources)
    lines.append(f"Images used: {count}." if context.findings.outcome != "not_analysed" else "No image was analysed.")
    return [*lines, *context.provenance(), RESEARCH_NOTICE]


def _section(heading: CodedConcept, name: CodedConcept, lines: Iterable[str]) -> ContainerContentItem | None:
    items = [
        TextContentItem(name=name, value=short, relationship_type=RelationshipTypeValues.CONTAINS)
        for line in lines
        for short in textwrap.wrap(plain(line), _WIDTH, break_long_words=False)
    ]
    if not items:
        return None
    section = ContainerContentItem(name=heading, relationship_type=RelationshipTypeValues.CONTAINS)
    section.ContentSequence = ContentSequence(items)
    return section
