"""Which attributes say whose a study is: what results copy of their source, and what the identity digest covers.

One list for both, but for sequences: a correction of what the digest leaves out goes unnoticed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

_STUDY_INSTANCE_UID = 0x0020000D

# Keyword -> tag. PS3.3 C.7.1.1 Patient, C.7.2.1 General Study, C.7.2.2 Patient Study, C.7.1.3 and C.7.2.3 Clinical
# Trial. Tags and not pydicom's dictionaries: these take 10 MiB and every process needs this list.
COPIED: Mapping[str, int] = {
    "SpecificCharacterSet": 0x00080005, "TimezoneOffsetFromUTC": 0x00080201,
    "PatientName": 0x00100010, "PatientID": 0x00100020, "IssuerOfPatientID": 0x00100021,
    "TypeOfPatientID": 0x00100022, "IssuerOfPatientIDQualifiersSequence": 0x00100024,
    "PatientBirthDate": 0x00100030, "PatientBirthTime": 0x00100032,
    "PatientBirthDateInAlternativeCalendar": 0x00100033, "PatientAlternativeCalendar": 0x00100035,
    "PatientSex": 0x00100040, "OtherPatientIDs": 0x00101000, "OtherPatientIDsSequence": 0x00101002,
    "OtherPatientNames": 0x00101001, "QualityControlSubject": 0x00100200,
    "EthnicGroup": 0x00102160, "PatientComments": 0x00104000, "PatientIdentityRemoved": 0x00120062,
    "DeidentificationMethod": 0x00120063,
    "DeidentificationMethodCodeSequence": 0x00120064,
    "StudyDate": 0x00080020, "StudyTime": 0x00080030, "AccessionNumber": 0x00080050,
    "IssuerOfAccessionNumberSequence": 0x00080051, "StudyID": 0x00200010, "StudyDescription": 0x00081030,
    "ReferringPhysicianName": 0x00080090, "ConsultingPhysicianName": 0x0008009C, "PhysiciansOfRecord": 0x00081048,
    "NameOfPhysiciansReadingStudy": 0x00081060,
    "RequestingService": 0x00321033, "ReferencedStudySequence": 0x00081110, "ProcedureCodeSequence": 0x00081032,
    "PatientAge": 0x00101010, "PatientSize": 0x00101020, "PatientWeight": 0x00101030,
    "AdmittingDiagnosesDescription": 0x00081080, "AdmissionID": 0x00380010, "ServiceEpisodeID": 0x00380060,
    "ServiceEpisodeDescription": 0x00380062, "Occupation": 0x00102180, "AdditionalPatientHistory": 0x001021B0,
    "PatientState": 0x00380500, "MedicalAlerts": 0x00102000,
    "Allergies": 0x00102110, "SmokingStatus": 0x001021A0,
    "ClinicalTrialSponsorName": 0x00120010, "ClinicalTrialProtocolID": 0x00120020,
    "ClinicalTrialProtocolName": 0x00120021, "ClinicalTrialSiteID": 0x00120030,
    "ClinicalTrialSiteName": 0x00120031, "ClinicalTrialSubjectID": 0x00120040,
    "ClinicalTrialSubjectReadingID": 0x00120042, "ClinicalTrialTimePointID": 0x00120050,
    "ClinicalTrialTimePointDescription": 0x00120051,
}  # fmt: skip

# Sequences are copied but not digested: their bytes differ between transfer syntaxes although they say the same.
DIGESTED = tuple(
    sorted([*(tag for keyword, tag in COPIED.items() if not keyword.endswith("Sequence")), _STUDY_INSTANCE_UID])
)

# Whose images they are in the narrow sense: headers that differ here are never used together, whatever else may vary.
PERSON = tuple(COPIED[keyword] for keyword in ("PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate"))


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
