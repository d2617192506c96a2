"""The runtime seam: a loaded model that turns named arrays into named arrays. No runtime itself, and never torch."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy.typing as npt

Arrays = dict[str, npt.NDArray[Any]]


class Runtime(Protocol):
    """One model, loaded, on one device. Not shared between threads."""

    @property
    def name(self) -> str:
        """Runtime and its version, such as ``OpenVINO 2026.4.1``."""

    @property
    def precision(self) -> str:
        """Of the arithmetic, such as ``f32``."""

    @property
    def sha256(self) -> str:
        """Of the model file."""

    @property
    def input_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Fixed shape of each input."""

    def run(self, inputs: Mapping[str, npt.NDArray[Any]]) -> Arrays:
        """Outputs by name; float32, contiguous, owned by the caller."""


def file_sha256(path: Path) -> str:
    """Lower-case hex digest of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def processor() -> str:
    """Model and instruction sets of this machine's processor: what decides which kernels a runtime picks."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    facts = dict(line.split(":", 1) for line in lines if ":" in line)
    named = {key.strip(): value.strip() for key, value in facts.items()}
    flags = hashlib.sha256(" ".join(sorted(named.get("flags", "").split())).encode()).hexdigest()[:12]
    return f"{platform.machine()} {named.get('model name', 'unknown')} {flags}"
