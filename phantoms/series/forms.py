"""The table of all forms in which a truth can be written: dialect and vendor. Writes nothing itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from pydicom.dataset import Dataset

from ichor.types import Dialect
from phantoms.series import enhanced, vendors
from phantoms.series.classic import classic_objects
from phantoms.series.mosaic import siemens_mosaics, uih_grids
from phantoms.series.truth import Scan


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """``objects(scan, form=name)`` gives the data sets in true order."""

    dialect: Dialect
    objects: Callable[..., list[Dataset]]

    def data_sets(self, scan: Scan, *, name: str) -> list[Dataset]:
        return self.objects(scan, form=name)


def _classic(vendor: vendors.Vendor) -> Form:
    return Form(dialect=Dialect.CLASSIC, objects=partial(_classic_objects, vendor=vendor))


def _classic_objects(scan: Scan, *, vendor: vendors.Vendor, form: str) -> list[Dataset]:
    return classic_objects(scan, vendor, form=form)


def _enhanced(flavour: enhanced.Flavour) -> Form:
    return Form(dialect=Dialect.ENHANCED, objects=partial(_enhanced_objects, flavour=flavour))


def _enhanced_objects(scan: Scan, *, flavour: enhanced.Flavour, form: str) -> list[Dataset]:
    return enhanced.enhanced_objects(scan, flavour, form=form)


FORMS: dict[str, Form] = {
    "classic-philips": _classic(vendors.PHILIPS),
    "classic-siemens": _classic(vendors.SIEMENS),
    "classic-ge": _classic(vendors.GE),
    "classic-canon": _classic(vendors.CANON),
    "classic-uih": _classic(vendors.UIH),
    "classic-standard": _classic(vendors.STANDARD),
    "mosaic-siemens": Form(dialect=Dialect.SIEMENS_MOSAIC, objects=siemens_mosaics),
    "mosaic-siemens-descending": Form(
        dialect=Dialect.SIEMENS_MOSAIC, objects=partial(siemens_mosaics, descending=True)
    ),
    "mosaic-siemens-xa": Form(dialect=Dialect.SIEMENS_MOSAIC, objects=partial(siemens_mosaics, csa=False)),
    "tiled-uih": Form(dialect=Dialect.UIH_TILED, objects=uih_grids),
    "enhanced-philips": _enhanced(enhanced.PHILIPS),
    "enhanced-siemens": _enhanced(enhanced.SIEMENS),
    "enhanced-siemens-whole": _enhanced(enhanced.SIEMENS_WHOLE),
    "enhanced-canon": _enhanced(enhanced.CANON),
    "enhanced-ge": _enhanced(enhanced.GE),
}
