"""A network of the paper's voxels, 0.5 x 0.5 x 5 mm, is served on those, and its answer comes back on the slices as scanned."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage
from unit.engines.conftest import write_threshold_model

from engines.catalogue import load_model, load_model_card
from engines.runtime import Runtime
from engines.segmentation import Segmenter
from ichor.arrays import Volume
from ichor.errors import CannotStart, Unreadable
from ichor.reasons import Reason
from phantoms.bleeds import Bleed
from phantoms.head import Grid, HeadModel, sample


def volume_of(array: np.ndarray, *, z_mm: np.ndarray, tilt_deg: float, pixel_mm: float) -> Volume:
    """Slices stacked along the table, as scanners store a tilted gantry's."""
    tilt = np.deg2rad(tilt_deg)
    return Volume(
        array=array,
        origins_lps=np.stack([np.full(len(z_mm), -60.0), np.full(len(z_mm), -50.0), z_mm], axis=1),
        row_lps=np.array([1.0, 0, 0]),
        column_lps=np.array([0, np.cos(tilt), np.sin(tilt)]),
        pixel_spacing=(pixel_mm, pixel_mm),
        slice_thickness=5.0,
        frame_of_reference_uid=None,
        unit="[hnsf'U]",
        sources=(),
    )


def threshold_segmenter(folder: Path, *, tile: tuple[int, int, int] = (16, 160, 144), **facts: object) -> Segmenter:
    """A model that calls blood what has blood's HU, with a card of these facts."""
    path = write_threshold_model(folder / "blood-phantom.onnx", tile=tile)
    card = {"name": "blood-phantom", "version": "1", "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    (folder / "blood-phantom.json").write_text(json.dumps(card | facts))
    return load_model("blood-phantom", folder=folder / "engines", threads=1, models=folder).segmenter


class Watching:
    """A runtime that keeps what its network was shown."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.seen: list[np.ndarray] = []

    def run(self, inputs: Mapping[str, Any]) -> Any:
        self.seen.extend(array[0, 0].copy() for array in inputs.values())
        return self.runtime.run(inputs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.runtime, name)


SCANS = {
    "thick": (np.arange(6) * 10.0, 0.0),
    "thin": (np.arange(33) * 1.25, 0.0),
    "tilted": (np.arange(11) * 5.0, 17.0),
    "uneven": (np.array([0.0, 2.5, 5.0, 7.5, 10.0, 15.5, 20.2, 25.9, 31.0, 36.4, 40.5]), -12.0),
}


@pytest.mark.parametrize("scan", SCANS)
def test_what_the_network_is_shown_has_the_voxels_of_its_card(scan: str, tmp_path: Path) -> None:
    # As deep as the longest scan, small in the plane: some tile lies within every slice.
    loaded = threshold_segmenter(tmp_path, tile=(16, 32, 32), pixel_mm=0.5, slice_mm=5.0)
    z_mm, tilt = SCANS[scan]
    volume = volume_of(np.zeros((len(z_mm), 90, 80), np.float32), z_mm=z_mm, tilt_deg=tilt, pixel_mm=0.8)
    # HU that grow steadily through the patient tell how far apart voxels are, and along what.
    slope = np.array([0.9, -1.3, 2.1])
    grid = np.moveaxis(np.indices(volume.array_zyx.shape), 0, -1)
    volume = replace(volume, array=(volume.to_lps(grid.reshape(-1, 3)) @ slope).reshape(grid.shape[:3]))
    watching = Watching(loaded.runtime)
    answer = replace(loaded, runtime=watching).segment(volume)
    assert answer.shape == volume.array_zyx.shape

    length = volume.slice_positions[-1] - volume.slice_positions[0]
    slices = int(length / 5 + 1e-6) + 1  # beyond, the last one is repeated
    # Air beyond the picture would be by far the lowest.
    tile = max((seen[:slices] for seen in watching.seen), key=np.min)
    assert len(tile) == slices >= 8
    for axis, step, along in ((0, 5.0, volume.normal_lps), (1, 0.5, volume.column_lps), (2, 0.5, volume.row_lps)):
        np.testing.assert_allclose(np.diff(tile, axis=axis), step * slope @ along, atol=2e-3)


Z_MM = {
    "thick": np.arange(-50.0, 80.0, 10.0),
    "thin": np.arange(-20.0, 62.0, 2.0),
    "uneven": np.concatenate([np.arange(-40.0, -10.0, 2.5), np.cumsum([5.2, 4.6, 5.9, 4.3, 5.5, 6.0, 4.8] * 2) - 10.0]),
}


@pytest.mark.parametrize(("spacing", "tilt"), [("thick", 0.0), ("thin", 14.0), ("uneven", 0.0), ("uneven", -16.0)])
def test_the_answer_comes_back_where_the_blood_is(tmp_path: Path, spacing: str, tilt: float) -> None:
    """The model calls blood what has blood's HU, so the phantom's blood, painted evenly, is what has to come out."""
    z_mm = Z_MM[spacing]
    model = HeadModel.draw(20_310, bleed=Bleed((45.0,), ventricular=None))
    grid = Grid(
        rows=192, columns=160, pixel_mm=1.2, z_mm=tuple(z_mm), thickness_mm=(5.0,) * len(z_mm), tilt_deg=tilt,
        centre_xy_mm=model.scanner.shift_mm[:2],
    )  # fmt: skip
    head = sample(model, grid, clean=True)
    expected = head.mask_zyx > 0
    near = ndimage.binary_dilation(expected, iterations=2)
    hu = np.where(expected, 72, np.where(near, 30, head.hu_zyx)).astype(np.int16)
    volume = replace(volume_of(hu, z_mm=z_mm, tilt_deg=tilt, pixel_mm=1.2), origins_lps=head.slice_positions_mm)
    assert expected.sum() * 1.44 * np.mean(volume.slice_extents) / 1000 > 30

    segmenter = threshold_segmenter(tmp_path, pixel_mm=0.5, slice_mm=5.0)
    found = (segmenter.segment(volume) >= 0.5) & near
    overlap = 2 * (found & expected).sum() / (found.sum() + expected.sum())
    centres = [volume.to_lps(np.argwhere(one)).mean(axis=0) for one in (found, expected)]
    assert overlap > 0.9
    np.testing.assert_allclose(centres[0], centres[1], atol=1.0)

    end = volume.origins_lps + (grid.columns - 1) * 1.2 * volume.row_lps
    feet_first = replace(volume, array=hu[::-1, :, ::-1], origins_lps=end[::-1], row_lps=-volume.row_lps)
    again = segmenter.segment(feet_first)[::-1, :, ::-1] >= 0.5
    assert 2 * (again & found).sum() / ((again & near).sum() + found.sum()) > 0.99


def test_slices_further_apart_than_a_body_is_long_are_refused(tmp_path: Path) -> None:
    volume = volume_of(np.zeros((3, 90, 80), np.int16), z_mm=np.array([0.0, 5.0, 1e9]), tilt_deg=0.0, pixel_mm=0.8)
    with pytest.raises(Unreadable) as refused:
        threshold_segmenter(tmp_path, pixel_mm=0.5, slice_mm=5.0).segment(volume)
    assert refused.value.reason == Reason.NOT_HEAD


@pytest.mark.parametrize("facts", [{"pixel_mm": 0.001}, {"pixel_mm": "0.5"}, {"slice_mm": -5}, {"pixel_mm": True}])
def test_a_card_with_voxels_of_no_scanner_is_refused(tmp_path: Path, facts: dict[str, object]) -> None:
    with pytest.raises(CannotStart, match="voxels"):
        threshold_segmenter(tmp_path, **facts)


def test_a_card_that_says_nothing_means_1_mm_and_slices_as_they_come(tmp_path: Path) -> None:
    served = threshold_segmenter(tmp_path)
    assert (served.pixel_mm, served.slice_mm) == (1.0, None)
    assert load_model_card("blood-phantom", models=tmp_path).voxels_mm == (1.0, None)
