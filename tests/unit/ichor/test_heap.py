"""Freed memory goes back to the system."""

from __future__ import annotations

import subprocess
import sys

# In a process of its own: what another test left in the heap is not what is looked at.
_HOLES = """
from pathlib import Path
from ichor import heap

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

kept, blocks = [], []
for _ in range(2000):  # below what is mapped by itself: 64 MB of holes between what is kept
    blocks.append(bytes(32_000))
    kept.append(bytes(1000))
full = resident()
blocks.clear()
heap.give_back()
print(full - resident())
"""


def test_holes_in_the_heap_are_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", _HOLES], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 30_000_000
