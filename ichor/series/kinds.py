"""What sort of image an object or a frame is, told by its types, and why. Free text (descriptions) has no say here."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from ichor.types import Component, Kind

SECONDARY_CAPTURE_CLASSES = "1.2.840.10008.5.1.4.1.1.7"  # and its multi-frame ones, by prefix (PS3.4 table B.5-1)
# Classes whose pixels are no acquisition, whatever Image Type says.
_DERIVED_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.66.4": "Segmentation",
    "1.2.840.10008.5.1.4.1.1.66.7": "Label Map Segmentation",
    "1.2.840.10008.5.1.4.1.1.30": "Parametric Map",
    "1.2.840.10008.5.1.4.1.1.481.2": "RT Dose",
}

_LOCALIZER = frozenset({"LOCALIZER", "SCOUT", "TOPOGRAM", "SURVIEW", "SCANOGRAM", "SURVEY"})
_SCREEN = frozenset({"SCREEN SAVE", "SCREENSAVE", "SCREEN CAPTURE", "SECONDARY CAPTURE", "DOSE INFO"})
# PS3.3 C.8.16.1.3 and C.8.16.1.4, C.8.13.3 (MR), and what Siemens, GE, Philips, Canon and United Imaging state to
# write into values 3 and later in their conformance statements.
_TRACE = frozenset({"TRACE", "TRACEW", "DIFFUSION ISO", "ISO DWI", "ISODWI"})
_ADC = frozenset({"ADC", "EADC", "EXP ADC", "AVERAGE DC", "AVDC"})
_FA = frozenset({"FA", "COLFA", "COLORFA", "DIFFUSION ANISO", "FRACTIONAL ANISO", "FRACTIONAL ANISOTROPY"})
_MIP = frozenset(
    {"MIP", "MINIP", "MNIP", "MIN IP", "MAX IP", "MAXIP", "AVIP", "PROJECTION", "PROJECTION IMAGE", "THICK MIP"}
)
_REFORMAT = frozenset({"MPR", "CPR", "REFORMATTED", "REFORMAT", "CURVED MPR", "OBLIQUE REFORMAT", "MPVR", "RESAMPLED"})
_PARAMETER = frozenset(
    {
        "TENSOR", "EXP", "T1 MAP", "T2 MAP", "T2 STAR MAP", "R1", "R2", "R2 STAR", "R2 MAP", "T1 T1",
        "RCBF", "RCBV", "CBF", "CBV", "RELCBF", "RELCBV", "CORRECTED CBV", "MTT", "RELMTT", "TTP", "TMAX", "PBP", "GBP",
        "TTS", "CALC BVALUE", "CDWI", "T TEST", "Z SCORE", "DIFFUSION ATTNTD", "QUANTITY", "STD DEVIATION",
        "SUBTRACTION", "B0 MAP", "B1 MAP", "FIELD MAP", "MASKED", "VRT", "VOLUME RENDERED", "SSD",
    }
)  # fmt: skip
_WORDS = (
    (Kind.TRACE, _TRACE),
    (Kind.ADC, _ADC),
    (Kind.FA, _FA),
    (Kind.MIP, _MIP),
    (Kind.REFORMAT, _REFORMAT),
    (Kind.DERIVED, _PARAMETER),
)
# Words that say it inside a longer value too: Philips ADC_UNSPECIFIED, Siemens CSA MPR and CT_SOM5 MIP.
_INSIDE = frozenset({"ADC", "EADC", "TRACEW", "MIP", "MINIP", "MPR", "CPR"})

# Volume Based Calculation Technique (0008,9207), PS3.3 C.8.16.2.1.3.
_CALCULATIONS = {
    "MAX_IP": Kind.MIP,
    "MIN_IP": Kind.MIP,
    "MPR": Kind.REFORMAT,
    "CURVED_MPR": Kind.REFORMAT,
    "VOLUME_RENDER": Kind.DERIVED,
    "SURFACE_RENDER": Kind.DERIVED,
}

_COMPONENTS = {
    "M": Component.MAGNITUDE,
    "MAGNITUDE": Component.MAGNITUDE,
    "P": Component.PHASE,
    "PHASE": Component.PHASE,
    "PHASE MAP": Component.PHASE,
    "R": Component.REAL,
    "REAL": Component.REAL,
    "I": Component.IMAGINARY,
    "IMAGINARY": Component.IMAGINARY,
}


def kind_of_types(image_type: Sequence[str], *, philips: bool = False) -> tuple[Kind, str | None, Component | None]:
    """Kind, the reason for it in words (None for a plain image), and the component that the types name.

    Parameters
    ----------
    image_type
        Values of Image Type (0008,0008) or Frame Type (0008,9007), upper case.
    philips
        Whether Philips wrote them, who put the component before an underscore (``M_FFE``).
    """
    return _kind_of_types(tuple(image_type), philips)


@lru_cache(maxsize=1024)
def _kind_of_types(image_type: tuple[str, ...], philips: bool) -> tuple[Kind, str | None, Component | None]:
    special = image_type[2:]
    component = component_of_types(special, philips=philips)
    words = {value.replace("_", " ").strip(): value for value in special}
    for value in special:
        for part in value.replace("_", " ").split():
            if part in _INSIDE:
                words.setdefault(part, value)
    for kind, meant in ((Kind.LOCALIZER, _LOCALIZER), (Kind.SECONDARY_CAPTURE, _SCREEN), *_WORDS):
        found = next((stored for word, stored in words.items() if word in meant), None)
        if found is not None:
            return kind, f"Image Type has {found}", component
    if image_type[:1] == ("DERIVED",):
        return Kind.DERIVED, "Image Type is DERIVED", component
    return Kind.IMAGE, None, component


def component_of_types(special: Sequence[str], *, philips: bool) -> Component | None:
    """The one component that values 3 and later of Image Type name; None where they name none or several."""
    found = set()
    for value in special:
        component = _COMPONENTS.get(value.replace("_", " "))
        if component is None and philips and value[1:2] == "_":
            component = _COMPONENTS.get(value[0])
        if component is not None:
            found.add(component)
    return found.pop() if len(found) == 1 else None


def kind_of_class(sop_class_uid: str) -> tuple[Kind, str] | None:
    """Kind that a storage class alone decides, with the reason; None where its images are told apart by their types."""
    if sop_class_uid.startswith(SECONDARY_CAPTURE_CLASSES):
        return Kind.SECONDARY_CAPTURE, "the SOP Class is Secondary Capture"
    name = _DERIVED_CLASSES.get(sop_class_uid)
    return (Kind.DERIVED, f"the SOP Class is {name}") if name else None


def kind_of_calculation(technique: str | None) -> tuple[Kind, str] | None:
    """Kind that Volume Based Calculation Technique (0008,9207) decides; None for NONE, MIXED and what is unknown."""
    kind = _CALCULATIONS.get(technique or "")
    return (kind, f"Volume Based Calculation Technique is {technique}") if kind else None


def only_compressed(image_type: Sequence[str]) -> bool:
    """Whether DERIVED can stand for lossy compression alone (PS3.3 C.7.6.1.1.2): nothing else in the types changed."""
    return tuple(image_type[:3]) == ("DERIVED", "PRIMARY", "AXIAL")


def stated_component(value: str | None) -> Component | None:
    """That of Complex Image Component (0008,9208)."""
    return Component.__members__.get(value or "")
