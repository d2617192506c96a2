"""UIDs: is one valid, and which one a result gets. Nothing random: the same content gives the same UID."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from ichor.types import Instance

# PS3.5 section 9.1: digits and dots, no leading zero in a component, at most 64 characters.
_UID = re.compile(r"(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*))+")


def is_valid_uid(value: str) -> bool:
    """True for a UID that may become a path: syntax and length of PS3.5 section 9.1."""
    return len(value) <= 64 and _UID.fullmatch(value) is not None


def uid_of(*parts: Any) -> str:
    """UID ``2.25.<128 bit>`` (PS3.5 B.2) from the sha256 of the JSON of ``parts``."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return f"2.25.{int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], 'big')}"


def content_digest(instances: Iterable[Instance]) -> str:
    """sha256 over sorted (SOP Instance UID, sha256 of pixels and geometry): what a computation depends on."""
    pairs = sorted((i.sop_instance_uid, i.content_sha256) for i in instances)
    return hashlib.sha256(json.dumps(pairs).encode()).hexdigest()


def result_uid(
    *, content: str, identity: str, pipeline: str, version: str, parameters: Mapping[str, Any],
    weights: str | None, kind: str, index: int = 0,
) -> str:  # fmt: skip
    """UID of a result object: covers what the result says, not the engine that computed it (design.md step 5)."""
    return uid_of("ichor-result", content, identity, pipeline, version, dict(parameters), weights, kind, index)


def job_id_of(study_instance_uid: str, pipeline: str, revision: int) -> str:
    """Stable id of a job: publishing it twice is publishing it once. Safe as a file name."""
    text = f"{study_instance_uid}|{pipeline}|{revision}"
    return f"{pipeline}-{revision}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def accession_digest(number: str | bytes) -> str | None:
    """sha256 of an Accession Number without surrounding spaces and padding; None for an empty one.

    Lets a study be found by its number without the number being kept anywhere.
    """
    stored = (number.encode(errors="surrogatepass") if isinstance(number, str) else number).strip(b" \0")
    return hashlib.sha256(stored).hexdigest() if stored else None
