"""Diffusion weighting in Siemens' private attributes: (0019,xx0C) and following, and the CSA header. No mosaics."""

from __future__ import annotations

import math

from ichor.series.dialects.csa import read_csa
from ichor.series.dialects.lps import Vector, vector
from ichor.series.dialects.weighting import Stated
from ichor.series.values import Values

MR_GROUP, MR_CREATOR = 0x0019, "SIEMENS MR HEADER"
IMAGES_IN_MOSAIC = 0x0A
CSA_GROUP, CSA_CREATOR, CSA_IMAGE_HEADER = 0x0029, "SIEMENS CSA HEADER", 0x10
# Siemens, DICOM conformance statement of syngo MR, private attributes of group 0019.
_B_VALUE, _DIRECTIONALITY, _DIRECTION, _B_MATRIX = 0x0C, 0x0D, 0x0E, 0x27

WANTED_PRIVATE = frozenset(
    {(CSA_GROUP, CSA_IMAGE_HEADER)}
    | {(MR_GROUP, low) for low in (IMAGES_IN_MOSAIC, _B_VALUE, _DIRECTIONALITY, _DIRECTION, _B_MATRIX)}
)
_CSA_NAMES = frozenset(
    {
        "NumberOfImagesInMosaic", "SliceNormalVector", "B_value", "DiffusionDirectionality",
        "DiffusionGradientDirection", "B_matrix",
    }
)  # fmt: skip


def csa_of(values: Values) -> dict[str, tuple[str, ...]]:
    """The CSA image header's elements that matter here; empty without one."""
    tag = values.private(CSA_GROUP, CSA_CREATOR, CSA_IMAGE_HEADER)
    return read_csa(values.raw(tag), names=_CSA_NAMES) if tag is not None else {}


def siemens_weightings(values: Values, *, csa: dict[str, tuple[str, ...]]) -> list[Stated]:
    """The private attributes first, then the CSA header."""
    stated = []
    tags = [values.private(MR_GROUP, MR_CREATOR, low) for low in (_B_VALUE, _DIRECTIONALITY, _DIRECTION, _B_MATRIX)]
    b_tag, directionality_tag, direction_tag, matrix_tag = tags
    if b_tag is not None and direction_tag is not None and directionality_tag is not None and matrix_tag is not None:
        b_value = values.number(b_tag)
        stated.append(
            Stated(
                source="(0019,100C)",
                b_value=b_value,
                direction_lps=_possible(vector(values.numbers(direction_tag, "d", 3))),
                isotropic=_isotropic(values.text(directionality_tag)),
                b_matrix=values.numbers(matrix_tag, "d", 6),
            )
        )
    if "B_value" in csa:
        stated.append(
            Stated(
                source="CSA",
                b_value=next(iter(csa_numbers(csa, "B_value", 1) or ()), None),
                direction_lps=_possible(vector(csa_numbers(csa, "DiffusionGradientDirection", 3))),
                isotropic=_isotropic(next(iter(csa.get("DiffusionDirectionality", ())), None)),
                b_matrix=csa_numbers(csa, "B_matrix", 6),
            )
        )
    return stated


def csa_numbers(csa: dict[str, tuple[str, ...]], name: str, count: int) -> tuple[float, ...] | None:
    """Exactly ``count`` finite values of an element."""
    texts = csa.get(name, ())
    if len(texts) != count:
        return None
    try:
        numbers = tuple(map(float, texts))
    except ValueError:
        return None
    return numbers if all(map(math.isfinite, numbers)) else None


def _isotropic(directionality: str | None) -> bool:
    return (directionality or "").upper() == "ISOTROPIC"


def _possible(direction: Vector | None) -> Vector | None:
    """None for the components below -1 that old software writes into images without weighting (dcm2niix, Siemens)."""
    return None if direction is not None and max(direction) < -1 else direction
