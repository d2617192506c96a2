"""Which attributes say whose a study is: what results copy of their source, and what the identity digest covers.

One list for both, but for sequences: a correction of what the digest leaves out goes unnoticed.
"""

from __future__ import annotations

from collections.abc import Iterable

from pydicom.datadict import tag_for_keyword

# PS3.3 C.7.1.1 Patient, C.7.2.1 General Study, C.7.2.2 Patient Study, C.7.1.3 and C.7.2.3 Clinical Trial.
COPIED = (
    "SpecificCharacterSet", "TimezoneOffsetFromUTC",
    "PatientName", "PatientID", "IssuerOfPatientID", "TypeOfPatientID", "IssuerOfPatientIDQualifiersSequence",
    "PatientBirthDate", "PatientBirthTime", "PatientBirthDateInAlternativeCalendar", "PatientAlternativeCalendar",
    "PatientSex", "OtherPatientIDs", "OtherPatientIDsSequence", "OtherPatientNames", "QualityControlSubject",
    "EthnicGroup", "PatientComments", "PatientIdentityRemoved", "DeidentificationMethod",
    "DeidentificationMethodCodeSequence",
    "StudyDate", "StudyTime", "AccessionNumber", "IssuerOfAccessionNumberSequence", "StudyID", "StudyDescription",
    "ReferringPhysicianName", "ConsultingPhysicianName", "PhysiciansOfRecord", "NameOfPhysiciansReadingStudy",
    "RequestingService", "ReferencedStudySequence", "ProcedureCodeSequence",
    "PatientAge", "PatientSize", "PatientWeight", "AdmittingDiagnosesDescription", "AdmissionID", "ServiceEpisodeID",
    "ServiceEpisodeDescription", "Occupation", "AdditionalPatientHistory", "PatientState", "MedicalAlerts",
    "Allergies", "SmokingStatus",
    "ClinicalTrialSponsorName", "ClinicalTrialProtocolID", "ClinicalTrialProtocolName", "ClinicalTrialSiteID",
    "ClinicalTrialSiteName", "ClinicalTrialSubjectID", "ClinicalTrialSubjectReadingID", "ClinicalTrialTimePointID",
    "ClinicalTrialTimePointDescription",
)  # fmt: skip

# Sequences are copied but not digested: their bytes differ between transfer syntaxes although they say the same.
DIGESTED = tuple(
    sorted(
        tag
        for keyword in (*COPIED, "StudyInstanceUID")
        if not keyword.endswith("Sequence") and (tag := tag_for_keyword(keyword)) is not None
    )
)

# Whose images they are in the narrow sense: headers that differ here are never used together, whatever else may vary.
PERSON = tuple(
    tag
    for keyword in ("PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate")
    if (tag := tag_for_keyword(keyword)) is not None
)


def person_of(identity_sha256: str) -> str:
    """The part of an `ichor.types.Instance.identity_sha256` that `PERSON` decides."""
    return identity_sha256[:32]


SEVERAL_PERSONS = "several persons"


def identity_of_sources(identities: Iterable[str]) -> str:
    """The identity of a result made of headers with these, first source first.

    A result has its first source's header, unless headers contradict each other on the person: then it is nobody's,
    whatever is corrected later.
    """
    named = list(identities)
    persons = {person_of(identity) for identity in named if identity}
    return SEVERAL_PERSONS if len(persons) > 1 else next(iter(named), "")
