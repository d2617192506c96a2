"""The manifest of a series: built once from facts, kept under its content's digest, read back by workers."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from io import BytesIO

from ichor.errors import UnknownMessage
from ichor.messages import from_json, to_json
from ichor.series.grid import Grid, build_grid
from ichor.store.protocol import Blobs
from ichor.types import Grade, Instance, Manifest, ManifestRef


def build_manifest(
    instances: Sequence[Instance], *, revision: int, grade: Grade, notes: Sequence[str] = (), grid: Grid | None = None
) -> Manifest:
    """Instances in slice order (ascending along the normal) with what a report must name.

    Parameters
    ----------
    instances
        All of one series, in any order; never empty.
    grid
        Theirs, where it is known already.
    """
    ordered = (grid or build_grid(instances)).in_order
    return Manifest(
        study_instance_uid=ordered[0].study_instance_uid,
        series_instance_uid=ordered[0].series_instance_uid,
        revision=revision,
        grade=grade,
        instances=ordered,
        notes=tuple(notes),
    )


def put_manifest(manifest: Manifest, blobs: Blobs) -> ManifestRef:
    """Store it under ``manifests/<study>/<series>/<16 hex of sha256>.jsonl``; the same manifest is stored once.

    The first line is the manifest without its instances, each further line one of them: a reader of one JSON text would
    need several times the memory of what it reads.
    """
    data = b"\n".join([to_json(replace(manifest, instances=())), *map(to_json, manifest.instances)])
    digest = hashlib.sha256(data).hexdigest()
    key = f"manifests/{manifest.study_instance_uid}/{manifest.series_instance_uid}/{digest[:16]}.jsonl"
    blobs.put(key, data)
    return ManifestRef(
        key=key, sha256=digest, series_instance_uid=manifest.series_instance_uid, instances=len(manifest.instances)
    )


def get_manifest(ref: ManifestRef, blobs: Blobs) -> Manifest:
    """The manifest behind a reference.

    Raises
    ------
    KeyError
        When the store does not have it.
    UnknownMessage
        When its bytes are not those that the reference names, or a newer version wrote them.
    """
    data = blobs.get(ref.key)
    if hashlib.sha256(data).hexdigest() != ref.sha256:
        raise UnknownMessage(f"manifest of series {ref.series_instance_uid} is not the one that the job names")
    lines = BytesIO(data)
    manifest = from_json(Manifest, lines.readline())
    instances = tuple(from_json(Instance, line) for line in lines)
    # Earlier versions wrote one line with everything.
    return replace(manifest, instances=instances) if instances else manifest
