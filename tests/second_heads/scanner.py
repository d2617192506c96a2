"""From HU on thin planes to slices as a scanner gives them. Beam hardening and noise arise in projections.

The picture itself is not projected: what two spectra's worth of bone and a finite number of photons change in the
sinogram is filtered and projected back (parallel beams; Kak and Slaney, Principles of Computerized Tomographic
Imaging, 1988, chapter 3), and added.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from scipy import ndimage, sparse

from second_heads.fields import F32

WATER_PER_MM = 0.0195
ANGLES = 144
PADDING_HU = -1024.0
# Three energies: share of the photons, attenuation of water and of what bone has beyond water, against the mean's.
SPECTRUM = ((0.32, 1.16, 1.50), (0.40, 1.00, 1.00), (0.28, 0.90, 0.72))


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """`sigma_mm` blurs in the plane; `sharp` is the share of the ramp's upper band that the kernel keeps."""

    slice_mm: float
    pixel_mm: float
    matrix: int
    photons: float
    sigma_mm: float
    sharp: float
    hardening: float
    table: str
    moved: bool

    @classmethod
    def of(cls, rng: np.random.Generator) -> Protocol:
        """Draw one; the field of view is 240 pixels of `pixel_mm`, delivered as `matrix` pixels."""
        return cls(
            slice_mm=float(rng.choice([2.5, 3, 4, 4.8, 5, 5, 5, 6])),
            pixel_mm=float(rng.uniform(0.94, 1.04)),
            matrix=int(rng.choice([512, 512, 320, 240])),
            photons=float(np.exp(rng.uniform(np.log(2.5), np.log(14)))),
            sigma_mm=float(rng.uniform(0.45, 0.95)),
            sharp=float(rng.uniform(0.25, 0.9)),
            hardening=float(rng.uniform(0.1, 0.45)),
            table=str(rng.choice(["cradle", "board", "none"], p=[0.6, 0.25, 0.15])),
            moved=bool(rng.random() < 0.08),
        )


def planes_per_slice(slice_mm: float) -> int:
    """Thin planes that one slice averages."""
    return max(2, round(slice_mm / 1.8))


def scan(thin_zyx: F32, protocol: Protocol, rng: np.random.Generator) -> F32:
    """Slices (z, y, x) in HU of thin planes (z * `planes_per_slice`, y, x)."""
    slices = averaged(thin_zyx, planes_per_slice(protocol.slice_mm))
    _lay_on_table(slices, protocol, rng)
    if protocol.moved:
        _move(slices, rng)
    wrong = _projected(slices, protocol, rng)
    sigma = protocol.sigma_mm / protocol.pixel_mm
    seen: F32 = ndimage.gaussian_filter(slices, (0, sigma, sigma)) + wrong
    seen[:, ~_disc(seen.shape[1])] = PADDING_HU
    return seen


def averaged(thin_zyx: F32, count: int) -> F32:
    """Means of `count` planes each."""
    mean: F32 = thin_zyx.reshape(-1, count, *thin_zyx.shape[1:]).mean(axis=1, dtype=np.float32)
    return mean


def _projected(slices: F32, protocol: Protocol, rng: np.random.Generator) -> F32:
    """What hardening and photons add to the slices, HU."""
    count, size = slices.shape[0], slices.shape[1]
    disc = _disc(size)
    back = _geometry(size)
    hu = slices[:, disc]
    per_pixel = WATER_PER_MM * protocol.pixel_mm
    extra = np.maximum(hu - 120, 0) / 1000
    water = np.maximum(1 + hu / 1000, 0) - extra
    paths = back.T @ np.concatenate([water, extra]).T.astype(np.float32) * np.float32(per_pixel)
    soft, hard = paths[:, :count], paths[:, count:]
    seen = sum(share * np.exp(-a * soft - b * hard) for share, a, b in SPECTRUM)
    # What the scanner knows: how thick a layer of water weakens its spectrum as much.
    layer = np.linspace(0, 60, 3000)
    weakened = -np.log(sum(share * np.exp(-a * layer) for share, a, _ in SPECTRUM))
    known = np.interp(-np.log(seen), weakened, layer).astype(np.float32)
    error = known - soft - hard
    # Its scale for bone is right on average; what is left are bands and cups.
    error -= hard * (float((error * hard).sum()) / max(float((hard * hard).sum()), 1e-6))
    error *= np.float32(protocol.hardening)
    photons = np.maximum(4e5 * protocol.photons * protocol.slice_mm / 5 * seen, 2.0)
    error += rng.standard_normal(error.shape, dtype=np.float32) / np.sqrt(photons).astype(np.float32)
    rays = _filtered(error.reshape(ANGLES, size, count), protocol.sharp).reshape(ANGLES * size, count)
    wrong = np.zeros(slices.shape, np.float32)
    wrong[:, disc] = (back @ rays).T * np.float32(np.pi / ANGLES / per_pixel * 1000)
    return wrong


def _filtered(rays: F32, sharp: float) -> F32:
    """Ramp-filter (angle, detector, slice) along the detector; a raised cosine ends the band."""
    size = 1 << int(np.ceil(np.log2(2 * rays.shape[1])))
    wave = np.fft.rfftfreq(size)
    n = np.minimum(np.arange(size), size - np.arange(size))
    kernel = np.where(n % 2 == 1, -1 / (np.pi * np.maximum(n, 1)) ** 2, 0.0)
    kernel[0] = 0.25
    ramp = np.fft.rfft(kernel).real * (sharp + (1 - sharp) * 0.5 * (1 + np.cos(2 * np.pi * wave)))
    spectrum = np.fft.rfft(rays, size, axis=1) * ramp[None, :, None].astype(np.float32)
    filtered: F32 = np.fft.irfft(spectrum, size, axis=1)[:, : rays.shape[1]].astype(np.float32)
    return filtered


@lru_cache(maxsize=2)
def _disc(size: int) -> Any:
    half = (size - 1) / 2
    y, x = np.mgrid[:size, :size] - half
    return np.hypot(x, y) < half - 1


@lru_cache(maxsize=1)
def _geometry(size: int) -> Any:
    """Sparse (pixel of the disc, angle * detector): linear interpolation between two detectors; its transpose projects."""
    half = (size - 1) / 2
    y, x = (np.argwhere(_disc(size)) - half).T
    angles = np.arange(ANGLES) * np.pi / ANGLES
    at = x[:, None] * np.cos(angles) + y[:, None] * np.sin(angles) + half
    low = np.floor(at).astype(np.int32)
    share = (at - low).astype(np.float32)
    column = np.arange(ANGLES, dtype=np.int32) * size + low
    indices = np.stack([column, column + 1], axis=2).ravel()
    weights = np.stack([1 - share, share], axis=2).ravel()
    starts = np.arange(x.size + 1, dtype=np.int32) * (2 * ANGLES)
    return sparse.csr_array((weights, indices, starts), shape=(x.size, ANGLES * size))


def _lay_on_table(slices: F32, protocol: Protocol, rng: np.random.Generator) -> None:
    """A cradle or a board with foam below the head; only where there is air."""
    if protocol.table == "none":
        return
    half = slices.shape[1] / 2
    y, x = (np.mgrid[: slices.shape[1], : slices.shape[2]] - half) * protocol.pixel_mm
    head = slices > -500
    lowest = float(np.percentile(np.flatnonzero(head.any(axis=(0, 2))), 99.5) - half) * protocol.pixel_mm
    if protocol.table == "cradle":
        radius = float(rng.uniform(95, 125))
        far = np.hypot(x, y - (lowest + 5 - radius))
        shape = np.maximum(np.abs(far - radius) - float(rng.uniform(1.5, 3.5)), float(rng.uniform(-20, 40)) - y)
        foam = (far < radius) & (y > lowest - 30)
    else:
        shape = np.abs(y - lowest - 8) - float(rng.uniform(2, 6))
        foam = (y < lowest + 8) & (y > lowest - 22) & (np.abs(x) < 70)
    board = np.where(shape < 0, float(rng.uniform(-750, -100)), np.where(foam, float(rng.uniform(-985, -940)), -1000.0))
    np.maximum(slices, board.astype(np.float32), out=slices, where=slices < -600)


def _move(slices: F32, rng: np.random.Generator) -> None:
    """The head moved during a slice or three: two pictures on one."""
    first = int(rng.integers(0, max(slices.shape[0] - 3, 1)))
    for k in range(first, min(first + int(rng.integers(1, 4)), slices.shape[0])):
        other = ndimage.shift(slices[k], rng.normal(0, 2.5, 2), order=1, mode="nearest")
        slices[k] += np.float32(rng.uniform(0.2, 0.5)) * (other - slices[k])
