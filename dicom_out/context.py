"""What all objects of one result set share: identity, UIDs, time, equipment, provenance. Encodes no findings."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone, tzinfo

from highdicom import AlgorithmIdentificationSequence
from highdicom.sr import AlgorithmIdentification
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import correct_ambiguous_vr
from pydicom.uid import UID, BasicTextSRStorage, Comprehensive3DSRStorage, ExplicitVRLittleEndian

from dicom_out.codes import ARTIFICIAL_INTELLIGENCE, PREDECESSOR, concept, plain, private_scheme, uses_private_scheme
from dicom_out.header import SourceHeader, to_file
from ichor.encoding import EncodedObject
from ichor.types import Algorithm, Findings, Instance, Job, ResultObject, ResultSet
from ichor.uids import content_digest, result_uid, uid_of

MANUFACTURER = "Ichor"
IMPLEMENTATION_CLASS_UID = uid_of("ichor-implementation")
RESEARCH_NOTICE = "RESEARCH: not for clinical use."

_REPORT_CLASSES = (Comprehensive3DSRStorage, BasicTextSRStorage)

# kind -> (series number, what a person reads in the series list)
SERIES = {
    "segmentation": (9001, "segmentation"),
    "parametric_map": (9002, "map"),
    "report": (9003, "measurement report"),
    "text_report": (9004, "text report"),
    "overlay": (9005, "overlay"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultContext:
    """Everything about one result set except what its findings say."""

    findings: Findings
    job: Job
    sources: tuple[Instance, ...]
    header: SourceHeader
    software_version: str
    predecessor: ResultSet | None = None

    @property
    def algorithm(self) -> Algorithm:
        return self.findings.algorithm

    @property
    def algorithm_name(self) -> str:
        """LO; ends as the model's name does, so that demo weights show as such."""
        model = self.algorithm.model
        return plain(f"Ichor {self.algorithm.pipeline}" + (f" {model}" if model else ""), 64)

    def uid(self, kind: str, index: int = 0) -> str:
        """UID of an object or thing of this result (design.md step 5): never depends on the engine or on time."""
        said = kind if self.findings.outcome != "not_analysed" else f"{kind}: not analysed: {self.findings.reason}"
        return result_uid(
            content=content_digest(self.sources),
            identity=self.sources[0].identity_sha256,
            pipeline=self.algorithm.pipeline,
            version=self.algorithm.version,
            parameters=self.algorithm.parameters,
            weights=self.algorithm.weights_sha256,
            kind=said,
            index=index,
        )

    def tracking_uid(self, tracking_id: str) -> str:
        """The same in every object that speaks of the same thing."""
        return self.uid(f"tracking {tracking_id}")

    @property
    def time(self) -> datetime:
        """When the job was queued, in the source's time zone if it names one, else UTC."""
        return datetime.fromtimestamp(self.job.queued_at, _zone(self.header.timezone))

    @property
    def observer_uid(self) -> str:
        return uid_of("ichor-device", self.algorithm.pipeline, self.algorithm.version)

    @property
    def software_versions(self) -> list[str]:
        versions = [f"ichor {self.software_version}", f"{self.algorithm.pipeline} {self.algorithm.version}"]
        return [plain(v, 64) for v in [*versions, self.algorithm.engine or ""] if v]

    def provenance(self) -> list[str]:
        """One short line per fact about who made it."""
        algorithm = self.algorithm
        lines = [f"Made by Ichor {self.software_version}, pipeline {algorithm.pipeline} {algorithm.version}."]
        if algorithm.model:
            lines.append(f"Model: {algorithm.model}.")
        if algorithm.weights_sha256:
            lines.append(f"Weights sha256: {algorithm.weights_sha256}.")
        if algorithm.engine:
            lines.append(f"Engine: {algorithm.engine}.")
        return lines

    def parameters(self) -> dict[str, str]:
        """Algorithm parameters as text, with what else tells two runs apart."""
        algorithm = self.algorithm
        named = {key: str(value) for key, value in sorted(algorithm.parameters.items())}
        named["pipeline"] = algorithm.pipeline
        if algorithm.weights_sha256:
            named["weights_sha256"] = algorithm.weights_sha256
        if algorithm.engine:
            named["engine"] = algorithm.engine
        return {plain(key): plain(value) for key, value in named.items()}

    def algorithm_sequence(self) -> AlgorithmIdentificationSequence:
        """For images (PS3.3 10.16)."""
        return AlgorithmIdentificationSequence(
            name=self.algorithm_name,
            family=concept(ARTIFICIAL_INTELLIGENCE),
            version=plain(self.algorithm.version, 64),
            source=MANUFACTURER,
            parameters=self.parameters(),
        )

    def algorithm_content(self) -> AlgorithmIdentification:
        """For reports (TID 4019)."""
        return AlgorithmIdentification(
            name=self.algorithm_name,
            version=plain(self.algorithm.version, 64),
            parameters=[f"{key}={value}" for key, value in self.parameters().items()],
        )

    def amended(self, kind: str) -> tuple[ResultObject, ...]:
        """Objects of the amended result of one kind; an object never amends itself."""
        if self.predecessor is None:
            return ()
        mine = {self.uid(kind, index) for index in range(len(self.predecessor.objects))}
        return tuple(o for o in self.predecessor.objects if o.kind == kind and o.sop_instance_uid not in mine)

    @property
    def compared(self) -> tuple[tuple[str, str], ...]:
        """(SOP Class UID, SOP Instance UID) of the reports of another study that the findings compare with."""
        named = ((sop_class, instance) for _, _, sop_class, instance in self.findings.pertinent)
        return tuple(pair for pair in named if pair[0] in _REPORT_CLASSES)

    def finish(
        self, dataset: Dataset, *, kind: str, sop_class_uid: str, index: int = 0, series: int = 0, title: str = "",
        label: str = "",
    ) -> EncodedObject:  # fmt: skip
        """Give ``dataset`` its identity, UIDs, time and equipment, and write it. ``series`` counts those of one kind.

        Whatever a library put there before (its clock, its own UIDs, its reading of the patient's name) is replaced.
        """
        sop_instance_uid, series_instance_uid = self.uid(kind, index), self.uid(f"{kind} series", series)
        correct_ambiguous_vr(dataset, True)
        self.header.copy_to(dataset)
        dataset.StudyInstanceUID = self.job.study_instance_uid
        dataset.SeriesInstanceUID, dataset.SOPInstanceUID = series_instance_uid, sop_instance_uid
        dataset.SOPClassUID = sop_class_uid
        number, what = SERIES[kind]
        dataset.SeriesNumber, dataset.InstanceNumber = number + 10 * series, index - series + 1
        dataset.SeriesDescription = plain(f"Ichor RESEARCH {self.algorithm.pipeline} {title or what}", 64)
        self._stamp(dataset)
        dataset.Manufacturer = MANUFACTURER
        dataset.ManufacturerModelName = self.algorithm_name
        dataset.DeviceSerialNumber = plain(f"{self.algorithm.pipeline}-{self.algorithm.version}", 64)
        dataset.SoftwareVersions = self.software_versions
        for keyword in ("ContributingEquipmentSequence", "CodingSchemeIdentificationSequence"):
            if keyword in dataset:
                delattr(dataset, keyword)
        if uses_private_scheme(dataset):
            dataset.CodingSchemeIdentificationSequence = [private_scheme()]
        dataset.file_meta = _file_meta(sop_class_uid, sop_instance_uid, self.software_version)
        dataset.preamble = b"\0" * 128
        return EncodedObject(
            sop_instance_uid=sop_instance_uid, sop_class_uid=sop_class_uid, series_instance_uid=series_instance_uid,
            kind=kind, data=to_file(dataset), label=label,
        )  # fmt: skip

    def _stamp(self, dataset: Dataset) -> None:
        date, time = self.time.strftime("%Y%m%d"), self.time.strftime("%H%M%S.%f")
        for prefix in ("InstanceCreation", "Content", "Series"):
            setattr(dataset, f"{prefix}Date", date)
            setattr(dataset, f"{prefix}Time", time)

    def finish_image(
        self, dataset: Dataset, *, kind: str, sop_class_uid: str, index: int = 0, series: int = 0, title: str = ""
    ) -> EncodedObject:
        """`finish` for multi-frame images: what the image modules share besides."""
        dataset.ContentQualification = "RESEARCH"
        dataset.BodyPartExamined = "HEAD"
        organization = self.uid(f"{kind} dimension organization", index)
        for item in [*dataset.DimensionOrganizationSequence, *dataset.DimensionIndexSequence]:
            item.DimensionOrganizationUID = organization
        cite(dataset, self.amended(kind))
        return self.finish(
            dataset, kind=kind, sop_class_uid=sop_class_uid, index=index, series=series, title=title, label=title
        )


def cite(dataset: Dataset, amended: Sequence[ResultObject]) -> None:
    """Name the images that this one amends (Referenced Instance Sequence, PS3.3 C.12.4)."""
    items = []
    for predecessor in amended:
        item = Dataset()
        item.ReferencedSOPClassUID = predecessor.sop_class_uid
        item.ReferencedSOPInstanceUID = predecessor.sop_instance_uid
        item.PurposeOfReferenceCodeSequence = [concept(PREDECESSOR)]
        items.append(item)
    if items:
        dataset.ReferencedInstanceSequence = items


def _file_meta(sop_class_uid: str, sop_instance_uid: str, version: str) -> FileMetaDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID(sop_class_uid)
    meta.MediaStorageSOPInstanceUID = UID(sop_instance_uid)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    meta.ImplementationVersionName = plain(f"ICHOR_{version}", 16)
    return meta


def _zone(offset: str | None) -> tzinfo:
    match = re.fullmatch(r"([+-])(\d{2})([0-5]\d)", offset or "")
    if match is None or int(match[2]) > 14:
        return UTC
    minutes = int(match[2]) * 60 + int(match[3])
    return timezone(timedelta(minutes=minutes if match[1] == "+" else -minutes))
