"""What a storage class says of an object before its header is read: whether it is an image, and of which modality."""

from __future__ import annotations

_CT_CLASSES = frozenset({f"1.2.840.10008.5.1.4.1.1.2{end}" for end in ("", ".1", ".2")})
_MR_CLASSES = frozenset({f"1.2.840.10008.5.1.4.1.1.4{end}" for end in ("", ".1", ".3", ".4")})
# Storage classes that carry no pixels of a patient; the rest is expected to have them.
_NO_IMAGE_PREFIXES = (
    "1.2.840.10008.5.1.4.1.1.88.", "1.2.840.10008.5.1.4.1.1.104.", "1.2.840.10008.5.1.4.1.1.11.",
    "1.2.840.10008.5.1.4.1.1.9.", "1.2.840.10008.5.1.4.34.", "1.2.840.10008.5.1.4.1.1.66.1",
    "1.2.840.10008.5.1.4.1.1.66.2", "1.2.840.10008.5.1.4.1.1.66.3", "1.2.840.10008.5.1.4.1.1.66.5",
)  # fmt: skip
_NO_IMAGE = frozenset(
    {
        "1.2.840.10008.5.1.4.1.1.66",
        "1.2.840.10008.5.1.4.1.1.67",
        "1.2.840.10008.5.1.4.1.1.481.3",
        "1.2.840.10008.5.1.4.1.1.481.4",
        "1.2.840.10008.5.1.4.1.1.481.5",
        "1.2.840.10008.5.1.4.1.1.481.6",
        "1.2.840.10008.5.1.4.1.1.481.7",
        "1.2.840.10008.5.1.4.1.1.481.8",
        "1.2.840.10008.5.1.4.1.1.481.9",
        "1.2.840.10008.1.3.10",
    }
)


def should_be_image(sop_class_uid: str) -> bool:
    """Whether objects of a class have pixels of a patient."""
    return sop_class_uid not in _NO_IMAGE and not sop_class_uid.startswith(_NO_IMAGE_PREFIXES)


def modality_of_class(sop_class_uid: str) -> str:
    """Modality that a storage class stands for, for objects whose own cannot be values."""
    if sop_class_uid in _CT_CLASSES:
        return "CT"
    return "MR" if sop_class_uid in _MR_CLASSES else ""
