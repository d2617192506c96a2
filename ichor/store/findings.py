"""Findings as bytes and back, for recall: the same pixels under a new identity need no new inference. No pickle.

A zip of arrays (NumPy's npz): ``json`` holds everything but the arrays; a mask or map is kept as the box that it fills.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import TypeAdapter, ValidationError

from ichor.errors import UnknownMessage
from ichor.types import Algorithm, Code, FindingGroup, Findings, Measurement, ParametricMap, Segmentation, Statement

FORMAT = 1
_MOST_VOXELS = 1 << 31

_MEASUREMENTS: TypeAdapter[tuple[Measurement, ...]] = TypeAdapter(tuple[Measurement, ...])
_STATEMENTS: TypeAdapter[tuple[Statement, ...]] = TypeAdapter(tuple[Statement, ...])
_CODE: TypeAdapter[Code] = TypeAdapter(Code)
_ALGORITHM: TypeAdapter[Algorithm] = TypeAdapter(Algorithm)


def findings_key(
    study_instance_uid: str,
    *,
    content: str,
    pipeline: str,
    version: str,
    parameters: Mapping[str, Any],
    weights: tuple[str, ...],
) -> str:
    """Key of the findings of one computation: everything that its numbers depend on, below its study.

    Parameters
    ----------
    content
        `ichor.uids.content_digest` of the instances used.
    weights
        sha256 of every model's weights, in the pipeline's order.
    """
    parts = ["findings", FORMAT, content, pipeline, version, dict(parameters), list(weights)]
    return f"findings/{study_instance_uid}/{hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()}.npz"


def dump_findings(findings: Findings) -> bytes:
    """Bytes of `findings`; equal findings give equal bytes."""
    arrays: dict[str, npt.NDArray[Any]] = {}
    told = {
        "format": FORMAT,
        "outcome": findings.outcome,
        "summary": list(findings.summary),
        "algorithm": _ALGORITHM.dump_python(findings.algorithm, mode="json"),
        "groups": [_dump_group(group, arrays) for group in findings.groups],
        "maps": [_dump_map(values, arrays) for values in findings.maps],
        "measurements": _MEASUREMENTS.dump_python(findings.measurements, mode="json"),
        "not_assessed": list(findings.not_assessed),
        "reason": findings.reason,
        "window": list(findings.window),
    }
    text = np.frombuffer(json.dumps(told).encode(), np.uint8)
    out = io.BytesIO()
    np.savez(out, allow_pickle=False, json=text, **arrays)
    return out.getvalue()


def load_findings(data: bytes) -> Findings:
    """Inverse of `dump_findings`.

    Raises
    ------
    UnknownMessage
        When the bytes are damaged or of another version.
    """
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            told = json.loads(arrays["json"].tobytes())
            if told["format"] != FORMAT:
                raise UnknownMessage(f"stored findings have format {told['format']}; this version reads {FORMAT}")
            return Findings(
                outcome=told["outcome"],
                summary=tuple(told["summary"]),
                algorithm=_ALGORITHM.validate_python(told["algorithm"]),
                groups=tuple(_load_group(group, arrays) for group in told["groups"]),
                maps=tuple(_load_map(values, arrays) for values in told["maps"]),
                measurements=_MEASUREMENTS.validate_python(told["measurements"]),
                not_assessed=tuple(told["not_assessed"]),
                reason=told["reason"],
                window=(float(told["window"][0]), float(told["window"][1])),
            )
    except (
        KeyError,
        IndexError,
        TypeError,
        ValueError,
        OSError,
        EOFError,
        zipfile.BadZipFile,
        ValidationError,
    ) as error:
        raise UnknownMessage(f"stored findings cannot be read: {type(error).__name__}") from error


def _dump_group(group: FindingGroup, arrays: dict[str, npt.NDArray[Any]]) -> dict[str, Any]:
    segment = group.segmentation
    return {
        "tracking_id": group.tracking_id,
        "finding": _dump_code(group.finding),
        "site": _dump_code(group.site),
        "laterality": _dump_code(group.laterality),
        "segmentation": segment and {
            "label": segment.label,
            "mask": _store(segment.mask_zyx, arrays, bits=True),
            "category": _dump_code(segment.category),
            "type": _dump_code(segment.type),
            "site": _dump_code(segment.site),
            "tracking_id": segment.tracking_id,
            "colour_lab": list(segment.colour_lab),
        },
        "measurements": _MEASUREMENTS.dump_python(group.measurements, mode="json"),
        "statements": _STATEMENTS.dump_python(group.statements, mode="json"),
    }  # fmt: skip


def _load_group(told: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> FindingGroup:
    segment = told["segmentation"]
    return FindingGroup(
        tracking_id=told["tracking_id"],
        finding=_CODE.validate_python(told["finding"]),
        site=_load_code(told["site"]),
        laterality=_load_code(told["laterality"]),
        segmentation=segment and Segmentation(
            label=segment["label"],
            mask_zyx=_restore(segment["mask"], arrays, bits=True).astype(np.uint8, copy=False),
            category=_CODE.validate_python(segment["category"]),
            type=_CODE.validate_python(segment["type"]),
            site=_CODE.validate_python(segment["site"]),
            tracking_id=segment["tracking_id"],
            colour_lab=tuple(segment["colour_lab"]),
        ),
        measurements=_MEASUREMENTS.validate_python(told["measurements"]),
        statements=_STATEMENTS.validate_python(told["statements"]),
    )  # fmt: skip


def _dump_map(values: ParametricMap, arrays: dict[str, npt.NDArray[Any]]) -> dict[str, Any]:
    return {
        "label": values.label,
        "values": _store(values.values_zyx, arrays, bits=False),
        "quantity": _dump_code(values.quantity),
        "unit": _dump_code(values.unit),
        "derivation": _dump_code(values.derivation),
        "value_range": list(values.value_range),
    }


def _load_map(told: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> ParametricMap:
    return ParametricMap(
        label=told["label"],
        values_zyx=_restore(told["values"], arrays, bits=False).astype(np.float32, copy=False),
        quantity=_CODE.validate_python(told["quantity"]),
        unit=_CODE.validate_python(told["unit"]),
        derivation=_CODE.validate_python(told["derivation"]),
        value_range=(float(told["value_range"][0]), float(told["value_range"][1])),
    )


def _dump_code(code: Code | None) -> Any:
    return None if code is None else _CODE.dump_python(code)


def _load_code(told: Any) -> Code | None:
    return None if told is None else _CODE.validate_python(told)


def _store(array: npt.NDArray[Any], arrays: dict[str, npt.NDArray[Any]], *, bits: bool) -> dict[str, Any]:
    """Keep the box that ``array`` fills under a new name; masks as bits."""
    name = f"a{len(arrays)}"
    spans = [np.flatnonzero(array.any(axis=tuple(b for b in range(3) if b != a))) for a in range(3)]
    start = [int(span[0]) if span.size else 0 for span in spans]
    stop = [int(span[-1]) + 1 if span.size else 0 for span in spans]
    box = array[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))]
    arrays[name] = np.packbits(box != 0) if bits else np.ascontiguousarray(box)
    return {"name": name, "shape": list(array.shape), "start": start, "stop": stop}


def _restore(told: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]], *, bits: bool) -> npt.NDArray[Any]:
    shape, start, stop = (tuple(int(n) for n in told[k]) for k in ("shape", "start", "stop"))
    if len(shape) != 3 or not all(0 <= a <= b <= n for a, b, n in zip(start, stop, shape, strict=True)):
        raise ValueError("box outside its volume")
    if shape[0] * shape[1] * shape[2] > _MOST_VOXELS:
        raise ValueError("volume too large")
    stored = arrays[told["name"]]
    box = tuple(b - a for a, b in zip(start, stop, strict=True))
    if bits:
        stored = np.unpackbits(stored, count=box[0] * box[1] * box[2])
    full = np.zeros(shape, stored.dtype)
    full[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = stored.reshape(box)
    return full
