"""The measurement report: TID 1500 in a Comprehensive 3D SR. What a machine reads; people get `text_report`.

A lesion is told twice: as a volumetric group on its segment, and as a planar group with its outline on the largest
slice, because viewers draw nothing of a report without coordinates.
"""

from __future__ import annotations

from collections.abc import Sequence

from highdicom.sr import (
    CodeContentItem,
    CodedConcept,
    CompositeContentItem,
    ContainerContentItem,
    ContentSequence,
    FindingSite,
    GraphicTypeValues,
    ImageRegion,
    LanguageOfContentItemAndDescendants,
    MeasurementsAndQualitativeEvaluations,
    ObservationContext,
    PlanarROIMeasurementsAndQualitativeEvaluations,
    ReferencedSegment,
    RelationshipTypeValues,
    SourceImageForRegion,
    SourceSeriesForSegmentation,
    TextContentItem,
    TrackingIdentifier,
    VolumetricROIMeasurementsAndQualitativeEvaluations,
)
from highdicom.sr import Measurement as MeasurementContent
from pydicom.sr.codedict import codes
from pydicom.uid import Comprehensive3DSRStorage

from dicom_out.codes import concept, plain, private, procedure, unit
from dicom_out.context import RESEARCH_NOTICE, ResultContext
from dicom_out.document import encode_document, observer, title_of
from dicom_out.outline import outline
from dicom_out.text_report import totals_of
from ichor.arrays import Volume
from ichor.encoding import EncodedObject
from ichor.types import FindingGroup, Measurement, Segmentation, Statement

KIND = "report"

_QUALITATIVE = CodedConcept(value="C0034375", scheme_designator="UMLS", meaning="Qualitative Evaluations")
_Group = (
    VolumetricROIMeasurementsAndQualitativeEvaluations
    | PlanarROIMeasurementsAndQualitativeEvaluations
    | MeasurementsAndQualitativeEvaluations
)


def encode_report(
    context: ResultContext,
    volume: Volume | None,
    segments: Sequence[Segmentation],
    *,
    others: Sequence[EncodedObject],
) -> EncodedObject:
    """One report; ``others`` are the objects of the same result set that it belongs to (SEG first)."""
    root = title_of(CodedConcept.from_code(codes.DCM.ImagingMeasurementReport), "1500")
    content = ContentSequence()
    content.extend(LanguageOfContentItemAndDescendants(CodedConcept("eng", "RFC5646", "English")))
    content.extend(ObservationContext(observer_device_context=observer(context)))
    content.append(
        CodeContentItem(
            name=codes.DCM.ProcedureReported,
            value=procedure(context.sources[0].modality),
            relationship_type=RelationshipTypeValues.HAS_CONCEPT_MOD,
        )
    )
    groups = _groups(context, volume, segments, others)
    if groups:
        container = ContainerContentItem(
            name=codes.DCM.ImagingMeasurements, relationship_type=RelationshipTypeValues.CONTAINS
        )
        container.ContentSequence = ContentSequence()
        for group in groups:
            container.ContentSequence.extend(group)
        content.append(container)
    content.append(_sentences(context))
    root.ContentSequence = content
    return encode_document(context, root, kind=KIND, sop_class_uid=Comprehensive3DSRStorage, also=others)


def _groups(
    context: ResultContext, volume: Volume | None, segments: Sequence[Segmentation], others: Sequence[EncodedObject]
) -> list[_Group]:
    groups: list[_Group] = []
    segmentation = next((o for o in others if o.kind == "segmentation"), None)
    for group in context.findings.groups:
        mask = group.segmentation
        if mask is None or volume is None or segmentation is None:
            if group.measurements:
                what = concept(group.finding)
                numbers = _numbers(context, group.tracking_id, group.measurements, finding=what, sites=_sites(group))
                groups.append(numbers)
            continue
        number = next(i for i, s in enumerate(segments, start=1) if s is mask)
        groups.append(_volumetric(context, group, mask, segmentation, number))
        if mask.mask_zyx.any():
            groups.append(_planar(context, group, mask, volume))
    totals = totals_of(context.findings)
    if totals:
        finding = concept(context.findings.groups[0].finding) if context.findings.groups else None
        groups.append(_numbers(context, "Total", totals, finding=finding))
    return groups


def _volumetric(
    context: ResultContext, group: FindingGroup, mask: Segmentation, segmentation: EncodedObject, number: int
) -> _Group:
    # Built by hand: highdicom's own way fails on an object with one segment, whose number lies in the shared groups.
    segment = ReferencedSegment(
        sop_class_uid=segmentation.sop_class_uid,
        sop_instance_uid=segmentation.sop_instance_uid,
        segment_number=number,
        source_series=SourceSeriesForSegmentation(context.sources[0].series_instance_uid),
    )
    return VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking(context, mask.tracking_id),
        referenced_segment=segment,
        finding_type=concept(group.finding),
        algorithm_id=context.algorithm_content(),
        finding_sites=_sites(group),
        measurements=[_measurement(m) for m in group.measurements],
    )


def _planar(context: ResultContext, group: FindingGroup, mask: Segmentation, volume: Volume) -> _Group:
    index, points = outline(mask.mask_zyx)
    source = volume.sources[index]
    region = ImageRegion(
        graphic_type=GraphicTypeValues.POLYLINE,
        graphic_data=points,
        source_image=SourceImageForRegion(
            referenced_sop_class_uid=source.sop_class_uid, referenced_sop_instance_uid=source.sop_instance_uid
        ),
    )
    return PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking(context, mask.tracking_id),
        referenced_region=region,
        finding_type=concept(group.finding),
        algorithm_id=context.algorithm_content(),
        finding_sites=_sites(group),
        measurements=[_measurement(m) for m in _first_of_each_quantity(group.measurements)],
    )


def _first_of_each_quantity(measurements: Sequence[Measurement]) -> list[Measurement]:
    """What is written beside an outline: one volume, one probability."""
    return list({m.code: m for m in reversed(measurements)}.values())[::-1]


def _numbers(
    context: ResultContext,
    tracking_id: str,
    measurements: Sequence[Measurement],
    *,
    finding: CodedConcept | None,
    sites: list[FindingSite] | None = None,
) -> _Group:
    """Numbers that belong to no region (TID 1501)."""
    return MeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking(context, tracking_id),
        finding_type=finding,
        algorithm_id=context.algorithm_content(),
        finding_sites=sites,
        measurements=[_measurement(m) for m in measurements],
    )


def _tracking(context: ResultContext, tracking_id: str) -> TrackingIdentifier:
    return TrackingIdentifier(uid=context.tracking_uid(tracking_id), identifier=plain(tracking_id, 64))


def _sites(group: FindingGroup) -> list[FindingSite] | None:
    if group.site is None:
        return None
    laterality = None if group.laterality is None else concept(group.laterality)
    return [FindingSite(anatomic_location=concept(group.site), laterality=laterality)]


def _measurement(measurement: Measurement) -> MeasurementContent:
    return MeasurementContent(
        name=concept(measurement.code),
        value=float(f"{measurement.value * measurement.report_scale:.9g}"),
        unit=unit(measurement.report_unit or measurement.unit),
        method=None if measurement.method is None else concept(private(measurement.method)),
    )


def _sentences(context: ResultContext) -> ContainerContentItem:
    """What numbers cannot say: the answer, why there is none, what was not assessed, what is amended."""
    findings = context.findings
    container = ContainerContentItem(name=_QUALITATIVE, relationship_type=RelationshipTypeValues.CONTAINS)
    container.ContentSequence = ContentSequence()
    said: list[TextContentItem | CompositeContentItem] = [
        _text(CodedConcept.from_code(codes.DCM.Impression), line) for line in findings.summary
    ]
    if findings.outcome == "not_analysed" and findings.reason:
        said.append(_text(CodedConcept.from_code(codes.DCM.Impression), f"Not analysed: {findings.reason}"))
    # Directly after the answer, where whoever reads only that reads it too.
    said.insert(1, _text(CodedConcept.from_code(codes.DCM.Impression), RESEARCH_NOTICE))
    for group in findings.groups:
        said.extend(_statement(group.tracking_id, statement) for statement in group.statements)
    said.extend(
        _text(CodedConcept.from_code(codes.DCM.Finding), f"Not assessed: {what}") for what in findings.not_assessed
    )
    for sop_class, instance in context.compared:
        said.append(
            CompositeContentItem(
                name=CodedConcept.from_code(codes.DCM.PriorReportForCurrentPatient),
                referenced_sop_class_uid=sop_class,
                referenced_sop_instance_uid=instance,
                relationship_type=RelationshipTypeValues.CONTAINS,
            )
        )
    comment = CodedConcept.from_code(codes.DCM.Comment)
    for predecessor in context.amended(KIND):
        said.append(_text(comment, f"This report amends the report {predecessor.sop_instance_uid}."))
    said.append(_text(comment, RESEARCH_NOTICE))
    container.ContentSequence.extend(said)
    return container


def _statement(tracking_id: str, statement: Statement) -> TextContentItem:
    return _text(concept(statement.code), f"{tracking_id}: {statement.text}")


def _text(name: CodedConcept, text: str) -> TextContentItem:
    return TextContentItem(name=name, value=plain(text) or "-", relationship_type=RelationshipTypeValues.CONTAINS)
