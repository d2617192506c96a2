"""Arrays with further axes, out of single images, mosaics and enhanced objects: one truth, one array; values and types."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
from pydicom.encaps import encapsulate
from pydicom.pixels import get_encoder
from pydicom.uid import ExplicitVRLittleEndian, JPEGLSLossless

from ichor.errors import Unreadable
from ichor.reasons import Reason
from ichor.series import volume as volume_module
from ichor.series.volume import build_volume, build_volumes
from ichor.types import (
    AxisName,
    Component,
    Dialect,
    Diffusion,
    Frame,
    Geometry,
    Grade,
    Instance,
    Kind,
    Manifest,
    Pixels,
    Slot,
    Tiling,
)

SLICES, ROWS, COLUMNS = 5, 8, 12
STEP = 3.0
B0 = Diffusion(b_value=0.0, source="test")
WEIGHTED = [
    Diffusion(b_value=1000.0, direction_lps=d, source="test")
    for d in ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
]
DIFFUSION = [B0, *WEIGHTED]


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


def truth(*, volumes: int = len(DIFFUSION), high: int = 4096) -> np.ndarray:
    return np.random.default_rng(9).integers(0, high, (volumes, SLICES, ROWS, COLUMNS)).astype(np.uint16)


def place(k: int) -> tuple[float, float, float]:
    return (-10.0, -20.0, 7.0 + STEP * k)


def geometry(position: tuple[float, float, float] | None, *, rows: int = ROWS, columns: int = COLUMNS) -> Geometry:
    return Geometry(
        rows=rows, columns=columns, position_lps=position, orientation_lps=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0),
        pixel_spacing=(2.0, 1.5), slice_thickness=2.5, frame_of_reference_uid="1.9",
    )  # fmt: skip


def instance(spool: Spool, number: int, value: bytes, **about: Any) -> Instance:
    """An object whose file is a few bytes of something else and then ``value``."""
    location = f"1.2.3.{number}"
    spool.files[location] = b"header" + value
    pixels = Pixels(
        offset=6, length=len(value), lossy=False, encapsulated=about.get("encapsulated", False),
        frames=about.get("count", 1), bits_stored=about.get("bits_stored", 12),
        bits_allocated=about.get("bits_allocated", 16), signed=about.get("signed", False),
        rescale_slope=about.get("slope", 1.0), rescale_intercept=about.get("intercept", 0.0),
    )  # fmt: skip
    return Instance(
        sop_instance_uid=location, sop_class_uid="1.2", series_instance_uid="1.2.3", study_instance_uid="1.2",
        transfer_syntax_uid=JPEGLSLossless if about.get("encapsulated") else ExplicitVRLittleEndian, modality="MR",
        location=location, file_sha256="", content_sha256="", identity_sha256="", patient_sha256="",
        accession_sha256=None, association="", calling_ae="", called_ae="", priority=None, received_at=0.0,
        instance_number=number, geometry=about["geometry"], pixels=pixels, slot=about.get("slot", Slot()),
        tiling=about.get("tiling"), frames=about.get("frames", ()), dialect=about.get("dialect", Dialect.CLASSIC),
        unit=about.get("unit"),
    )  # fmt: skip


def manifest(instances: list[Instance]) -> Manifest:
    return Manifest(
        study_instance_uid="1.2", series_instance_uid="1.2.3", revision=1, grade=Grade.REGULAR,
        instances=tuple(instances),
    )  # fmt: skip


def classic(spool: Spool, array: np.ndarray, **about: Any) -> list[Instance]:
    """In an order of arrival and instance numbers that has nothing to do with the truth."""
    slots = [(v, k) for v in range(len(array)) for k in range(SLICES)]
    order = np.random.default_rng(1).permutation(len(slots)).tolist()
    return [
        instance(
            spool, number, array[slots[n]].tobytes(), geometry=geometry(place(slots[n][1])),
            slot=Slot(diffusion=DIFFUSION[slots[n][0]]), **about,
        )
        for number, n in enumerate(order, start=1)
    ]  # fmt: skip


def mosaics(spool: Spool, array: np.ndarray) -> list[Instance]:
    """Tiles 3 across, 2 down, the sixth one empty."""
    made = []
    for number, volume in enumerate(array, start=1):
        image = np.zeros((2 * ROWS, 3 * COLUMNS), dtype=np.uint16)
        for k, tile in enumerate(volume):
            row, column = divmod(k, 3)
            image[row * ROWS : (row + 1) * ROWS, column * COLUMNS : (column + 1) * COLUMNS] = tile
        tiling = Tiling(
            count=SLICES, across=3, rows=ROWS, columns=COLUMNS, first_position_lps=place(0), step_lps=(0.0, 0.0, STEP)
        )  # fmt: skip
        made.append(
            instance(
                spool, number, image.tobytes(), geometry=geometry(place(0), rows=2 * ROWS, columns=3 * COLUMNS),
                tiling=tiling, slot=Slot(diffusion=DIFFUSION[number - 1]), dialect=Dialect.SIEMENS_MOSAIC,
            )
        )  # fmt: skip
    return made


def jpeg_ls(frame: np.ndarray) -> bytes:
    options: dict[str, Any] = {
        "rows": ROWS, "columns": COLUMNS, "number_of_frames": 1, "samples_per_pixel": 1, "bits_allocated": 16,
        "bits_stored": 12, "pixel_representation": 0, "photometric_interpretation": "MONOCHROME2",
    }  # fmt: skip
    return bytes(get_encoder(JPEGLSLossless).encode(np.ascontiguousarray(frame), **options))


def enhanced(spool: Spool, array: np.ndarray, *, encapsulated: bool, slope: float = 1.0) -> list[Instance]:
    """One object with all frames, slices running down."""
    slots = [(v, k) for k in reversed(range(SLICES)) for v in range(len(array))]
    value = (
        encapsulate([jpeg_ls(array[slot]) for slot in slots], fragments_per_frame=2, has_bot=False)
        if encapsulated
        else b"".join(array[slot].tobytes() for slot in slots)
    )
    frames = tuple(
        Frame(geometry=geometry(place(k)), slot=Slot(diffusion=DIFFUSION[v]), rescale_slope=slope) for v, k in slots
    )  # fmt: skip
    return [
        instance(
            spool, 1, value, geometry=geometry(None), frames=frames, count=len(frames), encapsulated=encapsulated,
            dialect=Dialect.ENHANCED,
        )
    ]  # fmt: skip


def forms(spool: Spool, array: np.ndarray, form: str) -> list[Instance]:
    if form == "classic":
        return classic(spool, array)
    if form == "mosaic":
        return mosaics(spool, array)
    return enhanced(spool, array, encapsulated=form == "enhanced JPEG-LS")


@pytest.mark.parametrize("form", ["classic", "mosaic", "enhanced", "enhanced JPEG-LS"])
def test_one_truth_gives_one_array_whatever_the_form(form: str) -> None:
    spool, array = Spool(), truth()
    instances = forms(spool, array, form)
    volume = build_volume(manifest(instances), spool=spool)
    assert [axis.name for axis in volume.axes] == [AxisName.DIFFUSION]
    order = [DIFFUSION.index(d) for d in _stated(volume.gradients)]
    assert sorted(order) == list(range(len(DIFFUSION)))
    assert volume.array.dtype == np.int16
    assert np.array_equal(volume.array, array[order])
    assert volume.origins_lps.tolist() == [list(place(k)) for k in range(SLICES)]
    assert volume.pixel_spacing == (2.0, 1.5)
    assert volume.slice_thickness == 2.5
    assert {i.sop_instance_uid for i in volume.sources} == {i.sop_instance_uid for i in instances}
    assert len(volume.sources) == len(instances)


def _stated(gradients: Any) -> list[Diffusion]:
    return [
        Diffusion(b_value=b, direction_lps=d if any(d) else None, source="test")
        for b, d in zip(gradients.b_values, gradients.directions_lps, strict=True)
    ]


def test_a_mosaic_is_read_once_and_a_frame_by_its_place() -> None:
    for form in ("mosaic", "enhanced"):
        spool, array = Spool(), truth()
        instances = forms(spool, array, form)
        build_volume(manifest(instances), spool=spool)
        assert spool.read == sum(len(data) - 6 for data in spool.files.values())


def test_a_trace_image_beside_is_neither_read_nor_refused() -> None:
    spool, array = Spool(), truth()
    instances = classic(spool, array)
    trace = replace(
        instances[0], sop_instance_uid="1.2.3.99", location="gone", defect=Reason.LOSSY,
        slot=Slot(kind=Kind.TRACE, diffusion=Diffusion(b_value=1000.0, isotropic=True)), kind=Kind.TRACE,
    )  # fmt: skip
    volume = build_volume(manifest([*instances, trace]), spool=spool)
    assert volume.array.shape == (len(DIFFUSION), SLICES, ROWS, COLUMNS)
    assert "1.2.3.99" not in {i.sop_instance_uid for i in volume.sources}


@pytest.mark.parametrize("form", ["classic", "mosaic", "enhanced"])
def test_a_series_that_lacks_an_image_is_short(form: str) -> None:
    spool, array = Spool(), truth()
    instances = forms(spool, array, form)
    if form == "enhanced":
        (one,) = instances
        value = spool.files[one.location][6 : -2 * ROWS * COLUMNS]
        instances = [
            instance(spool, 1, value, geometry=one.geometry, frames=one.frames[:-1], count=len(one.frames) - 1)
        ]
    elif form == "mosaic":
        short = instances[0].tiling
        assert short is not None
        instances[0] = replace(instances[0], tiling=replace(short, count=SLICES - 1))
    else:
        del instances[7]
    with pytest.raises(Unreadable) as caught:
        build_volume(manifest(instances), spool=spool)
    assert caught.value.reason == Reason.SHORT


def two_stacks(spool: Spool, array: np.ndarray) -> list[Instance]:
    """The second one sagittal."""
    made = []
    for stack in range(2):
        for k in range(SLICES):
            where = geometry(place(k))
            if stack:
                where = replace(
                    where, position_lps=(30.0 + 4.0 * k, -20.0, 7.0), orientation_lps=(0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
                )  # fmt: skip
            made.append(
                instance(
                    spool, len(made) + 1, array[stack, k].tobytes(), geometry=where, slot=Slot(stack=str(stack + 1))
                )
            )  # fmt: skip
    return made


def test_two_stacks_are_two_arrays_and_no_single_one() -> None:
    spool, array = Spool(), truth(volumes=2)
    instances = two_stacks(spool, array)
    first, second = build_volumes(manifest(instances), spool=spool)
    assert np.array_equal(first.array_zyx, array[0])
    # The normal of the second points to the right: slices ascend along it.
    assert second.normal_lps.tolist() == [-1.0, 0.0, 0.0]
    assert np.array_equal(second.array_zyx, array[1, ::-1])
    assert second.origins_lps[0].tolist() == [46.0, -20.0, 7.0]
    assert len(second.sources) == SLICES
    with pytest.raises(Unreadable) as caught:
        build_volume(manifest(instances), spool=spool)
    assert caught.value.reason == Reason.MIXED_GEOMETRY


def components(spool: Spool, array: np.ndarray) -> list[Instance]:
    """Magnitude as stored, phase with twice the slope and an intercept."""
    made = []
    for v, component in enumerate((Component.MAGNITUDE, Component.PHASE)):
        for k in range(SLICES):
            made.append(
                instance(
                    spool, len(made) + 1, array[v, k].tobytes(), geometry=geometry(place(k)),
                    slot=Slot(component=component), slope=1.0 + v, intercept=-4096.0 * v,
                )
            )  # fmt: skip
    return made


def test_each_image_is_rescaled_by_its_own_factor() -> None:
    spool, array = Spool(), truth(volumes=2)
    volume = build_volume(manifest(components(spool, array)), spool=spool)
    assert [axis.name for axis in volume.axes] == [AxisName.COMPONENT]
    order = [(Component.MAGNITUDE, Component.PHASE).index(Component(str(v))) for v in volume.axes[0].values]
    expected = np.stack([array[0].astype(int), array[1].astype(int) * 2 - 4096])[order]
    assert volume.array.dtype == np.int16
    assert np.array_equal(volume.array, expected)


def single(
    spool: Spool, values: np.ndarray, *, slope: float = 1.0, intercept: float = 0.0, bits: int | None = None
) -> np.ndarray:
    size = values.dtype.itemsize * 8
    instances = [
        instance(
            spool, k + 1, values[k].tobytes(), geometry=geometry(place(k)), bits_allocated=size,
            bits_stored=bits or size, signed=values.dtype.kind == "i", slope=slope, intercept=intercept,
        )
        for k in range(SLICES)
    ]  # fmt: skip
    return build_volume(manifest(instances), spool=spool).array_zyx


def ramp(low: int, high: int, dtype: Any) -> np.ndarray:
    count = SLICES * ROWS * COLUMNS
    return np.linspace(low, high, count).astype(np.int64).reshape(SLICES, ROWS, COLUMNS).astype(dtype)


@pytest.mark.parametrize(
    ("low", "high", "stored", "kept"),
    [
        (-32768, 32767, np.int16, np.int16),
        (0, 32767, np.uint16, np.int16),
        (0, 65535, np.uint16, np.float32),
        (0, 255, np.uint8, np.int16),
        (-(2**24), 2**24, np.int32, np.float32),
        (-(2**31), 2**31 - 1, np.int32, np.int32),
        (0, 2**32 - 1, np.uint32, np.float64),
        (-30000, 30000, np.int32, np.int16),
    ],
)
def test_integers_keep_every_value(low: int, high: int, stored: Any, kept: Any) -> None:
    values = ramp(low, high, stored)
    found = single(Spool(), values)
    assert found.dtype == kept
    assert np.array_equal(found.astype(np.int64), values.astype(np.int64))


@pytest.mark.parametrize(
    ("stored", "high", "bits", "kept"),
    [
        (np.uint16, 65535, 16, np.float32),
        (np.uint32, 2**20 - 1, 20, np.float32),
        (np.uint32, 2**32 - 1, 32, np.float64),
    ],
)
def test_a_broken_slope_keeps_stored_values_apart(stored: Any, high: int, bits: int, kept: Any) -> None:
    values = ramp(0, high, stored)
    found = single(Spool(), values, slope=0.3125, intercept=0.0, bits=bits)
    assert found.dtype == kept
    assert np.array_equal(found.astype(np.float64), values.astype(np.float64) * 0.3125)


def test_a_large_intercept_does_not_melt_stored_values() -> None:
    values = ramp(0, 4095, np.uint16)
    found = single(Spool(), values, slope=1e-5, intercept=1000.0)
    assert len(np.unique(found)) == len(np.unique(values))


def test_an_intercept_that_leaves_16_bits_is_no_overflow() -> None:
    values = ramp(0, 4095, np.uint16)
    found = single(Spool(), values, intercept=30000.0)
    assert found.dtype == np.float32
    assert np.array_equal(found, values.astype(np.int64) + 30000)


def test_units_are_those_that_all_images_share() -> None:
    spool, array = Spool(), truth(volumes=1)
    instances = [
        instance(spool, k + 1, array[0, k].tobytes(), geometry=geometry(place(k)), unit="s") for k in range(SLICES)
    ]
    assert build_volume(manifest(instances), spool=spool).unit == "s"
    mixed = [replace(instances[0], unit="mm2/s"), *instances[1:]]
    with pytest.raises(Unreadable) as caught:
        build_volume(manifest(mixed), spool=spool)
    assert caught.value.reason == Reason.MIXED_UNITS


def test_magnitude_and_phase_of_two_units_are_an_array_without_one() -> None:
    spool, array = Spool(), truth(volumes=2)
    instances = [
        instance(
            spool, v * SLICES + k + 1, array[v, k].tobytes(), geometry=geometry(place(k)), unit=unit,
            slot=Slot(component=component),
        )
        for v, (component, unit) in enumerate([(Component.MAGNITUDE, None), (Component.PHASE, "rad")])
        for k in range(SLICES)
    ]  # fmt: skip
    volume = build_volume(manifest(instances), spool=spool)
    assert ([axis.name for axis in volume.axes], volume.unit) == ([AxisName.COMPONENT], "1")


def test_a_frame_of_another_size_than_the_object_is_refused() -> None:
    spool, array = Spool(), truth()
    (one,) = enhanced(spool, array, encapsulated=False)
    frames = tuple(replace(f, geometry=replace(f.geometry, rows=ROWS // 2)) for f in one.frames)
    with pytest.raises(Unreadable) as caught:
        build_volume(manifest([replace(one, frames=frames)]), spool=spool)
    assert caught.value.reason == Reason.MIXED_GEOMETRY


def plain(spool: Spool, array: np.ndarray, **about: Any) -> list[Instance]:
    return [
        instance(spool, k + 1, image.tobytes(), geometry=geometry(place(k)), **about) for k, image in enumerate(array)
    ]


@pytest.mark.parametrize(
    ("slope", "intercept"), [(1e30, 0.0), (1e30, -1e30), (2.0**40, 2.0**70), (1.0, 1e300), (-1e30, 5.0)]
)
@pytest.mark.parametrize("constant", [True, False])
def test_scales_that_no_integer_holds_are_right_in_float64(slope: float, intercept: float, constant: bool) -> None:
    stored = truth(volumes=1)[0]
    if constant:
        stored[:] = 1 if intercept else 0
    spool = Spool()
    volume = build_volume(manifest(plain(spool, stored, slope=slope, intercept=intercept)), spool=spool)
    assert np.array_equal(volume.array, stored.astype(np.float64) * slope + intercept)


def test_an_array_of_more_than_half_of_the_memory_is_refused_before_a_pixel_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spool = Spool()
    images = plain(spool, truth(volumes=1)[0])
    size = 2 * SLICES * ROWS * COLUMNS
    monkeypatch.setattr(volume_module, "memory", lambda: 2 * size)
    assert build_volume(manifest(images), spool=spool).array.nbytes == size
    spool.read = 0
    monkeypatch.setattr(volume_module, "memory", lambda: 2 * size - 1)
    with pytest.raises(Unreadable) as caught:
        build_volume(manifest(images), spool=spool)
    assert (caught.value.reason, spool.read) == (Reason.ARRAY_TOO_LARGE, 0)


def test_memory_is_that_of_the_container_where_it_has_less(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(volume_module, "_CONTAINER", tmp_path / "memory.max")
    machine = volume_module.memory()
    assert machine > 1 << 26
    for text, expected in (("max\n", machine), ("1000000\n", 1_000_000), (str(machine + 1), machine)):
        (tmp_path / "memory.max").write_text(text)
        assert volume_module.memory() == expected
