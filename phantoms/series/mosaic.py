"""All planes of a volume as tiles of one image: Siemens' mosaic, with CSA header or as XA writes it, and UIH's grid."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items

from phantoms.series.classic import single_frame
from phantoms.series.header import add_pixels, clock_text, date_time_text, decimal, position
from phantoms.series.truth import ImagePlane, Scan, StoredArray
from phantoms.series.vendors import (
    SIEMENS,
    UIH,
    Vendor,
    siemens_common,
    siemens_csa,
    siemens_diffusion,
    uih_private,
)

SIEMENS_XA = Vendor(
    manufacturer="Siemens Healthineers", model="SYNTHETIC Vida", software="syngo MR XA30",
    image_type=SIEMENS.image_type, annotate=SIEMENS.annotate,
)  # fmt: skip


def siemens_mosaics(scan: Scan, *, form: str, csa: bool = True, descending: bool = False) -> list[Dataset]:
    """One object per volume. ``descending``: tile 0 is the last plane, as in sagittal scans of these scanners."""
    vendor = SIEMENS if csa else SIEMENS_XA
    objects = []
    for number, planes in enumerate(_volumes(scan), start=1):
        tiles = planes[::-1] if descending else planes
        first, across = tiles[0], math.ceil(math.sqrt(len(tiles)))
        ds = single_frame(scan, first, vendor, form=form, number=number)
        ds.ImageType = [*vendor.image_type(first), "MOSAIC"]
        picture = _tiled([t.stored_yx for t in tiles], across=across, down=across)
        # The position is the one that the whole image would have, were it a plane about the tile's centre (nibabel,
        # "Siemens mosaic format").
        (rows, columns), (dy, dx) = first.stored_yx.shape, first.stack.pixel_spacing
        corner = (
            first.origin_lps
            - first.stack.row_lps * dx * (picture.shape[1] - columns) / 2
            - first.stack.column_lps * dy * (picture.shape[0] - rows) / 2
        )
        ds.ImagePositionPatient = position(corner)
        add_pixels(ds, picture, signed=scan.signed)
        siemens_common(ds, first, scan)
        ds.private_block(0x0019, "SIEMENS MR HEADER", create=True).add_new(0x0A, "US", len(tiles))
        siemens_diffusion(ds, first)
        if csa:
            siemens_csa(ds, first, tiles=len(tiles), normal_sign=-1.0 if descending else 1.0)
        objects.append(ds)
    return objects


def uih_grids(scan: Scan, *, form: str) -> list[Dataset]:
    """One object per volume, as many rows of tiles as are needed; each tile's place in (0065,1051), none on top."""
    objects = []
    for number, planes in enumerate(_volumes(scan), start=1):
        first, across = planes[0], math.ceil(math.sqrt(len(planes)))
        ds = single_frame(scan, first, UIH, form=form, number=number)
        ds.ImageType = [*UIH.image_type(first), "VFRAME"]
        ds.AcquisitionMatrix = None
        add_pixels(
            ds, _tiled([p.stored_yx for p in planes], across=across, down=math.ceil(len(planes) / across)),
            signed=scan.signed,
        )  # fmt: skip
        del ds.AcquisitionTime, ds.AcquisitionDate
        ds.ContentTime = clock_text(first.time)
        ds.NumberOfSlices = scan.volumes  # objects, not slices (dcm_qa_uih: 17 for 17 volumes of 20 slices)
        uih_private(ds, first, normal_sign=-1.0)
        block = ds.private_block(0x0065, "Image Private Header", create=True)
        block.add_new(0x50, "DS", str(len(planes)))
        block.add_new(0x51, "SQ", Items([_tile_item(p) for p in planes]))
        objects.append(ds)
    return objects


def _tile_item(plane: ImagePlane) -> Dataset:
    item = Dataset()
    at = plane.time + 0.05 * plane.slice_index
    item.AcquisitionDate = date_time_text(at)[:8]
    item.AcquisitionTime, item.AcquisitionDateTime = clock_text(at), date_time_text(at)
    item.ImagePositionPatient = position(plane.origin_lps)
    item.SliceLocation = decimal(float(plane.origin_lps @ plane.stack.normal_lps))
    return item


def _volumes(scan: Scan) -> list[list[ImagePlane]]:
    planes = list(scan.planes())
    count = scan.stored.shape[-3]
    volumes = [planes[k : k + count] for k in range(0, len(planes), count)]
    if any(len({(p.slope, p.intercept) for p in volume}) > 1 for volume in volumes):
        raise ValueError("the tiles of one object share their rescale")
    return volumes


def _tiled(tiles: Sequence[StoredArray], *, across: int, down: int) -> StoredArray:
    rows, columns = tiles[0].shape
    picture = np.zeros((down * rows, across * columns), dtype=np.int32)
    for k, tile in enumerate(tiles):
        y, x = k // across * rows, k % across * columns
        picture[y : y + rows, x : x + columns] = tile
    return picture
