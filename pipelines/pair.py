"""Two scans of a head beside each other: the earlier one on the left, as the later one's slice shows it. Not DICOM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from PIL import Image, ImageDraw

from ichor.arrays import Float32Array, MaskArray, Volume
from ichor.encoding import Overlay
from pipelines.picture import render, write

GAP = 8


def side_by_side(
    volume: Volume, k: int, masks_yx: Sequence[MaskArray], *, earlier_yx: Float32Array,
    earlier_masks_yx: Sequence[MaskArray], window: tuple[float, float], captions: tuple[str, str],
) -> Overlay:  # fmt: skip
    """Slice ``k`` of the later scan and the earlier one at the same place, haematomas outlined in both.

    Parameters
    ----------
    earlier_yx, earlier_masks_yx : the earlier scan (HU) and its haematomas, sampled on the pixels of slice ``k``.
    captions : what stands below the earlier and the later picture.
    """
    one = slice(k, k + 1)
    before = replace(
        volume, array=earlier_yx[None], origins_lps=volume.origins_lps[one], sources=volume.sources[one]
    )  # fmt: skip
    now_yx = volume.array_zyx[k]
    drawn = [
        render(before, 0, earlier_masks_yx, window, like_yx=now_yx),
        render(volume, k, masks_yx, window, like_yx=now_yx),
    ]
    width, height = drawn[0].size
    both = Image.new("RGB", (2 * width + GAP, height))
    for place, (picture, caption) in enumerate(zip(drawn, captions, strict=True)):
        write(ImageDraw.Draw(picture), (12, height - 12), caption, anchor="lb", size=16)
        both.paste(picture, (place * (width + GAP), 0))
    return Overlay(
        rgb_yx=np.asarray(both), slice=k, middle=False,
        caption=f"{captions[0]}; {captions[1]}; slice {k + 1} of {len(volume.array_zyx)}",
    )  # fmt: skip
