"""Series of every kind that scanners send, as facts without pixels, each slot of them known. Draws sizes, no arrival."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from contract.arrivals import make_slice

from ichor.types import Component, Dialect, Diffusion, Frame, Geometry, Instance, Kind, Slot, Tiling

MR = "1.2.840.10008.5.1.4.1.1.4"
ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.4.1"

Place = tuple[float, int]  # (mm along the normal, volume)


@dataclass(frozen=True)
class Made:
    """A whole series: images in order of acquisition. ``right``: a count of it is stated and right.

    ``places`` of each object: its slot; none where an object is a volume of its own, or no part of the array.
    """

    images: tuple[Instance, ...]
    places: dict[str, Place]
    right: bool
    even: bool = True


@dataclass(frozen=True)
class Where:
    study: str
    series: str
    ae: str


def plain_ct(rng: np.random.Generator, where: Where, count: str) -> Made:
    """A head, perhaps tilted, perhaps thin below and thick above."""
    images = int(rng.integers(4, 48))
    if count == "low":
        images += images % 2
    spacing = float(rng.choice([1.0, 2.5, 3.0, 5.0]))
    thickness = np.full(images, spacing)
    z = np.arange(images) * spacing
    even = not (images > 12 and rng.random() < 0.2)
    if not even:
        half = images // 2
        z[half:] = z[half] + np.arange(images - half) * 2 * spacing
        thickness[half:] = 2 * spacing
    stated = {"none": None, "right": images, "high": images + 7, "low": images // 2, "one": 1}[count]
    tilt = float(rng.choice([0.0, 0.0, 12.0, 20.0]))
    made = tuple(
        make_slice(
            study=where.study, series=where.series, number=i + 1, z=float(z[i]), thickness=float(thickness[i]),
            count=stated, calling_ae=where.ae, tilt=tilt, acquisition=1 + (i >= images // 2) if count == "low" else 1,
        )
        for i in range(images)
    )  # fmt: skip
    sine, cosine = float(np.sin(np.deg2rad(tilt))), float(np.cos(np.deg2rad(tilt)))
    # The normal of a tilted plane is (0, -sine, cosine); the first pixel lies at y = -110 mm.
    places = {s.sop_instance_uid: (110.0 * sine + float(z[i]) * cosine, 0) for i, s in enumerate(made)}
    return Made(made, places, right=count == "right", even=even)


def diffusion(rng: np.random.Generator, where: Where, count: str) -> Made:
    """40 to 500 images: b0 and directions, slices that say one temporal position; ``one``: and one image."""
    slices, volumes = int(rng.integers(8, 26)), int(rng.integers(5, 21))
    weights = _weights(rng, volumes)
    said = {"none": (), "one": (("ImagesInAcquisition", 1),), "right": (("ImagesInAcquisition", slices * volumes),)}
    counts = (*said[count], ("NumberOfTemporalPositions", 1))
    slots = [Slot(diffusion=weight) for weight in weights]
    return _classic(where, slices, slots, counts=counts, right=count == "right")


def diffusion_with_trace(rng: np.random.Generator, where: Where, count: str) -> Made:
    """As Philips sends it: slices per volume stated, one temporal position, a trace volume at the end."""
    slices, volumes = int(rng.integers(8, 26)), int(rng.integers(5, 17))
    weights = _weights(rng, volumes)
    isotropic = Diffusion(b_value=1000.0, isotropic=True, source="(2001,1003)")
    slots = [Slot(diffusion=weight, order=(v,)) for v, weight in enumerate(weights)]
    slots.append(Slot(kind=Kind.TRACE, diffusion=isotropic, order=(volumes,)))
    total = slices * (volumes + 1)
    counts: tuple[tuple[str, int], ...] = (("PhilipsNumberOfSlices", slices), ("NumberOfTemporalPositions", 1))
    if count == "right":
        counts = (*counts, ("ImagesInAcquisition", total))
    made = _classic(where, slices, slots, counts=counts, right=count == "right")
    places = {uid: place for uid, place in made.places.items() if place[1] < volumes}
    return replace(made, places=places)


def perfusion(rng: np.random.Generator, where: Where, count: str) -> Made:
    """60 volumes of 20 slices, or a shorter run; ``product``: slices and volumes are stated, the images are not."""
    slices, volumes = (20, 60) if rng.random() < 0.3 else (int(rng.integers(8, 16)), int(rng.integers(12, 30)))
    said: dict[str, tuple[tuple[str, int], ...]] = {
        "none": (),
        "one": (),
        "right": (("ImagesInAcquisition", slices * volumes), ("NumberOfTemporalPositions", volumes)),
        "product": (("GELocationsInAcquisition", slices), ("NumberOfTemporalPositions", volumes)),
        "volume": (("ImagesInAcquisition", slices), ("NumberOfTemporalPositions", volumes)),
    }
    slots = [Slot(temporal_position=v + 1, time=40_000.0 + 1.8 * v) for v in range(volumes)]
    return _classic(where, slices, slots, counts=said[count], right=count in ("right", "product"))


def two_echo_perfusion(rng: np.random.Generator, where: Where, count: str) -> Made:
    """Two echoes at every time: slices times volumes is half of the images."""
    slices, volumes = int(rng.integers(8, 16)), int(rng.integers(6, 12))
    counts = (("PhilipsNumberOfSlices", slices), ("NumberOfTemporalPositions", volumes)) if count == "product" else ()
    slots = [
        Slot(temporal_position=v + 1, time=40_000.0 + 2.0 * v, echo_time=echo)
        for echo in (12.0, 35.0)
        for v in range(volumes)
    ]
    return _classic(where, slices, slots, counts=counts, right=False)


def echoes(rng: np.random.Generator, where: Where, count: str) -> Made:
    slices, times = int(rng.integers(8, 40)), int(rng.integers(2, 8))
    slots = [Slot(echo_time=5.0 + 7.5 * e) for e in range(times)]
    return _classic(where, slices, slots, **_said(count, slices * times))  # type: ignore[arg-type]


def phase_and_magnitude(rng: np.random.Generator, where: Where, count: str) -> Made:
    slices = int(rng.integers(12, 60))
    slots = [Slot(component=component) for component in (Component.MAGNITUDE, Component.PHASE)]
    return _classic(where, slices, slots, **_said(count, 2 * slices))  # type: ignore[arg-type]


def two_stacks(rng: np.random.Generator, where: Where, count: str) -> Made:
    """Two slabs in two acquisitions, each of which states its own images."""
    slices = int(rng.integers(6, 20))
    images: list[Instance] = []
    places: dict[str, Place] = {}
    for stack in range(2):
        slot = Slot(stack=str(stack + 1))
        counts = (("ImagesInAcquisition", slices),) if count != "none" else ()
        made = _classic(
            where, slices, [slot], counts=counts, right=count != "none", first=stack * slices, low=200.0 * stack,
            acquisition=stack + 1, side=60.0 * stack,
        )  # fmt: skip
        images += made.images
        places |= {uid: (z, stack) for uid, (z, _) in made.places.items()}
    return Made(tuple(images), places, right=count != "none")


def mosaic(rng: np.random.Generator, where: Where, count: str) -> Made:
    """One object per volume, its slices as tiles."""
    slices, volumes = int(rng.integers(9, 36)), int(rng.integers(6, 60))
    weights = _weights(rng, volumes)
    across = int(np.ceil(np.sqrt(slices)))
    tiling = Tiling(
        count=slices, across=across, rows=64, columns=64, first_position_lps=(-110.0, -110.0, 0.0),
        step_lps=(0.0, 0.0, 4.0),
    )  # fmt: skip
    said = _said(count, volumes)
    first = _template(where, counts=said["counts"])
    assert first.geometry is not None
    whole = replace(first.geometry, rows=64 * across, columns=64 * across)
    first = replace(first, geometry=whole, dialect=Dialect.SIEMENS_MOSAIC, tiling=tiling)
    images = tuple(
        _named(first, where, v + 1, slot=Slot(diffusion=weight, time=40_000.0 + 3.0 * v))
        for v, weight in enumerate(weights)
    )
    return Made(images, {}, right=bool(said["right"]))


def enhanced_volumes(rng: np.random.Generator, where: Where, count: str) -> Made:  # noqa: ARG001 - frames are the count
    """One object that holds several volumes."""
    return Made((_enhanced(rng, where, 1, volumes=int(rng.integers(2, 6))),), {}, right=True)


def enhanced_volume(rng: np.random.Generator, where: Where, count: str) -> Made:  # noqa: ARG001 - frames are the count
    """One object that holds one volume, and is the series."""
    return Made((_enhanced(rng, where, 1, volumes=1),), {}, right=False)


def enhanced_several(rng: np.random.Generator, where: Where, count: str) -> Made:
    """One object per volume, as newer scanners send diffusion; ``concatenation``: the count of the objects is stated."""
    objects = int(rng.integers(3, 12))
    images = [_enhanced(rng, where, v + 1, volumes=1, b_value=1000.0 * (v > 0), slices=12) for v in range(objects)]
    if count == "concatenation":
        images = [replace(i, counts=(("InConcatenationTotalNumber", objects),)) for i in images]
    return Made(tuple(images), {}, right=count == "concatenation")


Kind_ = Callable[[np.random.Generator, Where, str], Made]
KINDS: dict[str, Kind_] = {
    "ct": plain_ct, "dwi": diffusion, "dwi_trace": diffusion_with_trace, "dsc": perfusion,
    "dsc_echoes": two_echo_perfusion, "echoes": echoes, "phase": phase_and_magnitude, "stacks": two_stacks,
    "mosaic": mosaic, "enhanced": enhanced_volumes, "enhanced_one": enhanced_volume, "enhanced_several": enhanced_several,
}  # fmt: skip


def _said(count: str, images: int) -> dict[str, object]:
    counts = {"right": (("ImagesInAcquisition", images),), "one": (("ImagesInAcquisition", 1),)}.get(count, ())
    return {"counts": counts, "right": count == "right"}


def _weights(rng: np.random.Generator, volumes: int) -> list[Diffusion]:
    """b0 first, then directions, one more b0 in longer runs."""
    vectors = rng.standard_normal((volumes, 3))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    weights = []
    for v, (x, y, z) in enumerate(vectors.tolist()):
        b0 = v == 0 or (volumes > 10 and v == volumes // 2)
        weights.append(Diffusion(b_value=0.0) if b0 else Diffusion(b_value=1000.0, direction_lps=(x, y, z)))
    return weights


def _template(where: Where, *, counts: object = (), sop_class: str = MR) -> Instance:
    return make_slice(
        study=where.study, series=where.series, number=1, z=0.0, calling_ae=where.ae, sop_class_uid=sop_class,
        modality="MR", kernel=None, counts=counts,
    )  # fmt: skip


def _named(template: Instance, where: Where, number: int, **changes: object) -> Instance:
    uid = f"{where.series}.{number}"
    digest = hashlib.sha256(uid.encode()).hexdigest()
    changes = {"instance_number": number, **changes}
    return replace(
        template, sop_instance_uid=uid, location=uid, file_sha256=digest, content_sha256=digest,
        **changes,  # type: ignore[arg-type]
    )  # fmt: skip


def _classic(
    where: Where, slices: int, slots: list[Slot], *, counts: tuple[tuple[str, int], ...], right: bool,
    first: int = 0, low: float = 0.0, acquisition: int = 1, side: float = 0.0,
) -> Made:  # fmt: skip
    """One image per object, numbered volume by volume."""
    template = replace(_template(where, counts=counts), acquisition_number=acquisition)
    assert template.geometry is not None
    lies = [replace(template.geometry, position_lps=(-110.0 + side, -110.0, low + 4.0 * k)) for k in range(slices)]
    images = []
    places = {}
    for v, slot in enumerate(slots):
        for k, geometry in enumerate(lies):
            image = _named(
                template, where, first + v * slices + k + 1, geometry=geometry, slot=slot,
                temporal_position=slot.temporal_position, kind=slot.kind,
            )  # fmt: skip
            images.append(image)
            places[image.sop_instance_uid] = low + 4.0 * k, v
    return Made(tuple(images), places, right)


def _enhanced(
    rng: np.random.Generator,
    where: Where,
    number: int,
    *,
    volumes: int,
    b_value: float = 0.0,
    slices: int | None = None,
) -> Instance:
    slices = slices or int(rng.integers(10, 30))
    template = _template(where, sop_class=ENHANCED_MR)
    geometry = template.geometry
    assert geometry is not None
    assert template.pixels is not None
    return _named(
        template, where, number, dialect=Dialect.ENHANCED, pixels=replace(template.pixels, frames=volumes * slices),
        geometry=replace(geometry, position_lps=None),
        frames=tuple(_frames(geometry, volumes, slices, b_value, number)),
    )  # fmt: skip


def _frames(geometry: Geometry, volumes: int, slices: int, b_value: float, number: int) -> Iterator[Frame]:
    for v in range(volumes):
        direction = (float(np.cos(number)), float(np.sin(number)), 0.0) if b_value else None
        weight = Diffusion(b_value=b_value, direction_lps=direction)
        slot = Slot(stack="1", temporal_position=v + 1, time=40_000.0 + 2.0 * v, diffusion=weight, order=(v,))
        for k in range(slices):
            yield Frame(geometry=replace(geometry, position_lps=(-110.0, -110.0, 4.0 * k)), slot=slot)
