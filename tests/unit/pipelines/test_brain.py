"""A brain is found where one is, however it was scanned, and not in phantoms of plastic, water or air."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from scipy import ndimage
from unit.pipelines.heads import FEET_FIRST, HEAD_FIRST, PRONE, TILTED, TRANSPOSED, UNEVEN, Layout, head, no_timing

from engines.catalogue import load_model
from ichor.arrays import Volume
from ichor.errors import Unreadable
from ichor.reasons import Reason
from phantoms.acquisition import Grid
from phantoms.head import make_head
from pipelines.brain import intracranial_space
from pipelines.fitness import fit_space
from pipelines.haematoma import MODEL, PIPELINE

WHOLE_ML = 4 / 3 * np.pi * 68 * 86 * 72 / 1000


@pytest.mark.parametrize("layout", [HEAD_FIRST, PRONE, FEET_FIRST, TRANSPOSED, TILTED, UNEVEN])
def test_the_space_inside_the_skull_is_found_however_it_is_stored(layout: Layout) -> None:
    volume = head(layout)
    space = intracranial_space(volume)
    # Scans start at -65 of -72 mm; blocks of 4 mm take some of the rim away.
    assert 0.8 * WHOLE_ML < space.volume_ml < WHOLE_ML
    lps = volume.to_lps(space.centres())
    radius = np.sqrt((lps[:, 0] / 68) ** 2 + (lps[:, 1] / 86) ** 2 + (lps[:, 2] / 72) ** 2)
    assert np.quantile(radius, 0.99) < 1.15


@pytest.mark.parametrize("step", [0.7, 1.25, 8.0])
def test_thin_and_thick_slices(step: float) -> None:
    space = intracranial_space(head(Layout(z=tuple(np.arange(-60.0, 60.0, step)))))
    assert 0.7 * WHOLE_ML < space.volume_ml < WHOLE_ML


def test_a_cropped_vertex_and_a_skull_with_a_hole_do_not_matter() -> None:
    volume = head(Layout(z=tuple(np.arange(-65.0, 30.0, 5.0))))
    assert intracranial_space(volume).volume_ml > 500
    opened = head()
    hu = opened.array_zyx.copy()
    left = np.arange(hu.shape[2]) > hu.shape[2] * 0.55
    bone = (hu > 500) & left[None, None] & (np.abs(np.arange(hu.shape[1]) - 56) < 15)[None, :, None]
    hu[bone] = 20
    # What lies right below a hole of 6 cm in every slice is lost, the rest is not.
    assert intracranial_space(replace(opened, array=hu)).volume_ml > 0.8 * intracranial_space(opened).volume_ml


@pytest.mark.parametrize(
    ("fill", "noise"),
    [(-1000.0, 0.0), (0.0, 3.0), (40.0, 4.0), (120.0, 3.0)],
    ids=["air", "water", "one plastic", "dense plastic"],
)
def test_a_skull_without_a_brain_is_no_brain(fill: float, noise: float) -> None:
    with pytest.raises(Unreadable) as error:
        intracranial_space(head(fill=fill, noise=noise))
    assert error.value.reason == Reason.NO_BRAIN


def test_a_piece_of_brain_in_an_empty_skull_is_no_brain() -> None:
    volume = head()
    hu = volume.array_zyx.copy()
    inside = (hu > -100) & (hu < 100)
    inside[:, 60:] = False
    hu[inside] = -1000
    with pytest.raises(Unreadable, match=Reason.NO_BRAIN):
        intracranial_space(replace(volume, array=hu))


def test_a_brain_without_a_skull_is_no_brain() -> None:
    volume = head()
    with pytest.raises(Unreadable, match=Reason.NO_BRAIN):
        intracranial_space(replace(volume, array=np.minimum(volume.array_zyx, 100)))


def test_the_real_philips_phantom_is_no_brain(real_data: Callable[[str], Path]) -> None:
    images = [pydicom.dcmread(p) for p in real_data("ct_head_phantom_philips_28x5mm").glob("*.dcm")]
    images = sorted((i for i in images if "PixelData" in i), key=lambda i: float(i.ImagePositionPatient[2]))
    array = np.stack([i.pixel_array * float(i.RescaleSlope) + float(i.RescaleIntercept) for i in images])
    volume = Volume(
        array=array.astype(np.int16),
        origins_lps=np.array([[float(v) for v in i.ImagePositionPatient] for i in images]),
        row_lps=np.array([1.0, 0, 0]), column_lps=np.array([0, 1.0, 0]),
        pixel_spacing=(float(images[0].PixelSpacing[0]), float(images[0].PixelSpacing[1])), slice_thickness=5.0,
        frame_of_reference_uid=None, unit="[hnsf'U]", sources=(),
    )  # fmt: skip
    assert len(images) == 28
    for look in (intracranial_space, fit_space):
        with pytest.raises(Unreadable, match=Reason.NO_BRAIN):
            look(volume)


def test_the_anatomy_of_a_real_template_in_a_skull_is_a_brain_without_a_haematoma(
    real_data: Callable[[str], Path], tmp_path: Path
) -> None:
    """Tissue maps of the elderly (2 mm) as HU, a shell of bone around them; with one tissue only it is no brain."""
    folder = real_data("ct_template_elderly")
    grey, white, csf = (_nifti(folder / f"{name}.nii") for name in ("scgrey", "scwhite", "sccsf"))
    inside = ndimage.binary_fill_holes(ndimage.binary_closing((grey + white + csf) > 0.3, iterations=2))
    shell = ndimage.binary_dilation(inside, iterations=3) & ~inside

    def volume(tissue: np.ndarray) -> Volume:
        hu = np.where(inside, tissue, np.where(shell, 900.0, -1000.0))
        return Volume(
            array=np.rint(hu).astype(np.int16), origins_lps=np.outer(np.arange(len(hu)) * 2.0, [0, 0, 1.0]),
            row_lps=np.array([1.0, 0, 0]), column_lps=np.array([0, 1.0, 0]), pixel_spacing=(2.0, 2.0),
            slice_thickness=2.0, frame_of_reference_uid=None, unit="[hnsf'U]", sources=(),
        )  # fmt: skip

    space = intracranial_space(volume(37 * grey + 28 * white + 8 * csf))
    assert 0.75 < space.volume_ml / (inside.sum() * 8 / 1000) <= 1.0
    with pytest.raises(Unreadable, match=Reason.NO_BRAIN):
        intracranial_space(volume(np.full(grey.shape, 33.0)))
    # The template itself, an average of CTs without their skulls: stored such that 1 HU of soft tissue is 11 units.
    stored = _nifti(folder / "scct_stripped.nii")
    hu = np.where(stored < 900, stored - 1000, (stored - 2000) / 11)
    template = volume(np.where(stored > 0, hu, 8))
    assert fit_space(template).volume_ml > 0.7 * inside.sum() * 8 / 1000
    engine = load_model(MODEL, folder=tmp_path).engine
    assert PIPELINE.run({"ncct_head": template}, {MODEL: engine}, no_timing).outcome == "none"


def _nifti(path: Path) -> np.ndarray:
    """The array (z, y, x) of a NIfTI-1 file of bytes or 16-bit integers, scaled."""
    raw = path.read_bytes()
    order = "<" if struct.unpack("<i", raw[:4])[0] == 348 else ">"
    x, y, z = struct.unpack(f"{order}3h", raw[42:48])
    (kind,) = struct.unpack(f"{order}h", raw[70:72])
    start, slope, intercept = struct.unpack(f"{order}3f", raw[108:120])
    values = np.frombuffer(raw, {2: "u1", 4: f"{order}i2"}[kind], count=x * y * z, offset=int(start))
    return values.reshape(z, y, x) * (slope or 1.0) + intercept


@pytest.mark.parametrize("seed", [20_100, 20_109])
def test_synthetic_heads_with_neck_give_their_intracranial_space(seed: int) -> None:
    """Most of the true space is in it, and no neck, face or muscle to speak of."""
    grid = Grid(rows=120, columns=104, pixel_mm=2.0, z_mm=tuple(np.arange(-110.0, 95, 5)), thickness_mm=(5.0,) * 41)
    made = make_head(seed, grid=grid)
    volume = Volume(
        array=made.hu_zyx, origins_lps=grid.origins(), row_lps=grid.row_direction, column_lps=grid.column_direction,
        pixel_spacing=(2.0, 2.0), slice_thickness=5.0, frame_of_reference_uid=None, unit="[hnsf'U]", sources=(),
    )  # fmt: skip
    space = intracranial_space(volume)
    inside = space.contains(np.asarray(np.nonzero(made.brain_zyx)))
    outside = space.contains(np.asarray(np.nonzero(~made.brain_zyx)))
    assert inside.mean() > 0.93
    assert outside.sum() < 0.08 * made.brain_zyx.sum()
