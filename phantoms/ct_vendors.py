"""Habits that headers of axial head CTs have by maker, as far as readers trip over them. No pixels, no maker's statement.

Simplified, from what public images show and what is generally known; no conformance statement was followed, and real
scanners of these names differ. Every object still says SYNTHETIC.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True, kw_only=True)
class Habit:
    """One maker's way.

    Attributes
    ----------
    manufacturer, model : equipment. image_type : (0008,0008). kernels : soft and bone.
    signed, bits_stored, intercept : how HU become stored values.
    padding : stored value outside the circle of reconstruction (0028,0120), or None.
    spacing : writes Spacing Between Slices where the gaps are even.
    headwards : instance numbers grow towards the head.
    windows : values of Window Center; makers with two repeat the window.
    """

    manufacturer: str
    model: str
    image_type: tuple[str, ...] = ("ORIGINAL", "PRIMARY", "AXIAL")
    kernels: tuple[str, str]
    signed: bool = True
    bits_stored: int = 16
    intercept: int = -1024
    padding: int | None = None
    spacing: bool = True
    headwards: bool = True
    windows: int = 1


HABITS: Mapping[str, Habit] = MappingProxyType(
    {
        "plain": Habit(manufacturer="Ichor phantoms", model="Synthetic head CT", kernels=("H30s", "H70h")),
        "siemens": Habit(
            manufacturer="SIEMENS",
            model="SOMATOM Definition AS+",
            image_type=("ORIGINAL", "PRIMARY", "AXIAL", "CT_SOM5 SEQ"),
            kernels=("H31s", "H70h"),
            signed=False,
            bits_stored=12,
            spacing=False,
            windows=2,
        ),
        "ge": Habit(
            manufacturer="GE MEDICAL SYSTEMS",
            model="LightSpeed VCT",
            kernels=("STANDARD", "BONEPLUS"),
            padding=-2000,
            spacing=False,
        ),
        "philips": Habit(
            manufacturer="Philips",
            model="Brilliance 64",
            kernels=("UB", "YD"),
            signed=False,
            bits_stored=12,
            headwards=False,
            windows=2,
        ),
        "canon": Habit(
            manufacturer="TOSHIBA", model="Aquilion ONE", kernels=("FC26", "FC30"), intercept=0, headwards=False
        ),
    }
)
