"""Where a training computes and in which precision. Knows no network."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Literal

import torch

Precision = Literal["auto", "f32", "bf16"]


def resolve(device: str, precision: Precision) -> tuple[str, str]:
    """Device ("cpu", "cuda") and precision ("f32", "bf16"), "auto" answered by what this machine has.

    bfloat16 is taken only where the processor multiplies in it; elsewhere it is emulated, slower than float32.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if precision != "auto":
        return device, precision
    if device.startswith("cuda"):
        return device, "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "f32"
    able = torch.cpu.get_capabilities()
    return device, "bf16" if able.get("avx512_bf16") or able.get("amx_bf16") else "f32"


def autocast(device: str, precision: str) -> AbstractContextManager[None]:
    """Mixed precision: products in bfloat16, weights and sums in float32; does nothing for "f32"."""
    return torch.autocast(device.split(":")[0], dtype=torch.bfloat16, enabled=precision == "bf16")
