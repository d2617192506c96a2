"""Two scans under one Series Instance UID whose slices lie between each other; what only looks like it."""

from __future__ import annotations

import pytest
from contract.arrivals import make_slice

from ichor.reasons import Reason
from ichor.series.grid import build_grid
from ichor.series.refusal import array_refusal
from ichor.types import Instance


def stack(*, first: int, low: float, count: int = 8, spacing: float = 5.0, acquisition: int = 1, kernel: str = "H30s",
          thickness: float = 5.0) -> list[Instance]:  # fmt: skip
    return [
        make_slice(number=first + k, z=low + spacing * k, acquisition=acquisition, kernel=kernel, thickness=thickness)
        for k in range(count)
    ]


def refusal(*stacks: list[Instance]) -> str | None:
    images = [image for images in stacks for image in images]
    return array_refusal(images, build_grid(images))


@pytest.mark.parametrize("second", [{"kernel": "H31s"}, {"acquisition": 2}])
def test_a_second_scan_between_the_slices_of_the_first_is_refused(second: dict[str, object]) -> None:
    assert refusal(stack(first=1, low=0.0), stack(first=9, low=2.0, **second)) == Reason.TWO_SCANS  # type: ignore[arg-type]


def test_a_second_kernel_exactly_between_is_refused_and_an_interleaved_acquisition_is_not() -> None:
    first = stack(first=1, low=0.0)
    assert refusal(first, stack(first=9, low=2.5, kernel="H60s")) == Reason.TWO_SCANS
    assert refusal(first, stack(first=9, low=2.5, acquisition=2)) is None


def test_contiguous_acquisitions_of_one_head_are_one_scan() -> None:
    thin = stack(first=1, low=0.0, spacing=2.5, thickness=2.5)
    assert refusal(thin, stack(first=9, low=20.0, acquisition=2)) is None
    assert refusal(thin, stack(first=9, low=18.5, acquisition=2, kernel="H31s")) is None
