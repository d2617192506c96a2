"""The frame of an SR document (PS3.3 A.35): modules, evidence and predecessors around a content tree it does not know."""

from __future__ import annotations

from collections.abc import Iterable

from highdicom.sr import CodedConcept, ContainerContentItem, DeviceObserverIdentifyingAttributes, ObserverContext
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from dicom_out.codes import plain
from dicom_out.context import MANUFACTURER, ResultContext
from ichor.encoding import EncodedObject

# study, series, class, instance
Reference = tuple[str, str, str, str]


def encode_document(
    context: ResultContext,
    root: ContainerContentItem,
    *,
    kind: str,
    sop_class_uid: str,
    also: Iterable[EncodedObject] = (),
) -> EncodedObject:
    """One SR instance with ``root`` as its content tree; evidence is every source and every object in ``also``."""
    dataset = Dataset()
    dataset.update(root)
    dataset.Modality = "SR"
    dataset.ReferencedPerformedProcedureStepSequence = []
    dataset.PerformedProcedureCodeSequence = []
    dataset.CompletionFlag = "COMPLETE"
    # Nobody has read it, and nothing that is research is the definitive word to a patient's physician.
    dataset.PreliminaryFlag = "PRELIMINARY"
    dataset.VerificationFlag = "UNVERIFIED"
    study = context.job.study_instance_uid
    sources = [(study, s.series_instance_uid, s.sop_class_uid, s.sop_instance_uid) for s in context.sources]
    results = [(study, o.series_instance_uid, o.sop_class_uid, o.sop_instance_uid) for o in also]
    dataset.CurrentRequestedProcedureEvidenceSequence = _references([*sources, *results])
    if context.findings.pertinent:
        dataset.PertinentOtherEvidenceSequence = _references(context.findings.pertinent)
    amended = context.amended(kind)
    if amended:
        dataset.PredecessorDocumentsSequence = _references(
            (study, o.series_instance_uid, o.sop_class_uid, o.sop_instance_uid) for o in amended
        )
    title = "not analysed" if context.findings.outcome == "not_analysed" else ""
    titles = {"report": "measurement report", "text_report": "text report"}
    return context.finish(
        dataset, kind=kind, sop_class_uid=sop_class_uid, title=f"{title} {titles[kind]}".strip() if title else ""
    )


def observer(context: ResultContext) -> ObserverContext:
    """The device that observed (TID 1002, 1004)."""
    return ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=DeviceObserverIdentifyingAttributes(
            uid=context.observer_uid,
            name=context.algorithm_name,
            manufacturer_name=MANUFACTURER,
            model_name=context.algorithm_name,
            serial_number=plain(f"{context.algorithm.pipeline}-{context.algorithm.version}", 64),
        ),
    )


def title_of(code: CodedConcept, template: str) -> ContainerContentItem:
    """An empty root container."""
    return ContainerContentItem(name=code, template_id=template)


def _references(instances: Iterable[Reference]) -> list[Dataset]:
    """Hierarchical references (PS3.3 C.17.2.1), each instance once, in order."""
    tree: dict[str, dict[str, dict[str, str]]] = {}
    for study, series, sop_class, instance in instances:
        tree.setdefault(study, {}).setdefault(series, {})[instance] = sop_class
    studies = []
    for study, by_series in tree.items():
        item = Dataset()
        item.ReferencedSeriesSequence = [_series(uid, members) for uid, members in by_series.items()]
        item.StudyInstanceUID = study
        studies.append(item)
    return studies


def _series(uid: str, members: dict[str, str]) -> Dataset:
    item = Dataset()
    item.SeriesInstanceUID = uid
    references = []
    for instance, sop_class in members.items():
        reference = Dataset()
        reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = sop_class, instance
        references.append(reference)
    item.ReferencedSOPSequence = references
    return item
