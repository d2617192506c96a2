"""dcm2niix reads the synthetic series as their truth: the writers speak as scanners do. Ichor reads nothing here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from contract.converter import Converted, convert
from contract.synthetic import ALL, CASES

from phantoms.series import Scan, write_series


@pytest.mark.parametrize(("name", "form"), ALL)
def test_dcm2niix_reads_the_same_truth(name: str, form: str, tmp_path: Path, peer: Callable[[str, str], str]) -> None:
    case = CASES[name]
    write_series(case.scan, tmp_path / "in", form=form, shuffle=3)
    converted = convert(peer("dcm2niix", "dcm2niix"), tmp_path / "in", tmp_path / "out")
    found = _volumes_found(converted, case.scan)
    if form in case.unread:
        assert found != _volumes(case.scan), f"{form} is read now, though it was not: {case.unread[form]}"
        return
    assert found == _volumes(case.scan)
    if case.scan.b_values:
        _assert_same_gradients(converted, case.scan, form=form)


def _volumes(scan: Scan) -> set[tuple[int, int]]:
    return {(stack, volume) for stack in range(len(scan.stacks)) for volume in range(scan.volumes)}


def _volumes_found(converted: list[Converted], scan: Scan) -> set[tuple[int, int]]:
    """(stack, volume) of the truth that a file holds at the right place; one time or diffusion series in its order."""
    found = set()
    for index in range(len(scan.stacks)):
        for file in converted:
            order = _order(file, scan, index)
            assert order == sorted(order)
            found |= {(index, volume) for volume in order}
    return found


def _order(file: Converted, scan: Scan, stack: int) -> list[int]:
    values = scan.values if len(scan.stacks) > 1 else scan.values[None]
    true = values[stack].reshape(-1, *scan.stored.shape[-3:])
    there = file.on_grid(scan.stacks[stack], rows=true.shape[-2], columns=true.shape[-1])
    if there is None:
        return []
    matches = (next((k for k, v in enumerate(true) if np.allclose(v, volume, atol=1e-3)), None) for volume in there)
    return [k for k in matches if k is not None]


def _assert_same_gradients(converted: list[Converted], scan: Scan, *, form: str) -> None:
    assert scan.b_values
    (file,) = (c for c in converted if c.b_values and _order(c, scan, 0))
    assert file.b_values
    assert file.directions_lps is not None
    # It turns every direction of a mosaic whose tiles go against the normal; a tensor does not know the difference.
    sign = -1.0 if form == "mosaic-siemens-descending" else 1.0
    for volume, b_value, direction in zip(_order(file, scan, 0), file.b_values, file.directions_lps, strict=False):
        assert b_value == scan.b_values[volume]
        np.testing.assert_allclose(sign * direction, scan.directions_lps[volume] or (0.0, 0.0, 0.0), atol=1e-4)
