"""dcm2niix as a second opinion on a folder of DICOM files: its volumes on a stack's own grid, its gradients in LPS."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import numpy.typing as npt

from phantoms.series import Stack

RAS_OF_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Converted:
    """One NIfTI file: ``values`` (x, y, z, t), ``affine_lps``; b-values and directions where there are such files."""

    name: str
    values: npt.NDArray[np.float64]
    affine_lps: npt.NDArray[np.float64]
    b_values: tuple[float, ...] | None
    directions_lps: npt.NDArray[np.float64] | None

    def on_grid(self, stack: Stack, *, rows: int, columns: int) -> npt.NDArray[np.float64] | None:
        """(t, z, y, x) at the voxels of ``stack``; None where the file's voxels do not lie on them (0.01 voxel)."""
        k, j, i = np.meshgrid(
            np.arange(len(stack.origins_lps)), np.arange(rows), np.arange(columns), indexing="ij"
        )  # fmt: skip
        dy, dx = stack.pixel_spacing
        points = stack.origins_lps[k] + j[..., None] * dy * stack.column_lps + i[..., None] * dx * stack.row_lps
        inverse = np.linalg.inv(self.affine_lps)
        voxels = points @ inverse[:3, :3].T + inverse[:3, 3]
        nearest = np.rint(voxels).astype(int)
        if np.abs(voxels - nearest).max() > 0.01 or nearest.min() < 0:
            return None
        if (nearest.reshape(-1, 3).max(axis=0) >= self.values.shape[:3]).any():
            return None
        x, y, z = nearest[..., 0], nearest[..., 1], nearest[..., 2]
        return np.moveaxis(self.values[x, y, z], -1, 0)


def convert(program: str, folder: Path, out: Path) -> list[Converted]:
    """What dcm2niix makes of a folder: display values (``-p n``), one entry per file it writes, by name."""
    out.mkdir(parents=True)
    subprocess.run(
        [program, "-z", "n", "-b", "n", "-p", "n", "-f", "x", "-o", str(out), str(folder)],
        check=False, capture_output=True, timeout=120,
    )  # fmt: skip
    return [read_nifti(path) for path in sorted(out.glob("*.nii"))]


def read_nifti(path: Path) -> Converted:
    """A NIfTI file with the ``.bval`` and ``.bvec`` beside it, as FSL takes them."""
    image = nibabel.load(path)
    beside = path.parent / path.name.removesuffix(".gz").removesuffix(".nii")
    values = np.asarray(image.get_fdata())
    affine = RAS_OF_LPS @ image.affine
    b_values, directions = None, None
    if beside.with_suffix(".bval").exists() and beside.with_suffix(".bvec").exists():
        b_values = tuple(float(b) for b in beside.with_suffix(".bval").read_text().split())
        vectors = np.loadtxt(beside.with_suffix(".bvec"), ndmin=2).T
        # FSL's bvecs stand in voxel axes, the first one turned round where the affine is right-handed in RAS
        # (fsl.fmrib.ox.ac.uk/fsl/docs, FDT: what conventions do the bvecs use?).
        if np.linalg.det(image.affine[:3, :3]) > 0:
            vectors = vectors * np.array([-1.0, 1.0, 1.0])
        axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
        directions = vectors @ axes.T
    return Converted(
        name=path.name, values=values.reshape((*values.shape[:3], -1), order="F"), affine_lps=affine, b_values=b_values,
        directions_lps=directions,
    )  # fmt: skip
