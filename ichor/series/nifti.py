"""Arrays of a series as NIfTI files with FSL's gradient files beside them. Chooses nothing and resamples nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ichor.arrays import Volume
from ichor.series.gradients import fsl_bvecs
from ichor.types import AxisName, GradientTable

# Patient coordinates of DICOM grow to the left, back and head, those of NIfTI to the right, front and head.
_RAS_OF_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_SCANNER, _UNKNOWN = 1, 0  # NIFTI_XFORM codes (nifti1.h)
_RIGHT_ANGLE = 1e-4
_MOST_NIFTI_1 = 32_767  # entries of an axis: dim is of 16 bits (nifti1.h)


def write_nifti(volumes: Sequence[Volume], folder: Path, *, stem: str) -> tuple[Path, ...]:
    """Write one ``.nii.gz`` per volume and, for diffusion, ``.bval`` and ``.bvec`` with the same stem.

    The format is NIfTI-1, or NIfTI-2 where an axis has more than 32,767 entries.

    Voxels are (x, y, z, volumes...): column, row, slice, then the other axes, the fastest one first. Values are those
    of the array, in its type, without scaling. The affine is ``affine_lps`` in RAS: exact for even sets, tilted ones
    too. ``.bvec`` has FSL's convention: components along the voxel axes, the first one negated where the affine's
    determinant is positive.

    Parameters
    ----------
    volumes
        Of one series, in order of its stacks.
    folder
        Exists. Files in it with these names are replaced.
    stem
        Name without suffix, e.g. the Series Instance UID; with several volumes ``_stack1`` and so on is added.

    Returns
    -------
    tuple of Path
        The files, in order of writing.
    """
    made: list[Path] = []
    for number, volume in enumerate(volumes, start=1):
        name = stem if len(volumes) == 1 else f"{stem}_stack{number}"
        path = folder / f"{name}.nii.gz"
        _write_image(volume, path)
        made.append(path)
        if volume.gradients is not None:
            made += _write_gradients(volume, volume.gradients, folder, name=name)
    return tuple(made)


def _write_image(volume: Volume, path: Path) -> None:
    import nibabel  # half a second that only this needs

    affine = _RAS_OF_LPS @ volume.affine_lps
    form = nibabel.Nifti1Image if max(volume.array.shape) <= _MOST_NIFTI_1 else nibabel.Nifti2Image
    image = form(volume.array.T, affine)
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    sheared = np.abs(axes.T @ axes - np.eye(3)).max() > _RIGHT_ANGLE
    # A quaternion cannot say that slices are tilted.
    image.set_sform(affine, code=_SCANNER)
    image.set_qform(affine, code=_UNKNOWN if sheared else _SCANNER)
    last = volume.axes[-1] if volume.axes else None
    if last is not None and last.name is AxisName.TIME and last.size > 1:
        seconds = [float(value) for value in last.values]
        zooms = list(image.header.get_zooms())
        zooms[3] = (seconds[-1] - seconds[0]) / (last.size - 1)
        image.header.set_zooms(zooms)
    image.header.set_xyzt_units("mm", "sec")
    nibabel.save(image, path)


def _write_gradients(volume: Volume, table: GradientTable, folder: Path, *, name: str) -> list[Path]:
    bvecs = fsl_bvecs(
        table, row_lps=volume.row_lps, column_lps=volume.column_lps, slice_step_lps=volume.affine_lps[:3, 2]
    )  # fmt: skip
    bval, bvec = folder / f"{name}.bval", folder / f"{name}.bvec"
    bval.write_text(" ".join(f"{b:.10g}" for b in table.b_values) + "\n")
    bvec.write_text("".join(" ".join(f"{part:.9g}" for part in axis) + "\n" for axis in bvecs.tolist()))
    return [bval, bvec]
