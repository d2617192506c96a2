"""Whose private attributes an object may carry, by its Manufacturer. Reads none of them."""

from __future__ import annotations

from enum import StrEnum


class Vendor(StrEnum):
    """Whose private attributes to read; ``ANY`` where Manufacturer names none of them or was removed."""

    SIEMENS = "siemens"
    PHILIPS = "philips"
    GE = "ge"
    CANON = "canon"
    UIH = "uih"
    ANY = "any"


def vendor_of(manufacturer: str | None) -> Vendor:
    """The vendor that Manufacturer (0008,0070) names."""
    name = (manufacturer or "").upper()
    if "SIEMENS" in name:
        return Vendor.SIEMENS
    if "PHILIPS" in name:
        return Vendor.PHILIPS
    if name.startswith(("GE ", "GE_", "GEMS")) or name == "GE":
        return Vendor.GE
    if "CANON" in name or "TOSHIBA" in name:
        return Vendor.CANON
    if name == "UIH" or "UNITED IMAGING" in name:
        return Vendor.UIH
    return Vendor.ANY
