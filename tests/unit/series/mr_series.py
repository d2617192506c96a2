"""MR series as facts alone, no file: plain, diffusion-weighted, over time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from contract.arrivals import make_slice

from ichor.types import Diffusion, Instance, Kind, SequenceFacts, Slot

MR = "1.2.840.10008.5.1.4.1.1.4"
PLAIN = Slot()
SIX = ((1, 0, 0), (0, 1, 0), (0, 0, 1), (0.6, 0.8, 0), (0.6, 0, 0.8), (0, 0.6, 0.8))


def mr(
    slot: Slot = PLAIN, *, volume: int = 0, slices: int = 20, spacing: float = 5.0, size: int = 64, dx: float = 3.5,
    sequence: SequenceFacts | None = None, **changes: object,
) -> list[Instance]:  # fmt: skip
    """The slices of one volume of an MR series."""
    made = []
    for number in range(slices):
        image = make_slice(number=volume * slices + number + 1, z=spacing * number, spacing=spacing)
        assert image.geometry is not None
        image = replace(
            image, modality="MR", sop_class_uid=MR, kernel=None, image_type=("ORIGINAL", "PRIMARY", "M"),
            geometry=replace(image.geometry, rows=size, columns=size, pixel_spacing=(dx, dx)),
            slot=slot, kind=slot.kind, sequence=sequence or SequenceFacts(),
        )  # fmt: skip
        made.append(replace(image, **changes))  # type: ignore[arg-type]
    return made


def diffusion(
    weights: Sequence[tuple[float, Sequence[float] | None]], *, kind: Kind = Kind.IMAGE, **how: object
) -> list[Instance]:
    """One volume for each (b-value, direction)."""
    made = []
    for volume, (b, direction) in enumerate(weights):
        unit = None if direction is None else (float(direction[0]), float(direction[1]), float(direction[2]))
        isotropic = b > 5 and unit is None
        slot = Slot(
            kind=kind, diffusion=Diffusion(b_value=b, direction_lps=unit, isotropic=isotropic), acquisition=volume + 1
        )
        made += mr(slot, volume=volume, **how)  # type: ignore[arg-type]
    return made


def tensor(b: float = 1000.0, **how: object) -> list[Instance]:
    return diffusion([(0.0, None), *((b, d) for d in SIX)], **how)


def times(count: int, *, interval: float = 1.8, sequence: SequenceFacts, **how: object) -> list[Instance]:
    made: list[Instance] = []
    for volume in range(count):
        slot = Slot(time=36_000.0 + interval * volume, temporal_position=volume + 1)
        made += mr(slot, volume=volume, sequence=sequence, **how)  # type: ignore[arg-type]
    return made
