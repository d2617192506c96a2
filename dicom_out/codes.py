"""Coded concepts as DICOM items, from `ichor.types.Code`. Decides no meaning: pipelines choose the codes."""

from __future__ import annotations

import re
import unicodedata

from highdicom.sr import CodedConcept
from pydicom.dataset import Dataset

from ichor.types import Code
from ichor.uids import uid_of

PRIVATE_SCHEME = "99ICHOR"

BRAIN = Code(value="12738006", scheme="SCT", meaning="Brain")
ARTIFICIAL_INTELLIGENCE = Code(value="123110", scheme="DCM", meaning="Artificial Intelligence")
PREDECESSOR = Code(value="AMENDED", scheme=PRIVATE_SCHEME, meaning="Result that this one amends")

# CID 100 holds generic procedures only; a code for "CT of head" is refused there by validators.
_PROCEDURES = {
    "CT": Code(value="25045-6", scheme="LN", meaning="CT unspecified body region"),
    "MR": Code(value="25056-3", scheme="LN", meaning="MRI unspecified body region"),
}
_ANY_PROCEDURE = Code(value="363679005", scheme="SCT", meaning="Imaging procedure")

_UNITS = {
    "mL": "milliliter", "mm": "millimeter", "1": "no units", "%": "Percent", "[hnsf'U]": "Hounsfield unit",
    "um2/s": "square micrometer per second", "mm2/s": "square millimeter per second",
}  # fmt: skip

_PLAIN = str.maketrans({"≤": "<=", "≥": ">=", "±": "+/-", "×": "x", "–": "-", "—": "-", "−": "-", "µ": "u", "μ": "u"})


def plain(text: str, limit: int | None = None) -> str:
    """``text`` in printable ASCII, which every Specific Character Set of the standard can hold (PS3.5 section 6.1).

    Results keep the character set of their source, so nothing that Ichor adds may need another one. A backslash
    separates values in DICOM and becomes a slash.
    """
    ascii_text = unicodedata.normalize("NFKD", text.translate(_PLAIN)).encode("ascii", "ignore").decode()
    printable = "".join(c if c.isprintable() else " " for c in ascii_text).replace("\\", "/")
    return printable[:limit].strip()


def concept(code: Code) -> CodedConcept:
    """A coded concept; the meaning is cut to the 64 characters of LO."""
    return CodedConcept(value=code.value, scheme_designator=code.scheme, meaning=plain(code.meaning, 64))


def unit(ucum: str) -> CodedConcept:
    """A UCUM unit with its name where it has a usual one."""
    return CodedConcept(value=ucum, scheme_designator="UCUM", meaning=_UNITS.get(ucum, ucum))


def procedure(modality: str) -> CodedConcept:
    """Procedure reported (CID 100) of a modality."""
    return concept(_PROCEDURES.get(modality, _ANY_PROCEDURE))


def private(text: str) -> Code:
    """A code of our own scheme for a text that no standard code says, e.g. a measurement method."""
    value = re.sub(r"[^A-Z0-9]+", "_", plain(text).upper()).strip("_")[:16]
    return Code(value=value or "OTHER", scheme=PRIVATE_SCHEME, meaning=text)


def private_scheme() -> Dataset:
    """The item that says who is responsible for our private codes (PS3.3 C.12.1.1.17)."""
    item = Dataset()
    item.CodingSchemeDesignator = PRIVATE_SCHEME
    item.CodingSchemeUID = uid_of("ichor-coding-scheme")
    item.CodingSchemeName = "Ichor"
    item.CodingSchemeResponsibleOrganization = "Ichor"
    return item


def uses_private_scheme(dataset: Dataset) -> bool:
    """True when any code of ``dataset``, at any depth, is of our private scheme."""
    for element in dataset:
        if element.VR == "SQ" and any(uses_private_scheme(item) for item in element.value):
            return True
        if element.keyword == "CodingSchemeDesignator" and element.value == PRIVATE_SCHEME:
            return True
    return False
