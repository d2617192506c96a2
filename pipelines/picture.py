"""Pictures of findings: a slice as a radiologist sees it, lesions outlined, attention in colour, RESEARCH burned in.
Not DICOM: `dicom_out` makes objects of what viewers without maps are to show.

No identity is drawn. Left and right come from direction cosines, never from array order.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from skimage.measure import find_contours

from ichor.arrays import Float32Array, Volume
from ichor.encoding import Overlay
from ichor.types import Findings
from pipelines.terms import GRAD_CAM

HEIGHT = 640
MARGIN_MM = 14.0
BONE_HU = 300.0
MOST = 3
MARK = "RESEARCH - not for clinical use"
OUTLINE, INK, SHADOW = (255, 196, 0), (235, 235, 235), (0, 0, 0)
# Attention from 0 to 1: through red to yellow, over grey that always shows through.
HEAT = np.array([(120, 0, 60), (230, 30, 20), (255, 225, 40)], np.float32)
COVER = 0.6


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """A PNG and the sentence below it."""

    png: bytes
    caption: str


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """How an axial slice is turned so that the patient's right is on the left and the front is up."""

    transpose: bool
    flip_rows: bool
    flip_columns: bool

    @classmethod
    def of(cls, volume: Volume) -> View:
        """From the direction cosines of rows and columns."""
        right, down = volume.row_lps, volume.column_lps
        transpose = abs(right[0]) < abs(down[0])
        if transpose:
            right, down = down, right
        return cls(transpose=bool(transpose), flip_rows=bool(down[1] < 0), flip_columns=bool(right[0] < 0))

    def apply(self, plane_yx: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        seen = plane_yx.T if self.transpose else plane_yx
        return seen[:: -1 if self.flip_rows else 1, :: -1 if self.flip_columns else 1]

    def spacing(self, pixel_spacing: tuple[float, float]) -> tuple[float, float]:
        """(between rows, between columns) as seen."""
        return pixel_spacing[::-1] if self.transpose else pixel_spacing


def draw(findings: Findings, volume: Volume, coloured: Sequence[Overlay]) -> list[Drawn]:
    """The largest slice of each of the three largest lesions, and the middle one of the `overlays`; of a head without a
    lesion the middle slice; else nothing."""
    masks = [(group.tracking_id, group.segmentation.mask_zyx) for group in findings.groups if group.segmentation]
    count = volume.array_zyx.shape[0]
    if findings.outcome == "none":
        k = count // 2
        return [_drawn(render(volume, k, [], findings.window), f"No haematoma found; slice {k + 1} of {count}")]
    shown: dict[int, list[str]] = {}
    for name, mask in masks[:MOST]:
        shown.setdefault(int(np.count_nonzero(mask, axis=(1, 2)).argmax()), []).append(name)
    outlined = [
        _drawn(
            render(volume, k, [mask[k] for _, mask in masks], findings.window),
            f"{', '.join(names)} outlined; slice {k + 1} of {count}",
        )
        for k, names in shown.items()
    ]
    return [*outlined, *(drawn_of(one) for one in coloured if one.middle)]


def overlays(findings: Findings, volume: Volume) -> list[Overlay]:
    """Every slice that an attention map (Grad-CAM) holds, with the map in colour over it and the lesions outlined."""
    masks = [group.segmentation.mask_zyx for group in findings.groups if group.segmentation]
    drawn = []
    for values in findings.maps:
        if values.quantity != GRAD_CAM:
            continue
        slices = np.flatnonzero(values.values_zyx.any(axis=(1, 2)))
        for place, k in enumerate(slices):
            image = render(
                volume, int(k), [mask[k] for mask in masks], findings.window, heat=values.values_zyx[k],
                legend=values.label,
            )  # fmt: skip
            drawn.append(
                Overlay(
                    rgb_yx=np.asarray(image),
                    slice=int(k),
                    middle=place == len(slices) // 2,
                    caption=f"{values.label} (Grad-CAM) in colour; slice {k + 1} of {len(volume.array_zyx)}",
                )
            )
    return drawn


def drawn_of(overlay: Overlay) -> Drawn:
    """The same as a PNG."""
    return _drawn(Image.fromarray(overlay.rgb_yx), overlay.caption)


def _drawn(image: Image.Image, caption: str) -> Drawn:
    out = io.BytesIO()
    image.save(out, "PNG", compress_level=3)
    return Drawn(png=out.getvalue(), caption=caption)


def render(
    volume: Volume, k: int, masks_yx: Sequence[npt.NDArray[np.uint8]], window: tuple[float, float], *,
    heat: Float32Array | None = None, legend: str = "", like_yx: npt.NDArray[np.generic] | None = None,
) -> Image.Image:  # fmt: skip
    """Slice ``k``, turned as it is seen and cropped to its bone, or to that of another slice on its grid (``like_yx``)."""
    view = View.of(volume)
    dy, dx = view.spacing(volume.pixel_spacing)
    hu = np.asarray(view.apply(volume.array_zyx[k]), dtype=np.float32)
    rows, columns = _crop(hu if like_yx is None else np.asarray(view.apply(like_yx), dtype=np.float32), dy, dx)
    centre, width = window
    grey = np.clip((hu[rows, columns] - (centre - width / 2)) / width, 0, 1)
    scale = HEIGHT / (grey.shape[0] * dy)
    size = (max(1, round(grey.shape[1] * dx * scale)), HEIGHT)
    image = Image.fromarray((grey * 255).astype(np.uint8)).resize(size, Image.Resampling.BILINEAR).convert("RGB")
    if heat is not None:
        seen = np.asarray(view.apply(heat), dtype=np.float32)[rows, columns]
        image = _coloured(image, np.asarray(Image.fromarray(seen).resize(size, Image.Resampling.BILINEAR)))
    pen = ImageDraw.Draw(image)
    for number, mask in enumerate(masks_yx, start=1):
        seen_mask = np.asarray(view.apply(mask))[rows, columns]
        for contour in find_contours(np.pad(seen_mask, 1).astype(np.float32), 0.5):  # type: ignore[no-untyped-call]
            points = [(float((x - 0.5) * dx * scale), float((y - 0.5) * dy * scale)) for y, x in contour]
            pen.line(points, fill=OUTLINE, width=2 if heat is None else 1, joint="curve")
        if len(masks_yx) > 1 and seen_mask.any():
            y, x = np.argwhere(seen_mask).min(axis=0)
            write(pen, (float(x * dx * scale) - 4, float(y * dy * scale) - 4), str(number), anchor="rb", size=18)
    _letters(pen, image.size, scale)
    if heat is not None:
        _legend(image, legend)
    return image


def _coloured(image: Image.Image, heat_yx: Float32Array) -> Image.Image:
    heat = np.clip(heat_yx, 0, 1)
    colour = np.stack([np.interp(heat, np.linspace(0, 1, len(HEAT)), HEAT[:, c]) for c in range(3)], axis=-1)
    cover = (COVER * np.sqrt(heat))[..., None]
    return Image.fromarray(np.rint((1 - cover) * np.asarray(image) + cover * colour).astype(np.uint8))


def _legend(image: Image.Image, text: str) -> None:
    """What the colours mean, at the lower left, with a bar from 0 to 1."""
    bar = np.broadcast_to(np.linspace(0, 1, 90, dtype=np.float32), (10, 90))
    image.paste(_coloured(Image.new("RGB", (90, 10)), np.asarray(bar)), (12, image.height - 18))
    write(ImageDraw.Draw(image), (12, image.height - 22), f"{text} (Grad-CAM), 0 to 1", anchor="lb", size=14)


def _crop(hu: npt.NDArray[np.float32], dy: float, dx: float) -> tuple[slice, slice]:
    """Rows and columns of the bone with a margin; all where there is none."""
    bone = hu > BONE_HU
    spans = []
    for axis, step in ((1, dy), (0, dx)):
        where = np.flatnonzero(bone.any(axis=axis))
        margin, length = round(MARGIN_MM / step), hu.shape[1 - axis]
        spans.append(
            slice(max(where[0] - margin, 0), min(where[-1] + margin + 1, length)) if where.size else slice(length)
        )
    return spans[0], spans[1]


def _letters(pen: ImageDraw.ImageDraw, size: tuple[int, int], scale: float) -> None:
    """Mark, side letters and a scale of 5 cm. ``scale`` in picture pixels per mm."""
    width, height = size
    write(pen, (width / 2, 6), MARK, anchor="ma", size=16)
    write(pen, (8, height / 2), "R", anchor="lm", size=24)
    write(pen, (width - 8, height / 2), "L", anchor="rm", size=24)
    length, y = 50 * scale, height - 12
    if length > width - 24:
        return
    right = width - 12
    pen.line([(right - length, y), (right, y)], fill=INK, width=2)
    for x in (right - length, right):
        pen.line([(x, y - 5), (x, y + 5)], fill=INK, width=2)
    write(pen, (right - length / 2, y - 6), "5 cm", anchor="mb", size=14)


def write(pen: ImageDraw.ImageDraw, place: tuple[float, float], text: str, *, anchor: str, size: int) -> None:
    font = ImageFont.load_default(size)
    pen.text(place, text, fill=INK, anchor=anchor, font=font, stroke_width=2, stroke_fill=SHADOW)
