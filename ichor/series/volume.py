"""From a manifest to one scalar volume by reading pixels where the manifest says they lie. Parses no DICOM header."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from ichor.errors import Unreadable
from ichor.reasons import Reason
from ichor.series.grid import build_grid
from ichor.store.protocol import SpoolReader
from ichor.types import Geometry, Instance, Manifest, ManifestRef, Pixels, Volume

_BIG_ENDIAN = "1.2.840.10008.1.2.2"
_UNITS = {"CT": "[hnsf'U]"}  # UCUM of Hounsfield units
_INT16 = np.iinfo(np.int16)


def build_volume(manifest: Manifest, *, spool: SpoolReader, ref: ManifestRef | None = None) -> Volume:
    """Build the volume of a series of single-frame images.

    The array is (z, y, x), slices ascending along the normal, rescale applied once: int16 where that is exact (slope 1
    and an integer intercept in all slices, every value in range), else float32. Memory is the result and one frame per
    thread. CT values are in HU.

    Parameters
    ----------
    manifest
        Of a series that plays a role: one image per position, one geometry.
    spool
        Where its ``location`` keys lead.
    ref
        Reference to the manifest, handed on in the volume.

    Raises
    ------
    Unreadable
        With a reason of `ichor.reasons.Reason`, when the series is not one volume or its pixels do not decode.
    """
    _check(manifest.instances)
    grid = build_grid(manifest.instances)
    if grid.findings:
        raise Unreadable(grid.findings[0])
    slices = [images[0] for images in grid.stacks[0].members]
    geometries = [_geometry(i) for i in slices]
    array = _read_slices(slices, spool=spool)
    first = geometries[0]
    orientation = np.asarray(first.orientation_lps, dtype=np.float64)
    row = orientation[:3] / np.linalg.norm(orientation[:3])
    # Rounded cosines are made exactly perpendicular, so that the normal is a unit vector.
    column = orientation[3:] - (orientation[3:] @ row) * row
    column /= np.linalg.norm(column)
    assert first.pixel_spacing is not None
    return Volume(
        array=array,
        origins_lps=np.asarray([g.position_lps for g in geometries], dtype=np.float64),
        row_lps=row,
        column_lps=column,
        pixel_spacing=first.pixel_spacing,
        slice_thickness=max((g.slice_thickness for g in geometries if g.slice_thickness), default=None),
        frame_of_reference_uid=first.frame_of_reference_uid,
        unit=_UNITS.get(slices[0].modality, "1"),
        sources=tuple(slices),
        manifest=ref,
        notes=manifest.notes,
    )


def _check(instances: Sequence[Instance]) -> None:
    for instance in instances:
        if instance.defect is not None:
            raise Unreadable(instance.defect)
        if instance.pixels is None:
            raise Unreadable(Reason.NO_PIXELS)
        if instance.pixels.lossy:
            raise Unreadable(Reason.LOSSY)
        if instance.pixels.frames != 1:
            raise Unreadable(Reason.MULTIFRAME)


def _geometry(instance: Instance) -> Geometry:
    assert instance.geometry is not None  # the grid has no finding
    return instance.geometry


def _pixels(instance: Instance) -> Pixels:
    assert instance.pixels is not None  # checked
    return instance.pixels


def _read_slices(slices: Sequence[Instance], *, spool: SpoolReader) -> npt.NDArray[Any]:
    geometry = _geometry(slices[0])
    shape = len(slices), geometry.rows, geometry.columns
    if all(_pixels(i).rescale_slope == 1.0 and _pixels(i).rescale_intercept.is_integer() for i in slices):
        integers = np.empty(shape, dtype=np.int16)
        if _fill(integers, slices, spool=spool):
            return integers
        del integers  # a value does not fit into 16 bits
    result = np.empty(shape, dtype=np.float32)
    _fill(result, slices, spool=spool)
    return result


def _fill(result: npt.NDArray[Any], slices: Sequence[Instance], *, spool: SpoolReader) -> bool:
    """Rescaled values of every slice into ``result``; False when one does not fit."""
    exact = result.dtype == np.int16

    def fill(k: int) -> bool:
        pixels = _pixels(slices[k])
        stored = _decode(slices[k], pixels, spool=spool)
        if not exact:
            result[k] = stored.astype(np.float64) * pixels.rescale_slope + pixels.rescale_intercept
            return True
        offset = int(pixels.rescale_intercept)
        if int(stored.min()) + offset < _INT16.min or int(stored.max()) + offset > _INT16.max:
            return False
        np.add(stored, offset, out=result[k], dtype=np.int32, casting="unsafe")
        return True

    threads = min(len(slices), os.cpu_count() or 1, 8)
    # Native frames are copies: threads would only wait for each other.
    if threads == 1 or not any(_pixels(i).encapsulated for i in slices):
        return all(fill(k) for k in range(len(slices)))
    with ThreadPoolExecutor(threads) as pool:
        return all(list(pool.map(fill, range(len(slices)))))


def _decode(instance: Instance, pixels: Pixels, *, spool: SpoolReader) -> npt.NDArray[Any]:
    """Stored values (rows, columns) of one frame, sign extended, bits above Bits Stored cut off."""
    geometry = _geometry(instance)
    shape = geometry.rows, geometry.columns
    if pixels.samples_per_pixel != 1 or pixels.bits_allocated not in (8, 16, 32):
        raise Unreadable(Reason.UNSUPPORTED_PIXELS)
    if pixels.encapsulated:
        raw = _read(spool, instance, pixels.offset, pixels.length)
        stored = _decompress(raw, instance, pixels, shape=shape)
    else:
        size = pixels.bits_allocated // 8
        needed = shape[0] * shape[1] * size
        if pixels.length < needed:
            raise Unreadable(Reason.PIXELS_SHORT)
        raw = _read(spool, instance, pixels.offset, needed)
        order = ">" if instance.transfer_syntax_uid == _BIG_ENDIAN else "<"
        kind = f"{order if size > 1 else '|'}{'i' if pixels.signed else 'u'}{size}"
        stored = np.frombuffer(raw, dtype=kind).reshape(shape)
    unused = pixels.bits_allocated - pixels.bits_stored
    if unused:
        # Old writers put overlay bits there (PS3.5 section 8.1.1).
        native = stored.astype(stored.dtype.newbyteorder("="))
        stored = (native << unused) >> unused
    return stored


def _read(spool: SpoolReader, instance: Instance, offset: int, length: int) -> bytes:
    try:
        return spool.read_range(instance.location, offset, length)
    except KeyError as error:
        # Only retention takes files away; a manifest of a study that was opened again may still name them.
        raise Unreadable(Reason.REMOVED) from error


def _decompress(raw: bytes, instance: Instance, pixels: Pixels, *, shape: tuple[int, int]) -> npt.NDArray[Any]:
    from pydicom.encaps import encapsulate, generate_frames
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.uid import UID

    try:
        decoder = get_decoder(UID(instance.transfer_syntax_uid))
        frame = next(iter(generate_frames(raw, number_of_frames=1)))
        about: dict[str, Any] = {
            "rows": shape[0], "columns": shape[1], "number_of_frames": 1, "samples_per_pixel": 1,
            "bits_allocated": pixels.bits_allocated, "bits_stored": pixels.bits_stored,
            "photometric_interpretation": pixels.photometric, "pixel_representation": int(pixels.signed),
            "pixel_keyword": "PixelData",
        }  # fmt: skip
        array, _ = decoder.as_array(encapsulate([frame], has_bot=False), raw=True, index=0, **about)
    except NotImplementedError as error:
        raise Unreadable(Reason.UNSUPPORTED_SYNTAX) from error
    except Exception as error:  # codecs raise anything on damaged input, and the input is a stranger's
        raise Unreadable(f"{Reason.UNSUPPORTED_SYNTAX}: the pixel data are damaged") from error
    if array.shape != shape:
        raise Unreadable(Reason.PIXELS_SHORT)
    result: npt.NDArray[Any] = array
    return result
