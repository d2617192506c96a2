"""nnU-Net's rules for kernels and strides of a patch. Knows no dataset: the patch is given.

Isensee et al., doi:10.1038/s41592-020-01008-z, supplement: pool every axis whose voxels are within a factor 2 of the
finest axis that can still be pooled; convolve along an axis from where its voxels are within that factor.
"""

from __future__ import annotations

Size3 = tuple[int, int, int]
LEAST_SIZE = 4


def nnunet_topology(
    patch_zyx: Size3, spacing_zyx_mm: tuple[float, float, float]
) -> tuple[tuple[Size3, ...], tuple[Size3, ...]]:
    """Kernel sizes and strides per stage, finest first, (z, y, x)."""
    size, spacing = list(patch_zyx), list(spacing_zyx_mm)
    kernel = [1, 1, 1]
    kernels: list[Size3] = []
    strides: list[Size3] = [(1, 1, 1)]
    while True:
        large = [axis for axis in range(3) if size[axis] >= 2 * LEAST_SIZE]
        pooled = [axis for axis in large if spacing[axis] < 2 * min(spacing[other] for other in large)]
        if not pooled or (len(pooled) == 1 and size[pooled[0]] < 3 * LEAST_SIZE):
            break
        kernel = [3 if now == 3 or mm < 2 * min(spacing) else 1 for now, mm in zip(kernel, spacing, strict=True)]
        kernels.append((kernel[0], kernel[1], kernel[2]))
        for axis in pooled:
            size[axis] = -(-size[axis] // 2)
            spacing[axis] *= 2
        z, y, x = (2 if axis in pooled else 1 for axis in range(3))
        strides.append((z, y, x))
    return (*kernels, (3, 3, 3)), tuple(strides)
