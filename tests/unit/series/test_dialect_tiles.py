"""Mosaics of Siemens and tiled images of United Imaging: where each tile lies, or a defect and nothing invented."""

from __future__ import annotations

import pytest
from pydicom.dataset import Dataset
from unit.series.dialect_objects import BIG, EXPLICIT, IMPLICIT, geometry, item, items, told

from ichor.reasons import Reason
from ichor.series.dialects import DialectFacts
from ichor.types import Dialect, Geometry
from phantoms.series.csa import csa_header

SYNTAXES = (EXPLICIT, IMPLICIT, BIG)
MOSAIC = ("ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC")
VFRAME = ("ORIGINAL", "PRIMARY", "M", "VFRAME")
# 7 tiles, 3 in a row: 63 rows and 48 columns are tiles of 21 x 16.
WHOLE = geometry(63, 48)


def mosaic(
    tiles: int | None = 7, *, csa_tiles: int | None = 7, normal: tuple[float, ...] | None = (0, 0, 1)
) -> Dataset:
    ds = Dataset()
    if tiles is not None:
        ds.private_block(0x0019, "SIEMENS MR HEADER", create=True).add_new(0x0A, "US", tiles)
    elements: list[tuple[str, str, list[str]]] = []
    if csa_tiles is not None:
        elements.append(("NumberOfImagesInMosaic", "US", [str(csa_tiles)]))
    if normal is not None:
        elements.append(("SliceNormalVector", "FD", [f"{v:.8f}" for v in normal]))
    if elements:
        ds.private_block(0x0029, "SIEMENS CSA HEADER", create=True).add_new(0x10, "OB", csa_header(elements))
    return ds


def tiled(count: int = 7, *, step: tuple[float, float, float] = (0.0, -0.5, 4.0), places: int | None = None) -> Dataset:
    ds = Dataset()
    block = ds.private_block(0x0065, "Image Private Header", create=True)
    block.add_new(0x50, "DS", str(count))
    content = [
        item(
            ImagePositionPatient=[f"{a + k * b:.6f}" for a, b in zip((1.0, 2.0, 3.0), step, strict=True)],
            AcquisitionTime=f"1200{30 - k:02d}.5",
        )
        for k in range(count if places is None else places)
    ]
    block.add_new(0x51, "SQ", items(*content))
    return ds


def siemens(ds: Dataset, plane: Geometry = WHOLE, syntax: str = EXPLICIT) -> DialectFacts:
    return told(ds, manufacturer="SIEMENS", image_type=MOSAIC, plane=plane, syntax=syntax)


def uih(ds: Dataset, plane: Geometry = WHOLE, syntax: str = EXPLICIT) -> DialectFacts:
    return told(ds, manufacturer="UIH", image_type=VFRAME, plane=plane, syntax=syntax)


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_the_first_tile_of_a_mosaic_lies_half_the_difference_of_sizes_further_on(syntax: str) -> None:
    found = siemens(mosaic(), syntax=syntax)
    assert (found.dialect, found.defect) == (Dialect.SIEMENS_MOSAIC, None)
    assert found.tiling is not None
    assert (found.tiling.count, found.tiling.across, found.tiling.rows, found.tiling.columns) == (7, 3, 21, 16)
    # (48 - 16) / 2 columns of 1.5 mm, (63 - 21) / 2 rows of 2 mm.
    assert found.tiling.first_position_lps == pytest.approx((-10 + 24.0, 20 + 42.0, 30.0))
    assert found.tiling.step_lps == pytest.approx((0.0, 0.0, 3.0))
    assert found.geometry is not None
    assert found.geometry.position_lps == found.tiling.first_position_lps
    assert (found.geometry.rows, found.geometry.columns) == (63, 48)
    assert found.slot.image_type == "ND"


def test_slices_of_a_mosaic_go_along_the_slice_normal() -> None:
    found = siemens(mosaic(normal=(0, 0, -1)))
    assert found.tiling is not None
    assert found.tiling.step_lps == pytest.approx((0.0, 0.0, -3.0))


def test_a_mosaic_without_csa_header_goes_along_row_by_column() -> None:
    found = siemens(mosaic(csa_tiles=None, normal=None))
    assert found.tiling is not None
    assert found.tiling.step_lps == pytest.approx((0.0, 0.0, 3.0))


@pytest.mark.parametrize(
    ("ds", "plane"),
    [
        (mosaic(None, csa_tiles=None), WHOLE),
        (mosaic(7, csa_tiles=8), WHOLE),
        (mosaic(60000, csa_tiles=60000), WHOLE),
        (mosaic(normal=(0, 1, 0)), WHOLE),
        (mosaic(), geometry(64, 48)),
        (mosaic(), geometry(63, 48, spacing=None)),
        (mosaic(), geometry(63, 48, spacing=-3.0)),
        (mosaic(), geometry(63, 48, position=None)),
        (mosaic(), geometry(63, 48, orientation=None)),
        (mosaic(), geometry(63, 48, pixel_spacing=None)),
    ],
    ids=["number", "numbers", "too-many", "normal", "size", "step", "negative", "position", "orientation", "spacing"],
)
def test_a_mosaic_whose_tiles_cannot_be_placed_is_a_defect(ds: Dataset, plane: Geometry) -> None:
    found = siemens(ds, plane)
    assert (found.dialect, found.tiling, found.defect) == (Dialect.SIEMENS_MOSAIC, None, Reason.TILES_UNPLACED)


def test_an_image_is_a_mosaic_only_where_its_type_says_so() -> None:
    found = told(mosaic(), manufacturer="SIEMENS", image_type=("DERIVED", "PRIMARY", "MPR"), plane=WHOLE)
    assert (found.dialect, found.tiling, found.geometry) == (Dialect.CLASSIC, None, WHOLE)


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_tiles_of_united_imaging_lie_where_their_items_say(syntax: str) -> None:
    found = uih(tiled(), syntax=syntax)
    assert (found.dialect, found.defect) == (Dialect.UIH_TILED, None)
    assert found.tiling is not None
    assert (found.tiling.count, found.tiling.across, found.tiling.rows, found.tiling.columns) == (7, 3, 21, 16)
    assert found.tiling.first_position_lps == (1.0, 2.0, 3.0)
    assert found.tiling.step_lps == pytest.approx((0.0, -0.5, 4.0))
    # The earliest of the tiles is the last one.
    assert found.slot.time == pytest.approx(12 * 3600 + 24.5)
    assert found.slot.image_type is None


def test_united_imaging_has_no_more_rows_of_tiles_than_needed() -> None:
    found = uih(tiled(5), geometry(60, 48))
    assert found.tiling is not None
    assert (found.tiling.across, found.tiling.rows, found.tiling.columns) == (3, 30, 16)


def test_tiles_that_lie_unevenly_or_are_not_all_described_are_a_defect() -> None:
    uneven = tiled()
    block = uneven.private_block(0x0065, "Image Private Header")
    block[0x51].value[3].ImagePositionPatient = ["1", "0.5", "15.1"]
    for ds in (uneven, tiled(7, places=6), tiled(step=(0.0, 0.0, 0.0))):
        found = uih(ds)
        assert (found.tiling, found.defect) == (None, Reason.TILES_UNPLACED)
    assert uih(tiled(), geometry(64, 48)).defect == Reason.TILES_UNPLACED


def test_a_sagittal_mosaic_is_placed_along_its_own_rows_and_columns() -> None:
    found = siemens(mosaic(normal=(-1, 0, 0)), geometry(63, 48, orientation=(0.0, 1.0, 0.0, 0.0, 0.0, -1.0)))
    assert found.tiling is not None
    assert found.tiling.first_position_lps == pytest.approx((-10, 20 + 24.0, 30 - 42.0))
    assert found.tiling.step_lps == pytest.approx((-3.0, 0.0, 0.0))
