"""Makes `phantoms/data/icbm152.npz` from the ICBM 152 maps in nilearn's wheel. Not used when heads are drawn.

``python -m phantoms.atlas_build FOLDER`` where FOLDER has nilearn's three `mni_icbm152_*_tal_nlin_sym_09a_converted.nii.gz`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import nibabel
import numpy as np
import numpy.typing as npt
from scipy import ndimage

from phantoms.atlas import CLIP_MM, DATA, FIRST_MM, SHAPE_ZYX, STEP_MM

_PAD = 40
Mask = npt.NDArray[np.bool_]
F32 = npt.NDArray[np.float32]


def build(folder: Path) -> None:
    """Write the atlas: the left half only, for this template is symmetric to the last bit."""
    t1, grey, white = (_lps(folder / f"mni_icbm152_{k}_tal_nlin_sym_09a_converted.nii.gz") for k in ("t1", "gm", "wm"))
    brain = np.pad(t1 > 0, _PAD)
    brain[:_PAD] = brain[_PAD]  # the template is cut off below the medulla
    brain = _grow(_grow(brain, 5.0), -5.0)
    cavity = _grow(brain, 2.0)
    vault = _grow(_grow(cavity, 30.0), -30.0)
    fluid = (1 - grey - white) > 0.45
    ventricles = _ventricles(np.pad(fluid, _PAD) & brain, _signed(brain))
    planes = [np.pad(grey, _PAD) * 255, np.pad(white, _PAD) * 255]
    planes += [_coded(_signed(m)) for m in (cavity, vault, ventricles)]
    axes = [
        first + STEP_MM * np.arange(n) + offset + _PAD
        for first, n, offset in zip(FIRST_MM, SHAPE_ZYX, _OFFSET, strict=True)
    ]
    points = np.meshgrid(*axes, indexing="ij")
    maps = np.stack(
        [
            ndimage.map_coordinates(ndimage.gaussian_filter(p, 0.5) if i < 2 else p, points, order=1, mode="nearest")
            for i, p in enumerate(planes)
        ]
    )
    np.savez_compressed(DATA, maps=np.clip(np.rint(maps), 0, 255).astype(np.uint8))


# Index of the origin of (z, y, x) in LPS millimetres, of the maps as read by `_lps`.
_OFFSET = (72, 98, 98)


def _lps(path: Path) -> F32:
    """A map 0..1, (z, y, x): z headwards, y to the back, x to the left; 1 mm."""
    image = nibabel.load(path)
    if image.affine.tolist() != [[1, 0, 0, -98], [0, 1, 0, -134], [0, 0, 1, -72], [0, 0, 0, 1]]:
        raise ValueError(f"{path}: not the grid of the 2009a template")
    ras = np.asarray(image.dataobj).astype(np.float32) / 255
    return np.ascontiguousarray(ras[::-1, ::-1].transpose(2, 1, 0))


def _signed(mask: Mask) -> F32:
    """Depth in mm below the mask's surface, negative outside."""
    depth = ndimage.distance_transform_edt(mask) - ndimage.distance_transform_edt(~mask)
    return np.asarray(ndimage.gaussian_filter(depth.astype(np.float32), 1.2), np.float32)


def _grow(mask: Mask, mm: float) -> Mask:
    if mm > 0:
        return np.asarray(ndimage.distance_transform_edt(~mask) <= mm)
    return np.asarray(ndimage.distance_transform_edt(mask) > -mm)


def _ventricles(fluid: Mask, depth: F32) -> Mask:
    """Lateral, third and fourth ventricles: fluid deep in the brain, without cisterns."""
    z, y, x = np.meshgrid(*(np.arange(n) - o - _PAD for n, o in zip(fluid.shape, _OFFSET, strict=True)), indexing="ij")
    lateral = (z > -2) & (z < 34) & (np.abs(x) < 36) & (y > -40) & (y < 62) & ~((z < 6) & (y > 24) & (np.abs(x) < 14))
    lateral &= ~((np.abs(x) < 2) & (z > 18)) & ~((y > 30) & (np.abs(x) < 9)) & ~((np.abs(x) > 27) & (y < 20))
    third = (np.abs(x) < 4) & (y > -4) & (y < 26) & (z > -12) & (z < 8)
    fourth = (np.abs(x) < 14) & (y > 30) & (y < 56) & (z > -46) & (z < -18)
    temporal = (np.abs(x) > 22) & (np.abs(x) < 44) & (y > 6) & (y < 50) & (z > -26) & (z < 6) & (depth > 16)
    found = fluid & (lateral | third | fourth | temporal) & (depth > 10)
    labels, _ = ndimage.label(found)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return np.asarray((sizes > 150)[labels])


def _coded(depth: F32) -> F32:
    return (np.clip(depth, -CLIP_MM, CLIP_MM) + CLIP_MM) * np.float32(255 / (2 * CLIP_MM))


if __name__ == "__main__":
    build(Path(sys.argv[1]))
