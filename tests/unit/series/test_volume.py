"""Volumes by scattered reads: order, tilt, rescale, byte order, lossless codecs; refusals with reasons."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from io import BytesIO
from typing import BinaryIO

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from ichor.errors import Unreadable
from ichor.messages import to_json
from ichor.reasons import Reason
from ichor.series.facts import read_instance
from ichor.series.manifest import build_manifest, get_manifest, put_manifest
from ichor.series.volume import build_volume
from ichor.store.journal import StoredObject
from ichor.types import Grade, Instance, ManifestRef

ROWS, COLUMNS = 48, 64


class Spool:
    """Stored files in memory; knows how many bytes were asked for."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.read = 0

    def open(self, location: str) -> BinaryIO:
        return BytesIO(self.files[location])

    def read_range(self, location: str, offset: int, length: int) -> bytes:
        self.read += length
        return self.files[location][offset : offset + length]


class Blobs(dict[str, bytes]):
    def put(self, key: str, data: bytes) -> bool:
        return self.setdefault(key, data) is data

    get = dict.__getitem__  # type: ignore[assignment]


def truth(count: int) -> np.ndarray:
    return np.random.default_rng(5).integers(-1000, 2000, (count, ROWS, COLUMNS)).astype(np.int16)


def store(
    spool: Spool, hu: np.ndarray, *, syntax: str = ExplicitVRLittleEndian, tilt: float = 0.0, slope: str = "1",
    intercept: str = "-1024", order: list[int] | None = None, signed: bool = False,
) -> list[Instance]:  # fmt: skip
    """Write slices 5 mm apart; ``order`` is the order of instance numbers and of arrival."""
    instances = []
    sine, cosine = np.sin(np.deg2rad(tilt)), np.cos(np.deg2rad(tilt))
    stored = (hu.astype(np.int32) - int(float(intercept))).astype("<i2" if signed else "<u2")
    for number, k in enumerate(order or range(len(hu)), start=1):
        ds = Dataset()
        ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, f"1.2.3.{k + 1}"
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.Modality = "1.2", "1.2.3", "CT"
        ds.InstanceNumber, ds.SliceThickness = number, "5"
        ds.ImagePositionPatient = [-4, -3, 5.0 * k]
        ds.ImageOrientationPatient = [1, 0, 0, 0, round(cosine, 8), round(sine, 8)]
        ds.Rows, ds.Columns, ds.PixelSpacing = ROWS, COLUMNS, [0.5, 0.25]
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, int(signed)
        ds.RescaleSlope, ds.RescaleIntercept = slope, intercept
        ds.PixelData = stored[k].tobytes()
        ds["PixelData"].VR = "OW"
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = CTImageStorage, "1.2.3.4"
        target = BytesIO()
        if syntax == ExplicitVRBigEndian:
            ds.PixelData = stored[k].astype(">u2").tobytes()
            ds.file_meta.TransferSyntaxUID, ds.preamble = syntax, bytes(128)
            pydicom.dcmwrite(target, ds, little_endian=False, implicit_vr=False, force_encoding=True)
        elif syntax == ImplicitVRLittleEndian:
            ds.file_meta.TransferSyntaxUID = syntax
            pydicom.dcmwrite(target, ds, enforce_file_format=True)
        else:
            pydicom.dcmwrite(target, ds, enforce_file_format=True)
            if syntax != ExplicitVRLittleEndian:
                ds = pydicom.dcmread(BytesIO(target.getvalue()))
                ds.compress(syntax)
                target = BytesIO()
                pydicom.dcmwrite(target, ds, enforce_file_format=True)
        location = f"1.2.3.{k + 1}"
        spool.files[location] = target.getvalue()
        about = StoredObject(
            sop_instance_uid=location, sop_class_uid=CTImageStorage, series_instance_uid="1.2.3",
            study_instance_uid="1.2", transfer_syntax_uid=syntax, location=location, length=len(target.getvalue()),
            file_sha256="f", association="a", calling_ae="A", called_ae="B", sender_priority=None,
            called_priority=None, command_priority_high=False, received_at=0.0,
        )  # fmt: skip
        instances.append(read_instance(BytesIO(target.getvalue()), stored=about))
    return instances


@pytest.mark.parametrize(
    "syntax",
    [
        ExplicitVRLittleEndian,
        ImplicitVRLittleEndian,
        ExplicitVRBigEndian,
        RLELossless,
        JPEGLSLossless,
        JPEG2000Lossless,
    ],
)
def test_every_lossless_syntax_gives_the_same_hounsfield_units(syntax: str) -> None:
    spool, hu = Spool(), truth(4)
    instances = store(spool, hu, syntax=syntax, order=[2, 0, 3, 1])
    assert [i.defect for i in instances] == [None] * 4
    volume = build_volume(build_manifest(instances, revision=1, grade=Grade.REGULAR), spool=spool)
    assert volume.array_zyx.dtype == np.int16
    assert np.array_equal(volume.array_zyx, hu)
    assert volume.slice_positions.tolist() == [0.0, 5.0, 10.0, 15.0]
    assert volume.unit == "[hnsf'U]"
    assert volume.pixel_spacing == (0.5, 0.25)


def test_only_the_pixels_are_read() -> None:
    spool, hu = Spool(), truth(4)
    manifest = build_manifest(store(spool, hu), revision=1, grade=Grade.REGULAR)
    build_volume(manifest, spool=spool)
    assert spool.read == hu.nbytes


def test_origins_of_a_tilted_stack_are_those_of_the_headers() -> None:
    spool, hu = Spool(), truth(3)
    volume = build_volume(
        build_manifest(store(spool, hu, tilt=15.0), revision=1, grade=Grade.REGULAR), spool=spool
    )  # fmt: skip
    assert volume.origins_lps.tolist() == [[-4, -3, 0], [-4, -3, 5], [-4, -3, 10]]
    assert np.diff(volume.slice_positions) == pytest.approx([5 * np.cos(np.deg2rad(15.0))] * 2, abs=1e-6)
    assert np.linalg.norm(volume.normal_lps) == pytest.approx(1.0, abs=1e-12)
    assert volume.to_lps([[1, 2, 4]])[0] == pytest.approx(
        [-4 + 4 * 0.25, -3 + 2 * 0.5 * np.cos(np.deg2rad(15)), 5 + 2 * 0.5 * np.sin(np.deg2rad(15))], abs=1e-6
    )


def test_values_that_do_not_fit_into_16_bits_are_kept_in_floating_point() -> None:
    spool, hu = Spool(), np.full((2, ROWS, COLUMNS), 40_000, dtype=np.int32)
    instances = store(spool, hu)
    volume = build_volume(build_manifest(instances, revision=1, grade=Grade.REGULAR), spool=spool)
    assert volume.array_zyx.dtype == np.float32
    assert (volume.array_zyx == 40_000).all()


def test_a_slope_that_is_not_one_is_applied_once_in_floating_point() -> None:
    spool, hu = Spool(), truth(2)
    instances = store(spool, hu, slope="0.5", intercept="-1024")
    volume = build_volume(build_manifest(instances, revision=1, grade=Grade.REGULAR), spool=spool)
    assert volume.array_zyx.dtype == np.float32
    assert np.allclose(volume.array_zyx, (hu.astype(float) + 1024) * 0.5 - 1024)


def test_bits_above_those_stored_are_no_values() -> None:
    spool, hu = Spool(), np.clip(truth(2), -1000, 1000)
    instances = store(spool, hu)
    for instance in instances:
        assert instance.pixels is not None
        data = bytearray(spool.files[instance.location])
        data[instance.pixels.offset + 1] |= 0x80
        spool.files[instance.location] = bytes(data)
    instances = [replace(i, pixels=replace(i.pixels, bits_stored=12)) for i in instances if i.pixels]
    volume = build_volume(build_manifest(instances, revision=1, grade=Grade.REGULAR), spool=spool)
    assert np.array_equal(volume.array_zyx, hu)


def test_signed_values_keep_their_sign() -> None:
    spool, hu = Spool(), truth(2)
    instances = store(spool, hu, intercept="0", signed=True)
    volume = build_volume(build_manifest(instances, revision=1, grade=Grade.REGULAR), spool=spool)
    assert np.array_equal(volume.array_zyx, hu)


def test_damaged_compressed_pixels_are_unreadable_with_a_reason() -> None:
    spool, hu = Spool(), truth(3)
    instances = store(spool, hu, syntax=JPEGLSLossless)
    place = instances[1]
    assert place.pixels is not None
    data = bytearray(spool.files[place.location])
    data[place.pixels.offset + 16 : place.pixels.offset + 60] = bytes(44)
    spool.files[place.location] = bytes(data)
    with pytest.raises(Unreadable, match="damaged"):
        build_volume(build_manifest(instances, revision=1, grade=Grade.REGULAR), spool=spool)


def test_what_is_no_single_volume_is_refused() -> None:
    spool, hu = Spool(), truth(6)
    instances = store(spool, hu)
    assert instances[0].pixels is not None
    cases = {
        Reason.LOSSY: [replace(instances[0], pixels=replace(instances[0].pixels, lossy=True)), *instances[1:]],
        Reason.SAME_PLACE: [replace(instances[0], geometry=instances[1].geometry), *instances[1:]],
        Reason.NO_PIXELS: [replace(instances[0], pixels=None), *instances[1:]],
        Reason.MULTIFRAME: [replace(instances[0], pixels=replace(instances[0].pixels, frames=2)), *instances[1:]],
    }
    for reason, broken in cases.items():
        with pytest.raises(Unreadable) as caught:
            build_volume(build_manifest(broken, revision=1, grade=Grade.REGULAR), spool=spool)
        assert caught.value.reason == reason


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless])
def test_an_image_that_retention_removed_is_unreadable_with_that_reason(syntax: str) -> None:
    spool = Spool()
    instances = store(spool, truth(3), syntax=syntax)
    del spool.files[instances[1].location]
    with pytest.raises(Unreadable) as caught:
        build_volume(build_manifest(instances, revision=1, grade=Grade.REGULAR), spool=spool)
    assert caught.value.reason == Reason.REMOVED


def test_a_manifest_comes_back_from_the_store_as_it_was() -> None:
    spool, blobs = Spool(), Blobs()
    manifest = build_manifest(store(spool, truth(3)), revision=2, grade=Grade.COUNTED, notes=("gap",))
    ref = put_manifest(manifest, blobs)  # type: ignore[arg-type]
    assert ref.key == f"manifests/1.2/1.2.3/{ref.sha256[:16]}.jsonl"
    assert get_manifest(ref, blobs) == manifest  # type: ignore[arg-type]
    assert put_manifest(manifest, blobs) == ref  # type: ignore[arg-type]


def test_a_manifest_of_an_earlier_version_is_one_json_text() -> None:
    spool = Spool()
    manifest = build_manifest(store(spool, truth(3)), revision=2, grade=Grade.COUNTED, notes=("gap",))
    data = to_json(manifest)
    ref = ManifestRef(key="x", sha256=hashlib.sha256(data).hexdigest(), series_instance_uid="1.2.3", instances=3)
    assert get_manifest(ref, Blobs({"x": data})) == manifest  # type: ignore[arg-type]
