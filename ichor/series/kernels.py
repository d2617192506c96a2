"""Reconstruction kernels of CT: which are soft and which are sharp, by the vendors' names. Only a name is judged."""

from __future__ import annotations

import re
from enum import StrEnum


class KernelClass(StrEnum):
    SOFT = "soft"
    SHARP = "sharp"
    UNKNOWN = "unknown"


# Siemens: letter(s) for the body part, then a number that grows with sharpness (H31s, J40s, Hr38f, Br59, Qr40).
_NUMERIC = re.compile(r"^[A-Z][A-Z]?(\d{2})[A-Z]?(?:[\W_].*)?$")
_NUMERIC_SHARP = 50
# Canon/Toshiba: FC01-19 body, FC20-29 brain, FC30-39 and FC80-89 bone, FC50-59 lung, FC60-69 brain.
_CANON = re.compile(r"^FC(\d{2})\D?.*$")
_CANON_SHARP_TENS = frozenset({3, 5, 8})
_SHARP_WORDS = ("BONE", "SHARP", "DETAIL", "EDGE", "LUNG", "ULTRA", "HIGH", "INNER", "EAR")
_SOFT_WORDS = ("SOFT", "STANDARD", "STND", "STD", "BRAIN", "SMOOTH", "CEREB", "HEAD")
# GE (STANDARD, SOFT, ... are found by their words) and Philips.
_EXACT = {
    **dict.fromkeys(("CHST", "A", "B", "C", "UA", "UB", "UC", "SA", "SB", "SC", "EB", "EC", "IA", "IB"), KernelClass.SOFT),
    **dict.fromkeys(("D", "E", "F", "L", "YA", "YB", "YC", "YD", "YE", "YL"), KernelClass.SHARP),
}  # fmt: skip


def kernel_class(kernel: str | None) -> KernelClass:
    """Class of a Convolution Kernel (0018,1210), first value.

    >>> [kernel_class(name).value for name in ("H31s", "Hr68h", "UB", "YB", "BONEPLUS", "FC21", "FC30", None)]
    ['soft', 'sharp', 'soft', 'sharp', 'sharp', 'soft', 'sharp', 'unknown']
    """
    name = (kernel or "").strip().upper()
    if not name:
        return KernelClass.UNKNOWN
    if name in _EXACT:
        return _EXACT[name]
    if canon := _CANON.match(name):
        return KernelClass.SHARP if int(canon[1]) // 10 in _CANON_SHARP_TENS else KernelClass.SOFT
    if any(word in name for word in _SHARP_WORDS):
        return KernelClass.SHARP
    if any(word in name for word in _SOFT_WORDS):
        return KernelClass.SOFT
    if numeric := _NUMERIC.match(name):
        return KernelClass.SHARP if int(numeric[1]) >= _NUMERIC_SHARP else KernelClass.SOFT
    return KernelClass.UNKNOWN
