"""Findings kept for recall come back equal, and damaged ones are an error, not an answer."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
from unit.pipelines.heads import ThresholdEngine, head, no_timing

from ichor.errors import UnknownMessage
from ichor.store.findings import dump_findings, findings_key, load_findings
from ichor.types import Findings
from pipelines.haematoma import PIPELINE


@pytest.fixture(scope="module")
def findings() -> Findings:
    volume = head(blood=[((35.0, -10.0, 20.0), 16.0), ((-38.0, 25.0, -15.0), 9.0)])
    return PIPELINE.run({"ncct_head": volume}, {"haematoma-phantom": ThresholdEngine()}, no_timing)


def test_everything_comes_back(findings: Findings) -> None:
    back = load_findings(dump_findings(findings))
    bare = [
        replace(f, maps=(), groups=tuple(replace(g, segmentation=None) for g in f.groups)) for f in (findings, back)
    ]  # fmt: skip
    assert bare[0] == bare[1]
    for one, other in zip(findings.groups, back.groups, strict=True):
        assert one.segmentation is not None
        assert other.segmentation is not None
        assert other.segmentation.mask_zyx.dtype == np.uint8
        assert np.array_equal(one.segmentation.mask_zyx, other.segmentation.mask_zyx)
        empty = np.zeros((0, 0, 0), np.uint8)
        assert replace(one.segmentation, mask_zyx=empty).tracking_id == other.segmentation.tracking_id
        assert one.segmentation.colour_lab == other.segmentation.colour_lab
    assert np.array_equal(findings.maps[0].values_zyx, back.maps[0].values_zyx)
    assert back.maps[0].values_zyx.dtype == np.float32
    assert findings.maps[0].quantity == back.maps[0].quantity


def test_equal_findings_give_equal_bytes(findings: Findings) -> None:
    assert dump_findings(findings) == dump_findings(load_findings(dump_findings(findings)))


def test_damage_and_pickles_are_refused(findings: Findings) -> None:
    data = dump_findings(findings)
    for wrong in (data[: len(data) // 2], b"", b"nonsense", pickle.dumps({"format": 1})):
        with pytest.raises(UnknownMessage):
            load_findings(wrong)


def test_the_key_covers_what_the_numbers_depend_on() -> None:
    base = {"content": "c", "pipeline": "p", "version": "1", "parameters": {"t": 0.5}, "weights": ("w",)}
    changes = {"content": "d", "pipeline": "q", "version": "2", "parameters": {"t": 0.6}, "weights": ("x",)}
    keys = {findings_key("1.2", **base)} | {
        findings_key("1.2", **{**base, name: value}) for name, value in changes.items()
    }  # type: ignore[arg-type]
    assert len(keys) == 6
    assert findings_key("1.2", **base) == findings_key("1.2", **base)  # type: ignore[arg-type]
